"""The command line: what it takes, and one clear message for each mistake."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco_ray.cli.presets import load_preset
from moco_ray.cli.pretrain import main, parse
from moco_ray.config import from_json, to_json
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.presets import PRESETS

TINY = ["--preset", "smoke", "--run.num-workers", "0"]


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and everything printed, in one line of text."""
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", captured.out + captured.err)
    assert "Traceback" not in text
    return code, text


def test_flags_reach_their_fields() -> None:
    config = parse(
        "--preset moco-v2 --data.uri s3://b/x --run.name N --run.storage-path P --run.num-workers 3 --run.max-steps 5 "
        "--run.seed 7 --run.dtype float64 --optim.global-batch-size 64 --views.crop-px 64 --model.init F".split()
    ).config
    assert (config.data.uri, config.run.name, config.run.storage_path, config.run.num_workers) == (
        "s3://b/x",
        "N",
        "P",
        3,
    )
    assert (config.run.max_steps, config.run.seed, config.run.dtype) == (5, 7, "float64")
    assert (config.optim.global_batch_size, config.views.crop_px, config.model.init) == (64, 64, "F")


def test_v1_becomes_v2_by_flags() -> None:
    flags = "--preset moco-v1 --model.projector mlp --optim.schedule cosine --method.temperature 0.2"
    views = " --views.jitter 0.4 0.4 0.4 0.1 --views.jitter-p 0.8 --views.no-grayscale-first --views.blur-p 0.5 0.5"
    assert replace(parse((flags + views).split()).config, preset="moco-v2") == load_preset("moco-v2")


def test_another_method_goes_with_any_preset() -> None:
    config = parse("--preset small --method memory-bank --method.num-negatives 50".split()).config
    assert config == replace(load_preset("small"), method=MemoryBankConfig(num_negatives=50))
    v3 = "--preset moco-v3-vit-mini --method=moco-v3 --method.temperature 0.3"
    assert parse(v3.split()).config.method == MoCoV3Config(temperature=0.3)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_their_json(name: str) -> None:
    config = load_preset(name)
    assert from_json(to_json(config)) == config


