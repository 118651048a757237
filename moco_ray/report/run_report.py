"""The pictures of a finished run: views, nearest neighbours, curves."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moco_ray.config import Config
from moco_ray.config.views import ViewsConfig
from moco_ray.data.views import center_view
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.evaluate.features import Features, ImageSet, load_images
from moco_ray.evaluate.knn import nearest_neighbours
from moco_ray.evaluate.measure import features_of
from moco_ray.report.map import make_map
from moco_ray.report.pictures import curves_picture, neighbours_picture, views_picture
from moco_ray.report.some_views import show_views
from moco_ray.report.thumbs import write_json, write_neighbours
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage

_COLUMNS, _ROWS = 8, 6
_BANK = 1000  # to find neighbours among: their crops are held in memory
_SHOWN_PX = 64

Pixels = NDArray[np.uint8]


def illustrate(config: Config, run: Storage, backbone: nn.Module, eval_set: EvalSet) -> list[str]:
    """Draw report/views.png, report/neighbours.png and report/curves.png into a run's folder, and what its page shows.

    Returns:
        Paths of the pictures.
    """
    pictures = {
        "views.png": views_picture(*show_views(config, run, eval_set.queries)),
        "neighbours.png": _neighbours(config, run, backbone, eval_set),
        "curves.png": _curves(config, run),
    }
    paths = []
    for name, content in sorted(pictures.items()):
        paths.append(run.join("report", name))
        run.write_bytes(paths[-1], content)
    return paths


def _neighbours(config: Config, run: Storage, backbone: nn.Module, eval_set: EvalSet) -> bytes:
    """A few queries, evenly spaced, beside the nearest images of the bank that are not the same image."""
    queries = eval_set.queries.spread(_ROWS)
    bank = (eval_set.bank or eval_set.queries).spread(_BANK)
    ours, theirs = (features_of(backbone, images, config.views, config.eval) for images in (queries, bank))
    found = nearest_neighbours(theirs.features, ours.features, _COLUMNS - 1, theirs.ids, ours.ids)
    # Where there are few images, the last of them may be the image itself.
    kept = [
        [(j, value) for j, value in zip(row, values, strict=True) if value > -math.inf]
        for cosines, rows in found
        for row, values in zip(rows.tolist(), cosines.tolist(), strict=True)
    ]
    good_queries, good_bank = _good(queries, config.views), _good(bank, config.views)
    images = [good_queries[i] for i in range(len(ours.labels))], [[good_bank[j] for j, _ in row] for row in kept]
    _write_map(config, run, eval_set, ours, theirs, [*good_queries, *good_bank])
    similarities = [[value for _, value in row] for row in kept]
    if not eval_set.has_labels:
        write_neighbours(run, *images, similarities)
        return neighbours_picture(*images, similarities=similarities)
    labels, found_labels = ours.labels.tolist(), [[int(theirs.labels[j]) for j, _ in row] for row in kept]
    write_neighbours(run, *images, similarities, labels, found_labels, eval_set.classes)
    return neighbours_picture(*images, labels, found_labels, eval_set.classes)


def _write_map(
    config: Config, run: Storage, eval_set: EvalSet, ours: Features, theirs: Features, pixels: list[Pixels]
) -> None:
    """Lay the images out that were encoded already, each once."""
    features = torch.cat([ours.features, theirs.features]).cpu().numpy()
    labels = torch.cat([ours.labels, theirs.labels]).tolist() if eval_set.has_labels else [-1] * len(features)
    ids = torch.cat([ours.ids, theirs.ids]).cpu().numpy()
    once = np.sort(np.unique(ids, return_index=True)[1])
    found = make_map(
        features[once], [labels[i] for i in once], eval_set.classes, [pixels[i] for i in once], seed=config.run.seed
    )
    if found is not None:
        write_json(run, "map", found)


def _curves(config: Config, run: Storage) -> bytes:
    lines, evaluations = stored_lines(run, "metrics.jsonl"), stored_lines(run, "eval.jsonl")
    chance_loss = config.method.chance_loss(config.optim.global_batch_size)
    return curves_picture(lines, evaluations, chance_loss=chance_loss)


def _good(images: ImageSet, views: ViewsConfig) -> list[Pixels]:
    """Centre crops of the images that decode, in the order of their features."""
    side = max(views.crop_px, _SHOWN_PX)
    batches = load_images(images, lambda image, _: center_view(image, side, side))
    return [pixels for batch in batches for pixels in batch.pixels]
