"""The configuration of a run: its parts, and what they must agree on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from moco_ray.config.checks import check_batch, check_data, check_numbers, check_workers
from moco_ray.config.data import DataConfig
from moco_ray.config.detection import DetectionConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.methods import AnyMethod
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.paths import PATHS, is_same_path, take_paths
from moco_ray.config.run import RunConfig
from moco_ray.config.types import check_groups, take_values
from moco_ray.config.views import ViewsConfig

TaskName = Literal["pretraining", "linear-probe", "finetune", "detection", "evaluate", "embed"]
GROUPS: dict[TaskName, tuple[str, ...]] = {
    "pretraining": ("data", "views", "model", "method", "optim", "eval", "run"),
    "linear-probe": ("data", "views", "model", "optim", "eval", "run"),
    "finetune": ("data", "views", "model", "optim", "eval", "run"),
    "detection": ("data", "views", "model", "detection", "optim", "eval", "run"),
    "evaluate": ("data", "views", "model", "eval", "run"),
    "embed": ("data", "views", "model", "eval", "run"),
}
"""The parts of a configuration that mean something for what is trained; the others are neither shown nor kept."""

_OF_CONTRAST = frozenset(
    {
        "run.stop_on_collapse",
        *(f"model.{name}" for name in ("projector", "projector_layers", "hidden_dim", "dim")),
        *(f"eval.{name}" for name in ("max_bank", "k", "temperature")),
    }
)
_OF_LISTS = ("image_column", "label_column", "target_columns", "label_fraction", "window_mb", "exclude")
_NOT_OF_BOXES = frozenset(
    {f"views.{item.name}" for item in dataclasses.fields(ViewsConfig) if item.name not in ("mean", "std")}
    | {f"data.{name}" for name in _OF_LISTS}
    | {"optim.layer_decay", "run.compile", "run.micro_batch_groups"}
    | {"eval.resize_px", "model.patch_px", "model.train_patches"}
)
_OF_TRAINING = frozenset(
    {
        *(f"views.{name}" for name in ("crop_min", "jitter", "jitter_p", "grayscale_p", "grayscale_first")),
        *(f"views.{name}" for name in ("blur_p", "blur_sigma", "solarize_p", "flip_p")),
        *(f"model.{name}" for name in ("projector", "projector_layers", "hidden_dim", "dim")),
        *(f"model.{name}" for name in ("train_patches", "zero_init_residual")),
        *(f"data.{name}" for name in ("target_columns", "label_fraction", "relist", "window_mb", "max_bad_fraction")),
        *(f"eval.{name}" for name in ("every_steps", "k", "max_time_fraction")),
        *(
            f"run.{name}"
            for name in ("name", "min_workers", "resize_every_s", "retries", "compile", "compress_gradients")
        ),
        *(f"run.{name}" for name in ("max_steps", "checkpoint_every_s", "checkpoint_every_steps", "keep_last")),
        *(f"run.{name}" for name in ("keep_every_steps", "log_every_steps", "micro_batch_groups", "track")),
        "run.stop_on_collapse",
    }
)
_OF_LABELS = frozenset(f"eval.{name}" for name in ("uri", "holdout_fraction", "max_queries", "max_bank", "temperature"))
UNUSED: dict[TaskName, frozenset[str]] = {
    "pretraining": frozenset({"data.target_columns", "data.label_fraction", "optim.layer_decay"}),
    "linear-probe": _OF_CONTRAST | {"optim.layer_decay", "model.train_patches", "model.zero_init_residual"},
    "finetune": _OF_CONTRAST,
    "detection": _OF_CONTRAST | _NOT_OF_BOXES,
    "evaluate": _OF_TRAINING,
    "embed": _OF_TRAINING | _OF_LABELS,
}
"""Fields of these parts that what is trained has no use for: no command of it has flags for them."""

_LEARNED_FROM = ("seed", "dtype", "compress_gradients")
# Fields that may change when a run is resumed: they decide where and how it runs, not what it learns.
_FREE_FIELDS = frozenset(
    {
        "data.storage_options",
        "data.max_bad_fraction",
        "data.relist",
        "detection.score_threshold",
        "detection.detections_per_image",
    }
    | {f"eval.{name}" for name in ("every_steps", "max_bank", "k", "temperature", "resize_px", "max_time_fraction")}
    | {f"run.{f.name}" for f in dataclasses.fields(RunConfig) if f.name not in _LEARNED_FROM}
)
# Where images lie is not what they are: whether they are the same, the run's manifest tells. Those to classify may have
# been a part of data.uri.
_PLACES = frozenset({"data.uri", "eval.uri", "detection.annotations", "detection.test_annotations"})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about a run."""

    task: TaskName = "pretraining"
    """What is trained: each has a command of its own in jobs/."""
    preset: str = "moco-v2"
    """Name of the preset that the other fields started from."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """Augmentation."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Backbone and projector."""
    method: AnyMethod = field(default_factory=MoCoConfig)
    """The contrastive method; --method NAME chooses another than the preset's."""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """Where objects are looked for, and how."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Batch, length and optimizer."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How the encoder is watched while it learns."""
    run: RunConfig = field(default_factory=RunConfig)
    """Where and how the run runs."""

    def __post_init__(self) -> None:
        """Check what needs no data.

        Raises:
            ValueError: Fields contradict each other.
        """
        check_groups(self)
        take_paths(self, PATHS)
        take_values(self)
        check_numbers(self)
        check_data(self)
        if self.trains:
            check_batch(self)
        check_workers(self)

    @property
    def batch_norm(self) -> Literal["group", "global", "frozen"]:
        """Whether BatchNorm sees a group of the batch or all of it, or learns nothing."""
        if self.task == "pretraining":
            return self.method.batch_norm
        if self.task == "detection":
            return "global"
        return "frozen" if self.task == "linear-probe" else "group"

    @property
    def needs_labels(self) -> bool:
        """Whether images are trained on for what they are labelled with."""
        return self.task in ("linear-probe", "finetune")

    @property
    def trains(self) -> bool:
        """Whether anything is trained: else an encoder is used as it is."""
        return self.task not in ("evaluate", "embed")


def experiment_differences(old: Config, new: Config, *, passes_automatic: bool = False) -> list[str]:
    """Sentences that name the fields in which two configurations describe different experiments.

    Args:
        old: Of a run, with every automatic value decided.
        new: Another one.
        passes_automatic: Whether to pass over what is None in the new one, and will be decided.
    """
    if old.task != new.task:
        return [f"it was {old.task}, now {new.task}"]
    if old.method.name != new.method.name:
        return [f"the method was {old.method.name}, now {new.method.name}"]
    differences = []
    for group in GROUPS[old.task]:
        for item in dataclasses.fields(getattr(old, group)):
            path = f"{group}.{item.name}"
            was, now = getattr(getattr(old, group), item.name), getattr(getattr(new, group), item.name, None)
            if path in _FREE_FIELDS or was == now or (passes_automatic and now is None):
                continue
            if path == "run.dtype" and now == "auto":  # it stays what it was
                continue
            is_moved = path in _PLACES and bool(now) >= bool(was)
            if not is_moved and not (path == "model.init" and is_same_path(was, now)):
                differences.append(f"{path.replace('_', '-')} was {was!r}, now {now!r}")
    return differences
