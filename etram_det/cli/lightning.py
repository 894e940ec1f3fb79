"""Lightning's fit, validate, test and predict, with this project's settings and rules."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from etram_det.checkpoint.contents import require_same_data
from etram_det.checkpoint.file import Checkpoint, read_checkpoint
from etram_det.cli.flags import PlainHelpFormatter, read_settings, settings_arguments
from etram_det.cli.messages import in_one_line, with_nearest_setting
from etram_det.cli.resume import chosen_checkpoint, log_changes
from etram_det.data.datamodule import EventDataModule
from etram_det.data.labels import class_names_of
from etram_det.data.representation import channels_of
from etram_det.errors import UserError
from etram_det.training.callbacks.exact_resume import ExactResume
from etram_det.training.callbacks.loggers import (
    HyperParameters,
    OptimisationMonitor,
    require_packages,
)
from etram_det.training.callbacks.non_finite_steps import NonFiniteSteps
from etram_det.training.callbacks.progress_bar import RunProgressBar
from etram_det.training.callbacks.provenance import Provenance
from etram_det.training.callbacks.recording_faults import DroppedEvents, UnreadableRecordings
from etram_det.training.callbacks.results_writer import PredictionWriter, ResultsWriter
from etram_det.training.callbacks.run_checkpoint import AtomicCheckpointIO, RunCheckpoint
from etram_det.training.callbacks.validation_pictures import ValidationPictures
from etram_det.training.module import ARCHITECTURE, DetectionModule
from etram_det.training.schedule import require_steps

# The rest of Lightning's turn weights or batches into another type, which states and losses refuse.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

_DESCRIPTION = (
    "Settings come from the package's baseline.yaml, which goes over the defaults below, then from "
    "--config files or names such as size_aware, then from flags."
)

_log = logging.getLogger(__name__)


class SettingsParser(LightningArgumentParser):
    """Lightning's parser, which knows in which file a setting stands.

    Attributes:
        files: for each setting that stands in a file of the user, by its dotted name, the last
            such file.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**({"formatter_class": PlainHelpFormatter} | kwargs))
        self.files: dict[str, str] = {}
        self._has_baseline = False  # which is read before the user's files

    def settings(self) -> list[str]:
        """Dotted names of all settings."""
        return list(self.get_defaults().keys())

    def parse_string(self, content: str, path: str = "", *args: Any, **kwargs: Any) -> Namespace:
        """Settings of a file."""
        groups = {name.split(".")[0] for name in self.settings() if "." in name}
        content = read_settings(content, path or "--config", groups)
        try:
            config = super().parse_string(content, path, *args, **kwargs)
        except ArgumentError as error:
            mistake = with_nearest_setting(str(error), self.settings())
            raise UserError(f"{path or '--config'}: {mistake}") from error
        if self._has_baseline:
            self.files |= dict.fromkeys(config.keys(), path)
        self._has_baseline = True
        return config


