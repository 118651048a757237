"""README and docs: every command that needs neither a cluster in a cloud nor hours is run, as it stands there.

What would take hours is shortened by flags that are put behind it. Commands of other pages, which differ from those in
their arguments only, are read by the programs' own parsers. A command that no rule here knows fails a test, so that nothing
new is documented without being tried.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from moco_ray.config.programs import DOORS
from moco_ray.data.sample import write_digits
from tests.bare import ROOT, run_bare
from tests.boxed import write_shapes
from tests.docs.pages import (
    DOCUMENTS,
    all_flags,
    benchmark_flags,
    blocks,
    check_command,
    commands,
    commands_of,
    fenced,
    inline,
    is_drawing,
    is_of_this_program,
    name_of,
    odd_fences,
    prose,
    targets,
    text_of,
)
from tests.s3 import S3Server, s3_server

# First words of commands that are not run here, and why not. `_is_elsewhere` looks at the others.
ELSEWHERE = {
    "make": "the demo is below, tests/docs/test_site.py makes the docs, and `make test` is what runs this",
    "aws": "needs an account",
    "kubectl": "needs a Kubernetes cluster; tests/cluster/test_kuberay.py checks the file",
    "cp": "tests/cluster/test_gauges.py checks the file",
    "grafana-server": "serves until it is stopped",
    "export": "tests/cluster/test_jobs.py",
    "ray": "tests/cluster/test_jobs.py, and a cloud",
    "pip": "needs a package index",
    "uv": "needs a package index",
    "source": "a shell's own",
    "moco-ray --print-completion": "tests/cli/test_completion.py",
    "tensorboard": "serves until it is stopped; tests/worker reads its files",
    "mkdir": "a shell's own",
}
# Flags of other programs, which pages name without the program.
_FLAGS_OF_OTHERS = {"--submission-id", "--runtime-env", "--no-wait", "--extra"}
_LONGEST_COMMAND = 92  # characters of a line that are shown without scrolling
TINY = (
    "--optim.global-batch-size 8 --optim.bn-groups 2 --views.crop-px 32 --model.arch tiny_resnet --model.stem imagenet "
    "--eval.max-queries 8 --eval.max-bank 16 --run.max-steps 2"
)
TINY_FINETUNING = (
    "--optim.global-batch-size 8 --optim.bn-groups 2 --model.arch tiny_resnet --views.crop-px 32 --run.max-steps 2 "
    "--run.num-workers 0"
)
SHORTER = {
    "jobs/pretrain.py": TINY,
    "tune/sweep.py --task finetune": f"{TINY_FINETUNING} --num-samples 1",
    "tune/sweep.py": f"{TINY} --num-samples 1",
    "benchmarks.comparisons": "--steps 2",
    "deploy/check.py": "",
    "jobs/export.py": "",
    "jobs/runs.py": "",
    "jobs/evaluate.py": "",
    "jobs/embed.py": "",
    "jobs/weights.py": "",
    "jobs/linear_probe.py": "--optim.global-batch-size 8 --optim.bn-groups 2 --run.max-steps 2 --run.num-workers 0",
    "jobs/finetune.py": TINY_FINETUNING,
    "jobs/detect.py": "--optim.global-batch-size 4 --optim.bn-groups 2 --run.max-steps 2 --run.num-workers 0",
}
IN_ORDER = ("encoders.md", "evaluate.md")  # each of their blocks builds on those before, in a shell for each command
IN_ONE_PROCESS = {  # likewise, one process for the whole page; with what stands there instead, to be short
    "tutorial.md": {'write_patches(Path("photos"))': 'write_patches(Path("photos")); few(Path("photos"))'},
    "choosing.md": {
        '"resnet50", pretrained=True': '"test_resnet", pretrained=False',
        "--fast --baselines": "--fast --views.crop-px 32",
    },
    "jobs.md": {  # whose Python is the README's
        "--checkpoint 743": "--checkpoint 2",
        "--data.label-fraction 0.01": "--data.label-fraction 0.5",
        "--fast --baselines": "--fast",
        "result = moco_ray.pretrain(config)": "",
    },
}
SKIPPED = ("s3://", "--serve", "jobs/demo.py")  # on a page in one process; others have them
ALONE = (
    "README.md",
    "cloud.md",
    "comparisons.md",
    "performance.md",
    "sweeps.md",
)  # each of their commands is run by itself


def shorter(command: str) -> str | None:
    """The flags to put behind a command that is run here; None for one that is not."""
    if not command.startswith("python "):
        return None
    return next((flags for part, flags in SHORTER.items() if part in command), None)


RUNNABLE = [(document, command) for document, command in commands() if shorter(command) is not None]


def test_every_command_of_the_documents_is_run_or_parsed_or_listed_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(RUNNABLE) > 5
    unknown = []
    for document, command in commands():
        is_run = document in (*IN_ORDER, *IN_ONE_PROCESS, *ALONE) and shorter(command) is not None
        if is_run or is_elsewhere(command):
            continue
        unknown += _problems(document, command, monkeypatch)
    assert not unknown, "neither run nor right, nor listed with a reason:\n" + "\n".join(unknown)


def is_elsewhere(command: str) -> bool:
    """Whether a command is one of those that are not run here, and has the words that it must have."""
    words = command.removesuffix(" &&").split()
    if not any(words[: len(key.split())] == key.split() for key in ELSEWHERE):
        return False
    checks = {
        "make": lambda: set(words[1:]) <= targets() and len(words) > 1,
        "export": lambda: len(words) > 1 and all(re.match(r"[A-Z_]+=", word) for word in words[1:]),
        "ray": lambda: words[1:2] and words[1] in _RAYS,
        "moco-ray": lambda: words[2] in ("bash", "fish", "zsh"),
        "source": lambda: words[1:] == [".venv/bin/activate"],
    }
    return bool(checks.get(words[0], lambda: True)())


_RAYS = ("dashboard", "down", "exec", "get-auth-token", "job", "metrics", "start", "status", "stop", "up")


@pytest.mark.parametrize(
    "command",
    [
        "make dosc",
        "make",
        "exporting nonsense",
        "export nonsense",
        "ray frobnicate",
        "moco-ray --print-completion powershell",
        "python -m benchmarks.gpu --nonsense",
        "python -m benchmarks.nothing",
        "python jobs/embed.py runs/first --output vectors --duplicatess",
        "python jobs/rums.py",
        "frobnicate",
    ],
)
def test_a_wrong_command_is_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_elsewhere(command)
    assert _problems("page", command, monkeypatch)


def test_every_block_is_read_by_something_here() -> None:
    odd = [f"{name_of(page)}: {line}" for page in DOCUMENTS for line in odd_fences(page.read_text())]
    assert not odd, odd
    for fence in ("```bash", "~~~", "    ```console", "> ```", "```{.python}"):
        assert odd_fences(f"{fence}\nmake\n```\n") == [fence]
    assert fenced("1. so\n\n    ```\n    make nothing\n    ```\n") == [("", "make nothing\n")]
    hidden = [text for _, text in blocks("text") if any(is_of_this_program(line) for line in text.splitlines())]
    assert not hidden, hidden


def test_no_command_has_to_be_scrolled() -> None:
    lines = [
        (document, re.sub(r"\s+#.*$", "", line))
        for document, text in blocks("")
        if not is_drawing(text)
        for line in text.splitlines()
    ]
    assert [(document, line) for document, line in lines if len(line) > _LONGEST_COMMAND] == []


def test_a_command_inside_a_sentence_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [page for page in DOCUMENTS if page.name != "extending.md"]  # whose method only its own test has
    found = [(name_of(page), code) for page in pages for code in inline(page) if is_of_this_program(code)]
    assert len(found) > 20
    wrong = [problem for document, command in found for problem in _problems(document, command, monkeypatch)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("--serves", ["--serves"]),
        ("jobs/rums.py", ["jobs/rums.py"]),
        ("jobs/embed.py --duplicatess", ["--duplicatess"]),
        ("make nothing", ["make nothing"]),
        ("jobs/runs.py --serve", []),
        ("--eval.jsonl", []),
        ("helm install --version 1", []),
    ],
)
def test_a_wrong_name_inside_a_sentence_is_found(code: str, wrong: list[str]) -> None:
    assert _wrong_names(code) == wrong


def _wrong_names(code: str) -> list[str]:
    """Of inline code what names a flag, a door or a target that is none."""
    wrong = [door for door in re.findall(r"(?:jobs|tune)/\w+\.py", code) if door not in DOORS.values()]
    words = code.split()
    if words[0] == "make" and not set(words[1:]) <= targets():
        wrong.append(code)
    if words[0].startswith(("--", "jobs/", "tune/")):
        known = _known_flags()
        wrong += [flag for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code) if flag.replace("_", "-") not in known]
    return wrong


@cache
def _known_flags() -> set[str]:
    benchmarks = benchmark_flags(*(ROOT / "benchmarks").rglob("*.py"))
    return all_flags() | benchmarks | _FLAGS_OF_OTHERS | _FILES | {"--help", "--version", "--list-presets"}


def _problems(document: str, command: str, patch: pytest.MonkeyPatch) -> list[str]:
    try:
        if not is_of_this_program(command):
            raise ValueError("no rule here knows it")
        check_command(command, patch)
    except (ValueError, SystemExit, AssertionError) as error:
        return [f"{document}: {command}: {error}"]
    return []


def test_every_flag_and_setting_that_is_named_is_there() -> None:
    known = all_flags()
    assert "--optim.lr" in known and "--method.no-symmetric" in known and "--duplicates" in known
    groups = {flag[2:].partition(".")[0] for flag in known if "." in flag}
    wrong = [f"{name_of(page)}: {name}" for page in DOCUMENTS for code in inline(page) for name in _wrong_names(code)]
    for page in DOCUMENTS:
        for code in inline(page):
            named = re.findall(r"(?<![\w-])--[a-z]+\.[\w-]+", code)
            named += [
                f"--{word}" for word in re.findall(r"^[a-z]+\.[a-z][\w-]*$", code) if word.partition(".")[0] in groups
            ]
            wrong += [f"{name_of(page)}: {flag}" for flag in named if flag.replace("_", "-") not in known | _FILES]
    assert not wrong, wrong


_FILES = {"--eval.jsonl", "--views.png"}  # what looks like a setting and is none


def test_every_piece_of_python_is_run() -> None:
    """The README's are below, those of pages in order with them, and tests/test_extending.py has its own."""
    of_readme = [text for document, text in blocks("python") if document == "README.md"]
    elsewhere = [
        document
        for document, text in blocks("python")
        if document not in ("README.md", "extending.md", *IN_ORDER, *IN_ONE_PROCESS) and text not in of_readme
    ]
    assert not elsewhere, f"Python that nothing runs, in {elsewhere}"
    for document, text in blocks("json"):
        assert json.loads(text), document


