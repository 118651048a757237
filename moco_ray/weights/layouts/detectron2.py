"""Detectron2's file of a ResNet: a pickle of arrays by Detectron2's names."""

from __future__ import annotations

import pickle
import re
from typing import Any

from moco_ray.weights.layouts.layout import Layout, Source, torchvision_name

_STRIDE_IN_3X3 = "MODEL.RESNETS.STRIDE_IN_1X1: false"


def detectron2_name(name: str) -> str:
    """Detectron2's name of a weight of torchvision's ResNets.

    conv1 -> stem.conv1, layerN -> resN+1, bnN -> convN.norm, downsample.0 -> shortcut, downsample.1 -> shortcut.norm.
    """
    parts = re.sub(r"^layer(\d)\.", lambda found: f"res{int(found[1]) + 1}.", name)
    parts = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", parts)
    parts = parts.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return parts if parts.startswith("res") else f"stem.{parts}"


def _write(source: Source, suffix: str) -> dict[str, bytes]:
    torchvision_name(source, layout="detectron2")
    model = {
        detectron2_name(name): tensor.numpy()
        for name, tensor in source.state().items()
        if not name.endswith("num_batches_tracked")
    }
    return {"": pickle.dumps({"model": model, "__author__": "MoCo", "matching_heuristics": True}, protocol=4)}


def _given(source: Source) -> dict[str, Any]:
    return {"name": torchvision_name(source, layout="detectron2")}


def _hints(source: Source, place: str) -> list[str]:
    mean = ", ".join(f"{255 * value:.3f}" for value in source.info["mean"])
    std = ", ".join(f"{255 * value:.3f}" for value in source.info["std"])
    return [
        f'MODEL.WEIGHTS: "{place}"',
        f"{_STRIDE_IN_3X3}  # as in torchvision",
        f"MODEL.PIXEL_MEAN: [{mean}]",
        f"MODEL.PIXEL_STD: [{std}]",
        'INPUT.FORMAT: "RGB"',
    ]


DETECTRON2 = Layout(
    name="detectron2",
    suffixes=(".pkl",),
    write=_write,
    given=_given,
    # Detectron2 is no package of the registry. Its names are turned back by rules of their own, part by part, into a
    # network of torchvision.
    program="""
import pickle, torch, torchvision
with open(given["path"], "rb") as file:
    content = pickle.load(file)
assert content["matching_heuristics"] is True and content["__author__"]
model = torchvision.models.get_model(given["name"], weights=None)
model.fc = torch.nn.Identity()
state = {}
for name, array in content["model"].items():
    parts = name.split(".")
    stage = parts.pop(0)
    place = [] if stage == "stem" else ["layer" + str("res2 res3 res4 res5".split().index(stage) + 1), parts.pop(0)]
    layer, *norm, value = parts
    if layer == "shortcut":
        place += ["downsample", "1" if norm else "0"]
    else:
        place.append(layer.replace("conv", "bn") if norm else layer)
    state[".".join([*place, value])] = torch.from_numpy(array)
report = model.load_state_dict(state, strict=False)
missing = [name for name in report.missing_keys if not name.endswith("num_batches_tracked")]
assert not missing and not report.unexpected_keys, f"it lacks {missing}, and has {report.unexpected_keys} too"
with torch.inference_mode():
    features = model.eval()(torch.from_numpy(images)).numpy()
done(features, f"torchvision {torchvision.__version__}, its names turned back (Detectron2 itself was not asked)")
""",
    hints=_hints,
)
