"""Trees of settings: plain values of a size that a person could have written, and their leaves."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from etram_det.errors import UserError

_MOST_VALUES = 100_000
_DEEPEST = 100
_MOST_SHOWN = 60  # characters
_load = get_loader("yaml")  # safe: it knows YAML's own tags only


def restrict_yaml() -> None:
    """Let the command line's parsers refuse YAML that would take them forever.

    They read no tags but YAML's own, so that no text makes an object. Values that refer to each
    other may still stand for endlessly many.
    """
    set_loader("yaml", _load_tree, exceptions=(yaml.YAMLError,))


def require_settings(text: str, file: str, groups: Collection[str]) -> None:
    """Refuse a file of settings that holds something else, or something else in a group.

    Args:
        text: what the file holds; a file of nothing but comments holds no settings, which is fine.
        file: its name, for messages.
        groups: names, such as ``data``, that stand for settings by name.

    Raises:
        UserError: if it is no YAML, or settings by name are missing where they belong.
    """
    try:
        settings = _load_tree(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be read as settings in YAML: {reason}") from error
    if not isinstance(settings, dict):
        raise UserError(
            f"{file}: must hold settings by name, such as trainer: {{max_steps: 1000}}, found "
            f"{_shown(settings)}"
        )
    for name in groups:
        if name in settings and not isinstance(settings[name], dict):
            raise UserError(
                f"{file}: {name} must hold settings by name, such as those that `--print_config` "
                f"shows, found {_shown(settings[name])}: correct it or leave it out"
            )


def _shown(value: Any) -> str:
    """A value in YAML's own words, in one line, cut where it is long."""
    text = " ".join(yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _load_tree(text: str) -> Any:
    try:
        value = _load(text)
    except RecursionError as error:
        raise yaml.YAMLError(f"must be at most {_DEEPEST} levels deep, found more") from error
    except ValueError as error:  # a number of thousands of digits, a date that is none
        raise yaml.YAMLError(str(error)) from error
    if value is None and yaml.compose(text) is None:
        return {}  # nothing but comments
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
