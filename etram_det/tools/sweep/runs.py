"""Runs of ``fit`` in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_STOP_S = 30.0


def fit_in_process(arguments: Sequence[str], log: Path) -> int:
    """Train in a process of its own, which leaves no memory behind and ends with an exception.

    Args:
        arguments: what follows ``fit``.
        log: file for all that the run prints.

    Returns:
        The exit code; minus the signal's number where one ended the run.
    """
    command = [sys.executable, "-m", "etram_det", "fit", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            return process.wait()
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
