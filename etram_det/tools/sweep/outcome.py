"""The outcome of a sweep: a line for each trial, a table, and files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import socket
import statistics
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial
from rich.table import Table

from etram_det.files import write_text
from etram_det.tools.sweep.study import SharedStudy

_STATES = {"COMPLETE": "complete", "FAIL": "failed"}


def progress_line(shared: SharedStudy, number: int, total: int) -> str:
    """One line on a trial that has just ended."""
    trials = _ranked(shared)
    trial = next(each for each in trials if each.number == number)
    ended = sum(each.state.is_finished() for each in trials)
    value, best = value_of(trial), value_of(trials[0])
    failure = f"failed: {trial.user_attrs.get('error', 'unknown')}"
    outcome = failure if value is None else f"{shared.metric} {value:.4f}"
    parts = [f"{ended}/{total}", f"trial {number}: {outcome}", _settings_of(trial)]
    if best is not None and trials[0] is not trial:
        parts.append(f"best {best:.4f} (trial {trials[0].number})")
    return " | ".join(parts)


def trials_table(shared: SharedStudy) -> Table:
    """All trials, best first, failed ones with their reason."""
    rows = [_row(shared, trial) for trial in _ranked(shared)]
    names = [n for n in _names(shared) if any(n in row["settings"] for row in rows)]
    metrics = {"value": shared.metric} | ({"spread": "± seeds"} if len(shared.seeds) > 1 else {})
    table = Table("trial", *metrics.values(), *names, "time", "remark")
    for row in rows:
        cells = ["-" if row[key] is None else f"{row[key]:.4f}" for key in metrics]
        cells += [_shown(row["settings"].get(name)) for name in names]
        remark = row["error"] or ("" if row["state"] == "complete" else row["state"])
        table.add_row(
            str(row["number"]), *cells, f"{timedelta(seconds=round(row['seconds']))}", remark
        )
    return table


def write_outcome(shared: SharedStudy) -> None:
    """Write ``sweep.json``, ``sweep.csv`` and, once a trial has a value, ``best.yaml``."""
    trials = _ranked(shared)
    rows = [_row(shared, trial) for trial in trials]
    best = next((trial for trial in trials if value_of(trial) is not None), None)
    outcome = {
        "metric": shared.metric,
        "seeds": shared.seeds,
        "ranges": shared.space.ranges,
        "variants": list(shared.space.variants),
        "best": None if best is None else best.number,
        "trials": rows,
    }
    _write(shared.output / "sweep.json", json.dumps(outcome, indent=2) + "\n")
    text = io.StringIO()
    columns = ("number", "state", "value", "spread", "seconds", "folder", "error", *_names(shared))
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | row["settings"] for row in rows)
    _write(shared.output / "sweep.csv", text.getvalue())
    if best is not None:
        _write(shared.output / "best.yaml", _best_configuration(shared, best))


def _best_configuration(shared: SharedStudy, best: FrozenTrial) -> str:
    """What the best trial's runs were configured with, but for where they logged to."""
    config = shared.space.configuration(best.params)
    config["seed_everything"] = shared.seeds[0]
    text = yaml.safe_dump(config, sort_keys=False)
    return (
        f"# Trial {best.number}, {shared.metric} {best.value:.4f}: {_settings_of(best)}\n"
        f"#\n#   python -m etram_det fit --config {shared.output / 'best.yaml'}\n\n{text}"
    )


def value_of(trial: FrozenTrial) -> float | None:
    """The metric of a completed trial; None of others."""
    return trial.value if trial.state.name == "COMPLETE" else None


def _ranked(shared: SharedStudy) -> list[FrozenTrial]:
    """Best first; those without a value last, in their order."""
    return sorted(
        shared.trials(),
        key=lambda trial: math.inf if (value := value_of(trial)) is None else -value,
    )


def _row(shared: SharedStudy, trial: FrozenTrial) -> dict[str, Any]:
    values = trial.user_attrs.get("values", {})
    value, spread = value_of(trial), None
    if value is not None:
        spread = statistics.stdev(values.values()) if len(values) > 1 else 0.0
    assert trial.datetime_start is not None
    duration = trial.duration or datetime.now() - trial.datetime_start
    return {
        "number": trial.number,
        "state": _STATES.get(trial.state.name, "running"),
        "value": value,
        "spread": spread,
        "values": values,
        "settings": trial.params,
        "seconds": round(duration.total_seconds(), 1),
        "folder": str(shared.folder_of(trial.number).relative_to(shared.output)),
        "error": trial.user_attrs.get("error"),
    }


def _names(shared: SharedStudy) -> tuple[str, ...]:
    return "variant", *shared.space.ranges


def _settings_of(trial: FrozenTrial) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in trial.params.items())


def _shown(value: str | float | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value or "-"


def _write(path: Path, text: str) -> None:
    # Processes that share the folder must not write to the same unfinished file.
    write_text(path, text, writer=f"{socket.gethostname()}.{os.getpid()}")
