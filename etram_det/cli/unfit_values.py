"""What a value must be, in words, where jsonargparse says which of Python's types it is not."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from pydoc import locate

_SETTING = re.compile(r'Parser key "([^"]+)": ')
_ONE = re.compile(r"Expected a (?P<type>.+?)\. Got value: (?P<value>.*)")
_LENGTH = re.compile(r"Expected a tuple with (?P<number>\d+) elements\. Got value: (?P<value>.*)")
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(?P<types>.*?)\] Errors: "
    r"(?P<errors>.*?) Given value type: .*? Given value: (?P<value>.*)"
)
_PROBLEM = re.compile(
    r"Problem with given class_path '(?P<path>[^']+)': "
    r"(?P<reason>.+?)(?= - (?:Expected|Problem) |$)"
)
_NO_SUCH = re.compile(r"Option '(?P<name>[^']+)' is not accepted")
_REQUIRED = re.compile(r"the following arguments are required: (?P<names>.+)")
_NO_GROUP = re.compile(r"Unable to load config '(?P<value>.*?)'")
_LINKED = re.compile(r"argument .*--> (?P<name>[\w.]+): invalid int value: '(?P<value>.*)'")
_CLASS = re.compile(r"<class '([^']+)'>")

_VARIOUS = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_NULL = "null"
# Of one, and of several in a list.
_KINDS = {
    "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"),
    "bool": ("true or false", "true or false"),
    "str": ("text", "words"),
    "NoneType": (_NULL, _NULL),
    "list": ("a list", "lists"),
    "dict": ("a mapping", "mappings"),
}
_LISTS = ("list", "tuple", "Sequence", "Iterable")
_MAPPINGS = ("dict", "Mapping")


class _UnknownTypeError(Exception):
    """A type that is left to jsonargparse's words."""


@dataclass(frozen=True)
class _Words:
    """A type in words: of one value, and of several; or the values themselves."""

    one: str
    several: str
    choices: tuple[str, ...] = ()


def about_value(line: str) -> str | None:
    """What a value must be, what it is, and what to do, from a message of jsonargparse.

    Args:
        line: the message, in one line.

    Returns:
        ``NAME: must be …, got …: …``; None for a message on something else.
    """
    if linked := _LINKED.search(line):
        return f"{linked['name']}: must be a whole number, got {linked['value']}: give one"
    keys = list(_SETTING.finditer(line))
    if not keys:
        return None
    name, rest = _name_and_mistake(line, keys)
    before = line[: keys[0].start()]
    if length := _LENGTH.match(rest):
        number, value = length["number"], _given(length["value"])
        return f"{before}{name}: must be a list of {number} values, got {value}: give so many"
    if union := _UNION.search(rest):
        if problem := _PROBLEM.search(union["errors"]):
            return f"{before}{_about_class(name, problem['path'], problem['reason'])}"
        types, value = union["types"], _given(union["value"])
    elif one := _ONE.match(rest):
        types, value = one["type"], _given(one["value"])
    elif group := _NO_GROUP.match(rest):
        kind = "settings by their names, or a file of them"
        return f"{before}{name}: must be {kind}, got {group['value']}: set {name}.NAME"
    else:
        return None
    try:
        words = _words_of_types(types)
    except _UnknownTypeError:
        return None
    return f"{before}{name}: {_must_be(words, value)}"


def _name_and_mistake(line: str, keys: Sequence[re.Match[str]]) -> tuple[str, str]:
    """The whole name of the setting that is wrong, and what jsonargparse says of it.

    A setting of a class that is itself a value is named behind the setting with the class, and that
    once more for each type that the class could be: the first one counts.
    """
    name, last = keys[0][1], keys[0]
    for key in keys[1:]:
        if key[1] == last[1]:
            break
        name = key[1] if key[1].startswith(f"{name}.") else f"{name}.{key[1]}"
        last = key
    return name, line[last.end() :]


def _given(value: str) -> str:
    """The value that was given, without what follows of the types around it."""
    return re.split(r" - (?:Expected|Problem) ", value)[0]


