"""Features of every image of a data set, kept in a folder; a restart goes on with what is missing."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moco_ray.cluster.pool import choose_pool_workers
from moco_ray.config import Config
from moco_ray.config.paths import as_uri
from moco_ray.data.manifest import Manifest
from moco_ray.driver.features.encoder import LoadedEncoder, load
from moco_ray.driver.features.engine import Engine, SetFeatures, open_engine, set_features
from moco_ray.driver.features.folder import BAD, EmbeddingFolder, Part, open_folder
from moco_ray.driver.features.images import all_images, query_images
from moco_ray.driver.features.near_duplicates import check_threshold, write_duplicates
from moco_ray.driver.features.neighbours import write_neighbours
from moco_ray.evaluate.at_scale.encoding import CHUNK, Chunk, Encoded, Spec, encode_chunk
from moco_ray.evaluate.measure import resize_px
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.storage.uris import without_secrets
from moco_ray.worker.console import said_by

log = logging.getLogger(__name__)

PART_ROWS = 8 * CHUNK
ENCODER, IMAGES, QUERIES = "encoder", "images", "queries"


def embed(
    config: Config,
    output: str,
    *,
    neighbours: str | None = None,
    threshold: float | None = None,
    is_dry: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Encode every image of data.uri, and keep the features in a folder; then look for what is alike.

    Args:
        config: Names images and encoder (model.init), and says how many workers there are.
        output: The folder, local or an fsspec URL.
        neighbours: An image or a folder of images whose nearest images are wanted; None: none.
        threshold: Least similarity of near-duplicates; None: they are not looked for.
        is_dry: Only look at what would be done.
        say: Prints a line for the user.

    Returns:
        output, encoder, data, num_vectors, num_bad, and what was found: neighbours, duplicates.

    Raises:
        ValueError: There is no such encoder, there are no images, or the folder holds other embeddings, or those of
            another kind of device.
    """
    output = str(as_uri("--output", output))
    if threshold is not None:
        check_threshold(threshold)
    with said_by(say):
        encoder = load(config)
        images = all_images(config, output)
        sets = {IMAGES: images}
        if neighbours is not None:
            sets[QUERIES] = query_images(config, str(as_uri("--neighbours", neighbours)))
        spec = Spec(
            modules={ENCODER: encoder.backbone},
            sets=sets,
            views=config.views,
            resize_px=resize_px(config.views.crop_px, config.eval),
        )
        about = _about(config, encoder, spec)
        if is_dry:
            return {"output": without_secrets(output), **about}
        storage = Storage.open(output, resolve_storage_options(output, config.run.storage_options))
        folder = open_folder(storage, about, num_rows=len(images), part_rows=PART_ROWS)
        queries = _encode(config, spec, folder, encoder.about["feature_dim"])
        num_vectors, num_bad = folder.finish(images.manifest)
        bad = f"; {num_bad:,} images have none: {storage.uri(storage.join(BAD))}" if num_bad else ""
        log.info(f"{num_vectors:,} vectors of {encoder.about['feature_dim']} numbers in {output}{bad}")
        results = {"output": without_secrets(output), **about, "num_vectors": num_vectors, "num_bad": num_bad}
        if queries is not None:
            features = queries.features[ENCODER]
            results["neighbours"] = write_neighbours(folder, images, sets[QUERIES], queries, features)
        if threshold is not None:
            results["duplicates"] = write_duplicates(folder, images, encoder.about["feature_dim"], threshold)
    return results


def _about(config: Config, encoder: LoadedEncoder, spec: Spec) -> dict[str, Any]:
    """What the vectors are of."""
    manifest = spec.sets[IMAGES].manifest
    return {
        "encoder": {**encoder.about, "resize_px": spec.resize_px, "dtype": config.run.dtype},
        "data": {"uri": without_secrets(config.data.uri), "digest": manifest.digest, "num_images": len(manifest)},
    }


def _encode(config: Config, spec: Spec, folder: EmbeddingFolder, dim: int) -> SetFeatures | None:
    """Encode what is missing, and the queries if there are any."""
    missing = folder.missing()
    if num_there := len(folder.parts) - len(missing):
        log.info(f"{num_there} of {len(folder.parts)} parts are there already")
    if not missing and QUERIES not in spec.sets:
        return None
    workers = choose_pool_workers(config.run)
    folder.check_device("cuda" if workers.uses_gpu else "cpu")
    with open_engine(spec, config.run, workers) as engine:
        if missing:
            _fill(engine, folder, spec.sets[IMAGES].manifest, missing, dim)
        return set_features(engine, spec, QUERIES, what="queries") if QUERIES in spec.sets else None


def _fill(engine: Engine, folder: EmbeddingFolder, manifest: Manifest, missing: Sequence[Part], dim: int) -> None:
    """Encode the parts that are missing, and write each as soon as all of it is there."""
    chunks = [
        Chunk(images=IMAGES, first=first, last=min(first + CHUNK, part.last))
        for part in missing
        for first in range(part.first, part.last, CHUNK)
    ]
    parts = {part.first: part for part in missing}
    waiting: dict[int, list[Encoded]] = defaultdict(list)
    for chunk, encoded in engine.map(encode_chunk, chunks, what="vectors"):
        part = parts[chunk.first // folder.part_rows * folder.part_rows]
        waiting[part.first].append(encoded)
        if len(waiting[part.first]) * CHUNK >= part.last - part.first:
            _write(folder, manifest, part, waiting.pop(part.first), dim)


def _write(folder: EmbeddingFolder, manifest: Manifest, part: Part, encoded: Sequence[Encoded], dim: int) -> None:
    good = sorted((one for one in encoded if len(one.places)), key=lambda one: int(one.places[0]))
    folder.write(
        part,
        manifest,
        np.concatenate([np.zeros(0, np.int64), *(one.places for one in good)]),
        np.concatenate([np.zeros((0, dim), np.float32), *(one.features[ENCODER] for one in good)]),
        {place: reason for one in encoded for place, reason in one.bad.items()},
    )
