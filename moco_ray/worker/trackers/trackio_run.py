"""A run in Trackio: in a database on a disk, on a server, or in a Space of Hugging Face.

Its public interface counts steps and points on by itself, so that a run that was killed has some twice, and it hides that a
server does not answer. Below it a point has an id, and is there once however often it is sent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from moco_ray.storage.uris import without_secrets
from moco_ray.worker.trackers.card import Card, Point, is_evaluation

_PROJECT = "moco_ray"
_ANSWER_S = 10.0


class TrackioRun:
    """The run of that key; there is never a second one, and no point of it twice."""

    def __init__(self, card: Card) -> None:
        import trackio  # noqa: F401  it takes seconds, and may be missing

        self._card = card
        self._of_run = {"project": _PROJECT, "run": card.name, "run_id": card.key}
        self._config: dict[str, Any] | None = {**card.tags, **card.params, "folder": card.folder}
        self._space = os.environ.get("TRACKIO_SPACE_ID")
        self._url = os.environ.get("TRACKIO_SERVER_URL")
        self._token = os.environ.get("HF_TOKEN") if self._space else None
        self._client: Any = None
        self._newest = -1

    def open(self) -> str:
        """Look how far the run is there; returns where to look at it."""
        if where := self._space or self._url:
            from trackio.remote_client import RemoteClient

            key = None if self._space else os.environ.get("TRACKIO_WRITE_TOKEN")
            self._client = RemoteClient(where, self._token, key, httpx_kwargs={"timeout": _ANSWER_S})
            newest = self._client.predict(api_name="/get_run_summary", **self._of_run)["last_step"]
        else:
            from trackio.sqlite_storage import SQLiteStorage

            newest = SQLiteStorage.get_max_step_for_run(**self._of_run)
        self._newest = -1 if newest is None else int(newest)
        if self._space:
            return f"https://huggingface.co/spaces/{self._space}"
        if self._url:
            return without_secrets(self._url)
        return f"TRACKIO_DIR={os.environ['TRACKIO_DIR']} trackio show --project {_PROJECT}"

    def look(self) -> None:
        """Nothing: a point that was sent again is ignored there."""

    def newest(self) -> int:
        """A step up to which all of training is there; -1 for none.

        The newest there may be that of an evaluation, which comes after the steps before it.
        """
        return max(self._newest - 1, -1)

    def send(self, points: Sequence[Point]) -> None:
        """Add points, but for what is there already."""
        ids = [f"{self._card.key}-{'eval-' if is_evaluation(point) else ''}{point['step']}" for point in points]
        if self._client is None:
            from trackio.sqlite_storage import SQLiteStorage

            values, steps = [point["values"] for point in points], [point["step"] for point in points]
            SQLiteStorage.bulk_log(**self._of_run, metrics_list=values, steps=steps, log_ids=ids, config=self._config)
        else:
            from trackio.utils import serialize_values

            logs = [
                {**self._of_run, "metrics": serialize_values(point["values"]), "step": point["step"], "log_id": log_id}
                for point, log_id in zip(points, ids, strict=True)
            ]
            logs[0]["config"] = self._config
            self._client.predict(api_name="/bulk_log", logs=logs, hf_token=self._token)
        self._config = None  # once is enough

    def finish(self, *, is_done: bool) -> None:
        """Nothing: what was sent is there, and how a run ended is not said."""
