"""What is wrong with recordings, logged: unreadable chunks, dropped and repaired events."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from etram_det.data.recording import REPAIRED_SHARE, dropped_events, repaired_events
from etram_det.errors import UserError
from etram_det.types import Batch

_MAX_IN_A_ROW = 10  # batches without anything read, before all recordings are tried
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
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any, **__: Any
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
                _log.warning("%s: %s or leave it out by data.subset", name, repaired_events(share))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was dropped in the epoch or evaluation."""
        split = _split(trainer)
        counts = self._outside.pop(split, Counter())
        if counts and counts != self._logged.get(split):
            self._logged[split] = counts
            more = f" and {len(counts) - 5} more recordings" if len(counts) > 5 else ""
            dropped = dropped_events(counts.total())
            _log.warning("%s: %s: %s%s", split, dropped, _listed(counts, 5), more)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end
    on_validation_end = on_test_end = on_predict_end = on_train_epoch_end


class UnreadableRecordings(Callback):
    """Logs each unreadable recording once, and counts the chunks that it costs.

    A lane whose chunk could not be read, where ``data.on_unreadable_recording`` is ``skip``, starts
    anew after it. The count is logged as ``train/unread_chunks``, that of rank zero; each process
    names its own recordings. The run ends if no recording can be read any more.

    Attributes:
        num_unread: chunks that could not be read, by recording.
    """

    state_key = "BadRecordings"  # in checkpoints, since the first release

    def __init__(self) -> None:
        self.num_unread: Counter[str] = Counter()
        self._num_in_a_row = 0

    def state_dict(self) -> dict[str, int]:
        """The counts, which a resumed run goes on from."""
        return dict(self.num_unread)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over the counts of a checkpoint."""
        self.num_unread = Counter(state_dict)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count and log what is missing in a batch, and let its lanes start anew.

        Raises:
            UserError: if there is nothing left to train on.
        """
        for b, fault in batch.faults.items():
            name = batch.recording[b]
            if name not in self.num_unread:
                damage = f"{name} is skipped where it is damaged: {fault}"
                _log.warning("data.on_unreadable_recording: %s", damage)
            self.num_unread[name] += 1
        if batch.faults:
            pl_module.train_states.clear_lanes(batch.padded.all(dim=0))
        has_nothing = len(batch.faults) == len(batch.recording)
        self._num_in_a_row = self._num_in_a_row + 1 if has_nothing else 0
        if has_nothing and self._num_in_a_row % _MAX_IN_A_ROW == 0:
            _require_readable(trainer)
        if self.num_unread:
            # On the CPU: to bring a number to the device is to wait for it.
            number = torch.tensor(float(self.num_unread.total()))
            pl_module.log("train/unread_chunks", number, batch_size=1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the counts, if there are any."""
        if self.num_unread:
            chunks = f"chunks that could not be read: {_listed(self.num_unread)}"
            _log.warning("data.on_unreadable_recording: %s", chunks)


def _split(trainer: pl.Trainer) -> str:
    """``train``, ``val``, ``test`` or ``predict``."""
    assert trainer.state.stage is not None
    return str(trainer.state.stage.dataloader_prefix)


def _listed(counts: Counter[str], most: int | None = None) -> str:
    return ", ".join(f"{count:,} of {name}" for name, count in counts.most_common(most))


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
        f"read any more, the last: {fault}: repair data.root, then use --resume auto",
        exit_code=1,
    )
