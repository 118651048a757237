"""Train a whole network on labels, from an encoder or from scratch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from moco_ray.cli.command import run_command
from moco_ray.cli.transfer import Command, parse_transfer
from moco_ray.config.transfer_presets import FINETUNE_PRESETS

COMMAND = Command(
    program="finetune",
    about="Train a whole network on labels, from an encoder or from scratch.",
    task="finetune",
    presets=FINETUNE_PRESETS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; returns the exit code. Whatever ends it, the same command goes on."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _train(given), stopped="stopped")


def _train(arguments: Sequence[str]) -> None:
    parsed = parse_transfer(arguments, COMMAND)
    from moco_ray.cli.training import train_command  # here, because torch takes seconds to import
    from moco_ray.tasks.supervised import FINE_TUNING

    train_command(parsed, FINE_TUNING)
