"""Write what a run has learned so far: encoder, metrics, report, classifier, detector."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import tyro
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from moco_ray.config import Config, from_json
from moco_ray.config.programs import spoken
from moco_ray.driver.images.listing import row_options, run_eval_set
from moco_ray.driver.report import note_images
from moco_ray.report.bad_images import write_bad_images
from moco_ray.report.run_page import write_report
from moco_ray.report.run_report import illustrate
from moco_ray.report.story import FACTS
from moco_ray.run_folder.begin import CONFIG, is_run, stored_images
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.checkpoint_files import checkpoint_name
from moco_ray.run_folder.metrics import join_parts
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.tasks.pretraining import PRETRAINING
from moco_ray.weights import classifier_file, detector_file
from moco_ray.weights.encoder_file import NAME, encoder_info, load_encoder, read_encoder
from moco_ray.worker.console import said_by

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write encoder.safetensors, metrics.jsonl and the report of a run that was stopped or goes on, into its folder."""

    run: tyro.conf.Positional[str]
    """The run's folder, local or an fsspec URL."""
    checkpoint: int | None = None
    """Steps of the checkpoint to take, into a file of its own (--output). None: the newest that is whole."""
    output: str | None = None
    """Write the encoder to this file, and nothing else."""
    storage_options: str | None = None
    """Access to the run's folder: a JSON object of fsspec options or a file with one. None: the AWS environment."""
    data_storage_options: str | None = None
    """Access to its images, likewise, for the pictures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and export; returns the exit code, which is that of jobs/pretrain.py."""
    given = tyro.cli(Arguments, args=arguments, prog=spoken("export"))
    try:
        export_run(
            given.run,
            checkpoint=given.checkpoint,
            output=given.output,
            storage_options=given.storage_options,
            data_storage_options=given.data_storage_options,
        )
    except (ValueError, OSError) as error:
        Console(stderr=True).print(Panel(Text(str(error)), title="moco_ray", border_style="red"))
        return 2 if isinstance(error, ValueError) else 1
    return 0


def export_run(
    run: str | os.PathLike[str],
    *,
    checkpoint: int | None = None,
    output: str | os.PathLike[str] | None = None,
    storage_options: str | None = None,
    data_storage_options: str | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Write what a finished run leaves, from the newest checkpoint of one that was stopped or goes on.

    Args:
        run: The run's folder.
        checkpoint: Steps of another checkpoint, for `output`.
        output: File of the encoder, which is then all that is written. None: encoder.safetensors, metrics.jsonl and
            report/ of the run's folder; of one that learns from labels classifier.safetensors and the report without
            pictures, of one of detection detector.safetensors, metrics.jsonl and such a report.
        storage_options: Access to the run's folder.
        data_storage_options: Access to its images, for the pictures.
        say: Prints a line for the user.

    Returns:
        The encoder's file, or the detector's.

    Raises:
        ValueError: There is no such run or checkpoint, or it cannot be written.
    """
    with said_by(say):
        uri = os.fspath(run).rstrip("/")
        storage = Storage.open(uri, resolve_storage_options(uri, storage_options))
        if not is_run(storage):
            raise ValueError(f"{uri} is no folder of a run: there is no {CONFIG} in it")
        if checkpoint is not None and output is None:
            raise ValueError(f"--checkpoint {checkpoint} goes to a file of its own; name it with --output")
        config = from_json(storage.read_bytes(storage.join(CONFIG)).decode(), storage.uri(storage.join(CONFIG)))
        if config.task == "detection":
            if output is not None:
                raise ValueError(f"--output {output} is for an encoder, and {uri} trains a detector; drop the flag")
            _write_metrics(storage)
            learned = _write_learned(storage, config)
            _report(storage, config, data_storage_options)
            return learned
        source = uri if checkpoint is None else f"{uri}/{checkpoint_name(checkpoint)}"
        content = read_encoder(source, storage_options)
        target = os.fspath(output) if output is not None else f"{uri}/{NAME}"
        place = Storage.open(target, resolve_storage_options(target, storage_options))
        place.write_bytes(place.root, content)
        log.info(f"encoder of step {encoder_info(target, storage_options)['step']:,}: {target}")
        if output is None:
            _write_metrics(storage)
            if config.task == "pretraining":
                _draw(storage, config, target, storage_options, data_storage_options)
            else:
                _write_learned(storage, config)
            _report(storage, config, data_storage_options)
        return target


def _report(run: Storage, config: Config, data_storage_options: str | None) -> None:
    """Write report/index.html, with what can be known of the images."""
    config = replace(config, data=replace(config.data, storage_options=data_storage_options))
    try:
        images = stored_images(run)
        options = row_options(images.train, config)
        if not run.exists(run.join(*FACTS.split("/"))):
            note_images(run, images, "", [run.options, options])
        write_bad_images(run, images.train, options)
    except Exception as error:  # the images may be elsewhere by now
        log.warning(f"the images could not be looked at ({type(error).__name__}: {error})")
    if (place := write_report(run)) is not None:
        log.info(f"report: {place}")


def _write_metrics(run: Storage) -> None:
    path = run.join("metrics.jsonl")
    try:
        run.write_bytes(path, join_parts(run))
        log.info(f"metrics: {run.uri(path)}")
    except RuntimeError as error:  # a run that goes on replaces parts
        log.warning(f"metrics.jsonl could not be written ({error})")


def _write_learned(run: Storage, config: Config) -> str:
    """Write the classifier or the detector of the newest checkpoint; returns its file.

    Raises:
        ValueError: There is no checkpoint.
    """
    store, train = CheckpointStore(storage=run), stored_images(run).train
    step = store.newest()
    if step is None:
        raise ValueError(f"{run.uri(run.root)} is a run that has not saved a checkpoint yet; wait for its first one")
    state = store.read(step)
    if config.task == "detection":
        name, content = detector_file.NAME, detector_file.detector_bytes(state, config, train.classes)
    else:
        network, name = classifier_file.state_network(state, config), classifier_file.NAME
        content = classifier_file.classifier_bytes(network, config, train.target_names or train.classes)
    path = run.join(name)
    run.write_bytes(path, content)
    log.info(f"{name.partition('.')[0]} of step {step:,}: {run.uri(path)}")
    return run.uri(path)


def _draw(
    run: Storage, config: Config, encoder: str, storage_options: str | None, data_storage_options: str | None
) -> None:
    config = replace(config, data=replace(config.data, storage_options=data_storage_options))
    try:
        eval_set = run_eval_set(PRETRAINING, config, stored_images(run))
        pictures = illustrate(config, run, load_encoder(encoder, storage_options), eval_set)
        log.info(f"pictures: {', '.join(run.uri(path) for path in pictures)}")
    except Exception as error:  # the images may be elsewhere by now; the encoder is there
        log.warning(f"the pictures could not be drawn ({type(error).__name__}: {error})")
