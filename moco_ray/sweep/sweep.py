"""A sweep from its driver's side: check everything, run the trials, say which was best and why."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from moco_ray.cluster.connection import only_our_lines
from moco_ray.config import Config, experiment_differences, from_json, to_json
from moco_ray.driver.images.current import current_images
from moco_ray.driver.images.listing import last_step, list_images, make_source, run_eval_set
from moco_ray.driver.naming import check_name
from moco_ray.driver.paths import check_paths
from moco_ray.run_folder.begin import stored_images, write_images
from moco_ray.run_folder.lease import hold_run
from moco_ray.run_folder.names import SWEEP
from moco_ray.storage.checks import check_writable
from moco_ray.storage.keys import sharing
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.sweep.capacity import Capacity, choose_capacity
from moco_ray.sweep.config import SweepConfig
from moco_ray.sweep.outlook import check_networks, say_time
from moco_ray.sweep.pbt import check_population, generation_ends, run_population
from moco_ray.sweep.progress import SweepProgress
from moco_ray.sweep.records import Ledger
from moco_ray.sweep.report import SweepResult, conclude
from moco_ray.sweep.search import num_trials, proposals
from moco_ray.sweep.space import Space, check_metric, choose_metric, objective_warning, parse_space
from moco_ray.sweep.state import SweepState
from moco_ray.sweep.tune import asha, run_trials
from moco_ray.tasks.known import task_of
from moco_ray.worker.console import said_by

log = logging.getLogger(__name__)
_FEWEST_MEASUREMENTS = 3  # in a run, for ASHA to have something to decide on


def sweep(
    settings: SweepConfig,
    config: Config,
    *,
    say: Callable[[str], None] = print,
    command: Sequence[str] = (),
    console: Console | None = None,
    is_dry: bool = False,
) -> SweepResult | None:
    """Run a sweep, or go on with the one of that name.

    Args:
        settings: What is searched, and how.
        config: What all trials have in common.
        say: Prints a line for the user.
        command: Arguments of jobs/pretrain.py that make this configuration, for the command of the best trial.
        console: Shows a live table, if it is a terminal.
        is_dry: Only say what the sweep would be.

    Raises:
        ValueError: Something that the user must mend; nothing was lost.
        RunFailed: No trial has a result.
    """
    with said_by(say):
        space = _checked_space(settings, config)
        config = _with_name(settings, config, space)
        check_paths(config)
        options = resolve_storage_options(config.run.storage_path, config.run.storage_options)
        name = str(config.run.name)
        storage = Storage.open(config.run.storage_path, options).child(name)
        log.info(f"sweep {name}; the same command, or --run.name {name}, goes on with it")
        check_writable(storage)
        log.info(f"results go to {storage.uri(storage.root)}")
        with hold_run(storage, lambda: None):
            state = _prepare(settings, config, space, storage, is_dry=is_dry)
            ends = generation_ends(state.last_step, settings.pbt_generations) if settings.scheduler == "pbt" else []
            _say_search(state)
            capacity = None if state.has_ended else choose_capacity(settings, config, state.num_trials)
            if is_dry:
                if capacity is not None:
                    say_time(state, capacity.at_once)
                return None
            if capacity is None:
                log.info("this sweep is over: all of its trials have ended")
            else:
                _run(replace(state, config=capacity.config), capacity, ends, console)
            return conclude(state, command)


def _checked_space(settings: SweepConfig, config: Config) -> Space:
    """What is searched, where nothing speaks against it that can be known before the images are listed.

    Raises:
        ValueError: Something does.
    """
    check_metric(settings.metric, config.task)
    if not config.data.uri:
        raise ValueError("data.uri is missing; name a folder of images, a manifest or Parquet files: --data.uri URI")
    if config.data.relist:
        raise ValueError(
            "--data.relist: the trials of a sweep are compared on the same images; leave the flag out, or begin another sweep "
            "with another --run.name"
        )
    if config.run.track:
        raise ValueError(
            "--run.track follows a run of its own, not the trials of a sweep, which its report compares; leave it out"
        )
    space = parse_space(settings.space, config)
    if settings.scheduler == "pbt":
        check_population(space, config)
    num_trials(space, settings.num_samples)
    return space


def _run(state: SweepState, capacity: Capacity, ends: list[int], console: Console | None) -> None:
    """Run all trials that have not ended yet."""
    settings, ledger, access = state.sweep, state.ledger, state.access()
    scheduler = None
    if settings.scheduler == "asha":
        grace = max(1, int(settings.asha_grace * state.images))
        scheduler = asha(ledger, grace_images=grace, max_images=state.images, reduction=settings.asha_reduction)

    def run_all(next_trial: Callable[[], dict[str, Any] | None]) -> None:
        run_trials(
            next_trial,
            at_once=capacity.at_once,
            process=capacity.process,
            access=access,
            scheduler=scheduler,
            ledger=ledger,
            tell=state.progress.tell,
        )

    if ledger.records and settings.scheduler == "pbt":
        log.info("this sweep exists: its population goes on from where it was")
    elif ledger.records:
        ended = sum(record.has_ended for record in ledger.in_order())
        log.info(
            f"this sweep exists; trials that have ended and stay: {ended}; that go on from their checkpoints: "
            f"{len(ledger.records) - ended}"
        )
    state.progress.begin(ledger.in_order())
    with (
        sharing((access.options.key_ring(), access.image_options.key_ring())),
        only_our_lines(for_good="RAY_ADDRESS" not in os.environ),
        state.progress.shown(console),
    ):
        if settings.scheduler == "pbt":
            run_population(state, ends, state.num_trials, run_all)
        elif not state.has_ended:
            run_all(proposals(state, state.num_trials))


def _with_name(settings: SweepConfig, config: Config, space: Space) -> Config:
    """The configuration with a name for the sweep: the same command finds its sweep again."""
    if config.run.name is None:
        described = json.dumps(_definition(settings, config, space, settings.metric), sort_keys=True)
        digest = hashlib.sha256(described.encode()).hexdigest()[:8]
        config = replace(config, run=replace(config.run, name=f"sweep-{config.preset}-{digest}"))
    check_name(str(config.run.name))
    return config


def _definition(settings: SweepConfig, config: Config, space: Space, metric: str) -> dict[str, object]:
    """What makes a sweep the one that it is; how many trials it has and where they run may change."""
    own = ["search", "scheduler"]
    own += {"asha": ["asha_grace", "asha_reduction"], "pbt": ["pbt_generations", "pbt_quantile", "num_samples"]}.get(
        settings.scheduler, []
    )
    values = asdict(settings)
    return {
        "metric": metric,
        "space": [dimension.describe() for dimension in space],
        **{name: values[name] for name in own},
        "config": to_json(replace(config, run=replace(Config().run, seed=config.run.seed, dtype=config.run.dtype))),
    }


def _prepare(settings: SweepConfig, config: Config, space: Space, storage: Storage, *, is_dry: bool) -> SweepState:
    """List the images once for all trials, and choose the metric; a sweep that exists must be the same."""
    path = storage.join(SWEEP)
    old = json.loads(storage.read_bytes(path)) if storage.exists(path) else None
    stored = None
    if old is not None:
        stored = stored_images(storage)
        images, _ = current_images(stored, from_json(str(old["config"])), config)
    else:
        images = list_images(config)
    eval_set = run_eval_set(task_of(config), config, images)
    log.info(eval_set.words)
    metric = choose_metric(settings.metric, config, has_labels=eval_set.has_labels)
    definition = _definition(settings, config, space, metric)
    if old is not None:
        _check_same(old, definition, storage)
    if images is not stored and not is_dry:
        write_images(storage, images)
        storage.write_bytes(path, json.dumps(definition, indent=1).encode())
    train_rows = make_source(config, images.train).train_rows
    resolved = task_of(config).resolve(config, len(train_rows))
    check_networks(space, config, len(train_rows))
    total = num_trials(space, settings.num_samples)
    max_images = last_step(resolved, len(train_rows)) * resolved.optim.global_batch_size
    return SweepState(
        sweep=settings,
        config=config,
        resolved=resolved,
        space=space,
        num_trials=total,
        metric=metric,
        storage=storage,
        manifest=images.train,
        train_rows=train_rows,
        eval_set=eval_set,
        ledger=Ledger(storage),
        progress=SweepProgress(space, metric, max_images, num_trials=total),
    )


def _check_same(old: dict[str, object], new: dict[str, object], storage: Storage) -> None:
    differences = experiment_differences(from_json(str(old["config"])), from_json(str(new["config"])))
    for name in sorted((old.keys() | new.keys()) - {"config"}):
        if old.get(name) != new.get(name):
            differences.append(f"{name.replace('_', '-')} was {old.get(name)}, now {new.get(name)}")
    if differences:
        raise ValueError(
            f"the sweep in {storage.uri(storage.root)} is another one: {'; '.join(differences)}. Use the old values to go "
            "on with it, or another --run.name"
        )


def _say_search(state: SweepState) -> None:
    settings, total, every = state.sweep, state.num_trials, state.resolved.eval.every_steps
    how = {"random": "chosen at random", "tpe": "chosen by TPE"}[settings.search]
    if settings.scheduler == "pbt":
        how = "drawn at random at first; later the worst trials take over those of the best, and change them"
    log.info(
        f"{total} trial{'s' if total > 1 else ''} of up to {state.images:,} images each; {state.metric} is maximised; "
        f"parameters are {how}:"
    )
    for dimension in state.space:
        log.info(f"    {dimension.describe()}")
    if warning := objective_warning(state.metric, state.space):
        log.warning(warning)
    if settings.scheduler == "asha" and state.last_step < _FEWEST_MEASUREMENTS * (every or 1):
        log.warning(
            f"trials of {state.last_step:,} steps are measured every {every:,} steps, which is too seldom to stop "
            "bad ones early; use a smaller eval.every-steps"
        )
