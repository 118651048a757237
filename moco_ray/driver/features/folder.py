"""A folder of embeddings: parts of Parquet that appear whole or not at all, and a note of what they are of."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moco_ray.data.manifest import Manifest
from moco_ray.evaluate.at_scale.encoding import FloatArray
from moco_ray.evaluate.at_scale.search import Vectors
from moco_ray.storage.storage import Storage

NOTE, VECTORS, BAD = "embeddings.json", "vectors", "bad_images.jsonl"
_FORMAT = "moco_ray embeddings 1"
_METADATA = b"moco_ray"
_IDENTITY = ("encoder", "data")
"""What of the note tells one set of embeddings from another."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of the manifest whose vectors are in one file."""

    first: int
    last: int

    @property
    def name(self) -> str:
        """The file's name tells the rows."""
        return f"part-{self.first:010d}-{self.last:010d}.parquet"


@dataclass(frozen=True, kw_only=True)
class EmbeddingFolder:
    """The vectors of all images of a manifest, as far as they are there."""

    storage: Storage
    """The folder."""
    num_rows: int
    """Images of the manifest."""
    part_rows: int
    """Images in a part, but for the last."""

    @property
    def parts(self) -> list[Part]:
        """All parts, in order."""
        firsts = range(0, self.num_rows, self.part_rows)
        return [Part(first=first, last=min(first + self.part_rows, self.num_rows)) for first in firsts]

    def missing(self) -> list[Part]:
        """Those that are not there yet."""
        there = {name for name, _, _ in self.storage.list(self.storage.join(VECTORS))}
        return [part for part in self.parts if part.name not in there]

    def write(
        self, part: Part, manifest: Manifest, rows: NDArray[np.int64], vectors: FloatArray, bad: Mapping[int, str]
    ) -> None:
        """Write a part.

        Args:
            part: Which one.
            manifest: Of all images.
            rows: (n,) those that have a vector.
            vectors: (n, d).
            bad: The other rows of the part, and why they have none.
        """
        labels = manifest.labels[rows]
        names = [manifest.classes[label] if label >= 0 else None for label in labels]
        dim = vectors.shape[1]
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel(), pa.float32())
        table = pa.table(
            {
                "uri": pa.array([manifest.uri(int(row)) for row in rows], pa.string()),
                "label": pa.array(names, pa.string()),
                "row": pa.array(rows, pa.int64()),
                "vector": pa.FixedSizeListArray.from_arrays(flat, dim),
            }
        )
        note = {"bad": {str(row): reason for row, reason in sorted(bad.items())}}
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({_METADATA: json.dumps(note)}), buffer, compression="zstd")
        self.storage.write_bytes(self._path(part), buffer.getvalue())

    def read(self, numbers: Sequence[int] | None = None) -> Iterator[Vectors]:
        """The vectors of some parts, by their numbers, or of all, one part after the other."""
        parts = self.parts
        for part in parts if numbers is None else [parts[number] for number in numbers]:
            content = self.storage.read_bytes(self._path(part))
            table = pq.read_table(io.BytesIO(content), columns=["row", "vector"])
            vectors = table["vector"].combine_chunks()
            dim = vectors.type.list_size
            yield Vectors(
                rows=table["row"].to_numpy().astype(np.int64),
                vectors=vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim),
            )

    def check_device(self, device: str) -> None:
        """Note on what kind of device vectors are made, "cuda" or "cpu", which decides on their dtype and rounding.

        Raises:
            ValueError: Those that are there were made on another kind.
        """
        note = json.loads(self.storage.read_bytes(self.storage.join(NOTE)))
        known = note.get("device")
        if known is None:
            write_note(self.storage, {**note, "device": device})
        elif known != device:
            raise ValueError(
                f"{self.storage.uri(self.storage.root)} holds embeddings made with --run.device {known} (--run.dtype "
                f"{note['encoder'].get('dtype')}), now it is {device}, which rounds otherwise; use --run.device {known}, name "
                "another --output, or delete that folder"
            )

    def bad(self) -> dict[int, str]:
        """The rows that have no vector, and why; read from the ends of all parts."""
        found: dict[int, str] = {}
        for part in self.parts:
            with self.storage.open_file(self._path(part)) as file:
                note = json.loads(pq.read_schema(file).metadata[_METADATA])
            found |= {int(row): reason for row, reason in note["bad"].items()}
        return found

    def finish(self, manifest: Manifest) -> tuple[int, int]:
        """Say what is there, and list the bad images; returns the numbers of vectors and of bad images."""
        bad = self.bad()
        lines = [json.dumps({"row": row, "uri": manifest.uri(row), "reason": bad[row]}) for row in sorted(bad)]
        self.storage.write_bytes(self.storage.join(BAD), "".join(f"{line}\n" for line in lines).encode())
        note = json.loads(self.storage.read_bytes(self.storage.join(NOTE)))
        counts = {"num_vectors": self.num_rows - len(bad), "num_bad": len(bad)}
        write_note(self.storage, {**note, "is_complete": True, **counts})
        return counts["num_vectors"], counts["num_bad"]

    def _path(self, part: Part) -> str:
        return self.storage.join(VECTORS, part.name)


