"""What is measured of an encoder goes into the folder of the run that trained it, and onto its page."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from moco_ray.report.run_page import write_report
from moco_ray.run_folder.evaluations import run_of_encoder, write_evaluation
from moco_ray.run_folder.lease import is_held, read_lease
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.storage.uris import without_secrets
from moco_ray.weights.initial_weights import read_source
from moco_ray.weights.origin import origin_of_source

log = logging.getLogger(__name__)
_KINDS = {"linear-probe": "linear probe", "finetune": "fine-tuning", "detection": "detection"}
_MEASURES = ("top1", "top1_error", "top5", "mean_class_top1", "auroc", "AP", "AP50", "AP75", "num_test", "num_train")


def keep_evaluation(
    encoder: Storage, kind: str, name: str, data: str, measures: Mapping[str, Any], step: int | None = None
) -> None:
    """Keep what was measured with the encoder's run, if it is of one; whatever is in the way is a warning.

    Args:
        encoder: The encoder's file, or the folder of its run or checkpoint.
        kind: As "kNN".
        name: What tells it from others of its kind.
        data: Where the images lie.
        measures: What was measured, by name.
        step: Of the encoder.
    """
    with _warned():
        _keep(encoder, kind, name, data, measures, step)


def keep_results(init: str | None, options: str | None, results: Mapping[str, Any]) -> None:
    """The same for results of a run, or of what is measured like one, that begins from an encoder.

    Args:
        init: Its path, URI or name, as model.init; None: there is none.
        options: Access to it, as run.storage-options; None: the environment's.
        results: task, data, run where there is one, and what was measured.
    """
    if init is None:
        return
    with _warned():
        access = resolve_storage_options(init, options)
        encoder = Storage.open(init, access)
        task = str(results["task"])
        kind = _KINDS.get(task, task) + (", fast" if results.get("fast") else "")
        measures = {name: results[name] for name in _MEASURES if results.get(name) is not None}
        name = str(results.get("run") or results["data"])
        _keep(encoder, kind, name, str(results["data"]), measures, _step_of(encoder, init, access))


def _step_of(encoder: Storage, init: str, access: StorageOptions) -> int | None:
    """The step of an encoder; None where its files do not say so, or may have changed since they were read."""
    if encoder.is_web or (run := run_of_encoder(encoder)) is None or is_held(read_lease(run)) is not False:
        return None
    origin = origin_of_source(read_source(init, access), init, access)
    return None if origin is None else origin.step


def _keep(encoder: Storage, kind: str, name: str, data: str, measures: Mapping[str, Any], step: int | None) -> None:
    if encoder.is_web or (run := run_of_encoder(encoder)) is None:
        return
    values = {"data": without_secrets(data), "step": step, "measures": dict(measures)}
    write_evaluation(run, kind, name, values)
    log.info(f"kept with the encoder's run: {run.uri(run.root)}")
    if is_held(read_lease(run)) is False:  # one that goes on writes its page itself
        write_report(run, is_live=False)


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what was measured is on record where it was measured
        log.warning(f"what was measured could not be kept with the encoder's run ({type(error).__name__}: {error})")
