"""Addresses of pages."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, urlencode

REPORT = "report"
SWEEP_REPORT = "report.html"


def run_url(name: str) -> str:
    """The page of a run, by its name as it is shown."""
    return f"/run/{quote(name)}"


def report_url(name: str, path: str) -> str:
    """A file of a run's report.

    Args:
        name: Of the run, as it is shown.
        path: In its folder report/.
    """
    return f"{run_url(name)}/{REPORT}/{quote(path)}"


def sweep_report_url(name: str) -> str:
    """The report of a sweep."""
    return f"/sweep/{quote(name)}/{SWEEP_REPORT}"


def compare_url(names: Iterable[str], **more: str) -> str:
    """The page that compares some runs."""
    return f"/compare?{urlencode([*(('run', name) for name in names), *more.items()])}"
