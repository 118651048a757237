from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco_ray.config.data import DataConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.views import ViewsConfig, v2_views
from moco_ray.core.encoders import Encoder, build_encoder
from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.sources import build_manifest
from moco_ray.evaluate.eval_set import EvalSet, choose_eval_set, holdout_mask
from moco_ray.evaluate.measure import evaluate, resize_px
from moco_ray.storage.storage import resolve_storage_options

NO_OPTIONS = resolve_storage_options("", None)
STILL = ViewsConfig(crop_px=16, crop_min=1.0, jitter_p=0, grayscale_p=0, blur_p=(0, 0), flip_p=0)


def manifest_of(uri: Path) -> Manifest:
    return build_manifest(DataConfig(uri=str(uri)), NO_OPTIONS)


def eval_set_of(train: Manifest, held_out: Manifest | None, config: EvalConfig, seed: int = 0) -> EvalSet:
    train = train.with_holdout(holdout_mask(train.labels, config, seed))
    return choose_eval_set(train, held_out, config, seed, NO_OPTIONS, NO_OPTIONS, 10**6)


def made_up(classes: tuple[str, ...], labels: list[int]) -> Manifest:
    uris = [f"/nowhere/{i}.png" for i in range(len(labels))]
    return make_manifest(uris=uris, labels=np.array(labels), classes=classes)


