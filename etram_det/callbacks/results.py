"""Results of an evaluation on screen, on disk and in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console

from etram_det.report.results import results_of, write_results
from etram_det.report.table import detail_tables, summary_tables
from etram_det.report.tensorboard import show_results
from etram_det.types import UserError

FILE_WIDTH = 120  # of tables that go into a file or a pipe, in columns


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
