"""The dry run is the run without training: it says what the run would be, and fails where the run fails."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from moco_ray.config import Config
from moco_ray.config.methods import method_class
from moco_ray.core.encoders import build_encoder
from moco_ray.driver.dry_run import dry_run
from moco_ray.driver.estimate import measure_size
from moco_ray.driver.run import pretrain
from moco_ray.tasks.pretraining import PRETRAINING
from tests.runs import tiny_config


def _said(config: Config) -> str:
    said: list[str] = []
    dry_run(PRETRAINING, config, say=said.append)
    return "\n".join(said)


def test_it_names_what_would_be_trained_and_leaves_nothing_behind(images: Path, tmp_path: Path) -> None:
    said = _said(tiny_config(images, tmp_path / "runs"))
    for part in (
        "method: moco; queue size 80",
        "network: tiny_resnet",
        "optimizer: sgd, effective learning rate 0.009375",
        "run: 191 images, 3 epochs of 8.0 steps; 24 steps of 24 images in 8 BatchNorm groups",
        "guessing gives 10.0 %",
        "checkpoint: ",
        "memory, estimated: ",
        "time, estimated here",
    ):
        assert part in said
    assert not (tmp_path / "runs").exists()


def test_presets_are_compared_and_the_numbers_are_returned(images: Path, tmp_path: Path) -> None:
    said: list[str] = []
    estimates = dry_run(PRETRAINING, tiny_config(images, tmp_path / "runs"), say=said.append)
    (head,) = [i for i, line in enumerate(said) if line.startswith("presets for these images")]
    shown = {line.split()[0]: line for line in said[head + 2 : head + 4]}
    assert set(shown) == {"smoke", "small"} == {cost["preset"] for cost in estimates["presets"]}
    assert "(this run)" in shown["smoke"] and "(suggested)" in shown["small"]
    for cost in estimates["presets"]:
        assert f" {cost['images_a_batch']} " in shown[cost["preset"]]
        assert f" {cost['memory'] / 1e9:.1f} GB " in shown[cost["preset"]]
    assert said[-1] == "suggested preset: small"
    assert estimates["steps"] == 24 and estimates["step_s"] == max(estimates["network_s"], estimates["data_s"])
    own = next(cost for cost in estimates["presets"] if cost["is_chosen"])
    assert own["run_s"] == pytest.approx(24 * estimates["step_s"], rel=1e-6)


def test_groups_of_one_image_are_estimated_where_batch_norm_sees_the_whole_batch(images: Path, tmp_path: Path) -> None:
    config = replace(tiny_config(images, tmp_path), method=method_class("simclr")())
    assert "time, estimated here" in _said(
        replace(config, optim=replace(config.optim, global_batch_size=8, bn_groups=8))
    )


def test_a_run_that_exists_is_left_as_it_is(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=1)
    folder = Path(pretrain(config, say=lambda line: None).folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "this run exists" in _said(replace(config, run=replace(config.run, max_steps=3)))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(ValueError, match=r"is another experiment: optim\.lr was 0\.1, now 0\.2"):
        _said(replace(config, optim=replace(config.optim, lr=0.2)))


def _half_broken(config: Config, folder: Path) -> Config:
    shutil.copytree(config.data.uri, folder / "half")
    for path in sorted((folder / "half").glob("*/*.png"))[::2]:
        path.write_bytes(path.read_bytes()[:60])
    return replace(config, data=replace(config.data, uri=str(folder / "half")))


def _missing_init(config: Config, folder: Path) -> Config:
    return replace(config, model=replace(config.model, init=str(folder / "nowhere.pt")))


def _other_init(config: Config, folder: Path) -> Config:
    torch.save(build_encoder(replace(config.model, arch="resnet18")).state_dict(), folder / "other.pt")
    return replace(config, model=replace(config.model, init=str(folder / "other.pt")))


def _no_folder(config: Config, folder: Path) -> Config:
    (folder / "file").write_text("")
    return replace(config, run=replace(config.run, storage_path=str(folder / "file" / "runs")))


def _no_network(config: Config, folder: Path) -> Config:
    return replace(config, model=replace(config.model, arch="timm:resnet_of_nobody"))


def _no_gpu(config: Config, folder: Path) -> Config:
    return replace(config, run=replace(config.run, device="cuda"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_half_broken, r"106 of 211 images are bad, more than data.max-bad-fraction"),
        (_missing_init, r"nowhere.pt"),
        (_other_init, r"other.pt"),
        (_no_folder, r"file/runs cannot be written to"),
        (_no_network, r"resnet_of_nobody"),
        (_no_gpu, r"torch finds no GPU here"),
    ],
)
def test_it_fails_where_the_run_fails(
    change: Callable[[Config, Path], Config], message: str, images: Path, tmp_path: Path
) -> None:
    config = change(tiny_config(images, tmp_path / "runs"), tmp_path)
    if change is _no_gpu and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=message):
        _said(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("make", "crop", "warning"),
    [
        (lambda i: np.full((24, 24, 3), 90, np.uint8), 32, "hardly any contrast"),
        (
            lambda i: np.eye(24, dtype=np.uint8)[..., None].repeat(3, 2) * 200,
            32,
            "63 of 64 sampled images are identical",
        ),
        (lambda i: np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8), 224, "enlarged 9 times"),
        (lambda i: np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8), 64, None),
    ],
)
def test_images_that_teach_nothing_are_said(
    make: Callable[[int], np.ndarray], crop: int, warning: str | None, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for i in range(64):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), make(i))
    config = tiny_config(tmp_path / "images", tmp_path / "runs")
    config = replace(config, views=replace(config.views, crop_px=crop), method=replace(config.method, queue_size=24))
    said = _said(config)
    if warning:
        assert re.search(f"warning: .*{warning}", said)
    else:
        assert "contrast" not in said and "sampled images are" not in said and "enlarged" not in said


@pytest.mark.parametrize(
    ("method", "copies"), [("moco", 3), ("simclr", 2), ("end-to-end", 3), ("memory-bank", 2), ("moco-v3", 3)]
)
def test_a_checkpoint_is_counted_as_it_is_written(method: str, copies: int, images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=1, dtype="float32")
    if method != "moco":
        config = replace(config, method=method_class(method)())
    if method == "memory-bank":
        config = replace(config, method=replace(config.method, num_negatives=64))
    size = measure_size(PRETRAINING.resolve(config, 191), 191, torch.device("cpu"))
    folder = Path(pretrain(config, say=lambda line: None).folder)
    written = (folder / "checkpoint_000000001" / "state.pt").stat().st_size
    assert size.checkpoint == pytest.approx(written, rel=0.12)
