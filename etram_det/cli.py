"""The command line: Lightning's fit, validate, test and predict, and the project's tools.

Every command reads its settings from flags and YAML; ``python -m etram_det COMMAND --help`` tells
what they mean. A user's mistake ends with one line on standard error and exit code 2, a fault
that shows only at run time with 1.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentError, Namespace, auto_cli
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from etram_det import __version__
from etram_det.callbacks.bad_recordings import BadRecordings
from etram_det.callbacks.bad_steps import BadSteps
from etram_det.callbacks.checkpoints import RunCheckpoint, WholeFiles
from etram_det.callbacks.hyper_parameters import HyperParameters
from etram_det.callbacks.loggers import require_packages
from etram_det.callbacks.optimisation import OptimisationMonitor
from etram_det.callbacks.pictures import Pictures
from etram_det.callbacks.predictions import PredictionWriter
from etram_det.callbacks.process_watch import ProcessWatch
from etram_det.callbacks.progress import RunProgressBar
from etram_det.callbacks.provenance import Provenance
from etram_det.callbacks.results import ResultsWriter
from etram_det.callbacks.resume import ExactResume
from etram_det.callbacks.signals import StoppedBySignal
from etram_det.checkpoint import read_checkpoint
from etram_det.checkpoint_contents import require_same_kind
from etram_det.data.datamodule import EventDataModule
from etram_det.data.labels import class_names_of
from etram_det.data.representation import channels_of
from etram_det.faults import in_one_line, message_and_code, user_error_behind
from etram_det.module import DetectionModule
from etram_det.run_folders import chosen_checkpoint, tell_changes
from etram_det.settings_files import restrict_yaml
from etram_det.tool_arguments import tool_arguments
from etram_det.types import UserError

# Command, where its function lives, and what it does.
LIGHTNING_COMMANDS = {
    "fit": "train a detector",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "write a checkpoint's detections for a split",
}
TOOLS = {
    "simulate": ("etram_det.tools.simulate", "simulate_command", "make a set of simulated traffic"),
    "preprocess": (
        "etram_det.tools.preprocess",
        "preprocess_command",
        "prepare recordings once, to load them fast",
    ),
    "stats": ("etram_det.tools.stats", "stats_command", "describe the labels of recordings"),
    "bench": ("etram_det.tools.bench.command", "bench_command", "measure how fast it all is"),
    "import-rvt": (
        "etram_det.tools.import_rvt",
        "import_rvt_command",
        "turn a checkpoint of RVT or its eTraM fork into one of ours",
    ),
    "detect": (
        "etram_det.tools.detect.command",
        "detect_command",
        "run a checkpoint on recordings: videos and boxes",
    ),
    "report": (
        "etram_det.tools.report",
        "report_command",
        "write a page of one evaluated run, or of two side by side",
    ),
    "checkpoint": (
        "etram_det.tools.checkpoint",
        "checkpoint_command",
        "show what a checkpoint holds: settings, data, figures",
    ),
    "sweep": (
        "etram_det.tools.sweep.command",
        "sweep_command",
        "search loss variants and settings",
    ),
}
# Settings that shape the network: where a checkpoint is read they follow it.
ARCHITECTURE = (
    "embed_dim",
    "dim_multiplier",
    "num_blocks",
    "dim_head",
    "mlp_ratio",
    "layer_scale_init",
    "fpn_stages",
    "fpn_depth",
    "partition_split",
)

logger = logging.getLogger("etram_det")


class EtramCLI(LightningCLI):
    """LightningCLI with this project's module, data, callbacks and rules for checkpoints."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that can be set by their own keys, and link what must agree."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ResultsWriter, "results")
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_lightning_class_args(BadSteps, "bad_steps")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.class_names", "model.class_names", compute_fn=class_names_of)
        parser.link_arguments(
            ("data.bins", "data.representation"), "model.in_channels", compute_fn=channels_of
        )
        parser.link_arguments("data.train_lanes", "model.train_lanes")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands, each with those of its settings that are not for users."""
        # Whether a checkpoint may run code as it is read is not a matter of settings: it may not.
        return {
            name: hidden | {"weights_only"} for name, hidden in LightningCLI.subcommands().items()
        }

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
        own = {"weights_only": True, "ckpt_path": self.ckpt_path}
        return super()._prepare_subcommand_kwargs(subcommand) | own

    def _parse_ckpt_path(self) -> None:
        """Let the network follow the checkpoint; all other settings stay as they were given.

        Lightning would let every stored setting override the command line.
        """
        if not self.config.get("subcommand"):
            return
        config = self.config[self.config.subcommand]
        self.ckpt_path = chosen_checkpoint(self.config.subcommand, self._plain(config))
        stored = self._checkpoint().get("hyper_parameters", {})
        for name in ARCHITECTURE:
            theirs, ours = (_as_list(some.get(name)) for some in (stored, config.model))
            if theirs is None:
                continue
            require_same_kind(self.ckpt_path, f"model.{name}", theirs, ours)
            if theirs != ours:
                logger.info(
                    "model.%s follows the checkpoint: %s (the configuration says %s)",
                    name,
                    theirs,
                    ours,
                )
                config.model[name] = theirs

    def _plain(self, config: Namespace) -> dict[str, Any]:
        parser = self._parser(self.config.subcommand)
        return json.loads(parser.dump(config, skip_none=False, format="json"))

    def _checkpoint(self) -> dict[str, Any]:
        """What is in the chosen checkpoint; nothing where none is set or it is Lightning's."""
        if not self.ckpt_path or self.ckpt_path in ("hpc", "registry"):
            return {}
        return read_checkpoint(self.ckpt_path)

    def before_instantiate_classes(self) -> None:
        """Look for the loggers' packages, and leave out a progress bar that is turned off.

        Lightning would take it for a clash.
        """
        config = (
            self.config[self.config.subcommand] if self.config.get("subcommand") else self.config
        )
        require_packages(config.trainer.logger)
        if config.trainer.enable_progress_bar is False:
            self.trainer_defaults["callbacks"] = [
                callback
                for callback in self.trainer_defaults["callbacks"]
                if not isinstance(callback, RunProgressBar)
            ]

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config.get("enable_checkpointing") is False:
            # A checkpoint callback beside it would be a clash for Lightning.
            callbacks = [each for each in callbacks if not isinstance(each, RunCheckpoint)]
        plugins = config.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
        if not any(isinstance(each, CheckpointIO) for each in plugins):
            plugins.append(WholeFiles())
        try:
            trainer = super()._instantiate_trainer(config | {"plugins": plugins}, callbacks)
        except (TypeError, ValueError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        if trainer.accumulate_grad_batches < 1:
            raise UserError(
                "trainer.accumulate_grad_batches: must be at least 1, found "
                f"{trainer.accumulate_grad_batches}: correct it"
            )
        return trainer

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"seed_everything: {error}: correct it") from error

    def _run_subcommand(self, subcommand: str) -> None:
        # Data or weights that are missing or do not fit must show before a run folder is made.
        self.datamodule.prepare_data()
        self.datamodule.setup(subcommand)
        if checkpoint := self._checkpoint():
            self.model.on_load_checkpoint(checkpoint)
            if subcommand == "fit" and checkpoint.get("optimizer_states"):
                self._go_on(checkpoint)
        elif subcommand == "fit" and not self.ckpt_path:
            self.model.load_initial_weights()
        if subcommand in ("validate", "test"):
            # Lightning's own list of a hundred figures would bury the tables of ResultsWriter.
            self.config_init[subcommand].verbose = False
        try:
            super()._run_subcommand(subcommand)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # Lightning holds the checkpoint for as long as it restores from it.
            is_restoring = bool(self.trainer._checkpoint_connector._loaded_checkpoint)
            if isinstance(error, UserError) or not is_restoring:
                raise
            reason = next(iter(str(error).splitlines()), "")
            raise UserError(
                f"{self.ckpt_path}: {subcommand} cannot go on from it ({type(error).__name__}: "
                f"{reason}): it is damaged, or of another program; copy it again or choose another"
            ) from error

    def _go_on(self, checkpoint: dict[str, Any]) -> None:
        """Let a resumed run go on in its own run folder, and tell which settings have changed."""
        folder = Path(str(self.ckpt_path)).resolve().parent.parent
        tensorboard = self.trainer.logger
        if (
            isinstance(tensorboard, TensorBoardLogger)
            and tensorboard._version is None
            and folder.parent == Path(tensorboard.root_dir).resolve()
            and folder.name.removeprefix("version_").isdecimal()
        ):
            tensorboard._version = int(folder.name.removeprefix("version_"))
            # TensorBoard hides what a run has logged after its checkpoint, before it broke off.
            tensorboard._kwargs["purge_step"] = checkpoint["global_step"] + 1
        tell_changes(checkpoint, self._plain(self.config.fit))


