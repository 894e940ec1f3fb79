"""``python -m etram_det checkpoint``: contents of a checkpoint and facts of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etram_det.checkpoint.file import Checkpoint, read_checkpoint
from etram_det.progress import screen
from etram_det.report.tables import parameters_table, settings_table, summary_tables


def checkpoint_command(file: Path, json: bool = False) -> None:
    """Show what a checkpoint holds: its run's settings, versions, command and data, and metrics.

    The file alone is read, without running code that it may hold.

    Args:
        file: the checkpoint (.ckpt).
        json: write JSON to standard output instead of tables.

    Raises:
        UserError: if the file is missing, damaged or no checkpoint.
    """
    checkpoint = read_checkpoint(file, "file")
    checkpoint.require_own("file")
    facts = facts_of(checkpoint) | {"file": str(file), "bytes": file.stat().st_size}
    if json:
        screen().out(dumps(facts, indent=2))
    else:
        screen().print(Group(*_tables(facts)))


def facts_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Contents of a checkpoint as plain values.

    Args:
        checkpoint: one of this project.

    Returns:
        ``step`` and ``epoch``; ``resumes``: whether a training can go on from it exactly, or
        not at all; ``best``: the best metric so far and its file; ``parameters``: numbers in the
        parameters of each part; ``settings`` of the model; ``provenance`` of the run, None for
        imported weights and for a training outside the command line; ``validation``: the latest one
        before the checkpoint, and its step, None if there was none.
    """
    return {
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "resumes": checkpoint.has_optimizer and checkpoint.resume is not None,
        "best": checkpoint.best,
        "parameters": checkpoint.parameters_by_part(),
        "settings": checkpoint.settings,
        "provenance": checkpoint.provenance or None,
        "validation": checkpoint.validation,
    }


def _tables(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    provenance = facts["provenance"]
    yield _run_table(facts)
    yield parameters_table(facts["parameters"])
    if provenance is None:
        yield Text("Its run is not known: it was imported, or trained outside the command line.")
        yield settings_table(facts["settings"])
    else:
        yield settings_table(provenance.get("config", {}))
        yield _data_table(provenance.get("data", {}))
        starts = provenance.get("starts", [])
        yield _start_table(starts)
        if starts:
            yield Text(f"started by: {starts[-1]['command']}\n")
            yield _pairs("versions", starts[-1]["versions"])
    if facts["validation"] is None:
        yield Text("There was no validation before it.")
    else:
        yield Text(f"\nvalidation after {facts['validation']['step']} steps")
        yield summary_tables(facts["validation"]["results"])


def _run_table(facts: Mapping[str, Any]) -> Table:
    best = facts["best"]
    provenance = facts["provenance"] or {}
    return _pairs(
        "checkpoint",
        {
            "file": facts["file"],
            "size": f"{facts['bytes'] / 1e6:,.1f} MB",
            "steps": facts["step"],
            "epoch": facts["epoch"],
            "training can go on": "exactly" if facts["resumes"] else "from the weights",
            "seed": provenance.get("seed", "-"),
            "best so far": "-"
            if best is None
            else f"{best['figure']} {best['value']:.3f} in {best['file']}",
        },
    )


def _data_table(data: Mapping[str, Any]) -> Table:
    table = Table("split", title="recordings", title_justify="left")
    kinds = ("frames", "labelled", "boxes", "bytes")
    for name in ("number", *kinds, "digest"):
        table.add_column(name, justify="right")
    for split, found in data.items():
        recordings = found["recordings"]
        sums = [f"{sum(each[kind] for each in recordings):,}" for kind in kinds]
        cells = (split, len(recordings), *sums, found["digest"][:12])
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def _start_table(starts: list[dict[str, Any]]) -> Table:
    table = Table("time", "step", "commit", "version", title="starts", title_justify="left")
    for start in starts:
        git = start["git"]
        commit = "-" if git is None else (git["commit"] or "-")[:9]
        if git is not None and git["dirty"]:
            commit += ", files changed since"
        cells = (start["time"], start["step"], commit, start["versions"]["etram_det"])
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def _pairs(title: str, values: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, Text("-" if value is None else str(value)))
    return table
