"""Views of whole batches on the device: crops and colours of many images at once."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.device.setup import Place
from benchmarks.harness import Row, at_least, at_most
from moco_ray.config.views import ViewsConfig, cifar_views
from moco_ray.data.views import make_view

_TRIES = 10
_RATIO = math.log(4 / 3)
_LUMA = (0.299, 0.587, 0.114)
_MOST_APART = 1.5  # grey levels between the means of many views from here and from the CPU's


def device_views(images: Tensor, config: ViewsConfig, generator: torch.Generator) -> Tensor:
    """A random view of each image: crop, flip, colour jitter and grey as `config` says; no blur, nothing solarized.

    One order of the jitter's operations is drawn for the batch, and crops are not antialiased, which at 32 px of 32
    changes little.

    Args:
        images: (n, H, H, 3) uint8.
        config: The augmentation; its crop_px is H.
        generator: On the images' device.

    Returns:
        (n, H, H, 3) uint8.
    """
    n, side = len(images), images.shape[1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=images.device)

    x = images.permute(0, 3, 1, 2).float() / 255
    x = _cropped(x, *_draw_crops(n, side, config.crop_min, uniform), uniform(n) < config.flip_p)
    jittered, (brightness, contrast, saturation, hue) = x, config.jitter
    for operation in torch.randperm(4).tolist():  # on the host: nobody waits
        factors = 2 * uniform(n, 1, 1, 1) - 1
        if operation == 0:
            jittered = (jittered * (1 + brightness * factors)).clamp(0, 1)
        elif operation == 1:
            jittered = _blend(jittered, _gray(jittered).mean(dim=(2, 3), keepdim=True), 1 + contrast * factors)
        elif operation == 2:
            jittered = _blend(jittered, _gray(jittered), 1 + saturation * factors)
        else:
            jittered = _turned(jittered, hue * factors)
    x = torch.where(uniform(n, 1, 1, 1) < config.jitter_p, jittered, x)
    x = torch.where(uniform(n, 1, 1, 1) < config.grayscale_p, _gray(x).expand_as(x), x)
    return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _draw_crops(n: int, side: int, area_min: float, uniform) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of n crops in shares of the side, as torchvision's RandomResizedCrop draws them."""
    area, ratio = area_min + (1 - area_min) * uniform(n, _TRIES), torch.exp((2 * uniform(n, _TRIES) - 1) * _RATIO)
    widths, heights = ((side * (area * r).sqrt()).round() / side for r in (ratio, 1 / ratio))
    fits = (widths <= 1) & (heights <= 1)
    first, any_fits = fits.int().argmax(dim=1, keepdim=True), fits.any(dim=1)
    width, height = (
        torch.where(any_fits, sizes.gather(1, first)[:, 0], torch.ones_like(area[:, 0])) for sizes in (widths, heights)
    )
    top, left = ((uniform(n) * (side * (1 - size) + 1)).floor().clamp(max=side) / side for size in (height, width))
    return torch.minimum(top, 1 - height), torch.minimum(left, 1 - width), height, width


def _cropped(x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, is_flipped: Tensor) -> Tensor:
    """Crops (n, 3, H, H), resized; like a resize of what was cut out, they see nothing beyond it."""
    side = x.shape[-1]
    middles = (torch.arange(side, device=x.device) + 0.5) / side  # of the pixels, (H,)
    across = torch.where(is_flipped[:, None], 1 - middles, middles)
    grid = []
    for start, size, share in ((left, width, across), (top, height, middles.expand(len(x), side))):
        first, last = start + 0.5 / side, start + size - 0.5 / side
        at = (start[:, None] + size[:, None] * share).maximum(first[:, None]).minimum(last[:, None])
        grid.append(2 * at - 1)  # (n, H)
    columns, rows = grid[0][:, None, :].expand(-1, side, -1), grid[1][:, :, None].expand(-1, -1, side)
    return F.grid_sample(x, torch.stack([columns, rows], dim=3), mode="bilinear", align_corners=False)


def _gray(x: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA).to(x.device, non_blocking=True)
    return (x * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (other + factor * (x - other)).clamp(0, 1)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue, through HSV."""
    red, green, blue = x.unbind(dim=1)
    largest, smallest = x.amax(dim=1), x.amin(dim=1)
    span = (largest - smallest).clamp(min=1e-8)
    of_green_or_blue = torch.where(largest == green, (blue - red) / span + 2, (red - green) / span + 4)
    hue = torch.where(largest == red, ((green - blue) / span) % 6, of_green_or_blue)
    hue = (hue + 6 * turns[:, 0]) % 6
    chroma = largest - smallest
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + hue) % 6
        channels.append(largest - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def views(place: Place) -> list[Row]:
    """Views a second on the device against one CPU core's, and how far their means are apart."""
    config = cifar_views()
    n = 64 if place.is_tiny else 4096
    pixels = np.random.default_rng(0).normal(128, 50, (n, 8, 8, 3)).clip(0, 255).astype(np.uint8)
    pixels = pixels.repeat(4, axis=1).repeat(4, axis=2)  # patches, so that colours are not all grey on average
    images = torch.from_numpy(pixels).to(place.device)
    generator = torch.Generator(place.device).manual_seed(0)
    device_views(images, config, generator)
    place.wait()
    start = time.perf_counter()
    here = device_views(images, config, generator)
    place.wait()
    device_s = time.perf_counter() - start
    start = time.perf_counter()
    there = np.stack([make_view(image, config, seed=0, position=i, view=0) for i, image in enumerate(pixels)])
    core_s = time.perf_counter() - start
    means = [views.reshape(n, -1).astype(np.float64) for views in (here.cpu().numpy(), there)]
    apart = float(
        max(abs(means[0].mean() - means[1].mean()), abs(means[0].std(axis=1).mean() - means[1].std(axis=1).mean()))
    )
    most_apart = _MOST_APART * (10 if place.is_tiny else 1)
    return [
        at_least(
            "views of 32 px on the device against one core",
            n / device_s,
            n / core_s,
            "views/s",
            20.0,
            is_judged=not place.is_tiny,
        ),
        at_most("views on the device: mean and contrast apart from the CPU's", apart, most_apart, "grey levels"),
    ]
