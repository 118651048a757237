"""Measure an encoder while it learns: kNN where there are labels, and measures that need none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco_ray.config.eval import EvalConfig
from moco_ray.config.views import ViewsConfig
from moco_ray.core.encoders import Encoder
from moco_ray.data.views import make_view
from moco_ray.evaluate.against_chance import default_neighbours, knn_context
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.evaluate.features import Features, ImageSet, apply_to_pixels, encode_images, load_images
from moco_ray.evaluate.knn import knn_top1
from moco_ray.evaluate.representation import alignment, rankme, uniformity

_VIEW_IMAGES = 512


def no_word(done: int, total: int) -> None:
    """Tell nobody how far an evaluation is."""


def evaluate(
    encoder: Encoder,
    eval_set: EvalSet,
    views: ViewsConfig,
    config: EvalConfig,
    seed: int = 0,
    tell: Callable[[int, int], None] = no_word,
) -> Iterator[tuple[str, float]]:
    """Measure an encoder, on the device it is on.

    Args:
        encoder: The query encoder, with running BatchNorm statistics. Its mode is restored.
        eval_set: On what.
        views: Crop and standardisation; also the views for alignment.
        config: kNN's k and temperature.
        seed: Of those views.
        tell: Called now and then with the images that are done and those in all.

    Yields:
        eval/knn_top1 in percent (with labels; on backbone features) and what `knn_context` says of it, eval/rankme
        (backbone features), eval/alignment and, of two or more images, eval/uniformity (embeddings of two views of up to
        512 images), and eval/distinct and eval/flat, shares of the images as they were encoded: that differ, and of nearly
        one colour; eval/bad_images, those that were left out because they cannot be had or do not decode, if any.
    """
    bank_set = eval_set.bank if eval_set.has_labels else None
    viewed = eval_set.queries.spread(_VIEW_IMAGES)
    done, total = 0, len(eval_set.queries) + (len(bank_set) if bank_set else 0) + len(viewed)

    def count(images: int) -> None:
        nonlocal done
        done += images
        tell(done, total)

    count(0)
    queries = features_of(encoder.backbone, eval_set.queries, views, config, count)
    num_bad = queries.num_bad
    if eval_set.has_labels:
        bank = features_of(encoder.backbone, bank_set, views, config, count) if bank_set else queries
        num_bad += bank.num_bad if bank_set else 0
        yield from _knn(bank, queries, len(eval_set.classes), config)
    yield "eval/rankme", rankme(queries.features)
    first, second = _embed_two_views(encoder, viewed, views, seed, count)
    yield "eval/alignment", alignment(first, second)
    if len(first) > 1:  # it compares pairs
        yield "eval/uniformity", uniformity(first)
    yield "eval/distinct", len(queries.ids.unique()) / len(queries.ids)
    yield "eval/flat", queries.num_flat / len(queries.ids)
    if num_bad:
        yield "eval/bad_images", float(num_bad)


def _knn(bank: Features, queries: Features, num_classes: int, config: EvalConfig) -> Iterator[tuple[str, float]]:
    """The accuracy of kNN, and what to compare it with."""
    k = config.k or default_neighbours(bank.labels.numpy())
    top1 = knn_top1(
        bank.features,
        bank.labels,
        queries.features,
        queries.labels,
        k=k,
        temperature=config.temperature,
        bank_ids=bank.ids,
        query_ids=queries.ids,
        num_classes=num_classes,
    )
    yield "eval/knn_top1", top1
    yield from knn_context(bank.labels.numpy(), queries.labels.numpy(), top1=top1, k=k).items()


def features_of(
    backbone: nn.Module,
    images: ImageSet,
    views: ViewsConfig,
    config: EvalConfig,
    tell: Callable[[int], None] = lambda count: None,
) -> Features:
    """Features of the centre crops of some images."""
    return encode_images(
        backbone,
        images,
        crop_px=views.crop_px,
        resize_px=resize_px(views.crop_px, config),
        mean=views.mean,
        std=views.std,
        tell=tell,
    )


def resize_px(crop_px: int, config: EvalConfig) -> int:
    """Shorter side before the centre crop, in pixels."""
    if config.resize_px is not None:
        return config.resize_px
    return round(crop_px * 8 / 7) if crop_px >= 128 else crop_px


def _embed_two_views(
    encoder: Encoder, images: ImageSet, views: ViewsConfig, seed: int, tell: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Projections (n, dim) of the query and the key views of some images; not normalised."""

    def both_views(image: NDArray[np.uint8], place: int) -> NDArray[np.uint8]:
        return np.stack([make_view(image, views, seed=seed, position=place, view=view) for view in (0, 1)])

    was_training = encoder.training
    encoder.eval()
    queries, keys = [], []
    try:
        for batch in load_images(images, both_views):  # pixels (n, 2, H, W, 3)
            queries.append(apply_to_pixels(encoder, batch.pixels[:, 0], mean=views.mean, std=views.std))
            keys.append(apply_to_pixels(encoder, batch.pixels[:, 1], mean=views.mean, std=views.std))
            tell(len(batch.places))
    finally:
        encoder.train(was_training)
    return torch.cat(queries), torch.cat(keys)
