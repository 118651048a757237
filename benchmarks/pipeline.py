"""Views a core makes: python -m benchmarks.pipeline [--json FILE] [--repeats N].

Images a second of one thread, decoded once and augmented into two views, against what a user would write: Pillow's
decoder and torchvision's transforms on Pillow images, down to normalised float32 tensors. Ours end as uint8, which the
accelerator normalises. Each ratio is of medians of runs that take turns; larger is better.

- two views of 224 px: MoCo v2's, of a photo of 500 x 375. Goal 3.0: decoding alone allows 9.9, the antialiased
  resize, the hue in HSV and the blur take the rest; faster kernels exist and alias or shift colours.
- two views of 32 px: the CIFAR demo's, of images of 32 x 32. Goal 5.0: what is timed is the cost of calls.
- decode: the photo alone, against Pillow. Goal 1.0, never slower: the same libjpeg-turbo makes the same pixels in both,
  and only Pillow's copies are saved. The decoder's faster modes darken the image.

The images are drawn here: soft shapes, edges and sensor noise, which compress as photos do.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torchvision import transforms

from benchmarks.harness import Row, finish, interleave
from moco_ray.config.views import ViewsConfig, cifar_views, v2_views
from moco_ray.data.decode import decode_image
from moco_ray.data.views import make_view

MAX_PIXELS = 100_000_000
VIEW_GOAL, SMALL_VIEW_GOAL, DECODE_GOAL = 3.0, 5.0, 1.0


class PillowBlur:
    """The reference's blur: a Pillow filter whose radius is drawn for each image."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        self.sigma = sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur one image."""
        radius = float(np.random.uniform(*self.sigma))
        return image.filter(ImageFilter.GaussianBlur(radius=radius))


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Draw structure of all sizes, as strong as in nature (power falls with the square of frequency), and noise."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(random.normal(size=(3, height, width))) / frequency
    layers = np.fft.ifft2(spectrum).real
    layers = layers / layers.std()
    luminance = layers[0]
    rgb = np.stack([luminance, 0.9 * luminance + 0.4 * layers[1], 0.8 * luminance + 0.6 * layers[2]], axis=2)
    pixels = 118 + 52 * rgb
    for _ in range(6):  # edges
        centre = (int(random.integers(width)), int(random.integers(height)))
        colour = tuple(float(value) for value in random.integers(0, 256, 3))
        axes = (max(2, width // 12), max(2, height // 6))
        shape = cv2.ellipse(np.zeros_like(pixels), centre, axes, float(random.integers(180)), 0, 360, colour, -1)
        pixels = np.where(shape.any(axis=2, keepdims=True), 0.6 * shape + 0.4 * pixels, pixels)
    noise = random.normal(scale=2, size=pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def pillow_decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def reference_transform(views: ViewsConfig) -> Callable[[Image.Image], torch.Tensor]:
    """The same augmentation as the reference code composes it."""
    steps: list[Callable[..., object]] = [
        transforms.RandomResizedCrop(views.crop_px, scale=(views.crop_min, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(*views.jitter)], p=views.jitter_p),
        transforms.RandomGrayscale(p=views.grayscale_p),
    ]
    if views.blur_p[0]:
        steps.append(transforms.RandomApply([PillowBlur(views.blur_sigma)], p=views.blur_p[0]))
    steps += [
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(views.mean, views.std),
    ]
    composed: Callable[[Image.Image], torch.Tensor] = transforms.Compose(steps)
    return composed


def ours(files: Sequence[bytes], views: ViewsConfig) -> Callable[[], None]:
    turn = iter(range(1_000_000))

    def run() -> None:
        first = next(turn) * len(files)  # new draws every time, as in training
        for i, data in enumerate(files):
            image = decode_image(data, max_pixels=MAX_PIXELS)
            for view in (0, 1):
                make_view(image, views, seed=0, position=first + i, view=view)

    return run


def theirs(files: Sequence[bytes], views: ViewsConfig) -> Callable[[], None]:
    transform = reference_transform(views)

    def run() -> None:
        for data in files:
            image = pillow_decode(data)
            transform(image)
            transform(image)

    return run


def rate_row(case: str, goal: float, runs: dict[str, Callable[[], None]], num_images: int, repeats: int) -> Row:
    seconds = interleave(runs, repeats)
    rates = {name: num_images / run_s for name, run_s in seconds.items()}
    ratio = rates["ours"] / rates["theirs"]
    return Row(
        case=case,
        value=rates["ours"],
        unit="images/s",
        baseline=rates["theirs"],
        ratio=ratio,
        goal=goal,
        passed=ratio >= goal,
    )


def views_row(case: str, goal: float, files: Sequence[bytes], views: ViewsConfig, repeats: int) -> Row:
    return rate_row(case, goal, {"ours": ours(files, views), "theirs": theirs(files, views)}, len(files), repeats)


def decode_row(files: Sequence[bytes], repeats: int) -> Row:
    def decode() -> None:
        for data in files:
            decode_image(data, max_pixels=MAX_PIXELS)

    def reference() -> None:
        for data in files:
            pillow_decode(data)

    return rate_row("decode", DECODE_GOAL, {"ours": decode, "theirs": reference}, len(files), 3 * repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--repeats", type=int, default=9, help="runs of each side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)  # the reference draws from global generators
    np.random.seed(0)
    photos = [jpeg(picture(375, 500, seed)) for seed in range(16)]
    small = [jpeg(picture(32, 32, seed)) for seed in range(128)]
    print(f"photos of {np.mean([len(photo) for photo in photos]) / 1000:.0f} kB on average")
    rows = [
        views_row("two views of 224 px", VIEW_GOAL, photos, v2_views(), args.repeats),
        views_row("two views of 32 px", SMALL_VIEW_GOAL, small, cifar_views(), args.repeats),
        decode_row(photos, args.repeats),
    ]
    finish(rows, args.json)


if __name__ == "__main__":
    main()
