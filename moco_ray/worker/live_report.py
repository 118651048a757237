"""The report of a run that goes on, written beside training after checkpoints."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import torch

from moco_ray.report.run_page import RunReport
from moco_ray.report.story import ENVIRONMENT
from moco_ray.run_folder.metrics import Line
from moco_ray.run_folder.sessions import versions
from moco_ray.storage.storage import Storage
from moco_ray.tasks.job import Job
from moco_ray.worker.follower import Follower

_PATIENCE_S = 5


class LiveReport(Follower):
    """Writes report/index.html now and then, in a thread of its own: neither training nor checkpoints wait for it."""

    def __init__(self, job: Job, run: Storage, num_ranks: int, dtype: str) -> None:
        self._job, self._run, self._num_ranks, self._dtype = job, run.at_first(), num_ranks, dtype
        self._page = RunReport(self._run, is_gentle=True)
        self._is_prepared = False
        self._thread: threading.Thread | None = None

    def commit(self, lines: Sequence[Line], evaluations: Sequence[Line]) -> None:
        """Write the page if it is time to; a failure is a warning. Where there are no lines, the driver will write it soon."""
        if lines and self._page.is_due and not (self._thread is not None and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._page.write_live, args=(self._prepare,), daemon=True)
            self._thread.start()

    def close(self, *, is_done: bool) -> None:
        """Give up the page that is being written: it must not replace the last one, which the driver writes."""
        self._page.stop.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)

    def _prepare(self) -> None:
        """Note once what this rank runs on."""
        if self._is_prepared:
            return
        is_cuda = self._job.uses_gpu and torch.cuda.is_available()
        device = torch.cuda.get_device_name() if is_cuda else "CPU"
        facts = {
            "devices": device if self._num_ranks == 1 else f"{self._num_ranks} x {device}",
            "dtype": self._dtype,
            "world_size": self._num_ranks,
            "versions": {**versions(), **({"cuda": torch.version.cuda} if is_cuda and torch.version.cuda else {})},
        }
        self._run.write_bytes(self._run.join(*ENVIRONMENT.split("/")), json.dumps(facts).encode())
        self._is_prepared = True
