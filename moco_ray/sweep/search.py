"""Which parameters the next trial gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moco_ray.sweep.records import Ledger, Record
from moco_ray.sweep.space import Dimension, Space, Values, draw, grid_points
from moco_ray.sweep.state import SweepState

_STARTUP_TRIALS = 8  # drawn at random before TPE has seen enough


def num_trials(space: Space, num_samples: int | None) -> int:
    """Trials of a random search or TPE.

    Raises:
        ValueError: Samples of a mere grid would all be the same.
    """
    points = len(grid_points(space))
    if all(dimension.kind == "grid" for dimension in space):
        if num_samples not in (None, 1):
            raise ValueError(
                f"--num-samples {num_samples} would run each of the {points} points of the grid so often, with the same "
                "result; leave it out, or search a range or choices too"
            )
        return points
    return points * (num_samples or (16 if points == 1 else 1))


def trial_name(index: int) -> str:
    """Name of a trial and its run."""
    return f"trial_{index:04d}"


def proposals(state: SweepState, total: int) -> Callable[[], dict[str, Any] | None]:
    """A function that gives Tune the next trial: first those that were under way, then new ones; None at the end."""
    ledger = state.ledger
    waiting = [record for record in ledger.in_order() if not record.has_ended]
    fresh = (index for index in range(total) if trial_name(index) not in ledger.records)

    def next_trial() -> dict[str, Any] | None:
        if waiting:
            return state.tune_config(waiting.pop(0))
        for index in fresh:
            record = Record(name=trial_name(index), index=index, parameters=_choose(state, index))
            try:
                config = state.tune_config(record)
            except ValueError as error:  # values that are possible alone, but not together
                record.state, record.reason = "failed", str(error)
                ledger.save(record)
                state.progress.tell(record)
                continue
            ledger.save(record)
            return config
        return None

    return next_trial


def _choose(state: SweepState, index: int) -> Values:
    seed = state.config.run.seed
    if state.sweep.search == "random":
        return draw(state.space, seed, index)
    return suggest(state.space, seed, index, state.ledger)


def suggest(space: Space, seed: int, index: int, ledger: Ledger) -> Values:
    """What TPE proposes after the trials of a ledger.

    The study is built anew each time, from the records alone, so there is no state of it to lose.

    Source: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization", as Optuna implements it.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=_STARTUP_TRIALS, multivariate=True, constant_liar=True, seed=(seed * 1_000_003 + index) % 2**32
    )
    study = optuna.create_study(sampler=sampler, direction="maximize")
    axes = {dimension.path: _distribution(dimension) for dimension in space}
    worst = min((r.value for r in ledger.in_order() if r.value is not None), default=0.0)
    for record in ledger.in_order():
        shown: dict[str, Any] = {
            "params": {d.path: _position(d, record.parameters[d.path]) for d in space},
            "distributions": axes,
        }
        if record.state == "finished":
            shown |= {"state": optuna.trial.TrialState.COMPLETE, "value": record.value}
        elif record.state == "failed":  # as bad as the worst, so that it is not proposed again
            shown |= {"state": optuna.trial.TrialState.COMPLETE, "value": worst}
        else:
            is_running = record.state == "running"
            values = {point.position: point.value for point in record.points}
            state = optuna.trial.TrialState.RUNNING if is_running else optuna.trial.TrialState.PRUNED
            shown |= {"state": state, "intermediate_values": values}
        study.add_trial(optuna.trial.create_trial(**shown))
    asked = study.ask(fixed_distributions=axes).params
    return {dimension.path: _value(dimension, asked[dimension.path]) for dimension in space}


def _distribution(dimension: Dimension) -> Any:
    """TPE works on the axis on which a range is uniform; options are known to it by their numbers."""
    import optuna

    if dimension.is_range:
        low, high = dimension.scaled(dimension.low), dimension.scaled(dimension.high)
        return optuna.distributions.FloatDistribution(low, high)
    return optuna.distributions.CategoricalDistribution(tuple(range(len(dimension.options))))


def _position(dimension: Dimension, value: Any) -> Any:
    return dimension.scaled(value) if dimension.is_range else dimension.options.index(value)


def _value(dimension: Dimension, position: Any) -> Any:
    if not dimension.is_range:
        return dimension.options[position]
    low, high = dimension.scaled(dimension.low), dimension.scaled(dimension.high)
    return dimension.at((position - low) / (high - low))
