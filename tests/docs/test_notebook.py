"""The notebook of the docs: it runs, shows what is kept of it, and tells nothing of the machine it ran on."""

from __future__ import annotations

import re
import sys

import nbformat
import pytest

from tests.bare import ROOT

sys.path.insert(0, str(ROOT / "docs"))

from run_notebook import NOTEBOOK, executed, outputs, told_places


def _printed(node: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in outputs(node))


def test_what_is_kept_was_run_in_order_and_tells_no_place() -> None:
    kept = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert told_places(kept) == []
    assert "encoder after" in _printed(kept)
    assert set(kept.metadata) == {"kernelspec", "language_info"}


@pytest.mark.slow
def test_the_notebook_runs_and_learns() -> None:
    """About 30 s of a CPU core."""
    node = executed()
    before, after = (
        re.search(r"untrained encoder: kNN ([\d.]+)", _printed(node)),
        re.search(r"encoder after \d+ steps: kNN ([\d.]+)", _printed(node)),
    )
    assert before and after and float(after[1]) > float(before[1]) + 10
    assert told_places(node) == []
