"""Run trials under Ray Tune, and keep what they report."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from moco_ray.sweep.records import Ledger, Point, Record
from moco_ray.sweep.trial import Access, TrialRun

log = logging.getLogger(__name__)
_MAX_LOSSES = 20  # of the process or node of one trial
_SAY_WAITING_EVERY_S = 30.0
_VALUE, _POSITION = "value", "position"
_NOBODY: Any = None  # ASHA never looks at the controller

TuneConfig = dict[str, Any]


def run_trials(
    next_trial: Callable[[], TuneConfig | None],
    *,
    at_once: int,
    process: dict[str, float],
    access: Access,
    scheduler: TrialScheduler | None,
    ledger: Ledger,
    tell: Callable[[Record], None],
) -> None:
    """Run trials until there is no next one and all have ended.

    Args:
        next_trial: What `TrialRun` is to be given, with a running record in the ledger; None at the end.
        at_once: Trials at the same time.
        process: Ray resources of a trial's own process.
        access: What all trials share.
        scheduler: Stops trials; None for none.
        ledger: Is kept up to date.
        tell: Called with each record that has changed.
    """
    # Tune's own records would be a second, older truth: what a sweep resumes from is the ledger.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no value
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # prints a table of its own, however quiet it is asked to be
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it says is said by `_Keeper`
    bookkeeping = Path(tempfile.gettempdir()) / "moco_ray_bookkeeping" / f"{os.getpid()}-{uuid.uuid4().hex}"
    trainable = tune.with_resources(
        tune.with_parameters(TrialRun, access=access), tune.PlacementGroupFactory([process])
    )
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Proposals(next_trial),
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=at_once,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex,
            storage_path=str(bookkeeping),
            failure_config=tune.FailureConfig(max_failures=_MAX_LOSSES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs keep their own
            callbacks=[_Keeper(ledger, tell)],
            verbose=0,
        ),
    ).fit()


def asha(ledger: Ledger, *, grace_images: int, max_images: int, reduction: int) -> TrialScheduler:
    """A scheduler that stops trials which fall behind, and remembers those of the ledger.

    A trial of the ledger that it would stop, had it been asked before the driver ended, is marked as stopped.

    Args:
        ledger: Trials before.
        grace_images: Images that every trial sees.
        max_images: Images of a whole run.
        reduction: Of so many trials one goes on at each rung.
    """
    scheduler = _NamedAsha(
        time_attr=_POSITION,
        metric=_VALUE,
        mode="max",
        max_t=max(max_images, grace_images + 1),
        grace_period=grace_images,
        reduction_factor=reduction,
        stop_last_trials=False,
    )
    measurements = [(point, record) for record in ledger.in_order() for point in record.points]
    for record in ledger.in_order():
        scheduler.add(record.name)
    for point, record in sorted(measurements, key=lambda pair: pair[0].order):
        decision = scheduler.judge(record.name, {_POSITION: point.position, _VALUE: point.value})
        if decision == TrialScheduler.STOP and point is record.points[-1] and not record.has_ended:
            record.state = "stopped"
            ledger.save(record)
    return scheduler


class _NamedAsha(ASHAScheduler):
    """ASHA whose rungs know trials by the sweep's names, which outlive a driver; Tune's ids and state do not."""

    def add(self, name: str) -> None:
        super().on_trial_add(_NOBODY, _stand_in(name))

    def judge(self, name: str, result: dict[str, Any]) -> str:
        return str(super().on_trial_result(_NOBODY, _stand_in(name), result))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.add(_name(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.judge(_name(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _stand_in(_name(trial)), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _stand_in(_name(trial)))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Forget nothing: what it measured stays in the rungs."""


def _stand_in(name: str) -> Any:
    """All that ASHA looks at of a trial."""
    return SimpleNamespace(trial_id=name)


class _Proposals(Searcher):
    """Hands Tune one trial after the other; what was learned from trials is in the ledger, not here."""

    def __init__(self, next_trial: Callable[[], TuneConfig | None]) -> None:
        super().__init__(metric=_VALUE, mode="max")
        self._next_trial = next_trial

    def suggest(self, trial_id: str) -> TuneConfig | str:  # type: ignore[override]
        config = self._next_trial()
        return Searcher.FINISHED if config is None else config

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(b"")

    def restore(self, checkpoint_path: str) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that never comes


class _Keeper(tune.Callback):
    """Writes down what trials report."""

    def __init__(self, ledger: Ledger, tell: Callable[[Record], None]) -> None:
        self._ledger, self._tell = ledger, tell
        self._seconds_before: dict[str, float] = {}
        self._unsaved: set[str] = set()
        self._said_waiting_s = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._ledger.records[_name(trial)]
        self._seconds_before[record.name] = record.seconds
        if not record.points:
            self._tell(record)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        record = self._ledger.records[_name(trial)]
        record.seconds = round(self._seconds_before.get(record.name, 0.0) + float(result["seconds"]), 1)
        is_new = _VALUE in result and (not record.points or result["run_step"] > record.points[-1].step)
        if is_new:
            record.points.append(
                Point(
                    step=result["run_step"],
                    position=result[_POSITION],
                    value=result[_VALUE],
                    metrics=dict(result["metrics"]),
                    order=self._ledger.next_order(),
                )
            )
        if result.get("ended"):
            record.state, record.reason = result["ended"], result.get("reason", "")
        elif result.get("done"):
            record.state = "stopped"
        if is_new or record.has_ended:
            self._save(record)
            self._tell(record)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        log.info(f"{_name(trial)} has lost its process or its node: it goes on from its last checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._ledger.records[_name(trial)]
        if record.has_ended:
            return
        lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        record.state, record.reason = "failed", f"its process or node was lost too often: {lines[-1] if lines else ''}"
        self._save(record)
        self._tell(record)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        waiting = [_name(trial) for trial in trials if trial.status == Trial.PENDING]
        if not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self._said_waiting_s = time.monotonic()
        elif time.monotonic() - self._said_waiting_s > _SAY_WAITING_EVERY_S:
            self._said_waiting_s = time.monotonic()
            log.info(f"{', '.join(waiting)}: waiting for a node with room, which other work may hold")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._save_all()

    def _save(self, record: Record) -> None:
        self._unsaved.add(record.name)
        self._save_all()

    def _save_all(self) -> None:
        with suppress(OSError):  # storage that is away for a moment; the next event writes it again
            for name in sorted(self._unsaved):
                self._ledger.save(self._ledger.records[name])
                self._unsaved.discard(name)


def _name(trial: Any) -> str:
    return str(trial.config["trial"])
