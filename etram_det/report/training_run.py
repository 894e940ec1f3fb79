"""What a run folder holds of its training: curves that its loggers wrote, and its starts."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MOST_POINTS = 300  # of a curve in a plot: more are averaged


class Curve(NamedTuple):
    """Values ``[P]`` at steps ``[P]``, ascending."""

    steps: np.ndarray
    values: np.ndarray

    def thinned(self) -> Curve:
        """At most 300 points, each the mean of as many neighbours."""
        every = -(-len(self.steps) // _MOST_POINTS)
        if every <= 1:
            return self
        starts = np.arange(0, len(self.steps), every)
        counts = np.diff(np.append(starts, len(self.steps)))
        return Curve(*(np.add.reduceat(each, starts) / counts for each in self))


@dataclass(frozen=True)
class Training:
    """The training of a run.

    Attributes:
        curves: by the plain names of the scalars, such as ``train/loss`` and ``val/AP_small``;
            empty where no logger wrote into the run folder.
        starts: time, step, command and versions of each start, as ``provenance.json`` has them.
    """

    curves: Mapping[str, Curve]
    starts: list[dict[str, Any]]

    def median(self, name: str) -> float | None:
        """Of a curve; None without one."""
        return float(np.median(self.curves[name].values)) if name in self.curves else None

    def last_step(self) -> int | None:
        """Number of steps after which values were logged last; None where none were."""
        ends = [curve.steps[-1] for curve in self.curves.values()]
        return int(max(ends)) + 1 if ends else None


def read_training(folder: Path) -> Training | None:
    """What a run folder holds of a training; None where there was none."""
    try:
        facts = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of an older run, a detector from elsewhere, or damaged
        facts = {}
    facts = facts if isinstance(facts, dict) else {}
    curves = _read_curves(folder)
    starts = [each for each in facts.get("starts") or () if isinstance(each, dict)]
    is_fit = any(" etram_det fit" in str(each.get("command")) for each in starts)
    if not is_fit and "train/loss" not in curves:
        return None
    return Training(curves, starts)


def _read_curves(folder: Path) -> dict[str, Curve]:
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for name, step, value in _of_csv(folder / "metrics.csv"):
        points[name][step] = value
    _add_tensorboard(points, folder)
    curves = {}
    for name, values in points.items():
        steps = np.array(sorted(values))
        known = Curve(steps, np.array([values[step] for step in steps.tolist()]))
        finite = np.isfinite(known.values)
        if finite.any():
            curves[name] = Curve(known.steps[finite], known.values[finite])
    return curves


def _of_csv(path: Path) -> Iterator[tuple[str, int, float]]:
    """Name, step and value of what a CSVLogger wrote; an evaluation's file has no steps."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return
    for row in rows:
        step = row.get("step") or ""
        for name, value in row.items():
            if step.isdecimal() and isinstance(value, str) and "/" in (name or ""):
                try:
                    yield name, int(step), float(value)
                except ValueError:  # an empty cell: another row has it
                    continue


def _add_tensorboard(points: dict[str, dict[int, float]], folder: Path) -> None:
    """Add the main scalars of TensorBoard's files: values at steps by name."""
    files = sorted(folder.glob("events.out.tfevents.*"))  # by the time at which they were begun
    if not files:
        return
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for file in files:
        for event in LegacyEventFileLoader(str(file)).Load():
            if event.session_log.status == event.session_log.START:
                # A run that goes on from a checkpoint hides what was logged after it.
                for of_name in points.values():
                    for step in [each for each in of_name if each >= event.step]:
                        del of_name[step]
            for value in event.summary.value:
                if value.HasField("simple_value") and value.tag.startswith(("train/", "val/")):
                    points[value.tag][event.step] = value.simple_value
