"""Raw recordings as eTraM hands them out: events in HDF5, boxes in an ``.npy`` file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.hdf5_file import open_hdf5
from etram_det.data.labels import (
    LabelSettings,
    boxes_from,
    filter_boxes,
    frame_ends,
    label_times,
    left_out,
    load_array,
)
from etram_det.data.recording import (
    OUTSIDE,
    REPAIRED,
    NoLabels,
    NoUsableLabels,
    Recording,
    Timeline,
)
from etram_det.data.representation import SENSOR_SIZE, FrameSettings, Representation
from etram_det.data.time_index import BLOCK, TimeIndex, cached_time_index
from etram_det.errors import UserError

if TYPE_CHECKING:
    import h5py

Size = tuple[int, int]

_KINDS = {"x": "iu", "y": "iu", "p": "iub", "t": "iu"}  # NumPy's letters for whole numbers
_CHUNK_CACHE = 16 * 2**20  # bytes a column: windows that share a chunk unpack it once
_PACKED = 100  # no real events shrink to less than a hundredth of their size
_LONGEST_US = 24 * 3600 * 10**6
_LONGEST_SIDE = 2**14


class RawRecording(Recording):
    """Events of ``<name>_td.h5``, made into frames as they are read.

    Frames lead from one label to the next, by RVT's rule; without labels they follow each other
    from the first event to the last.

    Args:
        path: HDF5 file with ``events/x``, ``y``, ``p`` and ``t`` (microseconds).
        box_path: the box file; None where there is none.
        split: ``"train"``, ``"val"`` or ``"test"``, for filters that depend on it.
        frame_settings: how events become frames.
        label_settings: which boxes become labels.
        require_labels: whether missing labels are an error.

    Raises:
        UserError: a file is damaged, or the settings do not fit it.
        NoLabels: there are no boxes.
        NoUsableLabels: there are boxes, but none that belongs to a frame.
    """

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
        with _open_events(path) as events:
            _require_stored(events, path)
            sensor_size = (
                _sensor_size(events["t"].parent) or frame_settings.sensor_size or SENSOR_SIZE
            )
            try:
                timeline = labelled_timeline(
                    path, box_path, sensor_size, split, frame_settings, label_settings
                )
                begin_us = int(timeline.frame_end_us[0]) - window_us
                _require_events_at(begin_us, int(timeline.frame_end_us[-1]), events["t"], path)
            except NoLabels:
                if require_labels:
                    raise
                timeline = Timeline(_consecutive_ends(events["t"], path, window_us))
        input_size = frame_settings.input_size or (sensor_size[0] // 2, sensor_size[1] // 2)
        if input_size[0] > sensor_size[0] or input_size[1] > sensor_size[1]:
            half = [side // 2 for side in sensor_size]
            raise UserError(
                f"data.input_size: must not exceed the sensor's {sensor_size} of {path}, "
                f"got {input_size}: lower it, to {half} for half of the sensor's"
            )
        super().__init__(path.stem.removesuffix("_td"), path, sensor_size, input_size, timeline)
        self._window_us = window_us
        self._representation = Representation(sensor_size, input_size, frame_settings)
        self._time_index: TimeIndex | None = None

    def event_rate(self) -> float | None:  # noqa: D102
        with _open_events(self.path) as events:
            times = events["t"]
            first, last = (int(times[0]), int(times[-1])) if len(times) else (0, 0)
            return len(times) / ((last - first) / 1e6) if last > first else None

    def frames(self, start: int, stop: int) -> NDArray[Any]:  # noqa: D102
        ends = self.frame_end_us[start:stop].tolist()
        frames = np.empty((len(ends), *self._representation.shape), self._representation.dtype)
        num_events = num_outside = 0
        with _open_events(self.path) as events:
            if self._time_index is None:
                self._time_index = cached_time_index(self.path, events["t"])
                self.repaired_share = self._time_index.num_repaired / len(events["t"])
            for frame, end_us in zip(frames, ends, strict=True):
                window_us = end_us - self._window_us, end_us
                first, times = self._time_index.cut(events["t"], *window_us)
                x, y, p = (_native(events[name][first : first + len(times)]) for name in "xyp")
                num_events += len(times)
                num_outside += self._representation.fill(frame, x, y, p, times, window_us)
        self.events["in windows"] = self.events.get("in windows", 0) + num_events
        self.events[REPAIRED] = self._time_index.num_repaired
        if num_outside:
            self.dropped[OUTSIDE] = self.dropped.get(OUTSIDE, 0) + num_outside
        return frames


@contextmanager
def _open_events(path: Path) -> Iterator[dict[str, h5py.Dataset]]:
    """The four columns of a recording, checked; the file is closed afterwards."""
    with open_hdf5(path, "fetch the file again", _CHUNK_CACHE) as file:
        yield _columns(file, path)


def _columns(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    import h5py

    if "CD/events" in file:
        raise UserError(
            f"{path}: Prophesee's HDF5, coded with its ECF filter, cannot be read: write it as DAT "
            f"with OpenEB's metavision_file_to_dat -i {path.name}"
        )
    events = {name: file.get(f"events/{name}") for name in _KINDS}
    for name, column in events.items():
        if not isinstance(column, h5py.Dataset):
            group = file.get("events")
            place, group = ("events/", group) if isinstance(group, h5py.Group) else ("", file)
            found = ", ".join(f"{place}{each}" for each in group) or f"{place or 'file'} empty"
            raise UserError(
                f"{path}: must hold events/x, y, p and t; events/{name} is missing, got "
                f"{found}: fetch the file again"
            )
        if column.ndim != 1 or column.dtype.kind not in _KINDS[name]:
            raise UserError(
                f"{path}: events/{name} must be a row of whole numbers, "
                f"got {column.dtype} {column.shape}: fetch the file again"
            )
        properties = column.id.get_create_plist()
        for i in range(properties.get_nfilters()):
            code, _, _, title = properties.get_filter(i)
            if not h5py.h5z.filter_avail(code):
                raise UserError(
                    f"{path}: HDF5 filter {code} ({title.decode(errors='replace')}) is not known "
                    "here: write the file anew with h5repack -f GZIP=1"
                )
    lengths = {name: len(column) for name, column in events.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{path}: its columns must be equally long, got {lengths}: fetch it again")
    return events


def _require_stored(events: dict[str, h5py.Dataset], path: Path) -> None:
    """Refuse columns that claim more events than were ever written; reading them would not end."""
    for name, column in events.items():
        if column.nbytes <= _PACKED * path.stat().st_size:
            continue  # counting the chunks of a long recording takes its time
        room = column.id.get_storage_size() // column.dtype.itemsize
        if column.chunks is not None:
            room = column.id.get_num_chunks() * column.chunks[0]
        if room < len(column):
            raise UserError(
                f"{path}: events/{name} must hold the {len(column)} events it claims, got room "
                f"for {room}: fetch the file again, which was not written to its end"
            )


def _native(column: NDArray[np.integer]) -> NDArray[np.integer]:
    """The column in this machine's byte order, which the kernel needs."""
    return column.astype(column.dtype.newbyteorder("="), copy=False)


