"""Exactly one line a step: parts tile the run, and provisional ones go."""

from __future__ import annotations

from pathlib import Path

import pytest

from moco_ray.data.storage import Storage, StorageOptions
from moco_ray.train.metrics import StepLines, delete_provisional_parts, join_parts, read_lines


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


def test_parts_join_to_one_line_a_step_in_full_precision(storage: Storage) -> None:
    _write(storage, 0, 9)
    _write(storage, 10, 10)
    _write(storage, 11, 30)
    lines = read_lines(join_parts(storage))
    assert [line["step"] for line in lines] == list(range(31))
    assert all(line["train/loss"] == 1 / (line["step"] + 3) for line in lines)


def test_parts_after_the_checkpoint_are_deleted(storage: Storage) -> None:
    _write(storage, 0, 9)
    _write(storage, 10, 19)
    _write(storage, 20, 29)
    delete_provisional_parts(storage, 10)
    assert [line["step"] for line in read_lines(join_parts(storage))] == list(range(10))
    delete_provisional_parts(storage, 0)
    assert join_parts(storage) == b""


def test_a_gap_is_an_error_and_names_the_steps(storage: Storage) -> None:
    _write(storage, 0, 9)
    _write(storage, 12, 19)
    with pytest.raises(RuntimeError, match="steps 10 to 11 are missing"):
        join_parts(storage)
