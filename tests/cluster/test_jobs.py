"""Submitted jobs: real `ray job` commands, with a token, against a real head that the commands of docs/cluster.md have started.

From a shell that has nothing but those commands, with folders instead of a bucket.
"""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moco_ray import pretrain
from moco_ray.config import to_json
from tests.bare import bare_environment, run_bare
from tests.cluster.deployed import REPOSITORY
from tests.cluster.heads import PORTS, Head, free_ports, started, wait_until
from tests.cluster.spot import SCRIPT
from tests.docs.pages import blocks
from tests.runs import digests, losses, metrics, tiny_config
from tests.test_documents import TINY

pytestmark = pytest.mark.slow

NUM_STEPS = 120  # takes some 15 seconds: fewer would be over before the job can be stopped


PAGE = next(text for document, text in blocks("") if document == "cluster.md" and "ray start" in text)
EXPORTED, TOKEN, START, SUBMIT = (re.sub(r"\s+#.*$", "", line) for line in PAGE.replace("\\\n", " ").splitlines())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home, ports = tmp_path_factory.mktemp("home"), free_ports(len(PORTS))
    exported = EXPORTED.replace("8265", str(ports[PORTS.index("dashboard-port")]))
    made = run_bare(f"{exported}; {TOKEN}", home)
    assert made.returncode == 0 and (home / ".ray/auth_token").is_file(), made.stdout
    variables = dict(pair.split("=", 1) for pair in exported.removeprefix("export ").split())
    start = f"{START} --num-cpus=2"  # however many this machine has
    with started(start, ports, home / "head.log", bare_environment(home, **variables)) as running:
        yield running


