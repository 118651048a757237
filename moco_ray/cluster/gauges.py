"""A run's newest values as gauges of Ray's, which each node offers to Prometheus; they end with the process that sets them."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping

from ray.util.metrics import Gauge

from moco_ray.tasks.job import Job
from moco_ray.worker.follower import Follower

log = logging.getLogger(__name__)

# Ray writes "ray_" before each name.
_OF_METRICS = {
    "train/loss": ("moco_ray_loss", "Training loss of the newest step."),
    "train/lr": ("moco_ray_learning_rate", "Learning rate of the newest step."),
    "perf/images_per_s": ("moco_ray_images_per_second", "Images trained on a second, over all workers."),
    "perf/data_wait_fraction": (
        "moco_ray_data_wait_fraction",
        "Share of the time, 0 to 1, in which training waits for data.",
    ),
    "data/bad_images": ("moco_ray_bad_images", "Images that could not be read or decoded so far."),
}
_OF_RUN = {
    "moco_ray_step": "Steps done.",
    "moco_ray_last_step": "Steps of the whole run.",
    "moco_ray_epoch": "Epochs done, with their fraction.",
    "moco_ray_world_size": "Workers that train now.",
    "moco_ray_interruptions": "How often the run was interrupted so far.",
    "moco_ray_updated_at_seconds": "When the newest steps were read, in seconds since 1970.",
}
_OF_EVALUATIONS = (
    "moco_ray_eval",
    "Newest value of a measure of eval.jsonl, without its eval/: knn_top1 and top1 in percent.",
)
_TAGS = ("run", "task")
_SET_AGAIN_S = 0.5


class Gauges(Follower):
    """Sets the gauges, which are labelled with the run's name and task, and measures with theirs. Rank 0 has them.

    Ray forgets a gauge that is not set between two of its reports, so that what has ended leaves nothing: a thread sets all
    of them again until the run is closed.
    """

    def __init__(self, job: Job, num_workers: int, num_interruptions: int) -> None:
        self._images, self._batch = job.num_rows, job.config.optim.global_batch_size
        tags = {"run": str(job.config.run.name), "task": job.config.task}
        about = {**dict(_OF_METRICS.values()), **_OF_RUN}
        self._gauges = {name: Gauge(name, description=text, tag_keys=_TAGS) for name, text in about.items()}
        self._evaluation = Gauge(_OF_EVALUATIONS[0], description=_OF_EVALUATIONS[1], tag_keys=(*_TAGS, "measure"))
        for gauge in [*self._gauges.values(), self._evaluation]:
            gauge.set_default_tags(tags)
        self._values: dict[str, float] = {
            "moco_ray_last_step": job.last_step,
            "moco_ray_world_size": num_workers,
            "moco_ray_interruptions": num_interruptions,
        }
        self._measures: dict[str, float] = {}
        self._is_closed = threading.Event()
        threading.Thread(target=self._keep_up, name="gauges", daemon=True).start()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Show these values."""
        measures = {name[5:]: value for name, value in values.items() if re.fullmatch("eval/[^/]+", name)}
        new = {_OF_METRICS[name][0]: value for name, value in values.items() if name in _OF_METRICS}
        if "train/loss" in values:
            new["moco_ray_step"] = step + 1
            new["moco_ray_epoch"] = (step + 1) * self._batch / self._images
            new["moco_ray_updated_at_seconds"] = time.time()
        self._values, self._measures = {**self._values, **new}, {**self._measures, **measures}

    def close(self, *, is_done: bool) -> None:
        """Show nothing more."""
        self._is_closed.set()

    def _keep_up(self) -> None:
        has_warned = False
        while not self._is_closed.wait(_SET_AGAIN_S):
            try:
                self._set()
            except Exception as error:
                if not has_warned:
                    log.warning(f"gauges cannot be set ({type(error).__name__}: {error}); training goes on")
                has_warned = True

    def _set(self) -> None:
        for name, value in self._values.items():
            self._gauges[name].set(value)
        for measure, value in self._measures.items():
            self._evaluation.set(value, {"measure": measure})
