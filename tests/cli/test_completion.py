"""What shells offer of `moco-ray`: bash itself is asked, and fish where there is one."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from moco_ray.cli.completion import completion
from moco_ray.config.presets import PRESETS
from moco_ray.config.programs import DOORS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user stands, with scripts beside what there is."""
    folder = tmp_path_factory.mktemp("here")
    for shell in ("bash", "fish"):
        (folder / shell).write_text(completion(shell))
    (folder / "images of mine").mkdir()
    return folder


def offered(folder: Path, *words: str) -> list[str]:
    """What bash has for the last of the words behind moco-ray, as its completion asks for it."""
    script = (
        f"source ./bash; complete -p moco-ray; COMP_WORDS=(moco-ray {shlex.join(words)}); COMP_CWORD={len(words)}\n"
        "$(complete -p moco-ray | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=folder, capture_output=True, text=True, check=True, timeout=30
    )
    registered, *found = done.stdout.splitlines()
    assert "-o default" in registered and registered.endswith(" moco-ray") and not done.stderr, done
    return [word for word in found if word]


def test_bash_offers_programs_flags_and_values(folder: Path) -> None:
    assert set(DOORS) <= set(offered(folder, ""))
    assert offered(folder, "lin") == ["linear-probe"]
    assert offered(folder, "pretrain", "--optim.global") == ["--optim.global-batch-size"]
    assert set(offered(folder, "pretrain", "--preset", "")) == set(PRESETS)
    assert offered(folder, "finetune", "--optim.lr", "0.1", "--preset", "finetune-1") == [
        "finetune-1-percent",
        "finetune-10-percent",
    ]
    assert offered(folder, "sweep", "--scheduler", "") == ["none", "asha", "pbt"]
    assert offered(folder, "sweep", "--method.enc") == ["--method.encoder-momentum"]
    assert set(offered(folder, "detect", "--views.")) == {"--views.mean", "--views.std"}
    assert offered(folder, "runs", "--pru") == ["--prune"]


def test_bash_leaves_places_to_its_own_names_of_files(folder: Path) -> None:
    """Nothing of the function's own makes bash go on to files, by `-o default`."""
    assert offered(folder, "pretrain", "--data.uri", "ima") == []
    assert offered(folder, "export", "ima") == []


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("moco-ray pretrain --preset smo", ["smoke"]),
        ("moco-ray export ima", ["images of mine/"]),
        ("moco-ray pretrain --data.uri ima", ["images of mine/"]),
        ("moco-ray lin", ["linear-probe"]),
    ],
)
def test_fish_offers_the_same(folder: Path, line: str, words: list[str]) -> None:
    command = ["fish", "--no-config", "-c", f"source fish; complete -C {shlex.quote(line)}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    assert [found.partition("\t")[0] for found in done.stdout.splitlines()] == words


def test_zsh_takes_it_from_a_file_and_from_a_start_up_file() -> None:
    script = completion("zsh")
    assert script.startswith("#compdef moco-ray\n") and script.rstrip().endswith("else compdef _moco_ray moco-ray; fi")
    assert script.count('_tyro_moco_ray "$@"') == 1  # in the function alone: outside of a completion it fails
