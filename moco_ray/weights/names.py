"""Find a network's tensors among those of a file, under whatever prefix they are."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from moco_ray.weights.files import Name

# Parts on top of a backbone, by the first part of their names.
_HEADS = re.compile(
    r"fc|last_linear|linear|(?i:aux\w*)|head\w*|\w*_head|mlp_head\w*|classifier\w*|proj|projector\w*|projection\w*|"
    r"predict\w*|prototypes\w*|decoder\w*|mask_token|queue\w*|logit_\w*|temperature|lr"
)
# Tables that older versions of a network saved, and newer ones compute.
_COMPUTED = ("num_batches_tracked", "attn_mask", "relative_position_index", "relative_coords_table", "position_ids")
_FIRST = re.compile(r"teacher|query\w*|\w*_q|(\w*_)?ema(_\w+)?")
_LAST = re.compile(r"key|key_\w*|\w*_k|\w*momentum\w*|target\w*|student")


@dataclass(frozen=True, kw_only=True)
class Found:
    """Tensors of a backbone in a file."""

    prefix: Name
    """What precedes their names."""
    tensors: dict[str, Tensor]
    """By the backbone's own names."""
    names: dict[Name, str]
    """What they may be called after the prefix, and the backbone's own names for that."""
    others: list[str] = field(default_factory=list)
    """Prefixes under which the file has as much."""


def find_backbone(tensors: Mapping[Name, Tensor], backbone: nn.Module) -> Found:
    """Find the prefix under which most of a backbone's tensors are, with their shapes.

    Of several that fit as well it takes a teacher, a query encoder or an average over training first, and a key
    encoder or a student last.

    Args:
        tensors: All of a file, by the parts of their names.
        backbone: Its names, or the same with the place of the first module for its name (as in an nn.Sequential of
            a network's children), are looked for.
    """
    own = dict(backbone.state_dict())
    candidates: list[Found] = []
    for names in (_same_names(own), _numbered_names(own, backbone)):
        matches = defaultdict[Name, dict[str, Tensor]](dict)
        for name, tensor in tensors.items():
            for cut in range(len(name)):
                if (suffix := names.get(name[cut:])) is not None:
                    matches[name[:cut]][suffix] = tensor
        candidates += [Found(prefix=prefix, tensors=found, names=names) for prefix, found in matches.items()]
    if not candidates:
        return Found(prefix=(), tensors={}, names=_same_names(own))
    ranked = sorted(candidates, key=lambda found: (*_score(found, own), *_preference(found.prefix)), reverse=True)
    best = ranked[0]
    others = [found for found in ranked[1:] if _score(found, own) == _score(best, own)]
    return replace(best, others=[".".join(found.prefix) for found in others])


def unknown_names(tensors: Mapping[Name, Tensor], found: Found) -> list[str]:
    """Names under the prefix that are neither the backbone's nor those of a head on top of it, or of a single number."""
    cut, parts = len(found.prefix), {name[0] for name in found.names}
    beside = [
        name[cut:]
        for name, tensor in tensors.items()
        if name[:cut] == found.prefix
        and name[cut:] not in found.names
        and len(name) > cut
        and (tensor.dim() > 0 or name[cut] in parts)  # a learning rate, a scale of the loss; not one of a block
    ]
    return sorted(".".join(name) for name in beside if not _HEADS.fullmatch(name[0]) and name[-1] not in _COMPUTED)


def _same_names(own: Mapping[str, Tensor]) -> dict[Name, str]:
    return {tuple(name.split(".")): name for name in own}


def _numbered_names(own: Mapping[str, Tensor], backbone: nn.Module) -> dict[Name, str]:
    """With the number of the first module for its name."""
    numbers = {child: str(i) for i, (child, _) in enumerate(backbone.named_children())}
    split = {name: name.split(".") for name in own}
    return {(numbers[first], *rest): name for name, (first, *rest) in split.items() if first in numbers}


def _score(found: Found, own: Mapping[str, Tensor]) -> tuple[int, int]:
    return sum(own[name].shape == tensor.shape for name, tensor in found.tensors.items()), len(found.tensors)


def _preference(prefix: Name) -> tuple[int, int]:
    liked = any(_FIRST.fullmatch(part) for part in prefix) - any(_LAST.fullmatch(part) for part in prefix)
    return liked, -len(prefix)
