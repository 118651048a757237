"""A head that is lost with all its nodes: another one goes on with what lies on S3."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import s3fs

from moco_ray import pretrain
from moco_ray.config import to_json
from tests.cluster.heads import head, wait_until
from tests.runs import digests, losses, tiny_config
from tests.s3 import s3_server

NUM_STEPS = 120


@pytest.mark.slow
def test_the_same_job_on_another_head_goes_on_from_s3(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, "s3://moco/runs", num_workers=1, max_steps=NUM_STEPS, checkpoint_every_steps=10)
    config = replace(config, optim=replace(config.optim, epochs=15, lr=0.01))
    (tmp_path / "config.json").write_text(to_json(config))
    command = ("--preset", str(tmp_path / "config.json"), "--run.name", "run")
    with ExitStack() as stack:
        server = stack.enter_context(s3_server(tmp_path / "s3"))
        fs = s3fs.S3FileSystem(key=server.key, secret=server.secret, endpoint_url=server.endpoint)
        with head(tmp_path / "first", **server.environment) as first:
            submitted = first.submit("job", *command, options=("--no-wait",))
            assert submitted.returncode == 0, submitted.stdout

            def has_committed() -> bool:
                fs.invalidate_cache()
                return bool(fs.glob("moco/runs/run/checkpoint_*/COMMITTED"))

            wait_until(has_committed, lambda: first.log("job"), timeout_s=300)
        assert not fs.exists("moco/runs/run/metrics.jsonl")  # kill -9 of everything, in the middle
        with head(tmp_path / "second", **server.environment) as second:
            again = second.submit("job", *command)
        assert again.returncode == 0, again.stdout
        assert re.search(rf"training from step [1-9]\d* of {NUM_STEPS}", again.stdout), again.stdout
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "metrics.jsonl").write_bytes(fs.cat_file("moco/runs/run/metrics.jsonl"))
    alone = replace(tiny_config(images, tmp_path, max_steps=NUM_STEPS, name="alone"), optim=config.optim)
    pretrain(alone, say=lambda line: None)
    assert digests(tmp_path / "run") == digests(tmp_path / "alone")
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "alone"), rtol=0, atol=1e-9)
