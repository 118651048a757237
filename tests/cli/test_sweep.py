"""The command line of a sweep: what it takes, and one clear message for each mistake before anything starts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from moco_ray.cli.command import again
from moco_ray.cli.sweep import main, settings_of, split

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


def test_flags_of_the_sweep_and_of_its_runs_are_told_apart() -> None:
    command = (
        "--preset small --num-samples 4 --optim.lr 0.1 --space a=log:1:2 --space=b=choice:x,y --views.blur-p 0.5 0.5"
    )
    own, rest = split([*command.split(), "--max_concurrent", "3", "--run.name", "n"])
    settings = settings_of(own)
    assert (settings.num_samples, settings.space, settings.max_concurrent) == (4, ("a=log:1:2", "b=choice:x,y"), 3)
    assert again(rest) == ["--preset", "small", "--optim.lr", "0.1", "--views.blur-p", "0.5", "0.5"]


def test_the_best_command_holds_neither_the_sweeps_name_nor_credentials() -> None:
    arguments = ["--preset", "small", "--run.name", "n", "--data.storage_options={secret", "--run.storage-options", "s"]
    assert again(split(arguments)[1]) == ["--preset", "small"]


def test_help_explains_both(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = _run(["--preset", "moco-v1", "--help"], capsys)
    assert code == 0
    for part in ("--num-samples", "--scheduler", "--space", "--optim.lr", "(default: 0.07)", "logarithmic"):
        assert part in text


def _bad(tmp_path: Path, images: Path) -> dict[str, tuple[list[str], str]]:
    """Arguments, and what the message must hold."""
    uri = ["--data.uri", str(images)]
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    for i, path in enumerate(sorted(images.glob("*/*.png"))[:40]):
        shutil.copy(path, unlabelled / f"{i}.png")
    return {
        "loss": ([*uri, "--metric", "train/loss"], r"loss of two temperatures.*cannot be compared.*eval/knn_top1"),
        "bare loss": ([*uri, "--metric", "loss"], r"--metric loss is no objective: the contrastive loss"),
        "alignment": ([*uri, "--metric", "eval/alignment"], r"best where all features are the same"),
        "unknown metric": ([*uri, "--metric", "eval/map"], r"it is not known"),
        "no labels": (
            ["--data.uri", str(unlabelled), "--metric", "eval/knn_top1"],
            r"needs labelled images that training does not see.*--eval\.uri FOLDER.*eval/rankme",
        ),
        "no hold-out": (
            [*uri, "--eval.holdout-fraction", "0", "--metric", "eval/knn_top1"],
            r"needs labelled images that training does not see",
        ),
        "empty space": ([*uri, "--space", ""], r"the space is empty"),
        "unknown field": ([*uri, "--space", "optim.temperature=log:0.1:1"], r"did you mean method\.temperature\?"),
        "bounds": ([*uri, "--space", "optim.lr=log:1:0.1"], r"1 is not below the upper bound 0\.1; write 0\.1:1"),
        "unknown flag": ([*uri, "--num-sample", "2"], r"--num-sample is unknown; did you mean --num-samples\?"),
        "unknown run flag": ([*uri, "--optim.lrr", "2"], r"--optim\.lrr is unknown; did you mean --optim\.lr"),
        "unknown network": (
            [*uri, "--space", "model.arch=choice:resnet18,timm:resnet_of_nobody", "--dry-run"],
            r"--space model\.arch=choice:resnet18,timm:resnet_of_nobody: .*resnet_of_nobody",
        ),
        "no uri": ([], r"data\.uri is missing"),
        "no samples": ([*uri, "--num-samples", "0"], r"--num-samples is 0; use 1 or more"),
        "pbt and tpe": ([*uri, "--scheduler", "pbt", "--search", "tpe"], r"both choose parameters"),
        "pbt of one": ([*uri, "--scheduler", "pbt", "--num-samples", "1"], r"is no population"),
        "pbt steps": ([*uri, "--scheduler", "pbt", "--pbt-generations", "9"], r"9 is more than the 4 steps"),
        "pbt shapes": (
            [*uri, "--scheduler", "pbt", "--space", "model.dim=choice:16,32"],
            r"pbt changes parameters in the middle of a run",
        ),
        "grace": ([*uri, "--asha-grace", "2"], r"--asha-grace is 2\.0; use a share"),
        "few images": (
            [*uri, "--optim.global-batch-size", "512", "--method.queue-size", "512"],
            r"fewer than one batch of 512",
        ),
        "no such path": (["--data.uri", str(tmp_path / "nowhere")], r"nowhere"),
    }


CASES = ["loss", "bare loss", "alignment", "unknown metric", "no labels", "no hold-out", "empty space", "unknown field"]
CASES += [
    "bounds",
    "unknown flag",
    "unknown run flag",
    "no uri",
    "no samples",
    "pbt and tpe",
    "pbt of one",
    "pbt steps",
]
CASES += ["unknown network", "pbt shapes", "grace", "few images", "no such path"]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clear_message(
    case: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, pattern = _bad(tmp_path, images)[case]
    code, text = _run([*TINY, "--run.storage-path", str(tmp_path / "store"), *arguments], capsys)
    assert code == 2
    assert re.search(pattern, text), text
    assert "starting Ray" not in text
    assert not list((tmp_path / "store").rglob("trial*"))
