"""What a user has changed of a preset, as a run's config.json tells."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from moco_ray.config.detection_presets import DETECTION_PRESETS
from moco_ray.config.methods import method_class, method_names
from moco_ray.config.presets import PRESETS
from moco_ray.config.reading import SECRET_FIELDS, to_json
from moco_ray.config.transfer_presets import FINETUNE_PRESETS, LINEAR_PRESETS

KNOWN_PRESETS = {**PRESETS, **LINEAR_PRESETS, **FINETUNE_PRESETS, **DETECTION_PRESETS}
"""Presets of all jobs."""

_OF_ONE_RUN = frozenset({*SECRET_FIELDS, "data.relist", "run.name", "run.storage_path"})


def changes_of(values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that differ from the preset's, with their values and the preset's; none if the preset is not known here.

    Left out are names and places of the run itself, credentials, and what is decided where the preset says nothing: those
    fields of the method, and how often the encoder is measured.

    Args:
        values: Of a config.json, of any version: fields that this one does not know differ from nothing.
    """
    preset = values.get("preset")
    if preset not in KNOWN_PRESETS:
        return {}
    base = json.loads(to_json(KNOWN_PRESETS[preset]()))
    method = _group(values, "method").get("name")
    if "method" in base and method != base["method"]["name"] and method in method_names():
        name = base["method"]["name"]
        base["method"] = {"name": name, **json.loads(json.dumps(dataclasses.asdict(method_class(method)())))}
    changes = {}
    for group in base:
        for field, value in _group(values, group).items():
            path = f"{group}.{field}"
            before = _group(base, group).get(field)
            is_decided = before is None and (group == "method" or path == "eval.every_steps")
            if value != before and not is_decided and path not in _OF_ONE_RUN:
                changes[path] = (value, before)
    return changes


def _group(values: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    fields = values.get(group)
    return fields if isinstance(fields, Mapping) else {}
