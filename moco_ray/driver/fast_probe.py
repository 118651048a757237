"""A linear probe in minutes: features once, without augmentation, and a classifier fitted to convergence."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moco_ray.cluster.pool import choose_pool_workers
from moco_ray.cluster.workers import Workers
from moco_ray.config import Config
from moco_ray.core.encoders import digest_of
from moco_ray.data.manifest import Images
from moco_ray.driver.features.engine import open_engine, set_features
from moco_ray.driver.images.listing import list_images, row_options, run_eval_set
from moco_ray.evaluate.at_scale.encoding import RawPixels, Spec
from moco_ray.evaluate.classification import classification
from moco_ray.evaluate.features import ImageSet
from moco_ray.evaluate.linear import fit_linear
from moco_ray.evaluate.measure import resize_px
from moco_ray.report.evaluated import keep_results
from moco_ray.storage.storage import Missing, Storage, resolve_storage_options
from moco_ray.storage.uris import without_secrets
from moco_ray.tasks.network import initial_options
from moco_ray.tasks.supervised import LINEAR_PROBE, initial_network
from moco_ray.worker.console import said_by

log = logging.getLogger(__name__)
_MOST_KEPT = 2_000_000_000  # bytes of features that are kept for the next time
_TRAIN, _TEST = "train", "test"
_NUM_BAD = "num_bad"
_NAMED = 10
_OF_BASELINES = ("top1", "top1_error", "strength", "tried", "converged")

Kept = dict[str, NDArray[Any]]


def fast_probe(config: Config, *, baselines: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Fit a linear classifier on the features of an encoder, and measure it on images that it has not seen.

    Features are kept below run.storage-path/features, by encoder, images, crop and kind of device: the next time they are
    there. They are not kept where images had to be left out: the next time these may be had.

    Args:
        config: Of a linear probe. Its crops are the centre's, without augmentation, and its optim is not used.
        baselines: Whether to fit the untrained network's features and raw pixels, too.
        say: Prints a line for the user.

    Returns:
        As results.json of a linear probe, and strength (C), tried (top-1 of each C on held-out training images), converged,
        and num_bad, the images that were left out; of each of the baselines top1 and how it was fitted. loss is None where
        it is infinite: images to classify are of classes without an image to learn from.

    Raises:
        ValueError: Something that the user must mend.
    """
    start_s = time.monotonic()
    with said_by(say):
        if config.data.target_columns is not None:
            raise ValueError("--fast learns one class an image; drop it for --data.target-columns")
        for text in LINEAR_PROBE.warnings(config, 0):
            log.warning(text)
        networks = {"encoder": initial_network(config, LINEAR_PROBE.initial_weights(config))}
        if baselines:
            networks |= {"untrained": initial_network(config, None), "pixels": RawPixels()}
        images = list_images(config)
        eval_set = run_eval_set(LINEAR_PROBE, config, images)
        for line in LINEAR_PROBE.describe_eval_set(config, eval_set, images):
            log.info(line)
        sets = {_TRAIN: _train_set(config, images), _TEST: eval_set.queries}
        workers = choose_pool_workers(config.run)
        found = {name: _probe(name, network, config, sets, images, workers) for name, network in networks.items()}
    values = found.pop("encoder")
    results = {
        "task": config.task,
        "fast": True,
        "init": config.model.init and without_secrets(config.model.init),
        "arch": config.model.arch,
        "data": without_secrets(config.data.uri),
        "classes": list(eval_set.classes),
        "label_fraction": config.data.label_fraction,
        "seed": config.run.seed,
        **values,
        "per_class": dict(zip(eval_set.classes, values["per_class"], strict=True)),
        "baselines": {name: {key: value[key] for key in _OF_BASELINES} for name, value in found.items()},
        "seconds": time.monotonic() - start_s,
    }
    with said_by(say):
        keep_results(config.model.init, initial_options(config), results)
    return results


