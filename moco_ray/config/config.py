"""The configuration of a run: its parts, and what they must agree on."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from moco_ray.config.data import DataConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.methods import AnyMethod, method_class
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import VITS, ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.run import RunConfig, data_label, worker_resources
from moco_ray.config.views import ViewsConfig

# Fields that may change when a run is resumed: they decide where and how it runs, not what it learns.
_FREE_FIELDS = frozenset(
    {"data.storage_options", "data.max_bad_fraction"}
    | {f"eval.{name}" for name in ("every_steps", "max_bank", "k", "temperature", "resize_px", "max_time_fraction")}
    | {f"run.{f.name}" for f in dataclasses.fields(RunConfig) if f.name not in ("seed", "dtype")}
)
_SECRET_FIELDS = frozenset({"data.storage_options", "run.storage_options"})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about a run."""

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
        _check_batch(self)
        _check_workers(self)
        _check_ranges(self)


def _check_workers(config: Config) -> None:
    run, groups = config.run, config.optim.bn_groups
    numbers = {"num-workers": run.num_workers, "min-workers": run.min_workers, "max-workers": run.max_workers}
    for name, number in numbers.items():
        if number is not None and number > groups:
            raise ValueError(
                f"run.{name} {number} is more than the {groups} BatchNorm groups of the batch (optim.bn-groups); "
                f"use {groups} workers or fewer"
            )
        if number is not None and number < (name != "num-workers"):
            raise ValueError(f"run.{name} is {number}; use {'0 (no Ray)' if name == 'num-workers' else '1'} or more")
    if run.num_workers is not None and (run.min_workers is not None or run.max_workers is not None):
        raise ValueError(
            f"run.num-workers {run.num_workers} is a fixed number and goes with neither run.min-workers nor "
            "run.max-workers; drop one or the others"
        )
    if run.min_workers is not None and run.max_workers is not None and run.min_workers > run.max_workers:
        raise ValueError(
            f"run.min-workers {run.min_workers} is more than run.max-workers {run.max_workers}; swap them, or use one number"
        )


def _check_batch(config: Config) -> None:
    optim, method = config.optim, config.method
    if optim.bn_groups < 1 or optim.global_batch_size % optim.bn_groups:
        near = max(optim.bn_groups, 1) * max(2, round(optim.global_batch_size / max(optim.bn_groups, 1)))
        raise ValueError(
            f"optim.global-batch-size {optim.global_batch_size} is not a multiple of optim.bn-groups "
            f"{optim.bn_groups}; use a batch of {near}, or a number of groups that divides the batch"
        )
    if optim.group_size < 2 and method.batch_norm == "group":
        raise ValueError(
            f"optim.bn-groups {optim.bn_groups} leaves {optim.group_size} image in each BatchNorm group of a batch of "
            f"{optim.global_batch_size}; use {optim.global_batch_size // 2} groups or fewer"
        )
    method.check(optim.global_batch_size)
    if config.model.arch in VITS and config.views.crop_px % config.model.patch_px:
        raise ValueError(
            f"views.crop-px {config.views.crop_px} is not a multiple of model.patch-px {config.model.patch_px}; use "
            f"crops of {max(1, config.views.crop_px // config.model.patch_px) * config.model.patch_px} or other patches"
        )


def _check_ranges(config: Config) -> None:
    positive = {
        "model.dim": config.model.dim,
        "model.patch-px": config.model.patch_px,
        "model.projector-layers": config.model.projector_layers,
        "optim.epochs": config.optim.epochs,
        "optim.lr": config.optim.lr,
        "run.log-every-steps": config.run.log_every_steps,
        "run.keep-last": config.run.keep_last,
        "run.checkpoint-every-s": config.run.checkpoint_every_s,
        "run.resize-every-s": config.run.resize_every_s,
    }
    optional = {
        "model.hidden-dim": config.model.hidden_dim,
        "run.max-steps": config.run.max_steps,
        "run.checkpoint-every-steps": config.run.checkpoint_every_steps,
        "run.keep-every-steps": config.run.keep_every_steps,
        "run.micro-batch-groups": config.run.micro_batch_groups,
        "run.cpus-per-worker": config.run.cpus_per_worker,
    }
    positive |= {name: value for name, value in optional.items() if value is not None}
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; use a number above 0")
    if config.eval.resize_px is not None and config.eval.resize_px < config.views.crop_px:
        raise ValueError(
            f"eval.resize-px {config.eval.resize_px} is smaller than the crop of {config.views.crop_px}; "
            "use views.crop-px or more"
        )
    if config.optim.warmup_epochs < 0:
        raise ValueError(f"optim.warmup-epochs is {config.optim.warmup_epochs}; use 0 or more")
    if config.run.retries < 0:
        raise ValueError(f"run.retries is {config.run.retries}; use 0 or more")
    worker_resources(config.run)
    data_label(config.run)


def to_json(config: Config) -> str:
    """Serialise a configuration, without the values of fields that may hold credentials."""
    values = dataclasses.asdict(config)
    values["method"] = {"name": config.method.name, **values["method"]}
    for path in _SECRET_FIELDS:
        group, name = path.split(".")
        values[group][name] = None
    return json.dumps(values, indent=1)


def from_json(text: str) -> Config:
    """Read what `to_json` wrote.

    Raises:
        ValueError: It is no such JSON, or has fields that this version does not know.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the configuration is no valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError("the configuration is no JSON object")
    try:
        config: Config = _build(Config, values, "")
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the configuration has a value of the wrong type: {error}") from error
    return config


def experiment_differences(old: Config, new: Config) -> list[str]:
    """Sentences that name the fields in which two configurations describe different experiments."""
    if old.method.name != new.method.name:
        return [f"the method was {old.method.name}, now {new.method.name}"]
    differences = []
    for group in ("data", "views", "model", "method", "optim", "eval", "run"):
        for item in dataclasses.fields(getattr(old, group)):
            path = f"{group}.{item.name}"
            was, now = getattr(getattr(old, group), item.name), getattr(getattr(new, group), item.name, None)
            if path not in _FREE_FIELDS and was != now:
                differences.append(f"{path.replace('_', '-')} was {was!r}, now {now!r}")
    return differences


def _build(cls: type[Any], values: dict[str, Any], prefix: str) -> Any:
    hints = {name: hint for name, hint in typing.get_type_hints(cls).items() if not _is_class_variable(hint)}
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"the configuration has unknown fields: {', '.join(prefix + name for name in unknown)}")
    return cls(**{name: _convert(hints[name], value, f"{prefix}{name}.") for name, value in values.items()})


def _convert(hint: Any, value: Any, prefix: str) -> Any:
    if hint == AnyMethod:
        fields = dict(value)
        return _build(method_class(fields.pop("name", MoCoConfig.name)), fields, prefix)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, prefix)
    if isinstance(value, list) and _is_tuple(hint):
        return tuple(value)
    return value


def _is_class_variable(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.ClassVar


def _is_tuple(hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_is_tuple(part) for part in typing.get_args(hint))
    return typing.get_origin(hint) is tuple
