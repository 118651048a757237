"""What is measured of an encoder goes into the folder of the run that trained it, and onto its page."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from moco_ray.report.run_page import write_report
from moco_ray.run_folder.evaluations import run_of_encoder, write_evaluation
from moco_ray.run_folder.lease import is_held, read_lease
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import without_secrets

log = logging.getLogger(__name__)
_KINDS = {"linear-probe": "linear probe", "finetune": "fine-tuning", "detection": "detection"}
_MEASURES = ("top1", "top1_error", "top5", "mean_class_top1", "auroc", "AP", "AP50", "AP75", "num_test", "num_train")


def keep_evaluation(
    encoder: Storage, kind: str, name: str, data: str, measures: Mapping[str, Any], step: int | None = None
) -> None:
    """Keep what was measured with the encoder's run, if it is of one; a folder that cannot be written is a warning.

    Args:
        encoder: The encoder's file, or the folder of its run or checkpoint.
        kind: As "kNN".
        name: What tells it from others of its kind.
        data: Where the images lie.
        measures: What was measured, by name.
        step: Of the encoder.
    """
    if encoder.is_web:
        return
    try:
        run = run_of_encoder(encoder)
        if run is None:
            return
        values = {"data": without_secrets(data), "step": step, "measures": dict(measures)}
        write_evaluation(run, kind, name, values)
        log.info(f"kept with the encoder's run: {run.uri(run.root)}")
        if is_held(read_lease(run)) is False:  # one that goes on writes its page itself
            write_report(run, is_live=False)
    except (OSError, ValueError) as error:
        log.warning(f"what was measured could not be kept with the encoder's run ({error})")


def keep_results(encoder: Storage, results: Mapping[str, Any]) -> None:
    """The same for results.json of a run that began from the encoder."""
    measures = {name: results[name] for name in _MEASURES if results.get(name) is not None}
    kind = _KINDS.get(str(results["task"]), str(results["task"]))
    keep_evaluation(encoder, kind, str(results["run"]), str(results["data"]), measures)
