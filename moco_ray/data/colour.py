"""Colour jitter, grayscale, hue, blur and solarize on uint8 RGB arrays, following Pillow's results.

Brightness, contrast, saturation and grayscale all have the form y = scale * x + luma_weight * luma(x) + offset, and
so does any sequence of them: three numbers follow the sequence and one matrix product applies it. Only a factor above
1 can leave 0..255, so what is pending is applied, and clipped, after each such operation and before the hue. Differs:
values between are not rounded, and the hue's 8-bit circle is OpenCV's. From Pillow's results a view is 0.4 to 0.5
grey levels away on average (v1: 0.6), 1 % of the values 3 or 4, the worst of 120 views 2; single values up to 20.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0, 1, 2, 3

# ITU-R 601, as in Pillow's conversion to "L".
_LUMA = (0.299, 0.587, 0.114)
# Pillow's blends truncate where OpenCV rounds; what is whole stays, whatever the last bit of a product says.
_TRUNCATION = -0.499


def jitter(
    image: UInt8Array,
    order: tuple[int, ...],
    factors: tuple[float, float, float, float],
    *,
    gray_first: bool = False,
    gray_last: bool = False,
) -> UInt8Array:
    """Apply torchvision's colour operations in the given order.

    Args:
        image: uint8 (H, W, 3) RGB.
        order: Operations by number, any subset in any order.
        factors: Factors of brightness, contrast and saturation, and the shift of the hue in turns.
        gray_first: Whether the image turns grey before the first operation.
        gray_last: Whether it turns grey after the last.

    Returns:
        uint8 (H, W, 3); the input itself where nothing changes.
    """
    scale, luma, offset = (0.0, 1.0, 0.0) if gray_first else (1.0, 0.0, 0.0)
    for operation in order:
        factor = factors[operation]
        if operation in (SATURATION, HUE) and gray_first:
            continue
        if operation == HUE:
            if int(factor * 255) == 0:
                continue
            image = shift_hue(_affine(image, scale, luma, offset), factor)
        elif factor == 1.0:
            continue
        elif operation == BRIGHTNESS:
            scale, luma, offset = factor * scale, factor * luma, factor * offset + _TRUNCATION
        elif operation == CONTRAST:
            # The mean of what the image would be here, from the mean of what it is; whole, as Pillow's.
            mean = math.floor(min(max((scale + luma) * _mean_luma(image) + offset, 0.0), 255.0) + 0.5)
            scale, luma = factor * scale, factor * luma
            offset = factor * offset + (1 - factor) * mean + _TRUNCATION
        else:
            luma = factor * luma + (1 - factor) * (scale + luma)
            scale, offset = factor * scale, offset + _TRUNCATION
        if operation != HUE and factor > 1.0:
            image = _affine(image, scale, luma, offset)
        if operation == HUE or factor > 1.0:
            scale, luma, offset = 1.0, 0.0, 0.0
    if gray_last:
        scale, luma = 0.0, scale + luma
    return _affine(image, scale, luma, offset)


def shift_hue(image: UInt8Array, turns: float) -> UInt8Array:
    """Rotate the hue of a uint8 (H, W, 3) RGB image by `turns` (1 is the whole circle), through 8-bit HSV."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # Pillow's circle has 255 steps and torchvision truncates to them; OpenCV's has 256.
    steps = round(int(turns * 255) * 256 / 255)
    shift = np.zeros(image.shape[1:], np.uint8)  # (W, 3): numpy adds whole rows three times as fast as every third byte
    shift[:, 0] = steps % 256
    hsv += shift
    return _uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))


def blur(image: UInt8Array, sigma: float) -> UInt8Array:
    """Blur a uint8 (H, W, 3) image as Pillow's GaussianBlur of radius `sigma` px does.

    Pillow runs three box filters of that variance. Their convolution keeps the variance of a small sigma, where
    OpenCV's sampled Gaussian hardly blurs at all, and is shorter than 3 sigma to either side, so it is faster too.
    """
    taps = _pillow_blur_taps(sigma)
    return _uint8(cv2.sepFilter2D(image, -1, taps, taps, borderType=cv2.BORDER_REPLICATE))


def solarize(image: UInt8Array) -> UInt8Array:
    """Invert the values of 128 and more, in place (v and 255 - v: whichever is smaller)."""
    return np.minimum(image, ~image, out=image)


def _pillow_blur_taps(sigma: float) -> NDArray[np.float32]:
    """Return the kernel of Pillow's three box filters, in steps of 1/256 that sum to 1.

    Each box has 2 n + 1 whole pixels and a fraction of one at either end (Gwosdek et al. 2011, "Theoretical
    Foundations of Gaussian Convolution by Extended Box Filtering").
    """
    variance = sigma**2 / 3
    n = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    end = (2 * n + 1) * (n * (n + 1) - 3 * variance) / (6 * (variance - (n + 1) ** 2))
    box = np.array([end, *[1.0] * (2 * n + 1), end]) / (2 * n + 1 + 2 * end)
    # OpenCV's kernels on uint8 have 8 bits. Rounding them here keeps their sum, and with it the brightness.
    steps = np.round(256 * np.convolve(np.convolve(box, box), box))
    steps[len(steps) // 2] += 256 - steps.sum()
    return (steps / 256).astype(np.float32)


def _mean_luma(image: UInt8Array) -> float:
    red, green, blue, _ = cv2.mean(image)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _affine(image: UInt8Array, scale: float, luma: float, offset: float) -> UInt8Array:
    if scale == 1.0 and luma == 0.0 and offset == 0.0:
        return image
    red, green, blue = luma * _LUMA[0], luma * _LUMA[1], luma * _LUMA[2]
    matrix = np.array(
        (
            (scale + red, green, blue, offset),
            (red, scale + green, blue, offset),
            (red, green, scale + blue, offset),
        )
    )
    return _uint8(cv2.transform(image, matrix))


def _uint8(image: object) -> UInt8Array:
    """Name the type that OpenCV's stubs leave open."""
    assert isinstance(image, np.ndarray)
    return image
