"""Runs the notebook of the docs and keeps what it shows: `python docs/run_notebook.py`.

What would tell of this machine is left out: times of cells, versions, and places of files.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"
_PLACES = re.compile(r"(?:/[\w.~+-]+){2,}")


def executed(notebook: Path = NOTEBOOK) -> Any:
    """The notebook, run from top to bottom in a process of its own, without what it had shown before.

    Raises:
        CellExecutionError: A cell failed.
    """
    node = nbformat.read(notebook, as_version=4)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    NotebookClient(node, timeout=300, kernel_name="python3", record_timing=False).execute()
    for cell in node.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            output.pop("metadata", None) if output.output_type == "stream" else output.update(metadata={})
    return node


def told_places(node: Any) -> list[str]:
    """Places of files in what a notebook shows."""
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs(node)]
    return [place for text in texts for place in _PLACES.findall(text)]


def outputs(node: Any) -> list[Any]:
    """Everything that the cells of a notebook have shown."""
    return [output for cell in node.cells for output in cell.get("outputs", [])]


def main() -> int:
    """Run it and write it back; returns the exit code."""
    node = executed()
    if places := told_places(node):
        print(f"the notebook shows places of this machine: {places}")
        return 1
    node.metadata = {name: node.metadata[name] for name in ("kernelspec", "language_info") if name in node.metadata}
    node.metadata.language_info = {"name": "python"}
    nbformat.write(node, NOTEBOOK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
