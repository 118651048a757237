"""The numbers that a run computes in: chosen where it begins, kept where it goes on, and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moco_ray.config import from_json
from moco_ray.config.run import RunConfig
from moco_ray.driver.run import pretrain
from moco_ray.run_folder.checkpoint import CheckpointStore, State
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.tasks.arithmetic import choose_dtype, fast_arithmetic, words
from tests.runs import losses, tiny_config

CPU = torch.device("cpu")


def _quiet(line: str) -> None:
    pass


def _state(folder: Path, step: int) -> State:
    return CheckpointStore(storage=Storage.open(str(folder), StorageOptions({}))).read(step)


def test_an_automatic_dtype_is_what_the_run_began_with() -> None:
    automatic = RunConfig(dtype="auto")
    assert choose_dtype(automatic, None, CPU) == "float32"
    assert choose_dtype(automatic, {"dtype": "bfloat16"}, CPU) == "bfloat16"
    assert choose_dtype(automatic, {}, CPU) == "float32"  # a checkpoint from before there was a choice
    assert choose_dtype(RunConfig(dtype="float16"), {"dtype": "float16"}, CPU) == "float16"


@pytest.mark.parametrize(
    ("asked", "dtype", "devices", "all_have", "said"),
    [
        ("auto", "float32", ["cpu"], False, []),
        ("float16", "float16", ["cpu"], False, ["arithmetic: float16 over float32 weights"]),
        ("auto", "bfloat16", ["A10G"], True, ["arithmetic: bfloat16 over float32 weights"]),
        ("float32", "float32", ["A10G"], True, ["matrix products rounded to TF32"]),
        ("float64", "float64", ["A10G"], True, ["arithmetic: float64 (run.dtype float64)"]),
        ("auto", "float32", ["A10G", "T4"], False, ["arithmetic: float32", "not each of A10G, T4 has bfloat16"]),
        ("bfloat16", "bfloat16", ["T4"], False, ["arithmetic: bfloat16", "takes longer than float32 there"]),
    ],
)
def test_the_first_lines_say_what_is_computed_in(
    asked: str, dtype: str, devices: list[str], all_have: bool, said: list[str]
) -> None:
    lines = words(RunConfig(dtype=asked), dtype, devices, all_have_bfloat16=all_have)
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


def test_settings_of_a_process_are_its_own_again_after_a_run() -> None:
    torch.set_float32_matmul_precision("highest")
    with fast_arithmetic(torch.device("cuda"), "bfloat16"):
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.benchmark
    assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.benchmark
    with fast_arithmetic(torch.device("cuda"), "float64"):
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.benchmark


def test_a_run_of_a_fixed_dtype_goes_on_under_the_default(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, dtype="float32", max_steps=2, checkpoint_every_steps=2)
    pretrain(config, say=_quiet)
    pretrain(replace(config, run=replace(config.run, dtype="auto", max_steps=4)), say=_quiet)
    assert from_json((tmp_path / "run" / "config.json").read_text()).run.dtype == "float32"
    assert _state(tmp_path / "run", 4)["dtype"] == "float32"
    with pytest.raises(ValueError, match=r"run\.dtype was 'float32', now 'bfloat16'"):
        pretrain(replace(config, run=replace(config.run, dtype="bfloat16", max_steps=6)), say=_quiet)


def test_an_automatic_run_computes_in_float32_on_a_cpu(images: Path, tmp_path: Path) -> None:
    curves = []
    for dtype in ("auto", "float32"):
        pretrain(tiny_config(images, tmp_path, name=dtype, dtype=dtype, max_steps=3), say=_quiet)
        curves.append(losses(tmp_path / dtype))
    assert np.array_equal(*curves)


def test_a_float16_run_that_goes_on_keeps_the_scale_of_its_losses(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, dtype="float16", max_steps=4, checkpoint_every_steps=2)
    said: list[str] = []
    pretrain(replace(config, run=replace(config.run, name="whole")), say=said.append)
    pretrain(replace(config, run=replace(config.run, max_steps=2)), say=_quiet)
    pretrain(config, say=_quiet)
    assert np.array_equal(losses(tmp_path / "run"), losses(tmp_path / "whole"))
    assert _state(tmp_path / "run", 4)["scaler"] == _state(tmp_path / "whole", 4)["scaler"] != {}
    assert any(line.startswith("arithmetic: float16") for line in said)


@pytest.mark.slow
def test_a_compiled_run_learns_what_an_uncompiled_one_learns(images: Path, tmp_path: Path) -> None:
    curves = []
    for compiles in (False, True):
        name = f"compiled-{compiles}"
        pretrain(tiny_config(images, tmp_path, name=name, compile=compiles, max_steps=3), say=_quiet)
        curves.append(losses(tmp_path / name))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-9)
