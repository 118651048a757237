from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from moco_ray.config.patience import Patience
from moco_ray.tasks.job import Job
from moco_ray.tasks.pretraining import PRETRAINING
from moco_ray.worker.progress import Progress, duration
from tests.runs import tiny_config

VALUES = {"train/loss": 4.12345, "train/contrast_accuracy": 45.12, "perf/images_per_s": 1234.5}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59, "59s"), (754, "12m 34s"), (11_530, "3h 12m"), (273_700, "3d 4h")]
)
def test_times_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("last_step", "values"),
    [
        (60, {}),
        (25_500, {}),
        (1_000_900, {"train/loss": 24098.06, "perf/images_per_s": 123_456.0, "train/contrast_accuracy": 100.0}),
        (25_500, {"perf/data_wait_fraction": 0.8}),
    ],
)
def test_lines_fit_80_columns_beside_a_clock(
    last_step: int, values: dict[str, float], tmp_path: Path, said: list[str]
) -> None:
    config = replace(tiny_config("x", tmp_path))
    job = cast(
        Job,
        SimpleNamespace(
            config=config, last_step=last_step, num_rows=1632, task=PRETRAINING, patience=Patience(line=0.0)
        ),
    )
    told = Progress(job, 0)
    for step in (1, last_step // 2, last_step):
        told.update(step, {"perf/data_wait_fraction": 0.0, **VALUES, **values})
    assert len(said) == 3
    for line in said:
        assert len(line) <= 74 and "loss" in line and "key" in line
    assert said[0].startswith(f"step 1/{last_step:,} · ") and "left" in said[1]


def test_waiting_for_data_is_said_in_the_line(tmp_path: Path, said: list[str]) -> None:
    job = cast(
        Job,
        SimpleNamespace(
            config=tiny_config("x", tmp_path),
            last_step=60,
            num_rows=1632,
            task=PRETRAINING,
            patience=Patience(line=0.0),
        ),
    )
    Progress(job, 0).update(1, {**VALUES, "perf/data_wait_fraction": 0.8})
    assert "data wait 80 %" in said[0]
