"""The sections of a run's page that show images, and how to use and make again what the run has made."""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Mapping
from typing import Any

from moco_ray.config.programs import spoken
from moco_ray.config.reading import flat_values
from moco_ray.report.page import Fact, Row, Section
from moco_ray.report.pictures_html import (
    agreement,
    confusion_html,
    map_svg,
    neighbours_html,
    picture_html,
    tiles_html,
    views_html,
)
from moco_ray.report.story import Line, Story
from moco_ray.report.texts import figure, is_number, number, plain, plural, stamp
from moco_ray.report.words import size_words

_MOST_CLASSES, _FEW_CLASSES, _MOST_TILES, _MOST_SESSIONS = 200, 12, 12, 50
_PACKAGES = ("moco_ray", "torch", "python", "ray")


def images(story: Story) -> list[Section]:
    """Counts and classes."""
    found, last = story.facts, story.evals[-1] if story.evals else {}
    facts = []
    for name, text, unit in (
        ("train", "Trained on", ""),
        ("held_out", "Kept from training", ""),
        ("test", "Listed to evaluate on", ""),
    ):
        if is_number(found.get(name)) and (found[name] or name == "train"):
            facts.append(figure(text, found[name], unit))
    if is_number(found.get("bytes")) and found["bytes"] > 0:
        facts.append(Fact(name="Size", text=size_words(found["bytes"]), value=json.dumps(found["bytes"])))
    if is_number(last.get("eval/knn_queries")):
        among = last.get("eval/knn_bank")
        remark = f"among {among:,.0f} by their nearest" if is_number(among) else ""
        facts.append(figure("Classified by kNN", last["eval/knn_queries"], remark=remark))
    if is_number(last.get("eval/distinct")):
        share = last["eval/distinct"]
        text = f"{100 * (1 - share):.4g} %"
        facts.append(
            Fact(name="Identical images", text=text, remark="of those evaluated are copies of others, as encoded")
        )
    if is_number(last.get("eval/flat")) and last["eval/flat"] > 0:
        facts.append(Fact(name="Of one colour", text=f"{100 * last['eval/flat']:.4g} %", remark="of those evaluated"))
    where = [plain(story.of_config(path)) for path in ("data.uri", "eval.uri") if story.of_config(path)]
    notes = [" · ".join(where)] if where else []
    if found.get("words"):
        notes.append(plain(found["words"], 400))
    return [Section(heading="Images", anchor="images", notes=notes, facts=facts, **_classes(found))]


def _classes(found: Line) -> dict[str, Any]:
    listed = found.get("classes")
    if not isinstance(listed, list) or not listed:
        return {}
    rows = [
        Row(words=[plain(name, 80)], numbers=[number(trained), *([number(other)] if found.get("has_eval") else [])])
        for name, trained, other in listed[:_MOST_CLASSES]
    ]
    head = Row(words=["class"], numbers=["trained on", *(["to evaluate on"] if found.get("has_eval") else [])])
    total = found["num_classes"] if is_number(found.get("num_classes")) else len(listed)
    fold = f"Show {plural(len(rows), 'class', 'classes')}" + (f" of {total:,}" if total > len(rows) else "")
    return {"rows": [head, *rows], "fold": fold if len(rows) > _FEW_CLASSES else ""}


def bad_images(story: Story) -> list[Section]:
    """The list of what is bad, with pictures of what decodes."""
    if not story.num_bad:
        return []
    tiles = {one[0]: one[1] for one in story.pictures["bad"].get("tiles") or () if len(one) == 2}
    shown = [
        (tiles.get(line.get("row")), posixpath.basename(plain(line["uri"], 2000))[-80:], plain(line.get("reason"), 160))
        for line in story.bad
        if line.get("row") in tiles
    ][:_MOST_TILES]
    rows = [Row(words=[plain(line["uri"]), plain(line.get("reason"), 200)], numbers=[]) for line in story.bad]
    more = f" The first {len(rows)} are listed." if story.num_bad > len(rows) else ""
    return [
        Section(
            heading="Bad images",
            anchor="bad",
            notes=[f"{plural(story.num_bad, 'image')} could not be used; others of the same batch stood in.{more}"],
            picture=tiles_html(shown) if shown else "",
            rows=[Row(words=["image", "why"], numbers=[]), *rows],
            fold=f"Show the list of {len(rows)}" if len(rows) > 5 else "",
        )
    ]


