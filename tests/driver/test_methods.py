"""Every method through whole jobs: one step, one stream, one checkpoint format, any number of workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moco_ray
from moco_ray.config import Config
from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.methods.simclr import SimCLRConfig
from moco_ray.config.model import ModelConfig
from moco_ray.driver.run import pretrain
from tests.gloo import pretrain_on_ranks, quiet
from tests.runs import digests, losses, metrics, tiny_config

STEPS = 10  # two and a half epochs of 191 images

V3_HEADS = {"projector": "mlp-bn", "hidden_dim": 32, "dim": 16}
CASES: dict[str, dict[str, Any]] = {
    "moco symmetric": {"method": MoCoConfig(queue_size=100, encoder_momentum=0.9, symmetric=True)},
    "moco-v3 resnet": {
        "method": MoCoV3Config(temperature=1.0, predictor_last_bn=False),
        "model": ModelConfig(arch="tiny_resnet", **V3_HEADS),
    },
    "moco-v3 vit": {
        "method": MoCoV3Config(),
        "model": ModelConfig(arch="vit_mini", patch_px=16, projector_layers=3, **V3_HEADS),
    },
    "end-to-end": {"method": EndToEndConfig(temperature=0.2)},
    "memory-bank": {"method": MemoryBankConfig(num_negatives=60)},
    "simclr": {"method": SimCLRConfig(temperature=0.5)},
}


def _config(case: str, images: Path, storage: Path, **run: Any) -> Config:
    config = tiny_config(images, storage, max_steps=STEPS)
    config = replace(config, run=replace(config.run, **run), **CASES[case])
    return replace(config, optim=replace(config.optim, global_batch_size=48, lr=0.05))


def _train(config: Config) -> Path:
    return Path(pretrain(config, say=quiet).folder)


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / f"checkpoint_{STEPS:09d}" / "state.pt", weights_only=True)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_on_two_three_and_one_workers_is_the_run_of_one(case: str, images: Path, tmp_path: Path) -> None:
    alone = _train(_config(case, images, tmp_path / "alone"))
    for workers, stop in ((2, 4), (3, 7), (1, STEPS)):
        folder = pretrain_on_ranks(_config(case, images, tmp_path, max_steps=stop), workers)
    assert [line["world_size"] for line in metrics(folder)] == [2] * 4 + [3] * 3 + [1] * 3
    assert digests(folder) == digests(alone)
    np.testing.assert_allclose(losses(folder), losses(alone), rtol=1e-9)
    theirs = _state(alone)["method"]
    for name, tensor in _state(folder)["method"].items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-8, msg=f"{name} differs")


@pytest.mark.parametrize(
    "case", ["memory-bank", pytest.param("moco-v3 vit", marks=pytest.mark.slow)]
)  # a bank, a predictor and a momentum that moves
def test_a_run_that_stops_goes_on_as_if_it_had_not(case: str, images: Path, tmp_path: Path) -> None:
    straight = _train(_config(case, images, tmp_path / "straight"))
    for stop in (3, STEPS):
        folder = _train(_config(case, images, tmp_path, max_steps=stop))
    assert losses(folder).tolist() == losses(straight).tolist()
    ours, theirs = _state(folder), _state(straight)
    assert all(torch.equal(ours["method"][name], tensor) for name, tensor in theirs["method"].items())


@pytest.mark.slow
def test_micro_batches_of_a_vit_are_the_whole_batch(images: Path, tmp_path: Path) -> None:
    whole = _train(_config("moco-v3 vit", images, tmp_path / "whole"))
    cut = _train(_config("moco-v3 vit", images, tmp_path, micro_batch_groups=2))
    np.testing.assert_allclose(losses(cut), losses(whole), rtol=1e-10)


def test_micro_batches_that_global_batch_norm_forbids_are_refused(images: Path, tmp_path: Path) -> None:
    for case in ("moco-v3 resnet", "simclr"):
        with pytest.raises(ValueError, match=r"micro-batch-groups 2: .* normalises over the global batch"):
            _train(_config(case, images, tmp_path / case, micro_batch_groups=2))


def test_another_method_is_another_experiment(images: Path, tmp_path: Path) -> None:
    _train(_config("simclr", images, tmp_path, max_steps=1))
    with pytest.raises(ValueError, match="the method was simclr, now end-to-end"):
        _train(_config("end-to-end", images, tmp_path))


def test_a_pretrained_vit_is_read_back(images: Path, tmp_path: Path) -> None:
    folder = _train(_config("moco-v3 vit", images, tmp_path, max_steps=2))
    assert moco_ray.encoder_info(str(folder))["patch_px"] == 16
    encoder = moco_ray.load_encoder(str(folder))
    state = torch.load(folder / "checkpoint_000000002" / "state.pt", weights_only=True)["method"]
    assert torch.equal(encoder.pos_embed, state["query_encoder.backbone.pos_embed"].float())
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 192)


def test_shuffling_for_a_network_without_batch_norm_is_refused(images: Path, tmp_path: Path) -> None:
    config = _config("moco-v3 vit", images, tmp_path)
    with pytest.raises(ValueError, match=r"shuffle-bn is on, but the network has no BatchNorm"):
        _train(
            replace(
                config, method=MoCoConfig(queue_size=96, shuffle_bn=True), model=replace(config.model, projector="mlp")
            )
        )