def _sensor_size(events: h5py.Group) -> Size | None:
    """Height and width by ``events/height`` and ``width``, or by attributes."""
    sources = (
        {name: events[name][()] for name in ("height", "width") if name in events},
        events.attrs,
        events.file.attrs,
    )
    for source in sources:
        if "height" in source and "width" in source:
            height, width = source["height"], source["width"]
            try:
                sides = int(np.ravel(height)[0]), int(np.ravel(width)[0])
            except (IndexError, OverflowError, TypeError, ValueError):
                sides = (0, 0)  # no numbers at all
            if not all(2 <= side <= _LONGEST_SIDE for side in sides):
                raise UserError(
                    f"{events.file.filename}: the sensor's sides must be 2 to {_LONGEST_SIDE} px, "
                    f"got {height} and {width}: correct them in the file"
                )
            return sides
    return None


def _first_and_last_us(times: h5py.Dataset, path: Path) -> tuple[int, int]:
    """The first timestamp and the latest one at the end, without reading those between."""
    if len(times) == 0:
        raise UserError(f"{path}: must hold events, got none: take it out of the folder")
    return int(times[0]), int(times[-BLOCK:].max())


def _require_events_at(begin_us: int, end_us: int, times: h5py.Dataset, path: Path) -> None:
    """Refuse labels and events that share no time: all frames would be empty."""
    first, last = _first_and_last_us(times, path)
    if last < begin_us or end_us < first:
        raise UserError(
            f"{path}: its events ({first} to {last} us) lie outside its labels' times ({begin_us} "
            f"to {end_us} us): let the times of both count from the recording's start, or take it "
            "out of the folder"
        )


