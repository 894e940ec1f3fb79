"""Runs of ``fit`` in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import NamedTuple

_STOP_S = 30.0
_POLL_S = 0.2


class ProcessEnd(NamedTuple):
    """How a run ended.

    Attributes:
        code: exit code; minus the signal's number where one ended the run.
        cpu_s: CPU time of the run and of its loading processes, in seconds.
    """

    code: int
    cpu_s: float


def fit_in_process(arguments: Sequence[str], log: Path, stop: Event | None = None) -> ProcessEnd:
    """Train in a process of its own, which leaves no memory behind and ends with an exception.

    Args:
        arguments: what follows ``fit``.
        log: file for all that the run prints.
        stop: ends the run once it is set; for threads, which Ctrl-C does not interrupt.
    """
    command = [sys.executable, "-m", "etram_det", "fit", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        stop = stop or Event()
        try:
            while not stop.wait(_POLL_S):
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    return ProcessEnd(process.returncode, usage.ru_utime + usage.ru_stime)
            return ProcessEnd(-signal.SIGTERM, 0.0)
        finally:
            process.terminate()  # does nothing where it has ended
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def reason_of_failure(code: int, log: Path) -> str:
    """Why a run failed, from the last line that it printed."""
    if code < 0:
        return f"ended by signal {-code}"
    text = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
    last = text.splitlines()[-1] if text else "no message"
    return last.rpartition("etram_det: error: ")[2].strip()  # a progress bar may stand before it
