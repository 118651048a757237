"""The sections of a run's page: what it is, how it went, what it was measured to be worth."""

from __future__ import annotations

import time
from typing import Any

from moco_ray.report.page import Fact, Row, Section
from moco_ray.report.run_charts import charts_html, first_words, loss_levels, other_charts_html
from moco_ray.report.scales import number_text
from moco_ray.report.story import Line, Story
from moco_ray.report.texts import figure, is_number, number, plain, plural, stamp
from moco_ray.report.words import duration

_MOST_ROWS, _MOST_COLUMNS = 200, 14
_RESULTS = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_top1": "mean over classes",
    "auroc": "AUROC",
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
}
_BY = {"eval/knn_top1": ("kNN accuracy", " %"), "eval/top1": ("Accuracy", " %"), "eval/auroc": ("AUROC", " %")}
_BY |= {"eval/AP": ("Average precision", " %")}


def top(story: Story) -> list[Section]:
    """What the run is, its state, and the figures that matter."""
    summary, now = story.summary, time.time()
    what = [plain(summary.task, 40)]
    what += [
        f"{word}{plain(value, 60)}"
        for word, value in (
            ("", story.of_config("method.name")),
            ("", story.of_config("model.arch")),
            ("preset ", summary.preset),
        )
        if value
    ]
    reached = max(summary.step, story.curves.last_step + 1 if story.curves.num_steps else 0)
    steps = f"step {reached:,}" + (f" of {summary.last_step:,}" if summary.last_step else "")
    notes = [f"{' · '.join(what)} · {steps} · as of {stamp(now)}"]
    warnings = []
    if summary.state == "running":
        notes.append("This run is live: the page is written anew after checkpoints, and shows what they hold.")
    elif summary.reason:
        warnings.append(f"{summary.state}: {plain(summary.reason, 1000)}")
    share = min(reached / summary.last_step, 1.0) if summary.last_step and summary.state != "ended" else None
    sections = [
        Section(
            notes=notes,
            warnings=warnings,
            is_failure=summary.state in ("failed", "damaged"),
            share=None if share is None else round(share, 4),
        ),
        Section(warnings=[plain(text) for text in story.damage[:20]]),
        Section(facts=_facts(story), is_top=True),
    ]
    return [section for section in sections if section.notes or section.warnings or section.facts]


def _facts(story: Story) -> list[Fact]:
    facts, last = [], story.curves.last
    if best := story.summary.best:
        name, unit = _BY.get(str(best["metric"]), (plain(best["metric"], 40), ""))
        facts.append(figure(f"{name}, best", best["value"], unit, _about_best(story, best)))
    if "train/loss" in last:
        levels = " · ".join(f"{level.text} {number_text(level.value)}" for level in loss_levels(story))
        facts.append(figure("Loss, last", last["train/loss"], remark=levels))
    for name, text in (("train/contrast_accuracy", "Contrast accuracy"), ("train/accuracy", "On training views")):
        if name in last:
            facts.append(figure(text, last[name], " %", "last interval"))
    if is_number(story.facts.get("train")):
        facts.append(figure("Images", story.facts["train"], remark=_labels(story.facts)))
    if "perf/images_per_s" in last:
        wait = last.get("perf/data_wait_fraction")
        waits = f"{100 * wait:.1f} % of the time waits for data" if wait is not None else ""
        facts.append(figure("Images a second", last["perf/images_per_s"], remark=waits))
    for kind, hours in (story.summary.device_hours or {}).items():
        facts.append(Fact(name=f"{plain(kind, 12)} hours", text=number_text(hours), remark="hours times workers"))
    if story.interruptions:
        seconds, steps = _price(story.interruptions)
        cost = f"{duration(seconds)} without a step, {plural(steps, 'step')} redone"
        facts.append(Fact(name="Interruptions", text=f"{len(story.interruptions):,}", remark=cost))
    if story.num_bad:
        facts.append(Fact(name="Bad images", text=f"{story.num_bad:,}", remark="others stood in for them"))
    return facts


def _labels(facts: Line) -> str:
    """Of how many classes images are, and how they say so."""
    count = facts.get("num_classes")
    if not is_number(count) or not count:
        return "no labels"
    if facts.get("kind") == "labels":
        return f"several of {plural(int(count), 'label')} each"
    return plural(int(count), "class", "classes") + (" of boxes" if facts.get("kind") == "boxes" else "")


def _about_best(story: Story, best: Line) -> str:
    said = [f"at step {best['step']:,}"]
    first = story.evals[0] if story.evals else {}
    if best["metric"] in first and first["step"] == 0 and is_number(first[best["metric"]]):
        said.append(f"{first_words(story)} {number_text(first[best['metric']])}")
    if best["metric"] == "eval/knn_top1":
        chance = next((line["eval/knn_chance"] for line in story.evals[::-1] if "eval/knn_chance" in line), None)
        if is_number(chance):
            said.append(f"guessing {number_text(chance)}")
    return " · ".join(said)


