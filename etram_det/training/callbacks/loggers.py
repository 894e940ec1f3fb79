"""Pictures and histograms, to each logger that can show them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from etram_det.errors import UserError


def require_packages(settings: Any) -> None:
    """Refuse a logger whose package is not there.

    Args:
        settings: ``trainer.logger`` as it is configured: one, a list, or a bool.

    Raises:
        UserError: W&B is asked for and not installed.
    """
    for each in settings if isinstance(settings, list) else [settings]:
        name = getattr(each, "class_path", "").rpartition(".")[2]
        if name == WandbLogger.__name__ and find_spec("wandb") is None:
            raise UserError(
                "trainer.logger: WandbLogger requires the package wandb, got none: Use "
                "pip install 'etram-det[wandb]', or leave log_wandb.yaml out"
            )


def show_picture(
    loggers: Iterable[Logger], name: str, picture: NDArray[np.uint8], step: int
) -> None:
    """Show a picture in TensorBoard and W&B; other loggers have no place for it.

    Args:
        loggers: of the run; on the process that logs.
        name: under which pictures of all steps come together.
        picture: ``[H, W, 3]`` RGB.
        step: number of training steps done.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step)


def show_histogram(
    loggers: Iterable[Logger], name: str, values: NDArray[np.floating], step: int
) -> None:
    """Show how values ``[M]`` are spread, in TensorBoard and W&B.

    Args:
        loggers: of the run; on the process that logs.
        name: under which histograms of all steps come together.
        values: at least one, of any shape.
        step: number of training steps done.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(name, values, step)
        elif isinstance(logger, WandbLogger):
            import wandb  # there, as its logger is

            logger.experiment.log(
                {name: wandb.Histogram(values.tolist()), "trainer/global_step": step}
            )