def test_the_documents_commands_lead_to_a_finished_job(cluster: Head, images: Path, tmp_path: Path) -> None:
    submit = SUBMIT.replace("s3://bucket/images", str(images)).replace("s3://bucket/runs", str(tmp_path / "runs"))
    command = ["bash", "-c", f"{submit} {TINY}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=cluster.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout[-4000:] + done.stderr
    assert (tmp_path / "runs/moco-v2/encoder.safetensors").is_file()


def test_stopped_job_goes_on_when_submitted_again(cluster: Head, images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, num_workers=1, max_steps=NUM_STEPS, checkpoint_every_steps=10)
    config = replace(config, optim=replace(config.optim, epochs=15, lr=0.01))
    preset, run = tmp_path / "config.json", tmp_path / "run"
    preset.write_text(to_json(config))
    command = ("--preset", str(preset), "--run.name", "run")

    submitted = cluster.submit("stopped", *command, options=("--no-wait",))
    assert submitted.returncode == 0, submitted.stdout
    wait_until(lambda: any(run.glob("checkpoint_*/COMMITTED")), lambda: cluster.log("stopped"), timeout_s=300)
    cluster.ray("job", "stop", "stopped")

    log = cluster.log("stopped")
    assert cluster.status("stopped") == "STOPPED", log
    assert "stopped; the command at the top resumes this run" in log, log
    assert f"to resume it: ray job submit --working-dir . -- python jobs/pretrain.py --preset {preset}" in log, log
    assert not json.loads((run / "lease.json").read_text())["owner"] and not (run / "encoder.safetensors").exists()
    assert any(run.glob("checkpoint_*/COMMITTED"))

    again = cluster.submit("resumed", *command)
    assert again.returncode == 0, again.stdout
    for line in ("this run exists: going on with it", f"done: {NUM_STEPS} steps", "succeeded"):
        assert line in again.stdout, again.stdout
    assert re.search(rf"training from step [1-9]\d* of {NUM_STEPS}", again.stdout), again.stdout

    alone = tiny_config(images, tmp_path, num_workers=0, max_steps=NUM_STEPS, name="alone")
    pretrain(replace(alone, optim=config.optim), say=lambda line: None)
    assert [line["step"] for line in metrics(run)] == list(range(NUM_STEPS))
    assert digests(run) == digests(tmp_path / "alone")
    np.testing.assert_allclose(losses(run), losses(tmp_path / "alone"), rtol=0, atol=1e-9)


def test_only_code_is_uploaded_and_results_must_outlive_it(cluster: Head, images: Path, tmp_path: Path) -> None:
    ignored = REPOSITORY / "runs" / f"result-{uuid.uuid4().hex}"
    ignored.parent.mkdir(exist_ok=True)
    ignored.write_bytes(bytes(1000))
    try:
        relative = cluster.submit("relative-runs", "--preset", "smoke", "--data.uri", str(images))
    finally:
        ignored.unlink()
    assert relative.returncode == 1 and cluster.status("relative-runs") == "FAILED"
    text = " ".join(relative.stdout.replace("│", " ").split())
    assert "run.storage-path 'runs' is relative, and a submitted job runs in a temporary copy" in text
    assert "--run.storage-path s3://bucket/runs" in text and "Traceback" not in text

    packages = [*cluster.temp.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")]
    assert packages  # of each state that the folder was submitted in
    for unpacked in packages:
        assert (unpacked / "jobs" / "pretrain.py").is_file() and not (unpacked / ".venv").exists()
        assert not any(unpacked.rglob(ignored.name))
        assert sum(path.stat().st_size for path in unpacked.rglob("*")) < 10e6


def test_relative_images_are_refused(cluster: Head, tmp_path: Path) -> None:
    submitted = cluster.submit("relative-data", "--data.uri", "tests", "--run.storage-path", str(tmp_path))
    assert submitted.returncode == 1 and cluster.status("relative-data") == "FAILED"
    text = " ".join(submitted.stdout.replace("│", " ").split())
    assert "data.uri 'tests' is relative" in text and "--data.uri s3://bucket/images" in text


def test_without_the_token_nothing_is_accepted(cluster: Head, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    for mode, reason in (("disabled", "Missing authentication token"), ("token", "Invalid authentication token")):
        access = {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN_PATH": str(wrong)}
        refused = cluster.ray("job", "submit", "--submission-id", mode, "--", "true", **access)
        assert refused.returncode == 1 and reason in refused.stdout, refused.stdout


def test_a_submitted_sweep_runs_its_trials_with_the_uploaded_code(cluster: Head, images: Path, tmp_path: Path) -> None:
    flags = ["--preset", "smoke", "--data.uri", str(images), "--run.storage-path", str(tmp_path), "--run.name", "sweep"]
    flags += ["--run.num-workers", "1", "--num-samples", "2", "--search", "tpe"]
    options = ("--submission-id", "sweep", "--working-dir", ".")
    submitted = cluster.ray("job", "submit", *options, "--", "python", "tune/sweep.py", *flags, timeout_s=550)
    log = submitted.stdout
    assert submitted.returncode == 0 and cluster.status("sweep") == "SUCCEEDED", log
    assert "1 trial at once: each trains with 1 x 1 CPU and leaves 1 CPU for its data" in log
    assert "done: 2 finished" in log and "--optim.lr" in log, log
    for trial in ("trial_0000", "trial_0001"):
        assert (tmp_path / "sweep" / trial / "encoder.safetensors").is_file()
        assert "connecting to Ray at" in (tmp_path / "sweep" / trial / "log.txt").read_text()


def test_the_node_that_spot_notice_runs_on_is_drained(cluster: Head) -> None:
    """The last test of this file: nothing may start on the only node afterwards."""

    def run(*arguments: str) -> str:
        command = [str(cluster.bin / "python"), *arguments]
        done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    address = f"127.0.0.1:{cluster.port}"
    told = re.search(r"node (\w+) goes in 1 s: draining it", run(str(SCRIPT), address, "--now", "1"))
    ask = "import sys; from ray._raylet import GcsClient; print(*GcsClient(address=sys.argv[1]).get_draining_nodes())"
    assert told and run("-c", ask, address).split() == [told[1]]
