"""How a run ended that did not end well, in a small file of its folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from moco_ray.run_folder.lease import Lease, StepDone, check_lease
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.storage.uris import shown

END = "end.json"
_MOST_CHARACTERS = 1000
_SHORTEST_SECRET = 6
_SECRET_NAME = re.compile(r"key|secret|token|password|passwd|credential|signature|sas|auth", re.IGNORECASE)
_USER_OF_URL = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY_OF_URL = re.compile(r"(\w+://[^\s?]+)\?[^\s;,)'\"]+")


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


def without_secrets(text: str, options: Iterable[StorageOptions] = ()) -> str:
    """A text without the credentials of options, and without those that URLs may hold."""
    for one in options:
        for secret in sorted(_secrets(one.values), key=len, reverse=True):
            text = text.replace(secret, "…")
    return _QUERY_OF_URL.sub(r"\1?…", _USER_OF_URL.sub("…@", text))


def _secrets(values: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _secrets(value)
        elif isinstance(value, str) and len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name):
            found.add(value)
    return found


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
