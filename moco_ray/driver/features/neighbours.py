"""The nearest of all embedded images to some others: a list and a picture."""

from __future__ import annotations

import csv
import io
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_ray.data.manifest import Manifest
from moco_ray.driver.features.engine import SetFeatures
from moco_ray.driver.features.folder import EmbeddingFolder
from moco_ray.driver.features.thumbnails import thumbnails
from moco_ray.evaluate.at_scale.encoding import FloatArray
from moco_ray.evaluate.at_scale.search import nearest_rows
from moco_ray.evaluate.features import ImageSet

log = logging.getLogger(__name__)

CSV, PICTURE = "neighbours.csv", "neighbours.png"
_K, _ROWS_SHOWN = 8, 12


def write_neighbours(
    folder: EmbeddingFolder, images: ImageSet, queries: ImageSet, found: SetFeatures, features: FloatArray
) -> dict[str, Any]:
    """Find the nearest images of each query, and write them as a list and, of the first queries, as a picture.

    Args:
        folder: The embeddings.
        images: What they are of.
        queries: Whose neighbours are looked for.
        found: Which of them decode.
        features: (n, d) of those.

    Returns:
        num_queries, and of each its uri and its neighbours' uri and similarity.
    """
    own = _rows_of(queries.manifest, found.places, images.manifest)
    rows, cosines = nearest_rows(features, own, folder.read(), _K)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["query", "rank", "uri", "similarity"])
    listed = []
    for place, near, values in zip(found.places, rows.tolist(), cosines.tolist(), strict=True):
        query = queries.manifest.uri(int(place))
        there = [(images.manifest.uri(row), value) for row, value in zip(near, values, strict=True) if row >= 0]
        writer.writerows([query, rank, uri, f"{value:.4f}"] for rank, (uri, value) in enumerate(there, 1))
        listed.append({"uri": query, "neighbours": [{"uri": uri, "similarity": value} for uri, value in there]})
    storage = folder.storage
    storage.write_bytes(storage.join(CSV), table.getvalue().encode(errors="surrogateescape"))
    storage.write_bytes(storage.join(PICTURE), _picture(images, queries, found.places, rows, cosines))
    log.info(f"neighbours of {len(listed):,} images: {storage.uri(storage.join(PICTURE))}, {CSV}")
    return {"num_queries": len(listed), "queries": listed}


def _rows_of(queries: Manifest, places: NDArray[np.int64], images: Manifest) -> NDArray[np.int64]:
    """The row that a query has among the images; -1 if it is none of them."""
    wanted = {queries.uri(int(place)): -1 for place in places}
    uris = images.table["uri"]
    if images.kind == "files":
        for row in range(len(images)):
            if (uri := uris[row].as_py()) in wanted:
                wanted[uri] = row
    return np.array([wanted[queries.uri(int(place))] for place in places], dtype=np.int64)


def _picture(
    images: ImageSet,
    queries: ImageSet,
    places: NDArray[np.int64],
    rows: NDArray[np.int64],
    cosines: NDArray[np.float32],
) -> bytes:
    from moco_ray.report.pictures import neighbours_picture  # here, because matplotlib takes seconds to import

    first = range(min(len(places), _ROWS_SHOWN))
    asked = thumbnails(queries, [int(places[i]) for i in first])
    near = thumbnails(images, [int(row) for i in first for row in rows[i] if row >= 0])
    shown = [[(int(row), float(c)) for row, c in zip(rows[i], cosines[i], strict=True) if row in near] for i in first]
    return neighbours_picture(
        [asked[int(places[i])] for i in first],
        [[near[row] for row, _ in line] for line in shown],
        similarities=[[cosine for _, cosine in line] for line in shown],
        heading=("Nearest neighbours", "images beside those whose features are most alike (cosine similarity)"),
    )
