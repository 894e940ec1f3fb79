"""Two sides of evaluated runs compared by the paired bootstrap over their common recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from etram_det.metrics.bootstrap import interval
from etram_det.metrics.records import METRICS, PARTS_OF_DAY, Cell, flat_key
from etram_det.report.run_files import EvaluatedRun

_SEED_DRAWS = 10  # of the spread over seeds for each resample of the recordings
NO_DIFFERENCE = "no difference"
# Of ``evaluation`` in metrics.json: metrics of two runs compare where these are the same.
_PROTOCOL = "protocol as_published pixel_frame size_bins motion_bins max_detections class_names"


@dataclass(frozen=True)
class Side:
    """One metric of one side.

    Attributes:
        mean: over the side's runs.
        spread: standard deviation over them; None for a single run.
        interval: 95 % interval of the mean, over recordings and seeds; None without one.
    """

    mean: float
    spread: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Comparison:
    """One metric of two sides.

    Attributes:
        key: flat key of the metric.
        sides: A and B.
        interval: 95 % interval of B's less A's; None without one.
        has_resamples: whether metrics of these runs can have intervals.
    """

    key: str
    sides: tuple[Side, Side]
    interval: tuple[float, float] | None
    has_resamples: bool

    @property
    def difference(self) -> float:
        """B's less A's."""
        return self.sides[1].mean - self.sides[0].mean

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` of B, or ``no difference``; empty without an interval."""
        if self.interval is None:
            return ""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else NO_DIFFERENCE


def compare(
    a: Sequence[EvaluatedRun], b: Sequence[EvaluatedRun], key: str, *, paired: bool = False
) -> Comparison | None:
    """Compare a metric of two sides of runs; None where a run does not have it.

    Each resample gives the means of both sides on the same recordings. With several runs a side,
    that is several seeds, each mean also varies by its standard error times Student's t, as in the
    Behrens-Fisher problem: the interval is of other recordings and other seeds. With one run it is
    of other recordings only.

    Args:
        a: runs of one side, evaluated on the recordings of all others (see :func:`unlike`).
        b: runs of the other.
        key: flat key.
        paired: whether run i of both sides has the same seed, so that the spread over seeds is
            that of the differences in pairs.
    """
    values = [[run.metrics.get(key, nan) for run in side] for side in (a, b)]
    if np.isnan([*values[0], *values[1]]).any():
        return None
    repeats = _SEED_DRAWS if len(a) + len(b) > 2 else 1
    draws = [_draws(a, values[0], key, repeats, 0), _draws(b, values[1], key, repeats, 1)]
    number = min(run.resamples.num_recordings.get(key, 0) for run in (*a, *b))
    sides = tuple(
        Side(
            float(np.mean(of)),
            float(np.std(of, ddof=1)) if len(of) > 1 else None,
            None if drawn is None else interval(drawn, number),
        )
        for of, drawn in zip(values, draws, strict=True)
    )
    difference = None
    if draws[0] is not None and draws[1] is not None:
        apart = draws[1] - draws[0]
        if paired and len(a) > 1:
            of_pairs = np.subtract(values[1], values[0])
            apart = (
                _means(b, key, repeats) - _means(a, key, repeats) + _errors(of_pairs, len(apart), 0)
            )
        difference = interval(apart, number)
    has_resamples = all(run.resamples.values for run in (*a, *b))
    return Comparison(key, (sides[0], sides[1]), difference, has_resamples)


def _draws(
    runs: Sequence[EvaluatedRun], values: Sequence[float], key: str, repeats: int, seed: int
) -> np.ndarray | None:
    """The side's mean in each resample, varied by the spread over its runs."""
    if any(key not in run.resamples.values for run in runs):
        return None
    means = _means(runs, key, repeats)
    return means if len(runs) == 1 else means + _errors(values, len(means), seed)


def _means(runs: Sequence[EvaluatedRun], key: str, repeats: int) -> np.ndarray:
    """Mean over the runs in each resample, as often as the spread over seeds is drawn."""
    return np.tile(np.mean([run.resamples.values[key] for run in runs], axis=0), repeats)


def _errors(values: Sequence[float] | np.ndarray, number: int, seed: int) -> np.ndarray:
    """Draws of the error of a mean over seeds: its standard error times Student's t."""
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return error * np.random.default_rng(seed).standard_t(len(values) - 1, number)


def compared_metrics(
    a: Sequence[EvaluatedRun], b: Sequence[EvaluatedRun]
) -> list[list[Comparison]]:
    """The metrics that are compared, in groups: overall and by size, motion, day, class."""
    evaluation = a[0].results["evaluation"]
    overall: list[tuple[str, Cell]] = [(metric, ("", "", "")) for metric in METRICS]
    cells = [
        [("", "", size) for size in evaluation["size_bins"]],
        [("", "", motion) for motion in evaluation.get("motion_bins", ())],
        [(part, "", "") for part in PARTS_OF_DAY],
        [("", name, "") for name in (*evaluation["class_names"], *evaluation["class_groups"])],
    ]
    groups = [overall, *([("AP", cell) for cell in group] for group in cells)]
    found = [[compare(a, b, flat_key(*each)) for each in group] for group in groups]
    return [kept for group in found if (kept := [each for each in group if each is not None])]


def unlike(runs: Mapping[str, EvaluatedRun]) -> Iterator[str]:
    """In what runs by name were evaluated differently, so that their metrics do not compare."""
    (first, one), *others = runs.items()
    for name, other in others:
        for what, (theirs, ours) in _facts_apart(one.results, other.results):
            yield f"{what} ({first}: {theirs}; {name}: {ours})"


def _facts_apart(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """What differs, as far as both hold it, and how."""
    for key in _PROTOCOL.split():
        # Older results were made with detections as published protocols have them.
        unknown = True if key == "as_published" else None
        values = one["evaluation"].get(key, unknown), other["evaluation"].get(key, unknown)
        if values[0] != values[1] and None not in values:
            yield key.replace("_", " "), values
    groups = [each["evaluation"].get("class_groups", {}) for each in (one, other)]
    for name in sorted(groups[0].keys() & groups[1].keys()):
        if set(groups[0][name]) != set(groups[1][name]):
            yield f"class group {name}", (groups[0][name], groups[1][name])
    if one["evaluation"].get("pixel_frame") == "network":
        values = one.get("run", {}).get("input_size"), other.get("run", {}).get("input_size")
        if values[0] != values[1] and None not in values:
            yield "input size, in whose pixels areas are", values
    names = set(one["recordings"]), set(other["recordings"])
    if names[0] != names[1]:
        apart = [sorted(names[0] - names[1]), sorted(names[1] - names[0])]
        yield "recordings", (_listed(apart[0], len(names[0])), _listed(apart[1], len(names[1])))
    else:
        labels = [
            sum(of.get("num_boxes", 0) for of in each["recordings"].values())
            for each in (one, other)
        ]
        frames = [each["evaluation"]["frames"] for each in (one, other)]
        for what, (theirs, ours) in {"labels": labels, "frames": frames}.items():
            if theirs != ours:
                yield what, (theirs, ours)


def _listed(only: Sequence[str], number: int) -> str:
    """How many recordings there are, and some that the other run does not have."""
    shown = ", ".join(only[:3]) + (", …" if len(only) > 3 else "")
    return f"{number}, {shown} only here" if only else f"{number}"
