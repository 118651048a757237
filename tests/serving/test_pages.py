"""What stands on the pages: that of all runs, that of several, and that of one."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.found import find_runs
from moco_ray.web.curves import CurvesOfRuns
from tests.s3 import S3Server, open_storage
from tests.serving.folders import LAST, Served, served, write_checkpoint, write_run, write_sweep


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that ended, one that was stopped, one that failed, and two sweeps, of few trials and of many."""
    root = tmp_path_factory.mktemp("runs")
    write_sweep(root, "many", 9)
    write_sweep(root, "few", 2)
    write_run(root, "ended", lr=0.05, level=60.0)
    write_run(root, "stopped", steps=20)
    failed = write_run(root, "failed", steps=10, level=30.0)
    failed.write_bytes(failed.join("end.json"), b'{"state": "failed", "reason": "the loss of step 9 is nan"}')
    return root


@pytest.fixture(scope="module")
def pages(root: Path) -> Iterator[Served]:
    with served(root) as running:
        yield running


def _rows(page: str) -> list[str]:
    """Names of the runs in a table, in order."""
    return re.findall(r'<input type="checkbox" name="run" value="([^"]+)"', page)


def test_the_table_shows_what_is_known_of_each_run(pages: Served) -> None:
    page = pages.get("/?q=ended&state=ended").text
    assert _rows(page)[0] == "ended" and "few/trial_000" in _rows(page)
    page = pages.get("/?q=lr+0.05").text
    assert _rows(page) == ["ended"]
    row = page[page.index('value="ended"') :]
    for text in ("70 %", "kNN accuracy", "at 40", "2 GPU h", "optim.lr 0.05 (0.03)", "s ago", "pretraining · smoke"):
        assert text in row, text
    # 60 to 70 % over 40 steps, in a box of 80 by 20
    assert 'polyline points="2.0,18.0 21.0,14.0 40.0,10.0 59.0,6.0 78.0,2.0"' in row
    failed = pages.get("/?state=failed").text
    assert (
        _rows(failed) == ["failed"]
        and "the loss of step 9 is nan" in failed
        and '<progress max="1" value="0.2500"' in failed
    )


def test_what_all_runs_have_changed_alike_is_said_once(pages: Served) -> None:
    page = pages.get("/").text
    assert page.count("data.uri /images") == 1 and page.count("run.max_steps 40 (4)") == 1
    assert "optim.lr 0.11 (0.03)" in page


@pytest.mark.parametrize(
    ("sort", "first"),
    [("-best", "ended"), ("best", "failed"), ("name", "ended"), ("progress", "failed"), ("state", "ended")],
)
def test_the_address_says_the_order(pages: Served, sort: str, first: str) -> None:
    rows = [name for name in _rows(pages.get(f"/?sort={sort}").text) if "/" not in name]
    assert rows[0] == first and sorted(rows) == ["ended", "failed", "stopped"]
    assert f'aria-sort="{"descending" if sort.startswith("-") else "ascending"}"' in pages.get(f"/?sort={sort}").text


def test_trials_stand_below_their_sweep_and_many_of_them_on_demand(pages: Served) -> None:
    page = pages.get("/").text
    assert "sweep of 9 trials" in page and "many/trial_000" not in _rows(page) and "few/trial_001" in _rows(page)
    head = page[page.index("<strong>many</strong>") :]
    assert "38 %" in head and 'href="/run/many/trial_008">trial_008</a>' in head  # the best of them
    (link,) = re.findall(r'href="([^"]+)">show trials', page)
    assert sum(name.startswith("many/") for name in _rows(pages.get(link).text)) == 9
    assert sum(name.startswith("many/") for name in _rows(pages.get("/?q=many").text)) == 9


def test_programs_get_the_same(pages: Served) -> None:
    runs = pages.runs()
    assert len(runs) == 14 and runs["ended"]["best"] == {"metric": "eval/knn_top1", "value": 70.0, "step": 40}
    assert (runs["stopped"]["step"], runs["stopped"]["last_step"], runs["stopped"]["state"]) == (20, LAST, "stopped")
    assert set(pages.runs("?state=failed")) == {"failed"}


def test_an_unchanged_page_is_not_sent_again(pages: Served) -> None:
    first = pages.get("/compare?run=ended")
    again = pages.get("/compare?run=ended", If_None_Match=first.headers["ETag"])
    assert again.status == 304 and again.body == b""
    assert (
        first.headers["Content-Security-Policy"] != pages.get("/compare?run=ended").headers["Content-Security-Policy"]
    )


def _points(page: str, title: str, run: str) -> list[list[float]]:
    figure = page[page.index(f'aria-label="{title}') :].partition("</svg>")[0]
    points: list[list[float]] = json.loads(re.findall(rf'data-name="{run}" data-points=\'([^\']+)\'', figure)[0])
    return points


