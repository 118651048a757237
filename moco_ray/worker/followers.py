"""All that follows a run beside its record. Whatever a follower does wrong is said once and never reaches training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from moco_ray.run_folder.metrics import Line
from moco_ray.storage.uris import without_secrets
from moco_ray.worker.follower import Follower

log = logging.getLogger(__name__)


class Followers(Follower):
    """Several followers; one that fails is told nothing more."""

    def __init__(self, makers: Mapping[str, Callable[[], Follower]]) -> None:
        """Make them.

        Args:
            makers: What makes each, by what it is called in messages.
        """
        self._followers: dict[str, Follower] = {}
        self._is_closed = False
        for name, make in makers.items():
            try:
                self._followers[name] = make()
            except Exception as error:
                _warn(name, error)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Tell all of them."""
        self._each(lambda follower: follower.add(step, values))

    def commit(self, lines: Sequence[Line], evaluations: Sequence[Line]) -> None:
        """Tell all of them."""
        self._each(lambda follower: follower.commit(lines, evaluations))

    def files(self) -> dict[str, bytes]:
        """Those of all."""
        files: dict[str, bytes] = {}
        self._each(lambda follower: files.update(follower.files()))
        return files

    def close(self, *, is_done: bool) -> None:
        """Close all of them at once, so that they wait beside each other; a second time does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        closing = [
            threading.Thread(
                target=self._one, args=(name, lambda follower: follower.close(is_done=is_done)), daemon=True
            )
            for name in self._followers
        ]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def _each(self, tell: Callable[[Follower], None]) -> None:
        for name in list(self._followers):
            self._one(name, tell)

    def _one(self, name: str, tell: Callable[[Follower], None]) -> None:
        follower = self._followers.get(name)
        try:
            if follower is not None:
                tell(follower)
        except Exception as error:
            self._followers.pop(name, None)
            _warn(name, error)


def _warn(name: str, error: Exception) -> None:
    why = without_secrets(f"{type(error).__name__}: {error}")
    log.warning(f"{name} no longer follows this run ({why}); training goes on")
