"""On a real GPU: steps, memory, whole jobs and evaluation are those of the CPU. `make test-gpu` runs them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.device.correct import METHODS, correct, ranks, tiny_batch, tiny_learner
from benchmarks.device.cost import syncs
from benchmarks.device.setup import Case, Place, moco_learner, moco_step, resident
from moco_ray.config import Config
from moco_ray.core.encoders import normalize
from moco_ray.driver.run import pretrain
from moco_ray.evaluate.features import apply_to_pixels
from moco_ray.weights.encoder_file import load_encoder
from tests.runs import losses, tiny_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

GPU = Place(device=torch.device("cuda", 0), is_tiny=True)
SMALL = Case(arch="resnet18", batch_size=64, px=64, queue_size=128)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of noise in two classes."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(101):
        (folder / str(i % 2)).mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / str(i % 2) / f"{i}.png")
    return folder


@pytest.mark.parametrize("section", [correct, ranks, syncs])
def test_a_section_of_the_benchmark_meets_all_its_goals(section) -> None:
    missed = [row for row in section(GPU) if not row.passed]
    assert not missed


@pytest.mark.parametrize("num_groups", [1, 8])
def test_bfloat16_learns_like_float32_and_images_stay_channels_last(num_groups: int) -> None:
    curves = []
    for place in (GPU, replace(GPU, device=torch.device("cpu"))):
        step = moco_step(SMALL, num_groups, place)
        curves.append([step().values()["train/loss"] for _ in range(5)])
    assert curves[0] == pytest.approx(curves[1], rel=0.05)
    learner = moco_learner(SMALL, num_groups, GPU)
    learner.step(resident(SMALL, num_groups, GPU), lr=0.01)
    weights = [p for p in learner.method.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


@pytest.mark.parametrize("name", [name for name, config in METHODS.items() if config.batch_norm == "group"])
def test_memory_that_runs_out_halves_the_micro_batch_and_changes_no_step(name: str) -> None:
    config = METHODS[name]
    learners = [tiny_learner(config, GPU, "sgd", None) for _ in range(2)]
    batches = [tiny_batch(config, step).to(GPU.device) for step in range(3)]
    whole = [learners[0].step(batch, lr=0.1).values()["train/loss"] for batch in batches]
    backbone = learners[1].method.query_encoder.backbone
    backbone.register_forward_pre_hook(partial(_take_too_much, limit=8))
    cut = [learners[1].step(batch, lr=0.1).values()["train/loss"] for batch in batches]
    assert cut == pytest.approx(whole, rel=1e-10) and learners[1].micro_batches.groups <= 2


def test_batches_that_are_copied_beside_steps_arrive_whole() -> None:
    copies, case = torch.cuda.Stream(GPU.device), Case(arch="resnet18", batch_size=64, px=128)
    weights = torch.randn(4096, 4096, device=GPU.device)
    host = [resident(case, 8, replace(GPU, device=torch.device("cpu"))) for _ in range(2)]
    for step in range(30):
        arrays = {"query": (host[0].query + step).pin_memory(), "key": (host[0].key + 2 * step).pin_memory()}
        own = replace(host[step % 2], arrays=arrays)
        weights = weights @ weights / 64  # the device is busy, and the batch before is given away
        there = own.to(GPU.device, copies)
        assert torch.equal(there.query.cpu(), own.query) and torch.equal(there.key.cpu(), own.key)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_images_are_standardised_as_on_a_cpu(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (5, 7, 9, 3), dtype=torch.uint8)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    mean, std = (torch.tensor(values, dtype=wide) for values in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    there = normalize(images.cuda(), mean.cuda(), std.cuda(), dtype)
    assert there.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(there.cpu(), normalize(images, mean, std, dtype), rtol=1e-2, atol=1e-2)


def _take_too_much(module: torch.nn.Module, inputs: tuple[torch.Tensor], limit: int) -> None:
    """Ask the device for more memory than it has, for more than some images."""
    if len(inputs[0]) > limit:
        torch.empty(2**50, dtype=torch.uint8, device=inputs[0].device)


def _config(photos: Path, tmp_path: Path, **run: object) -> Config:
    return tiny_config(photos, tmp_path, max_steps=8, checkpoint_every_steps=4, **run)


def test_a_run_goes_on_from_cpu_to_gpu_and_back(photos: Path, tmp_path: Path) -> None:
    pretrain(_config(photos, tmp_path / "cpu", device="cpu"), say=print)
    expected = losses(tmp_path / "cpu" / "run")
    for first, then in (("cpu", "cuda"), ("cuda", "cpu")):
        moved = tmp_path / f"{first} {then}"
        pretrain(_config(photos, moved, device=first, name="run", max_steps=4), say=print)
        pretrain(_config(photos, moved, device=then, name="run"), say=print)
        np.testing.assert_allclose(losses(moved / "run"), expected, rtol=1e-9)


@pytest.mark.parametrize("run", [{}, {"dtype": "float16"}, {"compile": True}], ids=["bfloat16", "float16", "compiled"])
def test_a_whole_run_with_evaluations_learns_near_float32(photos: Path, tmp_path: Path, run: dict[str, object]) -> None:
    curves = []
    for name, options in (("cpu", {"device": "cpu"}), ("gpu", {"device": "cuda", **run})):
        config = _config(photos, tmp_path, name=name, **{"dtype": "auto", **options})
        pretrain(replace(config, eval=replace(config.eval, every_steps=4)), say=print)
        curves.append(losses(tmp_path / name))
        evaluated = [json.loads(line) for line in (tmp_path / name / "eval.jsonl").read_text().splitlines()]
        assert [line["step"] for line in evaluated] == [0, 4, 8]
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.1)


def test_an_encoder_gives_the_same_features_on_both(photos: Path, tmp_path: Path) -> None:
    pretrain(_config(photos, tmp_path, device="cuda"), say=print)
    backbone = load_encoder(str(tmp_path / "run" / "encoder.safetensors")).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    standard = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    here = apply_to_pixels(backbone, pixels, **standard)
    there = apply_to_pixels(backbone.to("cuda"), pixels, **standard).cpu()
    torch.testing.assert_close(there, here, rtol=0.05, atol=0.05)
