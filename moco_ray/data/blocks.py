"""One data task: read, decode and augment BatchNorm groups of global batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moco_ray.core.batch import key_permutation
from moco_ray.data.daemon_pool import DaemonPool
from moco_ray.data.decode import BadImage
from moco_ray.data.makers import Maker, Sample
from moco_ray.data.manifest import Manifest
from moco_ray.data.order import Order
from moco_ray.data.reading import Encoded, decode, read_rows
from moco_ray.storage.storage import StorageOptions

_TASK_BYTES = 16_000_000
_MOST_TASK_BYTES = 80_000_000  # 256 images of 224 pixels; beside them a task holds encoded images and copies
_MAX_STEPS_A_TASK = 8
_TOGETHER_BYTES = 1_000_000  # of images and views that are made together: about what a core's cache holds
_SEARCHED_IMAGES = 2000  # beyond a batch without a good image

Block = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """All that decides the content of the stream; the number of workers is not among it."""

    seed: int
    """Seed of order, augmentation and shuffle-BN."""
    global_batch_size: int
    """Images in one step (B)."""
    num_groups: int
    """BatchNorm groups in one step (G)."""
    maker: Maker
    """What a batch holds of each image."""
    max_pixels: int
    """Images with more pixels count as bad."""

    @property
    def group_size(self) -> int:
        """Images in a group (g)."""
        return self.global_batch_size // self.num_groups

    @property
    def steps_per_task(self) -> int:
        """Steps that one task prepares: several where images are small, so that tasks are worth starting."""
        return int(np.clip(_TASK_BYTES // self.step_bytes, 1, _MAX_STEPS_A_TASK))

    @property
    def groups_per_task(self) -> int:
        """Groups that one task prepares: fewer than all where images are many; all where something changes groups."""
        if self.maker.shuffle_bn:
            return self.num_groups
        return int(np.clip(_MOST_TASK_BYTES * self.num_groups // self.step_bytes, 1, self.num_groups))

    @property
    def step_bytes(self) -> int:
        """Bytes of what is made for one step."""
        return self.global_batch_size * self.maker.bytes_per_image()

    @property
    def task_bytes(self) -> int:
        """Memory that a task takes, about: what it makes, a copy where that changes groups, and the images that it reads."""
        made = self.step_bytes * self.steps_per_task * self.groups_per_task // self.num_groups
        return 2 * made + made // 2 * self.maker.shuffle_bn

    def shuffle(self, step: int) -> NDArray[np.int64]:
        """For each slot of what changes groups, such as the key batch, the row of the batch that it holds, (B,)."""
        if self.maker.shuffle_bn:
            return key_permutation(self.seed, step, self.global_batch_size)
        return np.arange(self.global_batch_size)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the rows of the stream come from."""

    manifest: Manifest
    """All rows of the data set."""
    train_rows: NDArray[np.int64]
    """Manifest rows that training may see."""
    order: Order
    """Which of the training rows stands at which position."""
    options: StorageOptions
    """Access to the images."""


def make_blocks(
    spec: StreamSpec,
    source: Source,
    first_step: int,
    num_steps: int,
    contents: Sequence[Encoded] | None = None,
    groups: range | None = None,
) -> Iterator[Block]:
    """Prepare groups of `num_steps` global batches and yield one block for each group.

    Block j holds group j of every step: the maker's arrays (num_steps, g, ...), such as `query` and `key`, `rows`
    (num_steps, g) int64 manifest rows, `indices` of these among the training rows, `group` () int64, `bad` () JSON of
    [[row, uri, reason], ...] for rows that cannot be had or do not decode. A bad row keeps its position; its image is the
    next good one of its group, cyclically, under the augmentation of its own position. A group without a good row shows
    what the next one of its batch that has some shows, cyclically, and a batch without any what the groups after it show.

    Args:
        spec: What is streamed.
        source: From where.
        first_step: The first of the batches.
        num_steps: How many.
        contents: Their encoded images in order, where they have been read with others; None: they are read here.
        groups: Which groups; None: all. Only where key views stay in their groups may it be some.

    Raises:
        ValueError: None of the files that were tried can be read, or none of many images in a row is a good one.
        ReadError: The storage does not answer.
    """
    groups, maker, g = groups or range(spec.num_groups), spec.maker, spec.group_size
    assert len(groups) == spec.num_groups or not maker.shuffle_bn
    size = len(groups) * g
    made = maker.empty(num_steps, size)
    firsts = (first_step + np.arange(num_steps)) * spec.global_batch_size + groups.start * g  # position of each step's
    indices = source.order.rows(firsts[:, None] + np.arange(size))
    rows = source.train_rows[indices]  # both (num_steps, size)
    bad: list[list[tuple[int, str]]] = [[] for _ in groups]
    parts = [slice(j * g, (j + 1) * g) for j in range(len(groups))]
    pieces = [(t, j) for t in range(num_steps) for j in range(len(groups))]
    with DaemonPool(1) as reader:  # reads the next group while this one is decoded

        def read(piece: tuple[int, int]) -> Sequence[Encoded]:
            first = piece[0] * size + piece[1] * g
            if contents is not None:
                return contents[first : first + g]
            return read_rows(source.manifest, rows.ravel()[first : first + g], source.options)

        for (t, j), images in zip(pieces, reader.map(read, pieces), strict=True):
            out = {name: array[t, parts[j]] for name, array in made.items()}
            bad[j] += _make_group(spec, source, first_step + t, groups[j], rows[t, parts[j]], images, out)
    for t in range(num_steps if maker.shuffle_bn else 0):
        moved = made[str(maker.shuffled)][t]
        moved[:] = moved[spec.shuffle(first_step + t)]
    for j, group in enumerate(groups):
        yield {
            **{name: array[:, parts[j]] for name, array in made.items()},
            "rows": rows[:, parts[j]],
            "indices": indices[:, parts[j]],
            "group": np.array(group),
            "bad": np.array(json.dumps([(row, source.manifest.uri(row), reason) for row, reason in bad[j]])),
        }


