"""Ctrl-C and SIGTERM, taken between windows."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back until what is yielded is called; a second one comes at once.

    So they come between windows, and all files end with the same one.
    """
    received: list[bool] = []

    def interrupt() -> None:
        if received:
            raise KeyboardInterrupt

    with first_signal(lambda: received.append(True)):
        yield interrupt


@contextmanager
def first_signal(act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` at the first Ctrl-C or SIGTERM; a second one interrupts as usual.

    Outside the main thread, which signals do not reach, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_first = True

    def note(*_: object) -> None:
        nonlocal is_first
        if not is_first:
            raise KeyboardInterrupt
        is_first = False
        act()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
