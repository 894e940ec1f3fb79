"""The one place that prints, and bars."""

import io
import sys
from weakref import WeakSet

import pytest
from rich.table import Table
from tqdm import tqdm

from etram_det.progress import above_bars, screen, shown_progress
from support.paths import ROOT


@pytest.fixture(autouse=True)
def _no_bars_of_other_tests(monkeypatch):
    monkeypatch.setattr(tqdm, "_instances", WeakSet(), raising=False)


def wide_table():
    table = Table("name")
    table.add_row("x" * 100)
    return table


def test_lines_come_out_as_they_are(capsys):
    line = "[bold] 3 of 'x' in /a/" + "long/" * 50
    screen().out(line)
    screen(stderr=True).out("to the other")
    assert capsys.readouterr() == (f"{line}\n", "to the other\n")


def test_a_file_gets_tables_of_the_given_width(capsys):
    screen(width=120).print(wide_table())
    assert "x" * 100 in capsys.readouterr().out
    screen(width=50).print(wide_table())
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 50


def test_a_bar_that_goes_leaves_nothing_in_a_file(capsys):
    with shown_progress("gone", transient=True) as show:
        show(1, 2)
    assert capsys.readouterr() == ("", "")
    with shown_progress("stays") as show:
        show(2, 2)
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err.split()[0]) == ("", 1, "stays")


def test_brackets_and_colons_in_names_are_no_markup(capsys):
    names = "day [red] $5", "a:car:b", "[/x]"
    table = Table(names[0], title=names[1])
    table.add_row(names[2])
    console = screen(width=120)
    console.print(table)
    console.rule(names[0])
    console.print(names[1])
    with shown_progress(names[2]) as show:
        show(2, 2)
    out, err = capsys.readouterr()
    assert [out.count(name) for name in names] == [2, 2, 1]
    assert err.startswith(names[2])


def test_one_place_makes_consoles():
    sources = (ROOT / "etram_det").rglob("*.py")
    users = sorted(path.name for path in sources if "Console(" in path.read_text())
    assert users == ["metric_plots.py", "progress.py"]  # the former renders tables as text


def test_a_terminal_has_its_own_width(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    assert screen(width=200).width == 70


class Terminal(io.StringIO):
    """A terminal without a height: text and carriage returns, no other control characters."""

    def isatty(self):
        return True

    def lines(self):
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


def terminal_of(monkeypatch):
    """A terminal in place of output and errors; in a fixture, pytest would take them back."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_bar_shows_only_once_there_is_something_to_count(monkeypatch):
    terminal = terminal_of(monkeypatch)
    with shown_progress("recordings", transient=True):
        pass
    assert terminal.getvalue() == ""
    with shown_progress("recordings") as progress:
        progress(1, 2)
    assert "recordings" in terminal.getvalue()
    assert "1/2" in terminal.getvalue()


def test_without_a_terminal_a_bar_that_counts_nothing_prints_nothing(capsys):
    with shown_progress("recordings"):
        pass
    assert capsys.readouterr() == ("", "")


def test_what_is_printed_stands_above_lightnings_bars(monkeypatch):
    terminal = terminal_of(monkeypatch)
    with tqdm(total=8, file=sys.stdout, ncols=60) as bar:
        bar.update(8)
        with above_bars():
            screen().out("`Trainer.fit` stopped")
    above, below, *rest = terminal.lines()
    assert above == "`Trainer.fit` stopped"
    assert below.startswith("100%|")
    assert rest == [""]


def test_in_a_file_it_starts_its_own_line(capsys):
    with tqdm(total=8, file=sys.stdout, ncols=60):
        with above_bars():
            screen().out("best checkpoint")
    with above_bars():
        screen().out("no bar")
    shown = capsys.readouterr().out
    assert "\nbest checkpoint\n" in shown
    assert shown.endswith("\nno bar\n")
    assert "\n\nno bar" not in shown
