"""From box files to labelled frames: which times count, and where the windows lie."""

from __future__ import annotations

from collections.abc import Sequence
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
)
from etram_det.data.labels import LabelSettings, boxes_from, filter_boxes, left_out, load_array
from etram_det.data.recording import NoLabels, NoUsableLabels, Timeline
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError

_MERGED_SHARE = 10  # times of one frame differ by less than a window over this


def merged_times(times_us: NDArray[np.int64], tolerance_us: int) -> NDArray[np.int64]:
    """For each time the first one of its frame: times that differ by little are one frame's.

    Boxes of one frame differ by microseconds where their times were rounded. Times that follow each
    other closely over more than the tolerance are frames of their own.

    Args:
        times_us: ``[L]`` ascending.
        tolerance_us: how far the times of one frame may lie apart.
    """
    starts = np.flatnonzero(
        np.diff(times_us, prepend=times_us[:1] - tolerance_us - 1) > tolerance_us
    )
    lengths = np.diff(starts, append=len(times_us))
    first = times_us[starts]
    last = times_us[starts + lengths - 1]
    is_frame = np.repeat(last - first <= tolerance_us, lengths)
    return np.where(is_frame, np.repeat(first, lengths), times_us)


def label_times(
    times_us: NDArray[np.int64], interval_us: int, jitter_us: int, origin_us: int = 0
) -> list[int]:
    """The times that become labelled frames, by RVT's rule.

    The first one is the first at or after one interval, so that frames lead up to it. Each later
    one lies a whole number of intervals, give or take the jitter, after the one before it. Any
    label rate fits, regular or not.

    Args:
        times_us: ``[L]`` times at which there are labels, ascending, each once.
        interval_us: time between labelled frames.
        jitter_us: how far a time may lie off a whole number of intervals.
        origin_us: where the recording starts, of :func:`origin_of`.
    """
    accepted: list[int] = []
    # RVT's clocks start at 0 and its rule is exact; elsewhere the first event is a matter of luck.
    least_us = origin_us + interval_us - (jitter_us if origin_us else 0)
    for time in times_us[np.searchsorted(times_us, least_us) :].tolist():
        if accepted:
            elapsed = time - accepted[-1]
            intervals = round(elapsed / interval_us)
            if intervals == 0 or abs(elapsed - intervals * interval_us) > jitter_us:
                continue
        accepted.append(time)
    return accepted


def origin_of(events: Span, interval_us: int) -> int:
    """Where a recording starts: at 0 as in RVT, or at its first event if that is much later.

    Args:
        events: first and last timestamp of the events.
        interval_us: time between labelled frames.
    """
    return 0 if events[0] < interval_us else events[0]


