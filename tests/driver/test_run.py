"""Whole runs in this process: what they leave behind, and that they can stop and go on anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load

import moco_ray
from moco_ray.config.model import ModelConfig
from moco_ray.core.hashing import rows_digest
from moco_ray.data.manifest import Manifest
from moco_ray.driver.run import pretrain
from moco_ray.report.run_page import RunReport
from moco_ray.storage.storage import Storage, resolve_storage_options
from tests.runs import digests, losses, metrics, tiny_config


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of three epochs, 24 steps."""
    return Path(pretrain(tiny_config(images, tmp_path_factory.mktemp("whole")), say=_quiet).folder)


def _quiet(line: str) -> None:
    pass


def _train_rows(folder: Path) -> np.ndarray:
    storage = Storage.open(str(folder), resolve_storage_options(str(folder), None))
    return Manifest.read(storage, storage.join("manifest.parquet")).train_rows()


def test_folder_holds_what_the_contract_names(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    files = {"config.json", "manifest.parquet", "metrics", "metrics.jsonl", "eval.jsonl", "bad_images.jsonl"}
    assert files | {"encoder.safetensors", "tensorboard", "checkpoint_000000024"} <= names
    assert (whole / "bad_images.jsonl").read_text() == ""


def test_every_step_has_one_line(whole: Path) -> None:
    lines = metrics(whole)
    assert [line["step"] for line in lines] == list(range(24))
    assert [line["position"] for line in lines] == [24 * step for step in range(24)]
    assert {"epoch", "world_size", "train/loss", "rows_digest"} <= set(lines[0])
    shown = {"train/contrast_accuracy", "train/lr", "train/encoder_momentum", "train/queue_fill"}
    assert shown | {"perf/images_per_s", "perf/data_wait_fraction", "data/bad_images"} <= set(lines[9])


def test_every_row_is_seen_exactly_once_an_epoch(whole: Path) -> None:
    rows = _train_rows(whole)
    assert len(rows) == 211 - 20
    seen = sum(digests(whole)) % 2**64
    overhang = 24 * 24 - 3 * len(rows)  # the last step reaches into a fourth epoch
    assert overhang == 3
    three_epochs = 3 * rows_digest(rows) % 2**64
    rest = (seen - three_epochs) % 2**64
    hashes = {rows_digest(np.array([row])) for row in rows}
    triples = {(a + b) % 2**64 for a in hashes for b in hashes if a < b}
    assert any((rest - h) % 2**64 in triples for h in hashes)


def test_evaluation_is_keyed_by_step_and_needs_no_other_labels(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "eval.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 24]
    assert all(0 <= line["eval/knn_top1"] <= 100 and line["eval/rankme"] >= 1 for line in lines)


@pytest.mark.parametrize("stop", [1, 8, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (7, 13))])
def test_stopping_anywhere_and_going_on_changes_nothing(stop: int, images: Path, whole: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path)
    pretrain(replace(config, run=replace(config.run, max_steps=stop)), say=_quiet)
    assert len(metrics(tmp_path / "run")) == stop
    pretrain(config, say=_quiet)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(whole), rtol=1e-12)
    assert digests(tmp_path / "run") == digests(whole)
    ours, theirs = (torch.load(f / "checkpoint_000000024" / "state.pt") for f in (tmp_path / "run", whole))
    for name, tensor in theirs["method"].items():
        torch.testing.assert_close(ours["method"][name], tensor, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("missing", ["encoder.safetensors", "metrics.jsonl", "eval.jsonl"])
def test_a_run_that_died_while_it_finished_is_finished_by_the_same_command(
    missing: str, images: Path, tmp_path: Path
) -> None:
    config = tiny_config(images, tmp_path, max_steps=3)
    folder = Path(pretrain(config, say=_quiet).folder)
    before = (folder / missing).read_bytes()
    (folder / missing).unlink()
    pretrain(config, say=_quiet)
    after = (folder / missing).read_bytes()
    if missing.endswith(".safetensors"):  # whose metadata come in any order
        ours, theirs = load(after), load(before)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    else:
        assert after == before


def test_evaluations_survive_a_resume(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=4)
    config = replace(config, eval=replace(config.eval, every_steps=2))
    folder = Path(pretrain(config, say=_quiet).folder)
    pretrain(replace(config, run=replace(config.run, max_steps=6)), say=_quiet)
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    assert {0, 4, 6} <= {line["step"] for line in lines}


def test_other_images_under_the_same_name_are_refused(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=2)
    folder = Path(pretrain(config, say=_quiet).folder)
    fewer = tmp_path / "fewer"
    for path in sorted(images.glob("*/*.png"))[::2]:
        (fewer / path.parent.name).mkdir(parents=True, exist_ok=True)
        (fewer / path.parent.name / path.name).write_bytes(path.read_bytes())
    other = pretrain(tiny_config(fewer, tmp_path / "others", max_steps=2), say=_quiet).folder
    for name in ("config.json", "manifest.parquet"):
        (folder / name).write_bytes((Path(other) / name).read_bytes())
    with pytest.raises(ValueError, match="the checkpoint of step 2 was trained on other images"):
        pretrain(tiny_config(fewer, tmp_path, max_steps=3), say=_quiet)


def test_an_evaluation_that_fails_does_not_end_training(images: Path, tmp_path: Path) -> None:
    import shutil

    mine = tmp_path / "images"
    shutil.copytree(images, mine)
    config = tiny_config(mine, tmp_path, max_steps=1)
    folder = Path(pretrain(config, say=_quiet).folder)
    storage = Storage.open(str(folder), resolve_storage_options(str(folder), None))
    manifest = Manifest.read(storage, storage.join("manifest.parquet"))
    held_out = sorted(set(range(len(manifest))) - set(manifest.train_rows().tolist()))
    for row in held_out:
        Path(manifest.uri(row)).unlink()
    said: list[str] = []
    pretrain(replace(config, run=replace(config.run, max_steps=3)), say=said.append)
    assert any("evaluation of step 3 failed" in line for line in said)
    assert len(metrics(folder)) == 3 and any("done: 3 steps" in line for line in said)


@pytest.mark.slow
def test_bfloat16_trains_near_float32(images: Path, tmp_path: Path) -> None:
    curves = []
    for dtype in ("float32", "bfloat16"):
        config = tiny_config(images, tmp_path, name=dtype, dtype=dtype, max_steps=3)
        curves.append(losses(pretrain(config, say=_quiet).folder))
    assert np.isfinite(curves[1]).all() and not np.array_equal(*curves)
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.1)


