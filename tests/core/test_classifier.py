"""The supervised method: its loss, and what a frozen backbone is spared."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.config.optim import OptimConfig
from moco_ray.core.batch import Batch
from moco_ray.core.classifier import Classifier, FrozenBackbone, with_head
from moco_ray.core.group_batch_norm import use_group_batch_norm
from moco_ray.core.optim import build_optimizer
from moco_ray.core.step import Learner
from moco_ray.core.tiny_resnet import TinyResNet
from tests.core.tiny import MEAN, STD

B, G = 12, 2


class Dropping(nn.Module):
    """A backbone that drops half of its features while it trains."""

    num_features = TinyResNet.num_features

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop = TinyResNet(), nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        dropped: Tensor = self.drop(self.body(images))
        return dropped


def _batch(**labels: Tensor) -> Batch:
    images = torch.randint(0, 256, (B, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = np.arange(B)
    return Batch(
        arrays={"query": images, **labels},
        rows=rows,
        indices=rows,
        step=0,
        groups=[[0, 1]],
        group_size=B // G,
        shuffle=rows,
    )


def _learner(method: Classifier, lr: float = 0.1) -> Learner:
    method.double().train()
    return Learner(method, build_optimizer(method.trained(), OptimConfig(lr=lr)), mean=MEAN, std=STD)


def _standardised(batch: Batch) -> Tensor:
    return (batch.query.permute(0, 3, 1, 2).double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )


@pytest.mark.parametrize("backbone", [TinyResNet, Dropping])
def test_a_frozen_backbone_neither_learns_nor_counts_nor_drops(backbone: type[nn.Module]) -> None:
    torch.manual_seed(0)
    method = Classifier(with_head(backbone(), 3, is_frozen=True))
    learner = _learner(method)
    before = copy.deepcopy(method.state_dict())
    batch = _batch(label=torch.arange(B) % 3)
    expected = F.cross_entropy(copy.deepcopy(method).eval().query_encoder(_standardised(batch)), batch.arrays["label"])
    result = learner.step(batch, lr=0.1)
    assert float(result.values()["train/loss"]) == pytest.approx(expected.item(), rel=1e-5)
    after = method.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"query_encoder.projector.weight", "query_encoder.projector.bias"}
    assert all(p.grad is None for p in method.query_encoder.backbone.parameters())
    assert not any(module.training for module in method.query_encoder.backbone.modules())
    assert method.query_encoder.projector.training and isinstance(method.query_encoder, FrozenBackbone)
    assert sum(len(group["params"]) for group in learner.optimizer.param_groups) == 2


def test_fine_tuning_is_plain_sgd_on_the_cross_entropy_with_batch_norm_in_groups() -> None:
    torch.manual_seed(0)
    method = Classifier(with_head(TinyResNet(), 3, is_frozen=False))
    plain = copy.deepcopy(method.query_encoder).double().train()
    use_group_batch_norm(method, B // G)
    learner, batch = _learner(method), _batch(label=torch.arange(B) % 3)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        result = learner.step(batch, lr=0.1)
        parts = _standardised(batch).split(B // G)
        logits = torch.cat([plain(part) for part in parts])
        loss = F.cross_entropy(logits, batch.arrays["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values = result.values()
        assert float(values["train/loss"]) == pytest.approx(float(loss), rel=1e-5)
        assert float(values["train/accuracy"]) == pytest.approx(
            100 * float((logits.argmax(1) == batch.arrays["label"]).double().mean())
        )
    for ours, theirs in zip(method.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_several_labels_an_image_cost_the_mean_over_those_that_are_known() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    nan = float("nan")
    targets = torch.tensor([[1, 0, nan], [nan, nan, 1], [nan, nan, nan], [0, 0, 1]])
    classifier = Classifier(with_head(TinyResNet(), 3, is_frozen=True), has_targets=True)
    loss = classifier.loss([logits], None, slice(0, 4), _batch(targets=targets), None)  # type: ignore[arg-type]
    known = [(0, [0, 1]), (1, [2]), (3, [0, 1, 2])]
    expected = sum(
        F.binary_cross_entropy_with_logits(logits[i, where], targets[i, where].double()) for i, where in known
    )
    assert float(loss.total.detach()) == pytest.approx(float(expected))
    right = [((logits[i, where] > 0) == (targets[i, where] > 0.5)).double().mean() for i, where in known]
    assert float(loss.num_correct) == pytest.approx(float(sum(right)))
    loss.total.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert (logits.grad[targets.isnan()] == 0).all()