def _consecutive_ends(times: h5py.Dataset, path: Path, window_us: int) -> NDArray[np.int64]:
    """Ends of the windows that follow each other from the first event to the last."""
    first, last = _first_and_last_us(times, path)
    if not 0 <= last - first <= _LONGEST_US:
        raise UserError(
            f"{path}: timestamps must ascend and span a day at most, in microseconds, got {first} "
            f"to {last}: write the file with such timestamps"
        )
    num_frames = (last - first) // window_us + 1
    return first + window_us * np.arange(1, num_frames + 1)


def no_box_file(path: Path) -> NoLabels:
    """The error for a recording that lacks its box file."""
    return NoLabels(
        f"{path}: its boxes must be in {path.stem.removesuffix('_td')}_bbox.npy, got no such file: "
        "add it or take the recording out of its folder"
    )


def labelled_timeline(
    path: Path,
    box_path: Path | None,
    sensor_size: Size,
    split: str,
    frame_settings: FrameSettings,
    label_settings: LabelSettings,
) -> Timeline:
    """Frames and labels of a recording by RVT's rule: filter, choose label times, then frames.

    Args:
        path: the recording, which need not be there.
        box_path: its box file; None where there is none.
        sensor_size: height and width of the sensor in pixels.
        split: ``"train"``, ``"val"`` or ``"test"``, for filters that depend on it.
        frame_settings: how events become frames.
        label_settings: which boxes become labels.

    Raises:
        UserError: the file is damaged, or the settings do not fit it.
        NoLabels: there are no boxes.
        NoUsableLabels: there are boxes, but none that belongs to a frame.
    """
    if box_path is None:
        raise no_box_file(path)
    window_us, interval_us = frame_settings.window_ms * 1000, label_settings.interval_ms * 1000
    if interval_us % window_us:
        raise UserError(
            f"data.interval_ms: must be a multiple of data.window_ms ({frame_settings.window_ms}), "
            f"got {label_settings.interval_ms}: set such a multiple"
        )
    stored = boxes_from(load_array(box_path), box_path, label_settings.class_names)
    if len(stored) == 0:
        raise NoLabels(
            f"{box_path}: must hold boxes, got none: take the recording out of its folder"
        )
    boxes, _, dropped = filter_boxes(stored, sensor_size, split, label_settings.filters)
    boxes = boxes[np.argsort(boxes["t"], kind="stable")]
    times = label_times(np.unique(boxes["t"]), interval_us, label_settings.jitter_ms * 1000)
    if not times:
        raise NoUsableLabels(
            f"{box_path}: no label at {label_settings.interval_ms} ms or later among "
            f"{len(stored)} boxes{left_out(dropped)}: correct them, change data.filters, or take "
            "the recording out of its folder"
        )
    if times[-1] > _LONGEST_US:
        raise UserError(
            f"{box_path}: label times must lie within a day of 0, in microseconds, got "
            f"{times[-1]}: take the recording's start off the times of boxes and events"
        )
    frame_end_us, frame_of_time = frame_ends(times, interval_us, window_us)
    at_label = np.isin(boxes["t"], times)
    dropped["boxes: between label times"] = int(np.count_nonzero(~at_label))
    boxes = boxes[at_label]
    label_frame = frame_of_time[np.searchsorted(times, boxes["t"])]
    return Timeline(frame_end_us, label_frame, boxes, dropped)
