"""The images that are embedded, and those whose neighbours are looked for."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from moco_ray.config import Config
from moco_ray.data.folders import extension_of
from moco_ray.data.formats.extensions import IMAGE_EXTENSIONS
from moco_ray.data.known_bad import say_known_bad
from moco_ray.data.manifest import make_manifest
from moco_ray.data.sources import list_source
from moco_ray.driver.images.listing import row_options
from moco_ray.driver.images.used import used_images
from moco_ray.evaluate.features import ImageSet
from moco_ray.storage.storage import Storage, resolve_storage_options

log = logging.getLogger(__name__)


def all_images(config: Config, output: str) -> ImageSet:
    """Every image of data.uri that training would see: of one with parts, the train part."""
    data = config.data
    log.info(f"listing {data.uri}")
    options = resolve_storage_options(data.uri, data.storage_options)
    listed = list_source(data, options, leave_out=(config.run.storage_path, output))
    manifest, _ = used_images(config, listed.train, None, f"data.uri {data.uri}")
    log.info(f"{len(manifest):,} images; {listed.words}")
    if listed.test is not None:
        log.info(
            f"the {len(listed.test):,} images of its val or test part are left out; name that part with --data.uri"
        )
    say_known_bad(manifest, None)
    return ImageSet(
        manifest=manifest,
        rows=np.arange(len(manifest)),
        labels=manifest.labels,
        options=row_options(manifest, config),
        max_pixels=data.max_pixels,
    )


def query_images(config: Config, place: str) -> ImageSet:
    """The image, or the images of a folder or list, whose neighbours are asked for.

    Raises:
        ValueError: There is none.
    """
    options = resolve_storage_options(place, config.data.storage_options)
    storage = Storage.open(place, options)
    if storage.is_file(storage.root) and extension_of(storage.root) in IMAGE_EXTENSIONS:
        manifest = make_manifest(uris=[storage.uri(storage.root)], labels=np.full(1, -1), classes=())
    else:
        data = replace(config.data, uri=place, exclude=None, classes=None, label_column=None, target_columns=None)
        manifest = list_source(data, options).train
    return ImageSet(
        manifest=manifest,
        rows=np.arange(len(manifest)),
        labels=manifest.labels,
        options=options,
        max_pixels=config.data.max_pixels,
    )
