"""Writing beside training: failures are repeated, and said."""

from __future__ import annotations

import threading

import pytest

from moco_ray.worker.background import BackgroundWriter


def test_a_failed_write_is_said_and_tried_again(said: list[str]) -> None:
    attempts: list[int] = []

    def write() -> None:
        attempts.append(1)
        if len(attempts) < 2:
            raise OSError("the disk is full")

    writer = BackgroundWriter()
    writer.start("checkpoint_1", write)
    writer.finish(patience_s=30)
    assert len(attempts) == 2
    assert len(said) == 1 and "checkpoint_1" in said[0] and "the disk is full" in said[0]


def test_the_caller_does_not_wait() -> None:
    writer = BackgroundWriter()
    gate = threading.Event()

    def write() -> None:
        gate.wait(10)

    writer.start("x", write)
    assert writer.is_busy
    gate.set()
    writer.finish(patience_s=10)
    assert not writer.is_busy


def test_what_cannot_be_mended_by_waiting_is_raised_at_once() -> None:
    def write() -> None:
        raise ValueError("access is refused")

    writer = BackgroundWriter()
    writer.start("x", write)
    with pytest.raises(ValueError, match="access is refused"):
        writer.finish(patience_s=30)


def test_patience_ends() -> None:
    def write() -> None:
        raise OSError("no route to host")

    writer = BackgroundWriter()
    writer.start("x", write)
    with pytest.raises(OSError, match="no route"):
        writer.finish(patience_s=0.5)
