"""What a detector finds in images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from moco_ray.core.precision import has_bfloat16
from moco_ray.data.boxes.maker import scaled_size
from moco_ray.data.views import resize
from moco_ray.evaluate.average_precision import Found
from moco_ray.evaluate.features import ImageSet, UInt8Array, load_images

_NOTHING = Found(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))


@torch.inference_mode()
def find_objects(
    detector: nn.Module,
    images: ImageSet,
    *,
    shorter_px: int,
    longest_px: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[Found]:
    """Detections in each image of a set, one image at a time, where the detector is; nothing in bad images.

    Args:
        detector: A core/detection Detector. Its mode is restored.
        images: Where to look.
        shorter_px: Side to which an image's shorter one is scaled.
        longest_px: Longest side.
        mean: Of red, green and blue in 0..1.
        std: Of red, green and blue in 0..1.
        tell: Called with the numbers of images that are done and that there are.

    Raises:
        ReadError: An image cannot be read.
    """
    from moco_ray.core.detection.canvas import on_canvas, padded_size  # here, because torchvision takes a second
    from moco_ray.core.detection.step import no_search

    sizes: dict[int, tuple[int, int]] = {}

    def scaled(image: UInt8Array, place: int) -> UInt8Array:
        sizes[place] = (image.shape[0], image.shape[1])
        return resize(image, *scaled_size(*sizes[place], shorter_px, longest_px))

    parameter = next(detector.parameters())
    center, scale = (torch.tensor(v, dtype=parameter.dtype, device=parameter.device) for v in (mean, std))
    autocast = torch.bfloat16 if has_bfloat16(parameter.device) else None
    found = [_NOTHING] * len(images)
    was_training = detector.training
    detector.eval()
    try:
        for done, batch in enumerate(load_images(images, scaled, at_once=1)):
            (place,), size = batch.places.tolist(), (batch.pixels.shape[1], batch.pixels.shape[2])
            flat = torch.from_numpy(batch.pixels).flatten(1).to(parameter.device)
            with no_search(), torch.autocast(parameter.device.type, dtype=autocast, enabled=autocast is not None):
                own = detector(on_canvas(flat, [size], padded_size(*size), center, scale), [size])[0]
            height, width = sizes.pop(place)
            back = np.tile([width / size[1], height / size[0]], 2)
            boxes, labels, scores = (own[name].cpu().double().numpy() for name in ("boxes", "labels", "scores"))
            found[place] = Found(boxes * back, labels.astype(np.int64) - 1, scores)
            tell(done + 1, len(images))
    finally:
        detector.train(was_training)
    return found
