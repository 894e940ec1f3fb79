"""Detections that ``predict`` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console

from etram_det.report.predictions import BoxFileWriter
from etram_det.types import Batch, Detections


class PredictionWriter(Callback):
    """Writes the detections of ``predict`` to ``predictions/<recording>_bbox.npy``."""

    def __init__(self) -> None:
        self.writers: dict[int, BoxFileWriter] = {}

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: list[Detections],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the detections of one chunk; a recording that has ended is written."""
        folder = self._folder(trainer)
        lanes = batch.lane.tolist()
        for b, lane in enumerate(lanes):
            if batch.padded[:, b].all():
                continue  # this process has run out of recordings and only keeps the others company
            if batch.reset[b]:
                self._finish(lane)
                self.writers[lane] = BoxFileWriter(folder, batch.recording[b])
            scale_x, scale_y = batch.scale[b].tolist()
            for t in range(batch.events.shape[0]):
                if not batch.padded[t, b]:
                    detections = outputs[t * len(lanes) + b]
                    time_us = int(batch.time_us[t, b])
                    self.writers[lane].add(time_us, detections, (scale_x, scale_y))

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the recordings that ended with the split."""
        for lane in list(self.writers):
            self._finish(lane)
        folder = self._folder(trainer)
        if trainer.is_global_zero:
            Console().print(f"\ndetections: {folder}", soft_wrap=True)

    @staticmethod
    def _folder(trainer: pl.Trainer) -> Path:
        # Agreed upon by all processes: all must ask, or none.
        return Path(trainer.log_dir or trainer.default_root_dir) / "predictions"

    def _finish(self, lane: int) -> None:
        writer: Any = self.writers.pop(lane, None)
        if writer is not None:
            writer.write()
