"""Pictures with the structure of photos, and what torchvision's transforms on Pillow make of a drawn view."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as TF

from moco_ray.config.views import ViewsConfig
from moco_ray.data.views import ViewDraw


def make_photos() -> list[np.ndarray]:
    """Four pictures of 375 x 500 with structure of all sizes, the contrast of photos, and some noise."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(4):
        pixels = np.full((375, 500, 3), 128.0)
        for sigma, strength in ((2, 70), (8, 280), (40, 1600), (90, 4500)):
            pixels += strength * cv2.GaussianBlur(random.normal(size=pixels.shape), (0, 0), sigma)
        pictures.append(np.clip(pixels + random.normal(scale=3, size=(375, 500, 1)), 0, 255).astype(np.uint8))
    return pictures


def pillow_view(image: np.ndarray, draw: ViewDraw, config: ViewsConfig) -> np.ndarray:
    """What the reference's torchvision transforms make of the same draw."""
    operations = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    x = TF.resized_crop(Image.fromarray(image), *draw.crop, [config.crop_px, config.crop_px])
    if draw.is_gray and config.grayscale_first:
        x = TF.to_grayscale(x, 3)
    for operation in draw.jitter_order:
        x = operations[operation](x, draw.jitter_factors[operation])
    if draw.is_gray and not config.grayscale_first:
        x = TF.to_grayscale(x, 3)
    if draw.blur_sigma:
        x = x.filter(ImageFilter.GaussianBlur(draw.blur_sigma))
    if draw.is_solarized:
        x = ImageOps.solarize(x)
    return np.asarray(TF.hflip(x) if draw.is_flipped else x)
