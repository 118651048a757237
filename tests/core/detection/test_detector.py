"""A detector learns the same on any number of ranks, with torchvision's losses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from moco_ray.config.detection import DetectionConfig
from moco_ray.config.model import TINY, ModelConfig
from moco_ray.core import collectives
from moco_ray.core.batch import Batch, groups_per_rank
from moco_ray.core.detection.detector import Detector, build_detector
from moco_ray.core.detection.step import LOSSES, DetectorLearner
from moco_ray.core.encoders import build_backbone
from tests.core.ranks import run_on_ranks

GROUPS, PER_GROUP, CLASSES, ROOM = 4, 1, 3, 96 * 128
SMALL = DetectionConfig(
    min_px=(64, 96),
    max_px=128,
    test_px=96,
    anchor_px=(8, 16, 32, 64, 128),
    proposals=50,
    anchors_per_image=32,
    regions_per_image=16,
)


def a_batch(step: int) -> Batch:
    """This rank's part: noisy images of four sizes with two, one, no and three boxes."""
    random = np.random.default_rng(step)
    size = GROUPS * PER_GROUP
    arrays = {
        "images": random.integers(0, 256, (size, ROOM * 3), dtype=np.uint8),
        "size": np.array([(96, 128), (64, 80), (100, 60), (70, 66)], dtype=np.int32),
        "boxes": np.zeros((size, 5, 4), dtype=np.float32),
        "labels": random.integers(1, CLASSES + 1, (size, 5)),
        "num_boxes": np.array([2, 1, 0, 3]),
    }
    corners = random.uniform(0, 40, (size, 5, 2))
    arrays["boxes"][:] = np.concatenate([corners, corners + random.uniform(10, 24, (size, 5, 2))], axis=2)
    rows = np.arange(size) + step * size
    batch = Batch(
        arrays={name: torch.from_numpy(array) for name, array in arrays.items()},
        rows=rows,
        indices=rows,
        step=step,
        groups=groups_per_rank(step * GROUPS, GROUPS, collectives.world_size()),
        group_size=PER_GROUP,
        shuffle=np.arange(size),
    )
    own = batch.own_rows()
    return replace(batch.take(own), rows=rows[own.numpy()], indices=rows[own.numpy()])


def a_detector(neck: str, arch: str = TINY) -> Detector:
    torch.manual_seed(0)
    config = replace(SMALL, neck=neck)
    return build_detector(config, ModelConfig(arch=arch), CLASSES, seed=7).double()


def learn(neck: str, num_steps: int) -> tuple[list[dict[str, float | int]], dict[str, Tensor]]:
    detector = a_detector(neck).train()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    learner = DetectorLearner(detector, optimizer, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    values = [learner.step(a_batch(step), lr=0.02).values() for step in range(num_steps)]
    return values, detector.state_dict()


@pytest.mark.parametrize(("neck", "num_steps", "numbers"), [("c4", 4, (2, 3)), ("fpn", 2, (3,))])
def test_any_number_of_ranks_learns_the_same(neck: str, num_steps: int, numbers: tuple[int, ...]) -> None:
    alone, weights = learn(neck, num_steps)
    assert all(0 < line[name] < 10 for line in alone for name in LOSSES)
    for num_ranks in numbers:
        results = run_on_ranks(num_ranks, learn, neck, num_steps)
        for values, _ in results:
            assert [line["rows_digest"] for line in values] == [line["rows_digest"] for line in alone]
            for name in LOSSES:
                np.testing.assert_allclose(
                    [line[name] for line in values], [line[name] for line in alone], rtol=1e-11, err_msg=name
                )
        for name, value in results[-1][1].items():
            torch.testing.assert_close(value, weights[name], rtol=1e-9, atol=1e-9, msg=name)


def test_the_losses_are_those_of_torchvision_where_one_rank_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models.detection import roi_heads, rpn

    detector = a_detector("c4").train()
    detector.rpn.beta = detector.roi_heads.beta = 1 / 9
    learner = DetectorLearner(
        detector, torch.optim.SGD(detector.parameters()), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    ours = learner.losses(a_batch(0))
    theirs = []

    def compute_loss(self: rpn.RegionProposalNetwork, *args: list[Tensor]) -> tuple[Tensor, Tensor]:
        args = ([x.double() for x in arg] if isinstance(arg, list) else arg for arg in args)
        theirs.extend(rpn.RegionProposalNetwork.compute_loss(self, *args))
        return theirs[0], theirs[1]

    def losses(self: roi_heads.RoIHeads, logits: Tensor, deltas: Tensor, labels: Tensor, wanted: Tensor) -> dict:
        theirs.extend(roi_heads.fastrcnn_loss(logits, deltas, [labels], [wanted]))
        return {"loss_classifier": theirs[2], "loss_box_reg": theirs[3]}

    monkeypatch.setattr(type(detector.rpn), "compute_loss", compute_loss)
    monkeypatch.setattr(type(detector.roi_heads), "_losses", losses)
    learner.losses(a_batch(0))
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("neck", "arch"), [("c4", TINY), ("fpn", TINY), ("c4", "resnet18"), ("fpn", "resnet18")])
def test_weights_of_a_backbone_are_taken_over_whole(neck: str, arch: str) -> None:
    model = ModelConfig(arch=arch)
    weights = build_backbone(model).state_dict()
    detector = build_detector(replace(SMALL, neck=neck), model, CLASSES, weights=weights)
    own = detector.state_dict()
    for name, value in weights.items():
        places = [f"{part}.{name}" for part in ("backbone", "backbone.body", "roi_heads.box_head")]
        found = [own[place] for place in places if place in own]
        assert len(found) == 1 and torch.equal(found[0], value), name
    assert all(parameter.requires_grad for parameter in detector.parameters())


def test_a_network_without_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="vit_small has no stages layer1 to layer4"):
        build_detector(SMALL, ModelConfig(arch="vit_small"), CLASSES)


@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_what_else_is_in_the_batch_changes_no_detection(neck: str) -> None:
    detector = a_detector(neck).eval()
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.normal(size=(2, 3, 96, 96)))
    with torch.no_grad():
        detector.roi_heads.score_thresh = 0.0
        both = detector(images, [(96, 96), (64, 80)])
        alone = detector(images[:1], [(96, 96)])
    assert len(both[0]["boxes"]) > 0
    for name, value in alone[0].items():
        torch.testing.assert_close(value, both[0][name])