def run(args: Sequence[str]) -> int:
    """Run one command of the command line.

    Args:
        args: what follows ``python -m etram_det``.

    Returns:
        Exit code: 0 when done, 2 for a user's mistake, 1 for a fault at run time, 128 and the
        signal's number for a run that a signal has ended.
    """
    _set_up_messages()
    restrict_yaml()
    command = args[0] if args else "--help"
    try:
        if command in LIGHTNING_COMMANDS:
            lightning_cli(args)
        elif command in TOOLS:
            module, name, _ = TOOLS[command]
            function = getattr(importlib.import_module(module), name)
            auto_cli(
                function,
                args=tool_arguments(args[1:], function),
                prog=f"python -m etram_det {command}",
                as_positional=command in ("bench", "checkpoint", "detect", "report"),
                exit_on_error=False,
            )
        elif command in ("-h", "--help"):
            sys.stdout.write(_overview())
        elif command == "--version":
            sys.stdout.write(f"etram_det {__version__}\n")
        else:
            known = ", ".join((*LIGHTNING_COMMANDS, *TOOLS))
            raise UserError(f"{command}: no such command: choose one of {known}")
    except StoppedBySignal as stop:
        sys.stderr.write(f"\netram_det: {stop}\n")
        return stop.exit_code
    except UserError as error:
        return _fail(*message_and_code(error))
    except (ArgumentError, MisconfigurationException) as error:
        return _fail(" ".join(str(error).split()), 2)
    except UnicodeDecodeError as error:
        return _fail(f"--config: a file of settings must be text in UTF-8, found {error}", 2)
    except ValueError as error:
        # jsonargparse wraps what the constructor of a nested class raises.
        mistake = user_error_behind(error)
        if mistake is None:
            raise
        return _fail(str(mistake), mistake.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    except (OSError, MemoryError, RuntimeError) as error:
        fault = in_one_line(error)
        if fault is None:
            raise
        return _fail(fault, 1)
    return 0


def lightning_cli(args: Sequence[str], run: bool = True) -> EtramCLI:
    """Parse and instantiate, and by default run, one of Lightning's commands.

    Args:
        args: what follows ``python -m etram_det``; the command first.
        run: whether the command runs; where not, ``.model``, ``.datamodule`` and ``.trainer`` of
            what is returned are ready to be used.
    """
    # TensorFloat-32 for what stays in float32; does nothing on machines without it.
    torch.set_float32_matmul_precision("high")
    parser_settings = {
        "prog": "python -m etram_det",
        "exit_on_error": False,
        **{name: {"exit_on_error": False} for name in LIGHTNING_COMMANDS},
    }
    return EtramCLI(
        DetectionModule,
        EventDataModule,
        args=list(args) if run else list(args)[1:],
        run=run,
        seed_everything_default=1,
        auto_configure_optimizers=False,
        save_config_callback=Provenance,
        save_config_kwargs={"overwrite": True, "arguments": args},
        parser_kwargs=parser_settings if run else {"exit_on_error": False},
        trainer_defaults={
            "callbacks": [
                *(RunProgressBar(), ExactResume(), OptimisationMonitor(), HyperParameters()),
                *(PredictionWriter(), BadRecordings(), ProcessWatch()),
            ],
            "use_distributed_sampler": False,  # the plan shares the recordings out itself
        },
    )


def _set_up_messages() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
    # Known and of no use to someone who trains a detector.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")  # its plan is
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within.*")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


def _overview() -> str:
    tools = {name: text for name, (_, _, text) in TOOLS.items()}
    rows = [f"  {name:<10} {text}" for name, text in (LIGHTNING_COMMANDS | tools).items()]
    return "\n".join(
        [
            "Detect road users in event-camera recordings.",
            "",
            "  python -m etram_det COMMAND [--config FILE.yaml …] [--KEY VALUE …]",
            "",
            *rows,
            "",
            "Each command explains its settings with --help.",
            "",
        ]
    )


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fail(message: str, code: int) -> int:
    # What shows only at run time comes behind a progress bar, whose line has not ended.
    sys.stderr.write("\n" * (code == 1) + f"etram_det: error: {message}\n")
    return code
