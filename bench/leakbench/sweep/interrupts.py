"""Deferred handling of Ctrl-C, and of SIGTERM, which clusters send before they end a job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

DEFERRED = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interrupt:
    """Whether this process was interrupted.

    Attributes:
        signal: number of the signal; 0 for none so far.
    """

    signal: int = 0

    def came(self) -> bool:
        """Whether there was a signal; asked anew each time, since one may come at any time."""
        return self.signal != 0


@contextmanager
def interrupts_held() -> Iterator[Interrupt]:
    """Record the first Ctrl-C or SIGTERM instead of ending; a second one ends the process.

    Outside the main thread, where Python allows no signal handlers, this does nothing.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {each: signal.getsignal(each) for each in DEFERRED}

    def note(number: int, _: FrameType | None) -> None:
        interrupt.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for each in DEFERRED:
        signal.signal(each, note)
    try:
        yield interrupt
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