def test_runs_are_compared_by_what_they_have_measured(pages: Served, root: Path) -> None:
    page = pages.get("/compare?run=ended&run=stopped&run=many/trial_003").text
    lines = [json.loads(line) for line in (root / "ended" / "metrics.jsonl").read_text().splitlines()]
    assert _points(page, "Loss", "ended") == [[line["step"], line["train/loss"]] for line in lines]
    assert len(_points(page, "Loss", "stopped")) == 20  # of parts, which is all there is before the end
    assert _points(page, "kNN accuracy", "many/trial_003") == [
        [0, 23.0],
        [10, 25.5],
        [20, 28.0],
        [30, 30.5],
        [40, 33.0],
    ]
    assert '<td class="winner">70</td>' in page and "highest" in page
    differing = re.findall(r"<td class=\"left\"><code>([^<]+)</code>", page)
    assert differing == ["optim.lr"] and "0.05" in page and "0.13" in page
    for title in ("Contrast accuracy", "Effective rank", "Learning rate", "Throughput"):
        assert f'aria-label="{title}' in page


def test_axes_of_all_but_losses_and_evaluations_begin_at_zero(pages: Served) -> None:
    page = pages.get("/run/ended").text
    axes: dict[str, tuple[float, list[str]]] = {}
    for figure in page.split("<figure")[1:]:
        title = figure.partition("<figcaption>")[2].partition(" <")[0]
        (frame,) = re.findall(r"data-frame='([^']+)'", figure)
        axes[title] = json.loads(frame)[-2], re.findall(r'x="45" [^>]*>([^<]+)<', figure)
    for title in ("Learning rate", "Throughput", "Contrast accuracy"):
        assert axes[title][0] == 0, title
    assert axes["Loss"][0] > 2 and axes["kNN accuracy"][0] > 50
    assert axes["Learning rate"][1] == ["0.00", "0.01", "0.02", "0.03"]


def test_a_comparison_says_what_is_not_there(pages: Served) -> None:
    page = pages.get("/compare?run=ended&run=gone&run=ended").text
    assert "gone is not there (any more)" in page and "1 run side by side" in page
    assert "Nothing chosen to compare" in pages.get("/compare").text
    missing = pages.get("/run/gone")
    assert missing.status == 404 and "There is no run gone here" in missing.text


def test_curves_can_be_laid_over_epochs(tmp_path: Path) -> None:
    for name, rows in (("a", 160), ("b", 320)):
        write_run(tmp_path, name)
        pq.write_table(pa.table({"is_holdout": [False] * rows}), tmp_path / name / "manifest.parquet")
    write_run(tmp_path, "c")
    with served(tmp_path) as server:
        page = server.get("/compare?run=a&run=b&by=epoch").text
        assert _points(page, "kNN accuracy", "a")[-1] == [4, 60.0]  # 40 steps of 16 images
        assert _points(page, "kNN accuracy", "b")[-1] == [2, 60.0]
        page = server.get("/compare?run=c&run=a&by=epoch").text
        assert "the length of their epochs is not on record: c" in page
        assert 'data-name="c"' not in page and _points(page, "kNN accuracy", "a")[-1] == [4, 60.0]
        assert 'class="line s1" data-name="a"' in page  # the colour of its key
        assert "No curves over epochs" in server.get("/compare?run=c&by=epoch").text


def test_the_page_of_a_run_holds_its_figures_or_its_report(tmp_path: Path) -> None:
    run = write_run(tmp_path, "sweep x/trial #1?", steps=20)
    run.write_bytes(
        run.join("interruptions.jsonl"),
        b'{"cause": "node lost", "resumed_at_step": 7, "seconds": 90, "steps_redone": 3}\n',
    )
    (tmp_path / "sweep x" / "sweep.json").write_text("{}")
    with served(tmp_path) as server:
        address = re.findall(r'href="(/run/[^"]+)">trial', server.get("/").text)[0]
        page = server.get(address)
        assert page.status == 200 and _points(page.text, "Loss", "sweep x/trial #1\\?")
        for text in (
            "interruption 1, node lost: 90 s without a step, 3 steps redone",
            "step 20",
            "config.json",
            "<code>optim.lr</code>",
        ):
            assert text in page.text, text
        assert "<iframe" not in page.text
        run.write_bytes(run.join("report", "index.html"), b"<p>all of it")
        page = server.get(address)
        source = re.findall(r'<iframe class="report" src="([^"]+)"', page.text)[0]
        assert server.get(source).text == "<p>all of it"
        run.write_bytes(run.join("report", "index.html"), b"<p>all of it anew")
        assert re.findall(r'<iframe class="report" src="([^"]+)"', server.get(address).text) != [source]