def test_another_seed_gives_another_curve(images: Path, whole: Path, tmp_path: Path) -> None:
    pretrain(tiny_config(images, tmp_path, seed=1, max_steps=3), say=_quiet)
    assert not np.allclose(losses(tmp_path / "run"), losses(whole)[:3], rtol=1e-3)


def test_switching_shuffle_bn_off_gives_another_curve(images: Path, whole: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=3)
    pretrain(replace(config, method=replace(config.method, shuffle_bn=False)), say=_quiet)
    assert digests(tmp_path / "run") == digests(whole)[:3]
    assert not np.allclose(losses(tmp_path / "run"), losses(whole)[:3], rtol=1e-6)


def test_encoder_file_fits_torchvision_with_only_fc_missing(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=1, dtype="float32")
    result = pretrain(replace(config, model=ModelConfig(arch="resnet18", dim=16)), say=_quiet)
    report = torchvision.models.resnet18().load_state_dict(load(Path(result.encoder).read_bytes()), strict=False)
    assert set(report.missing_keys) == {"fc.weight", "fc.bias"} and not report.unexpected_keys
    encoder = moco_ray.load_encoder(result.folder)
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


def test_a_finished_run_is_not_run_again(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=2)
    pretrain(config, say=_quiet)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    said: list[str] = []
    pretrain(config, say=said.append)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert any("done: 2 steps" in line for line in said)


def test_the_page_of_a_run_whose_driver_died_before_it_wrote_it_is_written(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=2)
    folder = Path(pretrain(config, say=_quiet).folder)
    page, ended = folder / "report" / "index.html", '<span class="state ended">'
    assert ended in page.read_text()
    RunReport(Storage.open(str(folder), resolve_storage_options(str(folder), None))).write(is_live=True)
    assert ended not in page.read_text()
    pretrain(config, say=_quiet)
    assert ended in page.read_text()
    page.unlink()
    pretrain(config, say=_quiet)
    assert ended in page.read_text()


def test_images_that_appear_later_do_not_enter(images: Path, tmp_path: Path) -> None:
    import shutil

    mine = tmp_path / "images"
    shutil.copytree(images, mine)
    config = tiny_config(mine, tmp_path, max_steps=2)
    pretrain(config, say=_quiet)
    shutil.copy(next(mine.glob("*/*.png")), mine / "0" / "later.png")
    pretrain(replace(config, run=replace(config.run, max_steps=3)), say=_quiet)
    assert len(_train_rows(tmp_path / "run")) == 191


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(images: Path, whole: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=8, checkpoint_every_steps=4)
    pretrain(config, say=_quiet)
    state = tmp_path / "run" / "checkpoint_000000008" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    said: list[str] = []
    pretrain(replace(config, run=replace(config.run, max_steps=10)), say=said.append)
    assert any("checkpoint_000000008 is damaged" in line for line in said)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(whole)[:10], rtol=1e-12)


def test_unfinished_checkpoint_is_never_resumed_from(images: Path, whole: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=8, checkpoint_every_steps=4)
    pretrain(config, say=_quiet)
    (tmp_path / "run" / "checkpoint_000000008" / "COMMITTED").unlink()
    said: list[str] = []
    pretrain(replace(config, run=replace(config.run, max_steps=9)), say=said.append)
    assert any("never finished" in line for line in said)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(whole)[:9], rtol=1e-12)


def test_checkpoints_are_pruned_to_the_last_the_best_and_every_nth(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=12, checkpoint_every_steps=1, keep_last=2, keep_every_steps=5)
    pretrain(config, say=_quiet)
    kept = sorted(int(path.name.split("_")[1]) for path in (tmp_path / "run").glob("checkpoint_*"))
    assert kept[-1] == 12 and {5, 10} <= set(kept)
    assert len([step for step in kept if step % 5]) <= 3


def test_a_nan_loss_stops_the_run_and_names_the_last_good_checkpoint(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, checkpoint_every_steps=1, log_every_steps=1, dtype="float32")
    with pytest.raises(ValueError, match=r"the loss of step \d+ is nan.*last good checkpoint is .*checkpoint_0"):
        pretrain(replace(config, optim=replace(config.optim, lr=1e30)), say=_quiet)
