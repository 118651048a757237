"""Runs that are looked at again and again: what changes is seen, what does not is not read again."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moco_ray.config.patience import Patience
from moco_ray.run_folder.lease import hold_run
from moco_ray.storage.storage import Storage
from moco_ray.web.watch import Seen, Watch
from tests.faults import FaultyProxy
from tests.s3 import S3Server, open_storage
from tests.serving.folders import LAST, served, write_checkpoint, write_run, write_sweep

HASTE = Patience(lease_watch=0.6)
LEASE = {"owner": "x", "host": "elsewhere", "boot": "b", "pid": 5, "pid_started": "1"}


def _look(watch: Watch) -> dict[str, Seen]:
    return watch.look().runs


def _write_lease(run: Storage, **values: Any) -> None:
    run.write_bytes(run.join("lease.json"), json.dumps({**LEASE, **values}).encode())


def test_files_that_did_not_change_are_not_read_again(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    watch = Watch(open_storage(str(tmp_path)))
    assert _look(watch)["a"].summary.state == "ended"
    path = tmp_path / "a" / "config.json"
    size, times = path.stat().st_size, (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"x" * size)
    os.utime(path, ns=times)
    assert _look(watch)["a"].summary.state == "ended"
    os.utime(path)
    assert _look(watch)["a"].summary.state == "damaged"


def test_what_comes_goes_and_grows_is_seen(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", steps=10)
    watch = Watch(open_storage(str(tmp_path)))
    assert (_look(watch)["a"].summary.step, _look(watch)["a"].summary.state) == (10, "stopped")
    write_checkpoint(run, 10, 20)
    write_run(tmp_path, "b")
    runs = _look(watch)
    assert list(runs) == ["b", "a"] and runs["a"].summary.step == 20
    assert runs["a"].summary.best == {"metric": "eval/knn_top1", "value": 55.0, "step": 20}
    shutil.rmtree(tmp_path / "b")
    assert list(_look(watch)) == ["a"]


def test_the_record_of_a_trial_is_read_when_its_sweep_writes_it(tmp_path: Path) -> None:
    write_sweep(tmp_path, "search", 1)
    (tmp_path / "search" / "trial_000" / "metrics.jsonl").unlink()
    watch = Watch(open_storage(str(tmp_path)))
    assert _look(watch)["search/trial_000"].summary.reason == ""
    (tmp_path / "search" / "trials").mkdir()
    (tmp_path / "search" / "trials" / "trial_000.json").write_text('{"state": "stopped", "reason": "worse"}')
    assert _look(watch)["search/trial_000"].summary.reason == "worse"
    assert list(_look(Watch(open_storage(str(tmp_path / "search"))))) == ["trial_000"]


def test_a_run_that_is_held_tells_its_pace_and_what_is_left(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", steps=10)
    watch = Watch(open_storage(str(tmp_path)))
    with hold_run(run, lambda: (12, 100.0)):
        seen = _look(watch)["a"]
        assert (seen.summary.state, seen.summary.step) == ("running", 12)
        assert seen.images_per_s == 320.0  # of the metrics, as long as leases do not tell
        assert seen.seconds_left == pytest.approx((LAST - 12) * 16 / 320)
        lease = json.loads((tmp_path / "a" / "lease.json").read_text())
        (tmp_path / "a" / "lease.json").write_text(json.dumps({**lease, "last_step": [20, 108.0]}))
        seen = _look(watch)["a"]
        assert (seen.summary.step, seen.images_per_s) == (20, 16.0)  # 8 steps of 16 images in 8 s
        assert seen.seconds_left == 20.0
    assert _look(watch)["a"].summary.state == "stopped"


@pytest.mark.parametrize("is_alive", [True, False])
def test_whether_a_run_elsewhere_lives_is_told_by_a_later_look_and_nobody_waits(is_alive: bool, tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", steps=10)
    _write_lease(run, renewed_at=time.time() - 90)
    watch = Watch(open_storage(str(tmp_path)), patience=HASTE)
    begun = time.monotonic()
    assert _look(watch)["a"].summary.state == "unknown" and time.monotonic() - begun < HASTE.lease_watch
    if is_alive:
        _write_lease(run, renewed_at=time.time() - 89, last_step=[15, 1.0])
        seen = _look(watch)["a"].summary
        assert (seen.state, seen.step) == ("running", 15)
    time.sleep(HASTE.lease_watch)
    assert _look(watch)["a"].summary.state == "stopped"  # not renewed since


def test_what_was_known_stays_while_storage_does_not_answer(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a")
    watch = Watch(open_storage(str(tmp_path / "runs")))
    assert watch.refresh().problem == ""
    (tmp_path / "runs").rename(tmp_path / "away")
    assert "there is no such folder" in watch.refresh().problem and list(watch.latest.runs) == ["a"]
    (tmp_path / "away").rename(tmp_path / "runs")
    assert watch.refresh().problem == "" and list(watch.latest.runs) == ["a"]


def test_one_look_at_a_time(tmp_path: Path) -> None:
    write_sweep(tmp_path, "search", 3)
    watch = Watch(open_storage(str(tmp_path)))
    threads = [threading.Thread(target=watch.refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(watch.latest.runs) == 3 and not watch.latest.problem


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Counts what is asked of the bucket, and can go away."""
    proxy = FaultyProxy(s3.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.down()


def test_looking_again_at_a_bucket_costs_a_listing_and_no_reads(proxy: FaultyProxy, s3: S3Server) -> None:
    uri = f"s3://{s3.bucket}/watched"
    for number in range(5):
        write_run(uri, f"run_{number}")
    write_sweep(uri, "search", 3)
    watch = Watch(open_storage(uri))
    assert {seen.summary.state for seen in _look(watch).values()} == {"ended"} and len(_look(watch)) == 8
    proxy.seen.clear()
    assert len(_look(watch)) == 8
    assert len(proxy.seen) <= 3 and all("list-type" in request for request in proxy.seen), proxy.seen
    write_run(uri, "run_3", lr=0.5)
    assert _look(watch)["run_3"].summary.changes["optim.lr"] == (0.5, 0.03)


@pytest.mark.slow
def test_pages_stay_while_a_bucket_does_not_answer_and_say_so(proxy: FaultyProxy, s3: S3Server) -> None:
    uri = f"s3://{s3.bucket}/away"
    write_run(uri, "a")
    with served(uri) as server:
        assert 'value="a"' in server.get("/").text
        proxy.down()
        begun = time.monotonic()
        while "the storage could not be read" not in (page := server.get("/").text):
            assert 'value="a"' in page and time.monotonic() - begun < 60
            time.sleep(0.5)
        asked = time.monotonic()
        assert 'value="a"' in server.get("/").text and time.monotonic() - asked < 5
        assert server.get("/run/a").status in (200, 503)
        proxy.up()
        while "the storage could not be read" in server.get("/").text:
            assert time.monotonic() - begun < 120
            time.sleep(0.5)