def _about_class(name: str, path: str, reason: str) -> str:
    """What is wrong with the class that a setting names, or with the settings of that class."""
    if required := _REQUIRED.match(reason):
        settings = [f"{name}.{each.strip()}" for each in required["names"].split(",")]
        return f"{', '.join(settings)}: must be given with {path}, got none: set it"
    lacking = _NO_SUCH.match(reason)
    if not lacking:
        return f"{name}: {path} cannot be used ({reason}): correct it, or name another class"
    made = locate(path)
    parameters = signature(made).parameters.values() if callable(made) else ()
    own = [each.name for each in parameters if each.kind not in _VARIOUS]
    remedy = f"use one of {', '.join(own)}" if own else "name a class that has it, or leave it out"
    return f"{name}: {path.rpartition('.')[2]} has no setting {lacking['name']}: {remedy}"


def _must_be(words: Sequence[_Words], value: str) -> str:
    choices = list(dict.fromkeys(choice for each in words for choice in each.choices))
    kinds = list(dict.fromkeys(each.one for each in words if not each.choices))
    if choices and set(kinds) <= {_NULL}:
        return f"must be one of {', '.join(choices)}, got {value}: use one of these"
    if "a number" in kinds and "a whole number" in kinds:
        kinds.remove("a whole number")
    if choices:
        kinds.append(f"one of {', '.join(choices)}")
    kinds.sort(key=lambda kind: kind == _NULL)
    between = " or " if not any(re.search(",| or ", kind) for kind in kinds) else ", or "
    remedy = "give one"
    if value.startswith("{") and any(kind.startswith("a mapping") for kind in kinds):
        remedy = "write {name: value}, with a space behind each colon"
    elif not value.startswith("[") and kinds[0].startswith("a list"):
        remedy = "write it in brackets, with commas: [A, B]"
    return f"must be {between.join(kinds)}, got {value}: {remedy}"


def _words_of_types(types: str) -> list[_Words]:
    """Words of each of some types, as Python prints them.

    Raises:
        _UnknownTypeError: one has no words here.
    """
    try:
        listed = ast.parse(f"[{_CLASS.sub(lambda found: found[1], types)}]", mode="eval").body
    except SyntaxError as error:
        raise _UnknownTypeError from error
    assert isinstance(listed, ast.List)
    return [_words_of(each) for each in listed.elts]


def _words_of(node: ast.expr) -> _Words:
    if isinstance(node, ast.BinOp):  # int | str
        return _either([_words_of(node.left), _words_of(node.right)])
    if not isinstance(node, ast.Subscript):
        return _words_of_name(ast.unparse(node))
    name, inner = ast.unparse(node.value).rpartition(".")[2], node.slice
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        choices = tuple(str(part.value) for part in parts if isinstance(part, ast.Constant))
        return _Words("", ", ".join(choices), choices)
    of = [_words_of(part) for part in parts if not _is_ellipsis(part)]
    if name in ("Union", "Optional"):
        return _either(of)
    if name == "tuple" and len(of) == len(parts):
        kinds = {each.several for each in of}
        what = f"{len(of)} {kinds.pop() if len(kinds) == 1 else 'values'}"
        return _Words(f"a list of {what}", f"lists of {what}")
    if name in _LISTS:
        return _Words(f"a list of {of[0].several}", f"lists of {of[0].several}")
    if name in _MAPPINGS:
        to = f" of names to {of[-1].several}"
        return _Words(f"a mapping{to}", f"mappings{to}")
    raise _UnknownTypeError


def _words_of_name(name: str) -> _Words:
    package, last = name.partition(".")[0], name.rpartition(".")[2]
    if last in _LISTS:
        last = "list"
    if last in _KINDS:
        return _Words(*_KINDS[last])
    if package == name or package in sys.stdlib_module_names:
        raise _UnknownTypeError
    return _Words(f"{last} or a class that extends it", f"classes that extend {last}")


def _either(words: Sequence[_Words]) -> _Words:
    return _Words(
        " or ".join(each.one for each in words),
        " or ".join(each.several for each in words),
        tuple(choice for each in words for choice in each.choices),
    )


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
