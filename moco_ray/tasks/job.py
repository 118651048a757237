"""What the workers of a run are told, and what they say at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco_ray.config import Config
from moco_ray.data.blocks import StreamSpec
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.storage.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that the workers of a run need to know. Picklable; holds credentials, so it is never printed."""

    config: Config
    """The configuration, with every automatic value decided."""
    spec: StreamSpec
    """The stream."""
    num_rows: int
    """Images that training sees (n)."""
    held_out_rows: NDArray[np.int64]
    """Rows of the manifest that training does not see, ascending."""
    manifest_digest: str
    """Digest of the manifest."""
    former_digests: tuple[str, ...] = ()
    """Digests of the manifests that it has replaced: older checkpoints were trained on what they list."""
    listed_at_step: int = 0
    """Step at which the images were listed anew for the last time."""
    mended_rows: frozenset[int] = frozenset()
    """Rows that were bad when they were last read, and are good now."""
    last_step: int
    """Steps of the run."""
    run_uri: str
    """The run's folder."""
    run_options: StorageOptions
    """Access to the run's folder."""
    initial_weights: bytes | None
    """State dict of the query encoder to start from, as torch.save writes it."""
    eval_set: EvalSet
    """Images to evaluate on."""
    uses_gpu: bool
    """Whether to train on a GPU."""
    lease_owner: str
    """Who must hold the run's lease for a checkpoint to be committed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a worker ended, when it ended in good order; infrastructure failures are raised instead."""

    step: int
    """Steps done in all."""
    error: str | None = None
    """What the user must mend; None if all went well."""
    failure: str | None = None
    """What went wrong though the user did nothing wrong, again and again; None if all went well."""
    summary: dict[str, float] | None = None
    """Last values of the metrics, from rank 0."""


class RunFailed(RuntimeError):
    """The cluster or the storage failed again and again, for no reason that a user's input explains."""
