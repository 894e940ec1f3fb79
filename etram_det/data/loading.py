"""The processes that load."""

from __future__ import annotations

import signal

_GRACE_S = 20


def outlive_signals(_: int) -> None:
    """Prepare a loading process for signals that reach all processes of a job at once.

    SLURM and shells send them to the whole job. Training then writes its checkpoint between two
    steps, for which it needs its loaders; these end with it, or some seconds after SIGTERM.
    """
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
