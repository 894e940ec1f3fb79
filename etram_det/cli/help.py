"""What ``--help`` shows: examples, the project's own settings, then Lightning's in short."""

from __future__ import annotations

import re
from argparse import SUPPRESS, Action, _HelpAction
from collections.abc import Mapping
from copy import copy
from math import inf
from typing import Any

import yaml
from jsonargparse import DefaultHelpFormatter

from etram_det.cli.flags import BASELINE, configurations
from etram_det.cli.tool_help import usage_of

HELP_ALL = "--help-all"
SETTINGS_ORDER = (
    "Settings come from the package's baseline.yaml, which goes over the defaults below, then from "
    "--config files or names such as size_aware, then from flags."
)
# What a command is for, the three examples of its help, and what each of them does.
COMMANDS_HELP = {
    "fit": (
        "Train a detector.",
        {
            "--config small_objects --config quick": (
                "on simulated traffic, made once: minutes on a CPU"
            ),
            "--config small_objects --data.root /path/to/recordings": "on your own recordings",
            "--config small_objects --data.root /path/to/recordings --resume auto": (
                "the same, going on where a stopped run was"
            ),
        },
    ),
    "validate": (
        "Evaluate a checkpoint on the validation recordings.",
        {
            "--ckpt_path best": "the best one of the newest run, on its recordings",
            "--ckpt_path FILE.ckpt --data.root /path/to/recordings": "on other recordings",
            "--ckpt_path best --model.protocol prophesee": "comparable with published metrics",
        },
    ),
    "test": (
        "Evaluate a checkpoint on the test recordings.",
        {
            "--ckpt_path best": "the best one of the newest run, on its recordings",
            "--ckpt_path FILE.ckpt --data.root /path/to/recordings": "on other recordings",
            "--ckpt_path best --model.protocol prophesee": "comparable with published metrics",
        },
    ),
    "predict": (
        "Write a checkpoint's detections for a split.",
        {
            "--ckpt_path best": "in the test recordings of the newest run",
            "--ckpt_path best --data.predict_split val": "in its validation recordings",
            "--ckpt_path FILE.ckpt --data.root /path/to/recordings": "in other recordings",
        },
    ),
}
# Lightning's own words for these are long, or about what this project lacks.
_IN_OWN_WORDS = {
    "config": "file of settings, or name of one of the package; a later one overrides earlier ones",
    "print_config": "print the settings that all files and flags give, and exit",
    "seed_everything": "seed of weights, training order and augmentation; true for a random one",
}
_CHECKPOINT = (
    "checkpoint, ``last`` or ``best`` for that of the newest run, or ``package`` for the "
    "package's own"
)
_GOES_ON = "checkpoint, ``last`` or ``best`` for that of the newest run; goes on at its next batch"
_OF_TRAINING = ("checkpoint.", "early_stopping.", "non_finite_steps.", "data.augmentation.")
_IN_OWN_WORDS_OF_TOOLS = {
    "config": "file of these settings, in YAML",
    "print_config": "print the settings that all files and flags give, and exit",
}
_WITHOUT_NAME = ("fit_flags", "fit")
_LIGHTNINGS = "trainer"
_ORDER = ("data", "model", "checkpoint", "early_stopping")  # of groups; the trainer comes last
_SAME_EVERYWHERE = ("--ckpt_path", "--print_config")  # written so by all commands


