"""Views a core makes: python -m benchmarks.pipeline [--photos PLACE] [--small PLACE] [--json FILE] [--repeats N].

Images a second of processor time, decoded once and augmented into two views, against what a user would write: Pillow's
decoder and torchvision's transforms on Pillow images, down to normalised float32 tensors. Ours end as uint8 in the
rows of a batch, which the accelerator normalises. Each ratio is of medians of runs that take turns; larger is better.

- two views of 224 px: MoCo v2's, of photos. Goal 4.5: decoding, the antialiased resize, the hue in HSV and the blur
  take the time; faster kernels exist and alias or shift colours.
- two views of 32 px: the CIFAR demo's, of images of 32 x 32. Goal 10: what is timed is the cost of calls, which falls
  when one kind of call is made for many images in a row, and no call of torch is made for a small crop.
- decode: the photos alone, against Pillow. Goal 1.0, never slower: the same libjpeg-turbo makes the same pixels in
  both, and only Pillow's copies are saved. The decoder's faster modes darken the image.

PLACE is a folder of JPEGs or a tar archive of some, compressed or not, of which some are taken from all over. Without
it the photos are those that scikit-image and scikit-learn install, at most 500 pixels wide, and small images cut from
them.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from benchmarks.harness import Row, at_least, finish, interleave
from benchmarks.photos import jpegs_of, shipped_photos, shipped_small, spread
from moco_ray.config.views import ViewsConfig, cifar_views, v2_views
from moco_ray.data.blocks import Known, StreamSpec, fill_group
from moco_ray.data.decode import decode_image
from moco_ray.data.makers import TwoViews

MAX_PIXELS = 100_000_000
NUM_PHOTOS, NUM_SMALL = 64, 256
VIEW_GOAL, SMALL_VIEW_GOAL, DECODE_GOAL = 4.5, 10.0, 1.0


class PillowBlur:
    """The reference's blur: a Pillow filter whose radius is drawn for each image."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        self.sigma = sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur one image."""
        radius = float(np.random.uniform(*self.sigma))
        return image.filter(ImageFilter.GaussianBlur(radius=radius))


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
    spec = StreamSpec(
        seed=0,
        global_batch_size=len(files),
        num_groups=1,
        maker=TwoViews(views, shuffle_bn=False),
        max_pixels=MAX_PIXELS,
    )
    out, known = spec.maker.empty(len(files)), Known(np.zeros(len(files), dtype=np.int64), [None] * len(files))
    turn = iter(range(1_000_000))

    def run() -> None:
        bad = fill_group(spec, files, known, next(turn) * len(files), out)  # new draws every time, as in training
        assert not bad, bad

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
    seconds = interleave(runs, repeats, clock=time.process_time)
    rates = {name: num_images / run_s for name, run_s in seconds.items()}
    return at_least(case, rates["ours"], rates["theirs"], "images/s", goal)


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
    parser.add_argument("--photos", type=Path, default=None, help="folder or tar archive of JPEGs")
    parser.add_argument("--small", type=Path, default=None, help="folder or tar archive of JPEGs of 32 x 32")
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--repeats", type=int, default=9, help="runs of each side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)  # the reference draws from global generators
    np.random.seed(0)
    photos = spread(jpegs_of(args.photos) if args.photos else shipped_photos(500), NUM_PHOTOS)
    small = spread(jpegs_of(args.small) if args.small else shipped_small(32), NUM_SMALL)
    print(f"{len(photos)} photos of {np.mean([len(photo) for photo in photos]) / 1000:.0f} kB on average")
    rows = [
        views_row("two views of 224 px", VIEW_GOAL, photos, v2_views(), args.repeats),
        views_row("two views of 32 px", SMALL_VIEW_GOAL, small, cifar_views(), args.repeats),
        decode_row(photos, args.repeats),
    ]
    finish(rows, args.json)


if __name__ == "__main__":
    main()