def test_help_explains_every_field_and_shows_the_presets_value(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = _run(["--preset", "moco-v1", "--help"], capsys)
    assert code == 0
    assert "Temperature of InfoNCE" in text and "(default: 0.07)" in text
    for flag in ("--data.uri", "--run.seed", "--optim.global-batch-size", "--eval.uri", "--dry-run"):
        assert flag in text


def test_a_runs_config_is_a_preset(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = _run(
        [*TINY, "--data.uri", str(images), "--run.storage-path", str(tmp_path), "--run.name", "a"], capsys
    )
    assert code == 0, text
    assert re.search(
        r"^ ?moco_ray: preset smoke, images \S+ run a; to resume it: moco-ray pretrain .* --run.name a ", text
    )
    assert "effective learning rate" in text and "load_encoder(" in text
    again = [f"--preset={tmp_path / 'a' / 'config.json'}", "--run.name", "b"]
    code, text = _run(again, capsys)
    assert code == 0, text
    assert (tmp_path / "b" / "encoder.safetensors").is_file()


def test_dry_run_says_what_there_is(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    mine = tmp_path / "images"
    shutil.copytree(images, mine)
    first = sorted(mine.glob("*/*.png"))[0]
    shutil.copy(first, first.with_name("twin.png"))
    first.with_name("broken.png").write_bytes(b"no image")
    code, text = _run(["--preset", "small", "--data.uri", str(mine), "--dry-run"], capsys)
    assert code == 0
    for part in (
        "213 images, 21 of them held out",
        "run: 192 images, 100 epochs",
        "1 bad, 1 identical",
        "broken.png",
        "steps of 128",
        "checkpoint: about",
        "preset: small",
    ):
        assert part in text


def _bad(tmp_path: Path, images: Path) -> dict[str, tuple[list[str], str]]:
    """Arguments, and what the message must hold."""
    empty, texts, few = tmp_path / "empty", tmp_path / "texts", tmp_path / "few"
    for folder in (empty, texts, few):
        folder.mkdir()
    (texts / "readme.txt").write_text("no image")
    for i in range(5):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(few / f"{i}.png")
    uri = ["--data.uri", str(images)]
    return {
        "no uri": ([], r"data\.uri is missing"),
        "no such path": (["--data.uri", str(tmp_path / "nowhere")], r"nowhere.*(no such|does not exist)"),
        "empty folder": (["--data.uri", str(empty)], r"empty"),
        "no image": (["--data.uri", str(texts)], r"\.txt"),
        "few images": (["--data.uri", str(few)], r"5 images.*fewer than one batch of 16.*smaller"),
        "indivisible batch": ([*uri, "--optim.global-batch-size", "15"], r"15 is not a multiple.*bn-groups 2"),
        "too many workers": ([*uri, "--run.num-workers", "3"], r"num-workers 3 is more than the 2 BatchNorm groups"),
        "small queue": ([*uri, "--method.queue-size", "8"], r"queue-size 8 is smaller than one batch of 16"),
        "unknown preset": ([*uri, "--preset", "moco-v22"], r"'moco-v22' is unknown; did you mean moco-v2"),
        "unknown method": ([*uri, "--method", "simclrr"], r"--method 'simclrr' is unknown; there are moco, moco-v3"),
        "queue with v3": (
            [*uri, "--preset", "moco-v3-vit-small", "--method.queue-size", "8"],
            r"queue-size is not for the method moco-v3, but for moco",
        ),
        "predictor with v2": (
            [*uri, "--preset", "moco-v2", "--method.predictor-last-bn"],
            r"predictor-last-bn is not for the method moco, but for moco-v3",
        ),
        "patches that do not fill": (
            [*uri, "--model.arch", "vit_mini", "--model.patch-px", "5"],
            r"crop-px 32 is not a multiple of model\.patch-px 5; use crops of 30",
        ),
        "stem of a vit": ([*uri, "--model.arch", "vit_mini", "--model.stem", "cifar"], r"'cifar' is for torchvision"),
        "unknown flag": (
            [*uri, "--optim.global-batchsize", "1"],
            r"batchsize is unknown; did you mean --optim.global-batch-size",
        ),
        "no init file": ([*uri, "--model.init", str(tmp_path / "none.pt")], r"none\.pt"),
        "unknown arch": ([*uri, "--model.arch", "resnet5"], r"'resnet5' is no torchvision ResNet"),
        "bad options": ([*uri, "--data.storage-options", "{secret"], r"storage-options"),
    }


@pytest.mark.parametrize(
    "case",
    ["no uri", "no such path", "empty folder", "no image", "few images", "indivisible batch", "too many workers"]
    + ["small queue", "unknown preset", "unknown flag", "no init file", "unknown arch", "bad options", "unknown method"]
    + ["queue with v3", "predictor with v2", "patches that do not fill", "stem of a vit"],
)
def test_bad_input_is_one_clear_message(
    case: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, pattern = _bad(tmp_path, images)[case]
    store = tmp_path / "store"
    code, text = _run([*TINY, "--run.storage-path", str(store), "--run.name", "x", *arguments], capsys)
    assert code == 2
    assert re.search(pattern, text), text
    assert "secret" not in text.replace("x-secret", "") or case != "bad options"
    assert not (store / "x" / "config.json").exists()


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--model.dim", "16"], "model.dim was 32, now 16"),
        (["--run.seed", "5"], "run.seed was 0, now 5"),
        (["--optim.lr", "0.5"], "optim.lr was 0.03, now 0.5"),
    ],
)
def test_resuming_with_another_experiment_names_the_field(
    flags: list[str], field: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [*TINY, "--data.uri", str(images), "--run.storage-path", str(tmp_path), "--run.name", "a"]
    assert _run([*base, "--run.max-steps", "1"], capsys)[0] == 0
    code, text = _run([*base, *flags], capsys)
    assert code == 2 and field in text


def test_resuming_with_other_data_names_the_field(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [*TINY, "--run.storage-path", str(tmp_path), "--run.name", "a", "--run.max-steps", "1"]
    assert _run([*base, "--data.uri", str(images)], capsys)[0] == 0
    code, text = _run([*base, "--data.uri", str(images / "0")], capsys)
    assert code == 2 and "data.uri was" in text


def test_a_large_queue_is_warned_of(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = [*TINY, "--data.uri", str(images), "--run.storage-path", str(tmp_path), "--run.name", "a"]
    code, text = _run([*base, "--method.queue-size", "128"], capsys)
    assert code == 0 and "warning: the queue of 128 keys is larger than half" in text


def test_read_only_storage_path_is_refused_before_listing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file stands where the folder should be")
    base = [*TINY, "--data.uri", str(images), "--run.storage-path", str(blocked / "runs"), "--run.name", "a"]
    code, text = _run(base, capsys)
    assert code == 2 and "listing" not in text and str(blocked) in text.replace(" ", "")


def test_credentials_stay_out_of_config_and_output(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = json.dumps({"auto_mkdir": "the-secret"})
    base = [*TINY, "--data.uri", str(images), "--run.storage-path", str(tmp_path), "--run.name", "a"]
    for flag in (["--data.storage-options", options], [f"--data.storage_options={options}"]):
        code, text = _run([*base, "--run.max-steps", "1", *flag], capsys)
        assert code == 0
        assert "the-secret" not in text + (tmp_path / "a" / "config.json").read_text()
