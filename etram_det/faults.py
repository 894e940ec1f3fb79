"""What ends a run from outside, told in one line: disks, memory, processes that are gone."""

from __future__ import annotations

import errno
import re

import torch
from torch import distributed

from etram_det.types import UserError

_RESUME = "the last checkpoint is whole: mend it and go on from there"
_LOST_PROCESS = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed? ?out|nccl|gloo|tcpstore|peer",
    re.IGNORECASE,
)
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory", re.IGNORECASE)


def in_one_line(error: BaseException) -> str | None:
    """What a user should know of an error that came from outside the program.

    Args:
        error: what ended a command.

    Returns:
        What happened and what to do; None for an error that only its traceback explains.
    """
    if isinstance(error, OSError):
        return _of_files(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return _of_memory(error)
    if isinstance(error, RuntimeError):
        text = str(error)
        if "DataLoader worker" in text and re.search("killed by signal|exited unexpected", text):
            return (
                f"data.num_workers: a loading process was ended from outside ({_last_line(text)}): "
                f"mostly for want of memory, then lower data.num_workers; {_RESUME}"
            )
        if _NO_MEMORY.search(text):
            return _of_memory(error)
        is_shared = distributed.is_available() and distributed.is_initialized()
        if is_shared and _LOST_PROCESS.search(text):
            return (
                "another process of the run is gone, its own message tells why "
                f"({_first_line(text).split('. ')[0]}); {_RESUME}"
            )
    return None


def message_and_code(error: UserError) -> tuple[str, int]:
    """What a mistake says and the exit code, also where a loader's worker put its traceback around.

    Args:
        error: what ended a command.
    """
    text = str(error)
    message = re.sub(r"^[\w.]*UserError: ", "", _last_line(text))
    # What a worker meets comes up while running, whatever code it had there.
    return message, 1 if "in DataLoader worker" in text else error.exit_code


def user_error_behind(error: BaseException | None) -> UserError | None:
    """The mistake that an error was raised from, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _of_files(error: OSError) -> str:
    what = error.strerror or _last_line(str(error))
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}cannot be written, the disk is full ({what}): make room; {_RESUME}"
    return f"{where}{what}"


def _of_memory(error: BaseException) -> str:
    return (
        f"out of memory ({_first_line(str(error)) or type(error).__name__}): lower "
        "data.train_lanes, data.eval_lanes, data.num_steps or data.num_workers"
    )


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "")
