"""Ctrl-C, and a cluster's notice that a job is about to end, at a moment of our own choice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

HEARD = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interrupt:
    """Whether this process was asked to end.

    Attributes:
        signal: by which signal; 0 for not yet.
    """

    signal: int = 0


@contextmanager
def interrupts_held() -> Iterator[Interrupt]:
    """Note the first Ctrl-C, or SIGTERM, in place of ending; a second one ends the process.

    Elsewhere than in the main thread, where Python allows no handlers, nothing changes.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {each: signal.getsignal(each) for each in HEARD}

    def note(number: int, _: FrameType | None) -> None:
        interrupt.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for each in HEARD:
        signal.signal(each, note)
    try:
        yield interrupt
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
