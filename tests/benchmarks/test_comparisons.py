"""Every comparison runs to its table, figures and plot; at this size no goal means anything."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks.comparisons import (
    ablation,
    consistency,
    dictionary_cost,
    finetuning,
    methods_knn,
    queue_size,
    shuffle_bn,
)
from benchmarks.photos import write_patches

NUM_TRAIN, NUM_TEST = 24, 6  # of each photo

Main = Callable[[Sequence[str] | None], None]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few patches of every photo: more than one batch."""
    folder = tmp_path_factory.mktemp("comparisons")
    everything = write_patches(folder / "all")
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        for photo in sorted((everything / split).iterdir()):
            target = folder / "photos" / split / photo.name
            target.mkdir(parents=True)
            for path in sorted(photo.iterdir())[:count]:
                shutil.copy(path, target)
    return folder


def run(main: Main, arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run a comparison and return the cases of its figures."""
    figures, plot = folder / f"{main.__module__}.json", folder / f"{main.__module__}.png"
    try:
        main([*arguments, "--json", str(figures), "--plot", str(plot)])
    except SystemExit as end:
        assert end.code == 1  # a goal is missed
    report = json.loads(figures.read_text())
    assert report["rows"] and all(
        math.isfinite(row[name]) for row in report["rows"] for name in ("value", "baseline", "ratio", "goal")
    )
    content = plot.read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) < 100_000
    assert "baseline" in capsys.readouterr().out
    return [row["case"] for row in report["rows"]]


def train_and_compare(main: Main, photos: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    data, runs = photos / "photos", photos / "runs"  # comparisons share trainings
    arguments = ["--data", str(data / "train"), "--eval", str(data / "test"), "--runs", str(runs), "--steps", "4"]
    return run(main, arguments, photos, capsys)


def test_dictionary_cost_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--repeats", "1", "--largest", "1024", "--largest-batch", "256", "--px", "32"]
    cases = run(dictionary_cost.main, sizes, tmp_path, capsys)
    assert cases.count("MoCo, 1,024 keys against MoCo, 256 keys") == 2  # time and memory


def test_queue_size_runs(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = train_and_compare(queue_size.main, photos, capsys)
    assert "queue of 4,096 against queue of 256" in cases


def test_shuffle_bn_runs(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = train_and_compare(shuffle_bn.main, photos, capsys)
    assert "contrast accuracy without against with it" in cases


def test_methods_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = train_and_compare(methods_knn.main, photos, capsys)
    assert "MoCo v2, 256 against SimCLR, 256" in cases and "SimCLR, 256 against SimCLR, 64" in cases


def test_consistency_finds_that_keys_of_the_last_step_are_what_they_would_be_now(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_and_compare(consistency.main, photos, capsys)
    folders = [path.parent for path in (photos / "runs").glob("*/config.json") if '"constant"' in path.read_text()]
    assert len(folders) == len(consistency.MOMENTA)
    for folder in folders:
        newest = list(consistency.agreements(str(folder)))[-1]
        assert newest.age == 0 and newest.cosine == pytest.approx(1, abs=1e-5) and newest.strangers < newest.cosine


def test_ablation_runs(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = train_and_compare(ablation.main, photos, capsys)
    assert f"{ablation.V2} against {ablation.V1}" in cases


def test_finetuning_runs(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = [folder.name for folder in sorted((photos / "photos" / "train").iterdir())][:4]
    sizes = ["--epochs", "6", "--pretraining-epochs", "1", "--seeds", "1", "--runs", str(photos / "finetuning")]
    cases = run(
        finetuning.main, ["--data", str(photos / "photos"), "--classes", ",".join(classes), *sizes], photos, capsys
    )
    assert "ResNet, accuracy: MoCo against scratch" in cases and "ViT, oscillation: MoCo against scratch" in cases
