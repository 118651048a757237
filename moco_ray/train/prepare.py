"""What a run and its dry run have in common: everything is looked at and checked before anything starts."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from moco_ray.config import Config, experiment_differences, from_json
from moco_ray.core.encoders import Encoder, build_encoder
from moco_ray.core.global_batch_norm import check_batch_norms, has_global_batch_norm, use_global_batch_norm
from moco_ray.core.group_batch_norm import use_group_batch_norm
from moco_ray.data.blocks import Source, StreamSpec
from moco_ray.data.manifest import Manifest
from moco_ray.data.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.evaluate.encoder_file import load_initial_weights
from moco_ray.evaluate.monitor import EvalSet, choose_eval_set
from moco_ray.evaluate.words import describe_eval_set
from moco_ray.train.found import CONFIG, EVAL_MANIFEST, MANIFEST, list_eval_images
from moco_ray.train.job import Job
from moco_ray.train.plan import decide, last_step, list_images, make_source, row_options, warn

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that was checked: all that is known of it before anything starts."""

    config: Config
    """With every automatic value decided."""
    is_old: bool
    """Whether its folder holds it already."""
    manifest: Manifest
    """The images."""
    source: Source
    """Those to train on, in their order."""
    eval_manifest: Manifest | None
    """The images of eval.uri."""
    eval_set: EvalSet
    """The images to evaluate on."""
    encoder: Encoder
    """The query encoder as it begins."""
    initial_weights: bytes | None
    """Its weights, if some were named."""

    def job(self, run_uri: str, run_options: StorageOptions, *, uses_gpu: bool, lease_owner: str) -> Job:
        """What its workers are told."""
        return Job(
            config=self.config,
            spec=stream_spec(self.config),
            num_rows=len(self.source.train_rows),
            held_out_rows=np.setdiff1d(np.arange(len(self.manifest)), self.source.train_rows),
            manifest_digest=self.manifest.digest,
            last_step=last_step(self.config, len(self.source.train_rows)),
            run_uri=run_uri,
            run_options=run_options,
            initial_weights=self.initial_weights,
            eval_set=self.eval_set,
            uses_gpu=uses_gpu,
            lease_owner=lease_owner,
        )


def prepare(config: Config, folder: str, run: Storage, say: Say) -> Prepared:
    """Look at the images and check all that needs no workers; writes nothing.

    Args:
        config: With a name.
        folder: The run's folder, for messages.
        run: The same; it need not exist.
        say: Prints a line for the user.

    Raises:
        ValueError: Something that the user must mend.
    """
    old = _stored_config(run)
    if old is not None:
        say("this run exists: going on with it")
    data_options = resolve_storage_options(config.data.uri, config.data.storage_options)
    manifest = Manifest.read(run, run.join(MANIFEST)) if old else list_images(config, data_options, say)
    data_options = row_options(manifest, config)
    source = make_source(config, manifest, data_options)
    encoder = _check_model(config)
    config = decide(config, len(source.train_rows))
    if old is not None and (differences := experiment_differences(old, config)):
        raise ValueError(
            f"run {config.run.name} in {folder} is another experiment: {'; '.join(differences)}. Use the old values to "
            "resume it, or another --run.name"
        )
    eval_manifest = _eval_manifest(config, run, old is not None, say)
    warn(config, len(source.train_rows), say)
    initial_weights = _initial_weights(config, encoder, say)
    eval_options = row_options(eval_manifest, config) if eval_manifest else data_options
    eval_set = choose_eval_set(
        manifest, eval_manifest, config.eval, config.run.seed, data_options, eval_options, config.data.max_pixels
    )
    for line in describe_eval_set(eval_set, config.eval, manifest, source.train_rows):
        say(line)
    return Prepared(
        config=config,
        is_old=old is not None,
        manifest=manifest,
        source=source,
        eval_manifest=eval_manifest,
        eval_set=eval_set,
        encoder=encoder,
        initial_weights=initial_weights,
    )


def with_name(config: Config) -> Config:
    """The configuration with a name for its run.

    Raises:
        ValueError: There are no images, or the name is none of a folder.
    """
    if not config.data.uri:
        raise ValueError("data.uri is missing; name a folder of images, a manifest or Parquet files: --data.uri URI")
    name = config.run.name or f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    if "/" in name or name in (".", ".."):
        raise ValueError(f"run.name {name!r} must be the name of a folder, without slashes")
    return replace(config, run=replace(config.run, name=name))


def folder_of(config: Config, options: StorageOptions) -> str:
    """The folder of a run that has a name, as a URI or an absolute path."""
    if "://" in config.run.storage_path:
        return f"{config.run.storage_path.rstrip('/')}/{config.run.name}"
    return Storage.open(config.run.storage_path, options).join(str(config.run.name))


def _stored_config(run: Storage) -> Config | None:
    path = run.join(CONFIG)
    return from_json(run.read_bytes(path).decode()) if run.exists(path) else None


def _eval_manifest(config: Config, run: Storage, is_old: bool, say: Say) -> Manifest | None:
    if not config.eval.uri:
        return None
    if is_old:
        return Manifest.read(run, run.join(EVAL_MANIFEST))
    return list_eval_images(config, say)


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


def _check_model(config: Config) -> Encoder:
    """Build the encoder once on the driver, so that what does not fit is an error before anything starts.

    Raises:
        ValueError: There is no such network, or the method cannot train it.
    """
    torch.manual_seed(config.run.seed)
    encoder = build_encoder(config.model, config.views.crop_px)
    probe = copy.deepcopy(encoder)
    if config.method.batch_norm == "group":
        use_group_batch_norm(probe, config.optim.group_size)
    else:
        use_global_batch_norm(probe)
    check_batch_norms(probe, f"model.arch {config.model.arch}")
    if config.run.micro_batch_groups is not None and has_global_batch_norm(probe.backbone):
        raise ValueError(
            f"run.micro-batch-groups {config.run.micro_batch_groups}: {config.method.name} normalises over the global "
            f"batch, and {config.model.arch} has BatchNorm in its backbone, so no part of a batch can be computed alone; "
            "drop the flag and use more workers, or a ViT, which needs BatchNorm in its heads only"
        )
    return encoder


def _initial_weights(config: Config, encoder: Encoder, say: Say) -> bytes | None:
    """The weights to start from as a state dict of the encoder, if some were named."""
    if config.model.init is None:
        return None
    say(load_initial_weights(encoder, config.model.init))
    buffer = io.BytesIO()
    torch.save(encoder.state_dict(), buffer)
    return buffer.getvalue()
