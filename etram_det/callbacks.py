"""What watches a run: results on screen and on disk, and detections written by ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from rich.console import Console

from etram_det.report.predictions import BoxFileWriter
from etram_det.report.table import metrics_tables, write_metrics
from etram_det.types import Batch, Detections


class RunProgressBar(TQDMProgressBar):
    """One bar for the whole training, so that it tells when the run will end.

    Lightning's own counts an epoch, which is of no interest where training goes by steps.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Set the bar's length once the number of batches is known."""
        batches = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        self.train_progress_bar.total = batches
        self.train_progress_bar.initial = trainer.fit_loop.total_batch_idx + 1

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count batches from the start of the run."""
        super().on_train_batch_end(
            trainer, pl_module, outputs, batch, trainer.fit_loop.total_batch_idx
        )

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands behind the bar: the loss."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return dict(metrics)


class ResultsWriter(Callback):
    """Shows the size-binned figures as a table and keeps them as ``metrics.json``.

    Both come after each validation and test; the file lies in the run folder and always holds the
    latest evaluation.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the validation split, except for Lightning's sanity check."""
        if not trainer.sanity_checking:
            self._report(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the test split."""
        self._report(trainer, pl_module, "test")

    @staticmethod
    def _report(trainer: pl.Trainer, module: Any, split: str) -> None:
        result = module.metric.result  # of the module's own compute(), made just before
        if trainer.is_global_zero:
            figures, description = result.figures(), result.description()
            console = Console()
            console.rule(f"{split}, after {trainer.global_step} steps")
            console.print(metrics_tables(figures, description))
            if trainer.log_dir is not None:
                write_metrics(Path(trainer.log_dir), figures, description)


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
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "predictions"
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

    def _finish(self, lane: int) -> None:
        writer: Any = self.writers.pop(lane, None)
        if writer is not None:
            writer.write()