def curves(story: Story) -> list[Section]:
    """Loss, accuracy, measures, speed, workers."""
    drawn = charts_html(story)
    notes = []
    if drawn and story.interruptions:
        notes.append("Dotted red lines: interruptions, by their numbers in the table below.")
    if not drawn:
        notes.append("No step is on record yet.")
    return [
        Section(heading="Curves", anchor="curves", notes=notes, picture=drawn),
        *([Section(picture=other)] if (other := other_charts_html(story)) else []),
    ]


def interruptions(story: Story) -> list[Section]:
    """Each with its price."""
    lines = story.interruptions
    if not lines:
        return []
    seconds, steps = _price(lines)
    total = (
        f"{plural(len(lines), 'interruption')}: {duration(seconds)} without a step and {plural(steps, 'step')} redone."
    )
    head = Row(words=["", "when", "cause"], numbers=["going on from step", "steps redone", "seconds", "workers"])
    names = ("resumed_at_step", "steps_redone", "seconds", "num_workers")
    rows = [
        Row(
            words=[str(place), stamp(line.get("at_s")), plain(line["cause"])],
            numbers=[number(line.get(name)) for name in names],
        )
        for place, line in enumerate(lines[:_MOST_ROWS], start=1)
    ]
    notes = [total, *_cut(len(lines))]
    return [Section(heading="Interruptions", anchor="interruptions", notes=notes, rows=[head, *rows])]


def evaluations(story: Story) -> list[Section]:
    """Each measurement on the way."""
    if not story.evals:
        return []
    names = list(dict.fromkeys(name for line in story.evals for name in line if name.startswith("eval/")))
    names = [name for name in names if not all(isinstance(line.get(name), list | dict) for line in story.evals)]
    best = story.summary.best
    rows = [
        Row(
            words=[],
            numbers=[number(line["step"]), *(number(line.get(name)) for name in names[:_MOST_COLUMNS])],
            is_best=best is not None and line["step"] == best["step"],
        )
        for line in story.evals[-_MOST_ROWS:]
    ]
    head = Row(words=[], numbers=["step", *(plain(name.removeprefix("eval/"), 40) for name in names[:_MOST_COLUMNS])])
    fold = f"Show {len(rows):,} evaluations" if len(rows) > 8 else ""
    return [
        Section(
            heading="Evaluations on the way",
            anchor="evaluations",
            notes=_cut(len(story.evals)),
            rows=[head, *rows],
            fold=fold,
        )
    ]


def results(story: Story) -> list[Section]:
    """What a run that learned from labels or boxes has come to."""
    if not story.results:
        return []
    found = story.results
    facts = [
        figure(text, found[name], " %", f"± {found['top1_error']:.2f}" if name == "top1" and _has_error(found) else "")
        for name, text in _RESULTS.items()
        if is_number(found.get(name))
    ]
    test, train = (plural(int(found.get(name) or 0), "image") for name in ("num_test", "num_train"))
    about = f"Trained on {train}, measured on {test} that were not trained on."
    return [Section(heading="Result", anchor="result", notes=[about], facts=facts)]


def measured_later(story: Story) -> list[Section]:
    """What else was measured of the encoder."""
    if not story.evaluated:
        return []
    rows = []
    for one in story.evaluated:
        measures = one["measures"] if isinstance(one.get("measures"), dict) else {}
        known = [(name, value) for name, value in measures.items() if is_number(value)][:12]
        said = [(", " if i else "", f"{plain(name, 40)} ", number(value)) for i, (name, value) in enumerate(known)]
        what, name, when = plain(one.get("kind", ""), 40), plain(one.get("name", ""), 120), stamp(one.get("at_s"))
        pieces = [piece for pieces in said for piece in pieces]
        rows.append(Row(words=[what, pieces, name, when], numbers=[number(one.get("step"))]))
    head = Row(words=["what", "measures", "name", "when"], numbers=["encoder of step"])
    return [Section(heading="Measured since", anchor="measured", rows=[head, *rows])]


def _has_error(found: Line) -> bool:
    return is_number(found.get("top1_error"))


def _price(lines: list[Line]) -> tuple[float, int]:
    """Seconds without a step and steps redone, of all."""

    def total(name: str) -> Any:
        return sum(line[name] for line in lines if is_number(line.get(name)))

    return float(total("seconds")), int(total("steps_redone"))


def _cut(count: int) -> list[str]:
    return [f"{_MOST_ROWS} of {count:,} rows are shown; the files of the run hold all."] if count > _MOST_ROWS else []
