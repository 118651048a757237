"""What a run trains on and evaluates on, from its start to its resumption."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moco_ray.config import Config
from moco_ray.data.manifest import Images, Manifest
from moco_ray.driver.dry_run import dry_run
from moco_ray.driver.images import listing as plan
from moco_ray.driver.images.listing import list_images
from moco_ray.driver.run import pretrain
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.tasks.pretraining import PRETRAINING
from tests.runs import losses, tiny_config


@pytest.fixture(scope="module")
def splits(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and val folders of the same ten classes, four of ten images in val."""
    root = tmp_path_factory.mktemp("splits") / "root"
    for i, path in enumerate(sorted(images.glob("*/*.png"))):
        target = root / ("val" if i % 10 < 4 else "train") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root


def short(uri: Path, storage_path: Path, steps: int = 2, **run: Any) -> Config:
    return tiny_config(uri, storage_path, max_steps=steps, **run)


def listed(config: Config) -> Images:
    return list_images(config)


def stored(folder: Path, name: str) -> Manifest:
    storage = Storage.open(str(folder), StorageOptions({}))
    return Manifest.read(storage, storage.join(name))


def test_a_run_trains_on_train_and_evaluates_on_val_and_the_same_command_resumes_it(
    splits: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    folder = Path(pretrain(short(splits, tmp_path), say=said.append).folder)
    train, test = stored(folder, "manifest.parquet"), stored(folder, "eval_manifest.parquet")
    assert {uri.split("/")[-3] for uri in train.table["uri"].to_pylist()} == {"train"} and len(
        train.train_rows()
    ) == len(train)
    assert {uri.split("/")[-3] for uri in test.table["uri"].to_pylist()} == {"val"}
    assert train.classes == test.classes == tuple(str(i) for i in range(10))
    assert json.loads((folder / "config.json").read_text())["eval"]["uri"] == ""
    assert any("trains on train/ (" in line and "evaluates on val/ (" in line for line in said)
    assert any(
        line.startswith("kNN: 20 images are classified by 100 training images of the 10 classes") for line in said
    )
    first = losses(folder)
    (splits / "val").rename(splits / "elsewhere")  # neither is listed again
    try:
        pretrain(short(splits, tmp_path, steps=4), say=said.append)
    finally:
        (splits / "elsewhere").rename(splits / "val")
    assert len(losses(folder)) == 4 and (losses(folder)[:2] == first).all()
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    assert all("eval/knn_top1" in line for line in lines)


def test_a_run_that_was_begun_without_splits_goes_on_with_the_images_that_it_has(splits: Path, tmp_path: Path) -> None:
    config = short(splits, tmp_path)
    folder = Path(pretrain(config, say=lambda line: None).folder)
    whole = listed(replace(config, data=replace(config.data, uri=str(splits / "train"))))
    storage = Storage.open(str(folder), StorageOptions({}))
    shutil.rmtree(folder)
    whole.train.write(storage, storage.join("manifest.parquet"))  # as when every image was trained on
    from moco_ray.config import to_json
    from moco_ray.tasks.pretraining import PRETRAINING

    storage.write_bytes(
        storage.join("config.json"), to_json(PRETRAINING.resolve(config, len(whole.train.train_rows()))).encode()
    )
    pretrain(config, say=lambda line: None)
    assert stored(folder, "manifest.parquet").digest == whole.train.digest
    assert not (folder / "eval_manifest.parquet").exists()


def test_results_below_the_images_are_not_trained_on(
    images: Path, tmp_path: Path, said: list[str], pictures: None
) -> None:
    root = tmp_path / "images"
    shutil.copytree(images, root)
    config = short(root, root / "runs", name="first")
    pretrain(config, say=lambda line: None)
    assert list((root / "runs" / "first" / "report").glob("*.png"))
    again = listed(short(root, root / "runs", name="second"))
    assert len(again.train) == 211 and len(again.train.classes) == 10
    assert any(line.startswith("left out: runs (results of runs") for line in said)
    assert len(listed(short(root, tmp_path / "other")).train) == 211  # a run is known by its files, too


def test_images_to_evaluate_on_below_the_others_are_not_trained_on(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    shutil.copytree(images, root)
    shutil.copytree(images, root / "kept")
    config = short(root, tmp_path)
    found = listed(replace(config, eval=replace(config.eval, uri=str(root / "kept"))))
    assert len(found.train) == 211 and found.test is not None and len(found.test) == 211


def test_eval_uri_wins_over_a_val_folder_and_may_have_parts_of_its_own(
    splits: Path, images: Path, tmp_path: Path, said: list[str]
) -> None:
    config = short(splits, tmp_path)
    found = listed(replace(config, eval=replace(config.eval, uri=str(images))))
    assert found.test is not None and len(found.test) == 211 and len(found.train) < 211
    assert any("left out: val/" in line for line in said) and not any("evaluates on" in line for line in said)
    other = short(images, tmp_path)
    found = listed(replace(other, eval=replace(other.eval, uri=str(splits))))
    assert found.test is not None and all("/val/" in uri for uri in found.test.table["uri"].to_pylist())


@pytest.mark.parametrize("end", ["", "/", "/../images"])
def test_the_images_that_are_trained_on_cannot_be_classified(images: Path, tmp_path: Path, end: str) -> None:
    config = short(images, tmp_path)
    with pytest.raises(ValueError, match=r"eval\.uri is data\.uri"):
        listed(replace(config, eval=replace(config.eval, uri=f"{images}{end}")))


def test_eval_images_without_labels_say_why(images: Path, tmp_path: Path) -> None:
    config = short(images, tmp_path)
    with pytest.raises(ValueError, match=r"eval\.uri .* has no labels of two classes.*no class folders"):
        listed(replace(config, eval=replace(config.eval, uri=str(images / "3"))))


def test_held_out_images_are_named_with_what_to_do(images: Path, tmp_path: Path, said: list[str]) -> None:
    listed(short(images, tmp_path))
    assert any("20 of 211 labelled images are held out for kNN and never trained on" in line for line in said)
    assert any("--eval.holdout-fraction 0" in line and "--eval.uri" in line for line in said)
    config = short(images, tmp_path)
    said.clear()
    listed(replace(config, eval=replace(config.eval, holdout_fraction=0.0)))
    assert not any("held out" in line for line in said)


def test_the_dry_run_says_classes_parts_and_what_is_classified(splits: Path, tmp_path: Path) -> None:
    said: list[str] = []
    dry_run(PRETRAINING, short(splits, tmp_path), say=said.append)
    text = "\n".join(said)
    assert "10 classes: " in text and "trains on train/ (" in text and "evaluates on val/ (" in text
    assert "kNN: 20 images are classified by 100 training images of the 10 classes" in text


def test_very_many_single_files_are_said_to_be_better_packed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    config = tiny_config(images, tmp_path)
    list_images(config)
    assert not any("pack them" in line for line in said)
    monkeypatch.setattr(plan, "_MANY_FILES", 100)
    list_images(config)
    assert any(re.search(r"warning: \d+ single files .* pack them into Parquet files", line) for line in said)
