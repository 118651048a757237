"""What names of folders mean."""

from __future__ import annotations

from collections import defaultdict

import pytest

from moco_ray.data.split_names import role_of, role_of_file
from moco_ray.data.splits import Division, Pictures, divide


def division(*paths: str) -> Division:
    pictures: dict[str, Pictures] = defaultdict(Pictures)
    for path in paths:
        folder, _, name = path.rpartition("/")
        pictures[folder].add(name)
    return divide(pictures)


def placed(*paths: str) -> list[tuple[str, str | None] | None]:
    """Role and class of the folder of each path; None where it holds no images."""
    found = division(*paths)
    folders = [path.rpartition("/")[0] for path in paths]
    return [(found.roles[f], found.labels[f]) if f in found.roles else None for f in folders]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(
            (name, "train")
            for name in (
                "train",
                "Train",
                "TRAINING",
                "train2017",
                "train_images",
                "images-train",
                "trainset",
                "trainval",
                "train_val2018",
                "train+val",
            )
        ),
        *((name, "val") for name in ("val", "valid", "Validation", "dev", "val2017", "val_set", "eval", "Validierung")),
        *((name, "test") for name in ("test", "Testing", "test-images", "TestSet", "holdout", "hold-out")),
        *((name, "unlabelled") for name in ("unlabeled", "unlabelled2017", "train_unlabeled")),
        *(
            (name, None)
            for name in ("trains", "contest", "testbed", "bus", "training wheels", "2017", "", "train_test")
        ),
    ],
)
def test_roles_of_folders(name: str, role: str | None) -> None:
    assert role_of(name) == role


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train.csv", "train"),
        ("val_labels.tsv", "val"),
        ("train-00000-of-00002.parquet", "train"),
        ("test-00001-of-00002-a09b74b3ef9c3b56.parquet", "test"),
        ("validation-00000-of-00001.parquet", "val"),
        ("part-00000-of-00002.parquet", None),
        ("results_test_run.csv", None),
        ("0000.parquet", None),
    ],
)
def test_roles_of_files(name: str, role: str | None) -> None:
    assert role_of_file(name) == role


@pytest.mark.parametrize(
    ("train", "other", "role"), [("train", "val", "val"), ("Training", "TEST", "test"), ("train", "dev", "val")]
)
def test_train_beside_another_part_is_a_split_and_classes_lie_below(train: str, other: str, role: str) -> None:
    paths = [f"{train}/cat/0.png", f"{train}/dog/deep/1.png", f"{other}/cat/2.png", f"{other}/dog/3.png"]
    assert placed(*paths) == [("train", "cat"), ("train", "dog"), (role, "cat"), (role, "dog")]


def test_splits_are_found_below_folders_that_hold_nothing_else() -> None:
    assert placed("data/images/train/a/0.png", "data/images/train/b/0.png", "data/images/val/a/0.png") == [
        ("train", "a"),
        ("train", "b"),
        ("val", None),
    ]
    assert placed("train/images/a/0.png", "train/images/b/0.png", "test/images/a/0.png", "test/images/b/0.png") == [
        ("train", "a"),
        ("train", "b"),
        ("test", "a"),
        ("test", "b"),
    ]


def test_splits_may_share_a_name_of_their_own() -> None:
    paths = ["seg_train/a/0.png", "seg_train/b/0.png", "seg_test/a/0.png", "seg_test/b/0.png", "seg_pred/0.png"]
    assert placed(*paths)[::2] == [("train", "a"), ("test", "a"), ("other", None)]
    assert placed("train_station/0.png", "bus_station/0.png", "test_track/0.png")[0] == ("train", "train_station")


@pytest.mark.parametrize(
    "paths",
    [
        ["train1/a/0.png", "train2/b/1.png"],
        ["train1/a/0.png", "train1/a/deep/2.png", "train2/b/1.png"],
        ["train1/a/x/0.png", "train1/a/y/0.png", "train2/b/x/1.png", "train2/b/y/1.png"],
        ["train_1/images/a/0.png", "train_2/b/1.png"],
        ["train1/a/0.png", "train1/b/0.png", "train2/a/1.png", "train3/b/1.png"],
    ],
)
def test_folders_of_one_split_hold_its_classes_together(paths: list[str]) -> None:
    classes = [next(part for part in path.split("/") if part in "ab") for path in paths]
    found = placed(*paths, "val/a/7.png", "val/b/8.png")
    assert found == [*(("train", name) for name in classes), ("val", "a"), ("val", "b")]


def test_folders_of_one_split_with_one_class_in_all_have_none() -> None:
    found = division("train1/a/0.png", "train2/a/1.png", "val/a/0.png", "val/b/0.png")
    assert found.labels["train1/a"] is None and found.reasons["train"] == "there are no class folders below a/"
    flat = division("train1/0.png", "train2/1.png", "val/a/0.png", "val/b/0.png")
    assert flat.reasons == {"train": "there are no class folders"} and flat.labels["val/b"] == "b"


def test_splits_below_each_class() -> None:
    paths = ["cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png", "dog/ground_truth/3.png"]
    assert placed(*paths) == [("train", "cat"), ("test", "cat"), ("train", "dog"), ("test", "dog"), None]


def test_a_class_of_the_name_train_stays_a_class() -> None:
    assert placed("train/0.png", "bus/1.png", "car/2.png") == [("train", "train"), ("train", "bus"), ("train", "car")]


