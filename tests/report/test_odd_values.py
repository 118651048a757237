"""The page of a run whose files hold what nobody expects, or what is rare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco_ray.report.map import make_map
from tests.report.folders import page_of, write_run


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("report__images", {"train": 9, "num_classes": "many", "classes": [["cat", 5, 4]]}, ""),
        ("report__images", {"train": 9, "classes": [["cat", 5]]}, "the images could not be shown"),
        ("results", {"top1": 50.0, "classes": None, "confusion": [[1, 2], [3, 4]]}, ""),
        ("results", {"top1": 50.0, "num_test": "forty"}, "the results could not be shown"),
        ("report__neighbours", {"rows": [{"others": []}]}, "neighbours could not be shown"),
        ("report__map", {"thumbs": [[1, 1, 0, "data:,"]]}, "the map could not be shown"),
        ("report__views", {"rows": 5}, "views could not be shown"),
        ("report__bad", {"tiles": None}, ""),
        ("report__bad", {"tiles": [7]}, "the bad images could not be shown"),
    ],
)
def test_an_odd_value_costs_its_section_and_nothing_else(tmp_path: Path, file: str, content: Any, words: str) -> None:
    bad = [{"row": 0, "uri": "/images/a.jpg", "reason": "truncated"}]
    page = page_of(write_run(tmp_path / "run", bad_images=bad, **{file: content}))
    assert ("could not be shown" in page.text) == bool(words) and words in page.text
    assert len(page.lines["Loss"]) == 100
    assert ("truncated" in page.text) == ("bad images" not in words)
    assert "Configuration" in page.text


def test_labels_and_boxes_are_said(tmp_path: Path) -> None:
    for kind, words in (("boxes", "3 classes of boxes"), ("labels", "several of 3 labels each"), (None, "3 classes")):
        facts = {"train": 9, "num_classes": 3, "kind": kind, "classes": []}
        page = page_of(write_run(tmp_path / str(kind), report__images=facts))
        assert words in page.text and "no labels" not in page.text


def test_a_map_of_many_classes_has_their_names(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    pixels = [np.zeros((8, 8, 3), dtype=np.uint8)] * 12
    names = [f"kind-{i}" for i in range(900)]
    found = make_map(draw.normal(size=(12, 5)), [880] * 6 + [3] * 6, names, pixels)
    assert found is not None and found["classes"] == {"3": "kind-3", "880": "kind-880"}
    assert "kind-880" in page_of(write_run(tmp_path / "run", report__map=found)).text
