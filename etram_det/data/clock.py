"""One clock for events and labels: units of timestamps, offsets, and whether both ever meet."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etram_det.errors import UserError

if TYPE_CHECKING:
    from etram_det.data.event_facts import EventFacts
    from etram_det.data.event_file import Column

Span = tuple[int, int]

_US = {"us": 1.0, "ms": 1e3, "ns": 1e-3, "s": 1e6}  # microseconds by unit
LONGEST_US = 24 * 3600 * 10**6
# Events of a pixel per second, over all of a recording. Read-outs saturate below the upper bound
# (1.1 Gev/s of 0.9 Mpx in the fastest of today's sensors, in bursts only); a moving scene gives
# some 1 to 30, and noise alone more than the lower one.
_LEAST_RATE, _GREATEST_RATE = 0.002, 200.0
STRAY = 64  # events in a row whose timestamps are behind: fewer are strays, not a wrap
_FEWEST_EVENTS = 1000  # on which rates are judged
_SHORTEST_SLOW_S = 60  # a low rate is no more than a quiet scene in a shorter recording
# Share of time that labels and events have in common, of the two together: in the right unit, and
# below which the unit is questioned.
_LEAST_MEETING, _LEAST_IN_COMMON = 0.5, 0.02
_LABEL_SPACING_US = (2_000, 10**7)  # from 500 labelled times a second to one in ten seconds
_FEWEST_TIMES = 10  # of labels, on which their spacing is judged


@dataclass(frozen=True)
class Timestamps:
    """The timestamps of a file as microseconds.

    Attributes:
        column: as they are stored.
        unit: of the stored ones: ``"us"``, ``"ms"``, ``"ns"`` or ``"s"``.
        offset_us: is added to them.
    """

    column: Column | NDArray[Any]
    unit: str = "us"
    offset_us: int = 0

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, events: slice) -> NDArray[np.int64]:
        """Microseconds ``[E]`` of some events."""
        stored = self.column[events]
        if stored.dtype.kind == "f":
            with np.errstate(invalid="ignore", over="ignore"):
                return np.rint(stored.astype(np.float64) * _US[self.unit]).astype(np.int64) + (
                    self.offset_us
                )
        times = stored.astype(np.int64, copy=False)
        if self.unit == "ns":
            times = times // 1000
        elif self.unit != "us":
            times = times * int(_US[self.unit])
        return times + self.offset_us if self.offset_us else times

    @property
    def wrap_us(self) -> int:
        """Microseconds after which 32-bit numbers of the unit wrap."""
        return int(2**32 * _US[self.unit])


def unit_of(facts: EventFacts, num_pixels: int, unit: str | None, path: Path) -> tuple[str, bool]:
    """The unit of a file's timestamps, and whether it was inferred.

    Args:
        facts: what is known of the file.
        num_pixels: of the sensor.
        unit: as the settings have it; None for microseconds, unless the events contradict.
        path: the file, for messages.

    Raises:
        UserError: span and rate leave no doubt that they are in another unit than microseconds, or
            fractions do not show which one.
    """
    if unit is not None:
        return unit, False
    rates, plausible = plausible_units(facts, num_pixels)
    span_s = (facts.last - facts.first) * _US["us"] / 1e6
    is_known = facts.num_events >= _FEWEST_EVENTS
    if facts.has_fractions:
        candidates = [each for each in plausible if each != "ns"]
        if is_known and len(candidates) == 1:
            return candidates[0], True
        raise UserError(
            f"{path}: timestamps must be in microseconds, got fractions, such as {facts.first:g}: "
            "set data.time_unit to their unit, s, ms or us"
        )
    seems = next((each for each in ("us", "ms", "ns", "s") if each in plausible), "us")
    if not is_known or seems == "us":
        return "us", False
    raise UserError(
        f"{path}: timestamps must be in microseconds, got {facts.num_events:,} events within "
        f"{span_s:,.6g} s, which is {rates['us'][0]:.2g} a second for each pixel of the "
        "sensor: "
        f"they seem to be in {seems}: set data.time_unit to {seems}, or to us if they are not"
    )


def plausible_units(facts: EventFacts, num_pixels: int) -> tuple[dict[str, list[float]], list[str]]:
    """Events of a pixel per second in each unit, and the units in which these can be.

    Args:
        facts: what is known of the file.
        num_pixels: of the sensor.

    Returns:
        By unit, rates over all of the recording, at its start and at its end; and the units.
    """
    span = max(facts.last_steady - facts.first_steady, 1e-9)
    span_s = {each: span * us / 1e6 for each, us in _US.items()}
    # A pause or a clock that jumps makes the whole slow, but not its ends.
    stored = (facts.num_events / span, *facts.end_rates)
    rates = {each: [rate / us * 1e6 / num_pixels for rate in stored] for each, us in _US.items()}
    plausible = [
        each
        for each, of in rates.items()
        # Microseconds are believed wherever they can be, others only where they fit throughout.
        if (min(of) if each == "us" else max(of)) <= _GREATEST_RATE
        and (max(of) >= _LEAST_RATE or span_s[each] < _SHORTEST_SLOW_S)
    ]
    return rates, plausible


def require_unit_of_labels(
    events: Span, times_us: NDArray[np.int64], units: Collection[str], path: Path
) -> None:
    """Refuse timestamps whose labels leave no doubt that they are not in microseconds.

    Args:
        events: first and last timestamp of the events, read as microseconds.
        times_us: ``[L]`` times of the labels, ascending, each once.
        units: in which the rate of the events is plausible.
        path: the file of the events, for messages.

    Raises:
        UserError: naming the unit that they seem to have, and the labels with them.
    """
    if len(times_us) < 2:
        return
    labels = int(times_us[0]), int(times_us[-1])
    spacing_us = float(np.median(np.diff(times_us)))
    share = common_share(events, labels)
    for unit in (each for each in units if each != "us"):
        scaled = events[0] * _US[unit], events[1] * _US[unit]
        alone = (
            share < _LEAST_IN_COMMON
            and _is_label_spacing(spacing_us)
            and common_share(scaled, labels) > _LEAST_MEETING
        )
        both = (
            share > _LEAST_MEETING
            and not _is_label_spacing(spacing_us)
            and _is_label_spacing(spacing_us * _US[unit])
        )
        if alone or both:
            what = "timestamps and label times seem" if both else "timestamps seem"
            raise UserError(
                f"{path}: timestamps must be in microseconds, got {events[0]} to {events[1]} for "
                f"labels from {labels[0]} to {labels[1]} us: its {what} to be in {unit}: set "
                f"data.time_unit to {unit}, or to us if they are not"
            )


def require_ascending(events: Span, wrap_us: int, path: Path) -> None:
    """Refuse a recording that ends before it starts.

    Args:
        events: first and last timestamp.
        wrap_us: microseconds after which its timestamps may have wrapped.
        path: the file, for messages.

    Raises:
        UserError: naming the wrap if there was one.
    """
    first, last = events
    if last < first:
        wrap = first - last >= wrap_us // 2
        remedy = f"add {wrap_us} us to those behind the wrap" if wrap else "sort its events"
        raise UserError(
            f"{path}: timestamps must ascend, got {first} us first and {last} us last"
            f"{', a wrap at 32 bits' if wrap else ''}: {remedy}, and write it with 64-bit "
            "timestamps"
        )


def require_unwrapped(timestamps: NDArray[np.int64], start: int, wrap: int) -> None:
    """Refuse timestamps ``[E]`` that wrap: repaired, all later ones would be the same.

    Args:
        timestamps: in any unit.
        start: number of the first one in its file, for messages.
        wrap: by how much they would fall.

    Raises:
        UserError: naming the event behind the wrap.
    """
    falls = np.flatnonzero(timestamps[:-1] - timestamps[1:] >= wrap // 2)
    for place in falls.tolist():
        before = timestamps[max(place + 1 - STRAY, 0) : place + 1]
        behind = timestamps[place + 1 : place + 1 + STRAY]
        if behind.max() <= before.min() - wrap // 2:
            raise UserError(
                f"timestamps must ascend, got a wrap from {before[-1]} to {behind[0]} at event "
                f"{start + place + 1:,}: write it with 64-bit timestamps, {wrap} added to those "
                "behind the wrap"
            )


def meet(events: Span, labels: Span, window_us: int) -> bool:
    """Whether some label may have events in its window.

    Args:
        events: first and last timestamp of the events.
        labels: first and last time of the labels, in the same unit.
        window_us: length of the window that ends with a label.
    """
    return labels[0] - window_us <= events[1] and events[0] <= labels[1]


def require_meeting(events: Span, labels: Span, window_us: int, path: Path) -> None:
    """Refuse labels and events that share no time: all labelled frames would be empty.

    Args:
        events: as in :func:`meet`.
        labels: as in :func:`meet`.
        window_us: length of the window that ends with a label.
        path: the file of the events, for messages.

    Raises:
        UserError: naming both spans, and the setting that mends it if it is the unit.
    """
    if meet(events, labels, window_us):
        return
    remedy = "let the times of both count from the recording's start, or take it out of the folder"
    for unit in ("ms", "s", "ns"):
        scaled = events[0] * _US[unit], events[1] * _US[unit]
        if common_share(scaled, labels) > _LEAST_MEETING:
            remedy = f"its timestamps seem to be in {unit}: set data.time_unit to {unit}"
    raise UserError(
        f"{path}: its events ({events[0]} to {events[1]} us) lie outside its labels' times "
        f"({labels[0]} to {labels[1]} us): {remedy}"
    )


def require_microseconds(times_us: NDArray[np.int64], events: Span, path: Path) -> None:
    """Refuse labels whose times leave no doubt that they are not in microseconds.

    Args:
        times_us: ``[L]`` times of the labels, ascending, each once.
        events: first and last timestamp of the events.
        path: the file of the labels, for messages.

    Raises:
        UserError: naming the unit that they seem to have.
    """
    if len(times_us) < _FEWEST_TIMES:
        return
    labels = float(times_us[0]), float(times_us[-1])
    spacing_us = float(np.median(np.diff(times_us)))
    if _is_label_spacing(spacing_us) or common_share(events, labels) > _LEAST_IN_COMMON:
        return
    for unit in ("ms", "s", "ns"):
        scaled = labels[0] * _US[unit], labels[1] * _US[unit]
        if _is_label_spacing(spacing_us * _US[unit]) and (
            common_share(events, scaled) > _LEAST_MEETING
        ):
            raise UserError(
                f"{path}: label times must be in microseconds, got {times_us[0]} to "
                f"{times_us[-1]} for events from {events[0]} to {events[1]} us: they seem to be "
                f"in {unit}: write them in microseconds"
            )


def _is_label_spacing(spacing_us: float) -> bool:
    return _LABEL_SPACING_US[0] <= spacing_us <= _LABEL_SPACING_US[1]


def common_share(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two spans of time, in [0, 1]."""
    common = min(one[1], other[1]) - max(one[0], other[0])
    whole = max(one[1], other[1]) - min(one[0], other[0])
    return max(common, 0) / max(whole, 1)