def frame_ends(
    label_times_us: list[int], interval_us: int, window_us: int, origin_us: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ends of the windows that lead up to and connect labelled frames, by RVT's rule.

    Windows go back from the first label for as long as they start at the origin or later. Between
    two labels they are spread evenly, so that each label lies at the end of a window.

    Args:
        label_times_us: times of the labelled frames, ascending.
        interval_us: time between labelled frames, a multiple of the window.
        window_us: length of a window.
        origin_us: where the recording starts, of :func:`origin_of`.

    Returns:
        ``[F]`` ends of the windows, and ``[N]`` the frame of each label time.
    """
    if not label_times_us:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    first = label_times_us[0]
    num_before = max((first - origin_us) // window_us - 1, 0)
    ends = [np.arange(first - num_before * window_us, first + 1, window_us)]
    for this, following in zip(label_times_us, label_times_us[1:], strict=False):
        num_frames = round((following - this) / interval_us) * (interval_us // window_us)
        ends.append(np.linspace(this, following, num_frames + 1).astype(np.int64)[1:])
    frame_end_us = np.concatenate(ends)
    labelled = np.cumsum([len(part) for part in ends]) - 1
    return frame_end_us, labelled


def no_box_file(path: Path) -> NoLabels:
    """The error for a recording that lacks its box file."""
    return NoLabels(
        f"{path}: its boxes must be in {path.stem.removesuffix('_td')}_bbox.npy, got no such file: "
        "add it or take the recording out of its folder"
    )


def labelled_timeline(
    path: Path,
    box_path: Path | None,
    sensor_size: tuple[int, int],
    split: str,
    frame_settings: FrameSettings,
    label_settings: LabelSettings,
    events: Span | None = None,
) -> Timeline:
    """Frames and labels of a recording by RVT's rule: filter, choose label times, then frames.

    Args:
        path: the recording, which need not be there.
        box_path: its box file; None where there is none.
        sensor_size: height and width of the sensor in pixels.
        split: ``"train"``, ``"val"`` or ``"test"``, for filters that depend on it.
        frame_settings: how events become frames.
        label_settings: which boxes become labels.
        events: first and last timestamp of the events; None where these are not there.

    Raises:
        UserError: the file is damaged, the settings do not fit it, or its labels and the events
            share no time.
        NoLabels: there are no boxes.
        NoUsableLabels: there are boxes, but none that belongs to a frame.
    """
    if box_path is None:
        raise no_box_file(path)
    window_us, interval_us = frame_settings.window_ms * 1000, label_settings.interval_ms * 1000
    jitter_us = label_settings.jitter_ms * 1000
    if interval_us % window_us:
        raise UserError(
            f"data.interval_ms: must be a multiple of data.window_ms ({frame_settings.window_ms}), "
            f"got {label_settings.interval_ms}: set such a multiple"
        )
    stored = _stored_boxes(box_path, label_settings.class_names, frame_settings.time_unit, events)
    if len(stored) == 0:
        raise NoLabels(
            f"{box_path}: must hold boxes, got none: take the recording out of its folder"
        )
    boxes, _, dropped = filter_boxes(stored, sensor_size, split, label_settings.filters)
    boxes = boxes[np.argsort(boxes["t"], kind="stable")]
    time_of_box = merged_times(boxes["t"], min(jitter_us, window_us // _MERGED_SHARE))
    stored_times = np.unique(stored["t"])
    if events is not None:
        require_microseconds(stored_times, events, box_path)
        require_meeting(events, (int(stored_times[0]), int(stored_times[-1])), window_us, path)
        origin_us = origin_of(events, interval_us)
    else:  # within a day of 0, or of their own start
        origin_us = 0 if stored_times[-1] <= LONGEST_US else int(stored_times[0]) - interval_us
    times = label_times(np.unique(time_of_box), interval_us, jitter_us, origin_us)
    if not times:
        raise NoUsableLabels(
            f"{box_path}: no label at {label_settings.interval_ms} ms or later"
            f"{' after the first event' if origin_us else ''} among {len(stored)} "
            f"boxes{left_out(dropped)}: correct them, change data.filters, or take the recording "
            "out of its folder"
        )
    if times[-1] - origin_us > LONGEST_US:
        raise UserError(
            f"{box_path}: label times must lie within a day of the recording's start at "
            f"{origin_us} us, got {times[-1]}: correct them"
        )
    frame_end_us, frame_of_time = frame_ends(times, interval_us, window_us, origin_us)
    at_label = np.isin(time_of_box, times)
    dropped["boxes: between label times"] = int(np.count_nonzero(~at_label))
    label_frame = frame_of_time[np.searchsorted(times, time_of_box[at_label])]
    return Timeline(frame_end_us, label_frame, boxes[at_label], dropped)


def _stored_boxes(
    path: Path, class_names: Sequence[str], time_unit: str | None, events: Span | None
) -> NDArray[Any]:
    """All boxes of a file, times in microseconds; in the events' unit if that fits better."""
    array = load_array(path)
    boxes = boxes_from(array, path, class_names)
    boxes = boxes[boxes["t"] > np.iinfo(np.int64).min]  # not a number, where times are floats
    if time_unit in (None, "us") or events is None or len(boxes) == 0:
        return boxes
    scaled = boxes_from(array, path, class_names, time_unit)
    shares = [
        common_share(events, (int(each["t"].min()), int(each["t"].max())))
        for each in (boxes, scaled)
    ]
    return scaled if shares[1] > shares[0] else boxes


def span_of_labels(path: Path) -> Span | None:
    """First and last time in a box file, as stored; None where there is none.

    Raises:
        UserError: the file is damaged.
    """
    array = load_array(path)
    names = [name for name in ("t", "ts") if name in (array.dtype.names or ())]
    if not names or array.size == 0:
        return None
    return int(array[names[0]].min()), int(array[names[0]].max())
