"""All tasks, by the names that configurations have for them."""

from __future__ import annotations

from moco_ray.config import Config
from moco_ray.config.config import TaskName
from moco_ray.tasks.task import Task

PROGRAMS: dict[TaskName, str] = {
    "pretraining": "pretrain",
    "linear-probe": "linear-probe",
    "finetune": "finetune",
    "detection": "detect",
}
"""The program of each, by its name in `config.programs`."""


def task_of(config: Config) -> Task:
    """What a configuration says is trained."""
    if config.task == "pretraining":
        from moco_ray.tasks.pretraining import PRETRAINING

        return PRETRAINING
    if config.task == "detection":
        from moco_ray.tasks.detection import DETECTION

        return DETECTION
    from moco_ray.tasks.supervised import FINE_TUNING, LINEAR_PROBE

    return LINEAR_PROBE if config.task == "linear-probe" else FINE_TUNING
