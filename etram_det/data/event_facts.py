"""What the ends of a file of events show: size, span, and what is doubtful about them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.clock import require_unwrapped
from etram_det.data.event_file import (
    FIRST,
    LATEST,
    Column,
    Size,
    is_array,
    is_cut,
    is_there,
    open_events,
)
from etram_det.data.representation import require_polarities
from etram_det.errors import UserError
from etram_det.files import cached_file, replacing

if TYPE_CHECKING:
    import h5py

NOTES = "etram_det_notes"  # attribute of files that were decoded from a camera's
_VERSION = 6  # of the facts in the cache; raise it when they change
_LONGEST_SIDE = 2**14


@dataclass(frozen=True)
class EventFacts:
    """What the ends of a file of events show, cached: opening it again reads nothing.

    Attributes:
        num_events: of all of the file, or of what is left of it.
        first: first timestamp, as it is stored.
        last: the latest timestamp at the end, as it is stored.
        num_strays: events at the start that are far before all others.
        first_steady: the first timestamp behind these, as it is stored.
        last_steady: the latest timestamp at the end but for few that are far behind all others.
        end_rates: events per unit of time, as it is stored, at the start and at the end.
        has_fractions: whether timestamps are no whole numbers.
        offset_us: microseconds that the file says to add to them (DSEC's ``t_offset``).
        sensor_size: height and width of the sensor, as the file states them.
        extent: height and width that all but a hundredth of the events looked at fit in.
        share_outside: share of these events, in [0, 1], outside the stated sensor.
        matrix_order: of the columns of a matrix, such as ``"t, x, y, p"``; empty for others.
        is_cut: whether the file ends before what was written into it.
        notes: of who decoded it from a camera's file: message, whether doubtful, kind of each.
    """

    num_events: int
    first: float
    last: float
    num_strays: int
    first_steady: float
    last_steady: float
    end_rates: tuple[float, float]
    has_fractions: bool
    offset_us: int | None
    sensor_size: Size | None
    extent: Size
    share_outside: float
    is_cut: bool
    matrix_order: str = ""
    notes: Sequence[tuple[str, bool, str]] = ()


def event_facts(path: Path) -> EventFacts:
    """What the ends of a file of events show, from the cache if it is known.

    Raises:
        UserError: the file is damaged or holds no events, or their columns are not what they must
            be.
    """
    try:
        stored = cached_file("event_facts", path, str(_VERSION), ".json")
        facts = json.loads(stored.read_text())
        sizes = {
            name: facts[name] and tuple(facts[name])
            for name in ("sensor_size", "extent", "end_rates")
        }
        return EventFacts(**facts | sizes)
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not there yet, or damaged
    facts = _read_facts(path)
    writer = str(os.getpid())
    # A full or read-only disk costs the time of another look, nothing else.
    with suppress(OSError), replacing(stored, writer, kept=False) as unfinished:
        unfinished.write_text(json.dumps(asdict(facts)))
    return facts


def _read_facts(path: Path) -> EventFacts:
    with open_events(path) as columns:
        t = columns["t"]
        file, times = t.dataset.file, t.ends()
        y, x, p = (columns[name].whole(columns[name].ends(), path) for name in "yxp")
        require_polarities(p, f"{path}: {columns['p'].name}")
        _require_undivided(t.dataset.parent, path)
        sides = [np.quantile(each.astype(np.float64), 0.99) for each in (y, x)]
        size = _stated_sensor_size(file, t, path)
        outside = np.zeros(len(x), np.bool_) if size is None else (y >= size[0]) | (x >= size[1])
        with np.errstate(invalid="ignore"):
            has_fractions = bool(times.dtype.kind == "f" and np.any(times != np.rint(times)))
        first, last = times[0].item(), times[-LATEST:].max().item()
        if not (np.isfinite(first) and np.isfinite(last)):
            raise UserError(
                f"{path}: {t.name} must hold times, got {first} to {last}: fetch the file again"
            )
        num_strays = _num_strays(times[:FIRST])
        if times.dtype.kind in "iu":
            end = times[-LATEST:].astype(np.int64)
            try:
                require_unwrapped(end, len(t) - len(end), 2**32)
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
        return EventFacts(
            num_events=len(t),
            first=first,
            last=last,
            num_strays=num_strays,
            first_steady=np.sort(times[:FIRST])[num_strays].item(),
            last_steady=_last_steady(times[-LATEST:]),
            end_rates=_end_rates(times, len(t)),
            has_fractions=has_fractions,
            offset_us=_offset_us(file),
            sensor_size=size,
            extent=(int(sides[0]) + 1, int(sides[1]) + 1),
            share_outside=float(outside.mean()),
            is_cut=is_cut(file, path),
            matrix_order=_matrix_order(columns),
            notes=json.loads(file.attrs.get(NOTES, "[]")),
        )


def _matrix_order(columns: Mapping[str, Column]) -> str:
    places = {column.part: name for name, column in columns.items()}
    return ", ".join(places[i] for i in range(4)) if 0 in places else ""


def _num_strays(times: NDArray[Any]) -> int:
    """How many timestamps ``[E]`` are before the others by a thousand times what these span."""
    ascending = np.sort(times).astype(np.float64)
    most = len(ascending) // 100
    gaps = ascending[1 : most + 1] - ascending[:most]
    spans = ascending[-1] - ascending[1 : most + 1]
    found = np.flatnonzero(gaps > 1000 * np.maximum(spans, 1e-9))
    return int(found[-1]) + 1 if len(found) else 0


def _last_steady(times: NDArray[Any]) -> float:
    """The latest of the timestamps ``[E]`` that are not far behind the others."""
    num_strays = _num_strays(-times.astype(np.float64))
    return np.sort(times)[len(times) - 1 - num_strays].item()


def _end_rates(times: NDArray[Any], num_events: int) -> tuple[float, float]:
    """Events per unit of time at the start and at the end, of the timestamps looked at there."""
    first, last = times[:FIRST], times[-LATEST:]
    if num_events <= FIRST + LATEST:  # those looked at are all, and one row
        first, last = times[: max(num_events // 4, 1)], times[-max(num_events // 4, 1) :]
    ends = (np.quantile(each.astype(np.float64), (0.01, 0.99)) for each in (first, last))
    rates = [
        0.98 * size / max(high - low, 1e-9)
        for size, (low, high) in zip((len(first), len(last)), ends, strict=True)
    ]
    return float(rates[0]), float(rates[1])


def _require_undivided(group: h5py.Group, path: Path) -> None:
    """Refuse events that were divided: RVT's originals say by how much, which is 1 in all."""
    divider = group.get("divider")
    if is_array(divider) and np.any(divider[()] != 1):
        raise UserError(
            f"{path}: {divider.name.lstrip('/')} must be 1, got {divider[()]}: write the file with "
            "times in microseconds and coordinates in pixels, without a divider"
        )


def _offset_us(file: h5py.File) -> int | None:
    offset = file.get("t_offset")
    if not is_array(offset) or offset.size != 1 or offset.dtype.kind not in "iu":
        return None
    return int(np.ravel(offset[()])[0])


def _stated_sensor_size(file: h5py.File, column: Column, path: Path) -> Size | None:
    """Height and width by ``height`` and ``width`` beside the events, or by attributes."""
    group = column.dataset.parent
    sources: list[Mapping[str, Any]] = [
        {name: place[name][()] for name in ("height", "width") if is_there(place.get(name), path)}
        for place in (group, file)
    ]
    sources += [column.dataset.attrs, group.attrs, file.attrs]
    for source in sources:
        if "height" in source and "width" in source:
            height, width = source["height"], source["width"]
            try:
                sides = int(np.ravel(height)[0]), int(np.ravel(width)[0])
            except (IndexError, OverflowError, TypeError, ValueError):
                sides = (0, 0)  # no numbers at all
            if not all(2 <= side <= _LONGEST_SIDE for side in sides):
                raise UserError(
                    f"{path}: the sensor's sides must be 2 to {_LONGEST_SIDE} px, "
                    f"got {height} and {width}: correct them in the file"
                )
            return sides
    return None
