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
        self._writers: dict[int, DetectionWriter] = {}  # by lane

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: list[Detections], batch: Batch, *_: int
    ) -> None:
        """Take the detections of one chunk; a recording that has ended is written."""
        folder = _folder(trainer)
        lanes = batch.lane.tolist()
        height, width = batch.events.shape[-2:]
        for b, lane in enumerate(lanes):
            if batch.padded[:, b].all():
                continue  # this process has run out of recordings and only keeps the others company
            scale = scale_x, scale_y = tuple(batch.scale[b].tolist())
            if batch.reset[b]:
                self._finish(lane)
                sensor_size = round(height * scale_y), round(width * scale_x)
                self._writers[lane] = DetectionWriter(
                    folder, batch.recording[b], pl_module.class_names, sensor_size
                )
            for t, time_us in enumerate(batch.time_us[:, b].tolist()):
                if not batch.padded[t, b]:
                    rows = box_rows(time_us, outputs[t * len(lanes) + b].numpy(), scale)
                    self._writers[lane].add(time_us, rows)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the recordings that ended with the split."""
        self._finish(*self._writers)
        folder = _folder(trainer)
        if trainer.is_global_zero:
            screen().print(f"\ndetections: {folder}", soft_wrap=True)

    def on_exception(self, *_: Any) -> None:
        """Keep what is complete of the recordings that an error or Ctrl-C breaks off."""
        self._finish(*self._writers)

    def _finish(self, *lanes: int) -> None:
        for lane in lanes:
            if lane in self._writers:
                self._writers.pop(lane).finish()


def _folder(trainer: pl.Trainer) -> Path:
    # Agreed upon by all processes: all must ask, or none.
    return Path(trainer.log_dir or trainer.default_root_dir) / "predictions"
