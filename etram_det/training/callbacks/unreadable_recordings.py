"""Recordings that cannot be read in training, with ``data.on_unreadable_recording: skip``."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from etram_det.errors import UserError
from etram_det.types import Batch

_MOST_IN_A_ROW = 10  # batches without anything read, before it is asked whether anything can be
_log = logging.getLogger(__name__)


class UnreadableRecordings(Callback):
    """Tells of each recording that cannot be read, once, and counts the chunks that it costs.

    A lane whose chunk could not be read starts anew after it. The count is logged as
    ``train/unread_chunks``; on several processes each one tells of its own recordings, and the
    first one's count is logged. The run ends where no recording can be read any more.

    Attributes:
        num_unread: chunks that could not be read, by recording.
    """

    def __init__(self) -> None:
        self.num_unread: Counter[str] = Counter()
        self._num_in_a_row = 0

    @property
    def state_key(self) -> str:
        """Name of the state in checkpoints, that of the first release."""
        return "BadRecordings"

    def state_dict(self) -> dict[str, int]:
        """The counts, which a resumed run goes on from."""
        return dict(self.num_unread)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over the counts of a checkpoint."""
        self.num_unread = Counter({name: int(count) for name, count in state_dict.items()})

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count and tell what is missing in a batch, and let its lanes start anew.

        Raises:
            UserError: if there is nothing left to train on.
        """
        for b, fault in batch.faults.items():
            name = batch.recording[b]
            if name not in self.num_unread:
                _log.warning(
                    "data.on_unreadable_recording: %s is skipped where it is damaged: %s",
                    name,
                    fault,
                )
            self.num_unread[name] += 1
        if batch.faults:
            unread = torch.zeros(len(batch.recording), dtype=torch.bool)
            unread[list(batch.faults)] = True
            pl_module.train_states.clear_lanes(unread.to(pl_module.device))
        has_nothing = len(batch.faults) == len(batch.recording)
        self._num_in_a_row = self._num_in_a_row + 1 if has_nothing else 0
        if has_nothing and self._num_in_a_row % _MOST_IN_A_ROW == 0:
            _require_readable(trainer)
        if self.num_unread:
            pl_module.log("train/unread_chunks", float(self.num_unread.total()), batch_size=1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the counts, if there are any."""
        if self.num_unread:
            _log.warning(
                "data.on_unreadable_recording: chunks that could not be read: %s",
                ", ".join(f"{count} of {name}" for name, count in self.num_unread.most_common()),
            )


def _require_readable(trainer: Any) -> None:
    """Refuse to go on where not even the first frame of any training recording can be read."""
    recordings = trainer.datamodule.recordings["train"]
    for recording in recordings:
        try:
            recording.frames(0, 1)
            return
        except (UserError, OSError) as error:
            fault = str(error)
    raise UserError(
        f"data.on_unreadable_recording: none of the {len(recordings)} training recordings can be "
        f"read any more, the last: {fault}: mend data.root, then go on with --resume auto",
        exit_code=1,
    )
