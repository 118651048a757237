"""Reports of real runs: while they go on, when they end, and when their encoder is measured later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco_ray.driver.features.evaluation import evaluate
from moco_ray.driver.run import pretrain, train
from moco_ray.run_folder.begin import stored_images
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.tasks.supervised import LINEAR_PROBE
from tests.gloo import quiet
from tests.report.folders import Page, stored
from tests.runs import punctual_checkpoints, tiny_config
from tests.tasks.supervised import labels_config, with_init


def page_of(folder: str | Path) -> Page:
    return Page((Path(folder) / "report" / "index.html").read_text())


@pytest.fixture
def broken(images: Path, tmp_path: Path) -> Path:
    """Images of which one is cut off in the middle and one is no image."""
    folder = tmp_path / "images"
    for i in range(30):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / str(i % 2) / f"{i}.jpg", quality=90)
    cut = folder / "0" / "4.jpg"
    cut.write_bytes(cut.read_bytes()[:2500])
    (folder / "1" / "7.jpg").write_bytes(b"<html>not found</html>")
    return folder


def test_a_run_shows_itself_while_it_goes_on_and_when_it_has_ended(
    images: Path, tmp_path: Path, pictures: None
) -> None:
    config = tiny_config(images, tmp_path, max_steps=8, checkpoint_every_steps=2, log_every_steps=1)
    seen: list[str] = []

    def look(line: str) -> None:
        place = tmp_path / "run" / "report" / "index.html"
        if place.exists():
            seen.append(place.read_text())

    with punctual_checkpoints():
        result = pretrain(config, say=look, resume_command="python jobs/pretrain.py --run.name {name}")
    assert 'class="state running"' in seen[0] and "This run is live" in seen[0]
    page = page_of(result.folder)
    assert ("span", {"class": "state ended"}) in page.tags
    lines = stored_lines(stored(result.folder), "metrics.jsonl")
    assert page.lines["Loss"] == [[line["step"], line["train/loss"]] for line in lines]
    assert "python jobs/pretrain.py --run.name run" in page.text and "step 8 of 8" in page.text
    sources = [str(values.get("src") or values.get("href")) for tag, values in page.tags if tag in ("img", "image")]
    assert len(sources) > 60 and all(one.startswith("data:image/webp;base64,") for one in sources)
    assert str(len(stored_images(stored(result.folder)).train.train_rows())) in {value for value, _ in page.numbers}
    for words in ("Views", "Nearest neighbours", "PCA", "10 classes", "Environment", "torch"):
        assert words in page.text


def test_bad_images_are_shown_as_far_as_they_decode(broken: Path, tmp_path: Path) -> None:
    config = tiny_config(broken, tmp_path, max_steps=3)
    config = replace(config, data=replace(config.data, max_bad_fraction=0.5))
    folder = Path(pretrain(config, say=quiet).folder)
    page = page_of(folder)
    assert "2 images could not be used" in page.text and "nothing decodes" in page.text
    shown = [values for tag, values in page.tags if tag == "img" and "4.jpg" in str(values["alt"])]
    assert len(shown) == 1 and str(shown[0]["src"]).startswith("data:image/webp")


def test_a_call_from_python_and_a_second_command_are_told(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=1)
    secret = "https://me:hidden-word@example.org"
    pretrain(config, say=quiet)
    later = replace(config, run=replace(config.run, max_steps=2))
    folder = Path(pretrain(later, say=quiet, resume_command=f"again {{name}} --eval.uri {secret}").folder)
    page = page_of(folder)
    assert "moco_ray.pretrain(config)" in page.text and "again run" in page.text
    assert "the one that went on with it" in page.text
    everything = "".join(path.read_text(errors="replace") for path in folder.rglob("*.json*")) + page.text
    assert "hidden-word" not in everything


def test_a_run_that_failed_says_why(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=4)
    broken = replace(config, optim=replace(config.optim, lr=1e30))
    with pytest.raises((ValueError, RuntimeError)):
        pretrain(broken, say=quiet)
    page = page_of(tmp_path / "run")
    assert ("span", {"class": "state failed"}) in page.tags
    assert json.loads((tmp_path / "run" / "end.json").read_text())["reason"][:60] in page.text


@pytest.fixture(scope="module")
def encoder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield Path(pretrain(tiny_config(images, tmp_path_factory.mktemp("runs"), max_steps=2), say=quiet).encoder)


def test_what_is_measured_later_goes_onto_the_encoders_page(images: Path, encoder: Path, tmp_path: Path) -> None:
    probe = with_init(labels_config("linear-probe", images, tmp_path, max_steps=2), encoder)
    folder = Path(train(LINEAR_PROBE, probe, say=quiet).folder)
    results = json.loads((folder / "results.json").read_text())
    config = with_init(tiny_config(images, tmp_path), encoder)
    measured = evaluate(config, ks=(3,), say=quiet)
    assert measured is not None
    names = {path.name for path in (encoder.parent / "evaluations").iterdir()}
    assert any(name.startswith("linear-probe-") for name in names) and any(name.startswith("kNN-") for name in names)
    text = page_of(encoder.parent).text
    assert "Measured since" in text and "linear probe" in text and f"top1 {results['top1']:.4g}" in text
    assert f"kNN top1, k 3 {measured['knn']['3']['top1']:.4g}" in text
    own = page_of(folder)
    assert "Confusion" in own.text and json.dumps(results["top1"]) in {value for value, _ in own.numbers}
    assert "moco_ray.load_classifier" in own.text


def test_a_folder_that_cannot_be_written_is_only_a_warning(
    images: Path, encoder: Path, tmp_path: Path, said: list[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("encoder.safetensors", "config.json"):
        (copy / name).write_bytes((encoder.parent / name).read_bytes())
    (copy / "evaluations").write_text("in the way")
    probe = with_init(labels_config("linear-probe", images, tmp_path, max_steps=1), copy / "encoder.safetensors")
    folder = Path(train(LINEAR_PROBE, probe, say=said.append).folder)
    assert (folder / "results.json").exists()
    assert any("could not be kept with the encoder's run" in line for line in said)
