"""The charts of a run: training, evaluations, workers and speed, with interruptions marked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from moco_ray.config import Config, from_json
from moco_ray.report.charts import Level, Mark, Series, line_chart, series_of
from moco_ray.report.metrics import begins_at_zero, metric_of
from moco_ray.report.run_curves import WORLD_SIZE
from moco_ray.report.story import Line, Story
from moco_ray.report.texts import is_number, plain
from moco_ray.report.thinning import Thinned

_MOST_OTHERS = 24
_TRAINING = ("train/loss", "train/contrast_accuracy", "train/accuracy")
_COURSE = ("train/lr", "perf/images_per_s", "perf/data_wait_fraction")
_MEASURES: dict[str, tuple[str, ...]] = {
    "eval/knn_top1": ("eval/knn_top1",),
    "eval/top1": ("eval/top1", "eval/top5", "eval/mean_class_top1"),
    "eval/auroc": ("eval/auroc",),
    "eval/AP": ("eval/AP", "eval/AP50", "eval/AP75"),
    "eval/loss": ("eval/loss",),
    "eval/rankme": ("eval/rankme",),
}
_NO_CURVES: tuple[str, ...] = (
    "eval/knn_k",
    "eval/knn_bank",
    "eval/knn_queries",
    "eval/knn_chance",
    "eval/knn_largest_class",
)
_NO_CURVES += ("eval/knn_error", "eval/top1_error", "eval/num_images")
_NAMES = {"eval/knn_top1": "kNN top-1", "eval/top1": "top-1", "eval/top5": "top-5"}


def charts_html(story: Story) -> str:
    """Those that matter."""
    marks = interruption_marks(story.interruptions)
    charts = [_metric(story, name, marks) for name in _TRAINING if name in story.curves.curves]
    charts += [_measure(story, name) for name in _MEASURES if _has(story.evals, name)]
    charts += [_metric(story, name, marks) for name in _COURSE if name in story.curves.curves]
    if WORLD_SIZE in story.curves.curves:
        charts.append(_workers(story, marks))
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def other_charts_html(story: Story) -> str:
    """Of everything else that has a curve, behind a click."""
    shown = {*_TRAINING, *_COURSE, WORLD_SIZE}
    charts = [
        line_chart(plain(name, 60), [series_of(plain(name, 60), curve)])
        for name, curve in sorted(story.curves.curves.items())
        if name not in shown
    ]
    drawn = {name for names in _MEASURES.values() for name in names} | {*_NO_CURVES}
    others = sorted({name for line in story.evals for name in line if name.startswith("eval/")} - drawn)
    charts += [
        line_chart(plain(name, 60), [_of_evals(story.evals, name, plain(name, 60))])
        for name in others
        if _has(story.evals, name)
    ]
    if not charts:
        return ""
    return f'<details><summary>All other curves</summary><div class="charts">{"".join(charts[:_MOST_OTHERS])}</div></details>'


def interruption_marks(interruptions: Sequence[Line]) -> list[Mark]:
    """Where a run was interrupted, why, and what it cost."""
    marks = []
    for place, line in enumerate(interruptions, start=1):
        if is_number(line.get("resumed_at_step")):
            cost = f"{line.get('seconds', '?')} s without a step, {line.get('steps_redone', '?')} steps redone"
            text = f"interruption {place}, {plain(line['cause'], 120)}: {cost}"
            marks.append(Mark(step=line["resumed_at_step"], text=text, label=str(place)))
    return marks


def first_words(story: Story) -> str:
    """What the encoder is before the first step."""
    is_drawn = story.summary.task == "pretraining" and not story.of_config("model.init")
    return "untrained" if is_drawn else "before training"


def typed_config(story: Story) -> Config | None:
    """The configuration; None where this version cannot read it."""
    try:
        return from_json(json.dumps(story.config)) if story.config else None
    except (ValueError, TypeError, KeyError):
        return None


def loss_levels(story: Story) -> list[Level]:
    """What a loss can be compared with: that of embeddings that know nothing, and the least that is possible."""
    config = typed_config(story)
    if config is None or config.task != "pretraining":
        return []
    size = config.optim.global_batch_size
    try:
        values = {"chance": config.method.chance_loss(size), "floor": config.method.floor_loss(size, config.model.dim)}
    except (AssertionError, ArithmeticError):  # a method that another version has decided on
        return []
    return [Level(value=value, text=text) for text, value in values.items() if is_number(value)]


def _metric(story: Story, name: str, marks: Sequence[Mark]) -> str:
    metric = metric_of(name)
    return line_chart(
        metric.title,
        [series_of(metric.title, story.curves.curves[name])],
        unit=metric.unit,
        levels=loss_levels(story) if name == "train/loss" else (),
        marks=marks,
        from_zero=begins_at_zero(name),
    )


def _measure(story: Story, name: str) -> str:
    metric = metric_of(name)
    series = [
        _of_evals(story.evals, one, _NAMES.get(one, one[5:])) for one in _MEASURES[name] if _has(story.evals, one)
    ]
    levels = []
    chance = next((line["eval/knn_chance"] for line in story.evals[::-1] if "eval/knn_chance" in line), None)
    if name == "eval/knn_top1" and is_number(chance):
        levels.append(Level(value=float(chance), text="guessing"))
    if name == "eval/auroc":
        levels.append(Level(value=50.0, text="guessing"))
    first = story.evals[0]
    if name in ("eval/knn_top1", "eval/rankme") and first["step"] == 0 and is_number(first.get(name)):
        levels.append(Level(value=float(first[name]), text=first_words(story)))
    return line_chart(metric.title, series, unit=metric.unit, levels=levels)


def _of_evals(evals: Sequence[Line], name: str, text: str) -> Series:
    lines = [line for line in evals if isinstance(line.get(name), int | float)]
    errors: list[Any] = [line.get(f"{name}_error", line.get("eval/knn_error")) for line in lines]
    has_errors = name in ("eval/knn_top1", "eval/top1") and all(map(is_number, errors))
    return Series(
        name=text,
        steps=[line["step"] for line in lines],
        values=[float(line[name]) for line in lines],
        errors=errors if has_errors else None,
    )


def _has(evals: Sequence[Line], name: str) -> bool:
    return any(isinstance(line.get(name), int | float) for line in evals)


def _workers(story: Story, marks: Sequence[Mark]) -> str:
    curve: Thinned = story.curves.curves[WORLD_SIZE]
    steps, values = curve.points()
    if story.curves.last_step > (steps[-1] if steps else -1):
        steps, values = [*steps, story.curves.last_step], [*values, story.curves.last[WORLD_SIZE]]
    workers = Series(name="workers", steps=steps, values=values, is_stairs=True)
    return line_chart("Workers", [workers], marks=marks, from_zero=True)
