"""Errors in one line: mistakes in settings, and faults of disks, memory and other processes."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import threading
from argparse import ArgumentError  # which jsonargparse raises, too
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from etram_det.cli.unfit_values import about_value
from etram_det.errors import UserError
from etram_det.files import CACHE_VARIABLE, cache_folder
from etram_det.progress import above_bars

_UNKNOWN_SETTING = re.compile(
    r"(?:Subcommand '\w+'|Group '(?P<group>[\w.]+)') does not accept option '(?P<key>[^']+)'.*"
    r"|Option '(?P<option>[^']+)' is not accepted.*"
    r"|unrecognized arguments: --(?P<flag>[^\s=]+).*",
    re.DOTALL,
)
_MISSING = re.compile(r"the following arguments are required: (?P<names>.+)")
_MIN_SIMILARITY = 0.75  # in [0, 1], of a name that may have been meant

_LOST_PROCESS = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed? ?out|nccl|gloo|tcpstore|peer",
    re.IGNORECASE,
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.EPERM, errno.EROFS)
# What takes less memory: in Lightning's commands, in detection, and in all others.
_LESS_MEMORY = {
    **dict.fromkeys(
        ("fit", "validate", "test", "predict"),
        "lower data.train_lanes, data.eval_lanes, data.num_steps or data.num_workers",
    ),
    **dict.fromkeys(
        ("detect", "live"), "set a smaller input_size, precision bfloat16, or device cpu"
    ),
}
_LESS_AT_ONCE = "close other programs, or use fewer or smaller inputs at once"
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory", re.IGNORECASE)


def with_nearest_setting(message: str, known: Iterable[str] = ()) -> str:
    """A message of jsonargparse in one line; behind that of an unknown setting, the nearest one."""
    line = " ".join(message.split())
    if missing := _MISSING.fullmatch(line):
        return f"{missing['names']}: must be given, got none: see --help"
    if unknown := _UNKNOWN_SETTING.fullmatch(message):
        key = unknown["key"] or unknown["option"] or unknown["flag"]
        nearest = _nearest(".".join(filter(None, (unknown["group"], key))), list(known))
        return f"{line}: the nearest setting is {nearest}" if nearest else line
    return about_value(line) or line


def _nearest(key: str, known: list[str]) -> str | None:
    """The known name whose last part is most like that of an unknown one, first in its group."""
    group, _, last = key.rpartition(".")
    in_group = [name for name in known if name.rpartition(".")[0] == group]
    for names in (in_group, known):
        by_last_part = {name.rpartition(".")[2]: name for name in names}
        if similar := get_close_matches(last, by_last_part, 1, _MIN_SIMILARITY):
            return by_last_part[similar[0]]
    return None


@contextmanager
def quiet_writers() -> Iterator[None]:
    """Let threads that write curves fail in silence: the main one raises the same error."""

    def report(args: threading.ExceptHookArgs) -> None:
        is_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_writer and issubclass(args.exc_type, OSError)):
            before(args)

    before = threading.excepthook
    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


def in_one_line(
    error: BaseException, folder: str | None = None, command: str = "fit"
) -> str | None:
    """Message of an error that came from outside the program.

    Args:
        error: what ended a command.
        folder: that the command writes to, for an error that names no file.
        command: its name.

    Returns:
        What happened and what to do; None for an error that only its traceback explains.
    """
    if isinstance(error, OSError):
        return _of_files(error, folder)
    if not isinstance(error, (MemoryError, RuntimeError)):
        return None
    text = str(error).strip() or type(error).__name__
    first_line, last_line = text.partition("\n")[0], text.rpartition("\n")[2]
    if "DataLoader worker" in text and re.search("killed by signal|exited unexpected", text):
        return (
            f"data.num_workers: a loading process was ended from outside ({last_line}): mostly "
            "for want of memory, then lower data.num_workers"
        )
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return f"out of memory ({first_line}): {_LESS_MEMORY.get(command, _LESS_AT_ONCE)}"
    if _is_distributed() and _LOST_PROCESS.search(text):
        reason = first_line.split(". ")[0]
        return f"another process of the run is gone, see its own message ({reason})"
    return None


def message_and_code(error: BaseException, command: str = "fit") -> tuple[str, int] | None:
    """Message of an error that ended a command, in one line, and the exit code.

    Args:
        error: what ended it.
        command: its name.

    Returns:
        The message, and 2 for a mistake in settings or files, 1 for a fault at run time; None for
        an error that only its traceback explains.
    """
    if isinstance(error, UserError):
        text = str(error)
        message = re.sub(r"^[\w.]*UserError: ", "", text.strip().rpartition("\n")[2])
        # What a worker meets comes up while running, whatever code it had there.
        return message, 1 if "in DataLoader worker" in text else error.exit_code
    if isinstance(error, ArgumentError):
        return with_nearest_setting(str(error)), 2
    if isinstance(error, UnicodeDecodeError):
        return f"--config: a file of settings must be text in UTF-8, got {error}", 2
    if isinstance(error, ValueError):
        # jsonargparse wraps what the constructor of a nested class raises.
        mistake: BaseException | None = error
        while mistake is not None and not isinstance(mistake, UserError):
            mistake = mistake.__cause__
        return None if mistake is None else (str(mistake), mistake.exit_code)
    if isinstance(error, getattr(sys.modules.get("wandb"), "Error", ())):
        reason = str(error).strip().partition("\n")[0]
        return (
            f"trainer.logger: W&B cannot be used ({reason}): run `wandb login`, set "
            "WANDB_MODE=offline, or leave log_wandb.yaml out"
        ), 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 1
    fault = in_one_line(error, command=command)
    return None if fault is None else (fault, 1)


class MessageHandler(logging.StreamHandler):  # which takes no type in Python 3.10
    """Prints messages on standard error, above the progress bars that are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        self.stream = sys.stderr  # as it is now: a bar puts itself between while it is shown
        with above_bars():
            super().emit(record)


def is_for_user(record: logging.LogRecord) -> bool:
    """Whether this process prints a message: rank zero prints all, others their warnings."""
    lightning: Any = sys.modules.get("lightning_utilities.core.rank_zero")
    rank = 0 if lightning is None else getattr(lightning.rank_zero_only, "rank", 0)
    return rank == 0 or record.levelno > logging.INFO


def _is_distributed() -> bool:
    """Whether this process is one of several; without PyTorch loaded it is not."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _of_files(error: OSError, folder: str | None) -> str:
    what = error.strerror or str(error).strip().rpartition("\n")[2]
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    if not name and error.errno in (*_FULL, errno.EROFS):
        name = folder
    where = f"{name}: " if name else ""
    is_full = error.errno in _FULL
    text = f"cannot be written, the disk is full ({what}): make room" if is_full else what
    if name and Path(str(name)).is_relative_to(cache_folder()):
        if is_full:
            text += (
                " (python -m etram_det cache clear frees this project's cache), or set "
                f"{CACHE_VARIABLE} to a folder with room"
            )
        elif error.errno in _REFUSED:
            text += f": set {CACHE_VARIABLE} to a folder that can be written"
    return where + text