def _probe(
    name: str, network: nn.Module, config: Config, sets: dict[str, ImageSet], images: Images, workers: Workers
) -> dict[str, Any]:
    """What a linear classifier makes of the features of a network."""
    kept = _features(name, config, network, sets, workers)
    _say_unlearned(kept[f"{_TRAIN}_labels"], images.train.classes)
    log.info(f"{name}: fitting {len(kept[_TRAIN]):,} features of {kept[_TRAIN].shape[1]:,} numbers")
    fit = fit_linear(
        kept[_TRAIN],
        kept[f"{_TRAIN}_labels"],
        kept[_TEST],
        len(images.train.classes),
        seed=config.run.seed,
        tell=lambda c, top1: log.info(f"    C {c:g}: top-1 {top1:.2f} % of held-out training images"),
    )
    if not fit.converged:
        log.warning("the solver has not converged: the classes can be told apart better than this")
    measured = dict(classification(torch.from_numpy(fit.logits), torch.from_numpy(kept[f"{_TEST}_labels"])))
    if not math.isfinite(measured["eval/loss"]):
        measured["eval/loss"] = None  # JSON has no infinity
    return {
        "num_train": len(kept[_TRAIN]),
        "num_test": int(measured.pop("eval/num_images")),
        _NUM_BAD: int(kept[_NUM_BAD]),
        "strength": fit.strength,
        "tried": {f"{c:g}": top1 for c, top1 in fit.tried.items()},
        "converged": fit.converged,
        **{key.removeprefix("eval/"): value for key, value in measured.items()},
    }


def _say_unlearned(labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    unlearned = [name for i, name in enumerate(classes) if i not in set(np.unique(labels).tolist())]
    if unlearned:
        more = f" and {len(unlearned) - _NAMED:,} more" if len(unlearned) > _NAMED else ""
        log.warning(
            f"there is no image to learn from of {len(unlearned):,} of the {len(classes):,} classes: "
            f"{', '.join(unlearned[:_NAMED])}{more}; images of these are classified wrongly"
        )


def _train_set(config: Config, images: Images) -> ImageSet:
    rows = images.train.train_rows()
    return ImageSet(
        manifest=images.train,
        rows=rows,
        labels=images.train.labels[rows],
        options=row_options(images.train, config),
        max_pixels=config.data.max_pixels,
    )


def _features(name: str, config: Config, network: nn.Module, sets: dict[str, ImageSet], workers: Workers) -> Kept:
    """Features and labels of both sets, and how many images were left out; from an earlier time or made now."""
    views = config.views
    key = {
        "encoder": digest_of(network.state_dict()),
        "sets": [[part.manifest.digest, hashlib.sha256(part.rows.tobytes()).hexdigest()] for part in sets.values()],
        "max_pixels": config.data.max_pixels,
        "crop": [views.crop_px, resize_px(views.crop_px, config.eval), views.mean, views.std],
        "dtype": config.run.dtype,
        "uses_gpu": workers.uses_gpu,
    }
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
    path = config.run.storage_path
    folder = Storage.open(path, resolve_storage_options(path, config.run.storage_options))
    place = folder.join("features", f"{digest}.npz")
    try:
        with np.load(io.BytesIO(folder.read_bytes(place)), allow_pickle=False) as stored:
            kept = {part: stored[part] for part in (*sets, *(f"{part}_labels" for part in sets), _NUM_BAD)}
            log.info(f"features of an earlier time: {folder.uri(place)}")
            return kept
    except Missing:
        pass
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning(f"{folder.uri(place)} cannot be read ({error}): features are made anew")
    kept = _encode(name, config, network, sets, workers)
    if kept[_NUM_BAD]:
        log.info("features are not kept, because images were left out")
    elif sum(array.nbytes for array in kept.values()) <= _MOST_KEPT:
        buffer = io.BytesIO()
        np.savez(buffer, **kept)  # type: ignore[arg-type]
        folder.write_bytes(place, buffer.getvalue())
        log.info(f"features are kept in {folder.uri(place)}")
    return kept


def _encode(who: str, config: Config, network: nn.Module, sets: dict[str, ImageSet], workers: Workers) -> Kept:
    spec = Spec(
        modules={"features": network.eval()},
        sets=sets,
        views=config.views,
        resize_px=resize_px(config.views.crop_px, config.eval),
    )
    kept: Kept = {}
    num_bad = 0
    with open_engine(spec, config.run, workers) as engine:
        for name, part in sets.items():
            found = set_features(engine, spec, name, what=f"{who}: features of the {name} images")
            num_bad += len(found.bad)
            if found.bad:
                log.warning(f"{len(found.bad):,} of the {name} images cannot be had or do not decode: left out")
            kept |= {name: found.features["features"], f"{name}_labels": part.labels[found.places]}
    return {**kept, _NUM_BAD: np.array(num_bad)}
