"""The command line: Lightning's fit, validate, test and predict, and the project's tools.

Every command reads its settings from flags and YAML; ``python -m etram_det COMMAND --help`` says
what they mean. A user's mistake ends with one line on standard error and exit code 2, a fault
that shows only at run time, or what check finds doubtful, with 1.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from etram_det import __version__
from etram_det.cli.messages import (
    MessageHandler,
    is_for_user,
    message_and_code,
    quiet_writers,
)
from etram_det.errors import StoppedBySignal, UserError
from etram_det.progress import screen

# Each command and what it does.
LIGHTNING_COMMANDS = {
    "fit": "train a detector",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "write a checkpoint's detections for a split",
}
# Each command, its module in etram_det.tools, and what it does.
TOOLS = {
    "check": ("check.command", "show what fit would make of recordings, before training"),
    "simulate": ("simulate", "make a set of simulated traffic"),
    "preprocess": ("preprocess", "prepare recordings once, to load them fast"),
    "stats": ("stats.command", "describe the labels of recordings"),
    "bench": ("bench.command", "measure speed and memory"),
    "import-rvt": ("import_rvt", "turn a checkpoint of RVT or its eTraM fork into one of ours"),
    "detect": ("detect.command", "run a detector on recordings: videos and boxes"),
    "live": ("live", "run a detector on a camera, as events come: boxes and a page to look at"),
    "evaluate": ("evaluate.command", "evaluate detections in files, of any detector"),
    "convert-labels": ("convert_labels", "turn labels from COCO or CSV into box files, and back"),
    "export": ("export.command", "turn a checkpoint into an ONNX file that runs without PyTorch"),
    "report": ("report", "write a page of one evaluated run, or of two side by side"),
    "checkpoint": ("checkpoint", "show what a checkpoint holds: settings, data, metrics"),
    "sweep": ("sweep.command", "search loss variants and settings"),
    "experiment": ("experiment.command", "train variants with several seeds, and compare them"),
    "doctor": (
        "doctor.command",
        "show what is installed, which commands work, and what is missing",
    ),
    "cache": ("cache", "list what is kept in the cache; cache clear removes it"),
}
# Those whose first parameter needs no flag.
_POSITIONAL = ("bench", "checkpoint", "convert-labels", "detect", "experiment", "report")


def run(args: Sequence[str]) -> int:
    """Run one command of the command line.

    Args:
        args: what follows ``python -m etram_det``.

    Returns:
        Exit code: 0 when done, 2 for a user's mistake, 1 for a fault at run time or doubtful data,
        128 and the signal's number for a run that a signal has ended.
    """
    _set_up_messages()
    command = args[0] if args else "--help"
    # What ends one of Lightning's runs comes behind a progress bar, whose line has not ended.
    start = "\n" if command in LIGHTNING_COMMANDS else ""
    try:
        with quiet_writers():
            return _run(command, args[1:])
    except StoppedBySignal as stop:
        screen(stderr=True).out(f"{start}etram_det: {stop}")
        return stop.exit_code
    except (Exception, KeyboardInterrupt) as error:
        known = message_and_code(error, command)
        if known is None:
            raise
        message, code = known
        if command in TOOLS and not _is_on_its_own(args):
            from etram_det.cli.flags import in_own_keys

            message = in_own_keys(message, tool_function(command))
        screen(stderr=True).out(f"{start if code == 1 else ''}etram_det: error: {message}")
        return code


def _run(command: str, args: Sequence[str]) -> int:
    if command in LIGHTNING_COMMANDS:
        importlib.import_module("etram_det.cli.lightning").lightning_cli([command, *args])
    elif _is_on_its_own((command, *args)):
        importlib.import_module("etram_det.tools.bench.gpu").bench_gpu_command(args[1:])
    elif command in TOOLS:
        from jsonargparse import auto_cli

        from etram_det.cli.flags import tool_arguments

        function = tool_function(command)
        settings = tool_arguments(args, function)
        return auto_cli(function, args=settings, **tool_parser_settings(command)) or 0
    elif command in ("-h", "--help"):
        screen().out(_overview(), end="")
    elif command == "--version":
        screen().out(f"etram_det {__version__}")
    else:
        known = ", ".join((*LIGHTNING_COMMANDS, *TOOLS))
        raise UserError(f"{command}: no such command: choose one of {known}")
    return 0


def _is_on_its_own(args: Sequence[str]) -> bool:
    """Whether this is ``bench gpu``, which runs where PyTorch is and jsonargparse is not."""
    return list(args[:2]) == ["bench", "gpu"]


def tool_function(command: str) -> Callable[..., int | None]:
    """The function of a tool, whose parameters are its settings."""
    module = importlib.import_module(f"etram_det.tools.{TOOLS[command][0]}")
    return getattr(module, f"{command.replace('-', '_')}_command")


def tool_parser_settings(command: str) -> dict[str, Any]:
    """How the parser of a tool is made, beside its function."""
    from etram_det.cli.help import ToolHelpFormatter

    return {
        "prog": f"python -m etram_det {command}",
        "as_positional": command in _POSITIONAL,
        "exit_on_error": False,
        "formatter_class": ToolHelpFormatter,
    }


def _set_up_messages() -> None:
    # What other libraries log below a warning is for their developers.
    handlers = [MessageHandler()]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=handlers)
    logging.getLogger("etram_det").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(is_for_user)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # builds its cache
    for module in ("utilities.rank_zero", "accelerators.cuda"):
        logging.getLogger(f"pytorch_lightning.{module}").addFilter(_is_of_use)
    # Known and of no use to someone who trains a detector.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")  # its plan is
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within.*")


def _is_of_use(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning is neither advertisement nor about devices that are not there.

    Nor does it say twice which checkpoint is read, or that a run was interrupted.
    """
    useless = (
        "litlogger", "litmodels", "available: False", "LOCAL_RANK: ", "Restoring states",
        "Detected KeyboardInterrupt",
    )  # fmt: skip
    return not any(words in record.getMessage() for words in useless)


def _overview() -> str:
    tools = {name: text for name, (_, text) in TOOLS.items()}
    rows = "\n".join(f"  {name:<14} {x}" for name, x in (LIGHTNING_COMMANDS | tools).items())
    return f"""Detect road users in event-camera recordings.

  python -m etram_det COMMAND [--config FILE.yaml …] [--KEY VALUE …]

{rows}

Each command explains its settings with --help.
"""
