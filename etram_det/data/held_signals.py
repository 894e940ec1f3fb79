"""Signals that are held back while processes start."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def signals_held_back(numbers: Collection[signal.Signals]) -> Iterator[None]:
    """Hold signals back until the end of the block; processes that start in it never see them.

    A signal that came in between is handled at the end. It would otherwise meet a process that is
    being started, half of which is then missing, and a child that imports, which would print a
    traceback. Elsewhere than in the main thread, or on Windows, nothing is held back.

    Args:
        numbers: the signals, such as ``signal.SIGINT``.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    arrived: list[signal.Signals] = []
    # A mask alone would not do: a signal reaches any thread that does not block it, and Python
    # handles it in this one.
    with ExitStack() as after:
        for number in numbers:
            if (handler := signal.getsignal(number)) is None:
                continue  # not of Python's making, so it could not be put back
            signal.signal(number, lambda number, _: arrived.append(signal.Signals(number)))
            after.callback(_give_back, number, handler, arrived)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # which processes inherit
        after.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        yield


def _give_back(number: signal.Signals, handler: Any, arrived: Collection[signal.Signals]) -> None:
    """Put a handler back in its place, and let it handle what has arrived."""
    signal.signal(number, handler)
    if number in arrived:
        signal.raise_signal(number)
