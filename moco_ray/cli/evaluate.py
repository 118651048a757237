"""Measure an encoder without training: kNN, and measures that need no labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from moco_ray.cli.command import check_uri, run_command, say
from moco_ray.cli.flags import Flag
from moco_ray.cli.transfer import Command, parse_transfer, write_json
from moco_ray.config.transfer_presets import EVALUATE_PRESETS

DEFAULT_K = (10, 20, 100, 200)
COMMAND = Command(
    program="evaluate",
    about="Measure an encoder without training: kNN on all labelled images, and measures that need no labels.",
    task="evaluate",
    presets=EVALUATE_PRESETS,
    own=(
        Flag(
            path="k",
            hint=tuple[int, ...],
            default=DEFAULT_K,
            about="Numbers of neighbours that vote; all are measured in one pass. Without it: 10 20 100 200.",
        ),
        Flag(path="baselines", hint=bool, about="Measure the untrained network and raw pixels, too."),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and evaluate; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _evaluate(given), stopped="stopped; nothing was written")


def _evaluate(arguments: Sequence[str]) -> None:
    parsed = parse_transfer(arguments, COMMAND)
    check_uri(parsed.config)
    from moco_ray.cli.screen import Screen  # here, because these take seconds to import
    from moco_ray.driver.features.evaluation import evaluate

    with Screen() as screen:
        results = evaluate(
            parsed.config,
            ks=parsed.own.get("k", DEFAULT_K),
            baselines=parsed.own.get("baselines", False),
            is_dry=parsed.own.get("dry_run", False),
            say=screen,
        )
    if results is not None:
        _print(results)
        content = (json.dumps(results, indent=2) + "\n").encode()
        write_json(parsed.own.get("json"), content, parsed.config.run.storage_options)


def _print(results: Mapping[str, Any]) -> None:
    """A table of the measures, a column for each of the encoders."""
    from rich.console import Console
    from rich.table import Table

    columns = {"encoder": results, **results["baselines"]}
    table = Table(title=f"{results['encoder']['path']}: {results['num_queries']:,} images", title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for k in results["knn"]:
        for top in ("top1", "top5"):
            cells = [_percent(column["knn"][k], top) for column in columns.values()]
            if any(cells):
                table.add_row(f"kNN {top.replace('top', 'top-')}, k {k}, %", *cells)
    for measure, digits in (("rankme", 1), ("alignment", 3), ("uniformity", 3)):
        cells = ["" if column[measure] is None else f"{column[measure]:.{digits}f}" for column in columns.values()]
        table.add_row(measure, *cells)
    Console().print(table)
    if results["knn"]:
        say(
            f"kNN among {results['num_bank']:,} images; guessing gives {results['chance']:.1f} %, the largest class "
            f"{results['largest_class']:.1f} %"
        )
    if results["num_bad"]:
        say(f"{results['num_bad']:,} images were left out: they cannot be had or do not decode")


def _percent(measured: Mapping[str, Any], top: str) -> str:
    if measured[top] is None:
        return ""
    return f"{measured[top]:.2f}" + (f" ± {measured['error']:.2f}" if top == "top1" else "")
