"""A loss that is not finite: the message and the run's folder say where it comes from."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from moco_ray.config import Config
from moco_ray.config.patience import Patience
from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder, build_encoder, normalize
from moco_ray.core.step_result import StepResult
from moco_ray.data.manifest import Manifest
from moco_ray.driver.run import pretrain
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.tasks.method_learner import MethodLearner
from moco_ray.worker import not_finite
from tests.gloo import pretrain_on_ranks
from tests.runs import punctual_checkpoints, tiny_config
from tests.s3 import S3Server, open_storage


def _fails(config: Config, **options: Any) -> tuple[str, Path, dict[str, Any]]:
    """The message of a run that ends so, its debug folder, and what the rows of rank 0 tell."""
    with pytest.raises(ValueError, match=r"the loss of step \d+ is (nan|inf)") as caught, punctual_checkpoints():
        pretrain(config, say=lambda line: None, **options)
    (folder,) = (Path(config.run.storage_path) / "run" / "debug").iterdir()
    assert str(folder) in str(caught.value)
    return str(caught.value), folder, json.loads((folder / "rows_rank_0.json").read_text())


def _config(images: Path, tmp_path: Path, **run: Any) -> Config:
    return tiny_config(images, tmp_path, **{"dtype": "float32", "log_every_steps": 4, **run})


def test_weights_to_start_from_that_overflow_are_told_as_the_module_that_does(images: Path, tmp_path: Path) -> None:
    config = _config(images, tmp_path)
    said, folder, rows = _fails(_scaled(config, tmp_path, "layer1.0.conv2", 1e38))
    module = "key_encoder.backbone.layer1.0.conv2"  # keys are encoded first
    assert "before anything was learned" in said and folder.name == "step_0"
    assert f"the first that is not finite is the output of {module} (Conv2d), which was given numbers up to" in said
    assert rows["name"] == rows["first_module"]["name"] == module
    assert rows["first_module"]["put_out"][0]["inf"] > 0 == rows["first_module"]["given"][0]["inf"]


def test_a_learning_rate_beyond_all_numbers_is_told_with_its_step_and_module(images: Path, tmp_path: Path) -> None:
    config = _config(images, tmp_path, checkpoint_every_steps=1)
    said, folder, rows = _fails(replace(config, optim=replace(config.optim, lr=1e30)))
    assert "training has diverged. The last good checkpoint is" in said
    assert "at a learning rate of" in said or "the first that is not finite is the output of " in said
    assert rows["first_module"]["name"].split(".")[0] in ("query_encoder", "key_encoder")
    assert rows["first_module"]["name"] in said
    assert (folder / "found.txt").read_text().splitlines()[1] in said


@pytest.mark.parametrize(
    ("every", "words"),
    [
        (None, r"the update of step 0, at a learning rate of .*e\+36, made query_encoder\.\S+ .*infinite or nan"),
        (1, r"query_encoder\.\S+ .*is not finite in checkpoint_000000001, .*delete its folder to go back"),
    ],
)
def test_weights_that_a_step_has_made_infinite_are_told_with_that_step(
    every: int | None, words: str, images: Path, tmp_path: Path
) -> None:
    config = _config(images, tmp_path, checkpoint_every_steps=every)
    method = replace(config.method, temperature=1e-4)  # gradients are the larger for it
    said, folder, rows = _fails(replace(config, method=method, optim=replace(config.optim, lr=1e38)))
    assert re.search(words, said)
    assert (rows["failed_step"], rows["step"]) == (1, 0 if every is None else 1) and folder.name == "step_1"
    assert rows["weights_not_finite"] and not rows["gradients_not_finite"]
    assert rows["first_module"]["name"] in said


def test_a_temperature_that_nothing_can_be_divided_by_is_told_as_the_loss(images: Path, tmp_path: Path) -> None:
    config = _config(images, tmp_path)
    said, _, rows = _fails(replace(config, method=replace(config.method, temperature=1e-42)))
    assert "all outputs of the network are finite, and the loss that is made of them is not" in said
    assert rows["first_module"] is None and rows["temperature"] == 1e-42
    assert rows["modules_before"][-1]["name"] == "query_encoder"


def test_float16_that_overflows_is_told_with_its_module(images: Path, tmp_path: Path) -> None:
    said, _, rows = _fails(_scaled(_config(images, tmp_path, dtype="float16"), tmp_path, "layer2.0.conv1", 1e5))
    assert "output of key_encoder.backbone.layer2.0.conv1 (Conv2d), which was given numbers up to" in said
    assert "and gives float16" in said
    assert rows["dtype"] == "float16" and rows["loss_scale"] == 2.0**16


def test_what_is_kept_is_the_batch_that_the_network_saw_and_its_images(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, Batch] = {}
    step_of = MethodLearner.step

    def step(self: MethodLearner, batch: Batch, **schedule: float) -> StepResult:
        seen.setdefault(batch.step, batch)  # the first time, not when it is done again
        return step_of(self, batch, **schedule)

    monkeypatch.setattr(MethodLearner, "step", step)
    config = _config(images, tmp_path, checkpoint_every_steps=1)
    _, folder, rows = _fails(replace(config, optim=replace(config.optim, lr=1e30)))
    batch = seen[rows["step"]]
    kept = load_file(folder / "batch_rank_0.safetensors")
    assert sorted(kept) == ["key", "query"]
    for name, array in kept.items():
        np.testing.assert_array_equal(array, batch.arrays[name])
    run = Storage.open(str(tmp_path / "run"), StorageOptions({}))
    manifest = Manifest.read(run, run.join("manifest.parquet"))
    assert rows["images"] == [{"row": int(row), "uri": manifest.uri(int(row))} for row in batch.rows]
    assert Path(rows["images"][0]["uri"]).exists()
    assert rows["places_of_key_views"] == batch.shuffle.tolist()
    assert rows["lr"] > 1e27 and max(seen) >= rows["failed_step"]


@pytest.mark.slow
def test_the_rank_whose_images_overflow_is_named_and_keeps_its_part(images: Path, tmp_path: Path) -> None:
    config = _config(images, tmp_path, dtype="float16")
    alone = replace(config, run=replace(config.run, storage_path=str(tmp_path / "alone")))
    _, folder, _ = _fails(_scaled(alone, tmp_path, "conv1.0", 1e9))
    rank, factor = _factor_at_which_one_overflows(folder, config)
    with pytest.raises(ValueError, match="the loss of step 0 is nan") as caught:
        pretrain_on_ranks(_scaled(config, tmp_path, "conv1.0", factor), 2)
    assert "backbone.conv1.0 (Conv2d), which was given numbers up to" in str(caught.value)
    assert f"(rank {rank} of 2)" in str(caught.value)
    folder = tmp_path / "run" / "debug" / "step_0"
    batch, found, images_of = sorted(path.name for path in folder.iterdir())
    assert (batch, found, images_of) == (f"batch_rank_{rank}.safetensors", "found.txt", f"rows_rank_{rank}.json")
    rows = json.loads((folder / images_of).read_text())
    assert rows["rank"] == rank and len(rows["images"]) == len(load_file(folder / batch)["query"]) == 12


def test_nothing_that_goes_wrong_meanwhile_hides_the_loss(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    config = _config(images, tmp_path)
    config = replace(config, method=replace(config.method, temperature=1e-42))
    said: list[str] = []
    with pytest.raises(ValueError, match=r"the loss of step 0 is nan, before anything was learned.*all outputs"):
        monkeypatch.setattr(not_finite, "write_batch", full)
        pretrain(config, say=said.append)
    assert any("the batch of step 0 could not be kept (OSError: no space left" in line for line in said)
    with pytest.raises(ValueError, match="the loss of step 0 is nan, before anything was learned"):
        monkeypatch.setattr(not_finite, "replay", full)
        pretrain(config, say=said.append)
    assert any("where it comes from could not be found out (OSError: no space left" in line for line in said)


def test_steps_that_would_take_too_long_are_not_done_again_and_the_batch_is_kept_all_the_same(
    images: Path, tmp_path: Path
) -> None:
    config = _config(images, tmp_path)
    config = replace(config, optim=replace(config.optim, lr=1e30))
    said, folder, rows = _fails(config, patience=Patience(replay=0.0))
    assert "since the last checkpoint would take about" in said
    assert rows["step"] == rows["failed_step"] > 0 and len(rows["images"]) == 24
    assert len(load_file(folder / "batch_rank_0.safetensors")["query"]) == 24


def test_a_folder_in_s3_holds_no_credentials(images: Path, s3: S3Server, tmp_path: Path) -> None:
    config = _config(images, tmp_path)
    options = json.dumps({"key": s3.key, "secret": s3.secret, "endpoint_url": s3.endpoint})
    run = replace(config.run, storage_path=f"s3://{s3.bucket}/failed", storage_options=options)
    with pytest.raises(ValueError, match=rf"are in s3://{s3.bucket}/failed/run/debug/step_0"):
        pretrain(replace(config, run=run, method=replace(config.method, temperature=1e-42)), say=lambda line: None)
    debug = open_storage(f"s3://{s3.bucket}/failed/run/debug/step_0")
    contents = {name: debug.read_bytes(debug.join(name)) for name, *_ in debug.list(debug.root)}
    assert sorted(contents) == ["batch_rank_0.safetensors", "found.txt", "rows_rank_0.json"]
    assert not any(secret.encode() in content for content in contents.values() for secret in (s3.key, s3.secret))


def _scaled(config: Config, folder: Path, layer: str, factor: float) -> Config:
    """The run from weights that are the usual ones but in one layer of the backbone."""
    state = _encoder(config).state_dict()
    state[f"backbone.{layer}.weight"] *= factor
    torch.save(state, folder / "init.pt")
    return replace(config, model=replace(config.model, init=str(folder / "init.pt")))


def _factor_at_which_one_overflows(folder: Path, config: Config) -> tuple[int, float]:
    """The rank of two whose images go highest in the first layer, and what makes only them leave float16 there."""
    conv = _encoder(config).backbone.conv1[0]
    mean, std = torch.tensor(config.views.mean), torch.tensor(config.views.std)
    peaks = []
    for views in load_file(folder / "batch_rank_0.safetensors").values():
        x = normalize(torch.from_numpy(views), mean, std, torch.float32)
        groups = conv(x).abs().amax(dim=(1, 2, 3)).unflatten(0, (config.optim.bn_groups, -1)).amax(dim=1)
        peaks += [(float(groups[rank::2].max()), rank) for rank in (0, 1)]  # dealt in turn
    (second, _), (highest, rank) = sorted(peaks)[-2:]
    return rank, 65504 / (highest * second) ** 0.5


def _encoder(config: Config) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(config.model, 32)
