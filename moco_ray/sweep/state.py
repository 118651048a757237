"""What a running sweep knows: its folder, its images, its trials."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from moco_ray.config import Config, to_json
from moco_ray.config.field_paths import with_values
from moco_ray.driver.images.listing import decide, last_step
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.sweep.config import SweepConfig
from moco_ray.sweep.progress import SweepProgress
from moco_ray.sweep.records import Ledger, Record
from moco_ray.sweep.space import Space
from moco_ray.sweep.trial import Access

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class SweepState:
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
    progress: SweepProgress
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


def shared_access(config: Config, uri: str, options: StorageOptions, metric: str, first_image: str) -> Access:
    """What all trials share: the folder, and access to it and to the images.

    Access is decided here, on the driver, as for a run: the nodes need no AWS environment, and no file of options.

    Args:
        config: Names the images, and options that the user gave.
        uri: The sweep's folder.
        options: Access to it.
        metric: What is maximised.
        first_image: Where one of the images lies, which need not be where data.uri does.
    """
    remote = next((place for place in (first_image, config.data.uri, config.eval.uri) if "://" in place), "")
    images = resolve_storage_options(remote, config.data.storage_options) if remote else StorageOptions({})
    task = {"sweep_uri": uri, "folder": os.getcwd()}
    return Access(task=task, options=options, image_options=images, metric=metric)
