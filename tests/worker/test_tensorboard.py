from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from moco_ray.run_folder.metrics import metrics_line
from moco_ray.worker.tensorboard import TensorBoardSink


def read_scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_metrics_line_reads_back_exactly() -> None:
    values = {"step": 3, "train/loss": 0.1 + 0.2, "tiny": 5e-324, "third": 1 / 3, "name": "a\nb", "none": None}
    line = metrics_line(values)
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    assert json.loads(line) == values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_line_refuses_what_json_cannot_hold(value: float) -> None:
    with pytest.raises(ValueError, match=r"metric train/loss is -?(nan|inf)"):
        metrics_line({"step": 1, "train/loss": value})


def test_tensorboard_files_hold_the_scalars_by_step(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "events")
    sink.write(1, {"train/loss": 2.5, "train/lr": 0.25})
    sink.write(4, {"train/loss": 1.5})
    sink.close()
    assert read_scalars(tmp_path / "events", "train/loss") == [(1, 2.5), (4, 1.5)]
    assert read_scalars(tmp_path / "events", "train/lr") == [(1, 0.25)]


def test_a_resumed_run_replaces_the_steps_it_repeats(tmp_path: Path) -> None:
    interrupted = TensorBoardSink(tmp_path)
    for step in range(5):
        interrupted.write(step, {"train/loss": 10.0 + step})
    interrupted.close()
    resumed = TensorBoardSink(tmp_path, first_step=3)
    resumed.write(3, {"train/loss": 0.5})
    resumed.close()
    assert read_scalars(tmp_path, "train/loss") == [(0, 10.0), (1, 11.0), (2, 12.0), (3, 0.5)]
