"""Linear probes and fine-tuning are runs as all others: the same on any workers, gone on with, recorded."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors

import moco_ray
from moco_ray.config import Config, from_json, to_json
from moco_ray.config.config import TaskName
from moco_ray.driver.run import pretrain, train
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.tasks.supervised import FINE_TUNING, LINEAR_PROBE, Supervised
from tests.gloo import quiet, train_on_ranks
from tests.killing import kill_all, start_job, wait_for_step
from tests.runs import digests, losses, metrics, tiny_config
from tests.s3 import open_storage
from tests.tasks.supervised import evaluations_of, labels_config, results_of, with_data, with_init

TASKS: dict[TaskName, Supervised] = {"linear-probe": LINEAR_PROBE, "finetune": FINE_TUNING}
STEPS = 12
MEASURES = ("top1", "top1_error", "top5", "loss", "mean_class_top1", "per_class", "confusion", "num_test", "num_train")


@pytest.fixture(scope="module")
def encoder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of a short pretraining run."""
    config = tiny_config(images, tmp_path_factory.mktemp("pretrained"), max_steps=3)
    return Path(pretrain(config, say=quiet).encoder)


@pytest.fixture(scope="module", params=TASKS)
def whole(
    request: pytest.FixtureRequest, images: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of twelve steps in this process."""
    config = with_init(labels_config(request.param, images, tmp_path_factory.mktemp("whole"), max_steps=STEPS), encoder)
    return Path(train(TASKS[request.param], config, say=quiet).folder)


def _same(whole: Path, storage_path: Path, **run: object) -> tuple[Supervised, Config]:
    """Task and configuration of the whole run, to be done elsewhere."""
    config = from_json((whole / "config.json").read_text())
    own = replace(config.run, storage_path=str(storage_path), num_workers=0, **run)  # type: ignore[arg-type]
    return TASKS[config.task], replace(config, run=own)


def _check_same(folder: Path, whole: Path) -> None:
    assert len(losses(whole)) == STEPS and digests(folder) == digests(whole)
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=1e-12)
    ours, theirs = results_of(folder), results_of(whole)
    assert {name: ours[name] for name in MEASURES} == {
        name: pytest.approx(value, rel=1e-6) if name == "loss" else value
        for name, value in theirs.items()
        if name in MEASURES
    }


def test_it_learns_and_leaves_the_records_of_a_run(whole: Path) -> None:
    first, *_, last = metrics(whole)
    assert last["train/loss"] < first["train/loss"] and last["train/accuracy"] > 10
    evaluations, results = evaluations_of(whole), results_of(whole)
    assert [line["step"] for line in evaluations] == [0, 8, 12]  # once an epoch, and the last one
    assert results["top1"] == evaluations[-1]["eval/top1"] and results["steps"] == STEPS
    assert results["best"]["top1"] == max(line["eval/top1"] for line in evaluations)
    assert results["num_test"] == 21 and results["num_train"] == 190
    assert np.sum(results["confusion"]) == 21 and list(results["per_class"]) == [str(i) for i in range(10)]
    assert {path.name for path in (whole / "report").iterdir()} >= {"index.html", "curves.png", "confusion.png"}
    assert (whole / "encoder.safetensors").exists() == (results["task"] == "finetune")
    assert ("backbone_unchanged" in results) == (results["task"] == "linear-probe")


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same(whole: Path, workers: int, tmp_path: Path) -> None:
    task, config = _same(whole, tmp_path)
    folder = train_on_ranks(task, config, workers)
    _check_same(folder, whole)
    assert {line["world_size"] for line in metrics(folder)} == {workers}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_is_the_whole_one(whole: Path, workers: int, tmp_path: Path) -> None:
    task, config = _same(whole, tmp_path, max_steps=5)
    train(task, config, say=quiet)
    task, config = _same(whole, tmp_path)
    folder = train_on_ranks(task, config, workers) if workers else Path(train(task, config, say=quiet).folder)
    assert [line["world_size"] for line in metrics(folder)] == [1] * 5 + [max(workers, 1)] * 7
    _check_same(folder, whole)


def test_the_classifier_of_a_run_classifies_as_the_run_says(whole: Path) -> None:
    classifier, info = moco_ray.load_classifier(whole), moco_ray.classifier_info(whole)
    assert info["classes"] == [str(i) for i in range(10)] and info["crop_px"] == 32 and not info["has_several"]
    state = CheckpointStore(storage=open_storage(str(whole))).read(STEPS)["method"]
    assert torch.equal(classifier.state_dict()["projector.weight"], state["query_encoder.projector.weight"].float())
    assert classifier(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_backbone_of_a_probe_stays_bitwise_what_it_was(images: Path, encoder: Path, tmp_path: Path) -> None:
    config = with_init(labels_config("linear-probe", images, tmp_path, max_steps=3), encoder)
    run = open_storage(train(LINEAR_PROBE, config, say=quiet).folder)
    state, prefix = CheckpointStore(storage=run).read(3), "query_encoder.backbone."
    before = load_safetensors(encoder.read_bytes())
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value.double(), state["method"][prefix + name].double()) for name, value in before.items())
    assert LINEAR_PROBE.examine(state, run) == {"backbone_unchanged": True}
    name = next(name for name in state["method"] if name.endswith("running_mean"))
    state["method"][name][0] += 1e-12
    with pytest.raises(RuntimeError, match="the frozen backbone has changed since step 3"):
        LINEAR_PROBE.examine(state, run)


def test_a_probe_goes_on_though_its_encoder_has_become_another(images: Path, encoder: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copy(encoder, tmp_path / "encoder.safetensors"))
    config = with_init(labels_config("linear-probe", images, tmp_path, max_steps=2), mine)
    train(LINEAR_PROBE, config, say=quiet)
    config = replace(config, run=replace(config.run, max_steps=4))
    mine.unlink()
    assert results_of(train(LINEAR_PROBE, config, say=quiet).folder)["backbone_unchanged"]


def _list_with_targets(images: Path, folder: Path) -> Path:
    """A list of the digits: whether each is even, and whether it is a 7, which nobody knows of every third image."""
    lines = ["uri,even,seven"]
    for i, path in enumerate(sorted(images.glob("*/*.png"))):
        digit = int(path.parent.name)
        lines.append(f"{path},{int(digit % 2 == 0)},{'' if i % 3 == 0 else int(digit == 7)}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def test_several_labels_an_image_are_learned_though_some_are_not_known(
    images: Path, encoder: Path, tmp_path: Path
) -> None:
    uri = _list_with_targets(images, tmp_path)
    config = with_init(labels_config("finetune", uri, tmp_path / "runs", max_steps=STEPS), encoder)
    config = with_data(config, target_columns=("even", "seven"))
    folder = Path(train(FINE_TUNING, config, say=quiet).folder)
    assert np.isfinite(losses(folder)).all() and losses(folder)[-1] < losses(folder)[0]
    results = results_of(folder)
    assert results["auroc"] == pytest.approx((results["auroc/even"] + results["auroc/seven"]) / 2)
    assert results["classes"] == ["even", "seven"] and results["num_test"] == 21 and "top1" not in results
    assert moco_ray.classifier_info(folder)["has_several"]
    assert "several of 2 labels each" in (folder / "report" / "index.html").read_text()
    again = train_on_ranks(FINE_TUNING, replace(config, run=replace(config.run, name="again")), 3)
    np.testing.assert_allclose(losses(again), losses(folder), rtol=1e-12)


def test_some_classes_and_a_share_of_the_labels_are_trained_on(images: Path, tmp_path: Path) -> None:
    config = labels_config("finetune", images, tmp_path, max_steps=2)
    some = with_data(config, classes=("3", "5", "8"))
    results = results_of(train(FINE_TUNING, some, say=quiet).folder)
    assert results["classes"] == ["3", "5", "8"] and results["num_train"] + results["num_test"] == 63
    share = with_data(config, label_fraction=0.3)
    results = results_of(train(FINE_TUNING, replace(share, run=replace(share.run, name="share")), say=quiet).folder)
    assert results["num_train"] == 60 and results["num_test"] == 21 and results["label_fraction"] == 0.3


def test_a_run_on_a_share_of_the_labels_finds_its_images_where_they_have_moved(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "here")
    config = with_data(labels_config("finetune", tmp_path / "here", tmp_path / "runs", max_steps=2), label_fraction=0.3)
    train(FINE_TUNING, config, say=quiet)
    shutil.move(tmp_path / "here", tmp_path / "there")
    config = with_data(config, uri=str(tmp_path / "there"))
    folder = train(FINE_TUNING, replace(config, run=replace(config.run, max_steps=4)), say=quiet).folder
    assert results_of(folder)["num_train"] == 60 and len(losses(folder)) == 4
    with pytest.raises(ValueError, match=r"data\.label-fraction 0\.3 would be drawn anew"):
        train(FINE_TUNING, with_data(config, relist=True), say=quiet)


def test_images_that_are_listed_anew_have_the_same_classes(images: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(images, tmp_path / "mine"))
    config = labels_config("finetune", mine, tmp_path / "runs", max_steps=2)
    train(FINE_TUNING, config, say=quiet)
    config = with_data(replace(config, run=replace(config.run, max_steps=4)), relist=True)
    shutil.copytree(mine / "7", mine / "seven")
    with pytest.raises(ValueError, match=r"tells other classes apart \(new: .?seven.?; gone: none\)"):
        train(FINE_TUNING, config, say=quiet)
    shutil.move(mine / "seven", tmp_path)
    shutil.copy(next((images / "7").iterdir()), mine / "7" / "new.png")
    assert results_of(train(FINE_TUNING, config, say=quiet).folder)["num_train"] == 191


@pytest.mark.slow
def test_a_probe_on_ray_that_is_killed_in_the_middle_has_the_curve_of_one_without_ray(
    images: Path, encoder: Path, tmp_path: Path
) -> None:
    config = with_init(labels_config("linear-probe", images, tmp_path, name="whole", checkpoint_every_steps=2), encoder)
    config = replace(config, optim=replace(config.optim, epochs=8))
    whole = train(LINEAR_PROBE, config, say=quiet).folder
    (tmp_path / "config.json").write_text(to_json(config))
    job = start_job("jobs/linear_probe.py", tmp_path / "config.json", tmp_path, 3)
    try:
        wait_for_step(job, tmp_path, 20)
        assert job.poll() is None, "the run was over before it could be killed"
    finally:
        kill_all(job)
    job = start_job("jobs/linear_probe.py", tmp_path / "config.json", tmp_path, 3)
    assert job.wait(timeout=240) == 0, (tmp_path / "job.log").read_text()[-3000:]
    folder = tmp_path / "run"
    first, second = map(int, re.findall(r"training from step (\d+)", (tmp_path / "job.log").read_text()))
    assert first == 0 and 20 <= second < len(losses(whole)) == 64
    assert digests(folder) == digests(whole) and {line["world_size"] for line in metrics(folder)} == {3}
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=1e-12)
    assert results_of(folder)["backbone_unchanged"]
    assert {name: results_of(folder)[name] for name in MEASURES if name != "loss"} == {
        name: results_of(whole)[name] for name in MEASURES if name != "loss"
    }
