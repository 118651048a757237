"""The plan of a run: everything is looked at, checked and decided before anything starts."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from moco_ray.config import Config, experiment_differences, from_json
from moco_ray.config.patience import USUAL_PATIENCE, Patience
from moco_ray.data.blocks import Source, StreamSpec
from moco_ray.data.manifest import Images
from moco_ray.driver.images.kept import RunImages, check_same_images, images_of_run, mended_rows
from moco_ray.driver.images.listing import (
    last_step,
    list_images,
    make_source,
    row_options,
    run_eval_set,
    warn_of_mixing,
)
from moco_ray.driver.naming import check_name, check_preset
from moco_ray.driver.trackers import tracker_accesses
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.run_folder.begin import CONFIG
from moco_ray.run_folder.checkpoint_files import checkpoint_steps
from moco_ray.run_folder.interruptions import INTERRUPTIONS
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.checks import check_access
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.tasks.job import Job
from moco_ray.tasks.task import Task
from moco_ray.tasks.tracker import TrackerAccess

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that was checked: all that is known of it before anything starts."""

    task: Task
    """What it trains."""
    config: Config
    """With every automatic value decided."""
    run: Storage
    """Its folder."""
    old: Config | None
    """What its folder says, if the run exists already."""
    kept: RunImages | None
    """The images that a run that exists goes on with."""
    images: Images
    """The images."""
    source: Source
    """Those to train on, in their order."""
    eval_set: EvalSet
    """Those to evaluate on."""
    initial_weights: bytes | None
    """What the task has read to start from."""
    trackers: tuple[TrackerAccess, ...]
    """What follows the run besides TensorBoard."""
    patience: Patience
    """How long to wait for what may never come."""

    @property
    def folder(self) -> str:
        """The run's folder, as a URI or an absolute path."""
        return self.run.uri(self.run.root)

    @property
    def num_rows(self) -> int:
        """Images to train on."""
        return len(self.source.train_rows)

    @property
    def last_step(self) -> int:
        """Steps of the run."""
        return last_step(self.config, self.num_rows)

    @property
    def goes_on(self) -> bool:
        """Whether the run exists, with the images that it has."""
        return self.old is not None and not (self.kept and (self.kept.changes or self.kept.begins_anew))

    def job(self, *, uses_gpu: bool, lease_owner: str) -> Job:
        """What its workers are told."""
        manifest, kept = self.images.train, self.kept
        return Job(
            task=self.task,
            config=self.config,
            spec=stream_spec(self.task, self.config),
            num_rows=self.num_rows,
            manifest_digest=manifest.digest,
            former_digests=manifest.former_digests,
            listed_at_step=kept.listed_at_step if kept else 0,
            mended_rows=mended_rows(self.run, manifest, self.config, self.source.options) if kept else frozenset(),
            last_step=self.last_step,
            run_uri=self.folder,
            run_options=self.run.options,
            initial_weights=self.initial_weights,
            eval_set=self.eval_set,
            uses_gpu=uses_gpu,
            lease_owner=lease_owner,
            trackers=self.trackers,
            patience=self.patience,
        )


def make_plan(task: Task, config: Config, run: Storage, patience: Patience = USUAL_PATIENCE) -> Plan:
    """Look at the images and check all that needs no workers; writes nothing.

    Args:
        task: What to train.
        config: With a name.
        run: The run's folder; it need not exist.
        patience: Of the run.

    Raises:
        ValueError: Something that the user must mend.
    """
    trackers = tracker_accesses(config, run)
    old = _stored_config(run)
    if old is None:
        _check_empty(run)
    else:
        log.info("this run exists: going on with it")
        stored_lines(run, INTERRUPTIONS)  # damaged, it would only stop the workers
        if not config.data.relist:  # soon, as what follows would speak of the new values
            _check_experiment(old, config, run, passes_automatic=True)
        if config.run.dtype == "auto":
            config = replace(config, run=replace(config.run, dtype=old.run.dtype))
    task.check(config)
    weights = _initial_weights(task, config, run)
    kept = images_of_run(run, old, config) if old is not None else None
    images = kept.images if kept else list_images(config)
    for manifest in (images.train, images.test):
        if manifest is not None:  # a list may name another server than its own
            check_access(manifest.first_uri, row_options(manifest, config))
    source = make_source(config, images.train)
    num_rows = len(source.train_rows)
    config = task.resolve(config, kept.decided_rows if kept else num_rows)
    if old is not None and not (kept and kept.begins_anew):
        _check_experiment(old, config, run)
    if kept is not None and task.needs_same_images(config):
        check_same_images(kept, config)
    for text in [*task.warnings(config, num_rows), *warnings_of_schedule(config)]:
        log.warning(f"{text}")
    if old is None:
        warn_of_mixing(source, config.optim.global_batch_size)
    eval_set = run_eval_set(task, config, images)
    for line in task.describe_eval_set(config, eval_set, images):
        log.info(line)
    return Plan(
        task=task,
        config=config,
        run=run,
        old=old,
        kept=kept,
        images=images,
        source=source,
        eval_set=eval_set,
        initial_weights=weights,
        trackers=trackers,
        patience=patience,
    )


