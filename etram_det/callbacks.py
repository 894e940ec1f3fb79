"""What watches a run: results on screen and on disk, and detections written by ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console

from etram_det.report.predictions import BoxFileWriter
from etram_det.report.results import results_of, write_results
from etram_det.report.table import detail_tables, summary_tables
from etram_det.report.tensorboard import show_results
from etram_det.types import Batch, Detections, UserError

FILE_WIDTH = 120  # of tables that go into a file or a pipe, in columns


class RunProgressBar(TQDMProgressBar):
    """One bar for the whole training, so that it tells when the run will end.

    Lightning's own counts an epoch, which is of no interest where training goes by steps.
    """

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start where a resumed run left off, so that its pace counts only what is done now."""
        super().on_train_start(trainer)
        self.train_progress_bar.initial = trainer.fit_loop.total_batch_idx + 1

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Set the bar's length, now that the number of batches is known."""
        batches = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        self.train_progress_bar.total = batches

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
    """Shows what an evaluation found as tables, and keeps it in the run folder and TensorBoard.

    It comes after each validation and test; the files hold the latest evaluation. The recordings'
    figures and the confusion matrix are shown where a checkpoint is evaluated, not in training.

    Args:
        score_threshold: least score of a detection in the confusion matrix, in [0, 1].

    Raises:
        UserError: if the threshold is out of its range.
    """

    def __init__(self, score_threshold: float = 0.3) -> None:
        if not 0 <= score_threshold <= 1:
            raise UserError(
                f"results.score_threshold: must lie in [0, 1], found {score_threshold}: correct it"
            )
        self.score_threshold = score_threshold

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the validation split, except for Lightning's sanity check."""
        if not trainer.sanity_checking:
            self._report(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the test split."""
        self._report(trainer, pl_module, "test")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where the best checkpoint lies."""
        kept = trainer.checkpoint_callback
        if isinstance(kept, ModelCheckpoint) and kept.best_model_path and trainer.is_global_zero:
            figure = (
                "" if kept.monitor is None else f" ({kept.monitor} {kept.best_model_score:.3f})"
            )
            Console().print(f"\nbest checkpoint{figure}: {kept.best_model_path}", soft_wrap=True)

    def _report(self, trainer: pl.Trainer, module: Any, split: str) -> None:
        folder = trainer.log_dir  # agreed upon by all processes, so all must ask
        if not trainer.is_global_zero:
            return
        result = module.metric.result  # of the module's own compute(), made just before
        data = getattr(trainer, "datamodule", None)
        results = results_of(
            result,
            score_threshold=self.score_threshold,
            dropped_by_data=data.dropped_boxes(split) if data is not None else {},
        )
        console = Console()
        if not console.is_terminal:
            console.width = FILE_WIDTH
        console.print()  # off the progress bar's line
        console.rule(f"{split}, after {trainer.global_step} steps")
        console.print(summary_tables(results))
        if trainer.state.fn != "fit":
            console.print(detail_tables(results))
        if folder is not None:
            # Lightning's CSVLogger has a metrics.csv of its own there.
            has_own = any(isinstance(logger, CSVLogger) for logger in trainer.loggers)
            figures_file = "evaluation.csv" if has_own else "metrics.csv"
            write_results(Path(folder), results, result, figures_file)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                writer = logger.experiment
                show_results(writer, results, result.curves, split, trainer.global_step)


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
