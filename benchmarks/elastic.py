"""What a lost node and a checkpoint cost: python -m benchmarks.elastic [--json FILE] [--repeats N].

Real Ray nodes on this machine, a tiny network, a folder of digits; the figures are medians of the repetitions.

- node loss to the next committed step: kill -9 of a node with one of two workers, until a checkpoint with a step that
  no checkpoint had before is committed. Against the default run.checkpoint-every-s (120 s): a loss must cost no more than
  the work that it is set to risk.
- steps redone after it, against the steps that fit into the checkpoint interval of this run.
- stall by a checkpoint: what a step takes longer for each checkpoint, the background thread's share of the
  processor included; ResNet-18 and 65,536 keys, 170 MB. Against the default interval; goal 1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import at_most, finish
from moco_ray.config import Config, to_json
from moco_ray.config.data import DataConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.run import RunConfig
from moco_ray.config.views import v2_views
from moco_ray.data.sample import write_digits
from moco_ray.driver.run import pretrain

CHECKPOINT_EVERY_S = 10.0
STALL_BATCH = 16  # a checkpoint costs what it costs, whatever the batch
LOSS_GOAL, REDONE_GOAL, STALL_GOAL = 1.0, 1.0, 0.01
_NEVER = 10**6
_PATIENCE_S = 600.0  # a busy machine takes its time to start processes


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions")
    options = parser.parse_args(arguments)
    default_s = RunConfig().checkpoint_every_s
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        images = write_digits(folder / "digits") / "train"
        stall_s = checkpoint_stall(images, folder, options.repeats)
        losses = [node_loss(images, folder / str(i)) for i in range(options.repeats)]
    seconds = statistics.median(loss[0] for loss in losses)
    redone = statistics.median(loss[1] for loss in losses)
    risked = statistics.median(loss[2] for loss in losses)
    finish(
        [
            at_most("node loss to the next committed step, against the interval", seconds, default_s, "s", LOSS_GOAL),
            at_most("steps redone, against those of one checkpoint interval", redone, risked, "steps", REDONE_GOAL),
            at_most("stall of training by one checkpoint, against the interval", stall_s, default_s, "s", STALL_GOAL),
        ],
        options.json,
    )


def config_of(images: Path, storage_path: Path, **run: object) -> Config:
    """A tiny network on 32-pixel views."""
    return Config(
        preset="elastic",
        data=DataConfig(uri=str(images)),
        views=v2_views(crop_px=32),
        model=ModelConfig(arch="tiny_resnet"),
        method=MoCoConfig(queue_size=1024),
        optim=OptimConfig(global_batch_size=128, bn_groups=8, epochs=10_000),
        eval=EvalConfig(every_steps=_NEVER, max_queries=20, max_bank=100),  # the first is inside what is measured
        run=replace(RunConfig(storage_path=str(storage_path), name="run"), **run),  # type: ignore[arg-type]
    )


def checkpoint_stall(images: Path, folder: Path, repeats: int) -> float:
    """Median seconds that a checkpoint adds to a run, from runs with and without that take turns."""
    steps, every = 48, 12

    def run(name: str, checkpoint_every_steps: int) -> tuple[float, int]:
        """Seconds of training and the checkpoints that fell into it, the last one aside: every run writes that."""
        config = config_of(
            images, folder, name=name, num_workers=0, max_steps=steps, checkpoint_every_steps=checkpoint_every_steps
        )
        config = replace(
            config,
            model=ModelConfig(arch="resnet18"),
            method=MoCoConfig(queue_size=65536),
            optim=replace(config.optim, global_batch_size=STALL_BATCH),
            run=replace(config.run, checkpoint_every_s=1e6, keep_last=steps),
        )
        marks: list[float] = []
        pretrain(config, say=lambda line: marks.append(time.monotonic()) if _is_mark(line, steps) else None)
        return marks[1] - marks[0], len([*(folder / name).glob("checkpoint_*/COMMITTED")]) - 1

    stalls = []
    for i in range(repeats):
        without_s, _ = run(f"without-{i}", _NEVER)
        with_s, num_checkpoints = run(f"with-{i}", every)
        stalls.append((with_s - without_s) / num_checkpoints)
    return max(0.0, statistics.median(stalls))


def _is_mark(line: str, steps: int) -> bool:
    """Whether a line tells that training begins or ends."""
    return line == "waiting for the first batch" or line.startswith(f"step {steps}/")


def node_loss(images: Path, folder: Path) -> tuple[float, float, float]:
    """Kill a node; returns seconds to the next committed step, steps redone, and steps of a checkpoint interval."""
    from tests.cluster.nodes import Driver, add_node, cluster, kill_node

    folder.mkdir()
    run = config_of(images, folder, checkpoint_every_s=CHECKPOINT_EVERY_S, worker_resources="trainer=1")
    run = replace(run, run=replace(run.run, min_workers=1, max_workers=2))
    (folder / "config.json").write_text(to_json(run))
    with cluster() as nodes:
        add_node(nodes, num_cpus=2)
        trainers = [add_node(nodes, num_cpus=1, resources={"trainer": 1}) for _ in range(2)]
        driver = Driver(
            nodes.address, folder / "job.log", ["--preset", str(folder / "config.json"), "--run.name", "run"]
        )
        try:
            driver.wait_for(lambda: _committed(folder) > 0, _PATIENCE_S)
            first, start = _committed(folder), time.monotonic()
            driver.wait_for(lambda: _committed(folder) > first)
            second = _committed(folder)
            driver.wait_for(lambda: _committed(folder) > second)
            risked = (_committed(folder) - first) / (time.monotonic() - start) * CHECKPOINT_EVERY_S
            time.sleep(CHECKPOINT_EVERY_S / 2)
            before, killed = _committed(folder), time.monotonic()
            kill_node(trainers[1])
            driver.wait_for_text("the interruption cost", timeout_s=_PATIENCE_S)
            driver.wait_for(lambda: _committed(folder) > before, _PATIENCE_S)
            seconds = time.monotonic() - killed
        finally:
            driver.stop()
    line = json.loads((folder / "run" / "interruptions.jsonl").read_text().splitlines()[-1])
    return seconds, float(line["steps_redone"]), risked


def _committed(folder: Path) -> int:
    """Steps of the newest committed checkpoint."""
    markers = (folder / "run").glob("checkpoint_*/COMMITTED")
    return max((int(marker.parent.name.split("_")[1]) for marker in markers), default=0)


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported: clusters of its own, with a token
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    main()
