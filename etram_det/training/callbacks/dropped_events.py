"""What was cleaned in recordings as they were read, told so that no loss passes in silence."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from etram_det.types import Batch

MENDED_SHARE = 0.01  # from here on it is no stray stamp any more

_log = logging.getLogger(__name__)


class DroppedEvents(Callback):
    """Tells of events that were dropped or moved in time, by the recordings they belong to.

    A recording of which more than a hundredth of the stamps was mended is named when it is first
    read. Events outside the sensor are counted, and their numbers told at the end of an epoch or
    evaluation where they are not those of the one before. On several processes each one tells of
    its own recordings.
    """

    def __init__(self) -> None:
        self._mended: set[str] = set()
        self._outside: dict[str, Counter[str]] = {}
        self._told: dict[str, Counter[str]] = {}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count what was cleaned in a batch, Lightning's sanity check left out."""
        if trainer.sanity_checking:
            return
        counts = self._outside.setdefault(_split(trainer), Counter())
        for b, num_outside in batch.num_outside.items():
            counts[batch.recording[b]] += num_outside
        for b, share in batch.repaired_share.items():
            name = batch.recording[b]
            if share > MENDED_SHARE and name not in self._mended:
                self._mended.add(name)
                _log.warning(
                    "%s: %.0f%% of its events have a stamp behind an earlier one and take that "
                    "one: many are in a wrong frame or in none; mend the recording or take it out",
                    *(name, 100 * share),
                )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell what was dropped in the epoch or evaluation."""
        split = _split(trainer)
        counts = self._outside.pop(split, Counter())
        if counts and counts != self._told.get(split):
            self._told[split] = counts
            named = ", ".join(f"{count:,} of {name}" for name, count in counts.most_common(5))
            more = f" and {len(counts) - 5} more recordings" if len(counts) > 5 else ""
            _log.warning(
                "%s: %s events outside the sensor were dropped: %s%s",
                *(split, f"{counts.total():,}", named, more),
            )

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end
    on_validation_end = on_test_end = on_predict_end = on_train_epoch_end


def _split(trainer: pl.Trainer) -> str:
    """``train``, ``val``, ``test`` or ``predict``."""
    assert trainer.state.stage is not None
    return str(trainer.state.stage.dataloader_prefix)
