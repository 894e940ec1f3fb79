"""TensorBoard's logger of a run, whose headline scalars come first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger

from etram_det.metrics.settings import EvaluationSettings

# Of a training's values, those beside the validation's metrics; the others are to be watched.
_MAIN = ("loss", "learning_rate", "steps_per_second", "frames_per_second")
# TensorBoard sorts folders by name and opens the first two: train and val.
_WATCHED = "watch"


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger for TensorBoard, with tags in folders that a reader can find.

    The folder of the training holds loss, learning rate and speed; that of the validation AP, AP50
    and AR of everything, and AP by size, motion, day and night. Everything else has a folder of its
    kind behind them, such as ``val_by_class`` and ``watch``. Other loggers, and whatever monitors a
    metric, keep the plain names.
    """

    _folders: Mapping[str, str] = {}

    def arrange(self, settings: EvaluationSettings) -> None:
        """Learn which metrics are the main ones, and the folders of the others."""
        self._folders = settings.metric_folders

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values by their tags."""
        super().log_metrics({self.tag(name): x for name, x in metrics.items()}, step)

    def tag(self, name: str) -> str:
        """The tag of a value: ``val_by_class/AP_car`` of ``val/AP_car``."""
        source, _, own = name.partition("/")
        if name == "epoch" or (source == "train" and own not in _MAIN):
            return f"{_WATCHED}/{own or name}"
        folder = self._folders.get(own)
        return f"{source}_{folder}/{own}" if folder else name


def tag_of(logger: Logger, name: str) -> str:
    """Name of a value in a logger: its tag in a :class:`RunTensorBoardLogger`, else itself."""
    return logger.tag(name) if isinstance(logger, RunTensorBoardLogger) else name