def test_odd_runs_have_pages(tmp_path: Path) -> None:
    write_run(tmp_path, "early", steps=0)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"preset": "smo')
    odd = write_run(tmp_path, "odd")
    shutil.rmtree(tmp_path / "odd" / "metrics")
    lines = [
        '{"step": 0, "train/loss": NaN}',
        '{"step": 1, "train/loss": 3}',
        "nonsense",
        "[]",
        '{"step": 2, "train/loss": Infinity}',
    ]
    odd.write_bytes(odd.join("metrics.jsonl"), "\n".join(lines).encode())
    odd.write_bytes(odd.join("eval.jsonl"), b'{"step": 5, "eval/knn_top1": NaN}\n')
    (tmp_path / "line\nbreak").mkdir()
    shutil.copy(tmp_path / "early" / "config.json", tmp_path / "line\nbreak")
    with served(tmp_path) as server:
        assert (
            set(server.runs()) == {"early", "broken", "odd", "line\nbreak"}
            and server.runs()["odd"]["best"]["value"] is None
        )
        for path in (
            "/",
            "/?sort=-best",
            "/run/early",
            "/run/broken",
            "/run/odd",
            "/run/line%5Cnbreak",
            "/compare?run=early&run=broken&run=odd",
        ):
            assert server.get(path).status == 200, path
        page = server.get("/run/odd").text
        assert (
            _points(page, "Loss", "odd") == [[1, 3]]
            and "metrics.jsonl: line 3 is damaged" in page
            and "not finite" in page
        )
        assert "No metrics yet" in server.get("/run/early").text
        shutil.rmtree(tmp_path / "odd")
        assert server.get("/compare?run=odd&run=early").status == 200  # deleted while it was looked at


def test_no_runs_is_no_end(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    with served(root) as server:
        page = server.get("/").text
        assert "No runs here yet" in page and f"--run.storage-path {root}" in page
        root.rename(tmp_path / "away")
        assert "there is no such folder" in server.get("/").text


def test_a_long_run_that_goes_on_is_read_once(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", steps=10)
    (found,) = find_runs(open_storage(str(tmp_path)))
    curves = CurvesOfRuns()
    assert curves.of(found).columns["train/loss"].count == 10
    first = tmp_path / "a" / "metrics" / "000000000-000000009.jsonl"
    info = first.stat()
    write_checkpoint(run, 10, 20)
    first.write_bytes(b"x" * info.st_size)
    os.utime(first, ns=(info.st_atime_ns, info.st_mtime_ns))
    (found,) = find_runs(open_storage(str(tmp_path)))
    columns = curves.of(found).columns
    assert columns["train/loss"].count == 20 and columns["eval/knn_top1"].last == (20, 55.0)


def test_runs_in_a_bucket_have_the_same_pages(s3: S3Server) -> None:
    uri = f"s3://{s3.bucket}/paged"
    write_run(uri, "a b")
    write_run(uri, "c", steps=20)
    with served(uri) as server:
        assert set(_rows(server.get("/").text)) == {"a b", "c"}
        page = server.get("/compare?run=a+b&run=c").text
        assert len(_points(page, "Loss", "a b")) == 40 and len(_points(page, "Loss", "c")) == 20
        assert server.get("/run/a%20b").status == 200


def _many(root: Path, count: int) -> None:
    """Runs of three files each."""
    config = (root / "run_0000" / "config.json").read_text()
    marker = CheckpointStore(storage=open_storage(str(root / "run_0000"))).marker(LAST)
    for number in range(1, count):
        run = root / f"run_{number:04d}" / f"checkpoint_{LAST:09d}"
        run.mkdir(parents=True)
        (run.parent / "config.json").write_text(config.replace('"lr": 0.03', f'"lr": {number / 1000}'))
        (run / "COMMITTED").write_text(json.dumps(marker))
        (run / "state.pt").write_bytes(b"\0" * marker["files"]["state.pt"]["bytes"])


@pytest.mark.slow
def test_a_thousand_runs_are_a_page_within_a_second(tmp_path: Path) -> None:
    write_run(tmp_path, "run_0000")
    _many(tmp_path, 1000)
    with served(tmp_path) as server:
        begun = time.process_time()
        page = server.get("/?sort=name").text
        assert time.process_time() - begun < 1.0
        assert len(_rows(page)) == 200 and _rows(page)[0] == "run_0000" and "<b>1000</b>" in page.replace(",", "")
        assert _rows(server.get("/?sort=name&page=5").text)[-1] == "run_0999"
        assert _rows(server.get("/?q=run_0777").text) == ["run_0777"]


@pytest.mark.slow
def test_two_hundred_thousand_steps_are_compared_in_seconds(tmp_path: Path) -> None:
    run = write_run(tmp_path, "long")
    shutil.rmtree(tmp_path / "long" / "metrics")

    def line(step: int) -> dict[str, Any]:
        interval = {"train/lr": 0.03, "perf/images_per_s": 3e3, "train/contrast_accuracy": step % 100}
        return {
            "step": step,
            "train/loss": 5 + (step * 7919 % 1000) / 1000,
            "rows_digest": 2**63,
            **(interval if step % 10 == 0 else {}),
        }

    run.write_bytes(
        run.join("metrics.jsonl"), "".join(json.dumps(line(step)) + "\n" for step in range(200_000)).encode()
    )
    write_run(tmp_path, "short")
    with served(tmp_path) as server:
        begun = time.process_time()
        page = server.get("/compare?run=long&run=short").text
        assert time.process_time() - begun < 5
    points = _points(page, "Loss", "long")
    assert len(points) < 1000 and points[0] == [0, 5.0] and points[-1][0] == 199_999 and len(page) < 400_000
    assert min(value for _, value in points) == 5.0 and max(value for _, value in points) == 5.999
