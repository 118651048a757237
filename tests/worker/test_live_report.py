"""The page of a run that goes on never comes after the last one."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from moco_ray.report import run_page
from moco_ray.run_folder.metrics import Line
from moco_ray.storage.storage import Storage
from moco_ray.worker.live_report import LiveReport
from tests.report.folders import stored, write_run
from tests.runs import tiny_config

LINES = cast("list[Line]", [{"step": 1}])


def live(folder: Path) -> LiveReport:
    job: Any = SimpleNamespace(uses_gpu=False, config=tiny_config("images", folder.parent))
    return LiveReport(job, stored(folder), 1, "bfloat16")


def test_a_page_that_is_being_read_for_is_given_up_at_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 60_000, part=5000)
    report = live(folder)
    report.commit(LINES, [])
    time.sleep(0.3)  # it leaves most of the time to training: it has seconds to go
    start = time.monotonic()
    report.close(is_done=False)
    assert time.monotonic() - start < 1.5
    assert not (folder / "report" / "index.html").exists()
    assert (folder / "report" / "environment.json").exists()


def test_a_page_that_is_late_is_not_written(tmp_path: Path, monkeypatch: Any) -> None:
    folder = write_run(tmp_path / "run")
    is_made, go_on = threading.Event(), threading.Event()
    page_of = run_page.page_of

    def slow(story: Any) -> str:
        page = page_of(story)
        is_made.set()
        assert go_on.wait(20)
        return page

    monkeypatch.setattr(run_page, "page_of", slow)
    report = live(folder)
    report.commit(LINES, [])
    assert is_made.wait(20)
    threading.Timer(0.2, go_on.set).start()
    report.close(is_done=True)
    assert not (folder / "report" / "index.html").exists()


def test_what_it_runs_on_is_noted_as_soon_as_it_can_be(tmp_path: Path, monkeypatch: Any) -> None:
    folder = write_run(tmp_path / "run")
    report = live(folder)
    write_bytes = Storage.write_bytes

    def refuse(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Storage, "write_bytes", refuse)
    report.commit(LINES, [])
    assert report._thread is not None
    report._thread.join(20)
    monkeypatch.setattr(Storage, "write_bytes", write_bytes)
    report._page._next_s = 0.0
    report.commit(LINES, [])
    report._thread.join(20)
    assert json.loads((folder / "report" / "environment.json").read_text())["dtype"] == "bfloat16"
    assert (folder / "report" / "index.html").exists()
