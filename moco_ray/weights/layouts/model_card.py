"""The README.md of an encoder on the Hugging Face Hub: what is known of it, and no more."""

from __future__ import annotations

from typing import Any

from moco_ray.weights.layouts.layout import Source

_HEAD = """---
library_name: timm
pipeline_tag: image-feature-extraction
tags:
- timm
- image-feature-extraction
- self-supervised-learning
---
"""
_USE = """
## Use

```python
import timm

model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True, num_classes=0).eval()  # or "local-dir:FOLDER"
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
features = model(transform(image)[None])  # (1, {feature_dim}); image: a PIL image in RGB
```

There is no classifier: these are features to train one on, to search with, or to fine-tune.
"""
_UNKNOWN = """
## To be filled in by whoever uploads it

The license of the weights and of the images that they were trained on, and what the images show. Features carry whatever
bias the images have; nothing of that was measured here.
"""


def model_card(source: Source, timm_name: str) -> str:
    """The card's text, in Markdown.

    Args:
        source: The encoder.
        timm_name: What timm calls its architecture.
    """
    info = source.info
    rows = {
        "Architecture": f"{source.model.arch} ({timm_name} in timm), {_num_weights(source):,} parameters",
        "Features": str(info["feature_dim"]),
        "Images": f"RGB, {source.crop_px} x {source.crop_px}, in 0..1, minus {info['mean']}, divided by {info['std']}",
        **_training(info),
    }
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    has_labels = info.get("task", "pretraining") != "pretraining"
    title = f"# {source.model.arch}, {'trained on' if has_labels else 'pretrained without'} labels"
    by_method = f" with the method {info['method']}" if "method" in info else ""
    by = (
        f"Weights of another program ({info['imported_from']}), converted by moco_ray. How they were trained is not known here."
        if "imported_from" in info
        else f"An image encoder, trained on images {'with' if has_labels else 'without'} labels{by_method} by moco_ray."
    )
    return f"{_HEAD}\n{title}\n\n{by}\n\n|  |  |\n|---|---|\n{table}\n{_USE.format(**info)}{_measured(info)}{_UNKNOWN}"


def _num_weights(source: Source) -> int:
    return sum(weight.numel() for weight in source.backbone.parameters())


def _training(info: dict[str, Any]) -> dict[str, str]:
    if "imported_from" in info:
        return {}
    rows = {"Steps": f"{info['step']:,}"}
    if "preset" in info:
        rows["Preset"] = f"{info['preset']} of moco_ray (single settings may differ from it)"
    if "manifest_digest" in info:
        rows["Images trained on"] = f"SHA-256 of their list: {info['manifest_digest']}"
    return rows


def _measured(info: dict[str, Any]) -> str:
    """A section with the last evaluation; empty without one."""
    metrics = info.get("metrics", {})
    if not metrics:
        return "" if "imported_from" in info else "\n## Measured\n\nNothing: the run had no evaluation to report.\n"
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in metrics.items() if isinstance(value, int | float))
    said = "The run's last evaluation. knn_top1: percent of the images that their nearest neighbours classify rightly."
    return f"\n## Measured\n\n{said}\n\n| metric | value |\n|---|---|\n{rows}\n"
