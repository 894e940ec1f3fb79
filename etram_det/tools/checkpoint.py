"""``python -m etram_det checkpoint``: what a checkpoint tells of itself and of its run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etram_det.checkpoint.file import read_checkpoint
from etram_det.errors import UserError
from etram_det.progress import screen
from etram_det.report.checkpoint_tables import parameters_table, settings_table
from etram_det.report.tables import summary_tables


def checkpoint_command(file: Path, json: bool = False) -> None:
    """Show what a checkpoint holds: its run's settings, versions, command and data, and figures.

    The file alone is read, without running code that it may hold.

    Args:
        file: the checkpoint (.ckpt).
        json: write JSON to standard output instead of tables.

    Raises:
        UserError: if the file is missing, damaged or no checkpoint.
    """
    checkpoint = read_checkpoint(file, "file")
    if not _parameters_by_part(checkpoint):
        raise UserError(
            f"{file}: must be a checkpoint of this project: import RVT's with python -m etram_det "
            "import-rvt"
        )
    try:
        facts = facts_of(checkpoint) | {"file": str(file), "bytes": file.stat().st_size}
        text = dumps(facts, indent=2) + "\n"
        tables = Group(*_tables(facts))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{file}: what it tells of its run is damaged ({type(error).__name__}: {error})"
        ) from error
    if json:
        screen().out(text, end="")
    else:
        screen().print(tables)


def facts_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint tells, as plain values.

    Args:
        checkpoint: what ``read_checkpoint`` returned.

    Returns:
        ``step`` and ``epoch``; ``resumes``: whether a training can go on from it exactly, or
        not at all; ``best``: the best figure so far and its file; ``parameters``: numbers in the
        parameters of each part; ``settings`` of the model; ``provenance`` of the run, None for
        imported weights and for a training outside the command line; ``validation``: the latest one
        before the checkpoint, and its step, None if there was none.
    """
    callbacks = checkpoint.get("callbacks", {})
    kept: Mapping[str, Any] = next(
        (v for k, v in callbacks.items() if k.startswith("RunCheckpoint")), {}
    )
    score = kept.get("best_model_score")
    return {
        "step": checkpoint.get("global_step"),
        "epoch": checkpoint.get("epoch"),
        "resumes": bool(checkpoint.get("optimizer_states")) and "resume" in checkpoint,
        "best": None
        if score is None
        else {
            "figure": kept["monitor"],
            "value": float(score),
            "file": kept["best_model_path"],
        },
        "parameters": _parameters_by_part(checkpoint),
        "settings": {
            name: value
            for name, value in checkpoint.get("hyper_parameters", {}).items()
            if not name.startswith("_")  # what Lightning notes for itself
        },
        "provenance": checkpoint.get("provenance") or None,
        "validation": callbacks.get("ResultsWriter") or None,
    }


def _parameters_by_part(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Numbers in the detector's tensors; running statistics are no parameters."""
    counts: Counter[str] = Counter()
    for name, tensor in checkpoint["state_dict"].items():
        prefix, _, rest = name.partition(".")
        if prefix != "detector" or rest.endswith(
            ("running_mean", "running_var", "num_batches_tracked")
        ):
            continue
        part, *words = rest.split(".")
        if part == "backbone" and words[0] == "stages":
            part = f"backbone stage {int(words[1]) + 1}"
        counts[part] += tensor.numel()
    return dict(counts)


def _tables(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    provenance = facts["provenance"]
    yield _run_table(facts)
    yield parameters_table(facts["parameters"])
    if provenance is None:
        yield Text(
            "It does not tell its run: it was imported, or trained outside the command line."
        )
        yield settings_table(facts["settings"])
    else:
        yield settings_table(provenance["config"])
        yield _data_table(provenance["data"])
        yield _start_table(provenance["starts"])
        yield Text(f"started by: {provenance['starts'][-1]['command']}\n")
        yield _pairs("versions", provenance["starts"][-1]["versions"])
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
        commit = "-" if git is None else git["commit"][:9]
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
