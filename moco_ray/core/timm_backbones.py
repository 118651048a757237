"""timm's models as backbones, built for the images that they will see."""

from __future__ import annotations

import functools
import warnings
from difflib import get_close_matches
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
        known = timm.list_models()
        close = (
            get_close_matches(name.split(".")[0].lower(), known, n=5) or timm.list_models(f"*{name.split('_')[0]}*")[:5]
        )
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
        with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that come out empty
            model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
            model.train()(torch.zeros(2, 3, image_px, image_px))
    except Exception as error:
        return "meta" in str(error)  # it needs numbers: whoever computes with some will see
    return not arguments or all(image_px % patch == 0 for patch in _patches(model, image_px))


def _patches(model: nn.Module, image_px: int) -> list[int]:
    """Sides of the patches that images are cut into; what is left of an image would be dropped."""
    embeddings = [module for module in model.modules() if hasattr(module, "img_size") and hasattr(module, "patch_size")]
    return [_side(module.patch_size) for module in embeddings if _side(module.img_size) == image_px]


def _side(size: Any) -> int:
    return int(size[0]) if isinstance(size, tuple | list) else int(size or 0)