class PlainHelpFormatter(DefaultHelpFormatter):
    """Help in plain text: docstrings lose their reStructuredText, settings their Python types."""

    shows_types = False

    def start_section(self, heading: str | None) -> None:
        """Start a group of settings, under the first line of its class."""
        super().start_section(_plain(heading) if heading else heading)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return super()._split_lines(_plain(text), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs are filled; those that are indented stay as they are."""
        fill = super()._fill_text
        blocks = _plain(text).split("\n\n")
        return "\n\n".join(
            block if block.startswith("  ") else fill(block, width, indent) for block in blocks
        )

    def _get_type_str(self, action: Action) -> str | None:
        return super()._get_type_str(action) if self.shows_types else None


class ToolHelpFormatter(PlainHelpFormatter):
    """Help of the project's tools, whose flags have hyphens, as in the documentation."""

    def _format_usage(self, *args: Any, **kwargs: Any) -> str:
        return usage_of(self._prog.rpartition(" ")[2], self._prog)

    def _format_action(self, action: Action) -> str:
        # Flags of fit, which are given as they are; groups of settings, which few have in files.
        is_hidden = action.dest in _WITHOUT_NAME or type(action).__name__ == "_ActionConfigLoad"
        return "" if is_hidden else super()._format_action(action)

    def _expand_help(self, action: Action) -> str:
        shown = copy(action)
        shown.default = _as_yaml(action.default)
        return _IN_OWN_WORDS_OF_TOOLS.get(action.dest) or super()._expand_help(shown)

    def _format_action_invocation(self, action: Action) -> str:
        shown = super()._format_action_invocation(action)
        return re.sub(r"--[\w.]+", lambda flag: _hyphened(flag[0]), shown)


class FullHelpFormatter(PlainHelpFormatter):
    """Help with the type of each setting."""

    shows_types = True


class HelpAll(_HelpAction):
    """``--help-all``: every setting that there is, as jsonargparse lists them."""

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print it, and end."""
        parser.is_short = False
        parser.formatter_class = FullHelpFormatter
        parser.print_help()
        parser.exit()


def shorten(parser: Any, command: str) -> None:
    """Let a parser's help start with examples and own settings, and end with Lightning's in short.

    The parser only prints its help after this.

    Args:
        parser: that of one of Lightning's commands.
        command: its name.
    """
    purpose, examples = COMMANDS_HELP[command]
    program = f"python -m etram_det {command}"
    lines = [f"  {program} {flags}\n      {words}" for flags, words in examples.items()]
    parser.usage = f"{program} [--config FILE.yaml] … [--KEY VALUE] …"
    parser.description = "\n\n".join(
        [
            purpose,
            "Examples:",
            "\n".join(lines),
            SETTINGS_ORDER.replace("which goes over", "whose values are"),
        ]
    )
    baseline = (configurations() / BASELINE).read_text(encoding="utf-8")
    defaults = yaml.safe_load(baseline)
    in_short = _comments(baseline, _LIGHTNINGS)
    trains = command == "fit"
    own_words = _IN_OWN_WORDS | {"ckpt_path": _GOES_ON if trains else _CHECKPOINT}
    for action in parser._actions:
        if (default := _short_value(defaults, action.dest)) is not None:
            action.default = default
        if action.dest.startswith(f"{_LIGHTNINGS}."):
            action.help = in_short.get(action.dest, SUPPRESS)
            action.extra_help = str  # without the classes that there are
        elif type(action).__name__ == "_ActionConfigLoad":  # a group of settings from a file
            action.help = SUPPRESS
        elif not trains and action.dest.startswith(_OF_TRAINING):
            action.help = SUPPRESS
        else:
            action.help = own_words.get(action.dest, action.help)
    parser._action_groups = _in_order(parser)


def _in_order(parser: Any) -> list[Any]:
    """The groups of a parser's settings as its short help lists them."""
    places = {}
    for group in parser._action_groups:
        dests = [action.dest for action in group._group_actions]
        section = next((each.partition(".")[0] for each in dests if "." in each), "")
        if group.title == "options":
            group._group_actions += [x for x in parser._actions if x.dest == "ckpt_path"]
        elif group.title == "Linked arguments" or "ckpt_path" in dests:  # of Lightning's method
            continue
        places[group] = ("", *_ORDER, section).index(section)
        if section == _LIGHTNINGS:
            group.title = f"Lightning's trainer; {HELP_ALL} lists the rest of it"
            places[group] += 1
    return sorted(places, key=lambda group: places[group])


def _short_value(settings: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name, a class by its name; None if there is none."""
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    if isinstance(value, Mapping) and "class_path" in value:
        return value["class_path"].rpartition(".")[2]
    return _as_yaml(value)


def _as_yaml(value: Any) -> Any:
    """A value as files of settings write it; numbers and words are so already."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_as_yaml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(str(_as_yaml(each)) for each in value)}]"
    return ".inf" if value == inf else value


def _comments(text: str, section: str) -> dict[str, str]:
    """What a file of settings says of those of one section, by dotted name."""
    block = re.search(rf"^{section}:.*\n((?:  .*\n)+)", text, re.MULTILINE)
    found = re.findall(r"^  (\w+):.*? # (.*)$", block[1] if block else "", re.MULTILINE)
    return {f"{section}.{name}": comment for name, comment in found}


def _hyphened(flag: str) -> str:
    """A flag as the documentation writes it; names that files of settings have, too, stay."""
    return flag if "." in flag or flag in _SAME_EVERYWHERE else flag.replace("_", "-")


def _plain(text: str) -> str:
    """Without double backticks and roles: ``:class:`~a.b.C``` as ``C``."""
    text = re.sub(
        r":[a-z]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`", lambda role: role[1].split(".")[-1], text
    )
    return re.sub(r"``([^`]*)``", r"\1", text)
