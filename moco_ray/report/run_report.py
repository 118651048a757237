"""The pictures of a finished run: views, nearest neighbours, curves."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from moco_ray.config import Config
from moco_ray.config.views import ViewsConfig
from moco_ray.data.decode import BadImage
from moco_ray.data.reading import Encoded, decode, read_rows
from moco_ray.data.views import center_view, make_view
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.evaluate.features import ImageSet, load_images
from moco_ray.evaluate.knn import nearest_neighbours
from moco_ray.evaluate.measure import features_of
from moco_ray.report.pictures import curves_picture, neighbours_picture, views_picture
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage

_COLUMNS, _ROWS = 8, 6
_BANK = 1000  # to find neighbours among: their crops are held in memory
_SHOWN_PX = 64

Pixels = NDArray[np.uint8]


def illustrate(config: Config, run: Storage, backbone: nn.Module, eval_set: EvalSet) -> list[str]:
    """Draw report/views.png, report/neighbours.png and report/curves.png into a run's folder.

    Returns:
        Paths of the pictures.
    """
    pictures = {
        "views.png": _views(config, eval_set.queries),
        "neighbours.png": _neighbours(config, backbone, eval_set),
        "curves.png": _curves(config, run),
    }
    paths = []
    for name, content in sorted(pictures.items()):
        paths.append(run.join("report", name))
        run.write_bytes(paths[-1], content)
    return paths


def _views(config: Config, images: ImageSet) -> bytes:
    shown = _some_good(images)
    query, key = (
        [make_view(image, config.views, seed=config.run.seed, position=i, view=view) for i, image in enumerate(shown)]
        for view in (0, 1)
    )
    return views_picture(shown, query, key)


def _some_good(images: ImageSet) -> list[Pixels]:
    """A few images, evenly spaced; others in the place of those that are bad."""
    first = images.spread(_COLUMNS).rows
    rows = np.r_[first, np.setdiff1d(images.rows, first)[:_BANK]]
    shown: list[Pixels] = []
    for start in range(0, len(rows), _COLUMNS):
        contents = read_rows(images.manifest, rows[start : start + _COLUMNS], images.options)
        shown += [image for image in map(partial(_decode, images.max_pixels), contents) if image is not None]
        if len(shown) >= _COLUMNS:
            break
    return shown[:_COLUMNS]


def _neighbours(config: Config, backbone: nn.Module, eval_set: EvalSet) -> bytes:
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
    if not eval_set.has_labels:
        return neighbours_picture(*images, similarities=[[value for _, value in row] for row in kept])
    return neighbours_picture(
        *images, ours.labels.tolist(), [[int(theirs.labels[j]) for j, _ in row] for row in kept], eval_set.classes
    )


def _curves(config: Config, run: Storage) -> bytes:
    lines, evaluations = stored_lines(run, "metrics.jsonl"), stored_lines(run, "eval.jsonl")
    chance_loss = config.method.chance_loss(config.optim.global_batch_size)
    return curves_picture(lines, evaluations, chance_loss=chance_loss)


def _decode(max_pixels: int, content: Encoded) -> Pixels | None:
    try:
        return decode(content, max_pixels=max_pixels)
    except BadImage:
        return None


def _good(images: ImageSet, views: ViewsConfig) -> list[Pixels]:
    """Centre crops of the images that decode, in the order of their features."""
    side = max(views.crop_px, _SHOWN_PX)
    batches = load_images(images, lambda image, _: center_view(image, side, side))
    return [pixels for batch in batches for pixels in batch.pixels]