def open_folder(storage: Storage, about: Mapping[str, Any], *, num_rows: int, part_rows: int) -> EmbeddingFolder:
    """A folder for embeddings, new or one with parts of the same.

    Args:
        storage: The folder.
        about: encoder and data: what the vectors are of.
        num_rows: Images.
        part_rows: Images in a part, of a new folder.

    Raises:
        ValueError: It holds those of another encoder or other images, or something else.
    """
    path, uri = storage.join(NOTE), storage.uri(storage.root)
    if not storage.exists(path):
        if storage.list(storage.join(VECTORS)):
            raise ValueError(f"{uri} has a folder {VECTORS} and no {NOTE}: it is something else; name another --output")
        write_note(storage, {"format": _FORMAT, **about, "part_rows": part_rows, "is_complete": False})
        return EmbeddingFolder(storage=storage, num_rows=num_rows, part_rows=part_rows)
    try:
        note = json.loads(storage.read_bytes(path))
        kept, part_rows = {name: note[name] for name in _IDENTITY}, int(note["part_rows"])
        known = note["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{storage.uri(path)} is damaged ({error}); name another --output") from error
    if known != _FORMAT:
        raise ValueError(f"{storage.uri(path)} is of another version, {known!r}; name another --output")
    asked = json.loads(json.dumps(dict(about)))
    for group in _IDENTITY:
        for name, value in kept[group].items():
            if value != asked[group].get(name) and name not in ("path", "uri", "step"):
                raise ValueError(
                    f"{uri} holds embeddings of {_what(group, name)}: it was {_words(kept[group], name)}, now "
                    f"{_words(asked[group], name)}; name another --output, or delete that folder"
                )
    return EmbeddingFolder(storage=storage, num_rows=num_rows, part_rows=part_rows)


def write_note(storage: Storage, note: Mapping[str, Any]) -> None:
    """Write what the embeddings are of."""
    storage.write_bytes(storage.join(NOTE), (json.dumps(note, indent=2) + "\n").encode())


def _what(group: str, name: str) -> str:
    if name != "digest":
        return f"the same {group} used in another way, {name}"
    return "another encoder" if group == "encoder" else "other images"


def _words(values: Mapping[str, Any], name: str) -> str:
    """A value, for people: of a digest where what it is of lies."""
    if name != "digest":
        return str(values.get(name))
    place, step = values.get("path") or values.get("uri"), values.get("step")
    count = f", {values['num_images']:,} images" if "num_images" in values else ""
    return f"{place}{f' of step {step}' if step is not None else ''}{count} (digest {str(values[name])[:12]})"
