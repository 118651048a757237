"""Whole sweeps: trials end, bad ones early, and whatever happens the same call goes on."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import moco_ray
from moco_ray.cli.presets import load_preset
from moco_ray.config import Config, from_json
from moco_ray.config.model import ModelConfig
from moco_ray.data.sample import write_digits
from moco_ray.sweep.report import SweepResult
from tests.runs import tiny_config
from tests.sweep.sweeps import run_sweep, sweep_config

pytestmark = pytest.mark.slow


def _logs(result: SweepResult, name: str) -> str:
    return (Path(result.folder) / name / "log.txt").read_text()


def _holders(folder: Path) -> list[str]:
    """Who holds the leases of a sweep and its runs."""
    return [owner for path in folder.rglob("lease.json") if (owner := json.loads(path.read_text())["owner"])]


def _trial_processes() -> list[psutil.Process]:
    """Processes of trials that this one has started."""
    family = psutil.Process().children(recursive=True)
    return [process for process in family if "moco_ray.sweep.trial_main" in " ".join(process.cmdline())]


def test_asha_stops_bad_trials_early_and_the_best_can_be_repeated(
    images: Path, tmp_path: Path, shared_ray: None
) -> None:
    said: list[str] = []
    settings = {"num_samples": 5, "scheduler": "asha", "search": "tpe", "asha_reduction": 2, "max_concurrent": 3}
    result = run_sweep(sweep_config(images, tmp_path), said, **settings)
    states = [record.state for record in result.records]
    assert len(states) == 5 and set(states) <= {"finished", "stopped"}
    assert states.count("stopped") >= 2 and states.count("finished") >= 1
    for record in result.records:
        assert (record.images < 384) == (record.state == "stopped")
    assert not _holders(Path(result.folder)) and not _trial_processes()
    assert sum("listing" in line for line in said) == 1  # one manifest for all
    assert any(line.startswith("3 trials at once: each is one process with 1 CPU") for line in said)
    manifests = [path.read_bytes() for path in Path(result.folder).rglob("manifest.parquet")]
    assert len(manifests) == 6 and len(set(manifests)) == 1

    config = load_preset(result.preset)  # as jobs/pretrain.py --preset best.json does
    assert config.run.storage_path == str(tmp_path)
    again = moco_ray.pretrain(replace(config, run=replace(config.run, name="again")), say=lambda line: None)
    assert result.best.value is not None
    assert abs(again.metrics["eval/knn_top1"] - result.best.value) < 1e-6
    assert result.best.points[-1].metrics["eval/rankme"] == pytest.approx(again.metrics["eval/rankme"], rel=1e-6)
    assert Path(result.encoder).is_file()

    page = (Path(result.folder) / "report.html").read_text()
    assert "<script" not in page and " src=" not in page and ' href="http' not in page
    assert page.count("<svg") == 4 and result.best.name in page and "--optim.lr" in page
    for flag in ("--optim.lr", "--method.temperature", "--method.encoder-momentum"):
        assert flag in result.command

    said.clear()
    once_more = run_sweep(sweep_config(images, tmp_path), said, **settings)
    assert once_more.records == result.records
    assert any("this sweep is over" in line for line in said) and not any("starts" in line for line in said)


def test_a_trial_whose_process_dies_comes_back_from_its_checkpoint(
    images: Path, tmp_path: Path, shared_ray: None
) -> None:
    """The actor and all below it are killed, as when their node is lost."""
    config = sweep_config(images, tmp_path)
    config = replace(config, optim=replace(config.optim, epochs=4))
    killed = threading.Event()

    def kill() -> None:
        marker = tmp_path / "sweep" / "trial_0000"
        while not list(marker.glob("checkpoint_*/COMMITTED")):
            time.sleep(0.05)
        (process,) = _trial_processes()
        actor = process.parent()
        for victim in (actor, process):
            assert victim is not None
            victim.send_signal(signal.SIGKILL)
        killed.set()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    result = run_sweep(config, num_samples=1)
    assert killed.is_set()
    assert [record.state for record in result.records] == ["finished"]
    log = _logs(result, "trial_0000")
    assert "this run exists: going on with it" in log and "training from step 0 of" not in log
    steps = [point.step for point in result.best.points]
    assert steps == sorted(set(steps)) and steps[-1] == 32


@pytest.fixture(scope="module")
def on_workers(
    images: Path, tmp_path_factory: pytest.TempPathFactory, shared_ray: None
) -> tuple[SweepResult, list[str]]:
    """Two trials on two Ray Train workers each, one of which diverges, and what the sweep says."""
    said: list[str] = []
    config = sweep_config(images, tmp_path_factory.mktemp("workers"), dtype="float32", num_workers=2, max_steps=8)
    return run_sweep(config, said, space=("optim.lr=grid:0.1,1e30",)), said


def test_a_trial_that_diverges_is_recorded_and_the_others_go_on(on_workers: tuple[SweepResult, list[str]]) -> None:
    result, _ = on_workers
    assert [record.state for record in result.records] == ["finished", "failed"]
    assert "the loss of step" in result.records[1].reason and "diverged" in result.records[1].reason
    assert result.best.name == "trial_0000"


def test_trials_run_on_ray_train_workers_beside_their_data(on_workers: tuple[SweepResult, list[str]]) -> None:
    result, said = on_workers
    assert any(line.startswith("2 trials at once: each trains with 2 x 1 CPU and leaves 1 CPU") for line in said)
    lines = (Path(result.folder) / result.best.name / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["world_size"] for line in lines} == {2}
    assert from_json(Path(result.preset).read_text()).run.num_workers == 2


def _digits_config(folder: Path, storage: Path) -> Config:
    """Pretraining on digits that is worth its while after a few seconds."""
    base = tiny_config(folder / "train", storage, name="sweep", dtype="float32")
    return replace(
        base,
        views=replace(base.views, crop_min=0.4, flip_p=0.0, grayscale_p=0.0, jitter_p=0.5, blur_p=(0.2, 0.2)),
        model=ModelConfig(arch="tiny_resnet"),
        method=replace(base.method, queue_size=1024, encoder_momentum=0.99),
        optim=replace(base.optim, global_batch_size=256, lr=0.06, epochs=2, weight_decay=1e-4),
        eval=replace(base.eval, uri=str(folder / "test"), k=20, max_queries=1000, max_bank=4000),
    )


def test_the_best_temperature_lies_inside_a_range_that_is_far_too_wide(tmp_path: Path, shared_ray: None) -> None:
    digits = write_digits(tmp_path / "digits")
    config = _digits_config(digits, tmp_path)
    result = run_sweep(config, space=("method.temperature=grid:0.001,0.2,100",))
    values = {record.parameters["method.temperature"]: record.value for record in result.records}
    assert len(values) == 3 and all(value is not None for value in values.values())
    assert result.best.parameters["method.temperature"] == 0.2, values
