"""The chaos run: nodes join, leave and die, processes are killed, the whole cluster is lost, and the loss curve does not notice."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from moco_ray.config import Config, to_json
from moco_ray.driver.run import pretrain
from tests.cluster.nodes import Driver, add_node, cluster, kill_cluster, kill_node, processes_of
from tests.cluster.spot import metadata, watch
from tests.faults import Fault, FaultyProxy
from tests.runs import digests, losses, metrics, tiny_config
from tests.s3 import S3Server, s3_server

_TRAINER: dict[str, Any] = {"num_cpus": 1, "resources": {"trainer": 1}}
_STEP = re.compile(r'"message": "step (\d+)".*"world_rank": 0,.*"timestamp_ns": (\d+)')


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_chaos_leaves_the_curve_as_it_was(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with s3_server(tmp_path / "s3") as server, ExitStack() as clusters:
        _upload(images, server)
        config = _config()
        (tmp_path / "config.json").write_text(to_json(config))
        chaos = Chaos(clusters, server, tmp_path)
        try:
            chaos.go_through()
            reached = chaos.resume_to_the_end()
        finally:
            with capsys.disabled():
                print(f"\n{chaos.table()}")
            chaos.stop()
        for name in ("metrics.jsonl", "interruptions.jsonl"):
            (tmp_path / name).write_bytes(_s3(server).cat_file(f"moco/runs/chaos/{name}"))
        alone = replace(config.run, num_workers=0, min_workers=None, max_workers=None, worker_resources=None)
        alone = replace(alone, storage_path=str(tmp_path), name="alone", max_steps=reached)
        quiet = replace(config, run=alone, data=replace(config.data, storage_options=_options(server, server.endpoint)))
        folder = Path(pretrain(quiet, say=lambda line: None).folder)
    assert [line["step"] for line in metrics(tmp_path)] == list(range(reached))
    assert {line["world_size"] for line in metrics(tmp_path)} == {1, 2, 3}
    assert digests(tmp_path) == digests(folder)
    np.testing.assert_allclose(losses(tmp_path), losses(folder), rtol=1e-9)
    done = [step for _, step in chaos.steps()]
    said = [json.loads(line)["steps_redone"] for line in (tmp_path / "interruptions.jsonl").read_text().splitlines()]
    lost = chaos.rows[-1][
        2
    ]  # with the cluster goes what it knew of the newest step: the lease's word is some seconds old
    assert sum(said[:-1]) == pytest.approx(len(done) - len(set(done)) - lost, abs=len(said))
    assert 0 <= said[-1] <= lost + 1
    for line in (f"interrupted {len(said)} times: ", "8 BatchNorm groups make 1, 2, 3 useful"):
        assert line in chaos.driver.text()


def _config() -> Config:
    config = tiny_config("s3://moco/images", "s3://moco/runs", num_workers=None, checkpoint_every_s=8.0)
    run = replace(config.run, resize_every_s=20.0, worker_resources="trainer=1", min_workers=1, max_workers=3)
    return replace(config, run=run, optim=replace(config.optim, epochs=2000, global_batch_size=48, lr=0.02))


def _upload(images: Path, server: S3Server) -> None:
    """All images as one Parquet file with row groups of 32."""
    paths = sorted(images.rglob("*.png"))
    table = pa.table({"image": [path.read_bytes() for path in paths], "label": [path.parent.name for path in paths]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=32)
    _s3(server).pipe_file("moco/images/part-0.parquet", buffer.getvalue())


def _s3(server: S3Server) -> Any:
    return s3fs.S3FileSystem(
        key=server.key, secret=server.secret, endpoint_url=server.endpoint, use_listings_cache=False
    )


def _options(server: S3Server, endpoint: str) -> str:
    return json.dumps({"key": server.key, "secret": server.secret, "endpoint_url": endpoint})


class Chaos:
    """A run on a cluster, what is done to it, and what that costs."""

    def __init__(self, clusters: ExitStack, server: S3Server, folder: Path) -> None:
        self.clusters, self.server, self.folder = clusters, server, folder
        self.proxy = FaultyProxy(server.endpoint)  # checkpoints go through it
        self.arguments = ["--preset", str(folder / "config.json"), "--run.name", "chaos"]
        self.arguments += ["--data.storage-options", _options(server, server.endpoint)]
        self.arguments += ["--run.storage-options", _options(server, self.proxy.endpoint)]
        self.logs: list[Path] = []
        self.rows: list[tuple[str, float, int]] = []
        self.start_cluster()
        self.driver = self.give_command()

    def start_cluster(self) -> None:
        """A head, a node for data and a node for a worker."""
        self.nodes = self.clusters.enter_context(cluster())
        self.logs.append(Path(self.nodes.head_node.get_session_dir_path()) / "logs" / "train")
        add_node(self.nodes, num_cpus=2)
        add_node(self.nodes, **_TRAINER)

    def give_command(self, *more: str) -> Driver:
        """Always the same."""
        return Driver(self.nodes.address, self.folder / "job.log", [*self.arguments, *more])

    def steps(self) -> list[tuple[float, int]]:
        """(seconds since 1970, steps done) for every step of rank 0 of every group, from the workers' log files."""
        found = []
        for path in [path for logs in self.logs for path in logs.glob("ray-train-app-worker-*.log")]:
            lines = path.read_text(errors="replace").splitlines()
            found += [(int(m[2]) / 1e9, int(m[1])) for line in lines if (m := _STEP.search(line))]
        return sorted(found)

    def go_through(self) -> None:
        """Everything that can happen to a run, one thing after the other."""
        self.driver.wait_for_text(r"step [\d,]+/", 2)
        spare = add_node(self.nodes, num_cpus=1)
        joined: list[Any] = []
        self.happen("two nodes join: 1 -> 3 workers", lambda: joined.extend(self._join() for _ in range(2)), size=3)
        assert self.rows[-1][2] == 0, "growing redid steps"
        self._wait_for_commit()  # of steps that three workers did
        with self._spot_node(joined[1].node_id) as give_notice:
            self.happen("kill -9 a data node, blocks in flight", lambda: kill_node(spare))
            self.happen("kill -9 a node: 3 -> 2 workers", lambda: kill_node(joined[0]), size=2)
            self.happen("EC2 takes a node, 60 s notice: 2 -> 1", give_notice, size=1)
        assert self.rows[-1][2] == 0, "a drain that was announced redid steps"
        self.happen("kill -9 a worker", lambda: processes_of("RayTrainWorker")[0].kill(), size=1)
        self.proxy.faults.append(Fault(kind="hang", method="PUT", path=r"state\.pt"))
        self.driver.wait_for(lambda: self.proxy.broken["hang"] > 0)
        self.happen("kill -9 in the commit of a checkpoint", self._kill_in_commit, size=1)
        self._wait_for_commit()  # three failures without one would end the run
        self.happen("kill -9 the controller", lambda: processes_of("TrainController")[0].kill(), size=1)

    def resume_to_the_end(self) -> int:
        """Kill the driver, and then everything, and give the same command again; returns the steps of the run."""

        def again() -> None:
            self.driver.kill()
            self.driver = self.give_command()

        self.happen("kill -9 the driver, the same command again", again, size=1)
        self._wait_for_commit()
        last_step = max(step for _, step in self.steps()) + 60

        def elsewhere() -> None:
            self.driver.kill()
            kill_cluster(self.nodes)
            self.clusters.close()
            self.start_cluster()
            self.driver = self.give_command("--run.max-steps", str(last_step))

        self.happen("kill -9 the head and all nodes, another cluster", elsewhere, size=1)
        assert self.driver.end() == 0, self.driver.text()[-4000:]
        return last_step

    def happen(self, name: str, action: Callable[[], Any], size: int | None = None) -> None:
        """Do something, wait until new steps are done, and note what it cost.

        Args:
            name: The event.
            action: What to do.
            size: Workers of the group that goes on afterwards; None if the group is not to be interrupted.
        """
        count = self.driver.text().count("the interruption cost")
        at = time.time()
        action()
        if size is not None:
            self.driver.wait_for_text("the interruption cost", count + 1, 240)
            self.driver.wait_for_text(f"going on from step .* with {size} worker")
        newest = max(step for _, step in self.steps())  # workers outlive their controller or driver a moment
        self.driver.wait_for(lambda: any(step > newest + 2 for _, step in self.steps()), 240)
        seconds, redone, highest, last_s = 0.0, 0, -1, at
        for t, step in self.steps():
            if step > highest:
                seconds = max(seconds, t - last_s) if t > at else seconds
                highest, last_s = step, t
            elif t > at:
                redone += 1
        self.rows.append((name, seconds, redone))

    def table(self) -> str:
        """What everything cost."""
        lines = [f"{'event':<44} {'s to the next new step':>22} {'steps redone':>12}"]
        return "\n".join(lines + [f"{name:<44} {seconds:>22.1f} {redone:>12}" for name, seconds, redone in self.rows])

    def stop(self) -> None:
        """Kill what is left."""
        self.driver.stop()
        self.proxy.down()

    def _wait_for_commit(self) -> None:
        fs = _s3(self.server)
        before = len(fs.glob("moco/runs/chaos/metrics/*.jsonl"))
        self.driver.wait_for(lambda: len(fs.glob("moco/runs/chaos/metrics/*.jsonl")) > before)

    @contextmanager
    def _spot_node(self, node_id: str) -> Iterator[Callable[[], None]]:
        """Inside, deploy/spot_notice.py watches for a node, as on EC2; yields what gives the notice."""
        from ray._raylet import GcsClient

        values = {"instance-life-cycle": "spot"}
        with metadata(values) as ec2:
            watcher = watch(ec2, self.nodes.address, "--node-id", node_id)
            gcs = GcsClient(address=self.nodes.address)

            def give_notice() -> None:
                assert watcher.poll() is None and gcs.get_draining_nodes() == {}  # no notice yet: it goes on watching
                start, seen = datetime.now(UTC), {}
                end = start + timedelta(seconds=60)
                values["spot/instance-action"] = json.dumps(
                    {"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
                )
                while watcher.poll() is None:
                    seen |= gcs.get_draining_nodes()
                    time.sleep(0.1)
                taken_s = (datetime.now(UTC) - start).total_seconds()
                output, _ = watcher.communicate()
                assert watcher.returncode == 0 and f"node {node_id} goes in" in output, output
                (deadline_ms,) = seen.values()
                # The notice has whole seconds, and handing it on takes some time.
                assert -2 < deadline_ms / 1000 - end.timestamp() < min(taken_s, 10)

            yield give_notice

    def _join(self) -> Any:
        return add_node(self.nodes, **_TRAINER)

    def _kill_in_commit(self) -> None:
        processes_of("RayTrainWorker")[0].kill()
        self.proxy.faults.clear()
