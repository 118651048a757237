"""What a running sweep knows: its folder, its images, its trials."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moco_ray.config import Config, to_json
from moco_ray.data.storage import Storage, StorageOptions
from moco_ray.sweep.board import Board
from moco_ray.sweep.config import SweepConfig
from moco_ray.sweep.fields import with_values
from moco_ray.sweep.records import Ledger, Record
from moco_ray.sweep.space import Space
from moco_ray.sweep.trial import Access
from moco_ray.train.plan import decide, last_step

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A sweep, ready to run trials."""

    sweep: SweepConfig
    """What is searched, and how."""
    config: Config
    """What all trials have in common."""
    space: Space
    """What is searched."""
    metric: str
    """What is maximised."""
    storage: Storage
    """The sweep's folder."""
    uri: str
    """The sweep's folder, as a URI or an absolute path."""
    num_rows: int
    """Images that training sees."""
    images: int
    """Images that a whole run sees, epoch after epoch."""
    ledger: Ledger
    """The trials."""
    board: Board
    """Shows them."""
    say: Say
    """Prints a line for the user."""

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
        return decide(config, self.num_rows)

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
            "last_step": last_step(config, self.num_rows),
            "seen": seen,
        }


def shared_access(config: Config, uri: str, options: StorageOptions, metric: str) -> Access:
    """What all trials share: the folder, and access to it and to the images."""
    task = {
        "sweep_uri": uri,
        "data_options": _options_text(config.data.storage_options),
        "run_options": _options_text(config.run.storage_options),
        "folder": os.getcwd(),
    }
    return Access(task=task, options=options, metric=metric)


def _options_text(options: str | None) -> str | None:
    """Storage options as JSON: a file of them need not be on the node of a trial."""
    return options if options is None or options.lstrip().startswith("{") else Path(options).expanduser().read_text()
