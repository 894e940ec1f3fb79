"""What a value must be, from jsonargparse's messages on types."""

from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from etram_det.cli.messages import with_nearest_setting
from etram_det.cli.unfit_values import about_value

Word = Literal["max", "nwd"]


class Loss:
    """One that others extend."""


class Weighted(Loss):
    """Its settings have types of all kinds."""

    def __init__(self, weight: float = 1.0, terms: Sequence[str] = (), least: int | None = None):
        self.weight, self.terms, self.least = weight, terms, least


class Demanding(Loss):
    """One that cannot be made without a setting."""

    def __init__(self, weight: float):
        self.weight = weight


def message(kind, value, *more):
    """Of a parser whose setting ``x`` is of a kind."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--x", type=kind)
    with pytest.raises(ArgumentError) as error:
        parser.parse_args(["--x", value, *more])
    return with_nearest_setting(str(error.value))


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, "a", "a whole number, got a: give one"),
        (bool, "a", "true or false, got a: give one"),
        (float | None, "a", "a number or null, got a: give one"),
        (int | float, "a", "a number, got a: give one"),
        (
            dict[str, list[int | str]] | None,
            "a",
            "a mapping of names to lists of whole numbers or words, or null, got a: give one",
        ),
        (bool | list[str], "a", "true or false, or a list of words, got a: give one"),
        (tuple[int, int], "3", "a list, got 3: write it in brackets, with commas: [A, B]"),
        (tuple[int, int], "[3]", "a list of 2 values, got [3]: give so many"),
        (tuple[int, ...] | None, "[b]", "a list of whole numbers or null, got ['b']: give one"),
        (tuple[int, str] | None, "[b]", "a list of 2 values or null, got ['b']: give one"),
        (Iterable[int] | None, "[b]", "a list of whole numbers or null, got ['b']: give one"),
        (
            dict[str, list[tuple[float, float]]] | None,
            "3",
            "a mapping of names to lists of lists of 2 numbers or null, got 3: give one",
        ),
        (
            Mapping[str, int] | None,
            "{a:3}",
            "a mapping of names to whole numbers or null, got {a:3}: write {name: value}, with "
            "a space behind each colon",
        ),
        (Word, "iou", "one of max, nwd, got iou: use one of these"),
        (Word | None, "iou", "one of max, nwd, got iou: use one of these"),
        (Word | Literal["nwd", "7"] | None, "iou", "one of max, nwd, 7, got iou: use one of these"),
        (Word | float | None, "iou", "a number, or one of max, nwd, or null, got iou: give one"),
        (Sequence[Word] | None, "[a]", "a list of max, nwd, or null, got ['a']: give one"),
        (Loss | None, "Nowhere", "Loss or a class that extends it, or null, got Nowhere: give one"),
    ],
)
def test_a_type_in_words(kind, value, words):
    assert message(kind, value) == f"x: must be {words}"


def test_a_setting_of_a_class_has_its_whole_name():
    chosen = f"{__name__}.Weighted"
    for flags, words in {
        ("--x.weight", "a"): "x.weight: must be a number, got a: give one",
        ("--x.terms", "a"): "x.terms: must be a list, got a: write it in brackets, with commas",
        ("--x.least", "a"): "x.least: must be a whole number or null, got a: give one",
        ("--x.none", "a"): "x: Weighted has no setting none: use one of weight, terms, least",
    }.items():
        assert message(Loss | None, chosen, *flags).startswith(words)
    words = "x: Loss has no setting none: name a class that has it, or leave it out"
    assert message(Loss | None, f"{__name__}.Loss", "--x.none", "a") == words


def test_what_is_wrong_with_a_class_is_said(tmp_path, monkeypatch):
    (tmp_path / "broken_loss.py").write_text("import no_such\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for chosen, words in {
        "broken_loss.Mine": "x: broken_loss.Mine cannot be used (No module named 'no_such')",
        f"{__name__}.Nothing": f"x: {__name__}.Nothing cannot be used (module '{__name__}' has no",
        f"{__name__}.Demanding": f"x.weight: must be given with {__name__}.Demanding, got none",
        "pathlib.Path": "x: must be Loss or a class that extends it, or null, got pathlib.Path",
    }.items():
        assert message(Loss | None, chosen).startswith(words)


@pytest.mark.parametrize("kind", [timedelta | None, dict[str, timedelta] | None, set[int] | None])
def test_other_types_keep_the_words_of_jsonargparse(kind):
    assert message(kind, "[[1]]").startswith('Parser key "x": Does not validate')


def test_a_setting_that_follows_another_is_told_apart():
    text = "argument int(seed_everything) --> data.seed: invalid int value: '1.5'"
    assert about_value(text) == "data.seed: must be a whole number, got 1.5: give one"


@pytest.mark.parametrize(
    "text",
    [
        "something else",
        'Parser key "x": something else',
        'Parser key "x": Expected a <class int. Got value: 3',
    ],
)
def test_other_messages_are_left_alone(text):
    assert about_value(text) is None
    assert with_nearest_setting(text) == text
