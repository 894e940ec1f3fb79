"""Signals that ask a run to end, SIGTERM and SIGUSR1, and the requeueing of SLURM jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import Any

import pytorch_lightning as pl

from etram_det.training.lightning_internals import slurm_environment


class StopSignals:
    """Remembers that this process was asked to end; training looks between its steps.

    A handler can run in the middle of anything, a step or the writing of a checkpoint included, so
    it does no work. Lightning's own handlers, which write and requeue at once, are replaced.

    Attributes:
        received: number of the last such signal, 0 for none.
        requeues: the signal after which SLURM is asked to start the job again, 0 for none: the one
            of Lightning's ``SLURMEnvironment``, SIGUSR1 unless set.
    """

    def __init__(self) -> None:
        self.received = 0
        self.requeues = 0

    def listen(self, trainer: pl.Trainer) -> None:
        """Take over from Lightning's handlers, which a trainer puts back when it ends."""
        environment = slurm_environment(trainer)
        if environment is not None and environment.auto_requeue:
            self.requeues = int(environment.requeue_signal or 0)
        if trainer.received_sigterm:  # since Lightning listened
            self.received = signal.SIGTERM
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        numbers = {signal.SIGTERM, getattr(signal, "SIGUSR1", 0), self.requeues}
        for number in numbers - {0}:
            signal.signal(number, self._note)

    def _note(self, number: int, _: Any) -> None:
        self.received = number


def requeue_job() -> str:
    """Have SLURM start this job again; returns in a few words what came of it."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return f"job {job} could not be requeued: scontrol: {error.strerror}"
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        return f"job {job} could not be requeued: scontrol: {said}"
    return f"SLURM has requeued job {job}"
