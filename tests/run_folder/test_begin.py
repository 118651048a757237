"""A run that begins from another run's checkpoint takes all of it along."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco_ray.config import from_json
from moco_ray.driver.run import pretrain
from moco_ray.run_folder.begin import branch_run, is_run
from moco_ray.storage.storage import Storage, StorageOptions
from tests.runs import digests, losses, metrics, tiny_config


def _quiet(line: str) -> None:
    pass


def _storage(folder: Path) -> Storage:
    return Storage.open(str(folder), StorageOptions({}))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a checkpoint by its path."""
    if isinstance(value, dict):
        return {name: leaf for key, item in value.items() for name, leaf in _flat(item, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {name: leaf for i, item in enumerate(value) for name, leaf in _flat(item, f"{path}/{i}").items()}
    return {path: value}


@pytest.fixture(scope="module")
def donor(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 steps whose checkpoint of step 10, in mid-epoch, is still there."""
    config = tiny_config(images, tmp_path_factory.mktemp("donor"), checkpoint_every_steps=10, keep_last=10)
    return Path(pretrain(config, say=_quiet).folder)


def _branched(donor: Path, folder: Path, **method: float) -> Path:
    config = from_json((donor / "config.json").read_text())
    run = replace(config.run, storage_path=str(folder), name="copy")
    config = replace(config, run=run, method=replace(config.method, **method))
    branch_run(_storage(donor), 10, _storage(folder / "copy"), config)
    assert is_run(_storage(folder / "copy"))
    return Path(pretrain(config, say=_quiet).folder)


def test_a_copy_under_the_same_parameters_goes_on_as_the_donor_did(donor: Path, tmp_path: Path) -> None:
    copy = _branched(donor, tmp_path)
    assert [line["step"] for line in metrics(copy)] == list(range(24))
    assert digests(copy) == digests(donor)
    np.testing.assert_allclose(losses(copy), losses(donor), rtol=1e-12)


def test_a_copy_takes_queue_both_encoders_optimizer_and_position_along(donor: Path, tmp_path: Path) -> None:
    copy = _branched(donor, tmp_path, temperature=0.5, encoder_momentum=0.7)
    ours, theirs = (
        _flat(torch.load(run / "checkpoint_000000010" / "state.pt", weights_only=True)) for run in (copy, donor)
    )
    assert ours.keys() == theirs.keys()
    different = [
        name
        for name, value in theirs.items()
        if not (torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value)
    ]
    assert different == ["/config"]
    for part in ("queue.keys", "queue.pointer", "query_encoder.", "key_encoder.", "momentum_buffer"):
        assert any(part in name for name in theirs)
    assert ours["/position"] == 240
    assert losses(copy)[9] == losses(donor)[9] and losses(copy)[11] != losses(donor)[11]
    assert digests(copy) == digests(donor)  # the images that the donor would have seen
    line = json.loads((copy / "lineage.jsonl").read_text())
    assert line["until_step"] == 10 and line["run"] == "run"
    assert any("temperature was 0.2, now 0.5" in change for change in line["changed"])


def test_another_batch_is_refused(donor: Path, tmp_path: Path) -> None:
    config = from_json((donor / "config.json").read_text())
    config = replace(config, optim=replace(config.optim, global_batch_size=48))
    with pytest.raises(ValueError, match=r"optim\.global-batch-size was 24 .* now 48"):
        branch_run(_storage(donor), 10, _storage(tmp_path / "copy"), config)
    assert not is_run(_storage(tmp_path / "copy"))
