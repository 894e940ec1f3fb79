"""From box files to labelled frames: which times count, and where the windows lie."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.clock import (
    LONGEST_US,
    Span,
    common_share,
    require_meeting,
    require_microseconds,
    require_unit_of_labels,
)
from etram_det.data.interpolation import TrainingLabels, labels_between
from etram_det.data.label_times import (
    LEAD_US,
    frame_ends,
    label_phases,
    label_times,
    merged_times,
    notes_on_interval,
)
from etram_det.data.labels import (
    NO_TIME,
    LabelSettings,
    boxes_from,
    filter_boxes,
    left_out,
    load_array,
)
from etram_det.data.recording import (
    DSEC_BOXES,
    DSEC_EVENTS,
    NoBoxes,
    NoLabels,
    NoUsableLabels,
    Timeline,
    recording_name,
)
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError

# Among the reasons of Timeline.dropped.
BEFORE_EVENTS = "boxes: before the first event"
AFTER_EVENTS = "boxes: long after the last event"
WITHOUT_TIME = "boxes: without a time"
_FAR_US = 60 * 10**6  # behind the events, and as long as these: later labels lead through nothing
_MERGED_SHARE = 10  # times of one frame differ by less than a window over this


def origin_of(events: Span, interval_us: int) -> int:
    """Where a recording starts: at 0 as in RVT, or at its first event if its clock began elsewhere.

    Args:
        events: first and last timestamp of the events.
        interval_us: time between labelled frames.
    """
    return 0 if 0 <= events[0] < interval_us else events[0]


def first_window_start(first_us: int, window_us: int) -> int:
    """Where windows that follow no labels start: at a whole window before the first event.

    So they end where those that lead up to labels do, as long as these lie on whole windows. A
    clock that was not set to 0 says nothing of these: then it is the first event.

    Args:
        first_us: timestamp of the first event.
        window_us: length of a window.
    """
    return first_us // window_us * window_us if 0 <= first_us < LEAD_US else first_us


def no_box_file(path: Path) -> NoLabels:
    """The error for a recording that lacks its box file."""
    boxes: Path | str = f"{recording_name(path)}_bbox.npy"
    if path.parts[-3:] == DSEC_EVENTS.parts:
        boxes = path.parents[2] / DSEC_BOXES
    return NoLabels(
        f"{path}: its boxes must be in {boxes}, got no such file: add it or take the recording out "
        "of its folder"
    )


def no_boxes(path: Path) -> NoBoxes:
    """The error for a box file without any box."""
    return NoBoxes(
        f"{path}: must hold boxes, got none: take the recording out of its folder, or set "
        "data.keep_unlabelled to train on it as background"
    )


def timeline_without_labels(
    frame_end_us: NDArray[np.int64],
    error: NoLabels,
    split: str,
    frame_settings: FrameSettings,
    label_settings: LabelSettings,
    require_labels: bool,
) -> Timeline:
    """Frames of a recording that has no labels: as background, if it may be used at all.

    Args:
        frame_end_us: ``[F]`` ends of the frames' windows.
        error: why there are no labels.
        split: ``"train"``, ``"val"`` or ``"test"``.
        frame_settings: how events become frames.
        label_settings: whether, and how often, a frame is labelled to show nothing.
        require_labels: whether labels are required.

    Raises:
        NoLabels: ``error``, if labels are required and the recording is no background.
    """
    if not require_labels:
        return Timeline(frame_end_us)
    if split != "train" or not (label_settings.keep_unlabelled and isinstance(error, NoBoxes)):
        raise error
    every = max(label_settings.interval_ms // frame_settings.window_ms, 1)
    return Timeline(frame_end_us, background_frame=np.arange(every - 1, len(frame_end_us), every))


@dataclass(frozen=True)
class LabelSource:
    """What a recording's timelines are made of.

    Attributes:
        path: the recording, which need not be there.
        box_path: its box file; None where there is none.
        sensor_size: height and width of the sensor in pixels.
        split: ``"train"``, ``"val"`` or ``"test"``, for filters that depend on it.
        frame_settings: how events become frames.
        label_settings: which boxes become labels.
        events: first and last timestamp of the events; None where these are not there.
        units: in which the rate of the events is plausible; only looked at where none is set.
    """

    path: Path
    box_path: Path | None
    sensor_size: tuple[int, int]
    split: str
    frame_settings: FrameSettings
    label_settings: LabelSettings
    events: Span | None = None
    units: Collection[str] = ()


def labelled_timeline(source: LabelSource) -> Timeline:
    """The first of :func:`labelled_timelines`, by RVT's rule; errors are the same."""
    return labelled_timelines(source, TrainingLabels())[0]


