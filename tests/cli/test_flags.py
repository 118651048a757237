"""Flags as people type them: what is taken, and what is said to have been meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from moco_ray.cli.presets import load_preset
from moco_ray.cli.pretrain import parse
from moco_ray.config import Config
from moco_ray.config.presets import PRESETS

_V3 = [name for name in PRESETS if name.startswith("moco-v3")]


def _value(config: Config, path: str) -> Any:
    group, name = path.split(".")
    return getattr(getattr(config, group), name)


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (["--optim.lr", "0.1"], "optim.lr", 0.1),
        (["--optim.lr=1e-3"], "optim.lr", 1e-3),
        (["--optim.lr", "=", "0.1"], "optim.lr", 0.1),
        (["--optim.lr=", "0.1"], "optim.lr", 0.1),
        (["--optim.lr", "=0.1"], "optim.lr", 0.1),
        (["--optim.lr", "0.1", "--optim.lr", "0.2"], "optim.lr", 0.2),
        (["--optim.global_batch_size", "64"], "optim.global_batch_size", 64),
        (["--views.jitter", "0.4", "0.3", "0.2", "0.1"], "views.jitter", (0.4, 0.3, 0.2, 0.1)),
        (["--views.jitter", "0.4,0.3,0.2,0.1"], "views.jitter", (0.4, 0.3, 0.2, 0.1)),
        (["--views.jitter=0.4, 0.3, 0.2, 0.1"], "views.jitter", (0.4, 0.3, 0.2, 0.1)),
        (["--views.jitter", "(0.4,", "0.3,", "0.2,", "0.1)"], "views.jitter", (0.4, 0.3, 0.2, 0.1)),
        (["--views.blur-p", "[1,0.1]"], "views.blur_p", (1.0, 0.1)),
        (["--optim.milestones", "60", "80", "90"], "optim.milestones", (60, 80, 90)),
        (["--optim.milestones=60,80"], "optim.milestones", (60, 80)),
        (["--views.grayscale-first"], "views.grayscale_first", True),
        (["--views.grayscale-first", "true"], "views.grayscale_first", True),
        (["--views.no-grayscale-first"], "views.grayscale_first", False),
        (["--views.grayscale_first=False"], "views.grayscale_first", False),
        (["--method.shuffle-bn"], "method.shuffle_bn", True),
        (["--method.shuffle-bn", "none"], "method.shuffle_bn", None),
        (["--method.queue-size", "None"], "method.queue_size", None),
        (["--method.queue-size", "none"], "method.queue_size", None),
        (["--run.name", "None"], "run.name", None),
        (["--run.name", "my run"], "run.name", "my run"),
        (["--data.uri=-strange"], "data.uri", "-strange"),
        (["--data.uri=/a=b"], "data.uri", "/a=b"),
    ],
)
def test_values_are_taken_as_people_write_them(arguments: list[str], path: str, value: Any) -> None:
    assert _value(parse(["--preset", "small", *arguments]).config, path) == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # What other programs call it.
        (["--lr", "0.1"], "the flag --lr is unknown; did you mean --optim.lr?"),
        (["--data-uri", "x"], "did you mean --data.uri?"),
        (["--epochs", "3"], "did you mean --optim.epochs?"),
        (["--batch-size", "3"], "did you mean --optim.global-batch-size?"),
        (["--workers=3"], "the flag --workers is unknown; did you mean --run.num-workers?"),
        (["--output", "x"], "did you mean --run.storage-path?"),
        (["--seed", "3"], "did you mean --run.seed?"),
        (["--moco-k", "3"], "did you mean --method.queue-size?"),
        (["--temperature", "3"], "did you mean --eval.temperature or --method.temperature?"),
        (["--temprature", "3"], "did you mean --method.temperature"),
        (["--datauri", "x"], "did you mean --data.uri?"),
        (["-lr", "3"], "the flag -lr is unknown; did you mean --optim.lr?"),
        (["-data.uri", "x"], "did you mean --data.uri?"),
        (["–run.name", "x"], "did you mean --run.name?"),
        (["--model.temperature", "3"], "did you mean --eval.temperature or --method.temperature?"),
        (["--optim.xyzzy", "3"], "there are --optim.global-batch-size, --optim.bn-groups"),
        (["--no-optim.lr"], "the flag --no-optim.lr is unknown; did you mean --optim.lr?"),
        # Values that are missing or belong to nothing.
        (["--optim.lr"], "--optim.lr needs a value: a number, such as 0.03"),
        (["--optim.lr", "--run.seed", "1"], "--optim.lr needs a value"),
        (["--preset"], "--preset needs a value"),
        (["--views.jitter"], "--views.jitter needs a value: 4 numbers, such as 0.4 0.4 0.4 0.1"),
        (["/tmp/photos"], "'/tmp/photos' belongs to no flag; if your images are there, write --data.uri /tmp/photos"),
        (["s3://b/x y"], "write --data.uri 's3://b/x y'"),
        (["--preset", "small", "photos/"], "write --data.uri photos/"),
        (["--data.uri", "/my", "photos"], "if it belongs to --data.uri, write --data.uri '/my photos'"),
        (["--run.name", "my", "run"], "if it belongs to --run.name, write --run.name 'my run'"),
        (["--method.symmetric", "maybe"], "write --method.symmetric or --method.no-symmetric alone"),
        (["--optim.lr", "0.1", "0.2"], "'0.2' belongs to no flag; see --help"),
        # Values of another type.
        (["--optim.lr", "abc"], "--optim.lr is 'abc'; use a number, such as 0.03"),
        (["--optim.lr", "0,1"], "--optim.lr is '0,1'; use a number"),
        (["--optim.epochs", "1.5"], "--optim.epochs is '1.5'; use a whole number, such as 200"),
        (["--optim.optimizer", "adam"], "--optim.optimizer is 'adam'; use sgd, lars or adamw"),
        (["--views.jitter", "0.4,0.4,0.4"], "--views.jitter is 0.4,0.4,0.4; use 4 numbers, such as 0.4 0.4 0.4 0.1"),
        (["--views.blur-p", "0.5", "x"], "--views.blur-p is 0.5 x; use 2 numbers"),
        (["--method.symmetric=maybe"], "--method.symmetric is 'maybe'; use true or false"),
        (["--run.max-steps", "many"], "--run.max-steps is 'many'; use a whole number or none"),
        # Presets.
        (["--preset", "moco-v3"], f"did you mean {', '.join(_V3[:-1])} or {_V3[-1]}?"),
        (["--preset", "MoCo_V2"], "did you mean moco-v2?"),
        (["--preset", "cifar"], "did you mean cifar10?"),
        (["--preset", "xyzzy"], "--preset 'xyzzy' is unknown; there are moco-v1, moco-v2"),
    ],
)
def test_a_mistake_is_told_what_was_meant(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(arguments)


@pytest.mark.parametrize("flag", ["--data.uri", "--eval.uri"])
@pytest.mark.parametrize(
    ("places", "folder"),
    [
        (["img/cat", "img/dog"], "name a folder with all of them, {flag} img, or a list"),
        (["img/cat/0.png", "img/cat/1.png", "img/dog"], "with all of them, {flag} img/cat,"),
        (["./img/cat", "./img/dog"], "with all of them, {flag} ./img,"),
        (["img", "more"], "with all of them, {flag} .,"),
        (["s3://b/cat", "s3://b/dog"], "with all of them, {flag} s3://b,"),
        (["s3://b", "s3://c"], "a folder that holds all of them or a list"),
        (["/tmp", "/usr"], "a folder that holds all of them or a list"),
    ],
)
def test_several_places_are_no_name_with_spaces(
    flag: str, places: list[str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("img/cat/0.png", "img/cat/1.png", "img/dog/0.png", "more/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"{flag} takes one place, and {places[0]} and {places[1]} are two") as error:
        parse(["--preset", "smoke", flag, *places])
    assert folder.format(flag=flag) in str(error.value)


def test_a_runs_folder_is_told_to_be_no_preset_but_to_hold_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=re.escape(f"did you mean {tmp_path}/config.json?")):
        parse(["--preset", str(tmp_path)])


def test_a_secret_that_the_shell_cut_in_pieces_is_not_shown() -> None:
    with pytest.raises(ValueError, match="write its JSON between single quotes") as error:
        parse(["--data.storage-options", "{key:", "the-secret}"])
    assert "the-secret" not in str(error.value)


@pytest.mark.parametrize("name", ["moco-v2", "small", "moco-v3-vit-mini"])
def test_no_flag_changes_no_field(name: str) -> None:
    assert parse(["--preset", name]).config == load_preset(name)
