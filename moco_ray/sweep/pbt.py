"""Population-based training: the worst of a population go on as changed copies of the best.

Source: Jaderberg et al. 2017, "Population based training of neural networks", arXiv:1711.09846, with truncation selection.
Differs: all members stop at the same steps and are compared there, and a member's copy is a run of its own that begins from
the donor's checkpoint. So what happens after a generation is a function of the seed and of what was measured, and a driver
that is started again comes to the same copies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from moco_ray.config import Config
from moco_ray.config.field_paths import is_whole
from moco_ray.run_folder.begin import branch_run, is_run
from moco_ray.sweep.progress import shorten
from moco_ray.sweep.records import Ledger, Record
from moco_ray.sweep.space import Space, Values, draw
from moco_ray.sweep.state import SweepState

log = logging.getLogger(__name__)
_FACTORS = (0.8, 1.25)
_FRESH = 0.25  # share of parameters that are drawn anew instead of changed
_CHANGE = 0x71  # keeps these draws apart from others of the same seed

RunAll = Callable[[Callable[[], dict[str, Any] | None]], None]


def check_population(space: Space, config: Config) -> None:
    """Refuse what cannot change in the middle of a run.

    Raises:
        ValueError: A field of the space decides about shapes, positions or the optimizer's own state.
    """
    for dimension in space:
        group = dimension.path.split(".")[0]
        may = dimension.path == "optim.lr" or group in ("method", "views")
        if not may or not dimension.is_range or is_whole(config, dimension.path):
            raise ValueError(
                f"--space {dimension.describe()}: --scheduler pbt changes parameters in the middle of a run, and a run's "
                "checkpoint does not fit other values of this one; search ranges of optim.lr, method.temperature, "
                "method.encoder_momentum or views, or use --scheduler asha"
            )


def generation_ends(last_step: int, generations: int) -> list[int]:
    """The steps after which members are compared; the last one is the run's end.

    Raises:
        ValueError: There are more generations than steps.
    """
    if last_step < generations:
        raise ValueError(f"--pbt-generations {generations} is more than the {last_step} steps of a run; use fewer")
    return [last_step * (number + 1) // generations for number in range(generations)]


def run_population(state: SweepState, ends: list[int], size: int, run_all: RunAll) -> None:
    """Train a population to its end.

    Args:
        state: The sweep.
        ends: Steps at which generations end.
        size: Members.
        run_all: Runs all trials that a function gives it, one after the other until None.
    """
    ledger = state.ledger
    for slot in range(size):
        name = _name(slot, 0)
        if name not in ledger.records:
            ledger.save(Record(name=name, index=slot, parameters=draw(state.space, state.config.run.seed, slot)))
    for generation, end in enumerate(ends):
        members = alive(ledger, generation)
        pending = [record for record in members if record.state != "failed" and value_at(record, end) is None]
        if pending:
            log.info(f"generation {generation + 1} of {len(ends)}: to step {end:,}")
            run_all(_in_turn(state, pending, ends, generation))
        if generation < len(ends) - 1:
            _replace_worst(state, members, generation, end)


def alive(ledger: Ledger, generation: int) -> list[Record]:
    """The members of a generation, by slot: of each the newest copy up to then."""
    newest: dict[int, Record] = {}
    for record in ledger.in_order():  # by generation
        if record.generation <= generation:
            newest[record.index] = record
    return [newest[slot] for slot in sorted(newest)]


def value_at(record: Record, step: int) -> float | None:
    """What a member reached after so many steps."""
    return next((point.value for point in record.points if point.step == step), None)


def select(values: list[float | None], quantile: float, rng: np.random.Generator) -> dict[int, int]:
    """Which members are replaced by copies of which: the worst by any of the best.

    Args:
        values: Of the members; None for one that failed, which is always replaced.
        quantile: Share of the members that is replaced, and share that is copied.
        rng: Chooses among the best.

    Returns:
        Slot of the replaced -> slot of the copied.
    """
    order = sorted(range(len(values)), key=lambda slot: (values[slot] is not None, values[slot] or 0.0, slot))
    count = max(1, int(quantile * len(values)))
    best = [slot for slot in order[-count:] if values[slot] is not None]
    failed = [slot for slot in order if values[slot] is None]
    worst = [slot for slot in dict.fromkeys([*failed, *order[:count]]) if slot not in best]
    return {slot: best[int(rng.integers(len(best)))] for slot in worst} if best else {}


def explore(space: Space, values: Values, rng: np.random.Generator) -> Values:
    """Change parameters a little; now and then draw one anew."""
    changed = {}
    for dimension in space:
        if rng.random() < _FRESH:
            changed[dimension.path] = dimension.at(float(rng.random()))
        else:
            changed[dimension.path] = dimension.nudged(values[dimension.path], _FACTORS[int(rng.integers(2))])
    return changed


def _replace_worst(state: SweepState, members: list[Record], generation: int, end: int) -> None:
    """Let copies of the best take the slots of the worst, and all others go on."""
    rng = np.random.default_rng([state.config.run.seed, generation, _CHANGE])
    copies = select([value_at(record, end) for record in members], state.sweep.pbt_quantile, rng)
    if not copies and all(record.state == "failed" for record in members):
        return
    for slot, record in enumerate(members):
        name = _name(slot, generation + 1)
        if slot not in copies:
            continue
        donor = members[copies[slot]]
        parameters = explore(state.space, donor.parameters, rng)
        if name in state.ledger.records:  # a driver before this one came so far
            continue
        copy = Record(name=name, index=slot, parameters=parameters, generation=generation + 1, parent=donor.name)
        _branch(state, donor, end, copy)
        if record.state != "failed":
            record.state, record.reason = "stopped", f"replaced by a copy of {donor.name} after step {end:,}"
            state.ledger.save(record)
            state.progress.tell(record)
        state.ledger.save(copy)
        log.info(f"{name} begins as a copy of {donor.name} after step {end:,} with {shorten(parameters)}")


def _branch(state: SweepState, donor: Record, step: int, copy: Record) -> None:
    """Begin the copy's run now: the donor deletes its old checkpoints as it goes on."""
    run = state.folder_of(copy)
    if not is_run(run):
        branch_run(state.folder_of(donor), step, run, state.trial_config(copy))


def _in_turn(
    state: SweepState, pending: list[Record], ends: list[int], generation: int
) -> Callable[[], dict[str, Any] | None]:
    waiting = list(pending)

    def next_trial() -> dict[str, Any] | None:
        if not waiting:
            return None
        record = waiting.pop(0)
        record.state = "running"
        begun_at = ends[record.generation - 1] if record.parent else -1
        return state.tune_config(record, max_steps=ends[generation], begun_at=begun_at)

    return next_trial


def _name(slot: int, generation: int) -> str:
    return f"member_{slot:02d}" + (f"_g{generation}" if generation else "")
