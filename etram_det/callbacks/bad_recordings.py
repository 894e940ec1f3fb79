"""Recordings that cannot be read while training, where ``data.on_bad_recording`` is ``skip``."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from etram_det.types import Batch

_log = logging.getLogger(__name__)


class BadRecordings(Callback):
    """Tells of each recording that cannot be read, once, and counts the chunks that it costs.

    A lane whose chunk could not be read starts anew after it. The count is logged as
    ``train/unread_chunks``; on several processes each one tells of its own recordings, and the
    first one's count is logged.

    Attributes:
        num_unread: chunks that could not be read, by recording.
    """

    def __init__(self) -> None:
        self.num_unread: Counter[str] = Counter()

    def state_dict(self) -> dict[str, int]:
        """The counts, which a resumed run goes on from."""
        return dict(self.num_unread)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over the counts of a checkpoint."""
        self.num_unread = Counter(state_dict)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count and tell what is missing in a batch, and let its lanes start anew."""
        for b, fault in batch.faults.items():
            name = batch.recording[b]
            if name not in self.num_unread:
                _log.warning(
                    "data.on_bad_recording: %s is skipped where it is damaged: %s", name, fault
                )
            self.num_unread[name] += 1
        if batch.faults:
            unread = torch.zeros(len(batch.recording), dtype=torch.bool)
            unread[list(batch.faults)] = True
            pl_module.train_states.clear_lanes(unread.to(pl_module.device))
        if self.num_unread:
            pl_module.log("train/unread_chunks", float(self.num_unread.total()), batch_size=1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the counts, if there are any."""
        if self.num_unread:
            _log.warning(
                "data.on_bad_recording: chunks that could not be read: %s",
                ", ".join(f"{count} of {name}" for name, count in self.num_unread.most_common()),
            )
