"""What an encoder is worth without training anything: kNN on all images, and measures that need no labels."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moco_ray.config import Config
from moco_ray.core.encoders import build_backbone
from moco_ray.data.manifest import Images
from moco_ray.driver.features.encoder import images_for, load, run_storage
from moco_ray.driver.features.engine import Engine, open_engine, set_features
from moco_ray.driver.features.knn import BANK, QUERIES, find_neighbours, knn_accuracies, usable_ks
from moco_ray.driver.images.listing import row_options
from moco_ray.evaluate.against_chance import knn_context
from moco_ray.evaluate.at_scale.encoding import CHUNK, Chunk, RawPixels, Spec, view_chunk
from moco_ray.evaluate.eval_set import EvalSet, choose_eval_set
from moco_ray.evaluate.measure import resize_px
from moco_ray.evaluate.representation import alignment, rankme, uniformity
from moco_ray.evaluate.words import describe_eval_set
from moco_ray.report.evaluated import keep_evaluation
from moco_ray.storage.uris import without_secrets
from moco_ray.worker.console import said_by

log = logging.getLogger(__name__)

ENCODER = "encoder"
DEFAULT_K = (10, 20, 100, 200)
_VIEWED = "viewed"
_VIEWED_IMAGES, _RANKED_IMAGES = 512, 25_600  # the latter as in RankMe's paper
_UNLABELLED_IMAGES = 25_600


def evaluate_encoder(
    backbone: nn.Module, eval_set: EvalSet, config: Config, *, ks: Sequence[int] = DEFAULT_K, baselines: bool = False
) -> dict[str, Any]:
    """Measure an encoder.

    Args:
        backbone: Images -> features, on the CPU.
        eval_set: On what.
        config: Its network, crop and standardisation (model, views), kNN's temperature (eval), and the workers (run).
        ks: Numbers of neighbours that vote.
        baselines: Whether to measure the untrained network and raw pixels, too.

    Returns:
        knn ("10": {"top1", "top5", "error"}, in percent; empty without labels), chance and largest_class, rankme,
        alignment and uniformity (of the backbone's features), num_queries, num_bank, num_bad, seconds, and the same
        measures of each of the baselines.

    Raises:
        ValueError: Not one image decodes, or there are fewer images than the smallest k.
    """
    start_s = time.monotonic()
    has_labels = eval_set.has_labels
    ks = usable_ks(ks, eval_set) if has_labels else ()
    spec = _spec(backbone, eval_set, config, baselines)
    with open_engine(spec, config.run) as engine:
        queries = set_features(engine, spec, QUERIES, what="features of the queries")
        views = _views(engine, spec)
        neighbours = find_neighbours(engine, spec, queries, max(ks)) if ks else None
    results = {name: _measures(queries.features[name], views.get(name)) for name in spec.modules}
    labels = eval_set.queries.labels[queries.places]
    bank_labels = (eval_set.bank or eval_set.queries).labels
    if neighbours is not None:
        if eval_set.bank is None:
            bank_labels = labels
        for name, result in results.items():
            result["knn"] = knn_accuracies(
                neighbours.nearest[name], bank_labels, labels, eval_set, ks, config.eval.temperature
            )
    found = results.pop(ENCODER)
    context = knn_context(bank_labels, labels, top1=0.0, k=1) if ks else {}
    return {
        "knn": found.pop("knn", {}),
        **({"chance": context["eval/knn_chance"], "largest_class": context["eval/knn_largest_class"]} if ks else {}),
        **found,
        "num_queries": len(labels),
        "num_bank": neighbours.num_bank if neighbours else 0,
        "num_bad": len(queries.bad) + (neighbours.num_bad if neighbours else 0),
        "baselines": results,
        "seconds": round(time.monotonic() - start_s, 2),
    }


def _spec(backbone: nn.Module, eval_set: EvalSet, config: Config, baselines: bool) -> Spec:
    modules: dict[str, nn.Module] = {ENCODER: backbone}
    if baselines:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            modules["untrained"] = build_backbone(config.model, config.views.crop_px)
        modules["pixels"] = RawPixels()
    sets = {QUERIES: eval_set.queries, _VIEWED: eval_set.queries.spread(_VIEWED_IMAGES)}
    if eval_set.bank is not None:
        sets[BANK] = eval_set.bank
    return Spec(modules=modules, sets=sets, views=config.views, resize_px=resize_px(config.views.crop_px, config.eval))


def _views(engine: Engine, spec: Spec) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Features of two random views of some images, by module."""
    chunk = Chunk(images=_VIEWED, first=0, last=min(CHUNK, len(spec.sets[_VIEWED])))
    ((_, found),) = engine.map(view_chunk, [chunk], what="two views")
    return {name: (torch.tensor(first), torch.tensor(second)) for name, (first, second) in found.items()}


def _measures(features: NDArray[np.float32], views: tuple[torch.Tensor, torch.Tensor] | None) -> dict[str, Any]:
    some = np.linspace(0, len(features) - 1, min(len(features), _RANKED_IMAGES)).round().astype(np.int64)
    return {
        "rankme": rankme(torch.from_numpy(features[some])),
        "alignment": alignment(*views) if views else None,
        "uniformity": uniformity(views[0]) if views and len(views[0]) > 1 else None,
    }


def evaluate(
    config: Config,
    *,
    ks: Sequence[int] = DEFAULT_K,
    baselines: bool = False,
    is_dry: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Measure the encoder of model.init on the images of data.uri and eval.uri.

    Args:
        config: Names them, and says how many workers there are and how many images at most.
        ks: Numbers of neighbours that vote.
        baselines: Whether to measure the untrained network and raw pixels, too.
        is_dry: Only look at what would be done.
        say: Prints a line for the user.

    Returns:
        What `evaluate_encoder` does, with encoder and data; None if nothing was to be done.

    Raises:
        ValueError: There is no such encoder, or there are no such images.
    """
    with said_by(say):
        encoder = load(config)
        images = images_for(config, encoder.origin)
        eval_set = _eval_set(config, images)
        if is_dry:
            if eval_set.has_labels:
                usable_ks(ks, eval_set)
            return None
        results = evaluate_encoder(encoder.backbone, eval_set, config, ks=ks, baselines=baselines)
        if encoder.origin is not None and encoder.origin.run is not None:
            _keep(config, encoder.origin.run, encoder.origin.step, results)
    data = {
        "uri": without_secrets(config.data.uri),
        "eval_uri": without_secrets(config.eval.uri) if config.eval.uri else None,
        "classes": len(eval_set.classes),
    }
    return {"encoder": encoder.about, "data": data, **results}


def _keep(config: Config, run: str, step: int | None, results: Mapping[str, Any]) -> None:
    """Keep the measures with the run that trained the encoder."""
    measures = {f"kNN {top}, k {k}": found[top] for k, found in results["knn"].items() for top in ("top1", "top5")}
    measures |= {
        name: results[name]
        for name in ("chance", "rankme", "alignment", "uniformity", "num_queries", "num_bank")
        if name in results
    }
    for name, other in results["baselines"].items():
        measures |= {f"{name} kNN top1, k {k}": found["top1"] for k, found in other.get("knn", {}).items()}
    data = config.eval.uri or config.data.uri
    known = {name: value for name, value in measures.items() if value is not None}
    keep_evaluation(
        run_storage(config, run), "kNN", f"{config.data.uri} {config.eval.uri or ''}".strip(), data, known, step
    )


def _eval_set(config: Config, images: Images) -> EvalSet:
    """What is measured on; of images without labels no more than their spectrum needs."""
    options = row_options(images.train, config)
    test_options = row_options(images.test, config) if images.test else options
    pixels = config.data.max_pixels
    found = choose_eval_set(images.train, images.test, config.eval, config.run.seed, options, test_options, pixels)
    if not found.has_labels:
        log.info(f"{found.words}; measured on at most {_UNLABELLED_IMAGES:,} images")
        return replace(found, queries=found.queries.spread(_UNLABELLED_IMAGES))
    for line in describe_eval_set(found, config.eval, images.train, images.train.train_rows())[:-1]:
        log.info(line)
    return found
