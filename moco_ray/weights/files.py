"""Files of weights as other programs save them: safetensors and torch.save, with whatever else is in them."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from moco_ray.weights.safetensors_file import MOST_HEADER_BYTES, check_kind, tensors_of

# Parts of names that wrappers put between those of a network: torch.compile, checkpointing, FSDP, whole pickled modules.
_WRAPPERS = frozenset(
    {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_parameters", "_buffers", "_modules"}
)
_MOST_CLASSES = 200
_UNKNOWN = re.compile(r"GLOBAL (\S+) was not an allowed global")
_NO_DICT = re.compile(r"Can only SETITEMS? for dict.* got <class '(.+)'>")

Name = tuple[str, ...]


def read_weights(content: bytes, path: str) -> dict[Name, Tensor]:
    """Every tensor of a file, by the parts of its name: keys of nested dictionaries, split at dots.

    Nothing in the file is run: an object of a class that torch does not know for harmless is replaced by one that
    does nothing, and its state is looked through.

    Raises:
        ValueError: It is no file of weights, or asks for code to be run.
    """
    return tensors_in(read_tree(content, path))


def read_tree(content: bytes, path: str) -> Any:
    """What a file holds, of any shape; objects of unknown classes are inert. Raises as `read_weights` does."""
    check_kind(content, path)
    return tensors_of(content, path) if _is_safetensors(content) else _load(content, path)


def tensors_in(tree: Any) -> dict[Name, Tensor]:
    """Every tensor of what `read_tree` returns, as `read_weights` names them."""
    found = _tensors_in(tree, (), set())
    return {
        name: tensor for name, tensor in found if not all(map(str.isdecimal, name))
    }  # places in a list are no names


def _is_safetensors(content: bytes) -> bool:
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") < MOST_HEADER_BYTES  # also if it is cut


class _Inert:
    """Stands for an object of any class."""

    def __new__(cls, *args: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dict:
    """Stands for a class of dictionaries."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


def _load(content: bytes, path: str) -> Any:
    stand_ins: dict[str, type] = {}
    while True:
        given: list[Any] = [(cls, name) for name, cls in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(given), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols: what cannot be read is an error below
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # an unpickler fails in as many ways as there are files
            if len(stand_ins) > _MOST_CLASSES or not _add_stand_ins(stand_ins, content, str(error)):
                raise ValueError(
                    f"{path} is no file of weights that is safe to load: {_reason(error, content)}"
                ) from error


def _add_stand_ins(stand_ins: dict[str, type], content: bytes, said: str) -> bool:
    """Stand in for what torch did not know; False if that is not what failed."""
    if (no_dict := _NO_DICT.search(said)) is not None:
        name = no_dict[1].rsplit("|", 1)[-1]
        is_new = stand_ins.get(name) not in (None, _Dict)
        stand_ins[name] = _Dict
        return is_new
    if (unknown := _UNKNOWN.search(said)) is None:
        return False
    names = {unknown[1]}
    if not stand_ins:  # all of them at once, where the format lets them be listed
        with contextlib.suppress(Exception):
            names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content)))
    for name in names:
        full = name if "." in name else f"builtins.{name}"
        if full not in stand_ins:
            stand_ins[full] = type(f"_Inert|{full}", (_Inert,), {})
    return True


def _reason(error: Exception, content: bytes) -> str:
    """What torch has said, without its advice."""
    said = str(error)
    if "TorchScript" in said:
        return "it is a TorchScript program; save its state_dict() with torch.save"
    if (blocked := re.search(r"unsupported GLOBAL (\S+) whose module", said)) is not None:
        return f"it asks for {blocked[1]}, which no weights need"
    if "reduce for unrecognized function" in said:
        return "it asks for functions to be called; save its state_dict() with torch.save"
    if not content:
        return "it is empty"
    if content[:2] not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "it is neither safetensors nor written by torch.save"
    if "PytorchStreamReader" in said or "central directory" in said or "EOF" in said or "Ran out of input" in said:
        return "it is cut or damaged"
    return "torch cannot read it; save model.state_dict() with torch.save"


def _tensors_in(value: Any, name: Name, seen: set[int]) -> Iterator[tuple[Name, Tensor]]:
    if isinstance(value, Tensor) and not value.is_nested:
        yield tuple(part for part in name if part not in _WRAPPERS), value.detach()
        return
    if isinstance(value, _Inert):
        value = getattr(value, "state", None)
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, Mapping) and id(value) not in seen:
        seen.add(id(value))
        for key, item in value.items():
            yield from _tensors_in(item, (*name, *str(key).split(".")), seen)
