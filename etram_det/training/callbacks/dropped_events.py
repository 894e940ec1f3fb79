"""Dropped and repaired events, logged so that no loss passes in silence."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from etram_det.types import Batch

REPAIRED_SHARE = 0.01  # of a recording's events: more are no stray timestamps

_log = logging.getLogger(__name__)


class DroppedEvents(Callback):
    """Logs events that were dropped or moved in time, by recording.

    A recording of which more than a hundredth of the timestamps was repaired is named when it is
    first read. Events outside the sensor are counted, and the counts logged at the end of an epoch
    or evaluation if they differ from the one before. Each process logs its own recordings.
    """

    def __init__(self) -> None:
        self._repaired: set[str] = set()
        self._outside: dict[str, Counter[str]] = {}
        self._logged: dict[str, Counter[str]] = {}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count dropped and repaired events of a batch, except in Lightning's sanity check."""
        if trainer.sanity_checking:
            return
        counts = self._outside.setdefault(_split(trainer), Counter())
        for b, num_outside in batch.num_outside.items():
            counts[batch.recording[b]] += num_outside
        for b, share in batch.repaired_share.items():
            name = batch.recording[b]
            if share > REPAIRED_SHARE and name not in self._repaired:
                self._repaired.add(name)
                _log.warning(
                    "%s: %.0f%% of its events have an earlier timestamp than the event before and "
                    "take that one: many are in a wrong frame or in none. Repair the recording or "
                    "leave it out by data.subset",
                    name,
                    100 * share,
                )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was dropped in the epoch or evaluation."""
        split = _split(trainer)
        counts = self._outside.pop(split, Counter())
        if counts and counts != self._logged.get(split):
            self._logged[split] = counts
            named = ", ".join(f"{count:,} of {name}" for name, count in counts.most_common(5))
            more = f" and {len(counts) - 5} more recordings" if len(counts) > 5 else ""
            _log.warning(
                "%s: %s events outside the sensor were dropped: %s%s",
                split,
                f"{counts.total():,}",
                named,
                more,
            )

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end
    on_validation_end = on_test_end = on_predict_end = on_train_epoch_end


def _split(trainer: pl.Trainer) -> str:
    """``train``, ``val``, ``test`` or ``predict``."""
    assert trainer.state.stage is not None
    return str(trainer.state.stage.dataloader_prefix)
