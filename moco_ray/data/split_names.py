"""What names of folders, files and values mean: train, val and test; images; masks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

Role = Literal["train", "val", "test", "unlabelled", "other"]

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trn", "trainset", "trainingset", "trainval"), "train"),
    **dict.fromkeys("val valid validation validate validierung dev eval evaluation valset devset".split(), "val"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "holdout"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsupervised"), "unlabelled"),
}
_IMAGES = frozenset(
    "images image imgs img pictures pics photos jpegimages jpegs jpg png rgb data input inputs frames".split()
)
_HOLD_OUT = re.compile("h[eo]ld[ _-]?out")
_SEARCHED = frozenset("query queries gallery probe".split())  # of data for search: only beside a train part
_BESIDE = frozenset("set sets dataset split part full a b".split()) | _IMAGES
_LISTS = frozenset("list lists label labels csv annotation annotations metadata meta of shard file files".split())
_MASKS = frozenset(
    "mask masks annotation annotations label labels groundtruth truth gt ground segmentation segmentations segmentationclass "
    "segmentationobject seg index imagesets bbox bboxes trimap trimaps semantic instance depth thumbnails normals "
    "lbl lbls annot annots trainannot valannot testannot".split()
)


def role_of(name: str) -> Role | None:
    """What a folder of this name holds: "train", "Validation", "test2017", "train_images"; None for any other name."""
    return _role(_words(name), _BESIDE)


def role_by_word(name: str) -> Role | None:
    """What a name means that surely is a split's: also "PublicTest", "dev_seen", "train-small", "gallery"."""
    words = _words(name)
    is_searched = bool(set(words) & _SEARCHED) and set(words) <= _SEARCHED | _BESIDE
    return _one_role(words) or ("test" if is_searched else None)


def roles_among(names: Iterable[str]) -> dict[str, Role | None]:
    """What each of some folders that lie side by side holds: also "cars_train" beside "cars_test"."""
    found = {name: role_of(name) for name in names}
    rests: dict[str, str] = {}
    roles: dict[str, Role] = {}
    for name in found:
        words = _words(name)
        if (meant := _one_role(words)) is not None:
            roles[name] = meant
            rests[name] = " ".join(word for word in words if word not in _ROLES)
    for rest in set(rests.values()):
        alike = [name for name in rests if rests[name] == rest]
        if has_train_and_other(roles[name] for name in alike):
            found.update({name: roles[name] for name in alike})
    return without_doubles(found)


def without_doubles(roles: Mapping[str, Role | None]) -> dict[str, Role | None]:
    """Roles by name without those of names such as "trainval" where train and val are there by themselves."""
    both = [name for name, role in roles.items() if role == "train" and _is_train_and_val(name)]
    alone = {role for name, role in roles.items() if name not in both}
    return {**roles, **dict.fromkeys(both, "other")} if {"train", "val"} <= alone else dict(roles)


def roles_by_word(found: Mapping[str, Role | None]) -> dict[str, Role | None]:
    """Roles of files by name where their names say them, beside one of exactly train, val or test, with one word."""
    by_word = {name: role or role_by_word(name.rsplit(".", 1)[0]) for name, role in found.items()}
    is_clear = has_train_and_other(found.values()) or not any(found.values())
    return without_doubles(found if is_clear or not has_train_and_other(by_word.values()) else by_word)


def role_of_file(name: str) -> Role | None:
    """What a table of this name holds: "train.csv", "val_labels.tsv", "test-00000-of-00002.parquet"."""
    stem = name.rsplit(".", 1)[0].lower()
    if match := re.fullmatch(r"([a-z]+)-\d+-of-\d+(-[0-9a-f]+)?", stem):
        return _ROLES.get(match[1])
    return _role(_words(stem), _BESIDE | _LISTS)


def _role(words: list[str], beside: frozenset[str]) -> Role | None:
    return _one_role(words) if all(word in _ROLES or word in beside for word in words) else None


def _one_role(words: Iterable[str]) -> Role | None:
    """What the words mean together; None if nothing, or several things."""
    roles = {_ROLES[word] for word in words if word in _ROLES}
    if len(roles) == 1:
        return roles.pop()
    return "unlabelled" if roles == {"train", "unlabelled"} else "train" if roles == {"train", "val"} else None


def _is_train_and_val(name: str) -> bool:
    words = _words(name)
    return "trainval" in words or {_ROLES.get(word) for word in words} >= {"train", "val"}


def _words(name: str) -> list[str]:
    plain = _HOLD_OUT.sub("holdout", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return re.findall(r"[a-z]+", plain)


def has_train_and_other(roles: Iterable[Role | None]) -> bool:
    """Whether there is something to train on and something to keep from training."""
    present = set(roles)
    return "train" in present and bool(present & {"val", "test"})


def names_images(name: str) -> bool:
    """Whether a folder of this name holds images: "JPEGImages", "rgb", "leftImg8bit"."""
    return bool(set(_words(name)) & _IMAGES)


def is_mask(name: str) -> bool:
    """Whether a folder or column of this name holds masks or the like: "masks", "SegmentationClass", "gt_train"."""
    words = _words(name)
    return bool(set(words) & _MASKS) and all(
        word in _MASKS | _BESIDE | {"class", "object", "fine", "coarse"} or word in _ROLES for word in words
    )
