"""The cluster is not a hyper-parameter: whole runs on any number of workers, as ranks of this machine and on Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moco_ray.config import Config
from moco_ray.core.encoders import build_encoder
from moco_ray.driver.run import pretrain
from tests.gloo import pretrain_on_ranks, quiet
from tests.runs import digests, losses, metrics, tiny_config

STEPS = 60  # 15 epochs of 191 images


def _config(images: Path, storage: Path, **run: object) -> Config:
    """8 groups of 6 images: statistics of much smaller groups amplify the last bit a billionfold in 60 steps."""
    config = tiny_config(images, storage, **{"max_steps": STEPS, **run})
    return replace(config, optim=replace(config.optim, epochs=16, global_batch_size=48))


def _train(config: Config) -> Path:
    return Path(pretrain(config, say=quiet).folder)


def _state(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / f"checkpoint_{STEPS:09d}" / "state.pt")["method"]
    return state


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must equal: one worker in this process."""
    return _train(_config(images, tmp_path_factory.mktemp("alone")))


def _assert_same(folder: Path, alone: Path) -> None:
    assert [line["step"] for line in metrics(folder)] == list(range(STEPS))
    assert digests(folder) == digests(alone)
    np.testing.assert_allclose(losses(folder), losses(alone), rtol=1e-9)
    theirs = _state(alone)
    for name, tensor in _state(folder).items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-9, msg=f"{name} differs")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_any_number_of_workers_gives_the_same_curve(workers: int, images: Path, alone: Path, tmp_path: Path) -> None:
    folder = pretrain_on_ranks(_config(images, tmp_path), workers)
    assert {line["world_size"] for line in metrics(folder)} == {workers}
    _assert_same(folder, alone)


@pytest.mark.slow
def test_a_run_resumes_on_other_numbers_of_workers(images: Path, alone: Path, tmp_path: Path) -> None:
    for workers, stop in ((2, 5), (3, 13), (1, STEPS)):  # in mid-epoch, and in the batch that ends in the next one
        folder = pretrain_on_ranks(_config(images, tmp_path, max_steps=stop), workers)
    assert [metrics(folder)[step]["world_size"] for step in (4, 5, 12, 13)] == [2, 3, 3, 1]
    _assert_same(folder, alone)


@pytest.mark.slow
def test_a_run_on_ray_that_resumes_on_more_workers_is_the_run_without_ray(
    images: Path, alone: Path, tmp_path: Path, shared_ray: None
) -> None:
    for workers, stop in ((2, 13), (3, STEPS)):
        folder = _train(_config(images, tmp_path, num_workers=workers, max_steps=stop))
    assert [line["world_size"] for line in metrics(folder)] == [2] * 13 + [3] * (STEPS - 13)
    _assert_same(folder, alone)


@pytest.mark.slow
def test_in_float32_workers_differ_no_more_than_noise_of_one_ulp(images: Path, tmp_path: Path) -> None:
    steps = 10

    def run(name: str, workers: int, init: Path | None) -> np.ndarray:
        config = _config(images, tmp_path, dtype="float32", name=name)
        config = replace(config, run=replace(config.run, max_steps=steps))
        config = replace(config, model=replace(config.model, init=None if init is None else str(init)))
        return losses(pretrain_on_ranks(config, workers))

    torch.manual_seed(0)
    weights = build_encoder(_config(images, tmp_path).model).state_dict()
    noisy = {
        name: torch.nextafter(value, torch.full_like(value, torch.inf)) if value.is_floating_point() else value
        for name, value in weights.items()
    }
    torch.save(weights, tmp_path / "weights.pt")
    torch.save(noisy, tmp_path / "noisy.pt")
    plain = run("plain", 1, tmp_path / "weights.pt")
    noise = np.abs(run("noisy", 1, tmp_path / "noisy.pt") - plain).max()
    assert noise > 0
    assert np.abs(run("two", 2, tmp_path / "weights.pt") - plain).max() <= 10 * noise


@pytest.mark.slow
def test_what_the_user_must_mend_is_said_and_not_tried_for_ever(images: Path, tmp_path: Path, shared_ray: None) -> None:
    """One rank finds a checkpoint that it cannot read: the next group of workers says so and stops."""
    config = _config(images, tmp_path, num_workers=0, max_steps=2)
    marker = _train(config) / "checkpoint_000000002" / "COMMITTED"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "format_version": 1000}))
    with pytest.raises(ValueError, match="install a newer moco_ray"):
        _train(replace(config, run=replace(config.run, num_workers=2, max_steps=4)))
