"""Images of different sizes as one tensor, of a size that all ranks agree on."""

from __future__ import annotations

import torch
from torch import Tensor

from moco_ray.core import collectives
from moco_ray.core.encoders import normalize

_MULTIPLE = 32


def common_canvas(sizes: list[tuple[int, int]], device: torch.device) -> tuple[int, int]:
    """Height and width that hold every image of the global batch, multiples of 32. All ranks must call.

    Args:
        sizes: Height and width of this rank's images.
        device: One that ranks reduce on.
    """
    largest = [-collectives.all_reduce_min(-max(sides), device) for sides in zip(*sizes, strict=True)]
    return padded_size(*largest)


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The next multiples of 32, with which every map has a whole number of places."""
    return -(-height // _MULTIPLE) * _MULTIPLE, -(-width // _MULTIPLE) * _MULTIPLE


def on_canvas(
    pixels: Tensor, sizes: list[tuple[int, int]], canvas: tuple[int, int], mean: Tensor, std: Tensor
) -> Tensor:
    """Standardise images and put each into the upper left corner of zeros.

    Args:
        pixels: (n, P) uint8; of each image its height * width * 3 values, row after row, then anything.
        sizes: Height and width of each.
        canvas: Height and width of the result.
        mean: (3,) in 0..1.
        std: (3,) in 0..1.

    Returns:
        (n, 3, H, W) of the dtype of mean, channels-last in memory.
    """
    images = mean.new_zeros((len(sizes), *canvas, 3))
    for image, flat, (height, width) in zip(images, pixels, sizes, strict=True):
        own = flat[: height * width * 3].view(1, height, width, 3)
        image[:height, :width] = normalize(own, mean, std)[0].permute(1, 2, 0)
    return images.permute(0, 3, 1, 2)
