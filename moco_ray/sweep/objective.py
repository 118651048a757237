"""What a sweep maximises, and why it must not be the loss."""

from __future__ import annotations

from moco_ray.config import Config
from moco_ray.sweep.space import Space

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


def check_metric(metric: str) -> None:
    """Refuse what says nothing about the features, before anything starts.

    Raises:
        ValueError: The metric is none to maximise.
    """
    if metric in (_AUTO, KNN, RANKME):
        return
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
        f"warning: temperatures up to {hottest:g} are searched by {RANKME}, which is high for features that never learn, as "
        f"they do with temperatures above {_HIGHEST_TEMPERATURE:g}; search lower ones, or name labelled images by --eval.uri"
    )
