"""``python -m etram_det doctor``: what works on this machine, and what to install for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from etram_det.files import cache_folder
from etram_det.progress import screen
from etram_det.tools.cache import (
    cache_contents,
    cache_table,
    can_be_written,
    free_bytes,
    shown_size,
)
from etram_det.tools.doctor.facts import broken_modules, codecs, devices, runtimes, versions
from etram_det.tools.doctor.needs import ALL, uses

_LITTLE_BYTES = 2e9  # of free disk, with which simulated traffic or decoded files may not fit
_WIDTH = 140  # of tables where they go into a file or a pipe, in columns


def doctor_command(json: bool = False) -> int:
    """Show versions, devices, codecs, runtimes, caches, and which commands work here.

    Nothing is changed. For what does not work, it says what to install.

    Args:
        json: write JSON to standard output instead of tables, for a bug report.

    Returns:
        1 if a part of the package itself is missing or damaged, so that commands fail; else 0.
    """
    broken = broken_modules()
    commands = [(each, each.missing([*broken])) for each in uses()]
    facts = {
        "versions": dict(versions(broken)),
        "devices": dict(devices(broken)),
        "codecs": dict(codecs(broken)),
        "runtimes": dict(runtimes()),
        "disks": dict(_disks()),
    }
    if json:
        shown: dict[str, Any] = dict(facts)
        shown["cache"] = [_as_plain(each) for each in cache_contents()]
        shown["commands"] = {
            use.name: {"works": not missing, "missing": missing, "remedy": use.remedy}
            for use, missing in commands
        }
        screen().out(dumps(shown, indent=2))
    else:
        console = screen(width=_WIDTH)
        for title, rows in facts.items():
            console.print(_table(title, rows.items()))
        console.print(cache_table(cache_contents()))
        console.print(
            _table(
                "commands",
                (
                    (use.name, f"needs {', '.join(missing)}: {use.remedy}" if missing else "works")
                    for use, missing in commands
                ),
            )
        )
    return int(any({*missing} & {*ALL} for _, missing in commands))


def _disks() -> Iterable[tuple[str, str]]:
    """Room on the disks that runs write to."""
    for name, folder in (("cache", cache_folder()), ("this folder", Path.cwd())):
        free = free_bytes(folder)
        words = f"{shown_size(free)} free, {folder}"
        if free < _LITTLE_BYTES:
            words += ": little: use cache clear, or set ETRAM_DET_CACHE to a folder with room"
        if not can_be_written(folder):
            words += ": cannot be written: "
            words += (
                "set ETRAM_DET_CACHE to a folder that can" if name == "cache" else "use another"
            )
        yield name, words


def _as_plain(kept: Any) -> dict[str, Any]:
    plain = asdict(kept) | {"place": str(kept.place), "paths": len(kept.paths)}
    return {{"paths": "number"}.get(name, name): value for name, value in plain.items()}


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in rows:
        table.add_row(Text(name), Text(words))
    return table
