"""State dicts as files: for torchvision, for timm, and our own encoder.safetensors."""

from __future__ import annotations

import io
import json
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from moco_ray.weights.layouts.layout import Layout, Source, timm_name, torchvision_name

_READ = """
import torch
if given["path"].endswith(".safetensors"):
    from safetensors.torch import load_file
    state = load_file(given["path"])
else:
    state = torch.load(given["path"], weights_only=True)
"""
_COMPUTE = """
with torch.inference_mode():
    features = model.eval()(torch.from_numpy(images)).numpy()
"""


def _pth(source: Source) -> bytes:
    buffer = io.BytesIO()
    torch.save(source.state(), buffer)
    return buffer.getvalue()


def _torchvision(source: Source, suffix: str) -> dict[str, bytes]:
    torchvision_name(source)
    return {"": _pth(source)}


TORCHVISION = Layout(
    name="torchvision",
    suffixes=(".pth", ".pt"),
    write=_torchvision,
    given=lambda source: {"name": torchvision_name(source)},
    program=f"""{_READ}
import torchvision
model = torchvision.models.get_model(given["name"], weights=None)
report = model.load_state_dict(state, strict=False)
assert sorted(report.missing_keys) == ["fc.bias", "fc.weight"], f"it lacks {{report.missing_keys}}"
assert not report.unexpected_keys, f"it has {{report.unexpected_keys}} too"
model.fc = torch.nn.Identity()
{_COMPUTE}
done(features, f"torchvision {{torchvision.__version__}}")
""",
    hints=lambda source, place: [
        f"model = torchvision.models.{torchvision_name(source)}()",
        f"model.load_state_dict(torch.load({place!r}, weights_only=True), strict=False)  # all but fc",
    ],
)


def timm_metadata(source: Source) -> dict[str, str]:
    """Metadata of a safetensors file for timm and the Hugging Face Hub."""
    wanted = ("arch", "crop_px", "mean", "std", "step", "preset", "method", "manifest_digest", "imported_from")
    told = {name: source.info[name] for name in wanted if name in source.info}
    return {"format": "pt", **{name: v if isinstance(v, str) else json.dumps(v) for name, v in told.items()}}


def _timm(source: Source, suffix: str) -> dict[str, bytes]:
    timm_name(source)
    return {"": save_safetensors(source.state(), timm_metadata(source)) if suffix == ".safetensors" else _pth(source)}


def _timm_given(source: Source) -> dict[str, Any]:
    name, arguments = timm_name(source)
    return {"name": name, "arguments": arguments}


def _timm_hints(source: Source, place: str) -> list[str]:
    name, arguments = timm_name(source)
    written = "".join(f", {key}={value!r}" for key, value in arguments.items())
    is_pickle = not place.endswith(".safetensors")
    load = f"torch.load({place!r}, weights_only=True)" if is_pickle else f"safetensors.torch.load_file({place!r})"
    return [f'model = timm.create_model("{name}"{written})', f"model.load_state_dict({load})"]


TIMM = Layout(
    name="timm",
    suffixes=(".safetensors", ".pth", ".pt"),
    write=_timm,
    given=_timm_given,
    program=f"""{_READ}
import timm
model = timm.create_model(given["name"], pretrained=False, **given["arguments"])
model.load_state_dict(state, strict=True)
{_COMPUTE}
done(features, f"timm {{timm.__version__}}")
""",
    hints=_timm_hints,
)

SAFETENSORS = Layout(
    name="safetensors",
    suffixes=(".safetensors",),
    write=lambda source, suffix: {"": source.content},
    given=lambda source: {},
    program=f"""{_READ}
from safetensors import safe_open
with safe_open(given["path"], "pt") as file:
    metadata = file.metadata()
exec(metadata["recipe"])
model.load_state_dict(state, strict=True)
{_COMPUTE}
done(features, f'{{metadata["library"]}} {{metadata["library_version"]}}, by the recipe in its metadata')
""",
    hints=lambda source, place: [f"encoder = moco_ray.load_encoder({place!r})"],
)