def test_every_link_of_the_documents_leads_to_a_file_of_the_repository() -> None:
    broken = []
    for page in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose(page)):
            if not target.startswith("http") and not (page.parent / target).exists():
                broken.append(f"{name_of(page)}: {target}")
    assert not broken, broken


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A bucket of the documents' name, with images."""
    import s3fs

    with s3_server(tmp_path_factory.mktemp("s3"), bucket="bucket") as started:
        fs = s3fs.S3FileSystem(key=started.key, secret=started.secret, endpoint_url=started.endpoint)
        for path in _some_images(tmp_path_factory.mktemp("digits")):
            fs.pipe_file(f"bucket/images/{path.parent.name}/{path.name}", path.read_bytes())
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the repository's, with the images that the documents speak of."""
    folder = tmp_path_factory.mktemp("repository")
    for name in (
        "jobs",
        "tune",
        "benchmarks",
        "deploy",
        "moco_ray",
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
        ".venv",
    ):
        (folder / name).symlink_to(ROOT / name)
    filled_in = (ROOT / "cluster.yaml").read_text().replace("<SECURITY-GROUP-ID>", "sg-0123456789abcdef0")
    (folder / "cluster.yaml").write_text(filled_in)
    for target, number in (("images", 16), ("cifar10/train", 80), ("cifar10/test", 16)):
        for path in _some_images(tmp_path_factory.mktemp("digits"), number):
            (folder / target / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / target / path.parent.name)
    write_shapes(folder / "boxed", 16, 4)
    return folder


