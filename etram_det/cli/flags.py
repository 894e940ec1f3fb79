"""How settings are written on the command line and in files: names of files, flags."""

from __future__ import annotations

import json
import logging
import re
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, is_dataclass
from functools import reduce
from inspect import Parameter, signature
from operator import or_
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import get_loader

import etram_det
from etram_det.errors import UserError

BASELINE = "baseline.yaml"
# Settings by their names before 0.2, which work for this release, and their new names.
RENAMED = {
    "bad_steps": "non_finite_steps",
    "data.on_bad_recording": "data.on_unreadable_recording",
}
_RESIZE = {"scale": "stretch", "pad": "letterbox"}  # old and new values of --resize, once --fit
_MAX_SHOWN = 60  # characters of a value in a message

_log = logging.getLogger(__name__)


def configurations() -> Path:
    """The folder of the configurations that come with the package.

    Raises:
        UserError: it is missing, or the baseline in it.
    """
    package = Path(etram_det.__file__).parent
    folders = (package / "configs", package.parent / "configs")  # installed, and in a clone
    for folder in folders:
        if (folder / BASELINE).is_file():
            return folder
    raise UserError(
        f"configs: must hold {BASELINE}, in {' or '.join(map(str, folders))}, got no such file: "
        "install the package again"
    )


def configuration_file(name: str, flag: str = "--config") -> str:
    """The file that a value of ``--config``, or of another flag, stands for.

    Args:
        name: path of a file; or name of one in the working directory or of a configuration of the
            package, without ``.yaml``. Settings themselves, as YAML, stay as they are.
        flag: for messages.

    Raises:
        UserError: there is none of that name.
    """
    if re.search(r"[{\n]|: |://", name) or Path(name).is_file():
        return name
    folder = configurations()
    for path in (Path(f"{name}.yaml"), folder / f"{name}.yaml"):
        if path.name == f"{name}.yaml" and path.is_file():
            return str(path)
    known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise UserError(f"{flag}: must be a file or one of {known}, got {name}: use one of these")


def settings_arguments(args: Sequence[str]) -> list[str]:
    """Arguments of one of Lightning's commands: the baseline, other files, then all other flags.

    Flags may have hyphens in place of underscores.

    Raises:
        UserError: a configuration is missing.
        ArgumentError: the last flag is ``--config``, without a value.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    named, flags = parser.parse_known_args(args)
    files = [str(configurations() / BASELINE), *map(configuration_file, named.config)]
    return [word for file in files for word in ("--config", file)] + [
        *map(_with_new_name, map(_as_key, flags))
    ]


def read_settings(text: str, file: str, groups: Collection[str]) -> str:
    """The YAML of a file of settings, old names replaced by the new ones.

    Args:
        text: what the file holds; nothing but comments is an empty mapping.
        file: its name, for messages.
        groups: names, such as ``data``, that hold settings by name.

    Raises:
        UserError: it is no YAML, or settings by name are missing where they belong.
    """
    try:
        settings = get_loader("yaml")(text)
    except (yaml.YAMLError, ValueError) as error:  # the latter for numbers of too many digits
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: must hold settings in YAML, got {reason}") from error
    if settings is None:
        return "{}"
    if not isinstance(settings, dict):
        raise UserError(
            f"{file}: must hold settings by name, got {_shown(settings)}: use a form such as "
            "trainer: {max_steps: 1000}"
        )
    for name in groups:
        if name in settings and not isinstance(settings[name], dict):
            raise UserError(
                f"{file}: {name} must hold settings by name, got {_shown(settings[name])}: use "
                "those that `--print_config` shows, or leave it out"
            )
    for old, new in RENAMED.items():
        *group, last = old.split(".")
        holder = settings.get(group[0], {}) if group else settings
        if last in holder:
            _log_new_name(old, new, f"{file}: ")
            holder.setdefault(new.rpartition(".")[2], holder.pop(last))
            text = yaml.safe_dump(settings, sort_keys=False)
    return text


def read_whole_numbers_as_such(parser: ArgumentParser) -> None:
    """Let ``1`` for a number or share stay ``1``: Lightning reads ``1.0`` as all of it.

    Python caches unions by their members, so that the order in which a value is tried as ``int``
    and ``float`` depends on what was imported before.
    """
    actions: list[Any] = parser._actions
    for action in actions:
        types = get_args(getattr(action, "_typehint", None))
        if {int, float} <= {*types}:
            action._typehint = reduce(or_, sorted(types, key=lambda each: each is not int))


def tool_arguments(args: Sequence[str], function: Callable[..., Any]) -> list[str]:
    """What a tool's parser gets: ``--seeds 1 2`` as a list, what follows ``--`` as ``--fit``.

    A flag for a list of lists may be given several times, each time with one of them. A flag that
    is true or false may stand alone. Where the first parameter is a list without a default, words
    that no flag takes are its values; where it is one of some words and has a default, the first
    word may be its value. Where it has a parameter ``fit_flags``, flags of others are its values,
    and the first such word is its first parameter.
    """
    hints = get_type_hints(function)
    lists = {  # with the single words that may stand for a list
        f"--{name}": {"null", *_literals(hint)}
        for name, hint in hints.items()
        if {get_origin(each) for each in (hint, *get_args(hint))} & {tuple, Sequence}
    }
    switches = {f"--{name}" for name, hint in hints.items() if hint in (bool, bool | None)}
    # That may stand alone as well, or have another value than true or false.
    optional = {f"--{name}" for name, hint in hints.items() if bool in get_args(hint)}
    first = next(iter(signature(function).parameters.values()))
    gathers = f"--{first.name}" in lists and first.default is Parameter.empty
    has_choices = get_origin(hints[first.name]) is Literal and first.default is not Parameter.empty
    if args and has_choices and args[0] in get_args(hints[first.name]):
        args = [f"--{first.name}", *args]
    end = args.index("--") if "--" in args else len(args)
    nested = {
        f"--{name}": list[Any]()
        for name, hint in hints.items()
        if get_origin(hint) is Sequence and get_origin(get_args(hint)[0]) is Sequence
    }
    words: list[str] = []
    gathered: list[str] = []
    flags: list[str] = []
    own = {"", "-h", "--help", *(f"--{name}" for name in hints)}
    for flag, equals, values in _flags_and_words(args[:end]):
        if "resize" in hints:
            flag, values = _with_new_resize(flag, values)
        if flag in nested:
            nested[flag].append(values)
            continue
        if flag in lists:
            is_whole = len(values) == 1 and (values[0] in lists[flag] or values[0][:1] == "[")
            words += [flag, *(values if is_whole or not values else [json.dumps(values)])]
            continue
        if "fit_flags" in hints and flag not in own:
            flags += [f"{flag}={values[0]}"] if equals else [flag, *values[:1]]
            gathered += values[1:]
            continue
        if flag in switches and not equals and values[:1] not in (["true"], ["false"], ["null"]):
            words.append(f"{flag}=true")
        elif flag in optional and not values:
            words.append(f"{flag}=true")
        elif equals:
            words.append(f"{flag}={values.pop(0)}")
        elif flag:
            words += [flag, *values[:1]]
            del values[:1]
        (gathered if gathers or "fit_flags" in hints else words).extend(values)
    words += [word for flag, of in nested.items() if of for word in (flag, json.dumps(of))]
    if end < len(args):
        words += ["--fit", json.dumps(args[end + 1 :])]
    if "fit_flags" in hints:
        root = [f"--{first.name}", gathered.pop(0)] if gathered else []
        return [*words, *root, *gathered, *(["--fit_flags", json.dumps(flags)] if flags else [])]
    return [*([json.dumps(gathered)] if gathered else []), *words]


def _flags_and_words(args: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Each flag, its ``=`` where it has one, and the words behind it; first those without a flag.

    ``--class-names`` is ``--class_names``.
    """
    found: list[tuple[str, str, list[str]]] = [("", "", [])]
    for arg in args:
        if re.match(r"--|-\D", arg):
            flag, equals, value = arg.partition("=")
            flag = re.sub(r"(?<=\w)-", "_", flag)
            found.append((flag, equals, [value] if equals else []))
        else:
            found[-1][2].append(arg)
    return found


