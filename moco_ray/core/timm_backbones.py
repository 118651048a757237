"""timm's models as backbones, built for the images that they will see."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn


def build_timm_backbone(name: str, image_px: int) -> nn.Module:
    """Build a timm model without its classifier; weights come from torch's global generator.

    Args:
        name: As timm lists it.
        image_px: Side of the images. A model that takes them as it is stays as it is; one made for images of another
            size is built for these, where timm can.

    Raises:
        ValueError: timm has no such model, or cannot build it.
    """
    import timm  # here, because it takes seconds to import and most runs do not use it

    if name.split(".")[0] not in timm.list_models():
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(
            f"model.arch timm:{name} is unknown to timm {timm.__version__}"
            + (f"; did you mean timm:{', timm:'.join(close)}" if close else "")
        )
    arguments = timm_arguments(name, image_px)
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except Exception as error:  # as many kinds as there are models
        raise ValueError(f"model.arch timm:{name} cannot be built by timm {timm.__version__}: {error}") from error


@functools.cache
def timm_arguments(name: str, image_px: int) -> dict[str, Any]:
    """What timm.create_model is given beside the name and num_classes=0, for images of a size.

    Returns:
        {"img_size": image_px} for a model that takes such images only when it is built for them, else {}.
    """
    if takes_images(name, image_px) or not takes_images(name, image_px, img_size=image_px):
        return {}
    return {"img_size": image_px}


def takes_images(name: str, image_px: int, **arguments: Any) -> bool:
    """Whether a model can be built with these arguments and takes images of a size, every pixel of them.

    Layers without weights answer in a fraction of a second, and draw nothing.
    """
    import timm

    try:
        with torch.device("meta"), torch.no_grad():
            model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
            model.train()(torch.zeros(2, 3, image_px, image_px))
    except Exception as error:
        return "meta" in str(error)  # it needs numbers: whoever computes with some will see
    return not arguments or image_px % _patch_px(model) == 0


def _patch_px(model: nn.Module) -> int:
    """Side of the patches that an image is cut into; what is left of it would be dropped."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    return int(patch if isinstance(patch, int) else patch[0])
