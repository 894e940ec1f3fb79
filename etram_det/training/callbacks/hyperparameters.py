"""Settings of a run as they turned out, beside its metrics, where loggers compare runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from etram_det.metrics.records import flat_metrics

# Too long for a table, or there under another name.
_LEFT_OUT = ("class_names", "class_groups", "size_bins", "train_lanes", "init_from")


class HyperParameters(Callback):
    """Logs the settings of a training: loss variant, weight type, rates, data, budget.

    Names are those of the flags, values are resolved: the learning rate that follows from the
    batch, thresholds that follow from the labels. TensorBoard lists them under HPARAMS with the
    validation's AP and AR, over all sizes and by size bin, from the first validation on; there and
    in W&B the last validation counts.
    """

    def __init__(self) -> None:
        self._is_logged = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log to all loggers but TensorBoard, which needs the names of the metrics, too."""
        self._is_logged = False
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(hyper_parameters(trainer, pl_module))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log to TensorBoard once; it takes the metrics from the scalars, as they come."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or self._is_logged:
            return
        self._is_logged = True
        if not trainer.is_global_zero:
            return
        records = [r for r in pl_module.metric.result.records if not (r.part or r.class_name)]
        names = [f"val/{name}" for name in flat_metrics(records)]
        metrics = {name: 0.0 for name in names if name in trainer.callback_metrics}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for summary in hparams(hyper_parameters(trainer, pl_module), metrics):
                    logger.experiment.file_writer.add_summary(summary)


def hyper_parameters(trainer: pl.Trainer, module: Any) -> dict[str, bool | int | float | str]:
    """What a run trains with, by the names of the flags.

    Args:
        trainer: of the run, which has set up its optimiser.
        module: the ``DetectionModule``.
    """
    model = {name: value for name, value in module.hparams.items() if name not in _LEFT_OUT}
    settings = {f"model.{name}": value for name, value in model.items() if name[0] != "_"}
    # Adam remembers the highest rate, which the schedule starts below.
    settings["model.learning_rate"] = trainer.optimizers[0].defaults["lr"]
    settings |= {f"model.loss{name}": value for name, value in _loss_settings(module.loss).items()}
    data = getattr(trainer, "datamodule", None)
    if data is not None:
        of_data = ("root", "subset", "sampling", "num_steps", "train_lanes", "seed")
        settings |= {f"data.{name}": getattr(data, name) for name in of_data}
        settings |= {f"data.{name}": value for name, value in asdict(data.frame_settings).items()}
        settings["data.filters"] = data.label_settings.filters
    of_trainer = "max_steps accumulate_grad_batches gradient_clip_val precision world_size"
    settings |= {f"trainer.{name}": getattr(trainer, name) for name in of_trainer.split()}
    return {name: _plain(value) for name, value in settings.items()}


def _loss_settings(loss: Any) -> dict[str, Any]:
    settings = {
        "": type(loss).__name__,
        ".box": type(loss.box).__name__,
        ".classification": type(loss.classification).__name__,
        ".box_gain": loss.box_gain,
        ".weighted_terms": sorted(loss.weighted_terms),
        ".weight_type": None,
    }
    weight = loss.size_weight
    if weight is not None:
        settings |= {
            ".weight_type": weight.weight_type,
            ".size_aware_weight": weight.size_aware_weight,
            ".small_threshold": float(weight.small_threshold),
            ".medium_threshold": float(weight.medium_threshold),
            ".unit_mean": weight.unit_mean,
        }
    return settings


def _plain(value: Any) -> bool | int | float | str:
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
