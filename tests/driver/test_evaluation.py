from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from moco_ray.cli import evaluate as cli
from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.run import RunConfig
from moco_ray.core.encoders import build_encoder
from moco_ray.driver.features import engine as engines
from moco_ray.driver.features.evaluation import evaluate
from moco_ray.driver.run import pretrain
from moco_ray.evaluate.at_scale import encoding
from moco_ray.evaluate.at_scale.encoding import Spec
from moco_ray.weights.encoder_file import encoder_bytes
from tests.runs import tiny_config

SMALL = 20


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHUNK", SMALL)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder file of random weights."""
    config = tiny_config("images", "runs")
    torch.manual_seed(3)
    backbone = build_encoder(config.model, 32).backbone
    thirds = json.dumps([0.4, 0.4, 0.4])
    about = {"arch": "tiny_resnet", "stem": "imagenet", "patch_px": "16", "crop_px": "32", "step": "7"}
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    path.write_bytes(encoder_bytes(backbone, {**about, "mean": thirds, "std": thirds}))
    return path


def run(encoder: Path, images: Path, ks: tuple[int, ...] = (1, 5, 20), **others: Any) -> dict[str, Any]:
    config = job(encoder, images, **others)
    found = evaluate(config, ks=ks, baselines=others.get("baselines", False), say=lambda line: None)
    assert found is not None
    return found


def job(encoder: Path, images: Path, *, num_workers: int = 0, seed: int = 0, baselines: bool = False) -> Config:
    config = tiny_config(images, "runs")
    return Config(
        task="evaluate",
        data=DataConfig(uri=str(images)),
        views=config.views,
        model=replace(config.model, init=str(encoder)),
        eval=EvalConfig(max_queries=10**9, max_bank=10**9),
        run=RunConfig(num_workers=num_workers, dtype="float64", device="cpu", seed=seed),
    )


@pytest.fixture
def parts(images: Path, tmp_path: Path) -> Path:
    """The images in a train and a test part, of which one of each does not decode."""
    for i, path in enumerate(sorted(images.rglob("*.png"))):
        target = tmp_path / "parts" / ("test" if i % 3 == 0 else "train") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(path, target)
    for part in ("train", "test"):
        (tmp_path / "parts" / part / "3" / "bad.png").write_bytes(b"no image")
    return tmp_path / "parts"


def test_knn_is_that_of_scikit_learn_on_the_same_features(encoder: Path, parts: Path, small_chunks: None) -> None:
    found = run(encoder, parts)
    sets = {}
    for part in ("train", "test"):
        config = job(encoder, parts / part)
        images = engine_images(config)
        spec = Spec(
            modules={"encoder": engine_backbone(config)}, sets={"images": images}, views=config.views, resize_px=32
        )
        with engines.open_engine(spec, config.run) as engine:
            found_here = engines.set_features(engine, spec, "images", what="features")
        labels = images.labels[found_here.places]
        assert len(labels) == len(images) - 1
        sets[part] = found_here.features["encoder"], np.array([images.manifest.classes[label] for label in labels])
    for k in (1, 5, 20):
        peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.1))
        accuracy = peer.fit(*sets["train"]).score(*sets["test"])
        assert found["knn"][str(k)]["top1"] == pytest.approx(100 * accuracy)
    assert (found["num_queries"], found["num_bank"], found["num_bad"]) == (71, 140, 2)


def engine_images(config: Config) -> Any:
    from moco_ray.driver.features.images import all_images

    return all_images(config, "/nowhere")


def engine_backbone(config: Config) -> Any:
    from moco_ray.driver.features.encoder import load

    return load(config).backbone


@pytest.mark.slow
def test_the_number_of_workers_changes_no_bit(encoder: Path, parts: Path, small_chunks: None, shared_ray: None) -> None:
    one, three = (run(encoder, parts, num_workers=num_workers, baselines=True) for num_workers in (0, 3))
    one.pop("seconds"), three.pop("seconds")
    assert one == three
    assert one["baselines"]["pixels"]["knn"]["5"]["top1"] > 3 * one["chance"]  # digits


