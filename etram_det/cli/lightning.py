"""Lightning's fit, validate, test and predict, with this project's settings and rules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from jsonargparse import ArgumentError
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from etram_det.checkpoint.file import Checkpoint
from etram_det.cli.checkpoint_rules import CheckpointRules
from etram_det.cli.flags import read_whole_numbers_as_such, settings_arguments
from etram_det.cli.help import HELP_ALL, SETTINGS_ORDER, HelpAll
from etram_det.cli.messages import in_one_line, with_nearest_setting
from etram_det.cli.resume import (
    log_changes,
    run_folder_of,
    warn_of_simulation,
)
from etram_det.cli.settings_parser import SettingsParser
from etram_det.data.datamodule import EventDataModule
from etram_det.data.labels import class_names_of
from etram_det.data.representation import channels_of
from etram_det.errors import UserError
from etram_det.models.arithmetic import use_tensor_float_32
from etram_det.training.callbacks.early_stopping import RunEarlyStopping
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
from etram_det.training.devices import in_own_words, out_of_memory, require_arithmetic
from etram_det.training.exported_network import ExportedNetwork
from etram_det.training.lightning_internals import fix_graph
from etram_det.training.module import DetectionModule
from etram_det.training.module_settings import require_whole_parts
from etram_det.training.run_folder import RunPlace, RunTrainer, place_of_evaluation
from etram_det.training.trainer_settings import require_precision, require_ranges, require_steps

_log = logging.getLogger(__name__)


class LightningSettingsParser(SettingsParser, LightningArgumentParser):
    """Lightning's parser with the project's own files and help."""


class EtramCLI(CheckpointRules, LightningCLI):
    """LightningCLI with this project's module, data, callbacks and rules for checkpoints."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that can be set by their own keys, and link what must agree."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(RunEarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ResultsWriter, "results")
        parser.add_lightning_class_args(ValidationPictures, "pictures")
        parser.add_lightning_class_args(NonFiniteSteps, "non_finite_steps")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.class_names", "model.class_names", compute_fn=class_names_of)
        parser.link_arguments(
            ("data.bins", "data.representation"), "model.in_channels", compute_fn=channels_of
        )
        parser.link_arguments("data.train_lanes", "model.train_lanes")
        for name in ("monitor", "mode"):
            parser.link_arguments(f"checkpoint.{name}", f"early_stopping.{name}")
        read_whole_numbers_as_such(parser)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands, each with those of its settings that are not for users."""
        # Whether a checkpoint may run code as it is read is not a matter of settings: it may not.
        theirs = LightningCLI.subcommands()
        return {name: hidden | {"weights_only"} for name, hidden in theirs.items()}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser: Any = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.command = subcommand
        words = "Show all settings, Lightning's rarely used ones and types included, and exit."
        parser.add_argument(HELP_ALL, action=HelpAll, help=words)
        if subcommand == "fit":
            parser.add_argument(
                "--resume",
                type=Literal["auto", "never"] | None,
                default=None,
                help="``auto`` goes on from the newest last.ckpt of a run with the same model, "
                "data and seed, and starts anew where there is none; so does a job that SLURM has "
                "requeued, unless this is ``never``",
            )
        else:
            parser.add_argument(
                "--runtime",
                type=Literal["auto", "onnxruntime", "openvino"],
                default="auto",
                help="what computes an exported detector (.onnx) as ``ckpt_path``",
            )
        return parser

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        own = None if self._exported is not None else self.ckpt_path
        return kwargs | {"weights_only": True, "ckpt_path": own}

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

    def _place(self) -> RunPlace:
        """Where the run folder is."""
        command = self.subcommand
        runs, folder = self._folder_of_runs(self.config[command] if command else self.config)
        if folder is not None or command is None or command == "fit":
            return RunPlace(runs, folder=folder)
        run = run_folder_of(str(self.ckpt_path))
        return place_of_evaluation(command, run, runs)

    def before_instantiate_classes(self) -> None:
        """Look for the loggers' packages."""
        require_packages(self._get(self.config, "trainer").logger)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        require_precision(config.get("precision"))
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
        callbacks = [x for x in callbacks if not isinstance(x, RunEarlyStopping) or x.is_on]
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
            made = super()._instantiate_trainer(config | {"plugins": plugins}, callbacks)
        except (TypeError, ValueError) as error:  # what Lightning raises for settings
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        require_ranges(made)
        require_arithmetic(made)
        fix_graph(made)
        self.place = cast(RunTrainer, made).place = self._place()
        return made

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
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):  # which Lightning makes one of
                raise KeyboardInterrupt from None
            raise
        except (MemoryError, OSError, RuntimeError) as error:
            device = self.trainer.strategy.root_device
            lack = out_of_memory(error, device, self.model, self.datamodule)
            folder = str(self.place.folder or self.place.parent)
            fault = lack or in_one_line(error, folder)
            if fault is None:
                raise
            kept = RunCheckpoint.of(self.trainer)
            if subcommand == "fit" and kept and Path(kept.last_model_path).is_file():
                fault += f"; {kept.last_model_path} is complete: use --resume auto to go on from it"
            raise UserError(fault, exit_code=1) from error

    def _prepare(self, subcommand: str) -> None:
        """Raise what is missing or does not fit before a run folder is made."""
        checkpoint, self._checkpoint = self._checkpoint, None  # Lightning reads it again
        if subcommand == "fit":
            require_steps(self.model.hparams.schedule, self.trainer)
            RunEarlyStopping.require_validations(self.trainer)
            if kept := RunCheckpoint.of(self.trainer):
                kept.require_monitor_among(self.model.metric.settings.metric_names)
        require_whole_parts(self.model.hparams.forget_every, self.datamodule.num_steps)
        self.datamodule.trainer = self.trainer  # as it will be: it says which splits are needed
        self.datamodule.prepare_data()
        self.datamodule.setup(subcommand)
        if self._exported is not None:
            self.model.detector = ExportedNetwork(self._exported, self.config[subcommand].runtime)
        elif checkpoint is not None:
            self.model.on_load_checkpoint(dict(checkpoint.content))
            if subcommand == "fit" and checkpoint.has_optimizer:
                self._go_on(checkpoint)
        elif subcommand == "fit":
            self.model.load_initial_weights()
        if subcommand != "fit" and (evaluated := self._exported or checkpoint) is not None:
            warn_of_simulation(evaluated, self.datamodule.recordings)

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Let a resumed run log to its own run folder, and log which settings have changed."""
        place, run = self.place, run_folder_of(str(self.ckpt_path))
        is_own = run is not None and run.parent.resolve() == place.parent.resolve()
        if place.folder is None and is_own:
            place.folder, place.steps_before = run, checkpoint.step
        log_changes(checkpoint, self._plain(self.config.fit))
        max_steps = self.trainer.max_steps
        if 0 <= max_steps <= checkpoint.step:
            message = (
                "ckpt_path: the checkpoint is at step %d already and trainer.max_steps is %d, so "
                "nothing is left to train: raise trainer.max_steps to go on"
            )
            _log.info(message, checkpoint.step, max_steps)


def lightning_cli(
    args: Sequence[str], run: bool = True, kind: type[EtramCLI] = EtramCLI
) -> EtramCLI:
    """Parse and instantiate, and by default run, one of Lightning's commands.

    Args:
        args: what follows ``python -m etram_det``; the command first.
        run: whether the command runs; where not, ``.model``, ``.datamodule`` and ``.trainer`` of
            what is returned are ready to be used.
        kind: what reads the command line.

    Raises:
        UserError: a setting or file does not fit; the message names it.
    """
    use_tensor_float_32()
    settings = settings_arguments(args[1:])
    of_command = {"exit_on_error": False, "description": SETTINGS_ORDER}
    known = kind.subcommands()

    class OneCommand(kind):  # type: ignore[valid-type, misc]
        """Has a parser for what runs: those of all commands would take four times as long."""

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {args[0]: known[args[0]]}

    try:
        return OneCommand(
            DetectionModule,
            EventDataModule,
            args=[args[0], *settings] if run else settings,
            run=run,
            seed_everything_default=1,
            auto_configure_optimizers=False,
            trainer_class=RunTrainer,
            save_config_callback=Provenance,
            save_config_kwargs={"overwrite": True, "arguments": args},
            parser_class=LightningSettingsParser,
            parser_kwargs={
                "prog": "python -m etram_det",
                "exit_on_error": False,
                args[0]: of_command,
            },
            trainer_defaults={"use_distributed_sampler": False},  # the plan shares them out
        )
    except MisconfigurationException as error:
        raise in_own_words(error) from error
