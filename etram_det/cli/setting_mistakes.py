"""What jsonargparse says of settings that it refuses, in one line for the one who set them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_UNKNOWN = re.compile(
    r"(?:Subcommand '\w+' does not accept option|Group '(?P<group>[\w.]+)' does not accept option"
    r"|Option) '(?P<key>[^']+)'(?: is not accepted)?"
)
_UNKNOWN_FLAG = re.compile(r"unrecognized arguments: (?:-c |--)?(?P<key>[^\s=]+).*", re.DOTALL)
# Of what jsonargparse tells about a value of several possible types, the lines without news.
_NO_NEWS = ("Does not validate against", "Errors:", "Given value type:", "Expected a")
_ALIKE = 0.75  # least likeness, in [0, 1], of a name that may have been meant


def in_plain_words(
    message: str,
    known: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
    program: str = "python -m etram_det COMMAND",
) -> str:
    """What a user should read of settings that were refused.

    Args:
        message: jsonargparse's.
        known: dotted names of all settings, to find what was meant by an unknown one.
        files: for settings that stand in files, by their dotted name, which file.
        program: the command, whose ``--help`` lists the settings.
    """
    if unknown := _UNKNOWN.fullmatch(message) or _UNKNOWN_FLAG.fullmatch(message):
        parts = unknown.groupdict()
        key = ".".join(part for part in (parts.get("group"), parts["key"]) if part)
        where = f" in {files[key]}" if files and key in files else ""
        meant = _nearest(key, list(known))
        nearest = f", the nearest is {meant}" if meant else ""
        return f"{key}{where}: no such setting{nearest}: `{program} --help` lists all settings"
    return _refused_value(message)


def _nearest(key: str, known: list[str]) -> str | None:
    """The known name whose last part is most like that of an unknown one, first in its group."""
    group, _, last = key.rpartition(".")
    in_group = [name for name in known if name.rpartition(".")[0] == group]
    for names in (in_group, known):
        by_last_part = {name.rpartition(".")[2]: name for name in names}
        if alike := get_close_matches(last, by_last_part, 1, _ALIKE):
            return by_last_part[alike[0]]
    return None


def _refused_value(message: str) -> str:
    """Where a value stands and what was wrong with it, of all types that were tried."""
    where: list[str] = []
    types = ""
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        if heading := re.match(
            r'Parser key "([^"]+)":|Problem with given class_path \'(.*)\':', line
        ):
            where.append(heading[1] or heading[2].rpartition(".")[2])
            line = line[heading.end() :].strip()
        if refused := re.fullmatch(r"Expected a (.*)\. Got value: (.*)", line):
            return _must_be(where, refused[1], refused[2])
        if line.startswith("Subtypes: "):
            types = line.removeprefix("Subtypes: ")[1:-1]
        elif line.startswith("Given value: "):
            return _must_be(where, types, line.removeprefix("Given value: "))
        elif line and not line.startswith(_NO_NEWS):
            return ": ".join([*where, line])
    return " ".join(message.split())


def _must_be(where: list[str], types: str, found: str) -> str:
    bare = re.sub(r"<class '([\w.]+)'>", r"\1", types)
    bare = re.sub(r"\b(?:[a-zA-Z_]\w*\.)+(\w+)", r"\1", bare)
    bare = re.sub(r"Literal\[([^\]]*)\]", r"\1", bare).replace("NoneType", "null")
    one_of = "one of " if ", " in bare else ""
    return f"{': '.join(where)}: must be {one_of}{bare}, found {found}: correct it"
