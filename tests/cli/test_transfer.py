"""The command lines of linear probes and fine-tuning: what they take over, and one clear message for each mistake."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import moco_ray
from moco_ray.cli import finetune, linear_probe
from moco_ray.cli.export import main as export
from moco_ray.cli.transfer import Command, parse_transfer
from moco_ray.config import from_json, to_json
from moco_ray.config.transfer_presets import FINETUNE_PRESETS, LINEAR_PRESETS
from moco_ray.driver.run import pretrain
from tests.runs import losses, tiny_config, write_images

COMMANDS: dict[str, Command] = {"linear_probe": linear_probe.COMMAND, "finetune": finetune.COMMAND}
MAINS: dict[str, Callable[[list[str]], int]] = {"linear_probe": linear_probe.main, "finetune": finetune.main}
TINY = "--model.arch tiny_resnet --views.crop-px 32 --optim.global-batch-size 24 --run.num-workers 0".split()
TINY += ["--optim.bn-groups", "4", "--run.max-steps", "2"]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that breaks no path."""
    monkeypatch.setenv("COLUMNS", "1000")


def _run(job: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and everything printed, in one line of text."""
    code = MAINS[job](arguments) if job in MAINS else export(arguments)
    captured = capsys.readouterr()
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", captured.out + captured.err)
    assert "Traceback" not in text
    return code, text


@pytest.fixture(scope="module")
def pretrained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short pretraining run."""
    config = tiny_config(images, tmp_path_factory.mktemp("pretrained"), max_steps=2, dtype="float32")
    return Path(pretrain(config, say=lambda line: None).folder)


def test_the_encoder_says_network_crops_and_images(pretrained: Path, images: Path) -> None:
    config = parse_transfer([str(pretrained), "--optim.lr", "3"], linear_probe.COMMAND).config
    assert (config.task, config.preset, config.model.init) == ("linear-probe", "linear-v1", str(pretrained))
    assert (config.model.arch, config.views.crop_px, config.data.uri) == ("tiny_resnet", 32, str(images))
    assert config.optim.lr == 3 and config.views.jitter_p == 0 and config.run.name is None
    flags = [
        "--model.init",
        str(pretrained),
        "--views.crop-px",
        "48",
        "--data.uri",
        "other",
        "--preset",
        "linear-small",
    ]
    config = parse_transfer(flags, linear_probe.COMMAND).config
    assert (config.preset, config.views.crop_px, config.data.uri) == ("linear-small", 48, "other")


def test_a_file_of_weights_says_the_network_and_no_images(pretrained: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(pretrained / "encoder.safetensors", tmp_path / "e.safetensors"))
    config = parse_transfer([str(alone)], finetune.COMMAND).config
    assert (config.task, config.model.arch, config.data.uri) == ("finetune", "tiny_resnet", "")


def test_a_runs_configuration_is_a_preset_of_its_own_task_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(LINEAR_PRESETS["linear-v3"]()))
    flags = ["--preset", str(tmp_path / "config.json")]
    assert parse_transfer(flags, linear_probe.COMMAND).config == LINEAR_PRESETS["linear-v3"]()
    with pytest.raises(
        ValueError, match=r"is of linear-probe, and moco-ray finetune is for finetune; use one of finetune,"
    ):
        parse_transfer(flags, finetune.COMMAND)


@pytest.mark.parametrize("name", [*LINEAR_PRESETS, *FINETUNE_PRESETS])
def test_presets_bear_their_names_and_survive_their_json(name: str) -> None:
    config = (LINEAR_PRESETS | FINETUNE_PRESETS)[name]()
    assert config.preset == name and from_json(to_json(config)) == config


@pytest.mark.parametrize("job", COMMANDS)
def test_help_and_the_list_of_presets(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "--list-presets"):
        with pytest.raises(SystemExit) as done:
            MAINS[job]([flag])
        assert not done.value.code
        text = capsys.readouterr().out
        assert all(name in text for name in COMMANDS[job].presets)
        if flag == "--help":
            shown = ("--data.uri", "--data.label-fraction", "--optim.lr", "--eval.uri", "--json", "--dry-run")
            assert all(name in text for name in shown)
            assert "--method" not in text and "--model.dim" not in text and "--eval.k " not in text
            assert ("--fast" in text) == (job == "linear_probe")
            assert ("--optim.layer-decay" in text) == (job == "finetune")


def test_as_a_user_a_probe_and_its_fast_kin(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(pretrained), *TINY, "--run.storage-path", str(tmp_path), "--json", str(tmp_path / "out.json")]
    code, text = _run("linear_probe", [*flags, "--run.name", "probe"], capsys)
    assert code == 0, text
    for part in ("21 of them held out for evaluation", "measuring the final classifier", "bitwise", "load_classifier("):
        assert part in text
    assert "kNN" not in text and "untrained encoder" not in text
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads((tmp_path / "probe/results.json").read_text())
    code, text = _run("linear_probe", [*flags, "--run.name", "probe"], capsys)
    assert code == 0 and "this run is finished" in text and "encoder.safetensors" not in text
    said = []
    for _ in range(2):
        code, text = _run("linear_probe", [*flags, "--fast"], capsys)
        assert code == 0, text
        said.append(text)
    assert "features are kept in" in said[0] and "features of an earlier time" in said[1]
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["fast"] and results["num_test"] == 21 and results["top1"] > 30 and len(results["per_class"]) == 10