def in_own_keys(message: str, function: Callable[..., Any]) -> str:
    """A message with a tool's own keys: ``frames.bins`` or ``root`` for ``data.…``."""
    keys: dict[str, str] = {}
    for name, hint in get_type_hints(function).items():
        inner = [field.name for field in fields(hint)] if is_dataclass(hint) else []
        keys |= {name: name} | {each: f"{name}.{each}" for each in inner}
    return re.sub(r"(?<![\w./])data\.(\w+)", lambda key: keys.get(key[1], key[0]), message)


def _literals(hint: Any) -> list[str]:
    """The words that a type takes in place of a list, not those in the list."""
    if get_origin(hint) in (tuple, Sequence):
        return []
    return [
        word for each in get_args(hint) if get_origin(each) is Literal for word in get_args(each)
    ]


def _as_key(arg: str) -> str:
    """``--data.train-lanes=4`` as ``--data.train_lanes=4``."""
    flag, equals, value = arg.partition("=")
    if not flag.startswith("--") or flag == "--help-all":
        return arg
    return f"--{flag[2:].replace('-', '_')}{equals}{value}"


def _with_new_name(arg: str) -> str:
    """``--bad_steps.most_in_a_row=5`` as ``--non_finite_steps.most_in_a_row=5``."""
    for old, new in RENAMED.items():
        if re.match(rf"--{re.escape(old)}(?![\w-])", arg):
            _log_new_name(old, new)
            return f"--{new}{arg[2 + len(old) :]}"
    return arg


def _with_new_resize(flag: str, values: list[str]) -> tuple[str, list[str]]:
    """``--resize letterbox`` for ``--fit pad``."""
    if flag == "--fit":
        _log_new_name(flag, "--resize")
    elif flag != "--resize":
        return flag, values
    return "--resize", [_RESIZE.get(value, value) for value in values[:1]] + values[1:]


def _log_new_name(old: str, new: str, where: str = "") -> None:
    message = "%s%s is renamed to %s: use the new name, the old one goes with the next release"
    _log.warning(message, where, old, new)


def _shown(value: Any) -> str:
    """A value as YAML, in one line, cut where it is long."""
    text = " ".join(yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").split())
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
