"""What a worker does to a chunk of images: read, decode and encode it; the same numbers wherever that is."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco_ray.config.views import ViewsConfig
from moco_ray.core.precision import weights_of
from moco_ray.data.views import center_view, make_view
from moco_ray.evaluate.features import ImageSet, apply_to_pixels, identity, joined, load_images

CHUNK = 1024
"""Images that are encoded by one worker, in batches that depend on nothing but which they are."""
_RAW_PX = 32

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is encoded, and how."""

    modules: Mapping[str, nn.Module]
    """Images (n, 3, crop_px, crop_px) -> features (n, d), by name; on the CPU."""
    sets: Mapping[str, ImageSet]
    """The images, by name."""
    views: ViewsConfig
    """Crop and standardisation; also the views for alignment."""
    resize_px: int
    """The shorter side before the centre crop."""
    dtype: str = "auto"
    """Arithmetic, as run.dtype names it; features are float32 whatever it is."""
    seed: int = 0
    """Of the random views."""
    uses_gpu: bool = False
    """Whether each worker has a GPU."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive images of a set."""

    images: str
    """The set's name."""
    first: int
    """Place of the first of them in the set."""
    last: int
    """One past the last."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Which images of a chunk have features."""

    places: NDArray[np.int64]
    """(n,) which images of the set these are, ascending."""
    ids: NDArray[np.int64]
    """(n,) hashes of the pixels that were encoded."""
    bad: dict[int, str]
    """Places of the images that cannot be had or do not decode, and why."""


@dataclass(frozen=True, kw_only=True)
class Encoded(_Kept):
    """Features of a chunk, to be sent."""

    features: dict[str, FloatArray]
    """By module: (n, d)."""


@dataclass(frozen=True, kw_only=True)
class EncodedHere(_Kept):
    """Features of a chunk, on the device."""

    features: dict[str, Tensor]
    """By module: (n, d)."""


class RawPixels(nn.Module):
    """An encoder that knows nothing: the image, averaged down to 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # says where and in which numbers

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) -> (n, 3 * side * side)."""
        side = min(_RAW_PX, images.shape[-1])
        return nn.functional.adaptive_avg_pool2d(images, side).flatten(1)


@dataclass
class Encoding:
    """A worker's modules, on its device; two threads may ask for chunks at once, and one of them computes."""

    spec: Spec
    """What it encodes."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever computes."""
    kept: dict[str, object] = field(default_factory=dict)
    """What was made of shared values, by their keys."""

    def __post_init__(self) -> None:
        """Take the modules to the device."""
        self.device = torch.device("cuda" if self.spec.uses_gpu else "cpu")
        self.modules = {name: self._here(module) for name, module in self.spec.modules.items()}

    def _here(self, module: nn.Module) -> nn.Module:
        moved = copy.deepcopy(module).eval().to(device=self.device, dtype=weights_of(self.spec.dtype))
        for tensor in [*moved.parameters(), *moved.buffers()]:
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        return moved

    def apply(self, name: str, pixels: NDArray[np.uint8]) -> Tensor:
        """Features float32 (n, d) of pixels (n, H, W, 3), on the device."""
        views = self.spec.views
        return apply_to_pixels(self.modules[name], pixels, mean=views.mean, std=views.std, dtype=self.spec.dtype)


def images_of(spec: Spec, chunk: Chunk) -> ImageSet:
    """The images of a chunk."""
    whole = spec.sets[chunk.images]
    return whole.part(chunk.first, chunk.last)


def encode_chunk(encoding: Encoding, chunk: Chunk) -> Encoded:
    """Features of the centre crops of a chunk of images, by every module."""
    found = encode_on_device(encoding, chunk)
    features = {name: part.cpu().numpy() for name, part in found.features.items()}
    return Encoded(features=features, places=found.places, ids=found.ids, bad=found.bad)


def encode_on_device(encoding: Encoding, chunk: Chunk) -> EncodedHere:
    """The same for whoever goes on computing with them."""
    spec = encoding.spec
    bad: dict[int, str] = {}
    batches = load_images(
        images_of(spec, chunk),
        lambda image, _: center_view(image, spec.views.crop_px, spec.resize_px),
        tell_bad=bad.__setitem__,
    )
    parts: dict[str, list[Tensor]] = {name: [] for name in encoding.modules}
    places, ids = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in joined(batches) if spec.uses_gpu else batches:
        with encoding.lock:
            for name, batches_of_one in parts.items():
                batches_of_one.append(encoding.apply(name, batch.pixels))
        places.append(batch.places)
        ids.append(np.array([identity(image) for image in batch.pixels], dtype=np.int64))
    nothing = torch.zeros(0, 0, device=encoding.device)
    return EncodedHere(
        features={name: torch.cat(part) if part else nothing for name, part in parts.items()},
        places=chunk.first + np.concatenate(places),
        ids=np.concatenate(ids),
        bad={chunk.first + place: reason for place, reason in sorted(bad.items())},
    )


def view_chunk(encoding: Encoding, chunk: Chunk) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Features of two random views of each image of a chunk that decodes, by every module."""
    spec = encoding.spec

    def both_views(image: NDArray[np.uint8], place: int) -> NDArray[np.uint8]:
        position = chunk.first + place
        return np.stack([make_view(image, spec.views, seed=spec.seed, position=position, view=v) for v in (0, 1)])

    parts: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in encoding.modules}
    for batch in load_images(images_of(spec, chunk), both_views):  # pixels (n, 2, H, W, 3)
        with encoding.lock:
            for name, views in parts.items():
                for view, features in enumerate(views):
                    features.append(encoding.apply(name, batch.pixels[:, view]).cpu())
    return {
        name: (torch.cat(first).numpy(), torch.cat(second).numpy()) for name, (first, second) in parts.items() if first
    }


def chunks_of(name: str, num_images: int) -> list[Chunk]:
    """A set, cut into chunks."""
    return [
        Chunk(images=name, first=first, last=min(first + CHUNK, num_images)) for first in range(0, num_images, CHUNK)
    ]
