"""A folder for the Hugging Face Hub, which timm loads with its sizes, means and deviations."""

from __future__ import annotations

import json
import warnings
from typing import Any

from safetensors.torch import save as save_safetensors

from moco_ray.weights.layouts.layout import Layout, Source, timm_name
from moco_ray.weights.layouts.model_card import model_card
from moco_ray.weights.layouts.weights_files import timm_metadata

_LARGE_PX = 128
_CROP_SHARE = 0.875  # of the shorter side, as runs evaluate; smaller images are taken whole


def _write(source: Source, suffix: str) -> dict[str, bytes]:
    name, arguments = timm_name(source, layout="huggingface")
    return {
        "model.safetensors": save_safetensors(source.state(), timm_metadata(source)),
        "README.md": model_card(source, name).encode(),
        "config.json": json.dumps(_config(source, name, arguments), indent=2).encode(),
    }


def _config(source: Source, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What timm reads before it builds a model."""
    px = source.crop_px
    pretrained = {
        "custom_load": False,
        "input_size": [3, px, px],
        "interpolation": "bilinear",
        "crop_pct": _CROP_SHARE if px >= _LARGE_PX else 1.0,
        "crop_mode": "center",
        "mean": list(source.info["mean"]),
        "std": list(source.info["std"]),
        "num_classes": 0,
        **_names(name, arguments),
    }
    return {
        "architecture": name.split(".")[0],
        "num_classes": 0,
        "num_features": source.info["feature_dim"],
        "model_args": {key: value for key, value in arguments.items() if key != "num_classes"},
        "pretrained_cfg": pretrained,
    }


def _names(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What timm calls the layers that it changes for other images and classes, and whether the size is fixed."""
    import timm  # here, because it takes seconds to import
    import torch

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = timm.create_model(name, pretrained=False, **arguments)
    wanted = ("first_conv", "classifier", "pool_size", "fixed_input_size")
    return {key: model.pretrained_cfg[key] for key in wanted if model.pretrained_cfg.get(key) is not None}


def _given(source: Source) -> dict[str, Any]:
    return {name: source.info[name] for name in ("mean", "std", "crop_px", "feature_dim")}


HUGGINGFACE = Layout(
    name="huggingface",
    suffixes=(),
    write=_write,
    given=_given,
    program="""
import timm, torch
model = timm.create_model("local-dir:" + given["path"], pretrained=True, num_classes=0).eval()
data = timm.data.resolve_model_data_config(model)
px = given["crop_px"]
assert (list(data["input_size"]), list(data["mean"]), list(data["std"])) == ([3, px, px], given["mean"], given["std"]), data
assert (model.num_classes, model.pretrained_cfg["num_classes"]) == (0, 0)
with torch.inference_mode():
    features = model(torch.from_numpy(images)).numpy()
done(features, f"timm {timm.__version__}, from the folder, with sizes, means and deviations")
""",
    hints=lambda source, place: [
        f"model = timm.create_model({f'local-dir:{place}'!r}, pretrained=True, num_classes=0)  # hf-hub:NAME once uploaded"
    ],
)
