"""The one place that prints."""

import sys

from rich.table import Table

from etram_det.progress import screen
from support.paths import ROOT


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


def test_one_place_makes_consoles():
    sources = (ROOT / "etram_det").rglob("*.py")
    users = sorted(path.name for path in sources if "Console(" in path.read_text())
    assert users == ["metric_plots.py", "progress.py"]  # the former renders tables as text


def test_a_terminal_has_its_own_width(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    assert screen(width=200).width == 70
