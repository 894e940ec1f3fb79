"""What people see of the tools: the one place that prints, and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def screen(stderr: bool = False, width: int | None = None) -> Console:
    """The one place that prints: tables by ``print``, lines as they are by ``out``.

    Brackets and colons in either are no markup: names of files and classes may have some.

    Args:
        stderr: print to standard error instead of standard output.
        width: columns of tables in a file or a pipe, which has no width of its own.
    """
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if width is not None and not console.is_terminal:
        console.width = width
    return console


def progress_bar(transient: bool = False) -> Progress:
    """A bar for any number of tasks, on standard error.

    Args:
        transient: whether it goes when the work is done; in a file or a pipe, there is none then.
    """
    console = screen(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=transient and not console.is_interactive,  # it would leave an empty line
    )


@contextmanager
def shown_progress(what: str, transient: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar for one task, from when its numbers are first known until the work is done.

    Args:
        what: is counted.
        transient: whether the bar goes when the work is done.

    Yields:
        A function to call with how many are done, of how many.
    """
    bar = progress_bar(transient)
    task = bar.add_task(what, total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def above_bars() -> Iterator[None]:
    """What is printed meanwhile stands above Lightning's bars; in a file, on lines of its own."""
    tqdm: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is None or not tqdm._instances:
        yield
    elif sys.stdout.isatty():
        with tqdm.external_write_mode():
            yield
    else:
        sys.stdout.write("\n")  # the bar's line has not ended
        yield