def _some_images(scratch: Path, each: int = 16) -> list[Path]:
    """Digits of four classes."""
    digits = write_digits(scratch)
    return [path for label in "0123" for path in sorted((digits / "train" / label).iterdir())[:each]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [command for name, command in RUNNABLE if name in ALONE], ids=lambda command: command[:60]
)
def test_a_command_of_the_documents_works_in_a_bare_shell(
    command: str, folder: Path, server: S3Server, tmp_path: Path
) -> None:
    line = f"{command} {shorter(command)}".replace("/path/to/images", str(folder / "images"))
    line = re.sub("grid:[^']*", "grid:0.2,0.5", line)
    if "deploy/" in line:  # which asks for the token that the document makes before
        line = f"export RAY_AUTH_MODE=token; ray get-auth-token --generate > /dev/null; {line}"
    elif not any(word in line for word in ("benchmarks.", "jobs/runs.py", "--run.storage-path")):
        line += f" --run.storage-path {tmp_path}/runs"
    keys = server.environment if "s3://" in command else {}
    done = run_bare(line, tmp_path / "home", folder=folder, **keys)
    missed_goal = done.returncode == 1 and "benchmarks." in line  # of two steps nothing is learned
    assert done.returncode == 0 or missed_goal, f"{line}\n{done.stdout[-4000:]}"
    assert "Traceback" not in done.stdout, done.stdout


@pytest.mark.slow
def test_the_demo_learns_in_a_bare_shell(folder: Path, tmp_path: Path) -> None:
    if not (folder / ".venv/.installed").is_file():
        pytest.skip("the demo would install first: run `make install`")
    done = run_bare("make demo", tmp_path / "home", folder=folder, timeout_s=500)
    found = re.search(r"it never saw: ([\d.]+) % before, ([\d.]+) ± [\d.]+ % after", done.stdout)
    assert done.returncode == 0 and found, done.stdout[-4000:]
    assert float(found[2]) > float(found[1]) + 10, done.stdout[-4000:]


