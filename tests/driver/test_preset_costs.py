"""What presets would take is counted as their steps do it, and judged by the memory of the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.config.methods import method_class
from moco_ray.config.presets import PRESETS
from moco_ray.core.batch import resident_batch
from moco_ray.core.encoders import build_encoder
from moco_ray.core.global_batch_norm import use_global_batch_norm
from moco_ray.core.group_batch_norm import use_group_batch_norm
from moco_ray.core.method import Setting
from moco_ray.core.optim import build_optimizer
from moco_ray.core.step import Learner
from moco_ray.driver import memory, preset_costs
from moco_ray.driver.estimate import measure_size
from moco_ray.driver.memory import free_memory
from moco_ray.driver.preset_costs import Cost, costs_of_presets, say_costs
from moco_ray.tasks.pretraining import PRETRAINING
from tests.runs import tiny_config

_CPU = torch.device("cpu")


def _resolved(name: str, num_images: int) -> Config:
    return PRETRAINING.resolve(replace(PRESETS[name](), data=DataConfig(uri="photos")), num_images)


def _costs(name: str, num_images: int, median_px: float) -> dict[str, Cost]:
    config = _resolved(name, num_images)
    costs = costs_of_presets(config, num_images, median_px, _CPU, flops_per_s=1e11, seconds_an_image=1e-3)
    return {cost.preset: cost for cost in costs}


@pytest.mark.parametrize("name", ["moco", "simclr", "end-to-end", "memory-bank", "moco-v3"])
def test_the_work_of_a_step_is_counted_as_the_step_does_it(name: str, tmp_path: Path) -> None:
    config = tiny_config("photos", tmp_path, dtype="float32")
    config = replace(config, method=method_class(name)(), model=replace(config.model, projector="mlp"))
    if name == "moco":
        config = replace(config, method=replace(config.method, queue_size=96))  # its products with queries are left out
    config = PRETRAINING.resolve(config, 191)
    method = config.method.build(build_encoder(config.model, 32), Setting(seed=0, model=config.model, num_images=191))
    method.to(memory_format=torch.channels_last)
    use_global_batch_norm(method) if config.batch_norm == "global" else use_group_batch_norm(method, 3)
    learner = Learner(
        method,
        build_optimizer(method.trained(), config.optim),
        mean=config.views.mean,
        std=config.views.std,
    )
    views = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 32, 3), dtype=np.uint8)
    query, key = map(torch.from_numpy, views)
    batch = resident_batch(query, key, np.arange(24), step=0, seed=0, num_groups=8, shuffle_bn=False)
    with FlopCounterMode(display=False) as counter:
        learner.step(batch, lr=0.1)
    assert measure_size(config, 191, _CPU).flops == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.parametrize(
    ("chosen", "num_images", "median_px", "names", "suggested"),
    [
        ("small", 1_100, 400, {"small", "moco-v2"}, "small"),
        ("small", 50_000, 32, {"small", "cifar10", "moco-v3-vit-mini"}, "cifar10"),
        ("simclr", 1_281_167, 375, {"simclr", "small", "moco-v2", "moco-v3-vit-small", "moco-v3-resnet50"}, "moco-v2"),
        ("smoke", 191, 28, {"smoke", "small"}, "small"),
    ],
)
def test_those_are_told_that_make_sense_for_the_images(
    chosen: str, num_images: int, median_px: float, names: set[str], suggested: str
) -> None:
    costs = _costs(chosen, num_images, median_px)
    assert set(costs) == names
    assert [cost.preset for cost in costs.values() if cost.is_suggested] == [suggested]
    assert [cost.preset for cost in costs.values() if cost.is_chosen] == [chosen]


def test_time_and_memory_are_those_of_each_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preset_costs, "free_memory", lambda device: 15 * 10**9)
    costs = _costs("small", 1_100, 400)
    small, large = costs["small"], costs["moco-v2"]
    config = _resolved("small", 1_100)
    size = measure_size(config, 1_100, _CPU)
    assert small.step_s == pytest.approx(max(size.flops / 1e11, 0.128))
    assert small.run_s == pytest.approx(860 * small.step_s)
    assert small.memory == size.training + size.all_activations
    assert small.groups_at_once == small.num_groups == 4
    # 3 passes of the query and 1 of the key through 4.1 GFLOP (multiply and add) twice over, 256 images
    assert large.step_s == pytest.approx(4 * 2 * 4.1e9 * 256 / 1e11, rel=0.02)
    assert 15e9 < large.memory < 30e9 and large.groups_at_once == 3 and large.fits
    said = "\n".join(say_costs(list(costs.values()), config, size, _CPU))
    assert "15.0 GB of memory are free" in said and "3 of 8 groups at a time" in said
    assert "small (this run) (suggested)" in said and "suggested preset: small" in said.splitlines()[-1]
    assert "this run's batch of 128 fits whole; up to about " in said


@pytest.mark.parametrize(
    ("name", "gigabytes", "words"),
    [
        ("moco-v2", 6, "fits in micro-batches of up to 1 of its 8 groups (32 images): --run.micro-batch-groups 1"),
        ("moco-v2", 1, "not one of this run's groups of 32 images fits"),
        ("simclr", 90, "does not fit, and cannot be cut: up to about 256 images do"),
        ("small", 1000, "this run's batch of 128 fits whole"),
        ("small", None, None),
    ],
)
def test_what_the_batch_could_be_here_is_said(
    name: str, gigabytes: float | None, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = None if gigabytes is None else int(gigabytes * 1e9)
    monkeypatch.setattr(preset_costs, "free_memory", lambda device: free)
    config = _resolved(name, 200_000)
    said = say_costs([], config, measure_size(config, 200_000, _CPU), _CPU)
    if words is None:
        assert "cannot be known" in said[0] and len(said) == 2
    else:
        assert words in said[-1]


def test_the_memory_of_this_machine_is_that_of_its_container_where_it_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = free_memory(_CPU)
    assert everything is not None and everything > 10**8
    second, first = (
        (tmp_path / version, *names) for version, (_, *names) in zip("21", memory._CONTROLLERS, strict=True)
    )
    for (folder, limit, used, cache), size in ((second, 5_000_000), (first, 6_000_000)):
        folder.mkdir()
        (folder / limit).write_text(f"{size}\n")
        (folder / used).write_text("3000000\n")
        (folder / "memory.stat").write_text(f"anon 5\n{cache} 1000000\n")
    monkeypatch.setattr(memory, "_CONTROLLERS", (second, first))
    assert free_memory(_CPU) == 3_000_000
    monkeypatch.setattr(memory, "_CONTROLLERS", (first,))
    assert free_memory(_CPU) == 4_000_000
    monkeypatch.setattr(memory, "_CONTROLLERS", (second, first))
    (tmp_path / "2" / "memory.max").write_text("max\n")
    assert free_memory(_CPU) == pytest.approx(everything, rel=0.5)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "nothing")
    assert (free_memory(_CPU) or 0) > 10**8