def test_a_dry_run_says_what_there_is_and_writes_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data.uri", str(images), *TINY, "--run.storage-path", str(tmp_path / "runs"), "--dry-run"]
    code, text = _run("finetune", [*flags, "--data.label-fraction", "0.3"], capsys)
    assert code == 0, text
    for part in (
        "dry run, preset finetune",
        "21 of 211 labelled images are held out",
        "211 images, 21 of them held out",
        "data.label-fraction 0.3: 60 of the 190 others are trained on",
        "guessing gives 10.0 %",
    ):
        assert part in text
    assert not (tmp_path / "runs").exists()


def test_the_encoder_and_the_classifier_of_a_run_that_was_stopped(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for job in MAINS:
        run = tmp_path / job
        flags = [str(pretrained), *TINY, "--run.storage-path", str(tmp_path), "--run.name", job]
        assert _run(job, flags, capsys)[0] == 0
        for name in ("encoder.safetensors", "classifier.safetensors"):
            (run / name).unlink(missing_ok=True)
        (run / "metrics.jsonl").unlink()
        code, text = _run("export", [str(run)], capsys)
        assert code == 0 and "encoder of step 2" in text and "classifier of step 2" in text, text
        assert "could not be drawn" not in text and (run / "metrics.jsonl").exists()
        assert moco_ray.encoder_info(run)["arch"] == "tiny_resnet"
        assert moco_ray.load_classifier(run)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


class _Evil:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.place}",)


def _bad(case: str, images: Path, tmp_path: Path) -> tuple[list[str], str]:
    """Arguments, and what the message must hold."""
    uri, path = ["--data.uri", str(images)], tmp_path / "made"
    path.mkdir()
    one = [next((images / "0").iterdir())] * 2
    if case == "no uri":
        return [], r"data\.uri is missing"
    if case == "no labels":
        for i, digit in enumerate(sorted(images.glob("*/*.png"))[::7]):
            shutil.copy(digit, path / f"{i}.png")
        return ["--data.uri", str(path)], r"has no labels, which are what is learned; use a folder with one sub-folder"
    if case == "one class":
        shutil.copytree(images / "3", path / "3")
        labels = ["path,label", *(f"3/{file.name},three" for file in sorted((path / "3").iterdir()))]
        (path / "list.csv").write_text("\n".join(labels))
        return ["--data.uri", str(path / "list.csv")], r"has one class alone, .*three.*nothing to tell apart"
    if case == "other classes to classify":
        for part, names in (("train", "012"), ("test", "0129")):
            for name in names:
                shutil.copytree(images / name, path / part / name)
        return [
            "--data.uri",
            str(path),
        ], r"1 of the 4 classes of the images to classify, .*no image to train on \(.?9.?; trained on are"
    if case == "unknown class":
        return [*uri, "--data.classes", "1,cat"], r"has no class .?cat.?; there are .?0"
    if case == "one class named":
        return [*uri, "--data.classes", "1"], r"data\.classes is 1; name two or more, as A,B"
    if case == "no exclude file":
        return [*uri, "--data.exclude", str(path / "none.txt")], r"data\.exclude .*there is no such file"
    if case == "exclude everything":
        (path / "all.txt").write_text("\n".join(map(str, images.glob("*/*.png"))))
        return [*uri, "--data.exclude", str(path / "all.txt")], r"names all 211 images of .*; name fewer"
    if case == "label fraction 0":
        return [*uri, "--data.label-fraction", "0"], r"data\.label-fraction is 0\.0; use a share in \(0, 1\]"
    if case == "label fraction 2":
        return [*uri, "--data.label-fraction", "2"], r"data\.label-fraction is 2\.0; use a share in \(0, 1\]"
    if case in ("no target column", "wrong target"):
        cells = [
            "uri,sick",
            *(f"{file},{1 if i else 'perhaps'}" for i, file in enumerate(sorted(images.glob("1/*.png")))),
        ]
        (path / "list.csv").write_text("\n".join(cells))
        column = "ill" if case == "no target column" else "sick"
        said = (
            r"has no column 'ill'; its columns are uri, sick"
            if column == "ill"
            else r"line 2: 'sick' is 'perhaps'; write 1"
        )
        return ["--data.uri", str(path / "list.csv"), "--data.target-columns", column], said
    if case == "targets of a folder":
        return [*uri, "--data.target-columns", "a,b"], r"data\.target-columns"
    if case == "nothing to measure on":
        return [
            *uri,
            "--eval.holdout-fraction",
            "0",
        ], r"there is nothing to measure on: name images to classify with --eval\.uri"
    if case == "a pickle that runs code":
        torch.save({"x": _Evil(tmp_path / "touched")}, path / "evil.pt", pickle_module=pickle)
        return [str(path / "evil.pt"), *uri], r"evil\.pt"
    if case == "no such encoder":
        return [str(path / "none"), *uri], r"made/none"
    if case == "encoder named twice":
        return ["a", "b", *uri], r"'b' belongs to no flag"
    assert case == "too many bad images" and one
    shutil.copytree(images, path / "images")
    for i, file in enumerate(sorted((path / "images").glob("*/*.png"))):
        if i % 4 == 0:
            file.write_bytes(b"no image")
    return ["--data.uri", str(path / "images")], r"5\d of 19\d images|bad"


