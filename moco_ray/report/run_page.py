"""report/index.html of a run: everything about it on one page, written while it goes on and when it ends."""

from __future__ import annotations

import base64
import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from PIL import Image

from moco_ray.report import run_details, run_sections
from moco_ray.report.page import Section, render_page, state_mark
from moco_ray.report.run_curves import NotWanted, RunCurves
from moco_ray.report.story import Story, read_story
from moco_ray.report.texts import plain
from moco_ray.report.words import size_words
from moco_ray.run_folder.found import FoundRun
from moco_ray.run_folder.lease import read_lease
from moco_ray.run_folder.summary import summaries, summary_of
from moco_ray.storage.storage import Storage

log = logging.getLogger(__name__)
PAGE = "index.html"
MOST_BYTES = 4_800_000
_PAUSE_S, _SHARE_OF_TIME = 30.0, 20.0
_DETECTIONS = "report/detections.png"


class RunReport:
    """The page of one run, which reads only what has come since it was last written."""

    def __init__(self, run: Storage, *, is_gentle: bool = False) -> None:
        """Read nothing yet.

        Args:
            run: The folder.
            is_gentle: Whether to leave most of the time to other threads.
        """
        self._run = run
        self._curves = RunCurves(is_gentle=is_gentle)
        self._next_s = 0.0

    @property
    def stop(self) -> threading.Event:
        """Set when the page that is being written is not wanted any more: it ends with NotWanted."""
        return self._curves.stop

    def write(self, *, is_live: bool | None = None) -> str:
        """Write the page; returns its place.

        Args:
            is_live: Whether somebody goes on with the run; None: find out, which may take some seconds.

        Raises:
            OSError: The storage does not answer.
            ValueError: The folder cannot be written to.
            NotWanted: `stop` was set.
        """
        run = self._run
        name = run.root.rstrip("/").rsplit("/", 1)[-1]
        found = FoundRun(name=name, storage=run, sweep=None, files=run.files(run.root))
        summary = summaries([found])[0] if is_live is None else summary_of(found, read_lease(run), is_live=is_live)
        story = read_story(found, summary, self._curves)
        path, page = run.join("report", PAGE), page_of(story).encode("utf-8", "backslashreplace")
        self._curves.check_wanted()
        run.write_bytes(path, page)
        return run.uri(path)

    @property
    def is_due(self) -> bool:
        """Whether `write_live` would write: not soon after the last time, the less often the longer that took."""
        return time.monotonic() >= self._next_s

    def write_live(self, prepare: Callable[[], None] = lambda: None) -> None:
        """Write the page of a run that goes on, now and then, at little cost; nothing is raised over it.

        Args:
            prepare: What to do before.
        """
        if not self.is_due:
            return
        start = time.monotonic()
        try:
            prepare()
            self.write(is_live=True)
        except NotWanted:
            return
        except Exception as error:  # a page is no reason to stop a run
            log.warning(f"the report could not be written ({type(error).__name__}: {error})")
        end = time.monotonic()
        self._next_s = end + max(_PAUSE_S, _SHARE_OF_TIME * (end - start))


def write_report(run: Storage, *, is_live: bool | None = None) -> str | None:
    """Write the page of a run; a failure is a warning, and returns None."""
    try:
        return RunReport(run).write(is_live=is_live)
    except Exception as error:  # a page is no reason to lose a run
        log.warning(f"the report could not be written ({type(error).__name__}: {error})")
        return None


def says_ended(run: Storage) -> bool:
    """Whether a run's folder has a page that says that the run has ended well."""
    path = run.join("report", PAGE)
    return run.exists(path) and state_mark("ended") in run.read_bytes(path).decode("utf-8", "replace")


def page_of(story: Story) -> str:
    """The page as HTML, of no more than MOST_BYTES: pictures that do not fit are left out, the largest first."""
    made: list[Section] = []
    for name, make in _SECTIONS.items():
        try:
            made += make(story)
        except _ODD as error:
            log.debug(f"{name}: {type(error).__name__}: {error}")
            story.damage.append(f"{name} could not be shown: a file of the run holds what this version does not expect")
    sections = [*_top(story), *made]
    title = plain(story.run.name, 120)
    page = render_page(title, sections, state=story.summary.state)
    while len(page.encode("utf-8", "backslashreplace")) > MOST_BYTES and any(section.picture for section in sections):
        largest = max(range(len(sections)), key=lambda place: len(sections[place].picture))
        sections[largest] = _without_picture(sections[largest])
        page = render_page(title, sections, state=story.summary.state)
    return page


def _top(story: Story) -> list[Section]:
    try:
        return run_sections.top(story)
    except _ODD:
        warnings = [
            "the figures that matter could not be shown: a file of the run holds what this version does not expect"
        ]
        return [Section(warnings=[*warnings, *story.damage[:20]], is_top=True)]


def _without_picture(section: Section) -> Section:
    note = f"The picture is left out: with it the page would be larger than {size_words(MOST_BYTES)}."
    return replace(section, picture="", notes=[*section.notes, note])


def _classes(story: Story) -> list[Section]:
    return run_details.classes_found(story, _detections(story))


def _detections(story: Story) -> str:
    """The picture of detections, as small as a page wants it."""
    if _DETECTIONS not in story.run.files:
        return ""
    content = story.run.read(_DETECTIONS)
    if content is None:
        return ""
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"]).convert("RGB")
        image.thumbnail((1400, 1400))
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", quality=75)
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


_ODD = (TypeError, ValueError, KeyError, AttributeError, IndexError)
_SECTIONS: dict[str, Callable[[Story], list[Section]]] = {
    "the results": run_sections.results,
    "what was measured since": run_sections.measured_later,
    "the curves": run_sections.curves,
    "the interruptions": run_sections.interruptions,
    "the evaluations": run_sections.evaluations,
    "the classes": _classes,
    "views": run_details.views,
    "neighbours": run_details.neighbours,
    "the map": run_details.places,
    "the images": run_details.images,
    "the bad images": run_details.bad_images,
    "how to use it": run_details.use,
    "the command": run_details.made_by,
    "the environment": run_details.environment,
}
