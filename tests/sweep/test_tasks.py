"""A sweep of another task than pretraining: its trials are runs of that task, and its measure is what is maximised."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moco_ray.cli.sweep import job_of, main, split
from moco_ray.cli.transfer import parse_given
from moco_ray.sweep.space import check_metric, choose_metric
from tests.sweep.sweeps import run_sweep, sweep_config


def test_the_task_decides_which_flags_there_are() -> None:
    job, rest = job_of(
        ["--num-samples", "2", "--task", "finetune", "--data.uri", "photos", "--optim.layer-decay", "0.7"]
    )
    assert job is not None and job.program == "finetune"
    own, given = split(rest, job)
    assert [item.flag.path for item in own] == ["num_samples"]
    config = parse_given(given, job).config
    assert (config.task, config.data.uri, config.optim.layer_decay) == ("finetune", "photos", 0.7)
    assert job_of(["--task=pretraining", "--data.uri", "photos"]) == (None, ["--data.uri", "photos"])


def test_a_task_that_does_not_exist_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--task", "tuning", "--data.uri", "photos"]) == 2
    words = capsys.readouterr().err.replace("│", " ").split()
    assert "use pretraining, linear-probe, finetune, detection" in " ".join(words)


def test_what_is_maximised_is_the_tasks_own(images: Path, tmp_path: Path) -> None:
    config = replace(sweep_config(images, tmp_path), task="finetune")
    assert choose_metric("auto", config, has_labels=True) == "eval/top1"
    several = replace(config, data=replace(config.data, target_columns=("a", "b")))
    assert choose_metric("auto", several, has_labels=False) == "eval/auroc"
    with pytest.raises(ValueError, match="eval/knn_top1 is no objective of finetune; use one of eval/top1"):
        check_metric("eval/knn_top1", "finetune")


@pytest.mark.slow
def test_a_sweep_fine_tunes(images: Path, tmp_path: Path, shared_ray: None) -> None:
    config = replace(sweep_config(images, tmp_path), task="finetune", preset="finetune")
    result = run_sweep(config, num_samples=2, space=("optim.lr=choice:0.01,0.5",))
    assert [record.state for record in result.records] == ["finished", "finished"]
    assert result.command.startswith("moco-ray finetune") and "load_classifier" not in result.command
    assert Path(result.encoder).name == "classifier.safetensors" and Path(result.encoder).exists()
    best = json.loads((Path(result.folder) / result.best.name / "results.json").read_text())
    assert best["task"] == "finetune" and best["top1"] == result.best.value
