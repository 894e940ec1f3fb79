"""Loading processes and the signals that reach all processes of a job at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader

from etram_det.data.streaming import Chunk

_GRACE_S = 20  # from SIGTERM to the end of a loading process
# Signals that loading processes leave to the process that they load for.
_NOT_FOR_LOADERS = {signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGINT)}


class UndisturbedLoader(DataLoader[Chunk]):
    """A loader whose processes never see signals that are not for them, not even as they start."""

    def __iter__(self) -> Any:
        """Batches, from processes that are started now."""
        is_main = threading.current_thread() is threading.main_thread()
        if self.num_workers == 0 or not is_main or os.name == "nt":
            return super().__iter__()
        context: Any = self.multiprocessing_context or multiprocessing
        if context.get_start_method() != "fork":
            # It would be started with the first process, and let all signals through again.
            resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_LOADERS)
        try:
            return super().__iter__()  # processes inherit what is blocked
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_signals(_: int) -> None:
    """Prepare a loading process for signals that reach all processes of a job at once.

    Terminals, SLURM and shells send them to all of a job. Training then writes its checkpoint
    between two steps, for which it needs its loaders; these end with it, or some seconds after
    SIGTERM.
    """
    for number in _NOT_FOR_LOADERS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
