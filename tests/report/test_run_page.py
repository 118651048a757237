"""The page of a run says what its folder says, whatever is in there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moco_ray.report import run_page
from moco_ray.report.run_page import RunReport, write_report
from moco_ray.report.scales import number_text
from tests.report.folders import INTERRUPTION, Page, eval_lines, metric_lines, page_of, stored, write_run

EVIL = "<script>alert('1')</script><img src=x onerror=\"alert(2)\">"


def finished(folder: Path) -> Path:
    """With metrics.jsonl, without which a run has not ended."""
    parts = sorted((folder / "metrics").iterdir())
    (folder / "metrics.jsonl").write_text("".join(path.read_text() for path in parts))
    return folder


def test_numbers_are_those_of_the_record(tmp_path: Path) -> None:
    interruptions = [INTERRUPTION, {**INTERRUPTION, "resumed_at_step": 90, "seconds": 100.0, "cause": "spot"}]
    folder = finished(write_run(tmp_path / "run", 1000, interruptions=interruptions))
    page = page_of(folder)
    record: dict[str, set[tuple[float, float]]] = {}
    for line in [*metric_lines(0, 1000), *eval_lines([0, 1000])]:
        for name, value in line.items():
            record.setdefault(name, set()).add((line["step"], value))
    for title, name in (("Loss", "train/loss"), ("Learning rate", "train/lr"), ("kNN top-1", "eval/knn_top1")):
        points = {(step, value) for step, value in page.lines[title]}
        assert points <= record[name]
        assert {min(points), max(points)} == {min(record[name]), max(record[name])}  # the first and the last step
    known = {json.dumps(value) for values in record.values() for _, value in values}
    known |= {json.dumps(value) for line in interruptions for value in line.values()}
    known |= {"0", "1000"}  # steps of evaluations
    assert len(page.numbers) > 25
    for value, text in page.numbers:
        assert value in known
        assert text.split(" ")[0] == number_text(json.loads(value)), (value, text)
    assert "2 interruptions: 112.3 s without a step and 6 steps redone" in page.text


def test_workers_are_drawn_where_they_change(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    assert page.lines["workers"] == [[0, 3], [40, 2], [99, 2]]


def test_a_page_that_was_begun_goes_on_as_if_it_were_written_at_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 3000)
    later = tmp_path / "later"
    later.mkdir()
    for path in sorted((folder / "metrics").iterdir())[60:]:
        path.rename(later / path.name)
    report = RunReport(stored(folder))
    report.write(is_live=True)
    for path in later.iterdir():
        path.rename(folder / "metrics" / path.name)
    report.write(is_live=False)
    begun = Page((folder / "report" / "index.html").read_text())
    assert begun.lines == page_of(folder).lines and begun.lines["Loss"][-1][0] == 2999


@pytest.mark.parametrize(
    ("end", "is_live", "state", "words"),
    [
        (None, True, "running", "This run is live"),
        ({"state": "failed", "reason": "the bucket is gone", "step": 100}, False, "failed", "the bucket is gone"),
        ({"state": "stopped", "reason": "interrupted", "step": 70}, False, "stopped", "interrupted"),
        (None, False, "ended", "step 100 of 100"),
    ],
)
def test_says_how_the_run_is(tmp_path: Path, end: Any, is_live: bool, state: str, words: str) -> None:
    page = page_of(finished(write_run(tmp_path / "run", end=end)), is_live=is_live)
    assert ("span", {"class": f"state {state}"}) in page.tags
    assert words in page.text and time.strftime("as of %Y-%m-%d", time.gmtime()) in page.text


def test_loads_nothing_and_runs_nothing_but_its_own(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(
        values["content"]
        for tag, values in page.tags
        if tag == "meta" and "content" in values and "default" in str(values)
    )
    assert "default-src 'none'" in str(policy) and "script-src 'sha256-" in str(policy)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    bad = [{"row": 0, "uri": f"/images/{EVIL}.jpg", "reason": EVIL}]
    facts = {"train": 5, "classes": [[EVIL, 3, 2]], "num_classes": 1, "has_eval": True, "words": EVIL}
    near = {
        "rows": [{"src": f'data:,"{EVIL}', "class": EVIL, "others": [{"src": EVIL, "similarity": 1.0, "class": EVIL}]}]
    }
    places = {"method": EVIL, "classes": [EVIL], "points": [[1, 1, 0]], "thumbs": [[9, 9, 0, f'x" onload="{EVIL}']]}
    folder = write_run(
        tmp_path / EVIL.replace("/", ""),
        bad_images=bad,
        report__images=facts,
        report__neighbours=near,
        report__map=places,
        interruptions=[{**INTERRUPTION, "cause": EVIL}],
        sessions=[{"at_s": 1.0, "command": EVIL, "versions": {EVIL: EVIL}, "device": EVIL}],
        results={"top1": 50.0, "classes": [EVIL, "b"], "confusion": [[1, 2], [3, 4]], "per_class": {EVIL: 1.0}},
        evaluations__x={"kind": EVIL, "name": EVIL, "measures": {EVIL: 1.0}},
        end={"state": "failed", "reason": EVIL},
    )
    config = json.loads((folder / "config.json").read_text())
    config["data"]["uri"] = EVIL
    (folder / "config.json").write_text(json.dumps(config))
    page = page_of(folder)
    assert page.text.count("<script>alert('1')") > 10
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]


def test_credentials_of_urls_are_not_shown(tmp_path: Path) -> None:
    secret = "very-secret-word"
    url = f"https://user:{secret}@example.org/x.jpg?X-Amz-Signature={secret}&a=b"
    folder = write_run(
        tmp_path / "run",
        bad_images=[{"row": 0, "uri": url, "reason": f"{url} is refused"}],
        sessions=[{"at_s": 1.0, "command": f"python jobs/pretrain.py --data.uri {url}"}],
        interruptions=[{**INTERRUPTION, "cause": f"{url} did not answer"}],
        evaluations__x={"kind": "kNN", "name": url, "measures": {"top1": 1.0}},
        end={"state": "failed", "reason": f"{url} did not answer"},
    )
    config = json.loads((folder / "config.json").read_text())
    config["data"] |= {"uri": url, "storage_options": json.dumps({"secret": secret})}
    config["model"]["init"] = url
    (folder / "config.json").write_text(json.dumps(config))
    page_of(folder)
    html = (folder / "report" / "index.html").read_text()
    assert secret not in html and "example.org" in html


@pytest.mark.parametrize("name", ["no evaluations", "no labels", "one step", "nothing yet"])
def test_is_right_where_there_is_little(tmp_path: Path, name: str) -> None:
    unlabelled = [{"step": 0, "eval/rankme": 3.5, "eval/alignment": 0.1}]
    if name == "nothing yet":
        folder = write_run(tmp_path / "run", 0, evals=[])
        shutil.rmtree(folder / "checkpoint_000000000")
        assert "No step is on record yet" in page_of(folder, is_live=True).text
        return
    evals = {"no evaluations": [], "no labels": unlabelled, "one step": None}[name]
    page = page_of(write_run(tmp_path / "run", 1 if name == "one step" else 50, evals=evals))
    assert ("kNN" in page.text) == (name == "one step")
    assert ("3.5" in page.text) == (name == "no labels")
    assert len(page.lines["Loss"]) == (1 if name == "one step" else 50)


def test_what_is_damaged_is_said_and_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 100, interruptions=[INTERRUPTION])
    part = folder / "metrics" / "000000025-000000049.jsonl"
    part.write_text(part.read_text().replace('{"step": 30', "{step: 30"))
    (folder / "metrics" / "000000050-000000074.jsonl").unlink()
    with (folder / "interruptions.jsonl").open("a") as file:
        file.write("{not json\n")
    (folder / "sessions.jsonl").write_bytes(b"\xff\xfe\n[1]\n")
    (folder / "results.json").write_text("[1, 2]")
    page = page_of(folder)
    for words in (
        "metrics/000000025-000000049.jsonl: line 6 is damaged",
        "the metrics of steps 50 to 74 are missing",
        "interruptions.jsonl: line 2 is damaged",
        "sessions.jsonl: line 1 is damaged",
        "results.json is no JSON object",
    ):
        assert words in page.text
    steps = [step for step, _ in page.lines["Loss"]]
    assert steps == [step for step in range(100) if step != 30 and not 50 <= step < 75]


def test_a_value_that_is_not_finite_is_said(tmp_path: Path) -> None:
    evals = eval_lines([0, 50, 100])
    evals[1]["eval/rankme"] = float("nan")
    page = page_of(write_run(tmp_path / "run", evals=evals))
    assert "1 value is not finite" in page.text
    assert [step for step, _ in page.lines["rankme"]] == [0, 100]


def test_a_run_of_an_older_version_has_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    for gone in ("views", "eval"):
        del config[gone]
    config["optim"]["forgotten"] = 1
    config.pop("task", None)
    (folder / "config.json").write_text(json.dumps(config))
    marker = folder / "checkpoint_000000100" / "COMMITTED"
    told = json.loads(marker.read_text())
    marker.write_text(json.dumps({name: told[name] for name in ("format_version", "step", "files")}))
    shutil.rmtree(folder / "metrics")
    lines = [{"step": line["step"], "train/loss": line["train/loss"]} for line in metric_lines(0, 100)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(folder)
    assert len(page.lines["Loss"]) == 100 and "optim.forgotten" in page.text


def test_other_tasks_have_their_measures(tmp_path: Path) -> None:
    evals = [{"step": step, "eval/top1": 60.0 + step, "eval/top1_error": 2.0, "eval/num_images": 40} for step in (0, 9)]
    results = {"task": "linear-probe", "top1": 69.0, "top1_error": 2.0, "num_test": 40, "num_train": 100}
    results |= {"classes": ["cat", "dog"], "confusion": [[19, 1], [8, 12]], "per_class": {"cat": 95.0, "dog": None}}
    folder = write_run(tmp_path / "run", 9, evals=evals, results=results)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "task": "linear-probe"}))
    page = page_of(folder)
    assert ("69.0", "69 %") in page.numbers and "± 2.00" in page.text
    assert [value for value, _ in page.numbers if value in ("19", "1", "8", "12")] == ["19", "1", "8", "12"]
    assert page.lines["top-1"] == [[0, 60.0], [9, 69.0]]
    assert "no image" in page.text and "chance" not in page.text


def test_the_chance_of_the_loss_is_drawn(tmp_path: Path) -> None:
    assert "chance 4.394" in page_of(write_run(tmp_path / "run")).text  # log(80 + 1)


def test_later_measurements_are_listed(tmp_path: Path) -> None:
    one = {"kind": "linear probe", "name": "probe-1", "at_s": 1.7e9, "step": None, "measures": {"top1": 71.25}}
    page = page_of(write_run(tmp_path / "run", evaluations__a=one))
    assert "linear probe" in page.text and "probe-1" in page.text and "top1 71.25" in page.text
    assert ("71.25", "71.25") in page.numbers


def test_a_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = f"data:image/webp;base64,{'A' * 300_000}"
    folder = write_run(
        tmp_path / "run",
        report__views={"rows": [[src] * 3]},
        report__map={"thumbs": [[1, 1, 0, src]], "points": [], "method": "PCA"},
        bad_images=[{"row": i, "uri": "x" * 5000, "reason": "y" * 5000} for i in range(3000)],
        interruptions=[{**INTERRUPTION, "cause": "z" * 5000} for _ in range(3000)],
    )
    monkeypatch.setattr(run_page, "MOST_BYTES", 1_000_000)
    page = page_of(folder)
    assert (folder / "report" / "index.html").stat().st_size < 1_000_000
    assert page.text.count("The picture is left out") == 1  # the larger one
    assert "3,000 images could not be used" in page.text and "200 of 3,000 rows are shown" in page.text


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path: Path, said: list[str]) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "report").write_text("in the way")
    assert write_report(stored(folder), is_live=False) is None
    report = RunReport(stored(folder))
    report.write_live()
    assert [line for line in said if "warning: the report could not be written" in line] == said[:2]


def test_a_live_page_is_written_now_and_then(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    report = RunReport(stored(folder))
    report.write_live()
    (folder / "report" / "index.html").unlink()
    report.write_live()
    assert not (folder / "report" / "index.html").exists()


@pytest.mark.slow
def test_a_long_run_has_a_page_within_seconds(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 200_000, part=5000)
    script = (
        "import re, sys, time\nfrom pathlib import Path\n"
        "from moco_ray.report.run_page import RunReport\n"
        "from moco_ray.storage.storage import Storage, resolve_storage_options\n"
        "start = time.process_time()\n"
        "RunReport(Storage.open(sys.argv[1], resolve_storage_options(sys.argv[1], None))).write(is_live=False)\n"
        "print(time.process_time() - start, re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(folder)], check=True, capture_output=True, text=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 20 and kilobytes < 1e6
    html = (folder / "report" / "index.html").read_text()
    assert len(html) < 1_000_000
    loss = Page(html).lines["Loss"]
    assert loss[-1][0] == 199_999 and len(loss) <= 400
    assert re.search(r"step 200,000", html)