def views(story: Story) -> list[Section]:
    """Images and their views."""
    found = story.pictures["views"]
    if not found.get("rows"):
        return []
    note = "On top images as they are; below, the query view and the key view that training makes of each."
    return [Section(heading="Views", anchor="views", notes=[note], picture=views_html(found))]


def neighbours(story: Story) -> list[Section]:
    """Images and those that are nearest to them."""
    found = story.pictures["neighbours"]
    if not found.get("rows"):
        return []
    drawn, note = neighbours_html(found), agreement(found)
    return [Section(heading="Nearest neighbours", anchor="neighbours", notes=[note], picture=drawn)]


def places(story: Story) -> list[Section]:
    """The map."""
    found = story.pictures["map"]
    if not found.get("thumbs"):
        return []
    note = f"Images of the evaluation where their features put them; {plain(found.get('method', ''))}."
    return [Section(heading="Map", anchor="map", notes=[note], picture=map_svg(found))]


def classes_found(story: Story, detections: str) -> list[Section]:
    """How each class fared: the confusion matrix and a table; what a detector finds.

    Args:
        story: Of a run that learned from labels or boxes.
        detections: A picture of detections in a URL; empty: there is none.
    """
    found, sections = story.results, []
    classes = [plain(name, 60) for name in found.get("classes") or ()]
    if isinstance(found.get("confusion"), list):
        drawn = confusion_html(found["confusion"], classes)
        if drawn:
            sections.append(Section(heading="Confusion", anchor="confusion", picture=drawn))
    if isinstance(found.get("per_class"), Mapping):
        name = plain(found.get("per_class_is", "right"), 20)
        each = list(found["per_class"].items())[:_MOST_CLASSES]
        rows = [
            Row(words=[plain(one, 80)], numbers=["no image" if value is None else number(value)]) for one, value in each
        ]
        head = Row(words=["class"], numbers=[f"{name}, %"])
        fold = f"Show {plural(len(rows), 'class', 'classes')}" if len(rows) > 2 * _FEW_CLASSES else ""
        sections.append(Section(heading="Each class", anchor="classes", rows=[head, *rows], fold=fold))
    if detections:
        words = "Dotted: what is there. Framed: what was found, with its class and score."
        drawn = picture_html(detections, f"Images to test on with their boxes and detections. {words}")
        sections.append(Section(heading="Detections", anchor="detections", notes=[words], picture=drawn))
    return sections


def use(story: Story) -> list[Section]:
    """How to load what was learned, and how to measure it."""
    files, folder = story.run.files, plain(story.run.storage.uri(story.run.storage.root), 1000)
    if "classifier.safetensors" in files:
        code = [f"import moco_ray\nclassifier = moco_ray.load_classifier({folder!r})"]
    elif "detector.safetensors" in files:
        code = [f"import moco_ray\ndetector = moco_ray.load_detector({folder!r})"]
    elif story.summary.task == "detection" or ("encoder.safetensors" not in files and story.summary.checkpoint is None):
        return []
    else:
        code = _of_encoder(story, folder)
    return [Section(heading="Use it", anchor="use", code=code)]


