"""Networks and weights that do not fit are found by a run and by its dry run, before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from moco_ray.cli import pretrain as cli
from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import build_encoder
from moco_ray.driver.dry_run import dry_run
from moco_ray.driver.plan import make_plan, open_run
from moco_ray.driver.run import pretrain
from moco_ray.tasks.pretraining import PRETRAINING
from tests.runs import tiny_config

REFUSALS: list[tuple[ModelConfig, int, str]] = [
    (ModelConfig(arch="timm:test_convnext", dim=16), 16, r"timm:test_convnext cannot take images of views\.crop-px 16"),
    (ModelConfig(arch="timm:test_vit3", dim=16), 40, r"views\.crop-px 40 .*use --views\.crop-px (32|48)"),
    (ModelConfig(arch="timm:test_resnet", init="nowhere/weights.pth"), 32, r"model\.init: .*no such file"),
]


@pytest.mark.parametrize("start", [pretrain, partial(dry_run, PRETRAINING)], ids=["pretrain", "dry_run"])
@pytest.mark.parametrize(("model", "crop_px", "message"), REFUSALS)
def test_what_does_not_fit_is_refused_before_images_are_listed(
    model: ModelConfig, crop_px: int, message: str, start: Callable[..., object], tmp_path: Path
) -> None:
    said: list[str] = []
    config = tiny_config("no/such/images", tmp_path)
    with pytest.raises(ValueError, match=message):
        start(replace(config, model=model, views=replace(config.views, crop_px=crop_px)), say=said.append)
    assert not any("listing" in line for line in said)


def test_the_command_line_ends_with_one_message(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--preset",
        "smoke",
        "--data.uri",
        str(images),
        "--run.num-workers",
        "0",
        "--run.storage-path",
        str(tmp_path),
    ]
    assert cli.main([*flags, "--model.arch", "timm:test_convnext", "--views.crop-px", "16"]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "views.crop-px 16" in error and "Traceback" not in error and "--views.crop-px 32" in error


@pytest.mark.parametrize("arch", ["timm:test_vit3", pytest.param("timm:test_maxvit", marks=pytest.mark.slow)])
def test_transformers_of_a_fixed_size_train_and_resume_at_another(arch: str, images: Path, tmp_path: Path) -> None:
    config = replace(tiny_config(images, tmp_path, max_steps=1, dtype="float32"), model=ModelConfig(arch=arch, dim=16))
    pretrain(config, say=_quiet)
    result = pretrain(replace(config, run=replace(config.run, max_steps=2)), say=_quiet)
    assert result.step == 2


def test_the_network_of_a_run_is_the_one_that_it_would_be_without_the_check(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path)
    torch.manual_seed(config.run.seed)
    expected = build_encoder(config.model, config.views.crop_px).state_dict()
    torch.rand(3)
    job = make_plan(PRETRAINING, config, open_run(config)).job(uses_gpu=False, lease_owner="")
    built = PRETRAINING.build(job, None).steps.method.query_encoder
    assert all(torch.equal(value.double(), built.state_dict()[name].double()) for name, value in expected.items())


def _quiet(line: str) -> None:
    pass
