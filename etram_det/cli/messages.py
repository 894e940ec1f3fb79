"""What ends a run from outside, told in one line: disks, memory, processes that are gone."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jsonargparse import ArgumentError
from torch import distributed

from etram_det.cli.setting_mistakes import in_plain_words
from etram_det.errors import UserError

_LOST_PROCESS = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed? ?out|nccl|gloo|tcpstore|peer",
    re.IGNORECASE,
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory", re.IGNORECASE)


@contextmanager
def quiet_writers() -> Iterator[None]:
    """Let threads that write curves fail in silence: what they raise comes up in the main one."""

    def told(args: threading.ExceptHookArgs) -> None:
        is_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_writer and issubclass(args.exc_type, OSError)):
            before(args)

    before = threading.excepthook
    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before


def in_one_line(error: BaseException, folder: str | None = None) -> str | None:
    """What a user should know of an error that came from outside the program.

    Args:
        error: what ended a command.
        folder: that the command writes to, for an error that names no file.

    Returns:
        What happened and what to do; None for an error that only its traceback explains.
    """
    if isinstance(error, OSError):
        return _of_files(error, folder)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return _of_memory(error)
    if isinstance(error, RuntimeError):
        text = str(error)
        if "DataLoader worker" in text and re.search("killed by signal|exited unexpected", text):
            return (
                f"data.num_workers: a loading process was ended from outside ({_last_line(text)}): "
                f"mostly for want of memory, then lower data.num_workers"
            )
        if _NO_MEMORY.search(text):
            return _of_memory(error)
        is_shared = distributed.is_available() and distributed.is_initialized()
        if is_shared and _LOST_PROCESS.search(text):
            return (
                "another process of the run is gone, its own message tells why "
                f"({_first_line(text).split('. ')[0]})"
            )
    return None


def message_and_code(error: BaseException) -> tuple[str, int] | None:
    """What a user should read of an error, in one line, and the exit code.

    Args:
        error: what ended a command.

    Returns:
        The message, and 2 for a mistake in settings or files, 1 for a fault at run time; None for
        an error that only its traceback explains.
    """
    if isinstance(error, UserError):
        text = str(error)
        message = re.sub(r"^[\w.]*UserError: ", "", _last_line(text))
        # What a worker meets comes up while running, whatever code it had there.
        return message, 1 if "in DataLoader worker" in text else error.exit_code
    if isinstance(error, ArgumentError):
        return in_plain_words(str(error)), 2
    if isinstance(error, UnicodeDecodeError):
        return f"--config: a file of settings must be text in UTF-8, found {error}", 2
    if isinstance(error, ValueError):
        # jsonargparse wraps what the constructor of a nested class raises.
        mistake = _user_error_behind(error)
        return None if mistake is None else (str(mistake), mistake.exit_code)
    if isinstance(error, getattr(sys.modules.get("wandb"), "Error", ())):
        return (
            f"trainer.logger: W&B cannot be used ({_first_line(str(error))}): run `wandb login`, "
            "set WANDB_MODE=offline, or leave log_wandb.yaml out"
        ), 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 1
    fault = in_one_line(error)
    return None if fault is None else (fault, 1)


def _user_error_behind(error: BaseException | None) -> UserError | None:
    """The mistake that an error was raised from, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _of_files(error: OSError, folder: str | None) -> str:
    what = error.strerror or _last_line(str(error))
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    if not name and error.errno in (*_FULL, errno.EROFS):
        name = folder
    where = f"{name}: " if name else ""
    if error.errno in _FULL:
        return f"{where}cannot be written, the disk is full ({what}): make room"
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
