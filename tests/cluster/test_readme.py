"""The README's way to a cluster and a job on it, from a shell that has nothing, with a folder of images instead of a bucket."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.bare import ROOT, bare_environment, run_bare
from tests.cluster.heads import free_ports, kill_ray, wait_until
from tests.test_documents import TINY, blocks


@pytest.mark.slow
def test_the_readmes_commands_lead_to_a_finished_job(images: Path, tmp_path: Path) -> None:
    block = next(text for document, text in blocks("") if document == "README.md" and "ray start" in text)
    lines = [re.sub(r"\s+#.*$", "", line) for line in block.replace("\\\n", " ").splitlines()]
    exported, token, start, submit = lines
    home = tmp_path / "home"
    temp = Path(tempfile.mkdtemp(prefix="moco", dir="/tmp"))  # sockets below it have room for 107 letters in all
    port, dashboard, client, agent, metrics = free_ports(5)
    exported = exported.replace("8265", str(dashboard))
    # Only so that other heads may run on this machine beside it, and it can be ended without ending them.
    start += f" --block --port={port} --dashboard-port={dashboard} --ray-client-server-port={client} --temp-dir={temp}"
    start += f" --dashboard-agent-listen-port={agent} --metrics-export-port={metrics} --min-worker-port=0 --max-worker-port=0"
    submit = submit.replace("s3://bucket/images", str(images)).replace("s3://bucket/runs", str(tmp_path / "runs"))

    made = run_bare(f"{exported}; {token}", home)
    assert made.returncode == 0 and (home / ".ray/auth_token").is_file(), made.stdout
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(
            ["bash", "-c", f"{exported}; exec {start}"],
            env=bare_environment(home),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: head.poll() is not None or run_bare(f"{exported}; ray job list", home).returncode == 0,
            lambda: (tmp_path / "head.log").read_text(),
        )
        done = run_bare(f"{exported}; {submit} {TINY}", home, folder=ROOT)
        assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout[-4000:]
        assert (tmp_path / "runs/moco-v2/encoder.safetensors").is_file()
    finally:
        kill_ray(head, temp)
        shutil.rmtree(temp, ignore_errors=True)
