"""Exactly one line a step: parts tile the run, and provisional ones go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moco_ray.run_folder.metrics import Line, StepLines, delete_provisional_parts, join_parts, stored_lines
from moco_ray.storage.storage import Storage, StorageOptions


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path), StorageOptions({}))


def _write(storage: Storage, first: int, last: int) -> None:
    lines = StepLines()
    for step in range(first, last + 1):
        lines.add({"step": step, "train/loss": 1 / (step + 3)})
    for path, content in lines.take_part().items():
        storage.write_bytes(storage.join(*path.split("/")), content)
    assert lines.take_part() == {}


def _joined(storage: Storage) -> list[Line]:
    return [json.loads(line) for line in join_parts(storage).splitlines()]


def test_parts_join_to_one_line_a_step_in_full_precision(storage: Storage) -> None:
    _write(storage, 0, 9)
    _write(storage, 10, 10)
    _write(storage, 11, 30)
    lines = _joined(storage)
    assert [line["step"] for line in lines] == list(range(31))
    assert all(line["train/loss"] == 1 / (line["step"] + 3) for line in lines)


def test_parts_after_the_checkpoint_are_deleted(storage: Storage) -> None:
    _write(storage, 0, 9)
    _write(storage, 10, 19)
    _write(storage, 20, 29)
    delete_provisional_parts(storage, 10)
    assert [line["step"] for line in _joined(storage)] == list(range(10))
    delete_provisional_parts(storage, 0)
    assert join_parts(storage) == b""


def test_a_gap_is_said_with_its_steps_and_an_overlap_is_an_error(storage: Storage, said: list[str]) -> None:
    _write(storage, 0, 9)
    _write(storage, 12, 19)
    lines = _joined(storage)
    assert [line["step"] for line in lines] == [*range(10), *range(12, 20)]
    assert len(said) == 1 and "steps 10 to 11 are missing" in said[0]
    _write(storage, 15, 30)
    with pytest.raises(RuntimeError, match="000000015-000000030"):
        join_parts(storage)


@pytest.mark.parametrize(
    ("content", "line"), [("{broken", 1), ('{"row": 1}\n3\n', 2), ('{"row": 1}\n\n{"row": 2}\n', 2)]
)
def test_a_damaged_file_is_named_with_its_line(content: str, line: int, storage: Storage) -> None:
    assert stored_lines(storage, "bad_images.jsonl") == []
    storage.write_bytes(storage.join("bad_images.jsonl"), content.encode())
    with pytest.raises(ValueError, match=rf"bad_images.jsonl: line {line} is damaged .*put the file back"):
        stored_lines(storage, "bad_images.jsonl")
