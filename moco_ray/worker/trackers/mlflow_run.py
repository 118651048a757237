"""A run in MLflow."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from moco_ray.storage.uris import without_secrets
from moco_ray.worker.trackers.card import EVALUATION, Card, Point

_EXPERIMENT = "moco_ray"
_KEY = "moco_ray.key"
_MOST_METRICS, _MOST_PARAMS = 1000, 100  # of one request
_LONGEST_PARAM = 500


class MlflowRun:
    """The run of that key; there is never a second one, and no point of it twice."""

    def __init__(self, card: Card) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import mlflow  # noqa: F401  it takes seconds, and may be missing

        self._card = card
        self._client: Any = None
        self._id = ""
        self._newest: dict[str, int] = {}
        self._evaluated: dict[str, set[int]] = {}  # steps of each measure: evaluations may come late

    def open(self) -> str:
        """Find or make the run; returns where to look at it."""
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        make_database(uri)
        client, card = MlflowClient(), self._card
        self._client = client
        experiment = self._experiment()
        found = client.search_runs([experiment], f"tags.`{_KEY}` = '{card.key}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            client.update_run(self._id, status="RUNNING")
        else:
            tags = {f"moco_ray.{name}": value for name, value in card.tags.items()}
            note = {"moco_ray.folder": card.folder, _KEY: card.key}
            self._id = client.create_run(experiment, run_name=card.name, tags={**tags, **note}).info.run_id
        self.look()
        if uri.startswith("http"):
            return f"{without_secrets(uri.rstrip('/'))}/#/experiments/{experiment}/runs/{self._id}"
        return f"run {self._id} in {without_secrets(uri)}"

    def look(self) -> None:
        """Look which params and points are there: a request without an answer may have been met."""
        data = self._client.get_run(self._id).data
        # Semi-public: the newest point of each metric; otherwise all points of all metrics would have to be read.
        self._newest = {metric.key: metric.step for metric in data._metric_objs}
        self._evaluated = {name: self._steps_of(name) for name in self._newest if name.startswith(EVALUATION)}
        self._add_params({name: v for name, v in self._card.params.items() if name not in data.params})

    def newest(self) -> int:
        """The newest step of training that is there; -1 for none."""
        return self._newest.get("train/loss", -1)

    def send(self, points: Sequence[Point]) -> None:
        """Add points, but for what is there already."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, point["step"])
            # The loss last: where it is, all of its step is.
            for point in points
            for name, value in sorted(point["values"].items(), key=lambda item: item[0] == "train/loss")
            if not self._has(name, point["step"])
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            some = metrics[start : start + _MOST_METRICS]
            self._client.log_batch(self._id, metrics=some)
            for metric in some:
                self._newest[metric.key] = metric.step
                if metric.key.startswith(EVALUATION):
                    self._evaluated.setdefault(metric.key, set()).add(metric.step)

    def finish(self, *, is_done: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._id, "FINISHED" if is_done else "KILLED")

    def _has(self, name: str, step: int) -> bool:
        if name.startswith(EVALUATION):
            return step in self._evaluated.get(name, ())
        return step <= self._newest.get(name, -1)

    def _steps_of(self, name: str) -> set[int]:
        return {point.step for point in self._client.get_metric_history(self._id, name)}

    def _experiment(self) -> str:
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment else self._client.create_experiment(name))

    def _add_params(self, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        entities = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in params.items()]
        for start in range(0, len(entities), _MOST_PARAMS):
            self._client.log_batch(self._id, params=entities[start : start + _MOST_PARAMS])


def make_database(uri: str) -> None:
    """Make a database of SQLite, if there is none: MLflow makes its tables one by one, and can use no half of them.

    Args:
        uri: Of whatever kind.
    """
    path = uri.removeprefix("sqlite:///")
    if path == uri or os.path.exists(path):
        return
    from mlflow import MlflowClient

    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow", dir=os.path.dirname(path), ignore_cleanup_errors=True) as folder:
        new = os.path.join(folder, "new.db")
        MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
        with suppress(FileExistsError):
            os.link(new, path)
