"""What is logged is said once, by the innermost, in the words it always had."""

from __future__ import annotations

import logging
import threading

import pytest

from moco_ray.worker.console import said_by, say_for_good, silence

log = logging.getLogger("moco_ray.a.module")


def test_lines_are_said_as_they_are_and_warnings_as_such() -> None:
    lines: list[str] = []
    with said_by(lines.append):
        log.debug("step 1")
        log.info("50 % of %s, {x}")
        log.warning("100%")
        log.info("")
    assert lines == ["50 % of %s, {x}", "warning: 100%", ""]


def test_the_innermost_says_a_line_and_afterwards_the_one_around_it() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with said_by(outer.append):
        with said_by(inner.append):
            log.info("a")
        with pytest.raises(KeyError), said_by(inner.append):
            raise KeyError
        log.info("b")
    assert (inner, outer) == (["a"], ["b"])


def test_afterwards_the_logger_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("moco_ray")
    before = logger.handlers, logger.level, logger.propagate
    with said_by(lambda line: None):
        log.warning("said by nobody")
    assert (logger.handlers, logger.level, logger.propagate) == before
    assert capfd.readouterr() == ("", "")


def test_threads_are_heard_and_silence_is_of_one_thread(said: list[str]) -> None:
    thread = threading.Thread(target=log.info, args=("another",))
    with silence():
        log.warning("own")
        thread.start()
        thread.join()
    log.info("own again")
    assert said == ["another", "own again"]


def test_what_saying_raises_reaches_whoever_logs() -> None:
    def say(line: str) -> None:
        raise BrokenPipeError(line)

    with said_by(say), pytest.raises(BrokenPipeError, match="a line"):
        log.info("a line")


def test_a_worker_that_says_nothing_logs_all_to_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("moco_ray")
    for name in ("handlers", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    level, lines, records = logger.level, list[str](), list[str]()
    file = logging.Handler()
    monkeypatch.setattr(file, "emit", lambda record: records.append(record.getMessage()))
    for says in (lines.append, None):
        say_for_good(says, [file])
        log.debug("step 1")
        log.info("a line")
    logger.setLevel(level)
    assert lines == ["a line"] and records == 2 * ["step 1", "a line"]