CASES = ["no uri", "no labels", "one class", "other classes to classify", "unknown class", "one class named"]
CASES += ["no exclude file", "exclude everything", "label fraction 0", "label fraction 2", "no target column"]
CASES += ["wrong target", "targets of a folder", "nothing to measure on", "a pickle that runs code", "no such encoder"]
CASES += ["encoder named twice", "too many bad images"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("job", MAINS)
def test_bad_input_is_one_clear_message(
    job: str, case: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, pattern = _bad(case, images, tmp_path)
    own = [*TINY, "--run.storage-path", str(tmp_path / "runs"), "--run.name", "x"]
    place = [] if not arguments or arguments[0].startswith("-") else [arguments.pop(0)]
    code, text = _run(job, [*place, *own, *arguments], capsys)
    assert code == 2 and re.search(pattern, text), text
    assert case == "too many bad images" or not (tmp_path / "runs/x/config.json").exists()
    assert not (tmp_path / "touched").exists()


def test_weights_of_another_network_are_refused_by_their_names(
    pretrained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(pretrained), *TINY, "--data.uri", str(images), "--run.storage-path", str(tmp_path)]
    for job in MAINS:
        code, text = _run(job, [*flags, "--model.arch", "resnet18"], capsys)
        assert code == 2 and "tiny_resnet" in text and "resnet18" in text, text
    foreign = tmp_path / "foreign.pt"
    torch.save({"layer9.weight": torch.zeros(3)}, foreign)
    code, text = _run("finetune", [str(foreign), *flags[1:]], capsys)
    assert code == 2 and "layer9.weight" in text, text


def test_layer_decay_is_refused_for_a_resnet_before_anything_starts(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TINY, "--data.uri", str(images), "--run.storage-path", str(tmp_path), "--optim.layer-decay", "0.7"]
    code, text = _run("finetune", flags, capsys)
    assert code == 2 and "optim.layer-decay 0.7 is for Transformers" in text and "listing" not in text, text


def test_a_fast_probe_refuses_several_labels_an_image(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        *TINY,
        "--data.uri",
        str(images),
        "--run.storage-path",
        str(tmp_path),
        "--fast",
        "--data.target-columns",
        "a",
    ]
    code, text = _run("linear_probe", flags, capsys)
    assert code == 2 and "--fast learns one class an image" in text and "listing" not in text


def test_a_fast_probe_has_no_dry_run(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*TINY, "--data.uri", str(images), "--run.storage-path", str(tmp_path / "runs"), "--fast", "--dry-run"]
    code, text = _run("linear_probe", flags, capsys)
    assert code == 2 and "--dry-run does not go with --fast" in text and not (tmp_path / "runs").exists()


def test_a_list_that_excludes_nothing_is_warned_of_and_one_that_excludes_some_counted(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TINY, "--data.uri", str(images), "--run.storage-path", str(tmp_path), "--dry-run"]
    (tmp_path / "none.txt").write_text("nowhere.png")
    code, text = _run("finetune", [*flags, "--data.exclude", str(tmp_path / "none.txt")], capsys)
    assert code == 0 and re.search(r"warning: data.exclude \S+none.txt: 0 images .* names none", text), text
    names = [str(path.relative_to(images)) for path in sorted(images.glob("*/*.png"))[:5]]
    (tmp_path / "some.csv").write_text("\n".join(["uri,group", *(f"{name},1" for name in names)]))
    code, text = _run("finetune", [*flags, "--data.exclude", str(tmp_path / "some.csv")], capsys)
    assert code == 0 and "some.csv: 5 images" in text and "206 images, 20 of them" in text, text


def test_images_that_do_not_decode_are_counted_and_others_stand_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path, 120)
    broken = sorted(images.glob("*/*.png"))[::40]
    for path in broken:
        path.write_bytes(b"no image")
    flags = ["--data.uri", str(images), *TINY, "--run.max-steps", "6", "--run.storage-path", str(tmp_path / "runs")]
    code, text = _run("finetune", [*flags, "--run.name", "x", "--data.max-bad-fraction", "0.1"], capsys)
    assert code == 0, text
    bad = [json.loads(line) for line in (tmp_path / "runs/x/bad_images.jsonl").read_text().splitlines()]
    results = json.loads((tmp_path / "runs/x/results.json").read_text())
    assert len(bad) + results.get("bad_images", 0) == len(broken) and np.isfinite(losses(tmp_path / "runs/x")).all()
    code, text = _run("linear_probe", [*flags, "--fast"], capsys)
    assert code == 0 and "do not decode: left out" in text, text
