"""The command line of a linear classifier on frozen features."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from moco_ray.cli.command import run_command
from moco_ray.cli.transfer import Command, parse_transfer
from moco_ray.config.transfer_presets import LINEAR_PRESETS

COMMAND = Command(
    program="jobs/linear_probe.py",
    about="Train a linear classifier on the frozen features of an encoder.",
    task="linear-probe",
    presets=LINEAR_PRESETS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; returns the exit code. Whatever ends it, the same command goes on."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _train(given), stopped="stopped")


def _train(arguments: Sequence[str]) -> None:
    parsed = parse_transfer(arguments, COMMAND)
    from moco_ray.cli.training import train_command  # here, because torch takes seconds to import
    from moco_ray.tasks.supervised import LINEAR_PROBE

    train_command(parsed, LINEAR_PROBE)
