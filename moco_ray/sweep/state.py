"""What a running sweep knows: its folder, its images, its trials."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_ray.config import Config, to_json
from moco_ray.config.field_paths import with_values
from moco_ray.data.manifest import Manifest
from moco_ray.driver.images.listing import last_step
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.sweep.config import SweepConfig
from moco_ray.sweep.progress import SweepProgress
from moco_ray.sweep.records import Ledger, Record
from moco_ray.sweep.space import Space
from moco_ray.sweep.trial import Access
from moco_ray.tasks.known import task_of


@dataclass(frozen=True, kw_only=True)
class SweepState:
    """A sweep, ready to run trials."""

    sweep: SweepConfig
    """What is searched, and how."""
    config: Config
    """What all trials have in common."""
    resolved: Config
    """The same with every automatic value resolved."""
    space: Space
    """What is searched."""
    num_trials: int
    """Trials in all; of a population the members."""
    metric: str
    """What is maximised."""
    storage: Storage
    """The sweep's folder."""
    manifest: Manifest
    """The images."""
    train_rows: NDArray[np.int64]
    """Those that training sees."""
    eval_set: EvalSet
    """Those to evaluate on."""
    ledger: Ledger
    """The trials."""
    progress: SweepProgress
    """Shows them."""

    @property
    def uri(self) -> str:
        """The sweep's folder, as a URI or an absolute path."""
        return self.storage.uri(self.storage.root)

    @property
    def last_step(self) -> int:
        """Steps of a whole run."""
        return last_step(self.resolved, len(self.train_rows))

    @property
    def images(self) -> int:
        """Images that a whole run sees, epoch after epoch."""
        return self.last_step * self.resolved.optim.global_batch_size

    @property
    def has_ended(self) -> bool:
        """Whether every trial has; a population may go on in copies."""
        is_population = self.sweep.scheduler == "pbt"
        return not is_population and sum(r.has_ended for r in self.ledger.in_order()) >= self.num_trials

    def folder_of(self, record: Record) -> Storage:
        """The folder of a trial's run."""
        return replace(self.storage, root=self.storage.join(record.name))

    def trial_config(self, record: Record) -> Config:
        """The configuration of a trial's run.

        Raises:
            ValueError: Its parameters contradict each other.
        """
        config = with_values(self.config, record.parameters)
        config = replace(
            config,
            eval=replace(config.eval, max_time_fraction=1.0),  # decisions hang on every evaluation
            run=replace(config.run, storage_path=self.uri, name=record.name),
        )
        return task_of(config).resolve(config, len(self.train_rows))

    def tune_config(self, record: Record, *, max_steps: int | None = None, begun_at: int = -1) -> dict[str, Any]:
        """What Tune hands to the process of a trial: plain values without credentials.

        Args:
            record: The trial; its measurements so far are not reported again.
            max_steps: Where its run ends, if before its end.
            begun_at: Steps of the checkpoint that its run began from; what was measured up to there is not its own.
        """
        config = self.trial_config(record)
        if max_steps is not None:
            config = replace(config, run=replace(config.run, max_steps=max_steps))
        seen = record.points[-1].step if record.points else begun_at
        return {
            "trial": record.name,
            "task": {"config": to_json(config)},
            "last_step": last_step(config, len(self.train_rows)),
            "seen": seen,
        }

    def access(self) -> Access:
        """What all trials share: the folder, and access to it and to the images.

        Access is decided here, on the driver, as for a run: the nodes need no AWS environment, and no file of options.
        """
        data, evaluation = self.config.data, self.config.eval
        # Where one of the images lies need not be where data.uri does.
        remote = next((place for place in (self.manifest.first_uri, data.uri, evaluation.uri) if "://" in place), "")
        images = resolve_storage_options(remote, data.storage_options) if remote else StorageOptions({})
        task = {"sweep_uri": self.uri, "folder": os.getcwd(), "typed": sys.argv[0]}
        return Access(task=task, options=self.storage.options, image_options=images, metric=self.metric)
