"""Loading processes and the signals that reach all processes of a job at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
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
    """A loader whose processes never see signals that are not for them, not even as they start."""

    def __iter__(self) -> Any:
        """Batches, from processes that are started now."""
        if self.num_workers == 0:
            return super().__iter__()
        context: Any = self.multiprocessing_context or multiprocessing
        if os.name != "nt" and context.get_start_method() != "fork":
            # It would be started with the first process, and let all signals through again.
            resource_tracker.ensure_running()
        with signals_held_back(_NOT_FOR_LOADERS):
            return super().__iter__()


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
            "multiprocessing_context": multiprocessing_context,
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
