"""What a run shows on screen; results on disk and in TensorBoard; detections that are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelSummary
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from etram_det import __version__
from etram_det.checkpoint.file import parameters_by_part
from etram_det.drawing.frames import Image, frame_image
from etram_det.drawing.plots import as_picture
from etram_det.errors import UserError
from etram_det.inference.writer import DetectionWriter, box_rows
from etram_det.metrics.evaluation import EvaluationResult
from etram_det.models.postprocessing import on_host
from etram_det.progress import above_bars, screen
from etram_det.report.gallery import Gallery
from etram_det.report.metric_plots import precision_recall_plot, show_results
from etram_det.report.page import write_report
from etram_det.report.run_files import (
    ALL_CLASSES,
    CONFUSION_IOU,
    results_of,
    write_results,
)
from etram_det.report.tables import detail_tables, parameters_table, summary_tables
from etram_det.training.callbacks.fit_ending import (
    VIDEO,
    arguments_of,
    next_steps,
    without_failing,
    write_video,
)
from etram_det.training.callbacks.loggers import show_picture
from etram_det.training.callbacks.run_checkpoint import RunCheckpoint
from etram_det.training.exported_network import ExportedNetwork
from etram_det.types import Batch, Detections

FILE_WIDTH = 120  # of tables that go into a file or a pipe, in columns


class ResultsWriter(Callback):
    """Shows what an evaluation found as tables, and keeps it in the run folder and TensorBoard.

    It comes after each validation and test; the files hold the latest evaluation. A training starts
    with a table of the network's parts in place of Lightning's, which counts no operations. Where a
    checkpoint is evaluated, not in training, there are also the recordings' metrics and the
    confusion matrix, pictures of good detections and the worst mistakes, and ``report.html``. A
    training ends with pictures and report of its last validation and a short video of its
    detections.

    Args:
        score_threshold: least score, in [0, 1], of a detection in the confusion matrix, in the
            report's found and missed labels, and in the video, where the score of the best F1
            counts if it is lower.
        pictures: most pictures of each kind: good detections, misses, localisation errors, false
            alarms; 0 for none.
        video_s: seconds of validation recordings in the video ``validation.mp4``, fewer where the
            network is slow; 0 for none.
        report: whether a training ends with pictures and ``report.html``.

    Raises:
        UserError: if a setting is out of its range.
    """

    def __init__(
        self,
        score_threshold: float = 0.3,
        pictures: int = 8,
        video_s: float = 6.0,
        report: bool = True,
    ) -> None:
        if not 0 <= score_threshold <= 1:
            raise UserError(
                f"results.score_threshold: must be in [0, 1], got {score_threshold}: set another"
            )
        if pictures < 0:
            raise UserError(f"results.pictures: must be at least 0, got {pictures}: set 0 for none")
        if not 0 <= video_s <= 3600:
            raise UserError(
                f"results.video_s: must be in [0, 3600], got {video_s}: set 0 for no video"
            )
        self.score_threshold = score_threshold
        self.pictures = pictures
        self.video_s = video_s
        self.report = report
        self.validation: dict[str, Any] = {}
        self._last: dict[str, Any] | None = None  # results of this training's last validation
        self._lists_parameters = False

    def state_dict(self) -> dict[str, Any]:
        """The latest validation of the training and its step, for the checkpoint."""
        return self.validation

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what the checkpoint holds until there is a newer validation."""
        self.validation = state_dict

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the place of Lightning's summary of the network, where there is one."""
        others = [each for each in trainer.callbacks if not isinstance(each, ModelSummary)]
        self._lists_parameters = len(others) < len(trainer.callbacks)
        trainer.callbacks = others

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Print how many parameters the parts of the network have."""
        if self._lists_parameters and trainer.is_global_zero:
            counts = parameters_by_part(pl_module.detector.state_dict())
            screen(width=FILE_WIDTH).print(parameters_table(counts))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print where the best checkpoint lies, or the last one where there was no validation.

        Then write report and video, and print what comes next. Nothing in this ends with an error:
        the training is complete.
        """
        folder = trainer.log_dir  # agreed upon by all processes, so all must ask
        kept = RunCheckpoint.of(trainer)
        if not trainer.is_global_zero:
            return
        checkpoint, line = None, None
        if kept is not None and kept.best_model_path:
            checkpoint = Path(kept.best_model_path)
            line = f"best checkpoint ({kept.monitor} {kept.best_model_score:.3f}): {checkpoint}"
        elif kept is not None and kept.last_model_path:
            checkpoint = Path(kept.last_model_path)
            line = f"last checkpoint: {checkpoint}"
        if line:
            with above_bars():
                screen().out(line)
        looked_at = self._report_of_training(trainer, pl_module, folder, checkpoint)
        data = getattr(trainer, "datamodule", None)
        has_own_data = data is not None and data.root is not None
        with above_bars():
            # A newcomer has no recording yet: one of the simulated ones will do.
            tried = None if has_own_data or data is None else data.recordings.get("val")
            steps = next_steps(
                looked_at,
                checkpoint,
                arguments_of(trainer),
                has_own_data,
                tried[0].path if tried else None,
            )
            for line in steps:
                screen().out(line)

    def _report_of_training(
        self, trainer: Any, module: Any, folder: str | None, checkpoint: Path | None
    ) -> list[Path]:
        """Report and video of a training in its run folder, as far as there are any.

        There is no video without a checkpoint.
        """
        data = getattr(trainer, "datamodule", None)
        results, self._last = self._last, None
        if results is None or folder is None or data is None or trainer.fast_dev_run:
            return []
        written = []
        with without_failing("results: no report of the training"):
            if self.report:
                self._write(
                    trainer, Path(folder), results, module.metric.result, with_pictures=True
                )
                for logger in trainer.loggers:  # whose files the report's curves come from
                    logger.save()
                written.append(write_report([Path(folder)]))
        with without_failing("results.video_s: no video of the validation"):
            if self.video_s and checkpoint and (recordings := data.recordings["val"]):
                path = Path(folder) / VIDEO
                score = _score_of_video(results, self.score_threshold)
                write_video(path, checkpoint, recordings, self.video_s, score)
                written.append(path)
        return written

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the split that was evaluated, except for Lightning's sanity check."""
        folder = trainer.log_dir  # agreed upon by all processes, so all must ask
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        split = trainer.state.stage.dataloader_prefix
        result = pl_module.metric.result  # of the module's own compute(), made just before
        data = getattr(trainer, "datamodule", None)
        dropped = {} if data is None else data.dropped_boxes(split)
        results = results_of(result, score_threshold=self.score_threshold, dropped_by_data=dropped)
        step = pl_module.trained_steps
        results["run"] = {"split": split, **_facts(trainer, pl_module, data)}
        evaluates = trainer.state.fn != "fit"
        if not evaluates:
            # Through JSON: a checkpoint holds plain values only.
            self.validation = {"step": step, "results": json.loads(json.dumps(results))}
            self._last = results
        console = screen(width=FILE_WIDTH)
        with above_bars():
            console.rule(
                split if results["run"]["step"] is None else f"{split}, after {step} steps"
            )
            console.print(summary_tables(results))
            if evaluates:
                console.print(detail_tables(results))
        if folder is not None:
            self._write(trainer, Path(folder), results, result, with_pictures=evaluates)
            if evaluates:
                page = write_report([Path(folder)])
                with above_bars():
                    console.print(f"report: {page}", soft_wrap=True)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                show_results(logger.experiment, results, result.curves, split, step)
            elif isinstance(logger, WandbLogger):
                # W&B's own plot wants scores and labels, not curves.
                plot = precision_recall_plot(result.curves, results["confusion"]["names"][:-1])
                show_picture([logger], f"{split}/PR50", as_picture(plot), step)

    on_test_end = on_validation_end

    def _write(
        self,
        trainer: Any,
        folder: Path,
        results: dict[str, Any],
        result: EvaluationResult,
        with_pictures: bool,
    ) -> None:
        """Write an evaluation into its run folder."""
        data = getattr(trainer, "datamodule", None)
        if with_pictures and data is not None and self.pictures:
            results["gallery"] = self._gallery(data, results["run"]["split"], result).write(folder)
        # Lightning's CSVLogger has a metrics.csv of its own there.
        has_own = any(isinstance(logger, CSVLogger) for logger in trainer.loggers)
        write_results(folder, results, result, "evaluation.csv" if has_own else "metrics.csv")

    def _gallery(self, data: Any, split: str, result: EvaluationResult) -> Gallery:
        """Pictures of what went well and wrong, with frames from the data module's recordings."""
        recordings = {each.name: each for each in data.recordings[split]}
        representation = data.frame_settings.representation
        is_native = result.settings.pixel_frame == "native"

        def draw_frame(name: str, time_us: int) -> tuple[Image, np.ndarray]:
            recording = recordings[name]
            index = int(np.searchsorted(recording.frame_end_us, time_us))
            picture = frame_image(recording.frames(index, index + 1)[0], representation)
            return picture, 1 / np.array(recording.scale) if is_native else np.ones(2)

        return Gallery(
            result.frames,
            result.pairing(score_threshold=self.score_threshold, iou_threshold=CONFUSION_IOU),
            result.settings.reported_classes or ("any class",),
            draw_frame,
            self.pictures,
        )


