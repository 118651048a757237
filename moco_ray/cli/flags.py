"""The flags of a command: which there are, what was given, and what was meant where that is none of them."""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from moco_ray.config.config import GROUPS, UNUSED, Config, TaskName
from moco_ray.config.fields import describe, from_text, is_switch, tuple_length, types_of
from moco_ray.config.reading import SECRET_FIELDS

_NUMBER = re.compile(r"[-–—](\d|\.\d|inf|nan)")
_SWITCHED = ("true", "false", "none", "yes", "no", "on", "off")
_PLACES = ("--data.uri", "--eval.uri")
# What other programs call it.
_OTHER_WORDS = {
    "--data.uri": "data images input dataset data-dir data-path dir folder path root train train-dir source",
    "--eval.uri": "test val test-dir val-dir",
    "--model.arch": "model backbone network architecture",
    "--model.dim": "moco-dim embedding-dim",
    "--model.init": "weights pretrained checkpoint ckpt init-from",
    "--method.queue-size": "queue moco-k",
    "--method.temperature": "tau t moco-t",
    "--method.encoder-momentum": "m moco-m ema",
    "--optim.global-batch-size": "batch batch-size bs b per-gpu-batch-size",
    "--optim.lr": "learning-rate",
    "--optim.weight-decay": "wd",
    "--optim.optimizer": "optim optim.name optim.type opt",
    "--run.max-steps": "steps iterations max-iter",
    "--run.name": "resume experiment exp",
    "--run.num-workers": "workers gpus num-gpus ngpus nproc world-size j",
    "--run.storage-path": "output out output-dir out-dir save save-dir log-dir logdir results",
    "--run.dtype": "precision fp16 bf16 amp half",
    "--run.device": "gpu cpu cuda",
    "--run.track": "wandb mlflow trackio tracker logger loggers report-to use-wandb log-wandb with-tracking",
    "--views.crop-px": "size image-size img-size crop crop-size resolution",
    "--preset": "config recipe",
    "--list-presets": "presets",
    "--help": "h usage",
}


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag that a command knows."""

    path: str
    """Of the field that it sets: optim.lr."""
    hint: Any
    """Type of the field."""
    default: Any = None
    """The field's value without the flag, as an example of one."""
    is_repeated: bool = False
    """Whether each time adds one value to a tuple."""
    about: str = ""
    """What it is for, where no field says it."""

    @property
    def name(self) -> str:
        """As it is written: --optim.lr."""
        return "--" + self.path.replace("_", "-")

    @property
    def off_name(self) -> str:
        """As a switch is turned off: --method.no-symmetric."""
        group, dot, last = self.name[2:].rpartition(".")
        return f"--{group}{dot}no-{last}"

    @property
    def is_secret(self) -> bool:
        """Whether its value may hold credentials."""
        return self.path in SECRET_FIELDS

    @property
    def wanted(self) -> str:
        """What its value can be."""
        shown = self.default if isinstance(self.default, tuple) else (self.default,)
        example = "" if self.default in (None, "", ()) else f", such as {' '.join(map(str, shown))}"
        return describe(self.hint) + ("" if is_switch(self.hint) else example)


@dataclass(frozen=True, kw_only=True)
class Given:
    """A flag of a command line."""

    flag: Flag
    texts: tuple[str, ...]
    """Its values, as they were written."""

    @property
    def value(self) -> Any:
        """The value that it gives to its field.

        Raises:
            ValueError: The field cannot have it.
        """
        if self.flag.is_repeated:
            return self.texts
        try:
            return from_text(self.flag.hint, self.texts)
        except ValueError:
            shown = " ".join(self.texts) if tuple_length(self.flag.hint) is not None else repr(self.texts[0])
            raise ValueError(f"{self.flag.name} is {shown}; use {self.flag.wanted}") from None

    def arguments(self) -> list[str]:
        """The flag as arguments of a command."""
        if is_switch(self.flag.hint) and self.texts == ("true",):
            return [self.flag.name]
        if len(self.texts) == 1 and self.texts[0].startswith("-"):
            return [f"{self.flag.name}={self.texts[0]}"]
        return [self.flag.name, *self.texts]


DRY_RUN = Flag(path="dry_run", hint=bool, about="Look at the images and say what the run would be, without training.")
ESTIMATES = Flag(
    path="json", hint=str, default="estimates.json", about="With --dry-run: write what it estimates to this file, too."
)
LIST_PRESETS = Flag(path="list_presets", hint=bool, about="Say what each preset is for, one a line.")


def flags_of(values: Any, prefix: str = "") -> list[Flag]:
    """The flags of a dataclass's fields and of those below."""
    flags: list[Flag] = []
    hints = types_of(type(values))
    for item in dataclasses.fields(values):
        value = getattr(values, item.name)
        if dataclasses.is_dataclass(value):
            flags += flags_of(value, f"{prefix}{item.name}.")
        else:
            flags.append(Flag(path=prefix + item.name, hint=hints[item.name], default=value))
    return flags


def flags_of_task(task: TaskName) -> list[Flag]:
    """The flags of what a task has a use for."""
    groups, unused = GROUPS[task], UNUSED[task]
    flags = flags_of(Config())
    return [flag for flag in flags if flag.path.split(".")[0] in groups and flag.path not in unused]


