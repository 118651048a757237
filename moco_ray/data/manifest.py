"""The data set of a run: one row for each image."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moco_ray.storage.storage import Storage

_CHUNK_ROWS = 32
_HASHED_AT_ONCE = 100_000
_METADATA = b"moco_ray"
_FIRST_ORDER, _ORDER = 1, 2  # of runs that began before manifests said so, and of those that begin now

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Manifest:
    """Every image of a data set, in a fixed order; a row's number is its identity."""

    table: pa.Table
    """Columns uri (large_string), row_group and row_in_group (int32, -1 for single files), num_bytes (int64, -1 when unknown),
    label (int32, -1 without one), is_holdout (bool), and where images have more to say than a class, targets
    (list<float32>); in one chunk, since `take` would otherwise copy all of it each time."""
    kind: Literal["files", "parquet"]
    """Whether a row is a file, or a row of a Parquet file."""
    image_column: str | None
    """Column of image bytes in Parquet files."""
    classes: tuple[str, ...]
    """Names of the labels."""
    known_as: str | None = None
    """Digest under which checkpoints know these images, where they have moved since."""
    former_digests: tuple[str, ...] = ()
    """Digests of the lists that this one has replaced, the newest first."""
    order_version: int = _FIRST_ORDER
    """How a run orders the rows, for as long as it lasts."""
    window_rows: int | None = None
    """Rows of Parquet files that are shuffled together, about, but at least a global batch; None: no more than that."""
    target_names: tuple[str, ...] = ()
    """Names of the targets, where each row has one number for each of them."""

    def __post_init__(self) -> None:
        """Bring the table into one chunk."""
        object.__setattr__(self, "table", _in_one_chunk(self.table))

    def __len__(self) -> int:
        """Number of images."""
        return int(self.table.num_rows)

    @property
    def first_uri(self) -> str:
        """Where one of the images lies, which need not be where the list of them does."""
        return str(self.table["uri"][0].as_py())

    @cached_property
    def labels(self) -> IntArray:
        """Label of every row, -1 without one."""
        return self._column("label").astype(np.int64)

    @property
    def has_targets(self) -> bool:
        """Whether rows have more than a class."""
        return "targets" in self.table.column_names

    def targets(self, rows: IntArray) -> list[NDArray[np.float32]] | None:
        """What some rows have to say beside their class; None where there is nothing."""
        if not self.has_targets:
            return None
        found = self.table["targets"].chunk(0).take(pa.array(rows))
        return [np.asarray(values.values.to_numpy(), dtype=np.float32) for values in found]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, as it was before the images moved."""
        if self.known_as is not None:
            return self.known_as
        hashed = hashlib.sha256(self._metadata())
        for name in ("row_group", "row_in_group", "num_bytes", "label", "is_holdout"):
            hashed.update(np.ascontiguousarray(self._column(name)).tobytes())
        if self.has_targets:
            targets = self.table["targets"].chunk(0)
            hashed.update(targets.flatten().to_numpy().tobytes())
            hashed.update(pc.list_value_length(targets).to_numpy().tobytes())
        uris = self.table["uri"].chunk(0)
        for start in range(0, len(uris), _HASHED_AT_ONCE):
            hashed.update(_lines(uris.slice(start, _HASHED_AT_ONCE)))
        return hashed.hexdigest()

    def uri(self, row: int) -> str:
        """Where a row comes from, for people."""
        uri = str(self.table["uri"][row].as_py())
        if self.kind == "files":
            return uri
        return (
            f"{uri} (row group {self.table['row_group'][row].as_py()}, row {self.table['row_in_group'][row].as_py()})"
        )

    def train_rows(self) -> IntArray:
        """Rows that training may see."""
        return np.flatnonzero(~self._column("is_holdout")).astype(np.int64)

    def other_rows(self, rows: IntArray) -> IntArray:
        """All rows but some, ascending."""
        is_other = np.ones(len(self), dtype=bool)
        is_other[rows] = False
        return np.flatnonzero(is_other).astype(np.int64)

    def keep(self, mask: NDArray[np.bool_]) -> Manifest:
        """The rows in the mask, with new numbers."""
        return replace(self, table=self.table.filter(pa.array(mask)), known_as=None)

    def with_labels(self, labels: IntArray, classes: tuple[str, ...]) -> Manifest:
        """The same images with other labels."""
        index = self.table.schema.get_field_index("label")
        table = self.table.set_column(index, "label", pa.array(labels, pa.int32()))
        return replace(self, table=table, classes=classes, known_as=None)

    def with_holdout(self, mask: NDArray[np.bool_]) -> Manifest:
        """The same images, of which training does not see those in the mask."""
        index = self.table.schema.get_field_index("is_holdout")
        return replace(self, table=self.table.set_column(index, "is_holdout", pa.array(mask)), known_as=None)

    @property
    def is_first_order(self) -> bool:
        """Whether the run orders rows as runs did before manifests said how."""
        return self.order_version == _FIRST_ORDER

    def chunk_starts(self) -> IntArray | None:
        """First train row of each chunk: up to 32 consecutive train rows of one row group. None for files."""
        if self.kind == "files":
            return None
        rows = self.train_rows()
        if len(rows) == 0:
            return None
        files = self.table["uri"].chunk(0).dictionary_encode().indices.to_numpy(zero_copy_only=False)[rows]
        groups = self._column("row_group")[rows]
        starts_run = np.r_[True, (files[1:] != files[:-1]) | (groups[1:] != groups[:-1])]
        run_start = np.maximum.accumulate(np.where(starts_run, np.arange(len(rows)), 0))
        return np.flatnonzero((np.arange(len(rows)) - run_start) % _CHUNK_ROWS == 0).astype(np.int64)

    def write(self, storage: Storage, path: str) -> None:
        """Write as Parquet."""
        buffer = io.BytesIO()
        values = json.loads(self._metadata())
        if self.known_as is not None:
            values["known_as"] = self.known_as
        if self.former_digests:
            values["former_digests"] = self.former_digests
        table = self.table.replace_schema_metadata({_METADATA: json.dumps(values).encode()})
        pq.write_table(table, buffer, compression="zstd")
        storage.write_bytes(path, buffer.getvalue())

    @staticmethod
    def read(storage: Storage, path: str) -> Manifest:
        """Read what `write` wrote.

        Raises:
            ValueError: It is not there, damaged, or of a newer version.
        """
        content = storage.read_bytes(path)
        try:
            table = pq.read_table(io.BytesIO(content))
            values = json.loads(table.schema.metadata[_METADATA])
            order = values.get("order", {"version": _FIRST_ORDER, "window_rows": None})
            manifest = Manifest(
                table=table,
                kind=values["kind"],
                image_column=values["image_column"],
                classes=tuple(values["classes"]),
                known_as=values.get("known_as"),
                former_digests=tuple(values.get("former_digests", ())),
                order_version=order["version"],
                window_rows=order["window_rows"],
                target_names=tuple(values.get("target_names", ())),
            )
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{storage.uri(path)} is damaged ({type(error).__name__}: {error})") from error
        if manifest.order_version not in (_FIRST_ORDER, _ORDER):
            raise ValueError(
                f"{storage.uri(path)} is of a newer moco_ray: it orders rows in version {manifest.order_version} of the "
                f"order, and this one knows versions up to {_ORDER}; use the version that began the run"
            )
        return manifest

    @staticmethod
    def count_train_rows(storage: Storage, path: str) -> int:
        """How many images of a written manifest are trained on; no more of the file is read than that takes.

        Raises:
            ValueError: It is not there, or damaged.
        """
        try:
            with storage.open_file(path) as file:
                held_out = pq.read_table(file, columns=["is_holdout"])["is_holdout"]
        except (pa.ArrowException, KeyError) as error:
            raise ValueError(f"{storage.uri(path)} is damaged ({type(error).__name__}: {error})") from error
        return len(held_out) - int(pc.sum(held_out).as_py() or 0)

    def moved(self, uris: pa.Array | pa.ChunkedArray) -> Manifest:
        """The same images in other places; checkpoints know them as before."""
        index = self.table.schema.get_field_index("uri")
        return replace(self, table=self.table.set_column(index, "uri", uris), known_as=self.digest)

    def succeeding(self, former: Manifest) -> Manifest:
        """These images as the successors of others in the same run."""
        digests = tuple(d for d in dict.fromkeys((former.digest, *former.former_digests)) if d != self.digest)
        return replace(self, former_digests=digests)

    def _metadata(self) -> bytes:
        values: dict[str, Any] = {"kind": self.kind, "image_column": self.image_column, "classes": self.classes}
        if self.target_names:
            values["target_names"] = self.target_names
        if not self.is_first_order:
            values["order"] = {"version": self.order_version, "window_rows": self.window_rows}
        return json.dumps(values).encode()

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self.table[name].to_numpy()
        return column


def make_manifest(
    *,
    uris: list[str] | pa.Array,
    labels: IntArray,
    classes: tuple[str, ...],
    num_bytes: IntArray | None = None,
    row_groups: IntArray | None = None,
    rows_in_group: IntArray | None = None,
    image_column: str | None = None,
    window_rows: int | None = None,
    targets: Sequence[Sequence[float]] | None = None,
    target_names: tuple[str, ...] = (),
) -> Manifest:
    """Make a manifest from columns of equal length; with `image_column` the rows are rows of Parquet files."""
    n = len(uris)
    unknown = np.full(n, -1)
    table = pa.table(
        {
            "uri": pa.array(uris, pa.large_string()) if isinstance(uris, list) else uris,
            "row_group": pa.array(unknown if row_groups is None else row_groups, pa.int32()),
            "row_in_group": pa.array(unknown if rows_in_group is None else rows_in_group, pa.int32()),
            "num_bytes": pa.array(unknown if num_bytes is None else num_bytes, pa.int64()),
            "label": pa.array(labels, pa.int32()),
            "is_holdout": pa.array(np.zeros(n, dtype=bool)),
        }
    )
    if targets is not None:
        table = table.append_column("targets", pa.array(targets, pa.list_(pa.float32())))
    kind: Literal["files", "parquet"] = "files" if image_column is None else "parquet"
    return Manifest(
        table, kind, image_column, classes, order_version=_ORDER, window_rows=window_rows, target_names=target_names
    )


def _in_one_chunk(table: pa.Table) -> pa.Table:
    """Of one chunk a column, with room for more than 2 GB of URIs."""
    index = table.schema.get_field_index("uri")
    if table.schema.types[index] != pa.large_string():
        table = table.set_column(index, "uri", table["uri"].cast(pa.large_string()))
    columns = [column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() for column in table.columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _lines(texts: pa.LargeStringArray) -> memoryview:
    """UTF-8 of some texts, each with a line break after it."""
    nothing, line_break = (pa.scalar(text, pa.large_string()) for text in ("", "\n"))
    joined = pc.binary_join_element_wise(texts, nothing, line_break)
    offsets = np.frombuffer(joined.buffers()[1], dtype=np.int64)[joined.offset : joined.offset + len(joined) + 1]
    return memoryview(joined.buffers()[2])[offsets[0] : offsets[-1]]


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a run."""

    train: Manifest
    """Those of data.uri, some of them perhaps held out from training."""
    test: Manifest | None
    """Those to classify: of eval.uri, or of the val or test part of data.uri; None: held-out ones, if any."""
    notes: Mapping[str, bytes] = field(default_factory=dict)
    """Files that say more of them, by name, for the folder of the run that begins with them."""
