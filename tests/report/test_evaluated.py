"""What is measured of an encoder is kept with its run, and whatever is in the way of that stops nobody."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco_ray.report.evaluated import keep_evaluation, keep_results
from tests.driver.test_evaluation import encoder as encoder
from tests.report.folders import stored, write_run

RESULTS: dict[str, Any] = {"task": "linear-probe", "run": "probe", "data": "/images", "top1": 70.5, "num_test": 40}


def kept(folder: Path) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text()) for path in (folder / "evaluations").iterdir()}


def test_each_step_of_an_encoder_keeps_its_own(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for step, top1 in ((50, 40.0), (100, 60.0), (100, 61.0)):
        keep_evaluation(stored(folder), "kNN", "images", "/images", {"top1": top1}, step)
    found = kept(folder)
    assert {name: one["measures"]["top1"] for name, one in found.items()} == {
        "kNN-images-step50.json": 40.0,
        "kNN-images-step100.json": 61.0,
    }
    page = (folder / "report" / "index.html").read_text()
    assert "61" in page and "40" in page


def test_the_step_of_a_probe_is_that_of_its_encoder(encoder: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    shutil.copy(encoder, folder / "encoder.safetensors")
    keep_results(str(folder / "encoder.safetensors"), None, RESULTS)
    assert kept(folder)["linear-probe-probe-step7.json"]["step"] == 7


@pytest.mark.parametrize("what", ["moved", "options", "values"])
def test_what_is_in_the_way_is_a_warning(what: str, tmp_path: Path, said: list[str]) -> None:
    folder = write_run(tmp_path / "run")
    if what == "moved":
        keep_results(f"zip://encoder.safetensors::{tmp_path}/gone.zip", None, RESULTS)
    elif what == "options":
        keep_results(str(folder), f"{tmp_path}/gone.json", RESULTS)
    else:
        keep_evaluation(stored(folder), "kNN", "images", "/images", {"top1": np.float32(1)}, 7)
    (line,) = said
    assert "warning: what was measured could not be kept with the encoder's run" in line
