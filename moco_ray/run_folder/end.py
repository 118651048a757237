"""How a run ended that did not end well, in a small file of its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from moco_ray.run_folder.lease import Lease, StepDone, check_lease
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.storage.uris import shown, without_secrets

END = "end.json"
_MOST_CHARACTERS = 1000


@contextmanager
def end_on_record(
    run: Storage, lease: Lease, last_step: Callable[[], StepDone | None], options: Iterable[StorageOptions]
) -> Iterator[None]:
    """Inside, the run goes on: how it ended before is forgotten, and what ends it now is written, if that is possible.

    Args:
        run: The run's folder.
        lease: Of this process; whoever has lost the run writes nothing.
        last_step: The newest step known to be done.
        options: Access to storage, whose values the file must not show.
    """
    forget_end(run)
    try:
        yield
    except BaseException as error:
        with suppress(Exception):
            _write(run.at_first(), lease, last_step(), _words(error, options))
        raise


def forget_end(run: Storage) -> None:
    """The run goes on, or has ended well."""
    run.delete(run.join(END))


def _words(error: BaseException, options: Iterable[StorageOptions]) -> dict[str, str]:
    if not isinstance(error, Exception):
        return {"state": "stopped", "reason": "interrupted"}
    text = " ".join(str(error).split())
    is_ours = isinstance(error, ValueError | OSError) or type(error).__module__.startswith("moco_ray.")
    if not (text and is_ours):  # others do not speak to people
        text = f"{type(error).__name__}: {text}"
    return {"state": "failed", "reason": shown(without_secrets(text, options))[:_MOST_CHARACTERS]}


def _write(run: Storage, lease: Lease, last: StepDone | None, words: dict[str, str]) -> None:
    check_lease(run, lease.owner)
    content = {**words, "step": (last or lease.before or (None,))[0], "time": round(time.time(), 1)}
    run.write_bytes(run.join(END), json.dumps(content, indent=1).encode())
