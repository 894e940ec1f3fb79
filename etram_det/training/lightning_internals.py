"""The private parts of Lightning that have no public counterpart, all in one place.

They hold for the range of releases in ``pyproject.toml``. When one of them changes, the tests of
this module name what broke. ``cli/lightning.py`` and ``cli/checkpoint_rules.py`` override five
private methods of ``LightningCLI`` besides: ``_prepare_subcommand_parser``,
``_prepare_subcommand_kwargs``, ``_parse_ckpt_path``, ``_instantiate_trainer`` and
``_run_subcommand``, and ``_set_seed`` for its error; they call ``_parser``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

FolderLogger = TensorBoardLogger | CSVLogger  # those that write into a folder of the run


def validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether the configuration has a validation after the last step of a training."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def ends_optimizer_step(trainer: pl.Trainer) -> bool:
    """Whether the last batch of a training completed an optimiser step: it may accumulate."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def forget_logged_step(trainer: pl.Trainer) -> None:
    """Take one off the steps under which loggers file metrics; Lightning will count it again."""
    trainer.fit_loop.epoch_loop._batches_that_stepped -= 1


def add_logged_step(fit_loop: dict[str, Any]) -> None:
    """Add one to the steps under which loggers file metrics, in the stored state of the loops."""
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1


def slurm_environment(trainer: pl.Trainer) -> SLURMEnvironment | None:
    """The SLURM job that a trainer runs in; strategies on one device do not offer it."""
    environment = trainer._accelerator_connector.cluster_environment
    return environment if isinstance(environment, SLURMEnvironment) else None


def fix_graph(trainer: pl.Trainer) -> None:
    """Let processes that train together add up gradients the fastest way, unless set otherwise.

    Each step uses every parameter in the same way, so the order in which gradients are complete is
    fixed, and they need no second copy for sending. PyTorch cannot fix it where a first backward
    pass sends nothing, as with accumulated batches.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        given = strategy._ddp_kwargs
        searches = given.get("find_unused_parameters", False)
        strategy._ddp_kwargs = {
            "find_unused_parameters": searches,
            "static_graph": trainer.accumulate_grad_batches == 1 and not searches,
            "gradient_as_bucket_view": True,
            **given,
        }


def misfit_of_devices(message: str) -> str | None:
    """The setting of a trainer that asks for devices that are not there, from Lightning's error."""
    if re.search(r"backend found|can not run on your system|accelerator is not available", message):
        return "accelerator"
    return "devices" if "But your machine only has" in message else None


def is_training(module: pl.LightningModule) -> bool:
    """Whether a module is attached to a trainer that trains it; ``trainer`` raises without one."""
    return module._trainer is not None and module._trainer.training


def has_version(logger: FolderLogger) -> bool:
    """Whether a logger was given a version; to ask it for one would let it choose one."""
    return logger._version is not None


def log_into(logger: FolderLogger, folder: Path, purge_step: int | None = None) -> None:
    """Let a logger that has not written yet write into a folder.

    Args:
        logger: the logger.
        folder: to write into.
        purge_step: step from which on TensorBoard hides what is there.
    """
    logger._root_dir = str(folder.parent.parent)
    logger._name, logger._version = folder.parent.name, folder.name
    if isinstance(logger, CSVLogger):
        logger._save_dir = logger._root_dir
    elif purge_step is not None:
        logger._kwargs["purge_step"] = purge_step
