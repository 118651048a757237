"""What an evaluation says to a person: no figure without what it must be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from moco_ray.config.eval import EvalConfig
from moco_ray.data.manifest import Manifest
from moco_ray.evaluate.against_chance import default_neighbours
from moco_ray.evaluate.eval_set import EvalSet

_NAMES = 5

_MEASURES = {
    "eval/rankme": "RankMe {:.1f}",
    "eval/alignment": "alignment {:.3f}",
    "eval/uniformity": "uniformity {:.3f}",
    "eval/bad_images": "{:.0f} left out as bad",
}


def describe_evaluation(line: Mapping[str, Any], untrained: Mapping[str, Any] | None) -> list[str]:
    """Lines about one evaluation, of up to 80 columns.

    Args:
        line: Of eval.jsonl.
        untrained: That of step 0, if there is one.
    """
    step = int(line["step"])
    who = f"encoder after {step:,} steps" if step else "untrained encoder"
    measures = " · ".join(text.format(line[name]) for name, text in _MEASURES.items() if name in line)
    if "eval/knn_top1" not in line:
        return [f"{who}: {measures}"]
    return [f"{who}: {describe_knn(line, untrained)}", f"    {measures}"]


def describe_knn(line: Mapping[str, Any], untrained: Mapping[str, Any] | None = None) -> str:
    """A kNN accuracy with its standard error, and in brackets what gives as much without learning."""
    error = f" ± {line['eval/knn_error']:.1f}" if "eval/knn_error" in line else ""
    before = untrained.get("eval/knn_top1") if untrained is not None and line["step"] > 0 else None
    against = [f"untrained {before:.1f}"] if before is not None else []
    against += [f"guessing {line['eval/knn_chance']:.1f}"] if "eval/knn_chance" in line else []
    if before is None and "eval/knn_largest_class" in line:
        against.append(f"largest class {line['eval/knn_largest_class']:.1f}")
    return f"kNN {line['eval/knn_top1']:.1f}{error} %" + (f" ({', '.join(against)})" if against else "")


def describe_eval_set(
    eval_set: EvalSet, config: EvalConfig, train: Manifest, train_rows: NDArray[np.int64]
) -> list[str]:
    """Lines about what the encoder will be measured on, with warnings of what makes its figures less than they seem.

    Args:
        eval_set: The images.
        config: Names eval.uri, and k.
        train: The training data, hold-out included.
        train_rows: The rows of it that training sees.
    """
    sizes = np.unique(train.labels[train.labels >= 0], return_counts=True)[1]
    if not eval_set.has_labels:
        is_single = len(eval_set.classes) > 1 or (len(sizes) > 1 and sizes.max() < 2)
        why = "warning: no class has two images, which kNN needs" if is_single else eval_set.words
        return [f"{why}; the encoder is watched by RankMe, alignment and uniformity"]
    queries, bank = eval_set.queries, eval_set.bank or eval_set.queries
    lines = []
    alone = ~eval_set.has_relatives()
    if alone.any():
        names = sorted({eval_set.classes[label] for label in queries.labels[alone]})
        lines.append(
            f"warning: {alone.sum():,} of {len(queries):,} images to classify are of classes that have no other image "
            f"({_some(names)}): kNN reaches {100 * (1 - alone.mean()):.0f} % at most"
        )
    if config.uri:
        seen = pc.is_in(queries.manifest.table["uri"], value_set=train.table["uri"].take(train_rows))
        if count := int(np.count_nonzero(seen.to_numpy())):
            lines.append(
                f"warning: {count:,} of {len(queries):,} images of eval.uri {config.uri} are training images, too: kNN on "
                "images that training never saw may be lower; name others, or drop --eval.uri for a hold-out"
            )
    classes, counts = np.unique(bank.labels, return_counts=True)
    largest = classes[np.argmax(counts)]
    return [
        *lines,
        eval_set.words,
        f"    the nearest {config.k or default_neighbours(bank.labels)} vote; guessing gives {100 / len(classes):.1f} %, always "
        f"{eval_set.classes[largest]!r} {100 * np.mean(queries.labels == largest):.1f} %",
    ]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(map(repr, names[:_NAMES])) + more