def labelled_timelines(source: LabelSource, training: TrainingLabels) -> list[Timeline]:
    """Frames and labels of a recording by RVT's rule: filter, choose label times, then frames.

    Args:
        source: the recording and the settings.
        training: what training makes of the labels beyond that.

    Returns:
        One for each label phase: RVT's, and for training others, where these are asked for.

    Raises:
        UserError: the file is damaged, the settings do not fit it, or its labels and the events
            share no time.
        NoLabels: there is no box file.
        NoUsableLabels: there are boxes, but none that belongs to a frame.
        NoBoxes: the box file is empty.
    """
    if source.box_path is None:
        raise no_box_file(source.path)
    window_us = source.frame_settings.window_ms * 1000
    labels = source.label_settings
    interval_us, jitter_us = labels.interval_ms * 1000, labels.jitter_ms * 1000
    tolerance_us = min(jitter_us, window_us // _MERGED_SHARE)
    _require_multiple(labels.interval_ms, source.frame_settings.window_ms)
    stored, num_untimed = _stored_boxes(source)
    origin_us = _checked_origin(source, stored["t"], tolerance_us, interval_us)
    boxes, _, dropped = filter_boxes(stored, source.sensor_size, source.split, labels.filters)
    time_of_box = merged_times(boxes["t"], tolerance_us)
    early = int(np.count_nonzero(time_of_box < origin_us))
    late = (
        0 if source.events is None else np.count_nonzero(time_of_box > _far_behind(source.events))
    )
    label_us = np.unique(time_of_box[: len(boxes) - late])
    times = label_times(label_us, interval_us, jitter_us, origin_us)
    if not times:
        start = " after the first event" if origin_us else ""
        raise NoUsableLabels(
            f"{source.box_path}: no label at {min(interval_us, LEAD_US) // 1000} ms or later"
            f"{start} among {len(stored)} boxes{left_out(dropped)}: correct them, change "
            "data.filters, or take the recording out of its folder"
        )
    _require_within_a_day(times[-1], origin_us, source.box_path)
    notes = notes_on_interval(times, label_us, labels.interval_ms)
    reasons = {BEFORE_EVENTS: early, AFTER_EVENTS: int(late), WITHOUT_TIME: num_untimed}
    timelines = []
    for phase in label_phases(times, label_us, interval_us, jitter_us, training):
        frame_end_us, frame_of_time = frame_ends(phase, interval_us, window_us, origin_us)
        at_label = np.isin(time_of_box, phase)
        between = int(np.count_nonzero(~at_label) - early - late)
        counts = {**dropped, "boxes: between label times": between}
        counts |= {reason: count for reason, count in reasons.items() if count}
        label_frame = frame_of_time[np.searchsorted(phase, time_of_box[at_label])]
        labelled = Timeline(frame_end_us, label_frame, boxes[at_label], counts, notes=notes)
        timelines.append(labelled)
    if training.interpolate_labels:
        times_us = merged_times(stored["t"], tolerance_us)
        return [_filled(each, source, stored, times_us, tolerance_us) for each in timelines]
    return timelines


def _filled(
    timeline: Timeline,
    source: LabelSource,
    stored: NDArray[Any],
    times_us: NDArray[np.int64],
    tolerance_us: int,
) -> Timeline:
    """The same frames with labels also between the label times.

    Args:
        timeline: frames and labels at the label times.
        source: the recording and the settings.
        stored: ``[M]`` its boxes, by time, neither cropped nor filtered.
        times_us: ``[M]`` their times, the same for all boxes of a frame.
        tolerance_us: how far boxes of the time of a frame may lie off it.
    """
    frame, boxes = labels_between(stored, times_us, timeline.frame_end_us, tolerance_us)
    filters = source.label_settings.filters
    boxes, kept, _ = filter_boxes(boxes, source.sensor_size, source.split, filters)
    return timeline.with_labels(frame[kept], boxes)


def _checked_origin(
    source: LabelSource, times_us: NDArray[np.int64], tolerance_us: int, interval_us: int
) -> int:
    """Where a recording starts, once its labels ``[M]``, ascending, fit its events."""
    frame_times = np.unique(merged_times(times_us, tolerance_us))
    if len(frame_times) == 1:  # seconds, say, which are a microsecond apart
        frame_times = np.unique(times_us)
    first_us, last_us = int(times_us[0]), int(times_us[-1])
    events, window_us = source.events, source.frame_settings.window_ms * 1000
    if events is None:  # within a day of 0, or of their own start
        return 0 if last_us <= LONGEST_US else first_us - interval_us
    assert source.box_path is not None
    if source.frame_settings.time_unit is None:
        require_unit_of_labels(events, frame_times, source.units, source.path)
    require_microseconds(frame_times, events, source.box_path)
    require_meeting(events, (first_us, last_us), window_us, source.path)
    return origin_of(events, interval_us)


def _far_behind(events: Span) -> int:
    """The last time at which a label may lie; it counts as one without events after the last."""
    return events[1] + max(_FAR_US, events[1] - events[0])


def _require_multiple(interval_ms: int, window_ms: int) -> None:
    if interval_ms % window_ms:
        raise UserError(
            f"data.interval_ms: must be a multiple of data.window_ms ({window_ms}), got "
            f"{interval_ms}: set such a multiple"
        )


def _require_within_a_day(time_us: int, origin_us: int, path: Path) -> None:
    if time_us - origin_us > LONGEST_US:
        raise UserError(
            f"{path}: label times must lie within a day of the recording's start at {origin_us} "
            f"us, got {time_us}: correct them"
        )


def _stored_boxes(source: LabelSource) -> tuple[NDArray[Any], int]:
    """Boxes by time, in microseconds or the unit that fits better; number of those untimed."""
    path, names_and_filters = (
        source.box_path,
        (source.label_settings.class_names, source.label_settings.filters),
    )
    assert path is not None
    array = load_array(path)
    if array.size == 0:
        raise no_boxes(path)  # whatever its type
    boxes, num_untimed = _timed(boxes_from(array, path, *names_and_filters))
    if len(boxes) == 0:
        raise UserError(
            f"{path}: boxes must have times, got {num_untimed} without: fetch the file again"
        )
    unit, events = source.frame_settings.time_unit, source.events
    if unit not in (None, "us") and events is not None:
        scaled, _ = _timed(boxes_from(array, path, *names_and_filters, unit))
        shares = [
            common_share(events, (int(each["t"].min()), int(each["t"].max())))
            for each in (boxes, scaled)
        ]
        boxes = scaled if shares[1] > shares[0] else boxes
    return boxes[np.argsort(boxes["t"], kind="stable")], num_untimed


def _timed(boxes: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The boxes that have a time, and the number of the others."""
    timed = boxes[boxes["t"] != NO_TIME]
    return timed, len(boxes) - len(timed)


def span_of_labels(path: Path) -> Span | None:
    """First and last time in a box file, as stored; None where there is none.

    Raises:
        UserError: the file is damaged.
    """
    array = load_array(path)
    names = [name for name in ("t", "ts") if name in (array.dtype.names or ())]
    times = array[names[0]] if names else np.empty(0)
    times = times[np.isfinite(times)] if times.dtype.kind in "iuf" else times[:0]
    return (int(times.min()), int(times.max())) if len(times) else None