def _of_encoder(story: Story, folder: str) -> list[str]:
    views = {name: story.of_config(f"views.{name}") for name in ("crop_px", "mean", "std")}
    how = f"RGB in 0..1, minus {views['mean']}, divided by {views['std']}; trained on {views['crop_px']} px"
    own = f"import moco_ray\nencoder = moco_ray.load_encoder({folder!r})\nfeatures = encoder(images)  # (N, 3, H, W): {how}"
    other = f'info = moco_ray.encoder_info({folder!r})\nprint(info["recipe"])  # builds the same network with timm or torchvision'
    uri = plain(story.of_config("data.uri") or "IMAGES", 500)
    commands = [
        f"{spoken('evaluate')} --model.init {shlex.quote(folder)} --data.uri {shlex.quote(uri)}",
        f"{spoken('linear-probe')} --model.init {shlex.quote(folder)} --data.uri {shlex.quote(uri)}",
        f"{spoken('weights')} {shlex.quote(folder)} --help",
    ]
    if "encoder.safetensors" not in story.run.files:
        commands.insert(0, f"{spoken('export')} {shlex.quote(folder)}")
    return [own, other, "\n".join(commands)]


def made_by(story: Story) -> list[Section]:
    """The command, what it changed of its preset, and the whole configuration."""
    commands = [line.get("command") for line in story.sessions]
    notes, code = [], []
    if commands:
        first, last = commands[0], commands[-1]
        call = "moco_ray.pretrain(config)  # with the configuration below"
        notes.append("The command that made this run. The same goes on with it, if it is not finished.")
        code.append(plain(first, 4000) if first else call)
        if last != first:
            notes = ["The command that made this run, and the one that went on with it."]
            code.append(plain(last, 4000) if last else call)
    changes = [
        Row(words=[plain(path, 60).replace("_", "-"), plain(value, 120), plain(before, 120)], numbers=[])
        for path, (value, before) in list(story.summary.changes.items())[:100]
    ]
    head = Row(words=["field", "value", f"preset {plain(story.summary.preset, 40)}"], numbers=[])
    sections = [Section(heading="Command", anchor="command", notes=notes, code=code)] if code else []
    heading, anchor = ("", "") if code else ("Configuration", "command")
    if changes:
        sections.append(Section(heading=heading, anchor=anchor, rows=[head, *changes]))
    if story.config:
        rows = [Row(words=["field", "value"], numbers=[])]
        for path, value in flat_values(story.config).items():
            rows.append(Row(words=[plain(path, 80).replace("_", "-"), plain(value)], numbers=[]))
        sections.append(Section(rows=rows[:400], fold="Show the whole configuration"))
    return sections


def environment(story: Story) -> list[Section]:
    """When it ran, on what, in which versions."""
    if not story.sessions and not story.environment:
        return []
    facts = []
    for name, text in (
        ("devices", "Devices"),
        ("dtype", "Numbers"),
        ("world_size", "Workers"),
        ("platform", "Platform"),
    ):
        if story.environment.get(name):
            facts.append(Fact(name=text, text=plain(story.environment[name], 120)))
    newest = story.environment.get("versions") or (story.sessions[-1].get("versions") if story.sessions else None) or {}
    if isinstance(newest, Mapping):
        facts += [Fact(name=plain(name, 30), text=plain(version, 40)) for name, version in list(newest.items())[:12]]
    rows = [
        Row(
            words=[stamp(line.get("at_s")), plain(line.get("device", ""), 20), plain(line.get("platform", ""), 60)],
            numbers=[number(line.get("workers"))],
            remark=_versions(line.get("versions")),
        )
        for line in story.sessions[-_MOST_SESSIONS:]
    ]
    head = Row(words=["began or went on", "device", "platform"], numbers=["workers"], remark="versions")
    fold = f"Show {plural(len(rows), 'session')}" if len(rows) > 1 else ""
    table = [head, *rows] if rows else []
    return [Section(heading="Environment", anchor="environment", facts=facts, rows=table, fold=fold)]


def _versions(versions: Any) -> str:
    if not isinstance(versions, Mapping):
        return ""
    return ", ".join(f"{name} {plain(versions[name], 30)}" for name in _PACKAGES if name in versions)
