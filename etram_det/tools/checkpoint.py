"""``python -m etram_det checkpoint``: contents of a checkpoint and facts of its run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etram_det.checkpoint.file import Checkpoint, parameters_by_part, read_checkpoint
from etram_det.checkpoint.published import publish as write_published
from etram_det.cli.resume import named_checkpoint
from etram_det.errors import UserError
from etram_det.progress import screen
from etram_det.report.tables import parameters_table, settings_table, summary_tables

_SUMMED = ("frames", "labelled", "boxes", "bytes")  # of a split's recordings


def checkpoint_command(file: Path, json: bool = False, publish: Path | None = None) -> None:
    """Show what a checkpoint holds: its run's settings, versions, command and data, and metrics.

    The file alone is read, without running code that it may hold.

    Args:
        file: the checkpoint (.ckpt); ``last`` or ``best`` for that of the newest run in ``runs``.
        json: write JSON to standard output instead of tables.
        publish: write a small checkpoint (.ckpt) to hand on, which is shown then: weights in half
            precision and the facts of the run, without what a training goes on from and without
            folders of this machine; at most 5 MB.

    Raises:
        UserError: if the file is missing, damaged or no checkpoint, or too large to publish.
    """
    file = Path(named_checkpoint(file, "file"))
    checkpoint = read_checkpoint(file, "file")
    checkpoint.require_own("file")
    if publish is not None:
        if publish.suffix != ".ckpt":
            raise UserError(
                f"publish: must be a file named .ckpt, got {publish}: use --publish X.ckpt"
            )
        if publish.expanduser().resolve() == file.resolve():
            raise UserError(
                f"publish: must be another file than the checkpoint itself, got {publish}: use "
                "another name"
            )
        write_published(checkpoint, file := publish.expanduser())
        checkpoint = read_checkpoint(file, "file")
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
        not at all; ``best``: the best metric so far and its file; ``knows_simulation_only``:
        whether all training recordings were simulated; ``parameters``: numbers in the
        parameters of each part; ``settings`` of the model; ``provenance`` of the run, None for
        imported weights and for a training outside the command line; ``validation``: the latest one
        before the checkpoint, and its step, None if there was none.
    """
    return {
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "resumes": checkpoint.has_optimizer and checkpoint.resume is not None,
        "best": checkpoint.best,
        "knows_simulation_only": checkpoint.knows_simulation_only,
        "parameters": parameters_by_part(checkpoint.detector_tensors),
        "settings": checkpoint.settings,
        "provenance": checkpoint.provenance or None,
        "validation": checkpoint.validation,
    }


def _tables(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    provenance = facts["provenance"]
    yield _table("checkpoint", ("", ""), _run_facts(facts).items())
    yield parameters_table(facts["parameters"])
    if provenance is None:
        yield Text("Its run is not known: it was imported, or trained outside the command line.")
        yield settings_table(facts["settings"])
    else:
        yield settings_table(provenance.get("config", {}))
        headings = ("split", "number", *_SUMMED, "digest")
        yield _table("recordings", headings, _data_rows(provenance.get("data", {})), "right")
        starts = provenance.get("starts", [])
        yield _table("starts", ("time", "step", "commit", "version"), map(_start_row, starts))
        if starts:
            yield Text(f"started by: {starts[-1]['command']}\n")
            yield _table("versions", ("", ""), starts[-1]["versions"].items())
    if facts["validation"] is None:
        yield Text("There was no validation before it.")
    else:
        yield Text(f"\nvalidation after {facts['validation']['step']} steps")
        yield summary_tables(facts["validation"]["results"])


def _run_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    best = facts["best"]
    return {
        "file": facts["file"],
        "size": f"{facts['bytes'] / 1e6:,.1f} MB",
        "steps": facts["step"],
        "epoch": facts["epoch"],
        "training can go on": "exactly" if facts["resumes"] else "from the weights",
        "seed": (facts["provenance"] or {}).get("seed"),
        "knows": "simulated traffic only" if facts["knows_simulation_only"] else None,
        "best so far": best and f"{best['metric']} {best['value']:.3f} in {best['file']}",
    }


def _data_rows(data: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for split, found in data.items():
        recordings = found["recordings"]
        sums = [f"{sum(each[kind] for each in recordings):,}" for kind in _SUMMED]
        yield split, len(recordings), *sums, found["digest"][:12]


def _start_row(start: Mapping[str, Any]) -> tuple[Any, ...]:
    git = start["git"] or {}
    commit = (git.get("commit") or "-")[:9]
    if git.get("dirty"):
        commit += ", files changed since"
    return start["time"], start["step"], commit, start["versions"]["etram_det"]


def _table(
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    justify: Literal["left", "right"] = "left",
) -> Table:
    """A table whose first column is to the left; cells of None show as ``-``."""
    table = Table(title=title, title_justify="left", show_header=any(headings))
    for i, heading in enumerate(headings):
        table.add_column(heading, justify=justify if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    return table
