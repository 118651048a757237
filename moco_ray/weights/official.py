"""What the authors of MoCo saved of v1, v2 and v3: the network, told from the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moco_ray.config.model import VITS, ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from moco_ray.weights.files import Name

CROP_PX = 224
"""Of every file that they published."""
QUERY_ENCODERS = ("encoder_q", "base_encoder")
"""The last part of the names before the query encoder's own: of v1 and v2, and of v3."""
_RESNETS = re.compile(r"(wide_)?resnet\d+(_\d+)?")


def official_model(tree: Any, tensors: Mapping[Name, Tensor]) -> ModelConfig | None:
    """The encoder of a checkpoint of MoCo v1, v2 or v3, with its projector; None if this is none, or it is unknown here.

    Args:
        tree: What the file holds.
        tensors: Its tensors, by the parts of their names.
    """
    arch = tree.get("arch") if isinstance(tree, Mapping) else None
    if not isinstance(arch, str) or not (arch in VITS or _RESNETS.fullmatch(arch)):
        return None
    for name in tensors:
        for cut, part in enumerate(name, start=1):
            if part in QUERY_ENCODERS:
                return ModelConfig(arch=arch, **_projector(projector_of(tensors, name[:cut])))
    return None


def projector_of(tensors: Mapping[Name, Tensor], prefix: Name) -> dict[str, Tensor]:
    """The tensors of a projector that took the place of the classifier, by their names in ours; empty without.

    Args:
        tensors: Of a file, by the parts of their names.
        prefix: What precedes the names of the network.
    """
    cut = len(prefix)
    return {
        ".".join(name[cut + 1 :]): tensor
        for name, tensor in tensors.items()
        if name[:cut] == prefix and name[cut : cut + 1] in (("fc",), ("head",))
    }


def _projector(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of `ModelConfig`; empty if it is of another kind than v1's, v2's and v3's."""
    matrices = [tensor for name, tensor in tensors.items() if name.endswith("weight") and tensor.dim() == 2]
    if not matrices:
        return {}
    found = {"dim": int(matrices[-1].shape[0])}
    if "weight" in tensors:
        return {**found, "projector": "linear"}
    found["hidden_dim"] = int(matrices[0].shape[0])
    has_norms = any(name.endswith("running_mean") for name in tensors)
    layers = {"projector": "mlp-bn", "projector_layers": len(matrices)} if has_norms else {"projector": "mlp"}
    return {**found, **layers}
