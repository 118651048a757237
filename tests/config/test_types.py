"""Values of a configuration from Python: each field takes what its type says, and nothing else."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco_ray.config import Config, from_json, to_json


def _with(path: str, value: Any) -> Config:
    config = Config()
    group, _, name = path.rpartition(".")
    if not group:
        return replace(config, **{name: value})
    return replace(config, **{group: replace(getattr(config, group), **{name: value})})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("optim.lr", "0.1", r"optim\.lr is '0\.1'; use a number"),
        ("views.crop_px", "32", r"views\.crop-px is '32'; use a whole number"),
        ("run.name", Path("x"), r"run\.name is PosixPath\('x'\) of type PosixPath; use a text or None"),
        ("run.seed", 1.5, r"run\.seed is 1\.5; use a whole number"),
        ("run.max_steps", np.float32(2.5), r"run\.max-steps is 2\.5; use a whole number or None"),
        ("model.arch", None, r"model\.arch is None; use a text"),
        ("method.symmetric", 1, r"method\.symmetric is 1; use true or false"),
        ("run.num_workers", True, r"run\.num-workers is True; use a whole number or None"),
        ("run.dtype", "float8", r"run\.dtype is 'float8'; use auto, bfloat16, float16, float32 or float64"),
        ("optim.milestones", 120, r"optim\.milestones is 120; use one or more whole numbers"),
        ("views.blur_p", (0.5,), r"views\.blur-p is \[0\.5\]; use 2 numbers"),
        ("views.mean", [0.5, "a", 0.5], r"views\.mean\[1\] is 'a'; use a number"),
        ("eval.k", "7", r"eval\.k is '7'; use a whole number"),
        ("eval.every_steps", object, r"eval\.every-steps is .* of type type; use a whole number or None"),
        ("optim.lr", np.zeros(3), r"optim\.lr is \[0\.0, 0\.0, 0\.0\]; use a number"),
        ("optim", None, r"optim is a NoneType; use a OptimConfig"),
        ("method", "simclr", r"method is a str; use a MoCoConfig or "),
        ("preset", Path("small"), r"preset is PosixPath\('small'\) of type PosixPath; use a text"),
        ("data.storage_options", {"key": "hush"}, r"data\.storage-options is a dict; use text or a pathlib\.Path"),
    ],
)
def test_another_type_is_refused_by_name(path: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        _with(path, value)
    assert "hush" not in str(caught.value)


def test_numbers_of_numpy_and_lists_become_plain() -> None:
    config = _with("optim.lr", np.float32(0.5))
    assert type(config.optim.lr) is float and config.optim.lr == 0.5
    assert type(_with("optim.weight_decay", np.float64(0.1)).optim.weight_decay) is float
    assert type(_with("run.seed", np.int64(7)).run.seed) is int
    assert _with("method.symmetric", np.bool_(True)).method.symmetric is True
    assert _with("optim.milestones", [1, np.int32(2)]).optim.milestones == (1, 2)
    views = _with("views.blur_sigma", np.array([0.25, 2])).views
    assert views.blur_sigma == (0.25, 2.0) and isinstance(views.blur_sigma, tuple)
    config = replace(config, views=views)
    assert from_json(to_json(config)) == config and json.loads(to_json(config))["views"]["blur_sigma"] == [0.25, 2.0]


def test_what_is_right_stays_itself_and_costs_little() -> None:
    config = Config()
    again = replace(config, preset="small")
    assert again.views is config.views and again.optim is config.optim and again.method is config.method
    start = time.process_time()
    for _ in range(50):
        replace(config, preset="small")
    assert (time.process_time() - start) / 50 < 0.01


@pytest.mark.parametrize("text", ["[" * 100_000, '{"run":' * 100_000, '{"run": {"seed": ' + "1" * 5000 + "}}"])
def test_json_that_no_parser_takes_is_one_message(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the configuration is no (configuration|valid JSON)"):
        from_json(text)
