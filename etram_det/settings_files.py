"""Settings in YAML: plain values only, and a tree of a size that a person could have written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

_MOST_VALUES = 100_000
_DEEPEST = 100
_load = get_loader("yaml")  # safe: it knows YAML's own tags only


def restrict_yaml() -> None:
    """Let the command line's parsers refuse YAML that would take them forever.

    They read no tags but YAML's own, so that no text makes an object. Values that refer to each
    other may still stand for endlessly many.
    """
    set_loader("yaml", _load_tree, exceptions=(yaml.YAMLError,))


def _load_tree(text: str) -> Any:
    try:
        value = _load(text)
    except RecursionError as error:
        raise yaml.YAMLError(f"must be at most {_DEEPEST} levels deep, found more") from error
    except ValueError as error:  # a number of thousands of digits, a date that is none
        raise yaml.YAMLError(str(error)) from error
    waiting: list[tuple[Any, int]] = [(value, 0)]
    num_values = 0
    while waiting:
        each, depth = waiting.pop()
        num_values += 1
        if num_values > _MOST_VALUES or depth > _DEEPEST:
            raise yaml.YAMLError(
                f"must hold at most {_MOST_VALUES:,} values on {_DEEPEST} levels, aliases counted "
                "each time, found more"
            )
        parts: Iterable[Any] = ()
        if isinstance(each, dict):
            parts = each.values()
        elif isinstance(each, (list, set, tuple)):
            parts = each
        waiting += [(part, depth + 1) for part in parts]
    return value
