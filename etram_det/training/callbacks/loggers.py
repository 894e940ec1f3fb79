"""What loggers show beside the metrics: settings, facts of each step, pictures, histograms."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils.tensorboard.summary import hparams
from torchvision.ops import box_convert

from etram_det.errors import UserError
from etram_det.metrics.records import flat_metrics
from etram_det.models.assign import SimOTA
from etram_det.models.size_aware_assign import SizeAwareSimOTA
from etram_det.training.tensorboard import RunTensorBoardLogger, tag_of
from etram_det.types import Batch, Labels

MAX_BATCHES = 1000  # whose labels are kept for a histogram
# Settings too long for a table, or there under another name.
_LEFT_OUT = ("class_names", "class_groups", "size_bins", "motion_bins", "train_lanes", "init_from")


def require_packages(settings: Any) -> None:
    """Refuse a ``trainer.logger``, one, a list or a bool, whose package is not there.

    Raises:
        UserError: W&B is asked for and not installed.
    """
    for each in settings if isinstance(settings, list) else [settings]:
        name = getattr(each, "class_path", "").rpartition(".")[2]
        if name == WandbLogger.__name__ and find_spec("wandb") is None:
            raise UserError(
                "trainer.logger: must be a logger whose package is installed, got WandbLogger "
                "without wandb: use pip install 'etram-det[wandb]', or leave log_wandb.yaml out"
            )


def show_picture(
    loggers: Iterable[Logger], name: str, picture: NDArray[np.uint8], step: int
) -> None:
    """Show a picture in TensorBoard and W&B; other loggers have no place for it.

    Args:
        loggers: of the run, on the process that logs.
        name: under which pictures of all steps come together.
        picture: ``[H, W, 3]`` RGB.
        step: number of training steps done.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step)


def is_logged(trainer: Any, steps_done: int) -> bool:
    """Whether Lightning logs the step that comes after so many: the host waits for it anyway."""
    every = trainer.log_every_n_steps
    return every > 0 and (steps_done + 1) % every == 0


class HyperParameters(Callback):
    """Logs the settings of a training: loss variant, weight type, rates, data, budget.

    Names are those of the flags, values are resolved: the learning rate that follows from the
    batch, thresholds that follow from the labels. TensorBoard lists them under HPARAMS with the
    validation's AP and AR, over all sizes and by size bin, from the first validation on; there and
    in W&B the last validation counts.
    """

    def __init__(self) -> None:
        self._is_logged = False

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Let TensorBoard know which metrics come first."""
        for logger in trainer.loggers:
            if isinstance(logger, RunTensorBoardLogger):
                logger.arrange(pl_module.metric.settings)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log to all loggers but TensorBoard, which needs the names of the metrics, too."""
        self._is_logged = False
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(_settings(trainer, pl_module))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log to TensorBoard once; it takes the metrics from the scalars, as they come."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or self._is_logged:
            return
        self._is_logged = True
        if not trainer.is_global_zero:
            return
        records = [r for r in pl_module.metric.result.records if not (r.part or r.class_name)]
        names = [f"val/{name}" for name in flat_metrics(records)]
        names = [name for name in names if name in trainer.callback_metrics]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                metrics = {tag_of(logger, name): 0.0 for name in names}
                for summary in hparams(_settings(trainer, pl_module), metrics):
                    logger.experiment.file_writer.add_summary(summary)


def _settings(trainer: pl.Trainer, module: Any) -> dict[str, bool | int | float | str]:
    """What a run trains with, by the names of the flags, once it has its optimiser."""
    model = {name: value for name, value in module.hparams.items() if name not in _LEFT_OUT}
    settings = {f"model.{name}": value for name, value in model.items() if name[0] != "_"}
    # Adam remembers the highest rate, which the schedule starts below.
    settings["model.learning_rate"] = trainer.optimizers[0].defaults["lr"]
    settings |= {f"model.loss{name}": value for name, value in _loss_settings(module.loss).items()}
    settings |= _assignment_settings(module.loss.assignment)
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
    weight = loss.size_weight
    settings = {
        "": type(loss).__name__,
        ".box": type(loss.box).__name__,
        ".classification": type(loss.classification).__name__,
        ".box_gain": loss.box_gain,
        ".weighted_terms": sorted(loss.weighted_terms),
        ".weight_type": None if weight is None else weight.weight_type,
    }
    if weight is not None:
        for name in ("size_aware_weight", "small_threshold", "medium_threshold"):
            settings[f".{name}"] = float(getattr(weight, name))
        settings[".unit_mean"] = weight.unit_mean
    return settings


