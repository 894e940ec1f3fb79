"""The outcome of a sweep: a line for each trial, a table, and files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import socket
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial
from rich.table import Table

from etram_det.files import write_text
from etram_det.tools.sweep.study import SharedStudy, seconds_of

_STATES = {"COMPLETE": "complete", "FAIL": "failed", "PRUNED": "pruned"}


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Best first; those without a value last, in their order."""
    return sorted(
        trials, key=lambda trial: math.inf if (value := value_of(trial)) is None else -value
    )


def progress_line(shared: SharedStudy, number: int, total: int) -> str:
    """One line on a trial that has just ended, with the time left for the rest."""
    trials = shared.trials()
    trial = next(each for each in trials if each.number == number)
    ended = [each for each in trials if each.state.is_finished()]
    best = ranked(trials)[0]
    value = value_of(trial)
    reason = trial.user_attrs.get("error", "unknown")
    state = _STATES.get(trial.state.name, "running")
    outcome = f"{state}: {reason}" if value is None else f"{shared.metric} {value:.4f}"
    parts = [f"{len(ended)}/{total}", f"trial {number}: {outcome}", _settings_of(trial)]
    if (best_value := value_of(best)) is not None and best.number != number:
        parts.append(f"best {best_value:.4f} (trial {best.number})")
    processes = sum(not each.state.is_finished() for each in trials) + 1
    left_s = statistics.fmean(map(seconds_of, ended)) * (total - len(ended)) / processes
    if left_s > 0:
        parts.append(f"{_duration(left_s)} left")
    return " | ".join(parts)


def trials_table(shared: SharedStudy) -> Table:
    """All trials, best first, failed ones with their reason."""
    trials = ranked(shared.trials())
    names = [
        name for name in ("variant", *shared.space.ranges) if any(name in t.params for t in trials)
    ]
    table = Table()
    for title in ("trial", shared.metric):
        table.add_column(title, justify="right")
    if len(shared.seeds) > 1:
        table.add_column("± seeds", justify="right")
    for name in names:
        table.add_column(name, justify="left" if name == "variant" else "right")
    table.add_column("time", justify="right")
    table.add_column("")
    for trial in trials:
        value = value_of(trial)
        numbers = [value] if len(shared.seeds) == 1 else [value, _spread(trial)]
        cells = [str(trial.number), *("-" if n is None else f"{n:.4f}" for n in numbers)]
        cells += [_shown(trial.params.get(name)) for name in names]
        is_running = not trial.state.is_finished()
        remark = "running" if is_running else str(trial.user_attrs.get("error", ""))
        table.add_row(*cells, _duration(seconds_of(trial)), remark)
    return table


def write_outcome(shared: SharedStudy) -> None:
    """Write ``sweep.json``, ``sweep.csv`` and, once a trial has a value, ``best.yaml``."""
    trials = ranked(shared.trials())
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
    settings = ["variant", *shared.space.ranges]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("number", "state", "value", "spread", "seconds", "folder", "error")
    writer.writerow([*columns, *settings])
    for row in rows:
        chosen = [row["settings"].get(name) for name in settings]
        writer.writerow([*(row[name] for name in columns), *chosen])
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


def _row(shared: SharedStudy, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": _STATES.get(trial.state.name, "running"),
        "value": value_of(trial),
        "spread": _spread(trial),
        "values": trial.user_attrs.get("values", {}),
        "settings": trial.params,
        "seconds": round(seconds_of(trial), 1),
        "folder": str(shared.folder_of(trial.number).relative_to(shared.output)),
        "error": trial.user_attrs.get("error"),
    }


def value_of(trial: FrozenTrial) -> float | None:
    """The metric of a completed trial; None of others."""
    return trial.value if trial.state.name == "COMPLETE" else None


def _spread(trial: FrozenTrial) -> float | None:
    """Standard deviation over the seeds of a completed trial; 0 with one."""
    if value_of(trial) is None:
        return None
    values = list(trial.user_attrs["values"].values())
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _settings_of(trial: FrozenTrial) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in trial.params.items())


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _write(path: Path, text: str) -> None:
    # Processes that share the folder must not write to the same unfinished file.
    write_text(path, text, writer=f"{socket.gethostname()}.{os.getpid()}")