@pytest.mark.slow
def test_the_python_of_the_readme_works_in_a_bare_shell(folder: Path, tmp_path: Path) -> None:
    use, train = (text for document, text in blocks("python") if document == "README.md")
    tiny = (
        "config = replace(config, optim=replace(config.optim, global_batch_size=8, bn_groups=2),\n"
        f"    run=replace(config.run, max_steps=2, num_workers=1, storage_path={str(tmp_path)!r}))\n"
    )
    train = train.replace("/path/to/images", str(folder / "images")).replace("result =", f"{tiny}result =")
    # A user's own program may have imported Ray, for reasons of its own.
    (tmp_path / "train.py").write_text(f"import ray\n{train}print('folder', result.folder)\n")
    done = run_bare(f"python {tmp_path}/train.py", tmp_path / "home", folder=folder)
    assert done.returncode == 0, done.stdout[-4000:]
    run = re.findall(r"^folder (.*)$", done.stdout, flags=re.MULTILINE)[-1]

    use = re.sub(r'load_encoder\(".*?"\)', f"load_encoder({run!r})", use)
    setup = "import torch\nimages = torch.zeros(2, 3, 96, 96)\n"
    (tmp_path / "use.py").write_text(f"{setup}{use}print('shape', tuple(features.shape))\n")
    done = run_bare(f"python {tmp_path}/use.py", tmp_path / "home", folder=folder)
    assert "shape (2, 512)" in done.stdout, done.stdout[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", IN_ORDER)
def test_a_page_works_from_top_to_bottom(page: str, folder: Path, tmp_path: Path) -> None:
    programs = []
    for language, block in fenced(text_of(page)):
        if language == "python":
            programs.append(f"python - <<'END'\n{block}END")
        else:
            programs += [f"{line} {shorter(line)}" for line in commands_of(block)]
    assert len(programs) >= 5
    _forget_other_pages(folder)
    for program in programs:
        line = re.sub(r"(pretrain.py.*)--run.max-steps", r"\1--run.num-workers 0 --run.max-steps", program)
        done = run_bare(line, tmp_path / "home", folder=folder)
        assert done.returncode == 0, f"{line}\n{done.stdout[-4000:]}"


def _forget_other_pages(folder: Path) -> None:
    """Which have runs and vectors of the same names."""
    for name in ("runs", "vectors"):
        shutil.rmtree(folder / name, ignore_errors=True)


_ONE_PROCESS = """
import runpy, shlex, sys
from pathlib import Path

def few(photos):
    for folder in photos.glob("*/*"):
        for path in sorted(folder.iterdir())[4:]:
            path.unlink()

def job(line):
    print("$", line, flush=True)
    sys.argv = shlex.split(line)[1:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"{line} ended with {end.code}"

"""


@pytest.mark.slow
@pytest.mark.parametrize("page", IN_ONE_PROCESS)
def test_a_page_works_from_top_to_bottom_in_one_process(page: str, folder: Path, tmp_path: Path) -> None:
    """Which imports what all its commands need once: their shells are those of the pages above."""
    parts = []
    for language, block in fenced(text_of(page)):
        if language == "python":
            parts.append(block)
        elif language == "":
            parts += [
                f"job({f'{command} {shorter(command)}'!r})\n"
                for command in commands_of(block)
                if not is_elsewhere(command) and not any(word in command for word in SKIPPED)
            ]
    program = _ONE_PROCESS + "".join(parts)
    for was, now in IN_ONE_PROCESS[page].items():
        assert was in program, f"{page} has no {was} any more"
        program = program.replace(was, now)
    program = re.sub(r"--model.arch resnet50\b", "--model.arch tiny_resnet", program)
    program = re.sub(r"(pretrain.py[^\n]*)--run.max-steps", r"\1--run.num-workers 0 --run.max-steps", program)
    _forget_other_pages(folder)
    (folder / "page.py").write_text(program)
    done = run_bare("python page.py", tmp_path / "home", folder=folder, PYTHONPATH=".", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout[-6000:]
    assert done.stdout.count("\n$ ") + done.stdout.startswith("$ ") >= 3, done.stdout
    if page == "tutorial.md":
        told = text_of("run-folder.md")
        left = {path.name for run in ("photos", "tuned") for path in (folder / "runs" / run).iterdir()}
        assert len(left) > 12
        # As `name`, `name/` or `name/…`; checkpoints by the beginning of their names.
        untold = [name for name in left if not re.search(rf"`{re.sub('_[0-9]+$', '_', re.escape(name))}[`/<]", told)]
        assert not untold, f"run-folder.md does not tell of {untold}"