def _assignment_settings(assignment: SimOTA) -> dict[str, Any]:
    settings: dict[str, Any] = {"model.assignment": type(assignment).__name__}
    if isinstance(assignment, SizeAwareSimOTA):
        settings["model.assignment.scale"] = float(assignment.scale)
        settings["model.assignment.acts_on"] = sorted(assignment.acts_on)
        for name in ("similarity", "small_points", "small_area"):
            settings[f"model.assignment.{name}"] = getattr(assignment, name)
    return settings


def _plain(value: Any) -> bool | int | float | str:
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


class OptimisationMonitor(Callback):
    """Logs facts of each optimiser step, at the steps that Lightning logs.

    - ``train/learning_rate`` of the step;
    - ``train/steps_per_second`` and ``train/frames_per_second``, of all processes, since the last
      logged step, without the time of validations;
    - ``train/gradient_norm``, over all parameters, before clipping; not finite for a step that
      was skipped as its gradients were not;
    - ``train/size_weight``, a histogram of the weights that a size-aware loss gives to the
      training labels, over the batches since the last one. Other losses have none.
    """

    def __init__(self) -> None:
        self._labels: deque[Labels] = deque(maxlen=MAX_BATCHES)
        self._step = 0
        self._since, self._first_step, self._frames = 0.0, 0, 0  # of what speed is measured over

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count on from where a run starts or goes on."""
        self._labels.clear()
        self._step = trainer.global_step
        self._since, self._first_step, self._frames = perf_counter(), trainer.global_step, 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the training."""
        self._since -= perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let it go on."""
        self._since += perf_counter()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer
    ) -> None:
        """Log the learning rate and the norm, which no step waits for."""
        if not is_logged(trainer, trainer.global_step):
            return
        groups = optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm(gradients)
        # On the CPU: to bring a number to the device is to wait for it.
        rate = torch.tensor(groups[0]["lr"], dtype=torch.float64)
        pl_module.log_dict({"train/learning_rate": rate, "train/gradient_norm": norm})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log the speed and the spread of the labels' weights where it is time."""
        self._frames += batch.events.shape[0] * batch.events.shape[1] * trainer.world_size
        weight, step = pl_module.loss.size_weight, trainer.global_step
        has_weights = weight is not None and bool(trainer.loggers) and trainer.is_global_zero
        if has_weights and len(batch.labels):
            self._labels.append(batch.labels)
        # Where gradients are accumulated, a batch need not end a step.
        if step == self._step or not is_logged(trainer, step - 1):
            return
        self._step = step
        self._log_speed(pl_module, step)
        if not self._labels:
            return
        # Batch by batch, as the loss does where it keeps their mean at 1.
        weights = [
            weight.of_boxes(box_convert(each.boxes[each.valid], "xyxy", "cxcywh"))
            for each in self._labels
        ]
        _show_weights(trainer, torch.cat(weights).cpu().numpy())
        self._labels.clear()

    def _log_speed(self, pl_module: pl.LightningModule, step: int) -> None:
        """Log steps and frames a second since the last call."""
        now = perf_counter()
        seconds = max(now - self._since, 1e-9)
        done = {"steps": step - self._first_step, "frames": self._frames}
        # On the CPU: to bring a number to the device is to wait for it.
        rates = {f"train/{k}_per_second": torch.tensor(n / seconds) for k, n in done.items()}
        pl_module.log_dict(rates, batch_size=1)
        self._since, self._first_step, self._frames = now, step, 0


def _show_weights(trainer: pl.Trainer, weights: NDArray[np.floating]) -> None:
    """Show the spread of weights ``[M]``, at least one, in TensorBoard and W&B."""
    name, step = "train/size_weight", trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(tag_of(logger, name), weights, step)
        elif isinstance(logger, WandbLogger):
            import wandb  # there, as its logger is

            histogram = wandb.Histogram(weights.tolist())
            logger.experiment.log({name: histogram, "trainer/global_step": step})
