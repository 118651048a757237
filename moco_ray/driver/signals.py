"""How a process is told to stop: by signals that end it in good order."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def interrupt_on(*numbers: signal.Signals) -> list[int]:
    """Let signals interrupt what the main thread does as Ctrl-C does; from another thread nothing changes.

    Returns:
        Those that have come so far, the first one first.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and number in received:
            return  # a shell and the system both send it
        received.append(number)
        raise KeyboardInterrupt  # any other exception is lost where Ray waits, but for SystemExit, which it replaces

    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, stop)
    return received
