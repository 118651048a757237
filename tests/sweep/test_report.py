"""What a person sees of a sweep: a live table, plain lines, and one page that needs nothing else."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from moco_ray.sweep.board import Board
from moco_ray.sweep.records import Point, Record, State, best_of
from moco_ray.sweep.report import report_page
from moco_ray.sweep.results import best_command
from moco_ray.sweep.space import Space, draw, parse_space
from tests.runs import tiny_config

TEXTS = (
    "default",
    "model.projector=choice:mlp,linear",
    "method.queue_size=grid:80,800,1600",
    "optim.momentum=uniform:0:0.9",
)


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return parse_space(TEXTS, tiny_config("x", tmp_path))


def _records(space: Space, number: int = 9) -> list[Record]:
    states: list[State] = ["finished", "stopped", "failed", "finished"]
    records = []
    for index in range(number):
        state = states[index % 4]
        count = {"finished": 4, "stopped": 2}.get(state, 0)
        points = [
            Point(step=s, position=s * 24, value=20.0 + index + s, metrics={}, order=index * 9 + s)
            for s in range(count)
        ]
        reason = "the loss of step 3 is nan <b>" if state == "failed" else ""
        name = f"trial_{index:04d}"
        values = draw(space, 0, index)
        record = Record(
            name=name, index=index, parameters=values, state=state, points=points, reason=reason, seconds=7.5
        )
        records.append(record)
    return records


def _page(records: list[Record], space: Space) -> str:
    best = best_of(records)
    assert best is not None
    return report_page(
        name="my sweep",
        records=records,
        best=best,
        space=space,
        metric="eval/knn_top1",
        command=best_command(["--preset", "small"], best.parameters),
        preset="runs/my sweep/best.json",
        encoder="runs/my sweep/trial_0008/encoder.safetensors",
    )


def test_the_page_shows_everything_and_loads_nothing(space: Space) -> None:
    page = _page(_records(space), space)
    for part in ("my sweep", "trial_0008", "--method.temperature", "best.json", "encoder.safetensors", "9 trials"):
        assert part in page
    assert page.count("<svg") == 4
    assert not re.search(r"<script|<link|<iframe|@import|\bsrc=|href=\"(?!#)|url\((?!#)", page)
    assert "is nan &lt;b&gt;" in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture)
    for path in [dimension.path for dimension in space]:
        assert path in page


def test_one_trial_makes_a_page_too(space: Space) -> None:
    assert "trial_0000" in _page(_records(space, 1), space)


def test_a_copy_says_that_its_values_are_the_last_of_a_schedule(space: Space) -> None:
    records = _records(space, 1)
    point = Point(step=9, position=216, value=99.0, metrics={}, order=90)
    copy = Record(
        name="copy",
        index=0,
        parameters=records[0].parameters,
        state="finished",
        points=[point],
        parent="trial_0000",
        generation=1,
    )
    page = _page([*records, copy], space)
    assert "lineage.jsonl" in page and "copy of" in page


def test_a_terminal_shows_a_table_and_a_file_plain_lines(space: Space) -> None:
    said: list[str] = []
    board = Board(space, "eval/knn_top1", 96, said.append)
    output = io.StringIO()
    with board.shown(Console(file=output, force_terminal=True, width=160)):
        for record in _records(space):
            board.tell(record)
    table = output.getvalue()
    assert "trial_0008" in table and "stopped" in table and "temperature" in table and not said
    with board.shown(Console(file=io.StringIO())):
        for record in _records(space):
            board.tell(record)
    assert any("trial_0001" in line and "stopped early" in line for line in said)
    assert any("trial_0002" in line and "failed" in line and "is nan" in line for line in said)
