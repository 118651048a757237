"""Checkpoints are whole or not there, and the right ones stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moco_ray.run_folder.checkpoint import FORMAT_VERSION, CheckpointStore, checkpoint_name
from moco_ray.storage.storage import Storage, StorageOptions


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(storage=Storage.open(str(tmp_path), StorageOptions({})), keep_last=2)


def _write(store: CheckpointStore, step: int) -> None:
    store.write(step, {"step": step, "method": {"w": torch.full((3,), float(step))}}, {}, {"position": step * 8})


def _folder(store: CheckpointStore, step: int) -> Path:
    return Path(store.storage.root) / checkpoint_name(step)


def test_what_is_written_is_read_with_weights_only(store: CheckpointStore, said: list[str]) -> None:
    _write(store, 7)
    assert store.newest() == 7 and not said
    torch.testing.assert_close(store.read(7)["method"]["w"], torch.full((3,), 7.0))
    assert store.marker(7)["position"] == 56


def test_other_files_are_there_before_the_marker(store: CheckpointStore, tmp_path: Path) -> None:
    store.write(1, {}, {"metrics/part.jsonl": b"lines"}, {})
    part, marker = tmp_path / "metrics" / "part.jsonl", _folder(store, 1) / "COMMITTED"
    assert part.read_bytes() == b"lines"
    assert part.stat().st_mtime_ns <= marker.stat().st_mtime_ns


@pytest.mark.parametrize("damage", ["no marker", "cut marker", "cut state", "flipped bit", "no state"])
def test_a_damaged_checkpoint_is_passed_over_with_a_word(damage: str, store: CheckpointStore, said: list[str]) -> None:
    _write(store, 1)
    _write(store, 2)
    state, marker = _folder(store, 2) / "state.pt", _folder(store, 2) / "COMMITTED"
    if damage == "no marker":
        marker.unlink()
    elif damage == "cut marker":
        marker.write_bytes(marker.read_bytes()[:20])
    elif damage == "cut state":
        state.write_bytes(state.read_bytes()[:-1])
    elif damage == "flipped bit":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(bytes(content))
    else:
        state.unlink()
    assert store.newest() == 1
    assert len(said) == 1 and "checkpoint_000000002" in said[0]


def test_a_newer_format_is_an_error_and_not_passed_over(store: CheckpointStore) -> None:
    _write(store, 1)
    marker = _folder(store, 1) / "COMMITTED"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(ValueError, match="install a newer moco_ray"):
        store.newest()


def test_pruning_keeps_the_last_the_named_and_every_nth(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path), StorageOptions({}))
    store = CheckpointStore(storage=storage, keep_last=2, keep_every_steps=4)
    for step in range(1, 10):
        _write(store, step)
    store.prune(keep={3})
    assert store.steps() == [3, 4, 8, 9]


def test_deleting_what_came_after_leaves_no_orphan(store: CheckpointStore) -> None:
    for step in (1, 2, 3):
        _write(store, step)
    store.delete_after(1)
    assert store.steps() == [1]
    assert sorted(path.name for path in Path(store.storage.root).iterdir()) == [checkpoint_name(1)]
