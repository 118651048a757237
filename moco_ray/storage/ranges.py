"""A remote file that is read at random, range by range."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any


class RangeReader(io.RawIOBase):
    """A seekable file whose every read is one request for just those bytes."""

    def __init__(self, num_bytes: int, read: Callable[[int, int], bytes]) -> None:
        """Read nothing yet.

        Args:
            num_bytes: Size of the file.
            read: Gives the bytes from its first argument up to, without, its second.
        """
        self._num_bytes, self._read, self._position = num_bytes, read, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as the file goes."""
        last = min(self._position + len(buffer), self._num_bytes)
        if last <= self._position:
            return 0
        content = self._read(self._position, last)
        buffer[: len(content)] = content
        self._position = last
        return len(content)


def whole(content: bytes, num_bytes: int) -> bytes:
    """The content, if it is as long as what was asked for.

    Raises:
        OSError: It is not.
    """
    if len(content) != num_bytes:
        raise OSError(f"{len(content)} bytes came where {num_bytes} were asked for")
    return content
