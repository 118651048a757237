"""kNN on any number of images: neighbours found by the workers that encode, and what they vote for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from moco_ray.driver.features.engine import Engine, SetFeatures
from moco_ray.evaluate.against_chance import knn_context
from moco_ray.evaluate.at_scale.encoding import Spec, chunks_of
from moco_ray.evaluate.at_scale.keys import Nearest, places_of, similarities_of
from moco_ray.evaluate.at_scale.nearest import find_among, find_in_chunk, make_queries
from moco_ray.evaluate.at_scale.votes import accuracies
from moco_ray.evaluate.eval_set import EvalSet

log = logging.getLogger(__name__)

BANK, QUERIES = "bank", "queries"
"""Names of the sets of images."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The neighbours of the queries."""

    nearest: dict[str, Nearest]
    """By module."""
    num_bank: int
    """Images among which they were found."""
    num_bad: int
    """Those of the bank that do not decode."""


def usable_ks(ks: Sequence[int], eval_set: EvalSet) -> tuple[int, ...]:
    """Those k for which there are enough images.

    Raises:
        ValueError: There are none.
    """
    num_bank = len(eval_set.bank) if eval_set.bank is not None else len(eval_set.queries) - 1
    usable = tuple(sorted({k for k in ks if 1 <= k <= num_bank}))
    asked = " ".join(map(str, ks))
    if not usable:
        raise ValueError(
            f"--k is {asked}, and there are {num_bank:,} labelled images to find neighbours among; use --k {max(1, num_bank)} or "
            "less, at least 1"
        )
    if left := sorted(set(ks) - set(usable)):
        log.info(
            f"left out: k {', '.join(map(str, left))}; there are {num_bank:,} labelled images to find neighbours among"
        )
    return usable


def find_neighbours(engine: Engine, spec: Spec, queries: SetFeatures, k: int) -> Neighbours:
    """Neighbours in the bank; of the other queries where there is none."""
    shared = make_queries(queries.features, queries.ids, k)
    nearest = {name: Nearest(len(queries.places), k) for name in spec.modules}
    num_bank, num_bad = 0, 0
    if BANK in spec.sets:
        chunks, work, what = chunks_of(BANK, len(spec.sets[BANK])), find_in_chunk, "neighbours among training images"
    else:
        chunks, work, what = chunks_of(QUERIES, len(queries.places)), find_among, "neighbours"
    for _, told in engine.map(work, chunks, shared, what=what):
        num_bank += told.num_images
        num_bad += len(told.bad)
        for name, found in told.found.items():
            nearest[name].add(found)
    if not num_bank:
        raise ValueError(
            f"none of the {len(spec.sets[BANK]):,} training images to find neighbours among can be decoded"
        )
    return Neighbours(nearest=nearest, num_bank=num_bank, num_bad=num_bad)


def knn_accuracies(
    nearest: Nearest,
    bank_labels: NDArray[np.int64],
    labels: NDArray[np.int64],
    eval_set: EvalSet,
    ks: Sequence[int],
    temperature: float,
) -> dict[str, dict[str, float | None]]:
    """Of each k top1, top5 (None of no more than five classes) and the standard error of top1, in percent."""
    places = places_of(nearest.keys)
    found = accuracies(
        similarities_of(nearest.keys),
        torch.from_numpy(bank_labels)[places.clamp(min=0)],
        torch.from_numpy(labels),
        num_classes=len(eval_set.classes),
        ks=ks,
        temperature=temperature,
    )
    return {
        str(k): {
            "top1": top1,
            "top5": top5,
            "error": knn_context(bank_labels, labels, top1=top1, k=k)["eval/knn_error"],
        }
        for k, (top1, top5) in found.items()
    }
