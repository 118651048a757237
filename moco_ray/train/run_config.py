"""Where and how a run runs. Nothing here but seed and dtype changes what is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: its name, its folder, its workers."""

    name: str | None = None
    """Name of the run; the same name again resumes it. None: preset and time."""
    storage_path: str = "runs"
    """Folder of all runs, local or s3://; the run's own is storage_path/name. All nodes must see it."""
    storage_options: str | None = None
    """Access to storage_path: a JSON object of fsspec options or a file with one. None: the AWS environment."""
    num_workers: int | None = None
    """Training workers: any number up to optim.bn_groups, with the same result. 0 trains inside this process,
    without Ray. None: every GPU of the cluster, or one worker on the CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers train; "auto" takes GPUs where the cluster has any."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Arithmetic. bfloat16 is autocast over float32 weights; float64 is for proofs."""
    seed: int = 0
    """Seed of weights, order, augmentation, shuffles and hold-out."""
    max_steps: int | None = None
    """Stop after so many steps in all; the schedule stays that of optim.epochs. Raise it to go on."""
    checkpoint_every_s: float = 600.0
    """Longest time between checkpoints, in seconds: what a failure can cost."""
    checkpoint_every_steps: int | None = None
    """Checkpoint after every so many steps too. None: at the ends of epochs."""
    keep_last: int = 3
    """Newest checkpoints that stay, besides the best one."""
    keep_every_steps: int | None = None
    """Checkpoints at multiples of so many steps stay for good."""
    log_every_steps: int = 10
    """Steps between lines with all metrics; train/loss and rows_digest are in every line."""
    cpus_per_worker: float | None = None
    """Logical CPUs that each worker takes from Ray. None: 1, less where data would be left without one."""
    micro_batch_groups: int | None = None
    """BatchNorm groups that go through an encoder at once. None: as many as fit; the result is the same."""
