"""What a run and its dry run have in common: everything is looked at and checked before anything starts."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from moco_ray.config import Config, experiment_differences, from_json
from moco_ray.data.blocks import Source, StreamSpec
from moco_ray.data.manifest import Images
from moco_ray.driver.images.kept import RunImages, check_method, images_of_run, mended_rows
from moco_ray.driver.images.listing import (
    decide,
    last_step,
    list_images,
    make_source,
    row_options,
    run_eval_set,
    warn,
    warn_of_mixing,
)
from moco_ray.driver.naming import check_name, check_preset
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.evaluate.words import describe_eval_set
from moco_ray.run_folder.begin import CONFIG
from moco_ray.run_folder.checkpoint_files import checkpoint_steps
from moco_ray.run_folder.interruptions import INTERRUPTIONS
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.checks import check_access
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.tasks.job import Job
from moco_ray.tasks.network import check_network, initial_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that was checked: all that is known of it before anything starts."""

    config: Config
    """With every automatic value decided."""
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
    weights: bytes | None
    """Those to start from, if some were named."""

    def job(self, run: Storage, run_uri: str, run_options: StorageOptions, *, uses_gpu: bool, lease_owner: str) -> Job:
        """What its workers are told."""
        manifest, kept = self.images.train, self.kept
        return Job(
            config=self.config,
            spec=stream_spec(self.config),
            num_rows=len(self.source.train_rows),
            held_out_rows=manifest.other_rows(self.source.train_rows),
            manifest_digest=manifest.digest,
            former_digests=manifest.former_digests,
            listed_at_step=kept.listed_at_step if kept else 0,
            mended_rows=mended_rows(run, manifest, self.config, self.source.options) if kept else frozenset(),
            last_step=last_step(self.config, len(self.source.train_rows)),
            run_uri=run_uri,
            run_options=run_options,
            initial_weights=self.weights,
            eval_set=self.eval_set,
            uses_gpu=uses_gpu,
            lease_owner=lease_owner,
        )


def prepare(config: Config, folder: str, run: Storage) -> Prepared:
    """Look at the images and check all that needs no workers; writes nothing.

    Args:
        config: With a name.
        folder: The run's folder, for messages.
        run: The same; it need not exist.

    Raises:
        ValueError: Something that the user must mend.
    """
    old = _stored_config(run)
    if old is None:
        _check_empty(run, folder)
    else:
        log.info("this run exists: going on with it")
        stored_lines(run, INTERRUPTIONS)  # damaged, it would only stop the workers
        if not config.data.relist:  # soon, as what follows would speak of the new values
            _check_experiment(old, config, folder, passes_automatic=True)
        if config.run.dtype == "auto":
            config = replace(config, run=replace(config.run, dtype=old.run.dtype))
    weights = _weights(config, run)
    data_options = resolve_storage_options(config.data.uri, config.data.storage_options)
    kept = images_of_run(run, old, config) if old is not None else None
    images = kept.images if kept else list_images(config, data_options)
    access = row_options(images.train, config)
    for manifest in (images.train, images.test):
        if manifest is not None:  # a list may name another server than its own
            check_access(manifest.first_uri, row_options(manifest, config))
    source = make_source(config, images.train, access)
    config = decide(config, kept.decided_rows if kept else len(source.train_rows))
    if old is not None and not (kept and kept.begins_anew):
        _check_experiment(old, config, folder)
    if kept is not None:
        check_method(kept, config)
    warn(config, len(source.train_rows))
    if old is None:
        warn_of_mixing(source, config.optim.global_batch_size)
    eval_set = run_eval_set(config, images)
    for line in describe_eval_set(eval_set, config.eval, images.train, source.train_rows):
        log.info(line)
    return Prepared(config=config, old=old, kept=kept, images=images, source=source, eval_set=eval_set, weights=weights)


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


def folder_of(config: Config, options: StorageOptions) -> str:
    """The folder of a run that has a name, as a URI or an absolute path."""
    root = Storage.open(config.run.storage_path, options)
    return root.uri(root.join(str(config.run.name)))


def stream_spec(config: Config) -> StreamSpec:
    """The stream of a run."""
    return StreamSpec(
        seed=config.run.seed,
        global_batch_size=config.optim.global_batch_size,
        num_groups=config.optim.bn_groups,
        shuffle_bn=config.method.shuffles_keys,
        views=config.views,
        max_pixels=config.data.max_pixels,
    )


def _check_empty(run: Storage, folder: str) -> None:
    """Make sure that a run that begins overwrites none of which only the configuration was lost.

    Raises:
        ValueError: There are checkpoints.
    """
    if steps := _checkpoints(run):
        raise ValueError(
            f"{folder} holds checkpoints, up to step {steps[-1]:,}, and no {CONFIG}: put back what a copy has left out, or "
            "begin another run with another --run.name"
        )


def _checkpoints(run: Storage) -> list[int]:
    """Steps of what a folder, which need not exist, holds."""
    return checkpoint_steps(run) if run.exists(run.root) else []


def _check_experiment(old: Config, new: Config, folder: str, *, passes_automatic: bool = False) -> None:
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
        f"run {new.run.name} in {folder} is another experiment: {'; '.join(differences)}. Use the old values to resume it, or "
        "another --run.name"
    )


def _weights(config: Config, run: Storage) -> bytes | None:
    """The weights to start from. A run that has learned something since does not need them any more.

    Raises:
        ValueError: There is no such network, or the weights cannot be read or do not fit.
        OSError: Their storage does not answer.
    """
    encoder = check_network(config)
    try:
        return initial_weights(config, encoder)
    except (ValueError, OSError) as error:
        if not _checkpoints(run):
            raise
        log.info(f"model.init cannot be read any more ({error}); the run goes on from its checkpoint without it")
        return None


def _stored_config(run: Storage) -> Config | None:
    path = run.join(CONFIG)
    return from_json(run.read_bytes(path).decode(), run.uri(path)) if run.exists(path) else None
