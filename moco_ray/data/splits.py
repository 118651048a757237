"""What folders hold: train, val and test; classes; masks that lie beside the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from moco_ray.data.labels import amount, quoted
from moco_ray.data.split_names import (
    Role,
    has_train_and_other,
    is_mask,
    names_images,
    role_by_word,
    role_of,
    roles_among,
    without_doubles,
)

_KEPT_NAMES = 4


@dataclass
class Pictures:
    """The pictures directly in one folder; of many millions only a few names are kept."""

    names: list[str] = field(default_factory=list)
    """Some of them, for messages."""
    count: int = 0
    """How many there are."""

    def add(self, name: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.names) < _KEPT_NAMES:
            self.names.append(name)

    def extend(self, others: Pictures) -> None:
        """Count those of another folder, too."""
        self.count += others.count
        self.names = (self.names + others.names)[:_KEPT_NAMES]

    def __len__(self) -> int:
        """How many there are."""
        return self.count


@dataclass(frozen=True, kw_only=True)
class Division:
    """What each folder of pictures is."""

    roles: dict[str, Role]
    """By folder; a folder that is not in it holds masks or the like."""
    labels: dict[str, str | None]
    """Class by folder, for the same folders."""
    names: dict[Role, list[str]] = field(default_factory=dict)
    """Which folders or files made a role."""
    reasons: dict[Role, str] = field(default_factory=dict)
    """Why the pictures of a role have no classes."""
    notes: list[str] = field(default_factory=list)
    """What else a user should know."""


def divide(pictures: Mapping[str, Pictures]) -> Division:
    """Read the names of folders that hold pictures.

    - Folders such as masks/ or annotations/ beside images/ (or beside train/ and val/) hold no images.
    - A folder that holds one other folder and nothing else of weight is passed through.
    - train/ beside val/ or test/ (the first level, or the second below each class) are splits; others beside them are not
      used, but for unlabeled/, which is trained on without labels. Splits without a train/ are one set.
    - The first level below is the class, if there are two or more in all folders of a split. Pictures beside the class folders have no label; where
      they are the larger part, folders are no classes.

    Args:
        pictures: Those directly in each folder, by its path below the root ("" for the root).
    """
    kept, notes = _without_masks(pictures)
    base = _descend(kept, "")
    tops = _children(kept, base)
    found = _roles_of_tops(kept, base, tops)
    if has_train_and_other(found.values()) or (len(tops) > 1 and all(found.values())):
        return _by_split(kept, base, found, notes)
    seconds = {folder: _parts(folder, base)[1:2] for folder in kept if folder != base}
    inner = {folder: role_of(part[0]) if part else None for folder, part in seconds.items()}
    if len(tops) > 1 and all(inner.values()) and has_train_and_other(inner.values()):
        return _by_class_first(kept, base, inner, notes)
    labels, reason, strays = _classes_below(kept, base)
    return Division(
        roles=dict.fromkeys(kept, "train"),
        labels=labels,
        reasons={"train": reason} if reason else {},
        notes=notes + strays + _doubtful_classes({name for name in labels.values() if name is not None}),
    )


def _roles_of_tops(kept: Mapping[str, Pictures], base: str, tops: Sequence[str]) -> dict[str, Role | None]:
    """What folders side by side hold, by their names and by what is in them.

    Where one is exactly train (or val or test), others may say with one word among others what they are: public_test,
    train_10percent. So they may where all do and train and another hold the same classes.
    """
    found = roles_among(tops)
    meant = {top: role_by_word(top) for top in tops}
    if has_train_and_other(found.values()) or not has_train_and_other(meant.values()):
        return found
    inside = {top: set(_children(kept, f"{base}/{top}".lstrip("/"))) for top in tops}
    exact = [top for top in tops if found[top] is not None]
    train, others = ([top for top in tops if (meant[top] == "train") == is_train] for is_train in (True, False))
    if all(meant.values()):
        is_split = bool(exact) or any(len(inside[a] & inside[b]) > 1 for a in train for b in others)
    else:
        is_split = any(inside[top] for top in exact)
    if not is_split:
        return found
    if "train" in found.values():  # train_small beside train is likely a part of it
        meant.update(dict.fromkeys((top for top in train if found[top] is None), "other"))
    return without_doubles(meant)


def _doubtful_classes(classes: Iterable[str]) -> list[str]:
    """A warning where folders that are taken for classes have names as parts of a data set have."""
    meant = {name: role for name in sorted(classes) if (role := role_by_word(name)) is not None}
    if not has_train_and_other(meant.values()) and not any(role_of(name) in ("val", "test") for name in meant):
        return []
    taken = "is taken for a class" if len(meant) == 1 else "are taken for classes"
    return [
        f"warning: {quoted(meant)} {taken} and trained on; if {'it is a split' if len(meant) == 1 else 'these are splits'}, "
        "use the names train and val or test"
    ]


def _by_split(kept: Mapping[str, Pictures], base: str, found: Mapping[str, Role | None], notes: list[str]) -> Division:
    division = Division(roles={}, labels={}, notes=list(notes))
    for folder in kept:
        parts = _parts(folder, base)
        role: Role = (found[parts[0]] or "other") if parts else "other"
        division.roles[folder] = role
        division.labels[folder] = None
    tops: dict[Role, list[str]] = defaultdict(list)
    for top, meant in found.items():
        tops[meant or "other"].append(f"{base}/{top}".lstrip("/"))
    for role, names in tops.items():
        division.names[role] = [f"{name}/" for name in names]
        if role in ("train", "val", "test"):
            labels, reason, strays = _classes_of_role(kept, names)
            division.labels.update(labels)
            division.notes.extend(strays)
            if reason:
                division.reasons[role] = reason
    if base in kept:
        division.names.setdefault("other", []).append(kept[base].names[0])
    return division


def _classes_of_role(kept: Mapping[str, Pictures], tops: Sequence[str]) -> tuple[dict[str, str | None], str, list[str]]:
    """As `_classes_below`, for the folders of one role as if they were one: each may hold only some of the classes."""
    if len(tops) == 1:
        below = {folder: names for folder, names in kept.items() if f"{folder}/".startswith(f"{tops[0]}/")}
        return _classes_below(below, _descend(below, tops[0]))
    inside: dict[str, str] = {}
    joined: dict[str, Pictures] = defaultdict(Pictures)
    for top in tops:
        start = top
        while len(only := _children(kept, start)) == 1 and start not in kept and names_images(only[0]):
            start = f"{start}/{only[0]}"
        for folder in (folder for folder in kept if f"{folder}/".startswith(f"{start}/")):
            inside[folder] = "/".join(_parts(folder, start))
            joined[inside[folder]].extend(kept[folder])
    labels, reason, strays = _classes_below(joined, _descend(joined, ""))
    return {folder: labels[name] for folder, name in inside.items()}, reason, strays


def _by_class_first(
    kept: Mapping[str, Pictures], base: str, inner: Mapping[str, Role | None], notes: list[str]
) -> Division:
    division = Division(roles={}, labels={}, notes=list(notes))
    for folder, names in kept.items():
        parts = _parts(folder, base)
        role = inner.get(folder) or "other"
        division.roles[folder] = role
        division.labels[folder] = parts[0] if parts else None
        shown = f"*/{parts[1]}/" if len(parts) > 1 else names.names[0]
        if shown not in division.names.setdefault(role, []):
            division.names[role].append(shown)
    return division


def _classes_below(kept: Mapping[str, Pictures], base: str) -> tuple[dict[str, str | None], str, list[str]]:
    """Class by folder, why there are none, and which pictures have none."""
    none: dict[str, str | None] = dict.fromkeys(kept)
    classes = _children(kept, base)
    beside = kept.get(base, Pictures())
    if len(classes) < 2:
        where = f" below {base}/" if base else ""
        return (
            none,
            f"there are no class folders{where}" if not classes else f"{classes[0]}/ is the only one{where}",
            [],
        )
    inside = sum(len(names) for folder, names in kept.items() if _parts(folder, base))
    verb = "lies" if len(beside) == 1 else "lie"
    told = f"{amount(len(beside), 'picture')} ({quoted(beside.names)}) {verb} beside the class folders"
    if len(beside) >= inside:
        return none, f"{told}, which hold {inside:,}", []
    labels = {folder: parts[0] if (parts := _parts(folder, base)) else None for folder in kept}
    return labels, "", [f"{told} and {'has' if len(beside) == 1 else 'have'} no label"] if beside else []


def _without_masks(pictures: Mapping[str, Pictures]) -> tuple[dict[str, Pictures], list[str]]:
    """The folders that hold images, and what is said of the others."""
    children: dict[str, set[str]] = defaultdict(set)
    for folder in pictures:
        parts = folder.split("/") if folder else []
        for i, part in enumerate(parts):
            children["/".join(parts[:i])].add(part)
    with_images = {parent for parent, names in children.items() if any(names_images(n) or role_of(n) for n in names)}
    kept: dict[str, Pictures] = {}
    masks: dict[str, int] = defaultdict(int)
    for folder, names in pictures.items():
        parts = folder.split("/") if folder else []
        at = [i for i, part in enumerate(parts) if is_mask(part) and "/".join(parts[:i]) in with_images]
        if at:
            masks[f"{parts[at[0]]}/"] += len(names)
        else:
            kept[folder] = names
    if not kept:
        return dict(pictures), []
    told = f"left out: {amount(sum(masks.values()), 'picture')} in {quoted(masks)}: masks or the like beside the images"
    return kept, [told] if masks else []


def _descend(kept: Mapping[str, Pictures], base: str) -> str:
    """Pass through folders that hold one other folder, and beside it fewer pictures than that."""
    while len(tops := _children(kept, base)) == 1:
        inside = sum(len(names) for folder, names in kept.items() if _parts(folder, base))
        if len(kept.get(base, ())) >= inside:
            break
        base = f"{base}/{tops[0]}".lstrip("/")
    return base


def _children(kept: Mapping[str, Pictures], base: str) -> list[str]:
    """Names of the folders in a folder that hold pictures at any depth."""
    return sorted({parts[0] for folder in kept if (parts := _parts(folder, base))})


def _parts(folder: str, base: str) -> list[str]:
    """Names of the folders from `base` down to a folder; empty for `base` and for what is not below it."""
    if not base:
        return folder.split("/") if folder else []
    return folder[len(base) + 1 :].split("/") if folder.startswith(f"{base}/") else []
