"""Errors that end a command with one line, without a traceback."""

from __future__ import annotations

import signal


class UserError(ValueError):
    """A mistake that its user can correct: shown as one line, without a traceback.

    Attributes:
        exit_code: what the command line exits with: 2 for settings and files that do not fit,
            1 for a fault that shows only while running.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StoppedBySignal(Exception):
    """A run that a signal has ended, after its checkpoint was written.

    Attributes:
        exit_code: what the command line exits with: 128 and the signal's number, as shells have it.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} {message}")
        self.exit_code = 128 + number