def _facts(trainer: Any, module: Any, data: Any) -> dict[str, Any]:
    """What is evaluated, on which data; of an exported file no steps and parameters are known."""
    exported = module.detector if isinstance(module.detector, ExportedNetwork) else None
    path = trainer.ckpt_path if exported is None else exported.path
    numbers = [each.numel() for each in module.detector.parameters()]
    return {
        "step": module.trained_steps if exported is None else None,
        "checkpoint": None if path is None else str(path),
        "data": None if data is None else data.root or "simulated traffic",
        "input_size": None if data is None else list(data.input_size),
        "forget_every": module.hparams.get("forget_every"),
        "parameters": sum(numbers) if exported is None else None,
        "version": __version__,
    }


class PredictionWriter(Callback):
    """Writes the detections of ``predict`` to ``predictions/``, as ``DetectionWriter`` does."""

    def __init__(self) -> None:
        self._writers: dict[int, DetectionWriter] = {}  # by lane

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: list[Detections], batch: Batch, *_: int
    ) -> None:
        """Take the detections of one chunk; a recording that has ended is written."""
        folder = _folder(trainer)
        facts = (batch.lane, batch.reset, batch.padded, batch.time_us, batch.scale)
        lane_of, reset, padded, times_us, scales = on_host(facts)
        lanes = lane_of.tolist()
        height, width = batch.events.shape[-2:]
        for b, lane in enumerate(lanes):
            if padded[:, b].all():
                continue  # this process has run out of recordings and only keeps the others company
            scale = scale_x, scale_y = tuple(scales[b].tolist())
            if reset[b]:
                self._finish(lane)
                sensor_size = round(height * scale_y), round(width * scale_x)
                self._writers[lane] = DetectionWriter(
                    folder, batch.recording[b], pl_module.class_names, sensor_size
                )
            for t, time_us in enumerate(times_us[:, b].tolist()):
                if not padded[t, b]:
                    rows = box_rows(time_us, outputs[t * len(lanes) + b].numpy(), scale)
                    self._writers[lane].add(time_us, rows)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the recordings that ended with the split."""
        self._finish(*self._writers)
        folder = _folder(trainer)
        if trainer.is_global_zero:
            with above_bars():
                screen().print(f"detections are in {folder}", soft_wrap=True)

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


def _score_of_video(results: Mapping[str, Any], most: float) -> float:
    """The score of the best F1 over all classes, at which something is to be seen, or a lower one.

    Scores of a short training are low.
    """
    best = results["best_scores"][ALL_CLASSES]
    return most if best is None else min(most, best["score"])
