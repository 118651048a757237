"""What a batch holds for learning from labels: one view of each image, and what that image is labelled with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from moco_ray.data.blocks import Source, StreamSpec, make_blocks
from moco_ray.data.makers import LabelledView, Maker, TwoViews
from moco_ray.data.views import make_view
from tests.data.small import VIEWS, pixels, source_of, stream_spec, write_files

N = 24
TWICE = np.stack([np.arange(N), -np.arange(N)], axis=1).astype(np.float32)


def _spec(maker: Maker) -> StreamSpec:
    return replace(stream_spec(global_batch_size=12, num_groups=4), maker=maker)


def _source(folder: Path, *, has_targets: bool = False) -> Source:
    """Image i has the label i, and the targets i and -i."""
    source = source_of(folder, stream_spec())
    manifest = source.manifest.with_labels(np.arange(N), tuple(map(str, range(N))))
    if has_targets:
        table = manifest.table.append_column("targets", pa.array(TWICE.tolist(), pa.list_(pa.float32())))
        manifest = replace(manifest, table=table, target_names=("plus", "minus"))
    return replace(source, manifest=manifest)


def _batches(maker: Maker, source: Source, steps: int = 4) -> dict[str, np.ndarray]:
    """The arrays of whole batches (steps * 12, ...), in the order of positions."""
    blocks = list(make_blocks(_spec(maker), source, 0, steps))
    names = [*maker.arrays(), "rows"]
    made = {name: np.concatenate([block[name] for block in blocks], axis=1) for name in names}
    return {name: array.reshape(-1, *array.shape[2:]) for name, array in made.items()}


def test_the_view_is_the_query_view_of_pretraining_and_the_label_that_of_its_image(tmp_path: Path) -> None:
    source = _source(write_files(tmp_path, N))
    made, pretrained = _batches(LabelledView(VIEWS), source), _batches(TwoViews(VIEWS, shuffle_bn=False), source)
    assert made.keys() == {"query", "label", "rows"} and made["label"].dtype == np.int64
    np.testing.assert_array_equal(made["query"], pretrained["query"])
    np.testing.assert_array_equal(made["label"], made["rows"])
    assert sorted(made["rows"]) == sorted([*range(N)] * 2)


def test_of_several_labels_an_image_brings_its_own(tmp_path: Path) -> None:
    source = _source(write_files(tmp_path, N), has_targets=True)
    made = _batches(LabelledView(VIEWS, num_targets=2), source)
    assert made.keys() == {"query", "targets", "rows"} and made["targets"].dtype == np.float32
    np.testing.assert_array_equal(made["targets"], TWICE[made["rows"]])


def _check_stand_ins(folder: Path, broken: Mapping[int, bytes]) -> np.ndarray:
    """Whatever image a place shows, it has that image's label, in its place's own view; returns labels of bad rows."""
    source = _source(write_files(folder, N, broken), has_targets=True)
    classes, targets = _batches(LabelledView(VIEWS), source), _batches(LabelledView(VIEWS, num_targets=2), source)
    for position, (view, label) in enumerate(zip(classes["query"], classes["label"], strict=True)):
        assert label not in broken
        np.testing.assert_array_equal(view, make_view(pixels(int(label)), VIEWS, seed=3, position=position, view=0))
    np.testing.assert_array_equal(targets["query"], classes["query"])
    np.testing.assert_array_equal(targets["targets"], TWICE[classes["label"]])
    is_bad = np.isin(classes["rows"], list(broken))
    np.testing.assert_array_equal(classes["label"][~is_bad], classes["rows"][~is_bad])
    return classes["label"][is_bad]


def test_an_image_that_stands_in_for_a_bad_one_brings_its_label(tmp_path: Path) -> None:
    assert len(_check_stand_ins(tmp_path, {5: b"no image", 11: b"", 12: b"x"})) == 6


def test_a_group_that_stands_in_for_one_without_a_good_image_brings_its_labels(tmp_path: Path) -> None:
    first_group = _batches(LabelledView(VIEWS), _source(write_files(tmp_path / "whole", N)))["rows"][:3]
    assert len(_check_stand_ins(tmp_path / "broken", {int(row): b"no image" for row in first_group})) == 6