class EtramCLI(LightningCLI):
    """LightningCLI with this project's module, data, callbacks and rules for checkpoints."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that can be set by their own keys, and link what must agree."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ResultsWriter, "results")
        parser.add_lightning_class_args(ValidationPictures, "pictures")
        parser.add_lightning_class_args(NonFiniteSteps, "non_finite_steps")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.class_names", "model.class_names", compute_fn=class_names_of)
        parser.link_arguments(
            ("data.bins", "data.representation"), "model.in_channels", compute_fn=channels_of
        )
        parser.link_arguments("data.train_lanes", "model.train_lanes")
        _read_whole_numbers_as_such(parser)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands, each with those of its settings that are not for users."""
        # Whether a checkpoint may run code as it is read is not a matter of settings: it may not.
        theirs = LightningCLI.subcommands()
        return {name: hidden | {"weights_only"} for name, hidden in theirs.items()}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--resume",
                type=Literal["auto", "never"] | None,
                default=None,
                help="``auto`` goes on from the newest last.ckpt of a run with the same model, "
                "data and seed, and starts anew where there is none; so does a job that SLURM has "
                "requeued, unless this is ``never``",
            )
        return parser

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return kwargs | {"weights_only": True, "ckpt_path": self.ckpt_path}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, and report a mistake in it in one line.

        Raises:
            UserError: a setting is not known or has no fitting value.
        """
        self._args: Sequence[str] = args
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            # Without a command, as where nothing is to run, the settings are those of the parser.
            command = args[0] if args and args[0] in self.subcommands() else None
            own: Any = self._parser(command)
            raise UserError(with_nearest_setting(str(error), own.settings())) from error

    def _parse_ckpt_path(self) -> None:
        """Let the network follow the checkpoint; all other settings stay as they were given.

        Lightning would let every stored setting override the command line.
        """
        if not self.config.get("subcommand"):
            return
        command = self.config.subcommand
        config = self.config[command]
        self.ckpt_path = chosen_checkpoint(command, self._plain(config))
        if command != "fit" and not self.ckpt_path:
            raise UserError(
                f"ckpt_path: must be set for {command}, got nothing: use --ckpt_path FILE, or last "
                "or best for that of the newest run"
            )
        if self.ckpt_path and config.model.init_from and command == "fit":
            message = (
                "model.init_from: %s is not read, as training goes on from the weights of "
                "ckpt_path %s"
            )
            _log.info(message, config.model.init_from, self.ckpt_path)
        self._checkpoint = read_checkpoint(self.ckpt_path) if self.ckpt_path else None
        stored = {} if self._checkpoint is None else self._checkpoint.settings
        channels = channels_of(config.data.bins, config.data.representation)
        require_same_data(stored, class_names_of(config.data.class_names), channels)
        for name in ARCHITECTURE:
            theirs, ours = map(_as_list, (stored.get(name), config.model[name]))
            if theirs is None:
                continue
            if theirs != ours and self._is_given(f"model.{name}"):
                message = "model.%s follows the checkpoint: %s (the configuration has %s)"
                _log.info(message, name, theirs, ours)
            config.model[name] = theirs

    def _is_given(self, name: str) -> bool:
        """Whether the user has set a setting, in a file or by a flag."""
        own: Any = self._parser(self.config.subcommand)
        flags = (f"--{name}", f"--{name.partition('.')[0]}")
        return name in own.files or any(arg.partition("=")[0] in flags for arg in self._args)

    def _plain(self, config: Namespace) -> dict[str, Any]:
        parser = self._parser(self.config.subcommand)
        return json.loads(parser.dump(config, skip_none=False, format="json"))

    def before_instantiate_classes(self) -> None:
        """Look for the loggers' packages."""
        require_packages(self._get(self.config, "trainer").logger)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        precision = str(config.get("precision") or PRECISIONS[0])
        if precision not in PRECISIONS and precision not in ("32", "bf16", "16"):
            raise UserError(
                f"trainer.precision: must be one of {', '.join(PRECISIONS)}, got {precision}: "
                "set one of them"
            )
        callbacks = [
            *callbacks,
            RunProgressBar(),
            ExactResume(),
            OptimisationMonitor(),
            HyperParameters(),
            PredictionWriter(),
            UnreadableRecordings(),
            DroppedEvents(),
        ]
        # What is turned off would be a clash for Lightning.
        for flag, callback in (
            ("enable_checkpointing", RunCheckpoint),
            ("enable_progress_bar", RunProgressBar),
        ):
            if config.get(flag) is False:
                callbacks = [each for each in callbacks if not isinstance(each, callback)]
        plugins = config.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
        if not any(isinstance(each, CheckpointIO) for each in plugins):
            plugins.append(AtomicCheckpointIO())
        try:
            trainer = super()._instantiate_trainer(config | {"plugins": plugins}, callbacks)
        except (TypeError, ValueError) as error:  # what Lightning raises for settings
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        for name, least in (("accumulate_grad_batches", 1), ("gradient_clip_val", 0)):
            value = getattr(trainer, name)
            if value is not None and value < least:
                raise UserError(
                    f"trainer.{name}: must be at least {least}, got {value:g}: raise it"
                )
        interval = trainer.val_check_interval
        if isinstance(interval, (int, float)) and interval <= 0:
            raise UserError(
                f"trainer.val_check_interval: must be above 0, got {interval}: set a number of "
                "steps, or a share of an epoch"
            )
        return trainer

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"seed_everything: {error}") from error

    def _run_subcommand(self, subcommand: str) -> None:
        self._prepare(subcommand)
        if subcommand in ("validate", "test"):
            # Lightning's own list of a hundred metrics would bury the tables of ResultsWriter.
            self.config_init[subcommand].verbose = False
        try:
            super()._run_subcommand(subcommand)
        except (MemoryError, OSError, RuntimeError) as error:
            fault = in_one_line(error, getattr(self.trainer.logger, "log_dir", None))
            if fault is None:
                raise
            last = getattr(self.trainer.checkpoint_callback, "last_model_path", "")
            if subcommand == "fit" and last and Path(last).is_file():
                fault += f"; {last} is complete: use --resume auto to go on from it"
            raise UserError(fault, exit_code=1) from error

    def _prepare(self, subcommand: str) -> None:
        """Raise what is missing or does not fit before a run folder is made."""
        checkpoint, self._checkpoint = self._checkpoint, None  # Lightning reads it again
        if subcommand == "fit":
            require_steps(self.model.hparams.schedule, self.trainer)
            if isinstance(kept := self.trainer.checkpoint_callback, RunCheckpoint):
                kept.require_monitor_among(self.model.metric.settings.metric_names)
        self.datamodule.prepare_data()
        self.datamodule.setup(subcommand)
        if checkpoint is not None:
            self.model.on_load_checkpoint(dict(checkpoint.content))
            if subcommand == "fit" and checkpoint.has_optimizer:
                self._go_on(checkpoint)
        elif subcommand == "fit":
            self.model.load_initial_weights()

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Let a resumed run log to its own run folder, and log which settings have changed."""
        self._log_to_folder(Path(str(self.ckpt_path)).resolve().parent.parent, checkpoint.step)
        log_changes(checkpoint, self._plain(self.config.fit))
        max_steps = self.trainer.max_steps
        if 0 <= max_steps <= checkpoint.step:
            message = (
                "ckpt_path: the checkpoint is at step %d already and trainer.max_steps is %d, so "
                "nothing is left to train: raise trainer.max_steps to go on"
            )
            _log.info(message, checkpoint.step, max_steps)

    def _log_to_folder(self, folder: Path, step: int) -> None:
        """Let TensorBoard's logger go on in a run folder, if it is one of its own."""
        loggers = self.trainer.loggers
        first = loggers[0] if loggers else None
        version = folder.name.removeprefix("version_")
        if (
            not isinstance(first, TensorBoardLogger)
            or not version.isdecimal()
            or folder.parent != Path(first.root_dir).resolve()
        ):
            return
        settings = self.config.fit.trainer.logger
        settings = settings[0] if isinstance(settings, list) else settings
        arguments = dict(getattr(settings, "init_args", {"save_dir": first.save_dir}))
        if arguments.get("version") is None:
            # TensorBoard hides what a run has logged after its checkpoint, before it broke off.
            going_on = arguments | {"version": int(version), "purge_step": step + 1}
            self.trainer.loggers = [type(first)(**going_on), *loggers[1:]]