class Colour(nn.Module):
    """Features (n, 3): the mean colour, which tells pure colours apart whatever their brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.one * images.mean(dim=(2, 3))


def colour_encoder() -> Encoder:
    return Encoder(Colour(), nn.Linear(3, 4), dim=4)


def write_colours(folder: Path, names: dict[str, int], count: int, *, first: int = 100) -> Path:
    """Folders of flat images of a pure colour (channel), no two alike."""
    for name, channel in names.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = np.zeros((16, 16, 3), np.uint8)
            image[:, :, 2 - channel] = first + i  # OpenCV writes BGR
            cv2.imwrite(str(folder / name / f"{i:03d}.png"), image)
    return folder


COLOUR_VIEWS = replace(STILL, mean=(0, 0, 0), std=(1, 1, 1))


def test_holdout_is_a_seeded_share_of_the_labelled_rows() -> None:
    labels = np.array([0, 1, -1, 2] * 250)
    mask = holdout_mask(labels, EvalConfig(), 3)
    assert mask.sum() == 75
    assert (labels[mask] >= 0).all()
    assert (mask == holdout_mask(labels, EvalConfig(), 3)).all()
    assert (mask != holdout_mask(labels, EvalConfig(), 4)).any()


def test_holdout_has_at_most_max_queries_images_and_all_classes_in_proportion() -> None:
    labels = np.repeat(np.arange(4), 5000)
    mask = holdout_mask(labels, EvalConfig(), 0)
    assert mask.sum() == 2000
    assert np.bincount(labels[mask]).min() > 400


@pytest.mark.parametrize(
    ("labels", "config"),
    [
        (np.full(100, -1), EvalConfig()),
        (np.zeros(100, dtype=np.int64), EvalConfig()),
        (np.arange(100) % 2, EvalConfig(uri="elsewhere")),
        (np.arange(100) % 2, EvalConfig(holdout_fraction=0)),
    ],
)
def test_nothing_is_held_out_where_it_would_be_of_no_use(labels: np.ndarray, config: EvalConfig) -> None:
    assert not holdout_mask(labels, config, 0).any()


def test_held_out_rows_are_the_queries_and_labelled_training_rows_the_bank() -> None:
    train = made_up(("a", "b"), [0, 1, -1] * 100)
    chosen = eval_set_of(train, None, EvalConfig(max_bank=50))
    assert chosen.bank is not None
    queries, bank = ({images.manifest.uri(row) for row in images.rows} for images in (chosen.queries, chosen.bank))
    mask = holdout_mask(train.labels, EvalConfig(), 0)
    assert queries == {train.uri(row) for row in np.flatnonzero(mask)}
    assert not queries & bank
    assert len(bank) == 50
    assert (chosen.bank.labels >= 0).all()


def test_without_labels_a_sample_of_the_training_images_is_looked_at() -> None:
    chosen = eval_set_of(made_up((), [-1] * 100), None, EvalConfig(max_queries=30))
    assert len(chosen.queries) == 30
    assert chosen.bank is None
    assert not chosen.has_labels


def test_eval_images_of_the_same_classes_are_compared_with_the_training_images_by_name() -> None:
    train = made_up(("2", "10", "9"), [0, 1, 2, -1] * 25)
    held_out = made_up(("10", "2", "9"), [0, 1, 2] * 10)
    chosen = eval_set_of(train, held_out, EvalConfig(uri="held out"))
    assert len(chosen.queries) == 30
    assert chosen.bank is not None
    for images, source in ((chosen.queries, held_out), (chosen.bank, train)):
        names = {source.uri(row): source.classes[label] for row, label in enumerate(source.labels) if label >= 0}
        for row, label in zip(images.rows, images.labels, strict=True):
            assert chosen.classes[label] == names[images.manifest.uri(row)]


def test_eval_images_of_other_classes_are_compared_with_each_other() -> None:
    train, held_out = made_up(("a", "b"), [0, 1] * 50), made_up(("a", "c"), [0, 1, -1] * 10)
    chosen = eval_set_of(train, held_out, EvalConfig(uri="held out"))
    assert chosen.bank is None
    assert chosen.has_labels
    assert len(chosen.queries) == 20


@pytest.mark.parametrize(
    ("trained", "evaluated", "common"),
    [("abc", "ab", "ab"), ("ab", "abc", "ab"), ("abcd", "dbx", "db"), ("ab", "ab", "ab")],
)
def test_the_bank_is_the_training_images_of_the_classes_that_both_have(
    trained: str, evaluated: str, common: str
) -> None:
    train = made_up(tuple(trained), list(range(len(trained))) * 10)
    held_out = made_up(tuple(evaluated), list(range(len(evaluated))) * 5)
    chosen = eval_set_of(train, held_out, EvalConfig(uri="held out"))
    assert chosen.bank is not None and chosen.classes == tuple(common)
    assert (len(chosen.queries), len(chosen.bank)) == (5 * len(common), 10 * len(common))
    for images, source in ((chosen.queries, held_out), (chosen.bank, train)):
        whole = {source.uri(row): source.classes[label] for row, label in enumerate(source.labels)}
        for row, label in zip(images.rows, images.labels, strict=True):
            assert chosen.classes[label] == whole[images.manifest.uri(row)]
    assert ("left out" in chosen.words) == (trained != evaluated)


def test_what_is_classified_by_what_is_said() -> None:
    train = made_up(("a", "b", "c"), [0, 1, 2] * 10)
    words = eval_set_of(train, made_up(("a", "b"), [0, 1] * 5), EvalConfig(uri="held out")).words
    assert words.startswith("kNN: 10 images are classified by 20 training images of the 2 classes that both have")
    assert "c of training images" in words
    assert "by the others" in eval_set_of(train, made_up(("x", "y"), [0, 1] * 5), EvalConfig(uri="held out")).words
    assert "no kNN" in eval_set_of(made_up((), [-1] * 10), None, EvalConfig()).words
    assert "27 training images of the 3 classes" in eval_set_of(train, None, EvalConfig()).words


def test_all_training_images_stay_in_the_bank_where_a_class_has_no_held_out_image() -> None:
    train = made_up(("a", "b", "c"), [0, 1] * 50 + [2])
    chosen = eval_set_of(train, None, EvalConfig(holdout_fraction=0.05))
    assert chosen.bank is not None and chosen.classes == ("a", "b", "c") and 2 in chosen.bank.labels


def test_knn_finds_classes_of_an_eval_folder_numbered_otherwise(tmp_path: Path) -> None:
    channels = {"2": 0, "10": 1, "9": 2}
    folder = manifest_of(write_colours(tmp_path / "test", channels, 5))  # classes sorted as text: 10, 2, 9
    trained = manifest_of(write_colours(tmp_path / "train", channels, 5, first=150))
    renumber = np.array([1, 0, 2])[trained.labels]
    train = make_manifest(uris=trained.table["uri"].to_pylist(), labels=renumber, classes=("2", "10", "9"))
    chosen = eval_set_of(train, folder, EvalConfig(uri="test"))
    values = dict(evaluate(colour_encoder(), chosen, COLOUR_VIEWS, EvalConfig(k=3)))
    assert values["eval/knn_top1"] == 100


def test_a_copy_of_an_image_does_not_vote_for_it(tmp_path: Path) -> None:
    """Every image is there twice: if copies voted, the nearest neighbour would always be right."""
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "a").mkdir(parents=True)
    for i in range(40):
        cv2.imwrite(str(tmp_path / "images" / "a" / f"{i}.png"), rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    shutil.copytree(tmp_path / "images" / "a", tmp_path / "images" / "b")
    whole = manifest_of(tmp_path / "images")
    labels = np.tile(np.arange(40) % 20, 2)  # pairs of images share a class, and are not alike
    held_out = make_manifest(
        uris=whole.table["uri"].to_pylist(), labels=labels, classes=tuple(str(i) for i in range(20))
    )
    chosen = eval_set_of(made_up((), [-1] * 10), held_out, EvalConfig(uri="eval"))
    values = dict(evaluate(colour_encoder(), chosen, COLOUR_VIEWS, EvalConfig(k=1)))
    assert values["eval/knn_top1"] < 50


def test_a_real_encoder_is_measured_whole(images: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(arch="tiny_resnet", dim=16)).train()
    config = EvalConfig(max_queries=60, max_bank=100, holdout_fraction=0.3, k=5)
    chosen = eval_set_of(manifest_of(images), None, config)
    values = dict(evaluate(encoder, chosen, v2_views(crop_px=32), config))
    measures = ["eval/knn_top1", "eval/rankme", "eval/alignment", "eval/uniformity"]
    assert [name for name in values if name in measures] == measures
    assert 20 < values["eval/knn_top1"] <= 100  # ten classes; pixels of digits are far from chance
    assert 1 < values["eval/rankme"] <= 60
    assert 0 < values["eval/alignment"] < 4
    assert -4.2 < values["eval/uniformity"] < 0
    assert encoder.training
    assert values == dict(evaluate(encoder, chosen, v2_views(crop_px=32), config))


def test_two_equal_views_are_aligned_perfectly_and_augmentation_is_seen(images: Path) -> None:
    encoder = build_encoder(ModelConfig(arch="tiny_resnet", dim=16))
    chosen = eval_set_of(manifest_of(images), None, EvalConfig(max_queries=10))
    assert dict(evaluate(encoder, chosen, STILL, EvalConfig()))["eval/alignment"] == pytest.approx(0, abs=1e-9)
    assert dict(evaluate(encoder, chosen, v2_views(16), EvalConfig()))["eval/alignment"] > 1e-6


def test_without_labels_there_is_no_knn(images: Path) -> None:
    unlabelled = manifest_of(images / "3")
    encoder = build_encoder(ModelConfig(arch="tiny_resnet", dim=16))
    values = dict(evaluate(encoder, eval_set_of(unlabelled, None, EvalConfig()), STILL, EvalConfig()))
    assert list(values) == ["eval/rankme", "eval/alignment", "eval/uniformity", "eval/distinct", "eval/flat"]


@pytest.mark.parametrize(("crop_px", "resize", "expected"), [(224, None, 256), (32, None, 32), (32, 40, 40)])
def test_images_are_resized_to_8_7_of_the_crop_from_128_px_on(crop_px: int, resize: int | None, expected: int) -> None:
    assert resize_px(crop_px, EvalConfig(resize_px=resize)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("holdout_fraction", 1.0),
        ("max_queries", 1),
        ("k", 0),
        ("temperature", 0.0),
        ("every_steps", 0),
        ("max_time_fraction", 1.5),
    ],
)
def test_impossible_settings_are_named_as_on_the_command_line(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"eval.{name.replace('_', '-')} is {value}"):
        EvalConfig(**{name: value})  # type: ignore[arg-type]


def test_one_image_is_measured_but_for_what_compares_pairs(images: Path) -> None:
    encoder = build_encoder(ModelConfig(arch="tiny_resnet", dim=16))
    chosen = eval_set_of(manifest_of(images), None, EvalConfig(holdout_fraction=0.006))
    assert len(chosen.queries) == 1 and chosen.has_labels
    values = dict(evaluate(encoder, chosen, STILL, EvalConfig()))
    assert "eval/uniformity" not in values and {"eval/knn_top1", "eval/rankme", "eval/alignment"} <= values.keys()


def test_further_images_are_drawn_among_some_beside_those_that_are_kept() -> None:
    labels, among = np.arange(100) % 2, np.arange(100) >= 90
    kept = np.arange(100) < 3
    mask = holdout_mask(labels, EvalConfig(), 0, kept=kept, among=among)
    assert mask.sum() == 10 and mask[:3].all() and not mask[3:90].any() and kept.sum() == 3
    assert holdout_mask(labels, EvalConfig(), 0, kept=kept, among=np.arange(100) >= 98).sum() == 5
    assert holdout_mask(labels, EvalConfig(), 0, kept=np.arange(100) < 30, among=among).sum() == 30


@pytest.mark.parametrize(
    ("trained", "evaluated", "alike"),
    [
        (("cat", "dog"), ("Cat", "Dog"), "'cat' and 'Cat', 'dog' and 'Dog' differ only"),
        (("caf\u00e9", "x"), ("cafe\u0301", "X"), "'x' and 'X', 'caf\u00e9' and 'cafe\u0301' differ only"),
        (("a", "b", "Cat"), ("a", "b", "cat"), "'Cat' and 'cat' differ only"),
        (("cat", "dog"), ("bus", "car"), ""),
    ],
)
def test_classes_that_are_not_in_both_are_named_and_so_is_their_spelling(
    trained: tuple[str, ...], evaluated: tuple[str, ...], alike: str
) -> None:
    train, held_out = (made_up(names, list(range(len(names))) * 30) for names in (trained, evaluated))
    words = eval_set_of(train, held_out, EvalConfig(uri="held out")).words
    assert all(name in words for name in (*trained[2:], *evaluated[2:]))
    assert "a" in trained or all(name in words for name in (*trained, *evaluated))
    assert alike in words if alike else "differ only" not in words
