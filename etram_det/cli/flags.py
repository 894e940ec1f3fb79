"""How the tools' flags may be written on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, Literal, get_args, get_origin, get_type_hints

_ANSWERS = ("true", "false")


def tool_arguments(args: Sequence[str], function: Callable[..., Any]) -> list[str]:
    """What a tool's parser gets: ``--seeds 1 2`` as a list, what follows ``--`` as ``--fit``.

    A flag that is true or false may stand alone. Where the first parameter is a list without a
    default, words that no flag takes are its values.

    Args:
        args: of the command line, without the command.
        function: the tool.
    """
    hints = get_type_hints(function).items()
    lists = {  # with the single words that may stand for a list
        f"--{name}": {"null", *_literals(hint)}
        for name, hint in hints
        if {get_origin(each) for each in (hint, *get_args(hint))} & {tuple, Sequence}
    }
    first = next(iter(signature(function).parameters.values()))
    gathers = f"--{first.name}" in lists and first.default is Parameter.empty
    own, fit = list(args), None
    if "--" in args:
        own, fit = own[: own.index("--")], own[own.index("--") + 1 :]
    switches = {f"--{name}" for name, hint in hints if hint is bool}
    own = [
        f"{arg}=true" if _underscored(arg) in switches and following not in _ANSWERS else arg
        for arg, following in zip(own, [*own, ""][1:], strict=True)
    ]
    words: list[list[str]] = []  # each with its further values
    gathered: list[str] = []
    lacks_value = False  # whether the word before is a flag whose value is still to come
    for arg in own:
        is_flag = re.match(r"--|-\D", arg) is not None
        flag, equals, value = _underscored(arg).partition("=")
        if not is_flag and words and words[-1][0] in lists:
            words[-1].append(arg)
        elif not is_flag and gathers and not lacks_value:
            gathered.append(arg)
        elif equals and flag in lists:
            words.append([flag, value])
        else:
            words.append([_underscored(arg)])
        lacks_value = is_flag and "=" not in arg
    if fit is not None:
        words.append(["--fit", json.dumps(fit)])
    return [
        *([json.dumps(gathered)] if gathered else []),
        *(
            word
            for flag, *values in words
            for word in (
                [flag, *values]
                if _is_whole(values, lists.get(flag, ()))
                else [flag, json.dumps(values)]
            )
        ),
    ]


def in_own_keys(message: str, function: Callable[..., Any]) -> str:
    """A message with a tool's own keys: ``frames.bins`` or ``root`` where ``fit`` has ``data.…``.

    Args:
        message: of a mistake in a setting.
        function: the tool.
    """
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


def _is_whole(values: Sequence[str], names: Collection[str]) -> bool:
    """Whether this is no list in words, but nothing, a name, or a list in one word."""
    return not values or (len(values) == 1 and (values[0] in names or values[0].startswith("[")))


def _underscored(arg: str) -> str:
    """``--class-names`` as ``--class_names``: tools take both spellings of a flag."""
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg[2:].partition("=")
    return f"--{flag.replace('-', '_')}{equals}{value}"
