"""Where and how a run runs. Nothing here but seed, dtype and compress_gradients changes what is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

_OWN_FIELDS = {
    "CPU": "use run.cpus-per-worker for CPUs",
    "GPU": "a worker has one GPU or none; run.device says which",
}


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
    """A fixed number of training workers, up to optim.bn_groups; the result is the same for any. 0 trains inside this
    process, without Ray. None: as min_workers and max_workers say; without them every GPU, or one worker on the CPU: inside
    this process where no flag or RAY_ADDRESS asks for Ray."""
    min_workers: int | None = None
    """Fewest workers to train with; the run waits for them. None: 1."""
    max_workers: int | None = None
    """Most workers to train with; the run grows to them as nodes join. None: optim.bn_groups."""
    resize_every_s: float = 300.0
    """Seconds between looks whether the run can grow: growing restarts the workers, which takes about a minute."""
    retries: int = 0
    """How often to start all over from the last checkpoint when the cluster or the storage has failed for good."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers train; "auto" takes GPUs where the cluster has any."""
    dtype: Literal["auto", "bfloat16", "float16", "float32", "float64"] = "auto"
    """Arithmetic. "auto" is bfloat16 on GPUs that have it, else float32, and stays what it was where the run began. bfloat16
    and float16 are autocast over float32 weights, float16 with scaled losses; float64 is for proofs."""
    compile: bool = False
    """Compile the encoders with torch.compile: shorter steps on a GPU, after minutes of compiling at each start."""
    compress_gradients: bool = False
    """Send gradients between workers in bfloat16, for slow networks; then rounding depends on the number of workers."""
    seed: int = 0
    """Seed of weights, order, augmentation, shuffles and hold-out."""
    max_steps: int | None = None
    """Stop after so many steps in all; the schedule stays that of optim.epochs. Raise it to go on."""
    checkpoint_every_s: float = 120.0
    """Longest time between checkpoints, in seconds: what a failure can cost. They are written beside training."""
    checkpoint_every_steps: int | None = None
    """Checkpoint after every so many steps too, beside those before evaluations and after a while."""
    keep_last: int = 3
    """Newest checkpoints that stay, besides the best one."""
    keep_every_steps: int | None = None
    """Checkpoints at multiples of so many steps stay for good."""
    stop_on_collapse: bool = False
    """Stop, with everything saved, where evaluations or the loss show that the encoder collapses, instead of only saying so.
    The same command without it goes on."""
    log_every_steps: int = 10
    """Steps between lines with all metrics; train/loss and rows_digest are in every line."""
    cpus_per_worker: float | None = None
    """Logical CPUs that each worker takes from Ray. None: 1, less where data would be left without one."""
    worker_resources: str | None = None
    """Further Ray resources of each worker, as NAME=AMOUNT,NAME=AMOUNT: to place workers on certain nodes."""
    data_label: str | None = None
    """Ray node label, as KEY=VALUE, of the nodes that read and augment images. None: wherever a CPU is free."""
    track: tuple[Literal["mlflow", "wandb", "trackio"], ...] | None = None
    """Follow the run in MLflow, Weights & Biases or Trackio too, beside TensorBoard: the points of metrics.jsonl and eval.jsonl, sent
    after each checkpoint. Their own environment variables, such as MLFLOW_TRACKING_URI and WANDB_MODE, say where."""
    micro_batch_groups: int | None = None
    """BatchNorm groups that go through an encoder at once. None: as many as fit; the result is the same."""


def worker_resources(config: RunConfig) -> dict[str, float]:
    """The further resources of each worker.

    Raises:
        ValueError: They are not written as NAME=AMOUNT, an amount is no number above 0, or a name has its own field.
    """
    resources = {}
    for name, amount in _pairs("run.worker-resources", config.worker_resources).items():
        if name in _OWN_FIELDS:
            raise ValueError(f"run.worker-resources {name}={amount}: {_OWN_FIELDS[name]}")
        try:
            resources[name] = float(amount)
        except ValueError:
            resources[name] = 0.0
        if not 0 < resources[name] < math.inf:
            raise ValueError(f"run.worker-resources {name}={amount}: the amount must be a number above 0")
    return resources


def data_label(config: RunConfig) -> dict[str, str] | None:
    """The label of the nodes for data, as Ray's label selectors are written.

    Raises:
        ValueError: It is not written as KEY=VALUE.
    """
    return _pairs("run.data-label", config.data_label) or None


def _pairs(field: str, text: str | None) -> dict[str, str]:
    pairs = [part.split("=", 1) for part in text.split(",")] if text else []
    if any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
        raise ValueError(f"{field} is {text!r}; write it as NAME=VALUE, several with commas between them")
    return {name.strip(): value.strip() for name, value in pairs}
