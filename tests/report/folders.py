"""Folders of runs as they are left, written by hand: any length, any damage, without any training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from moco_ray.config import to_json
from moco_ray.report.run_page import RunReport
from moco_ray.storage.storage import Storage, resolve_storage_options
from tests.runs import tiny_config

INTERRUPTION = {
    "cause": "a worker was lost",
    "resumed_at_step": 40,
    "steps_redone": 3,
    "num_workers": 2,
    "seconds": 12.3,
    "at_s": 1.7e9,
}


def metric_lines(first: int, end: int) -> Iterator[dict[str, Any]]:
    """Lines as a recorder writes them: a loss of each step, and the rest now and then."""
    for step in range(first, end):
        line = {"step": step, "position": step * 24, "epoch": 0, "world_size": 3 if step < 40 else 2}
        line |= {"train/loss": 4.3 + math.cos(step * 1.7) / (1 + step / 50), "rows_digest": step}
        if step % 5 == 4 or step == end - 1:
            line |= {
                "train/contrast_accuracy": 50 + 40 * math.sin(step / 300),
                "train/lr": 0.1 / (1 + step),
                "perf/images_per_s": 100.0 + step % 7,
                "perf/data_wait_fraction": 0.01 * (step % 3),
            }
        yield line


def eval_lines(steps: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "eval/knn_top1": 20.123456789 + step / 10,
            "eval/knn_error": 1.5,
            "eval/knn_chance": 10.0,
            "eval/knn_queries": 40.0,
            "eval/knn_bank": 100.0,
            "eval/rankme": 12.3456 + step,
            "eval/distinct": 0.975,
        }
        for step in steps
    ]


def write_run(
    folder: Path,
    num_steps: int = 100,
    *,
    part: int = 25,
    evals: list[dict[str, Any]] | None = None,
    end: Mapping[str, Any] | None = None,
    **files: Any,
) -> Path:
    """A run of so many steps in parts of so many, without checkpoints' weights; `files` by name without dots."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config("images", folder.parent)
    config = replace(config, run=replace(config.run, name=folder.name))
    (folder / "config.json").write_text(to_json(config))
    (folder / "metrics").mkdir(exist_ok=True)
    for first in range(0, num_steps, part):
        last = min(first + part, num_steps) - 1
        text = "".join(json.dumps(line) + "\n" for line in metric_lines(first, last + 1))
        (folder / "metrics" / f"{first:09d}-{last:09d}.jsonl").write_text(text)
    evals = eval_lines([0, num_steps]) if evals is None else evals
    (folder / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evals))
    if end is not None:
        (folder / "end.json").write_text(json.dumps(end))
    checkpoint = folder / f"checkpoint_{num_steps:09d}"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "state.pt").write_bytes(b"x")
    marker = {"format_version": 1, "step": num_steps, "files": {"state.pt": {"bytes": 1, "sha256": ""}}}
    marker |= {"last_step": num_steps, "best_by": "eval/knn_top1", "device_s": {"cpu": 7200.0}}
    (checkpoint / "COMMITTED").write_text(json.dumps(marker))
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path = path.with_suffix(".jsonl" if isinstance(content, list) else ".json")
        path.parent.mkdir(exist_ok=True)
        lines = content if isinstance(content, list) else [content]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def stored(folder: Path | str) -> Storage:
    return Storage.open(str(folder), resolve_storage_options(str(folder), None))


class Page(HTMLParser):
    """What is on a page.

    Attributes:
        text: All text, without scripts and styles.
        numbers: (value, text) of all numbers of the record.
        lines: Points of the lines of charts by their names.
        tags: All start tags with their attributes.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self._inside, self._value = "", "", ""
        self.numbers: list[tuple[str, str]] = []
        self.lines: dict[str, list[list[float]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self._inside = tag if tag in ("style", "script") else self._inside
        if tag == "data":
            self._value = str(values["value"])
        if "data-points" in values:
            self.lines[str(values["data-name"])] = json.loads(str(values["data-points"]))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            return
        self.text += data
        if self._value:
            self.numbers.append((self._value, data))
            self._value = ""


def page_of(folder: Path, *, is_live: bool = False) -> Page:
    RunReport(stored(folder)).write(is_live=is_live)
    return Page((folder / "report" / "index.html").read_text())
