"""What a person sees of a sweep: a live table, plain lines, and one page that needs nothing else."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from moco_ray.sweep.pictures import _across, _scale
from moco_ray.sweep.progress import SweepProgress
from moco_ray.sweep.records import Point, Record, State, best_of
from moco_ray.sweep.report import SweepResult, best_command, describe_noise, report_page, untrained_value
from moco_ray.sweep.space import Space, draw, parse_space
from moco_ray.worker.console import said_by
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
    result = SweepResult(
        folder="runs/my sweep",
        best=best,
        preset="runs/my sweep/best.json",
        command=best_command("pretrain", ["--preset", "small"], best.parameters),
        encoder="runs/my sweep/trial_0008/encoder.safetensors",
        records=tuple(records),
    )
    return report_page("my sweep", result, space, "eval/knn_top1")


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


def test_the_table_begins_with_the_best_and_ends_with_what_has_no_value(space: Space) -> None:
    names = re.findall(r'<td class="left">(trial_\d+)</td>', _page(_records(space), space))
    assert names[:2] == ["trial_0008", "trial_0007"] and names[-4:] == [f"trial_{i:04d}" for i in (5, 1, 2, 6)]


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
    progress = SweepProgress(space, "eval/knn_top1", 96)
    output = io.StringIO()
    with said_by(said.append), progress.shown(Console(file=output, force_terminal=True, width=160)):
        for record in _records(space):
            progress.tell(record)
    table = output.getvalue()
    assert "trial_0008" in table and "stopped" in table and "temperature" in table and not said
    with said_by(said.append), progress.shown(Console(file=io.StringIO())):
        for record in _records(space):
            progress.tell(record)
    assert any("trial_0001" in line and "stopped early" in line for line in said)
    assert any("trial_0002" in line and "failed" in line and "is nan" in line for line in said)


def _finished(index: int, value: float, error: float | None = 7.2) -> Record:
    metrics = {} if error is None else {"eval/knn_error": error, "eval/knn_queries": 40.0}
    points = [
        Point(step=step, position=24 * step, value=shown, metrics=metrics, order=9 * index + step)
        for step, shown in ((0, 31.0), (4, value))
    ]
    return Record(name=f"trial_{index:04d}", index=index, parameters={}, state="finished", points=points)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([70.0, 66.0, 40.0], "1 of the 2 other finished trials lie within this noise"),
        ([70.0, 40.0, 30.0], "the best of 3 finished trials is better than all others"),
        ([70.0], "40 images give a kNN accuracy of ± 7.2 points"),
    ],
)
def test_the_best_is_compared_with_the_noise_of_its_measurement(values: list[float], said: str) -> None:
    records = [_finished(index, value) for index, value in enumerate(values)]
    assert said in str(describe_noise(records, records[0], "eval/knn_top1"))
    assert describe_noise(records, records[0], "eval/rankme") is None
    assert untrained_value(records) == 31.0


def test_noise_that_is_not_known_is_not_made_up() -> None:
    records = [_finished(index, 50.0, error=None) for index in range(2)]
    assert describe_noise(records, records[0], "eval/knn_top1") is None


def test_the_page_names_the_untrained_encoder_and_the_noise(space: Space) -> None:
    records = _records(space, 1)
    records[0].points[-1].metrics.update({"eval/knn_error": 7.2, "eval/knn_queries": 40.0})
    page = _page(records, space)
    assert "The untrained encoder has 20." in page and "± 7.2 points" in page


@pytest.mark.parametrize(
    "text",
    [
        "optim.lr=log:0.021:0.19",
        "method.encoder_momentum=1-log:0.9:0.9995",
        "optim.momentum=uniform:0.111:0.999",
        "method.queue_size=grid:80,160,320,640,1280,2560,5120,10240",
    ],
)
def test_labels_of_a_panel_do_not_overlap(text: str, tmp_path: Path) -> None:
    dimension = parse_space((text,), tiny_config("x", tmp_path))[0]
    figure = Figure(figsize=(3.4, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.plot([_across(dimension, dimension.at(0.0)), _across(dimension, dimension.at(0.999))], [0, 1], "o")
    _scale(axes, dimension)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    boxes = sorted((box for box in boxes if box.width), key=lambda box: box.x0)
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_the_time_left_follows_from_what_was_done(space: Space) -> None:
    said: list[str] = []
    progress = SweepProgress(space, "eval/knn_top1", 96, num_trials=4)
    progress.begin([_finished(0, 50.0)])
    record = _finished(1, 50.0)
    record.parameters = draw(space, 0, 1)
    progress._since_s -= 600
    with said_by(said.append):
        progress.tell(record)
    assert said[0].endswith("about 20m 0s left")  # one trial took ten minutes, and two are left
