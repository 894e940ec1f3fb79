"""Loading processes and the signals that reach all processes of a job at once."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils import signal_handling

from etram_det.data.chunks import Chunk
from etram_det.data.flag import Flag
from etram_det.data.held_signals import signals_held_back
from etram_det.data.sparse_batch import SparseBatch
from etram_det.data.streaming import ChunkRequest

_GRACE_S = 20  # from SIGTERM to the end of a loading process
# Signals that loading processes leave to the process that they load for.
_NOT_FOR_LOADERS = {signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGINT)}
_PROCESS = re.compile(r"pid\D*(\d+)")  # in PyTorch's messages


class UndisturbedLoader(DataLoader[Chunk]):
    """A loader whose processes never see signals that are not for them, not even as they start.

    That one of them was ended from outside is an error of its next batch, and of nothing before.
    """

    def __iter__(self) -> Any:
        """Batches, from processes that are started now."""
        if self.num_workers == 0:
            return super().__iter__()
        context: Any = self.multiprocessing_context or multiprocessing
        if os.name != "nt" and context.get_start_method() != "fork":
            # It would be started with the first process, and let all signals through again.
            resource_tracker.ensure_running()
        with signals_held_back(_NOT_FOR_LOADERS):
            return _Batches(super().__iter__())


class _Ends:
    """Ends of loading processes from outside, kept until a batch of theirs is asked for.

    PyTorch's handler of SIGCHLD raises them wherever the main thread happens to be, also where it
    has just taken a lock of a queue to these processes, which then nobody gives back: ending the
    loader would wait for it for ever.
    """

    def __init__(self) -> None:
        self._errors: dict[int, str] = {}  # by the process; no error itself, which holds a stack
        self._handler: Any = None  # PyTorch's

    def note_from_now_on(self, processes: Collection[int]) -> None:
        """Stand in for PyTorch's handler, which is there since its first loading process."""
        for process in processes:
            self._errors.pop(process, None)  # of an earlier one of that number
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or not hasattr(signal, "SIGCHLD"):
            return  # there is no such handler either: PyTorch looks every few seconds
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, "__module__", "") == signal_handling.__name__:
            self._handler = handler
        # PyTorch does not set it again when somebody has put back what was there before.
        is_free = handler is self._handler or handler in (signal.SIG_DFL, signal.SIG_IGN)
        if self._handler is not None and is_free:
            signal.signal(signal.SIGCHLD, self._note)

    def _note(self, number: int, frame: Any) -> None:
        try:
            self._handler(number, frame)
        except RuntimeError as error:
            if (process := _PROCESS.search(str(error))) is None:
                raise  # another's: PyTorch's handler calls the one before it
            self._errors[int(process[1])] = str(error)

    def raise_one_of(self, processes: Collection[int]) -> None:
        """Raise the error of one of these processes, if one was ended."""
        for process in processes:
            if process in self._errors:
                raise RuntimeError(self._errors.pop(process))


_ends = _Ends()


class _FlagContext(BaseContext):
    """The part of a start method's context that makes the events of its processes."""

    def Event(self) -> Any:  # noqa: N802 (multiprocessing's name)
        return Flag(self)


def _context(start_method: str | None) -> BaseContext:
    usual = multiprocessing.get_context(start_method)
    return type("FlagContext", (_FlagContext, type(usual)), {})()


class _Batches(Iterator[Chunk]):
    """The batches of loading processes, and the error of one that was ended from outside."""

    def __init__(self, batches: Any) -> None:
        self._batches: Iterator[Chunk] = batches
        self._processes = [process.pid for process in batches._workers]
        _ends.note_from_now_on(self._processes)

    def __next__(self) -> Chunk:
        _ends.raise_one_of(self._processes)
        try:
            return next(self._batches)
        except (ConnectionError, EOFError) as error:
            if "in DataLoader worker" in str(error):
                raise  # what a process met itself
            # Tensors are fetched from the process that made them.
            raise RuntimeError(f"DataLoader worker exited unexpectedly: {error}") from error


def batch_loader(
    dataset: Dataset[Chunk],
    plan: Sampler[list[ChunkRequest]],
    collate: Callable[[Sequence[Chunk]], SparseBatch],
    *,
    num_workers: int,
    multiprocessing_context: str | None,
    pin_memory: bool,
    persistent_workers: bool,
) -> UndisturbedLoader:
    """The loader of a plan's batches.

    Args:
        dataset: loads a chunk for each request of the plan.
        plan: the requests of each batch.
        collate: makes a batch of its chunks.
        num_workers: processes that load; at 0 this one does.
        multiprocessing_context: how they are started, the platform's default unless set.
        pin_memory: whether batches are in page-locked memory, where there is a GPU.
        persistent_workers: whether they stay for the next pass.
    """
    of_processes: dict[str, Any] = {}
    if num_workers:
        of_processes = {
            "multiprocessing_context": _context(multiprocessing_context),
            "worker_init_fn": outlive_signals,
            "persistent_workers": persistent_workers,
        }
    return UndisturbedLoader(
        dataset,
        batch_sampler=plan,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),
        # Its own, so that starting a loader does not shift the random numbers of training.
        generator=torch.Generator(),
        **of_processes,
    )


def outlive_signals(_: int) -> None:
    """Prepare a loading process for signals that reach all processes of a job at once.

    Terminals, SLURM and shells send them to all of a job. Training then writes its checkpoint
    between two steps, for which it needs its loaders; these end with it, or some seconds after
    SIGTERM.
    """
    for number in _NOT_FOR_LOADERS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
