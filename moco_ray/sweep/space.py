"""What a sweep searches, for each field a range, choices, or a grid, and what it maximises, which must not be the loss."""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from moco_ray.config import Config
from moco_ray.config.config import TaskName
from moco_ray.config.field_paths import check_path, from_text, get, is_number, is_whole, paths, with_values

Kind = Literal["log", "uniform", "1-log", "choice", "grid"]
Values = dict[str, Any]

_FORMS = "log:LOW:HIGH, uniform:LOW:HIGH, 1-log:LOW:HIGH, choice:A,B,… or grid:A,B,…"
_DEFAULT = "default"
KNN, RANKME = "eval/knn_top1", "eval/rankme"
_AUTO = "auto"
_HIGHEST_TEMPERATURE = 1.0
_WHY_NOT = {
    "train/loss": (
        "the contrastive loss of two temperatures, queues or batches cannot be compared: it falls when the temperature "
        "changes, whether or not the features become better"
    ),
    "train/contrast_accuracy": "how often a query finds its key says how hard the task is, not how good the features are",
    "train/positive_cosine": "it is highest where all features are the same",
    "eval/alignment": "it is best where all features are the same",
    "eval/uniformity": "it is best for features that are spread at random",
}


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One field and the values that it takes."""

    path: str
    """The field, such as optim.lr."""
    kind: Kind
    """log: the logarithm is uniform; uniform; 1-log: the logarithm of one minus the value is uniform; choice: any of the
    options; grid: every option."""
    low: float = 0.0
    """Smallest value of a range."""
    high: float = 0.0
    """Largest value of a range."""
    options: tuple[Any, ...] = ()
    """Of choices and grids."""
    whole: bool = False
    """Whether a range holds whole numbers only."""

    @property
    def is_range(self) -> bool:
        """Whether it lies between two numbers."""
        return self.kind in ("log", "uniform", "1-log")

    def describe(self) -> str:
        """As a user writes it."""
        if self.is_range:
            return f"{self.path}={self.kind}:{self.low:g}:{self.high:g}"
        return f"{self.path}={self.kind}:{','.join(map(str, self.options))}"

    def at(self, u: float) -> Any:
        """The value at a share of the way, 0 <= u < 1."""
        if not self.is_range:
            return self.options[min(int(u * len(self.options)), len(self.options) - 1)]
        low, high = self.scaled(self.low), self.scaled(self.high)
        return self._in_range(self._unscaled(low + u * (high - low)))

    def share(self, value: Any) -> float:
        """Where a value lies on the axis on which a range is uniform, from 0 to 1; options lie at equal distances."""
        if not self.is_range:
            return self.options.index(value) / max(1, len(self.options) - 1)
        low, high = self.scaled(self.low), self.scaled(self.high)
        return (self.scaled(value) - low) / (high - low)

    def scaled(self, value: float) -> float:
        """A value on the axis on which the range is uniform."""
        if self.kind == "log":
            return math.log(value)
        return -math.log1p(-value) if self.kind == "1-log" else float(value)

    def nudged(self, value: Any, factor: float) -> Any:
        """The value (1-log: one minus it) times a factor, inside the range."""
        return self._in_range(1 - (1 - value) * factor if self.kind == "1-log" else value * factor)

    def _unscaled(self, position: float) -> float:
        if self.kind == "log":
            return math.exp(position)
        return -math.expm1(-position) if self.kind == "1-log" else position

    def _in_range(self, value: float) -> Any:
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value


Space = tuple[Dimension, ...]


def parse_space(texts: tuple[str, ...], config: Config) -> Space:
    """Read what is to be searched; nothing given is the default space.

    Args:
        texts: Each as FIELD=KIND:VALUES, or "default" for the default space beside others.
        config: The base; fields are looked up in it, and every bound and option is tried on it.

    Raises:
        ValueError: A field is unknown, bounds are the wrong way round, a value is impossible, or the space is empty.
    """
    dimensions: list[Dimension] = []
    for text in texts or (_DEFAULT,):
        if text.strip() == _DEFAULT:
            dimensions += default_space(config)
        elif text.strip():
            dimensions.append(_parse(text, config))
    if not dimensions:
        raise ValueError(
            f"the space is empty: there is nothing to search. Write --space FIELD=KIND:VALUES, with {_FORMS}, or leave "
            "--space out for the default space"
        )
    twice = {d.path for i, d in enumerate(dimensions) if d.path in [other.path for other in dimensions[:i]]}
    latest = {dimension.path: dimension for dimension in dimensions}
    if twice and _DEFAULT not in [text.strip() for text in texts]:
        raise ValueError(f"--space names {', '.join(sorted(twice))} twice; write each field once")
    for dimension in latest.values():
        _try_out(dimension, config)
    return tuple(latest.values())


def default_space(config: Config) -> list[Dimension]:
    """Learning rate, temperature and encoder momentum, around the preset's values, as far as its method has them."""
    space = []
    for path in ("optim.lr", "method.temperature", "method.encoder_momentum"):
        if path not in paths(config) or not is_number(config, path) or get(config, path) is None:
            continue
        base = float(get(config, path))
        if path == "optim.lr":
            space.append(Dimension(path=path, kind="log", low=base / 10, high=base * 10))
        elif path == "method.temperature":
            space.append(Dimension(path=path, kind="log", low=min(0.03, base / 2), high=max(1.0, base * 2)))
        elif base < 1:
            space.append(Dimension(path=path, kind="1-log", low=min(0.9, base), high=max(0.9995, base)))
    return space


def grid_points(space: Space) -> list[Values]:
    """Every combination of the grids; one empty one without any."""
    grids = [dimension for dimension in space if dimension.kind == "grid"]
    combinations = itertools.product(*(dimension.options for dimension in grids))
    return [dict(zip((d.path for d in grids), values, strict=True)) for values in combinations]