def scan(arguments: Sequence[str], flags: Iterable[Flag]) -> list[Given]:
    """Split a command line into flags and their values: --flag value, --flag=value, --flag = value, --switch, --no-switch.

    Raises:
        ValueError: A flag is unknown or lacks its value, or something is neither a flag nor a value.
    """
    known = {flag.name: flag for flag in flags}
    off = {flag.off_name: flag for flag in known.values() if is_switch(flag.hint)}
    given: list[Given] = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        if not _is_flag(argument):
            raise ValueError(_stray(argument, given, known))
        name, equals, text = argument.partition("=")
        canonical = "--help" if name == "-h" else name.replace("_", "-")
        if canonical in off and not equals:
            given.append(Given(flag=off[canonical], texts=("false",)))
        elif canonical in known:
            given.append(Given(flag=known[canonical], texts=_values(known[canonical], [text] if text else [], rest)))
        else:
            raise ValueError(f"the flag {name} is unknown; {_meant(name, known)}")
    return given


def _is_flag(argument: str) -> bool:
    return len(argument) > 1 and argument[0] in "-–—" and not _NUMBER.match(argument)


def _values(flag: Flag, texts: list[str], rest: deque[str]) -> tuple[str, ...]:
    """Take the values of a flag from what follows it."""
    if not texts and rest and rest[0].startswith("="):
        texts = [text] if (text := rest.popleft()[1:]) else []
    if is_switch(flag.hint):
        if not texts and rest and rest[0].lower() in _SWITCHED:
            texts = [rest.popleft()]
        return tuple(text.lower() if text.lower() in _SWITCHED else text for text in texts) or ("true",)
    is_list = tuple_length(flag.hint) is not None and not flag.is_repeated
    while rest and not _is_flag(rest[0]) and (is_list or not texts):
        texts.append(rest.popleft())
    if not texts:
        raise ValueError(f"{flag.name} needs a value: {flag.wanted}")
    return tuple(texts)


def _stray(argument: str, given: Sequence[Given], known: Mapping[str, Flag]) -> str:
    """What to say of an argument that belongs to no flag."""
    last = given[-1] if given else None
    if last is not None and last.flag.is_secret:
        return f"{last.flag.name} takes one value; write its JSON between single quotes, or name a file that holds it"
    if argument.lstrip().startswith("{"):  # may hold credentials
        return "a JSON object belongs to no flag; if it holds storage options, write --data.storage-options before it"
    if last is not None and is_switch(last.flag.hint):
        return f"{argument!r} belongs to no flag; write {last.flag.name} or {last.flag.off_name} alone"
    has_uri = any(item.flag.name == "--data.uri" for item in given)
    if last is not None and str in (last.flag.hint, *getattr(last.flag.hint, "__args__", ())):
        if last.flag.name in _PLACES and _is_place(argument) and _is_place(last.texts[-1]):
            return _several(last.flag.name, last.texts[-1], argument)
        both = shlex.quote(f"{last.texts[-1]} {argument}")
        if last.flag.name == "--data.uri" or not _is_path(argument):
            return f"{argument!r} belongs to no flag; if it belongs to {last.flag.name}, write {last.flag.name} {both}"
    if "--data.uri" in known and _is_path(argument) and not has_uri:
        return f"{argument!r} belongs to no flag; if your images are there, write --data.uri {shlex.quote(argument)}"
    return f"{argument!r} belongs to no flag; see --help for all"


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or text in (".", "..", "~") or Path(text).exists()


def _is_place(text: str) -> bool:
    return "://" in text or Path(text).expanduser().exists()


def _several(name: str, first: str, second: str) -> str:
    """What to say of several places, as a shell makes of a pattern."""
    is_url = "://" in first
    levels = zip(first.split("/")[:-1], second.split("/")[:-1], strict=False)
    parent = "/".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], levels))
    if not parent and not is_url and not first.startswith("/"):
        parent = "."
    is_named = parent and ("://" in parent or not is_url)
    folder = f" with all of them, {name} {shlex.quote(parent)}," if is_named else " that holds all of them"
    return f"{name} takes one place, and {first} and {second} are two; name a folder{folder} or a list of the images (.csv)"


def _meant(name: str, known: Mapping[str, Flag]) -> str:
    """A sentence about the flags that an unknown one may stand for."""
    close = _resembling(name.lstrip("-–—").replace("_", "-").lower(), list(known))
    if close:
        return f"did you mean {' or '.join(close)}? See --help for all"
    group = name.split(".")[0] + "."
    there = [flag for flag in known if "." in name and flag.startswith(group)] or [
        "--preset",
        "--data.uri",
        "--run.name",
    ]
    return f"there are {', '.join(there)}; see --help for all"


def _resembling(word: str, names: Sequence[str]) -> list[str]:
    same = [name for name in names if name[2:].replace(".", "-") == word.replace(".", "-")]
    last = word.rsplit(".", 1)[-1]
    words = same or [name for name, others in _OTHER_WORDS.items() if name in names and word in others.split()]
    words = words or [name for name in names if name[2:].rsplit(".", 1)[-1] == last]
    words = words or difflib.get_close_matches(f"--{word}", names, n=2, cutoff=0.85)
    group = [name for name in names if "." in word and name.startswith(f"--{word.split('.')[0]}.")]
    ends = {name[2:].rsplit(".", 1)[-1]: name for name in group or names}
    words = words or [ends[end] for end in difflib.get_close_matches(last, ends, n=2, cutoff=0.6)]
    return words[:3]