def with_name(config: Config) -> Config:
    """The configuration with a name for its run, which nobody has taken yet.

    Raises:
        ValueError: There are no images, or the name is none of a folder.
    """
    if not config.data.uri:
        raise ValueError("data.uri is missing; name a folder of images, a manifest or Parquet files: --data.uri URI")
    name = config.run.name
    if not name:
        check_preset(config.preset)
        name = f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    check_name(name)
    return replace(config, run=replace(config.run, name=name))


def open_run(config: Config) -> Storage:
    """The folder of a run that has a name; it need not exist."""
    path = config.run.storage_path
    return Storage.open(path, resolve_storage_options(path, config.run.storage_options)).child(str(config.run.name))


def stream_spec(task: Task, config: Config) -> StreamSpec:
    """The stream of a run."""
    return StreamSpec(
        seed=config.run.seed,
        global_batch_size=config.optim.global_batch_size,
        num_groups=config.optim.bn_groups,
        maker=task.maker(config),
        max_pixels=config.data.max_pixels,
    )


def _check_empty(run: Storage) -> None:
    """Make sure that a run that begins overwrites none of which only the configuration was lost.

    Raises:
        ValueError: There are checkpoints.
    """
    if steps := _checkpoints(run):
        raise ValueError(
            f"{run.uri(run.root)} holds checkpoints, up to step {steps[-1]:,}, and no {CONFIG}: put back what a copy has left "
            "out, or begin another run with another --run.name"
        )


def _checkpoints(run: Storage) -> list[int]:
    """Steps of what a folder, which need not exist, holds."""
    return checkpoint_steps(run) if run.exists(run.root) else []


def _check_experiment(old: Config, new: Config, run: Storage, *, passes_automatic: bool = False) -> None:
    """Make sure that a run goes on as it began.

    Raises:
        ValueError: It would not.
    """
    differences = experiment_differences(old, new, passes_automatic=passes_automatic)
    if not differences:
        return
    if old.preset != new.preset:
        differences.insert(0, f"the preset was {old.preset}, now {new.preset}")
    raise ValueError(
        f"run {new.run.name} in {run.uri(run.root)} is another experiment: {'; '.join(differences)}. Use the old values to "
        "resume it, or another --run.name"
    )


def _initial_weights(task: Task, config: Config, run: Storage) -> bytes | None:
    """The weights to start from. A run that has learned something since does not need them any more.

    Raises:
        ValueError: They cannot be read, or do not fit.
        OSError: Their storage does not answer.
    """
    try:
        return task.initial_weights(config)
    except (ValueError, OSError) as error:
        if not _checkpoints(run):
            raise
        log.info(f"model.init cannot be read any more ({error}); the run goes on from its checkpoint without it")
        return None


def warnings_of_schedule(config: Config) -> list[str]:
    """What a user should know of a learning rate that does not do what it seems to."""
    optim, warnings = config.optim, []
    if optim.warmup_epochs >= optim.epochs:
        warnings.append(
            f"optim.warmup-epochs {optim.warmup_epochs:g} of optim.epochs {optim.epochs:g}: the learning rate never "
            "leaves the warm-up; use a shorter one"
        )
    if optim.schedule == "milestones" and all(milestone >= optim.epochs for milestone in optim.milestones):
        warnings.append(
            f"optim.milestones {', '.join(map(str, optim.milestones))} lie beyond optim.epochs {optim.epochs:g}: the "
            "learning rate never falls; use earlier ones or --optim.schedule cosine"
        )
    return warnings


def _stored_config(run: Storage) -> Config | None:
    path = run.join(CONFIG)
    return from_json(run.read_bytes(path).decode(), run.uri(path)) if run.exists(path) else None
