"""Loading processes and the signals that reach all processes of a job at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from etram_det.data.chunks import Chunk
from etram_det.data.held_signals import signals_held_back
from etram_det.data.sparse_batch import SparseBatch
from etram_det.data.streaming import ChunkRequest

_GRACE_S = 20  # from SIGTERM to the end of a loading process
# Signals that loading processes leave to the process that they load for.
_NOT_FOR_LOADERS = {signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGINT)}


class UndisturbedLoader(DataLoader[Chunk]):
    """A loader whose processes never see signals that are not for them, not even as they start.

    That one of them was ended from outside is an error of the next batch, and of nothing before.
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
            batches = super().__iter__()
        _ends.note_from_now_on()
        return _Batches(batches)


class _Ends:
    """Errors of loading processes that were ended from outside, kept until a batch is asked for.

    PyTorch's handler of SIGCHLD raises them wherever the main thread happens to be, also where it
    has just taken a lock of a queue to these processes, which then nobody gives back: ending the
    loader would wait for it for ever.
    """

    def __init__(self) -> None:
        self._errors: list[RuntimeError] = []
        self._handler: Any = None  # PyTorch's

    def note_from_now_on(self) -> None:
        """Stand in for PyTorch's handler, which is there since its first loading process."""
        self._errors.clear()  # a loader in use notices by itself, when its batch stays away
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or not hasattr(signal, "SIGCHLD"):
            return  # there is no such handler either: PyTorch looks every few seconds
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._note:
            self._handler = handler
            signal.signal(signal.SIGCHLD, self._note)

    def _note(self, number: int, frame: Any) -> None:
        try:
            self._handler(number, frame)
        except RuntimeError as error:
            self._errors.append(error)

    def raise_first(self) -> None:
        """Raise the error that was noted first, if there is one."""
        if self._errors:
            raise self._errors.pop(0)


_ends = _Ends()


class _Flag:
    """An event without a lock, which a process that is ended from outside could take along.

    PyTorch tells its loading processes by one that they are wanted no more.
    """

    def __init__(self, context: BaseContext) -> None:
        self._value = context.RawValue("b", 0)

    def set(self) -> None:
        """Set it, for good."""
        self._value.value = 1

    def is_set(self) -> bool:
        """Whether a process has set it."""
        return bool(self._value.value)


class _FlagContext(BaseContext):
    """The part of a start method's context that makes the events of its processes."""

    def Event(self) -> Any:  # noqa: N802 (multiprocessing's name)
        return _Flag(self)


def _context(start_method: str | None) -> BaseContext:
    usual = multiprocessing.get_context(start_method)
    return type("FlagContext", (_FlagContext, type(usual)), {})()


class _Batches(Iterator[Chunk]):
    """The batches of loading processes, and the error of one that was ended from outside."""

    def __init__(self, batches: Iterator[Chunk]) -> None:
        self._batches = batches

    def __next__(self) -> Chunk:
        _ends.raise_first()
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
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
