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


class DirtyRecordings(Callback):
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
        *_: Any,
    ) -> None:
        """Count what was cleaned in a batch of training."""
        self._count("train", batch)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        *_: Any,
    ) -> None:
        """Count what was cleaned in a batch of validation, Lightning's sanity check left out."""
        if not trainer.sanity_checking:
            self._count("val", batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        *_: Any,
    ) -> None:
        """Count what was cleaned in a batch of the test."""
        self._count("test", batch)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        *_: Any,
    ) -> None:
        """Count what was cleaned in a batch of prediction."""
        self._count("predict", batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell what was dropped in the epoch."""
        self._tell("train")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell what was dropped in the validation."""
        self._tell("val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell what was dropped in the test."""
        self._tell("test")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell what was dropped in the prediction."""
        self._tell("predict")

    def _count(self, split: str, batch: Batch) -> None:
        counts = self._outside.setdefault(split, Counter())
        for b, num_outside in batch.num_outside.items():
            counts[batch.recording[b]] += num_outside
        for b, share in batch.mended_share.items():
            name = batch.recording[b]
            if share > MENDED_SHARE and name not in self._mended:
                self._mended.add(name)
                _log.warning(
                    "%s: %.0f%% of its events have a stamp behind an earlier one and take that "
                    "one: many are in a wrong frame or in none; mend the recording or take it out",
                    *(name, 100 * share),
                )

    def _tell(self, split: str) -> None:
        counts = self._outside.pop(split, Counter())
        if counts and counts != self._told.get(split):
            self._told[split] = counts
            named = ", ".join(f"{count:,} of {name}" for name, count in counts.most_common(5))
            more = f" and {len(counts) - 5} more recordings" if len(counts) > 5 else ""
            _log.warning(
                "%s: %s events outside the sensor were dropped: %s%s",
                *(split, f"{counts.total():,}", named, more),
            )
