"""What the command of a task of a run does: look, train, and give its results."""

from __future__ import annotations

from moco_ray.cli.command import check_uri, say
from moco_ray.cli.output import outlive_output
from moco_ray.cli.transfer import Parsed, write_json
from moco_ray.tasks.task import Task


def train_command(parsed: Parsed, task: Task) -> None:
    """Train what a command line says, or look at what it would be.

    Raises:
        ValueError: Something that the user must mend.
        RunFailed: The cluster failed again and again.
    """
    config = parsed.config
    check_uri(config)
    is_dry = bool(parsed.own.get("dry_run"))
    if not is_dry:
        outlive_output()
    say(f"moco_ray: {'dry run, ' if is_dry else ''}preset {config.preset}, images {config.data.uri}")
    # Imported here, because they take seconds.
    if is_dry:
        from moco_ray.driver.dry_run import dry_run
        from moco_ray.driver.paths import check_paths

        check_paths(config)
        dry_run(task, config, say=say)
        return
    from moco_ray.cli.screen import Screen
    from moco_ray.driver.run import train
    from moco_ray.run_folder.results import RESULTS
    from moco_ray.storage.storage import Storage, resolve_storage_options

    with Screen() as screen:
        result = train(task, config, say=screen, resume_command=parsed.resume_command())
    run = Storage.open(result.folder, resolve_storage_options(result.folder, config.run.storage_options))
    write_json(parsed.own.get("json"), run.read_bytes(run.join(RESULTS)), config.run.storage_options)
