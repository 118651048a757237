"""The command line of an evaluation: an encoder, on images."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from moco_ray.cli.command import run_command, say
from moco_ray.cli.flags import Flag, flags_of, scan
from moco_ray.config import Config
from moco_ray.config.fields import with_values

_OWN = [
    Flag(path="k", hint=tuple[int, ...], default=(10, 20, 100, 200)),
    Flag(path="baselines", hint=bool),
    Flag(path="json", hint=str, default="evaluation.json"),
    Flag(path="help", hint=bool),
]
_GROUPS = ("data", "eval", "model", "run", "views")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and evaluate; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _evaluate(given), stopped="stopped; nothing was written")


def _evaluate(arguments: Sequence[str]) -> None:
    flags = [flag for flag in flags_of(Config()) if flag.path.split(".")[0] in _GROUPS]
    given = {item.flag.path: item.value for item in scan(arguments, [*_OWN, *flags])}
    own = {flag.path: given.pop(flag.path) for flag in _OWN if flag.path in given}
    config = with_values(Config(), given)

    from moco_ray.cli.screen import Screen
    from moco_ray.driver.features.evaluation import DEFAULT_K, evaluate
    from moco_ray.storage.storage import Storage, resolve_storage_options

    with Screen() as screen:
        results = evaluate(
            config,
            ks=own.get("k", DEFAULT_K),
            baselines=own.get("baselines", False),
            max_queries=given.get("eval.max_queries"),
            max_bank=given.get("eval.max_bank"),
            say=screen,
        )
    _print(results)
    if file := own.get("json"):
        storage = Storage.open(file, resolve_storage_options(file, config.run.storage_options))
        storage.write_bytes(storage.root, (json.dumps(results, indent=2) + "\n").encode())
        say(f"results: {file}")


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
