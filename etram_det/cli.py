"""The command line: Lightning's fit, validate, test and predict, and the project's tools.

Every command reads its settings from flags and YAML; ``python -m etram_det COMMAND --help`` tells
what they mean. A user's mistake ends with one line on standard error and exit code 2, a fault
that shows only at run time with 1.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import torch
from jsonargparse import ArgumentError, auto_cli
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from etram_det import __version__
from etram_det.callbacks.predictions import PredictionWriter
from etram_det.callbacks.progress import RunProgressBar
from etram_det.callbacks.results import ResultsWriter
from etram_det.checkpoint import read_checkpoint
from etram_det.data.datamodule import EventDataModule, class_names_of
from etram_det.data.representation import channels_of
from etram_det.module import DetectionModule
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
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/AP",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
                "checkpoint.save_last": True,
            }
        )
        parser.add_lightning_class_args(ResultsWriter, "results")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.class_names", "model.class_names", compute_fn=class_names_of)
        parser.link_arguments(
            ("data.bins", "data.representation"), "model.in_channels", compute_fn=channels_of
        )
        parser.link_arguments("data.train_lanes", "model.train_lanes")

    def _parse_ckpt_path(self) -> None:
        """Let the network follow the checkpoint; all other settings stay as they were given.

        Lightning would let every stored setting override the command line.
        """
        if not self.config.get("subcommand"):
            return
        config = self.config[self.config.subcommand]
        stored = self._checkpoint().get("hyper_parameters", {})
        for name in ARCHITECTURE:
            theirs, ours = stored.get(name), config.model.get(name)
            if theirs is not None and theirs != ours:
                logger.info(
                    "model.%s follows the checkpoint: %s (the configuration says %s)",
                    name,
                    theirs,
                    ours,
                )
                config.model[name] = theirs

    def _checkpoint(self) -> dict[str, Any]:
        """What is in ``ckpt_path``; nothing where it is unset or left to Lightning."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        if not path or str(path) in ("best", "last", "hpc", "registry"):
            return {}
        return read_checkpoint(path)

    def before_instantiate_classes(self) -> None:
        """Leave out the progress bar where it is turned off, which Lightning takes for a clash."""
        config = (
            self.config[self.config.subcommand] if self.config.get("subcommand") else self.config
        )
        if config.trainer.enable_progress_bar is False:
            self.trainer_defaults["callbacks"] = [
                callback
                for callback in self.trainer_defaults["callbacks"]
                if not isinstance(callback, RunProgressBar)
            ]

    def _run_subcommand(self, subcommand: str) -> None:
        # Data or weights that are missing or do not fit must show before a run folder is made.
        self.datamodule.prepare_data()
        self.datamodule.setup(subcommand)
        if checkpoint := self._checkpoint():
            self.model.on_load_checkpoint(checkpoint)
        elif subcommand == "fit" and not self.config.fit.get("ckpt_path"):
            self.model.load_initial_weights()
        if subcommand in ("validate", "test"):
            # Lightning's own list of a hundred figures would bury the tables of ResultsWriter.
            self.config_init[subcommand].verbose = False
        super()._run_subcommand(subcommand)


def run(args: Sequence[str]) -> int:
    """Run one command of the command line.

    Args:
        args: what follows ``python -m etram_det``.

    Returns:
        Exit code: 0 when done, 2 for a user's mistake, 1 for a fault at run time.
    """
    _set_up_messages()
    command = args[0] if args else "--help"
    try:
        if command in LIGHTNING_COMMANDS:
            lightning_cli(args)
        elif command in TOOLS:
            module, name, _ = TOOLS[command]
            function = getattr(importlib.import_module(module), name)
            auto_cli(
                function,
                args=_tool_arguments(args[1:], function),
                prog=f"python -m etram_det {command}",
                as_positional=command == "bench",
                exit_on_error=False,
            )
        elif command in ("-h", "--help"):
            sys.stdout.write(_overview())
        elif command == "--version":
            sys.stdout.write(f"etram_det {__version__}\n")
        else:
            known = ", ".join((*LIGHTNING_COMMANDS, *TOOLS))
            raise UserError(f"{command}: no such command: choose one of {known}")
    except UserError as error:
        return _fail(_last_line(error), _exit_code(error))
    except (ArgumentError, MisconfigurationException) as error:
        return _fail(" ".join(str(error).split()), 2)
    except ValueError as error:
        # jsonargparse wraps what the constructor of a nested class raises.
        mistake = _user_error_behind(error)
        if mistake is None:
            raise
        return _fail(str(mistake), mistake.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
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
        save_config_kwargs={"overwrite": True},
        parser_kwargs=parser_settings if run else {"exit_on_error": False},
        trainer_defaults={
            "callbacks": [RunProgressBar(), PredictionWriter()],
            "use_distributed_sampler": False,  # the plan shares the recordings out itself
        },
    )


def _set_up_messages() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
    # Known and of no use to someone who trains a detector.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
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


def _tool_arguments(args: Sequence[str], function: Callable[..., Any]) -> list[str]:
    """What a tool's parser gets: ``--seeds 1 2`` as a list, what follows ``--`` as ``--fit``."""
    lists = {
        f"--{name}"
        for name, hint in get_type_hints(function).items()
        if {get_origin(each) for each in (hint, *get_args(hint))} & {tuple, Sequence}
    }
    own, fit = list(args), None
    if "--" in args:
        own, fit = own[: own.index("--")], own[own.index("--") + 1 :]
    words: list[list[str]] = []  # each with its further values
    for arg in own:
        if words and words[-1][0] in lists and not re.match(r"--|-\D", arg):
            words[-1].append(arg)
        else:
            words.append([_underscored(arg)])
    if fit is not None:
        words.append(["--fit", json.dumps(fit)])
    return [
        word
        for flag, *values in words
        for word in ([flag, *values] if len(values) < 2 else [flag, json.dumps(values)])
    ]


def _underscored(arg: str) -> str:
    """``--class-names`` as ``--class_names``: tools take both spellings of a flag."""
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg[2:].partition("=")
    return f"--{flag.replace('-', '_')}{equals}{value}"


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"etram_det: error: {message}\n")
    return code


def _user_error_behind(error: BaseException | None) -> UserError | None:
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _last_line(error: UserError) -> str:
    """The message itself, also where a loader's worker wrapped it in its traceback."""
    return re.sub(r"^[\w.]*UserError: ", "", str(error).strip().splitlines()[-1])


def _exit_code(error: UserError) -> int:
    # What a worker meets comes up while running, whatever code it had there.
    return 1 if "in DataLoader worker" in str(error) else error.exit_code
