"""What becomes of a process when another one of the same run dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

_LOOK_EVERY_S = 0.5


class ProcessWatch(Callback):
    """Ends a process that waits for another one in vain.

    Of the processes that Lightning or a launcher starts on a machine, the first watches those that
    it has started, and these watch what has started them. Most backends notice by themselves that
    a process is gone, and end with an error; what waits on nevertheless is ended from here with
    one line and exit code 1.

    Args:
        patience_s: seconds that a process has to end by itself after another one has died.
    """

    def __init__(self, patience_s: float = 30.0) -> None:
        self.patience_s = patience_s
        self._is_watching = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start to watch, once, now that all processes have been started."""
        if self._is_watching:
            return
        children: list[subprocess.Popen] = getattr(trainer.strategy.launcher, "procs", [])
        if children:
            watched = list(children)
            # Lightning's own observer kills this process without a word: it is left nothing to see.
            trainer.strategy.launcher.procs = list(children)  # type: ignore[union-attr]
            children.clear()
            self._watch(lambda: _dead_child(watched))
        elif trainer.world_size > 1 and trainer.local_rank > 0:
            parent = os.getppid()
            self._watch(lambda: _dead_parent(parent))

    def _watch(self, death: Callable[[], str | None]) -> None:
        self._is_watching = True
        arguments = (death, self.patience_s)
        threading.Thread(target=_wait_and_end, args=arguments, daemon=True).start()


def _wait_and_end(death: Callable[[], str | None], patience_s: float) -> None:
    while (text := death()) is None:
        time.sleep(_LOOK_EVERY_S)
    time.sleep(patience_s)  # this thread ends with its process, if that does not wait in vain
    sys.stderr.write(f"\netram_det: error: {text}, so this process ends too\n")
    sys.stderr.flush()
    os._exit(1)


def _dead_child(children: Sequence[subprocess.Popen]) -> str | None:
    """Which of the other processes has failed, if any."""
    for rank, child in enumerate(children, start=1):
        code = child.poll()
        if code is not None and code < 0:
            return f"process {rank} of the run was killed by {signal.Signals(-code).name}"
        if code:
            return f"process {rank} of the run has ended with exit code {code}"
    return None


def _dead_parent(parent: int) -> str | None:
    return None if os.getppid() == parent else "the first process of the run is gone"