def _read_whole_numbers_as_such(parser: LightningArgumentParser) -> None:
    """Let ``1`` for a number or share stay ``1``: Lightning reads ``1.0`` as all of it.

    Python caches unions by their members, so that the order in which a value is tried as ``int``
    and ``float`` depends on what was imported before.
    """
    for action in cast(list[Any], parser._actions):
        types = get_args(getattr(action, "_typehint", None))
        if {int, float} <= {*types}:
            action._typehint = reduce(or_, sorted(types, key=lambda each: each is not int))


def lightning_cli(args: Sequence[str], run: bool = True) -> EtramCLI:
    """Parse and instantiate, and by default run, one of Lightning's commands.

    Args:
        args: what follows ``python -m etram_det``; the command first.
        run: whether the command runs; where not, ``.model``, ``.datamodule`` and ``.trainer`` of
            what is returned are ready to be used.

    Raises:
        UserError: a setting or file does not fit; the message names it.
    """
    # TensorFloat-32 for what stays in float32; does nothing on machines without it.
    torch.set_float32_matmul_precision("high")
    return _parsed(EtramCLI, args, run)


def data_of_fit(args: Sequence[str]) -> EventDataModule:
    """The data that ``fit`` would train on, without its network and trainer.

    Args:
        args: what follows ``python -m etram_det fit``.

    Raises:
        UserError: a setting or file does not fit; the message names it.
    """
    return _parsed(_DataOfFit, ["fit", *args], run=True).datamodule


class _DataOfFit(EtramCLI):
    """The settings of ``fit``, of which nothing but the data is made."""

    def before_instantiate_classes(self) -> None:
        """Look for nothing: no logger is made."""

    def instantiate_classes(self) -> None:
        """Make the data, by a parser of its own: the others make all or nothing."""
        parser = ArgumentParser()
        parser.add_class_arguments(EventDataModule, "data")
        settings = parser.parse_object({"data": self.config.fit.data.as_dict()})
        self.datamodule = parser.instantiate_classes(settings).data

    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


_Settings = TypeVar("_Settings", bound=EtramCLI)


def _parsed(kind: type[_Settings], args: Sequence[str], run: bool) -> _Settings:
    settings = settings_arguments(args[1:])
    of_command = {"exit_on_error": False, "description": _DESCRIPTION}
    try:
        return kind(
            DetectionModule,
            EventDataModule,
            args=[args[0], *settings] if run else settings,
            run=run,
            seed_everything_default=1,
            auto_configure_optimizers=False,
            save_config_callback=Provenance,
            save_config_kwargs={"overwrite": True, "arguments": args},
            parser_class=SettingsParser,
            parser_kwargs={
                "prog": "python -m etram_det",
                "exit_on_error": False,
                **{name: dict(of_command) for name in EtramCLI.subcommands()},
            },
            trainer_defaults={"use_distributed_sampler": False},  # the plan shares them out
        )
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
