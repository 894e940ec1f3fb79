"""Raw recordings as eTraM hands them out: events in HDF5, boxes in an ``.npy`` file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.clock import (
    LONGEST_US,
    Span,
    Timestamps,
    meet,
    plausible_units,
    require_ascending,
    unit_of,
)
from etram_det.data.event_facts import EventFacts, event_facts
from etram_det.data.event_file import Column, Size, open_events
from etram_det.data.interpolation import TrainingLabels
from etram_det.data.labels import LabelSettings
from etram_det.data.recording import (
    OUTSIDE,
    REPAIRED,
    NoLabels,
    Note,
    Recording,
    Timeline,
    recording_name,
)
from etram_det.data.representation import SENSOR_SIZE, FrameSettings, Representation
from etram_det.data.time_index import (
    TimeIndex,
    cached_time_index,
    stored_time_index,
    without_events,
)
from etram_det.data.timeline import (
    AFTER_EVENTS,
    BEFORE_EVENTS,
    WITHOUT_TIME,
    LabelSource,
    first_window_start,
    labelled_timeline,
    labelled_timelines,
    span_of_labels,
    timeline_without_labels,
)
from etram_det.errors import UserError

# Share of the events outside a stated sensor: more are no stray ones, or its size is not believed.
_STRAY, _CONTRADICTED = 0.01, 0.1
_MANY_EMPTY, _FEW_WINDOWS = 0.1, 100  # share of the windows, and number: less is a short pause
_QUIET, _LONG_HOURS = 0.1, 0.25  # events of a pixel per second, over longer than this
_STRAY_US = 60 * 10**6  # before all others: no pause, but faulty timestamps
_SLICE = 2**16  # events read at a time in their order
_CORNER = 0.4  # share of an assumed sensor below which the events may fill a smaller one


class RawRecording(Recording):
    """Events of ``<name>_td.h5``, made into frames as they are read.

    Frames lead from one label to the next, by RVT's rule; without labels they follow each other
    from the first event, or up to a window before it, to the last one.

    Args:
        path: HDF5 file with ``events/x``, ``y``, ``p`` and ``t`` (microseconds unless the settings
            say otherwise), or with the same columns as another writer has them.
        box_path: the box file; None where there is none.
        split: ``"train"``, ``"val"`` or ``"test"``, for filters that depend on it.
        frame_settings: how events become frames.
        label_settings: which boxes become labels.
        require_labels: whether missing labels are an error.

    Raises:
        UserError: a file is damaged, or the settings do not fit it.
        NoLabels: there is no box file.
        NoUsableLabels: it has no boxes, or none that belongs to a frame.
    """

    layout = "raw eTraM"

    def __init__(
        self,
        path: Path,
        box_path: Path | None,
        split: str,
        frame_settings: FrameSettings,
        label_settings: LabelSettings,
        require_labels: bool = True,
    ) -> None:
        window_us = frame_settings.window_ms * 1000
        facts = event_facts(path)
        sensor_size, notes = _sensor_size(facts, frame_settings.sensor_size)
        height, width = sensor_size
        unit, is_inferred = unit_of(facts, height * width, frame_settings.time_unit, path)
        rates, units = plausible_units(facts, height * width)
        notes += _notes_of(facts, unit if is_inferred else None)
        self._unit, self._offset_us = unit, 0
        self._num_events = facts.num_events
        ends = Timestamps(np.array([facts.first, facts.last]), unit)
        self._span: Span = int(ends[:1][0]), int(ends[1:][0])
        self._leave_out_strays(facts, notes)
        require_ascending(self._span, ends.wrap_us, path)
        if facts.offset_us is not None:
            self._add_offset(facts.offset_us, box_path, window_us, notes)
        self._labels = LabelSource(
            path,
            box_path,
            sensor_size,
            split,
            frame_settings,
            label_settings,
            self._span,
            units if facts.last == facts.last_steady else (),  # a clock that jumps misleads
        )
        try:
            timeline = labelled_timeline(self._labels)
        except NoLabels as error:
            ends_us = _consecutive_ends(self._span, path, window_us)
            timeline = timeline_without_labels(
                ends_us, error, split, frame_settings, label_settings, require_labels
            )
        input_size = frame_settings.input_size or (height // 2, width // 2)
        if input_size[0] > height or input_size[1] > width:
            raise UserError(
                f"data.input_size: must not exceed the sensor's {sensor_size} of {path}, "
                f"got {input_size}: lower it, to {[height // 2, width // 2]} for half of the "
                "sensor's"
            )
        for reason in (BEFORE_EVENTS, AFTER_EVENTS, WITHOUT_TIME):
            if count := timeline.dropped.get(reason):
                what = reason.removeprefix("boxes: ")
                notes.append(Note(f"{count:,} boxes {what} are left out", True, reason))
        hours = (self._span[1] - self._span[0]) / 3.6e9
        if box_path is None and "ns" in units and max(rates["us"]) < _QUIET and hours > _LONG_HOURS:
            note = f"its events span {hours:,.1f} hours, and are few for that: if their timestamps "
            notes.append(Note(f"{note}are in ns, set data.time_unit", True, "slow"))
        super().__init__(recording_name(path), path, sensor_size, input_size, timeline)
        self.notes = notes + self.notes
        self._window_us = window_us
        self._representation = Representation(sensor_size, input_size, frame_settings)
        self._time_index: TimeIndex | None = None
        self._is_prepared = False
        self._count_labels_without_events(np.empty((0, 2), np.int64))

    def event_rate(self) -> float | None:  # noqa: D102
        first, last = self._span
        return self._num_events / ((last - first) / 1e6) if last > first else None

    @property
    def num_events(self) -> int:  # noqa: D102
        return self._num_events

    @property
    def event_span_us(self) -> Span:  # noqa: D102
        return self._span

    @property
    def num_events_to_index(self) -> int:  # noqa: D102
        return 0 if self._is_prepared or self._stored_index() is not None else self._num_events

    def prepare(self, progress: Callable[[int], None] | None = None) -> None:  # noqa: D102
        # It is not kept: each loading process reads it for itself, as it may be large.
        if (index := self._stored_index()) is None:
            with open_events(self.path) as columns:
                index = self._index(columns["t"], progress)
        empty = self._count_labels_without_events(index.gap_us)
        if not self._is_prepared and empty.mean() > _MANY_EMPTY and empty.sum() > _FEW_WINDOWS:
            note = f"{empty.sum():,} of its {len(empty):,} windows hold no event, as in a pause or "
            note += "where its clock jumps"
            self.notes.append(Note(note, True, "windows without events"))
        self._note_repaired(index)
        self._is_prepared = True

    def event_slices(self) -> Iterator[tuple[NDArray[Any], ...]]:
        """The events of all windows in their order, as columns x, y, t and p ``[E]``.

        Timestamps are in microseconds, on the clock of the windows; those that go back are as they
        are. Memory is bounded.

        Raises:
            UserError: the file is damaged where it is read.
        """
        latest = np.iinfo(np.int64).min
        first, last = self._span[0], int(self.frame_end_us[-1])
        with open_events(self.path) as columns:
            times = self._timestamps(columns["t"])
            for start in range(0, len(times), _SLICE):
                events = slice(start, start + _SLICE)
                t = times[events]
                repaired = np.maximum.accumulate(np.maximum(t, latest))
                latest = int(repaired[-1])
                x, y, p = (
                    columns[name].whole(columns[name][events], self.source) for name in "xyp"
                )
                inside = slice(*np.searchsorted(repaired, (first, last + 1)))
                yield x[inside], y[inside], t[inside], p[inside]

    def frames(self, start: int, stop: int) -> NDArray[Any]:  # noqa: D102
        ends = self.frame_end_us[start:stop].tolist()
        frames = np.empty((len(ends), *self._representation.shape), self._representation.dtype)
        num_events = num_outside = 0
        with open_events(self.path) as columns:
            times = self._timestamps(columns["t"])
            if self._time_index is None:
                self._time_index = self._index(columns["t"])
            for frame, end_us in zip(frames, ends, strict=True):
                window_us = end_us - self._window_us, end_us
                first, times_us = self._time_index.cut(times, *window_us)
                events = slice(first, first + len(times_us))
                x, y, p = (
                    columns[name].whole(columns[name][events], self.source) for name in "xyp"
                )
                num_events += len(times_us)
                try:
                    num_outside += self._representation.fill(frame, x, y, p, times_us, window_us)
                except UserError as error:
                    raise UserError(f"{self.source}: {error}") from error
        self.events["in windows"] = self.events.get("in windows", 0) + num_events
        if num_outside:
            self.dropped[OUTSIDE] = self.dropped.get(OUTSIDE, 0) + num_outside
        return frames

    def _timelines(self, training: TrainingLabels) -> list[Timeline]:
        return labelled_timelines(self._labels, training)

    @property
    def _clock(self) -> str:
        """What the time index follows from beside the file: nothing for microseconds as stored."""
        return (
            ""
            if (self._unit, self._offset_us) == ("us", 0)
            else (f"{self._unit}{self._offset_us:+}")
        )

    def _timestamps(self, column: Column) -> Timestamps:
        if len(column) != self._num_events:
            raise UserError(
                f"{self.source}: must hold {self._num_events} events, as when it was opened, got "
                f"{len(column)}: fetch the file again, then start anew"
            )
        return Timestamps(column, self._unit, self._offset_us)

    def _index(self, column: Column, progress: Callable[[int], None] | None = None) -> TimeIndex:
        try:
            index = cached_time_index(self.path, self._timestamps(column), self._clock, progress)
        except UserError as error:
            raise UserError(f"{self.source}: {error}") from error
        self._note_repaired(index)
        return index

    def _stored_index(self) -> TimeIndex | None:
        return stored_time_index(self.path, self._num_events, self._clock)

    def _note_repaired(self, index: TimeIndex) -> None:
        self.repaired_share = index.num_repaired / self._num_events
        self.events[REPAIRED] = index.num_repaired

    def _leave_out_strays(self, facts: EventFacts, notes: list[Note]) -> None:
        """Start behind the few events hours before all others, as timestamps of 0 are."""
        steady = int(Timestamps(np.array([facts.first_steady]), self._unit)[:][0])
        before_us = steady - self._span[0]
        if facts.num_strays and before_us >= _STRAY_US:
            self._span = steady, self._span[1]
            note = f"its first {facts.num_strays} events lie {before_us / 1e6:,.0f} s before the "
            notes.append(Note(f"{note}others and are left out", True, "strays"))

    def _add_offset(
        self, offset_us: int, box_path: Path | None, window_us: int, notes: list[Note]
    ) -> None:
        """Add the file's own offset to its times, unless only those without it meet the labels."""
        shifted = self._span[0] + offset_us, self._span[1] + offset_us
        labels = None if box_path is None else span_of_labels(box_path)
        if (
            labels is not None
            and not meet(shifted, labels, window_us)
            and (meet(self._span, labels, window_us))
        ):
            notes.append(Note("its t_offset is not added to its timestamps, as labels lack it too"))
            return
        self._span, self._offset_us = shifted, offset_us
        notes.append(Note("its t_offset is added to its timestamps", kind="t_offset"))

    def _count_labels_without_events(self, gap_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        empty = without_events(self.frame_end_us, self._window_us, self._span, gap_us)
        self.labels_without_events = int(np.count_nonzero(empty[self.label_frame]))
        return empty


def _notes_of(facts: EventFacts, inferred_unit: str | None) -> list[Note]:
    """What is to be known of a file beside its sensor and its labels."""
    notes = [Note(*note) for note in facts.notes]
    if facts.matrix_order:
        notes.append(Note(f"the columns of its matrix are taken as {facts.matrix_order}"))
    if inferred_unit is not None:
        notes.append(
            Note(f"its timestamps are in {inferred_unit}, by span and rate (data.time_unit)")
        )
    if facts.is_cut:
        cut = f"it was cut short, and what comes before is used, {facts.num_events:,} events"
        notes.append(Note(cut, doubtful=True, kind="cut"))
    return notes


def _sensor_size(facts: EventFacts, given: Size | None) -> tuple[Size, list[Note]]:
    """Height and width of the sensor, and what was assumed about them."""
    height, width = facts.extent
    reached = f"its events reach {width}x{height} px"
    stated = facts.sensor_size
    size = stated or given or SENSOR_SIZE
    if stated is None:
        note = f"its file does not state the sensor's size, {size[1]}x{size[0]} px is assumed"
        if height > size[0] or width > size[1]:
            note, kind = f"{note}, but {reached}: those outside are dropped", "beyond the sensor"
        elif height * width < _CORNER * size[0] * size[1]:
            note, kind = f"{note}, but {reached} only", "a corner of the sensor"
        else:
            return size, [Note(f"{note}: set data.sensor_size if it is another")]
        return size, [Note(f"{note}: set data.sensor_size", True, kind)]
    note = f"its file states a sensor of {size[1]}x{size[0]} px, but {reached}"
    fits = given and height <= given[0] and width <= given[1]
    # The default is used like a size that was set only where the events fill it.
    is_set = given != SENSOR_SIZE or height * width >= _CORNER * SENSOR_SIZE[0] * SENSOR_SIZE[1]
    if facts.share_outside > _CONTRADICTED and given and fits and is_set:
        note = f"{note}: data.sensor_size, {given[1]}x{given[0]}, is used"
        return given, [Note(note, True, "another sensor than stated")]
    if facts.share_outside > _STRAY:
        note = f"{note}: those outside are dropped: set data.sensor_size"
        return size, [Note(note, True, "beyond the sensor")]
    return size, []


def _consecutive_ends(span: Span, path: Path, window_us: int) -> NDArray[np.int64]:
    """Ends of the windows that follow each other from the start to the last event."""
    first, last = span
    if not 0 <= last - first <= LONGEST_US:
        raise UserError(
            f"{path}: timestamps must ascend and span a day at most, in microseconds, got {first} "
            f"to {last}: write the file with such timestamps, or set data.time_unit"
        )
    start = first_window_start(first, window_us)
    num_frames = (last - start) // window_us + 1
    return start + window_us * np.arange(1, num_frames + 1)