def _make_group(
    spec: StreamSpec,
    source: Source,
    step: int,
    group: int,
    rows: NDArray[np.int64],
    images: Sequence[Encoded],
    out: Mapping[str, NDArray[Any]],
) -> list[tuple[int, str]]:
    """Make the arrays of one group of one step; returns its bad rows with the reasons."""
    first = step * spec.global_batch_size + group * spec.group_size
    reasons = fill_group(spec, images, Known.of(source.manifest, rows), first, out)
    if len(reasons) == len(images):
        shown, good = _next_good_group(spec, source, step, group, reasons[0])
        fill_group(spec, good, Known.of(source.manifest, shown), first, out)
    return [(int(rows[i]), reason) for i, reason in reasons.items()]


class Known(NamedTuple):
    """What a manifest says of some rows."""

    labels: NDArray[np.int64]
    """(n,) classes, -1 without one."""
    targets: Sequence[NDArray[np.float32] | None]
    """n times what there is beside the class."""

    @classmethod
    def of(cls, manifest: Manifest, rows: NDArray[np.int64]) -> Known:
        """Look it up."""
        return cls(manifest.labels[rows], manifest.targets(rows) or [None] * len(rows))


def fill_group(
    spec: StreamSpec,
    contents: Sequence[Encoded],
    known: Known,
    first_position: int,
    out: Mapping[str, NDArray[Any]],
) -> dict[int, str]:
    """Decode each image of one group once and make its arrays, the next good image standing in for a bad one.

    Args:
        spec: What is streamed.
        contents: The encoded images.
        known: What is known of them.
        first_position: Of the group in the run.
        out: The group's part of each array (g, ...).

    Returns:
        The reasons of the bad ones by place; if these are all, nothing has been made.
    """
    bad: dict[int, str] = {}
    samples: list[Sample] = []
    num_bytes, own_bytes = 0, spec.maker.bytes_per_image()

    def want(image: NDArray[np.uint8], shown: int, i: int) -> None:
        """Have what image number `shown` gives made in place i, with that of others."""
        nonlocal samples, num_bytes
        place = {name: array[i, ...] for name, array in out.items()}
        label, targets = int(known.labels[shown]), known.targets[shown]
        samples.append(Sample(image, label, first_position + i, place, targets))
        num_bytes += image.nbytes + own_bytes
        if num_bytes >= _TOGETHER_BYTES:
            spec.maker.make(samples, spec.seed)
            samples, num_bytes = [], 0

    for i, content in enumerate(contents):
        try:
            image = decode(content, max_pixels=spec.max_pixels)
        except BadImage as reason:
            bad[i] = str(reason)
        else:
            want(image, i, i)
    if len(bad) < len(contents):
        for i in bad:
            stand_in = next(k % len(contents) for k in range(i + 1, i + len(contents)) if k % len(contents) not in bad)
            want(decode(contents[stand_in], max_pixels=spec.max_pixels), stand_in, i)
    spec.maker.make(samples, spec.seed)
    return bad


def _next_good_group(
    spec: StreamSpec, source: Source, step: int, group: int, reason: str
) -> tuple[NDArray[np.int64], list[Encoded]]:
    """Rows and images of the next group with a good one: of the same batch, cyclically, or of those that follow it."""
    g, size = spec.group_size, spec.global_batch_size
    same_batch = [step * size + (group + k) % spec.num_groups * g for k in range(1, spec.num_groups)]
    later = [(step + 1) * size + k * g for k in range(-(-_SEARCHED_IMAGES // g))]
    for first in same_batch + later:
        rows = source.train_rows[source.order.rows(np.arange(first, first + g))]
        contents = read_rows(source.manifest, rows, source.options)
        if any(_is_good(spec, content) for content in contents):
            return rows, contents
    first = step * size + group * g
    uri = source.manifest.uri(int(source.train_rows[source.order.rows(np.array([first]))[0]]))
    raise ValueError(
        f"none of {len(same_batch + later) * g + g:,} images in a row, from position {first:,} on, is a good one (the first "
        f"is {uri}: {reason}); mend them, or delete them and add --data.relist to the command"
    )


def _is_good(spec: StreamSpec, content: Encoded) -> bool:
    try:
        decode(content, max_pixels=spec.max_pixels)
    except BadImage:
        return False
    return True