def test_parts_without_a_train_are_one_set() -> None:
    found = placed("val/cat/0.png", "val/dog/1.png", "test/cat/2.png", "test/dog/3.png")
    assert [label for _, label in found if True] == ["cat", "dog", "cat", "dog"]  # type: ignore[misc]


def test_unlabelled_images_have_no_class_and_other_folders_beside_a_split_no_use() -> None:
    paths = [
        "train/a/0.png",
        "train/b/0.png",
        "test/a/0.png",
        "unlabeled/x/0.png",
        "unlabeled/y/0.png",
        "extra/0.png",
        "z.png",
    ]
    roles = [found and found[0] for found in placed(*paths)]
    assert roles == ["train", "train", "test", "unlabelled", "unlabelled", "other", "other"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a/0.png", "masks/a/0.png"),
        ("images/train/0.jpg", "labels/train/0.png"),
        ("JPEGImages/0.jpg", "SegmentationClass/0.png"),
        ("train/a/0.png", "annotations/a/0.png"),
        ("train/images/0.png", "train/masks/0.png"),
        ("7/images/7.png", "7/masks/1.png"),
        ("rgb/0.png", "depth/0.png"),
        ("rgb/0.png", "normals/0.png"),
        ("leftImg8bit/train/aachen/0.png", "gtFine/train/aachen/0.png"),
        ("leftImg8bit/train/aachen/0.png", "gtCoarse/train/aachen/0.png"),
        ("img/a/0.png", "lbl/a/0.png"),
        ("CamVid/train/0.png", "CamVid/trainannot/0.png"),
    ],
)
def test_masks_beside_images_are_no_images(image: str, mask: str) -> None:
    found = division(image, mask)
    assert list(found.roles) == [image.rpartition("/")[0]]
    assert any("masks or the like" in note and "1 picture " in note for note in found.notes)


def test_a_class_of_the_name_mask_stays_a_class() -> None:
    assert placed("mask/0.png", "no_mask/1.png") == [("train", "mask"), ("train", "no_mask")]
    assert placed("images/fine/0.png", "images/coarse/1.png") == [("train", "fine"), ("train", "coarse")]
    assert placed("labels/0.png", "bottles/1.png") == [("train", "labels"), ("train", "bottles")]


def test_a_few_pictures_beside_class_folders_have_no_class_and_many_take_the_classes_away() -> None:
    few = ["a/0.png", "a/1.png", "b/2.png", "stray.png"]
    assert placed(*few) == [("train", "a"), ("train", "a"), ("train", "b"), ("train", None)]
    assert division(*few).notes == ["1 picture (stray.png) lies beside the class folders and has no label"]
    many = division("a/0.png", "b/1.png", "x.png", "y.png")
    assert set(many.labels.values()) == {None}
    assert many.reasons == {"train": "2 pictures (x.png, y.png) lie beside the class folders, which hold 2"}


@pytest.mark.parametrize(
    ("train", "others"),
    [
        ("trainval", ["test"]),
        ("train_val2018", ["test2018"]),
        ("train+val", ["test"]),
        ("Training", ["PublicTest", "PrivateTest"]),
        ("train", ["public_test"]),
        ("train", ["test_clean"]),
        ("train", ["test_seen", "test_unseen"]),
        ("train_10percent", ["val"]),
        ("train-small", ["test"]),
        ("train", ["holdout"]),
        ("train", ["query", "gallery"]),
        ("Training", ["Validierung"]),
        ("train_clean", ["test_noisy"]),
        ("train", ["test_a_wild", "more"]),
    ],
)
def test_a_part_that_is_kept_from_training_may_have_a_name_of_more_words(train: str, others: list[str]) -> None:
    found = division(*(f"{top}/{name}/0.png" for top in (train, *others) for name in "ab"))
    assert [folder for folder, role in found.roles.items() if role == "train"] == [f"{train}/a", f"{train}/b"]
    assert found.labels[f"{train}/a"] == "a" and {"val", "test"} & set(found.roles.values())


@pytest.mark.parametrize(
    "classes",
    [
        ["test_tube", "beaker"],
        ["test_tube", "train_set_of_wheels"],
        ["train_station", "bus_station", "test_track"],
        ["train", "bus", "test_track"],
        ["query", "gallery"],
        ["train", "bus"],
    ],
)
def test_classes_may_have_such_words_in_their_names(classes: list[str]) -> None:
    assert placed(*(f"{name}/0.png" for name in classes)) == [("train", name) for name in classes]


def test_classes_that_may_be_splits_are_said() -> None:
    (note,) = division("train_x/0.png", "test_y/0.png", "c/0.png").notes
    assert note.startswith(
        "warning: test_y, train_x are taken for classes and trained on; if these are splits, use the names"
    )
    assert "test is taken for a class" in division("test/0.png", "c/0.png").notes[0]
    assert division("test_tube/0.png", "c/0.png").notes == division("train/0.png", "bus/0.png").notes == []


def test_train_and_val_together_are_not_used_beside_both() -> None:
    found = division(*(f"{top}/{name}/0.png" for top in ("train", "trainval", "val") for name in "ab"))
    assert [found.roles[f"{top}/a"] for top in ("train", "trainval", "val")] == ["train", "other", "val"]
