"""Detections that ``predict`` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from etram_det.inference.writer import DetectionWriter, box_rows
from etram_det.progress import screen
from etram_det.types import Batch, Detections


class PredictionWriter(Callback):
    """Writes the detections of ``predict`` to ``predictions/``, as ``DetectionWriter`` does."""

    def __init__(self) -> None:
        self.writers: dict[int, DetectionWriter] = {}

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
        height, width = batch.events.shape[-2:]
        class_names: Any = pl_module.class_names
        for b, lane in enumerate(lanes):
            if batch.padded[:, b].all():
                continue  # this process has run out of recordings and only keeps the others company
            scale_x, scale_y = batch.scale[b].tolist()
            if batch.reset[b]:
                self._finish(lane)
                sensor_size = round(height * scale_y), round(width * scale_x)
                self.writers[lane] = DetectionWriter(
                    folder, batch.recording[b], class_names, sensor_size
                )
            for t in range(batch.events.shape[0]):
                if not batch.padded[t, b]:
                    time_us = int(batch.time_us[t, b])
                    rows = box_rows(
                        time_us, outputs[t * len(lanes) + b].numpy(), (scale_x, scale_y)
                    )
                    self.writers[lane].add(time_us, rows)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the recordings that ended with the split."""
        self._finish_all()
        folder = self._folder(trainer)
        if trainer.is_global_zero:
            screen().print(f"\ndetections: {folder}", soft_wrap=True)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep what is complete of the recordings that an error or Ctrl-C breaks off."""
        self._finish_all()

    @staticmethod
    def _folder(trainer: pl.Trainer) -> Path:
        # Agreed upon by all processes: all must ask, or none.
        return Path(trainer.log_dir or trainer.default_root_dir) / "predictions"

    def _finish_all(self) -> None:
        for lane in list(self.writers):
            self._finish(lane)

    def _finish(self, lane: int) -> None:
        writer = self.writers.pop(lane, None)
        if writer is not None:
            writer.finish()
