"""README and docs: every command that needs neither a cluster in a cloud nor hours is run, as it stands there.

What would take hours is shortened by flags that are put behind it. A command that no rule here knows fails a test, so that
nothing new is documented without being run.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from moco_ray.data.sample import write_digits
from tests.bare import ROOT, run_bare
from tests.boxed import write_shapes
from tests.s3 import S3Server, s3_server

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# First words of commands that are not run here, and why not.
ELSEWHERE = {
    "make": "the demo is below, and `make test` is what runs this",
    "aws": "needs an account",
    "kubectl": "needs a Kubernetes cluster; tests/cluster/test_kuberay.py checks the file",
    "export": "tests/cluster/test_jobs.py",
    "ray": "tests/cluster/test_jobs.py, and a cloud",
    "pip": "needs a package index",
    "uv": "needs a package index",
    "python -m benchmarks.gpu": "needs a GPU; tests/benchmarks/test_gpu.py runs it in small",
}
TINY = (
    "--optim.global-batch-size 8 --optim.bn-groups 2 --views.crop-px 32 --model.arch tiny_resnet --model.stem imagenet "
    "--eval.max-queries 8 --eval.max-bank 16 --run.max-steps 2"
)
SHORTER = {
    "jobs/pretrain.py": TINY,
    "tune/sweep.py": f"{TINY} --num-samples 1",
    "benchmarks.comparisons": "--steps 2",
    "deploy/check.py": "",
    "jobs/export.py": "",
    "jobs/runs.py": "",
    "jobs/evaluate.py": "",
    "jobs/embed.py": "",
    "jobs/weights.py": "",
    "jobs/linear_probe.py": "--optim.global-batch-size 8 --optim.bn-groups 2 --run.max-steps 2 --run.num-workers 0",
    "jobs/finetune.py": "--optim.global-batch-size 8 --optim.bn-groups 2 --model.arch tiny_resnet --views.crop-px 32 "
    "--run.max-steps 2 --run.num-workers 0",
    "jobs/detect.py": "--optim.global-batch-size 4 --optim.bn-groups 2 --run.max-steps 2 --run.num-workers 0",
}
IN_ORDER = ("encoders.md", "evaluate.md")  # each of their blocks builds on those before


def blocks(language: str) -> list[tuple[str, str]]:
    """(Document, text) of every fenced block of a language."""
    found = []
    for document in DOCUMENTS:
        for marked, text in re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), flags=re.DOTALL | re.MULTILINE):
            if marked == language:
                found.append((document.name, text))
    return found


def commands() -> list[tuple[str, str]]:
    """(Document, command) of every line of the blocks that hold commands, continued lines joined, comments left out."""
    found = []
    for document, text in blocks(""):
        if re.search("[│├└►]", text):  # a drawing
            continue
        for line in text.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s)#.*$", "", line)
            command = " ".join(re.sub(r"\[any flag.*?\]", "", command).split())
            if command:
                found.append((document, command))
    return found


def shorter(command: str) -> str | None:
    """The flags to put behind a command that is run here; None for one that is not."""
    if not command.startswith("python "):
        return None
    return next((flags for part, flags in SHORTER.items() if part in command), None)


RUNNABLE = [(document, command) for document, command in commands() if shorter(command) is not None]


def test_every_command_of_the_documents_is_run_or_listed_with_a_reason() -> None:
    assert len(RUNNABLE) > 5
    unknown = [
        f"{document}: {command}"
        for document, command in commands()
        if shorter(command) is None and not command.startswith(tuple(ELSEWHERE))
    ]
    assert not unknown, f"neither run nor listed with a reason: {unknown}"


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
    "command", [command for name, command in RUNNABLE if name not in IN_ORDER], ids=lambda command: command[:60]
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
    text = (ROOT / "docs" / page).read_text()
    programs = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        if language == "python":
            programs.append(f"python - <<'END'\n{block}END")
        else:
            programs += [f"{line} {shorter(line)}" for line in block.splitlines()]
    assert len(programs) >= 5
    for program in programs:
        line = re.sub(r"(pretrain.py.*)--run.max-steps", r"\1--run.num-workers 0 --run.max-steps", program)
        done = run_bare(line, tmp_path / "home", folder=folder)
        assert done.returncode == 0, f"{line}\n{done.stdout[-4000:]}"
