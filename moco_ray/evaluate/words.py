"""What an evaluation says to a person: no figure without what it must be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MEASURES = {
    "eval/rankme": "RankMe {:.1f}",
    "eval/alignment": "alignment {:.3f}",
    "eval/uniformity": "uniformity {:.3f}",
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
    said = [f"{who}: {describe_knn(line, untrained)}", f"    {measures}"]
    if step == 0 and "eval/knn_k" in line:
        said.append(
            f"    kNN: {line['eval/knn_queries']:,.0f} images by the nearest {line['eval/knn_k']:.0f} of "
            f"{line['eval/knn_bank']:,.0f} with labels"
        )
    return said


def describe_knn(line: Mapping[str, Any], untrained: Mapping[str, Any] | None = None) -> str:
    """A kNN accuracy with its standard error, and in brackets what gives as much without learning."""
    error = f" ± {line['eval/knn_error']:.1f}" if "eval/knn_error" in line else ""
    before = untrained.get("eval/knn_top1") if untrained is not None and line["step"] > 0 else None
    against = [f"untrained {before:.1f}"] if before is not None else []
    against += [f"guessing {line['eval/knn_chance']:.1f}"] if "eval/knn_chance" in line else []
    if before is None and "eval/knn_largest_class" in line:
        against.append(f"largest class {line['eval/knn_largest_class']:.1f}")
    return f"kNN {line['eval/knn_top1']:.1f}{error} %" + (f" ({', '.join(against)})" if against else "")
