"""Results of an evaluation as records, and the flat keys of loggers and files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import isnan, nan
from typing import Any, NamedTuple

METRICS = ("AP", "AP50", "AP75", "AR")
PARTS_OF_DAY = ("day", "night")

# Part, class or group, and size or motion bin of a record; empty: all of them.
Cell = tuple[str, str, str]


class Record(NamedTuple):
    """Metrics of one cell; nan where it has no ground truth.

    Attributes:
        part: ``day``, ``night`` or what :func:`recording_part` or :func:`time_part` gives; empty
            for all frames.
        class_name: a class or a group of classes; empty for all classes.
        size: a size bin or a motion bin; empty for all labels.
        AP: average precision in [0, 1], mean over IoU thresholds.
        AP50: the same at an IoU of 0.5.
        AP75: the same at an IoU of 0.75.
        AR: average recall in [0, 1], mean over IoU thresholds.
        boxes: number of ground-truth boxes.
    """

    part: str
    class_name: str
    size: str
    AP: float
    AP50: float
    AP75: float
    AR: float
    boxes: int


Records = Mapping[Cell, Record]


def recording_part(name: str) -> str:
    """The part that is one recording, whatever its name."""
    return f"recording {name}"


def part_of_day(recording: str) -> str | None:
    """``day`` or ``night`` where it is a word of a recording's name, as in ``train_day_0001``."""
    words = re.split(r"[^a-z]+", recording.lower())
    return next((part for part in PARTS_OF_DAY if part in words), None)


def time_part(name: str) -> str:
    """The part that is a time since the start of the recordings, such as ``0 to 5 s``."""
    return f"time {name}"


def reported_cells(names: Iterable[str], size_bins: Iterable[str]) -> list[Cell]:
    """Everything, each class and group of these ``names``, day and night, each by size."""
    rows = [("", ""), *(("", name) for name in names), *((part, "") for part in PARTS_OF_DAY)]
    return [(*row, size) for row in rows for size in ("", *size_bins)]


def flat_key(metric: str, cell: Cell) -> str:
    """Key in logs and files of one of ``METRICS``, or of ``boxes``.

    For instance ``AP``, ``AP50_car_small``, ``num_boxes``, ``num_car``.
    """
    suffix = "".join(f"_{name}" for name in cell if name)
    return f"num{suffix or '_boxes'}" if metric == "boxes" else metric + suffix


def flat_metrics(records: Iterable[Record]) -> dict[str, float]:
    """Metrics and numbers of boxes by flat key, nan where there is no ground truth."""
    return {
        flat_key(metric, record[:3]): getattr(record, metric)
        for record in records
        for metric in (*METRICS, "boxes")
    }


def records_in(results: Mapping[str, Any]) -> dict[Cell, Record]:
    """The records of an evaluation and of each of its recordings, by cell.

    Args:
        results: what ``metrics.json`` holds, of this release or an earlier one.
    """
    evaluation = results["evaluation"]
    names = (*evaluation["class_names"], *evaluation["class_groups"])
    cells = reported_cells(names, evaluation["size_bins"])
    records = {cell: _record(cell, cell, results) for cell in cells}
    for part, parts in ((recording_part, "recordings"), (time_part, "times")):
        for name, flat in results.get(parts, {}).items():
            for size in ("", *evaluation["size_bins"]):
                cell = part(name), "", size
                records[cell] = _record(cell, ("", "", size), flat)
    # Motion is known where labels have tracks.
    for cell in motion_cells(names, evaluation.get("motion_bins", ())):
        if flat_key("boxes", cell) in results:
            records[cell] = _record(cell, cell, results)
    return records


def motion_cells(names: Iterable[str], motion_bins: Iterable[str]) -> list[Cell]:
    """Everything and each class and group of these ``names``, each by motion."""
    return [("", name, motion) for name in ("", *names) for motion in motion_bins]


def metric_of(records: Records, cell: Cell, metric: str) -> Any:
    """A metric or number of boxes; None without such a cell, or without ground truth in it."""
    value = getattr(records[cell], metric) if cell in records else nan
    return None if isnan(value) else value


def _record(cell: Cell, flat_cell: Cell, flat: Mapping[str, Any]) -> Record:
    metrics = (float(flat.get(flat_key(metric, flat_cell), nan)) for metric in METRICS)
    return Record._make([*cell, *metrics, flat.get(flat_key("boxes", flat_cell), 0)])