def test_labels_at_random_give_chance(encoder: Path, images: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [f"{path},{rng.integers(4)}" for path in sorted(images.rglob("*.png"))]
    for split, chosen in (("train", lines[::2]), ("test", lines[1::2])):
        (tmp_path / f"{split}.csv").write_text("\n".join(["uri,label", *chosen]))
    found = run(encoder, tmp_path, ks=(10,))
    n = found["num_queries"]
    assert abs(found["knn"]["10"]["top1"] - 25) < 4 * 100 * (0.25 * 0.75 / n) ** 0.5
    assert found["chance"] == 25 and found["knn"]["10"]["top5"] is None


def test_without_labels_there_is_no_knn(encoder: Path, images: Path, tmp_path: Path) -> None:
    for path in sorted(images.rglob("*.png"))[:30]:
        shutil.copy(path, tmp_path / f"{path.parent.name}_{path.name}")
    found = run(encoder, tmp_path)
    assert found["knn"] == {} and found["num_bank"] == 0
    assert found["rankme"] > 1 and found["alignment"] > 0 and found["uniformity"] < 0


def test_classes_that_training_lacks_are_classified_by_each_other(
    encoder: Path, images: Path, tmp_path: Path, small_chunks: None
) -> None:
    for path in sorted(images.rglob("*.png")):
        part = "train" if path.parent.name < "5" else "test"
        target = tmp_path / part / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(path, target)
    found = run(encoder, tmp_path)
    assert found["num_bank"] == found["num_queries"] > 90
    assert found["knn"]["1"]["top1"] > 40  # five digits


def test_of_a_run_the_images_are_classified_that_it_held_out(images: Path, tmp_path: Path, capsys: Any) -> None:
    config = tiny_config(images, tmp_path, max_steps=2)
    config = replace(config, eval=replace(config.eval, max_queries=13))
    pretrain(config, say=lambda line: None)
    flags = f"--run.num-workers 0 --k 5 --json {tmp_path / 'out.json'}"
    assert cli.main([str(tmp_path / "run"), *flags.split()]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["num_queries"], found["num_bank"]) == (13, 211 - 13)
    assert found["data"]["uri"] == str(images) and found["encoder"]["step"] == 2
    assert "with what it held out" in capsys.readouterr().out


def test_a_k_that_is_too_large_is_left_out_and_if_all_are_it_is_an_error(
    encoder: Path, parts: Path, said: list[str]
) -> None:
    found = evaluate(job(encoder, parts), ks=(5, 141, 142, 200), say=said.append)
    assert found is not None and list(found["knn"]) == ["5", "141"]
    assert "left out: k 142, 200; there are 141 labelled images to find neighbours among" in said
    with pytest.raises(ValueError, match=r"--k is 1000, and there are 141 labelled images .* use --k 141 or less"):
        evaluate(job(encoder, parts), ks=(1000,), say=said.append)


def test_the_command_writes_what_it_prints(encoder: Path, parts: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "out.json"
    flags = f"--data.uri {parts} --run.num-workers 0 --k 1 5 --json {file}"
    assert cli.main([str(encoder), *flags.split()]) == 0
    written = json.loads(file.read_text())
    assert written["encoder"]["arch"] == "tiny_resnet" and written["encoder"]["step"] == 7
    assert f"{written['knn']['5']['top1']:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data.uri X", "model.init is missing"),
        ("--model.init /nowhere/at/all --data.uri X", "/nowhere/at/all"),
        ("--k 0 --k x", "--k is x"),
    ],
)
def test_a_wrong_command_is_one_message(flags: str, message: str, capsys: Any) -> None:
    assert cli.main(flags.split()) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split()) and "Traceback" not in error
