"""Keep an encoder's features of all images; find neighbours and near-duplicates."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from moco_ray.cli.command import check_uri, run_command
from moco_ray.cli.flags import Flag
from moco_ray.cli.transfer import Command, Parsed, parse_transfer, write_json
from moco_ray.config.transfer_presets import EMBED_PRESETS

COMMAND = Command(
    program="embed",
    about="Keep the features of all images in a folder of Parquet files; find neighbours and near-duplicates among them.",
    task="embed",
    presets=EMBED_PRESETS,
    own=(
        Flag(path="output", hint=str, default="s3://BUCKET/vectors", about="The folder, local or an fsspec URL."),
        Flag(
            path="neighbours",
            hint=str,
            default="photo.jpg",
            about="An image, or a folder of images, whose nearest images are drawn and listed: neighbours.png and .csv.",
        ),
        Flag(
            path="duplicates",
            hint=float,
            default=0.97,
            about="Least similarity of near-duplicates, such as 0.97: duplicates.csv, duplicates.png, and exclude.txt, which "
            "pretraining takes as --data.exclude.",
        ),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and embed; returns the exit code. Whatever ends it, the same command goes on."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _embed(parse_transfer(given, COMMAND)), stopped="stopped; the same command goes on")


def _embed(parsed: Parsed) -> None:
    config, own = parsed.config, parsed.own
    check_uri(config)
    output = own.get("output")
    if not output:
        raise ValueError("--output is missing; name a folder for the vectors, local or s3://")
    from moco_ray.cli.screen import Screen  # here, because these take seconds to import
    from moco_ray.driver.features.embedding import embed

    with Screen() as screen:
        results = embed(
            config,
            str(output),
            neighbours=own.get("neighbours"),
            threshold=own.get("duplicates"),
            is_dry=own.get("dry_run", False),
            say=screen,
        )
    write_json(own.get("json"), (json.dumps(results, indent=2) + "\n").encode(), config.run.storage_options)