def draw(space: Space, seed: int, index: int) -> Values:
    """The parameters of one trial of a random search: a function of seed and index alone."""
    points = grid_points(space)
    values = dict(points[index % len(points)])
    for dimension in space:
        if dimension.kind != "grid":
            key = zlib.crc32(dimension.path.encode())  # so that a further field leaves the others as they are
            values[dimension.path] = dimension.at(float(np.random.default_rng([seed, index, key]).random()))
    return {dimension.path: values[dimension.path] for dimension in space}


def _parse(text: str, config: Config) -> Dimension:
    field, equals, rest = text.partition("=")
    kind, colon, values = rest.partition(":")
    if not equals or not colon or kind.strip() not in get_args(Kind):
        raise ValueError(f"--space {text!r}: write it as FIELD=KIND:VALUES, with {_FORMS}")
    path, kind = check_path(config, field), kind.strip()
    if kind in ("choice", "grid"):
        options = tuple(from_text(config, path, part.strip()) for part in values.split(",") if part.strip())
        if len(set(options)) < 2:
            raise ValueError(f"--space {text!r}: give at least two different values, or the flag --{path} for one")
        return Dimension(path=path, kind="choice" if kind == "choice" else "grid", options=options)
    if not is_number(config, path):
        raise ValueError(f"--space {text!r}: {path} holds no number; use {path}=choice:A,B")
    low, high = _bounds(text, values)
    if kind == "log" and low <= 0:
        raise ValueError(f"--space {text!r}: a logarithmic range needs bounds above 0")
    if kind == "1-log" and not 0 <= low < high < 1:
        raise ValueError(f"--space {text!r}: 1-log, the logarithm of one minus the value, needs bounds in [0, 1)")
    return Dimension(path=path, kind=kind, low=low, high=high, whole=is_whole(config, path))  # type: ignore[arg-type]


def _bounds(text: str, values: str) -> tuple[float, float]:
    try:
        low, high = map(float, values.split(":"))
    except ValueError:
        raise ValueError(f"--space {text!r}: a range has two numbers, LOW:HIGH") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"--space {text!r}: the bounds must be finite numbers")
    if low >= high:
        hint = f"write {high:g}:{low:g}" if low > high else "a range needs two different bounds"
        raise ValueError(f"--space {text!r}: the lower bound {low:g} is not below the upper bound {high:g}; {hint}")
    return low, high


def _try_out(dimension: Dimension, config: Config) -> None:
    """Make sure that each bound and each option is possible beside the base's other values."""
    values = [dimension.at(0.0), dimension.at(1.0)] if dimension.is_range else list(dimension.options)
    for value in values:
        try:
            changed = with_values(config, {dimension.path: value})
            if dimension.path.startswith("model.") or dimension.path == "views.crop_px":
                from moco_ray.tasks.network import network_without_weights  # here, since torch takes seconds to import

                network_without_weights(changed)
        except ValueError as error:
            raise ValueError(f"--space {dimension.describe()}: {error}") from error


OBJECTIVES: dict[TaskName, tuple[str, ...]] = {
    "pretraining": (KNN, RANKME),
    "linear-probe": ("eval/top1", "eval/mean_class_top1", "eval/auroc"),
    "finetune": ("eval/top1", "eval/mean_class_top1", "eval/auroc"),
    "detection": ("eval/AP", "eval/AP50", "eval/AP75"),
}
"""What may be maximised."""


def check_metric(metric: str, task: TaskName) -> None:
    """Refuse what says nothing about what was learned, before anything starts.

    Raises:
        ValueError: The metric is none to maximise.
    """
    if metric in (_AUTO, *OBJECTIVES[task]):
        return
    if task != "pretraining":
        raise ValueError(f"--metric {metric} is no objective of {task}; use one of {', '.join(OBJECTIVES[task])}")
    name = metric if "/" in metric else next((known for known in _WHY_NOT if known.endswith(f"/{metric}")), metric)
    why = _WHY_NOT.get(name, "it is not known")
    raise ValueError(
        f"--metric {metric} is no objective: {why}. Use {KNN} (with labels) or {RANKME} (without), or leave --metric out"
    )


def choose_metric(metric: str, config: Config, *, has_labels: bool) -> str:
    """The metric to maximise on this data.

    Raises:
        ValueError: It needs labels, and there are none.
    """
    if config.task != "pretraining":
        usual = "eval/auroc" if config.data.target_columns is not None else OBJECTIVES[config.task][0]
        return usual if metric == _AUTO else metric
    if metric == _AUTO:
        return KNN if has_labels else RANKME
    if metric == KNN and not has_labels:
        where = f"eval.uri {config.eval.uri}" if config.eval.uri else f"data.uri {config.data.uri}"
        raise ValueError(
            f"--metric {KNN} needs labelled images that training does not see, and {where} gives none; name some with "
            f"--eval.uri FOLDER (one sub-folder for each class), keep eval.holdout-fraction above 0, or use --metric {RANKME}"
        )
    return metric


def objective_warning(metric: str, space: Space) -> str | None:
    """What the metric would be fooled by in this space: measured in docs/sweeps.md."""
    hottest = max((max((d.high, *d.options)) for d in space if d.path == "method.temperature"), default=0.0)
    if metric != RANKME or hottest <= _HIGHEST_TEMPERATURE:
        return None
    return (
        f"temperatures up to {hottest:g} are searched by {RANKME}, which is high for features that never learn, as "
        f"they do with temperatures above {_HIGHEST_TEMPERATURE:g}; search lower ones, or name labelled images by --eval.uri"
    )
