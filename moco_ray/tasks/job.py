"""What the workers of a run are told, and what they say at the end."""

from __future__ import annotations

from dataclasses import dataclass

from moco_ray.config import Config, to_json
from moco_ray.config.patience import USUAL_PATIENCE, Patience
from moco_ray.data.blocks import StreamSpec
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.run_folder.checkpoint import State
from moco_ray.storage.storage import StorageOptions
from moco_ray.tasks.task import Task
from moco_ray.tasks.tracker import TrackerAccess


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that the workers of a run need to know. Picklable; holds credentials, so it is never printed."""

    task: Task
    """What is trained."""
    config: Config
    """The configuration, with every automatic value decided."""
    spec: StreamSpec
    """The stream."""
    num_rows: int
    """Images that training sees (n)."""
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
    """What the task has read to start from."""
    eval_set: EvalSet
    """Images to evaluate on."""
    uses_gpu: bool
    """Whether to train on a GPU."""
    lease_owner: str
    """Who must hold the run's lease for a checkpoint to be committed."""
    trackers: tuple[TrackerAccess, ...] = ()
    """What follows the run besides TensorBoard."""
    patience: Patience = USUAL_PATIENCE
    """How long to wait for what may never come."""

    def schedule_at(self, step: int) -> tuple[float, float]:
        """The learning rate of a step, and the share of the run that is done before it."""
        optim, position = self.config.optim, step * self.config.optim.global_batch_size
        return optim.lr_at(position, self.num_rows), optim.progress_at(position, self.num_rows)

    def state(self, learned: State, step: int) -> State:
        """What a checkpoint holds: what was learned, after so many steps of which run."""
        return {
            **learned,
            "step": step,
            "position": step * self.config.optim.global_batch_size,
            "seed": self.config.run.seed,
            "config": to_json(self.config),
            "manifest_digest": self.manifest_digest,
        }


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
