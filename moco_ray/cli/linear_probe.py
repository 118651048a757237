"""Train a linear classifier on the frozen features of an encoder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from moco_ray.cli.command import check_uri, run_command, say
from moco_ray.cli.flags import Flag
from moco_ray.cli.transfer import Command, Parsed, parse_transfer, write_json
from moco_ray.config.transfer_presets import LINEAR_PRESETS

_FAST = (
    "Fit a converged classifier on features that are made once, without augmentation: minutes, and no learning rate."
)
_BASELINES = "With --fast: fit features of the untrained network and raw pixels, too."
COMMAND = Command(
    program="linear-probe",
    about="Train a linear classifier on the frozen features of an encoder.",
    task="linear-probe",
    presets=LINEAR_PRESETS,
    own=(Flag(path="fast", hint=bool, about=_FAST), Flag(path="baselines", hint=bool, about=_BASELINES)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; returns the exit code. Whatever ends it, the same command goes on."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _train(given), stopped="stopped")


def _train(arguments: Sequence[str]) -> None:
    parsed = parse_transfer(arguments, COMMAND)
    if parsed.own.get("baselines") and not parsed.own.get("fast"):
        raise ValueError(
            "--baselines goes with --fast; without it, a probe without --model.init is that of an untrained network"
        )
    if parsed.own.get("fast"):
        if parsed.own.get("dry_run"):
            raise ValueError("--dry-run does not go with --fast: drop one of them")
        _fit(parsed)
        return
    from moco_ray.cli.training import train_command  # here, because torch takes seconds to import
    from moco_ray.tasks.supervised import LINEAR_PROBE

    train_command(parsed, LINEAR_PROBE)


def _fit(parsed: Parsed) -> None:
    config = parsed.config
    check_uri(config)
    say(f"moco_ray: fast linear probe, images {config.data.uri}")
    from moco_ray.cli.screen import Screen
    from moco_ray.driver.fast_probe import fast_probe
    from moco_ray.driver.paths import check_paths
    from moco_ray.tasks.supervised import result_lines

    check_paths(config)
    with Screen() as screen:
        results = fast_probe(config, baselines=bool(parsed.own.get("baselines")), say=screen)
    for line in result_lines(results):
        say(line)
    for name, baseline in results["baselines"].items():
        say(f"{name}: top-1 {baseline['top1']:.2f} %")
    say(f"C {results['strength']:g}; {results['seconds']:.0f} s")
    write_json(parsed.own.get("json"), json.dumps(results, indent=1).encode(), config.run.storage_options)
