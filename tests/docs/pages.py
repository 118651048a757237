"""What README and docs hold: their blocks, commands, flags and links; and the commands, parsed by the programs themselves."""

from __future__ import annotations

import importlib.util
import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from moco_ray.cli import demo, detect, embed, evaluate, export, finetune, linear_probe, pretrain, runs, sweep, weights
from moco_ray.cli.flags import scan
from moco_ray.cli.transfer import Command, transfer_flags
from moco_ray.config.fields import docs_of, with_values
from moco_ray.config.programs import DOORS, NAME
from tests.bare import ROOT

DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_TRANSFER = {job.program: job for job in (m.COMMAND for m in (evaluate, linear_probe, finetune, detect, embed))}
_PLAIN = {"demo": demo, "export": export, "weights": weights, "runs": runs}
_PLACEHOLDERS = {"STEPS": "2", "STEP": "2", "LAYOUT": "timm", "N": "2"}
_PYTHON = ("python", ".venv/bin/python")
LANGUAGES = ("", "python", "json", "text")  # of blocks; commands stand in those of none
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)


def name_of(document: Path) -> str:
    """README.md, or a page's place below docs/."""
    return str(document.relative_to(DOCS)) if document.is_relative_to(DOCS) else document.name


def text_of(name: str) -> str:
    return (ROOT / name if name == "README.md" else DOCS / name).read_text()


def fenced(text: str) -> list[tuple[str, str]]:
    """(Language, text) of the fenced blocks of a page, in order."""
    return [(language, textwrap.dedent(block)) for _, language, block in _FENCED.findall(text)]


def odd_fences(text: str) -> list[str]:
    """Lines that begin or end a block in a way that nothing here would read."""
    languages = "|".join(LANGUAGES)
    fences = re.findall(r"^[\s>]*(?:```|~~~).*$", text, flags=re.MULTILINE)
    return [line for line in fences if not re.fullmatch(rf" *```({languages})", line.strip("\n"))]


def prose(document: Path) -> str:
    """A page without its blocks."""
    return _FENCED.sub("", document.read_text())


def blocks(language: str) -> list[tuple[str, str]]:
    """(Document, text) of every fenced block of a language."""
    return [
        (name_of(document), text)
        for document in DOCUMENTS
        for marked, text in fenced(document.read_text())
        if marked == language
    ]


def commands() -> list[tuple[str, str]]:
    """(Document, command) of every line of the blocks that hold commands."""
    return [(document, command) for document, text in blocks("") for command in commands_of(text)]


def commands_of(text: str) -> Iterator[str]:
    """The commands of a block, continued lines joined, comments left out; none of a drawing."""
    if is_drawing(text):
        return
    for line in text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s)#.*$", "", line)
        command = " ".join(re.sub(r"\[any flag.*?\]", "", command).split())
        if command:
            yield command


def is_drawing(text: str) -> bool:
    """Whether a block shows a picture made of letters."""
    return re.search("[│├└►]", text) is not None


def inline(document: Path) -> list[str]:
    """What stands between single backticks in a page, outside its blocks."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(document))]


def is_of_this_program(command: str) -> bool:
    """Whether a command starts a door of the project, or a benchmark."""
    words = command.split()
    is_file = len(words) > 1 and words[0] in _PYTHON and words[1].startswith(("jobs/", "tune/", "-m"))
    return is_file or (len(words) > 1 and words[0] == NAME and not words[1].startswith("-"))


def check_command(command: str, patch: pytest.MonkeyPatch) -> None:
    """Let the program's own parser read a command, as far as it goes without files.

    Raises:
        ValueError: A flag or a value is none.
        SystemExit: The same, of the commands that tyro parses.
    """
    first, program, *arguments = [_PLACEHOLDERS.get(word, word) for word in shlex.split(command) if word != "…"]
    if program == "-m":
        _check_module(*arguments)
        return
    names = list(DOORS) if first == NAME else list(DOORS.values())
    if program not in names:
        raise ValueError(f"there is no program {program}")
    name = list(DOORS)[names.index(program)]
    if name in _PLAIN:
        _parse_plain(name, arguments, patch)
    elif name in _TRANSFER:
        _parse_transfer(arguments, _TRANSFER[name])
    elif name == "pretrain":
        _parse_run(arguments)
    else:
        assert name == "sweep", f"nothing here parses {name}"
        _parse_sweep(arguments)


def _check_module(module: str, *arguments: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"there is no module {module}")
    known = benchmark_flags(ROOT / f"{module.replace('.', '/')}.py", ROOT / "benchmarks/comparisons/common.py")
    if unknown := [word for word in arguments if word.startswith("--") and word not in known]:
        raise ValueError(f"{module} has no {', '.join(unknown)}")


def benchmark_flags(*files: Path) -> set[str]:
    """Names of the flags that some files define."""
    return {flag for file in files for flag in re.findall(r'add_argument\(\s*"(--[\w-]+)"', file.read_text())}


def targets() -> set[str]:
    """Names that make takes."""
    lines = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return {target for line in lines for target in line.split()}


def _parse_plain(name: str, arguments: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    module = _PLAIN[name]
    with patch.context() as context:
        if name == "export":
            context.setattr(module, "export_run", lambda *place, **options: None)
        else:
            context.setattr(module, "run_command", lambda work, stopped: 0)
        assert module.main(list(arguments)) == 0


def _parse_run(arguments: Sequence[str]) -> None:
    given = pretrain.scan_run(arguments)
    presets = [item.value for item in given if item.flag.path == "preset" and item.value.endswith(".json")]
    if not presets:
        pretrain.parse([word for word in arguments if word not in ("--help", "--list-presets")])
    for item in given:
        assert item.value is not None


def _parse_transfer(arguments: Sequence[str], job: Command) -> None:
    rest = list(arguments)
    if rest and not rest[0].startswith("-"):
        rest = ["--model.init", *rest]
    flags = transfer_flags(job)
    given = {item.flag.path: item.value for item in scan(rest, flags)}
    preset = given.pop("preset", next(iter(job.presets)))
    if preset not in job.presets:
        raise ValueError(f"{job.program} has no preset {preset}")
    with_values(job.presets[preset](), {path: value for path, value in given.items() if "." in path})


def _parse_sweep(arguments: Sequence[str]) -> None:
    job, rest = sweep.job_of(arguments)
    own, others = sweep.split(rest, job)
    sweep.settings_of(own)
    if job is None:
        pretrain.parse_given(others)


def all_flags() -> set[str]:
    """Names of the flags of all commands, and of those that turn a switch off."""
    jobs = [*pretrain.run_flags(), *(flag for job in _TRANSFER.values() for flag in transfer_flags(job))]
    plain = [name for module in _PLAIN.values() for name in docs_of(module.Arguments)]
    plain += [*docs_of(sweep.SweepConfig), "task"]
    names = {f"--{name.replace('_', '-')}" for name in plain}
    return {flag.name for flag in jobs} | {flag.off_name for flag in jobs} | names
