"""Recordings as RVT and its eTraM fork preprocess them: frames and labels, ready to read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.fingerprint import simulator_version
from etram_det.data.hdf5_file import open_hdf5
from etram_det.data.labels import (
    LabelSettings,
    boxes_from,
    filter_boxes,
    left_out,
    load_array,
    load_numbers,
    packed,
)
from etram_det.data.recording import NoLabels, Note, NoUsableLabels, Recording, Timeline
from etram_det.data.representation import FrameSettings
from etram_det.data.timeline import no_boxes, timeline_without_labels
from etram_det.errors import UserError
from etram_det.files import new_hdf5_file
from etram_det.simulator.version import VERSION_ATTRIBUTE

# RVT writes stacked_histogram_dt=50_nbins=10, evlib stacked_histogram_dt50_nbins10.
_REPRESENTATION = {
    "stacked_histogram": re.compile(r"stacked_histogram_dt=?(\d+)_nbins=?(\d+)"),
    "mixed_density": re.compile(r"mixeddensity_stack_dt=?(\d+)_nbins=?(\d+)(?:_cutoff=?\d+)?"),
}


class PreprocessedRecording(Recording):
    """Frames of ``<name>/event_representations_v2``, labels of ``<name>/labels_v2``.

    The frames are what RVT made of them, down-sampled ``nearest`` and timed by ``events``, and so
    are the label frames; only filters and ``count_cutoff`` still apply.

    Args:
        folder: the recording's folder.
        split: ``"train"``, ``"val"`` or ``"test"``, for filters that depend on it.
        frame_settings: the frames that are expected.
        label_settings: which boxes become labels.
        require_labels: whether missing labels are an error.

    Raises:
        UserError: a file is missing or damaged, or holds other frames than expected.
        NoLabels: there is no file of boxes.
        NoUsableLabels: it has no boxes, or the filters left none.
    """

    layout = "RVT's"

    def __init__(
        self,
        folder: Path,
        split: str,
        frame_settings: FrameSettings,
        label_settings: LabelSettings,
        require_labels: bool = True,
    ) -> None:
        representation = _representation(folder, frame_settings)
        path, shape = _frames_file(representation, frame_settings)
        factor = 2 if "ds2" in path.stem else 1
        sensor_size = shape[2] * factor, shape[3] * factor
        frame_end_us = load_numbers(representation / "timestamps_us.npy")
        if frame_end_us.shape != shape[:1]:
            raise UserError(
                f"{path}: must hold the {len(frame_end_us)} frames of timestamps_us.npy, "
                f"got {shape[0]}: preprocess again"
            )
        label_path = folder / "labels_v2" / "labels.npz"
        try:
            timeline = _stored_timeline(
                label_path, representation, frame_end_us, sensor_size, split, label_settings
            )
        except NoLabels as error:
            timeline = timeline_without_labels(
                frame_end_us, error, split, frame_settings, label_settings, require_labels
            )
        super().__init__(folder.name, path, sensor_size, shape[2:], timeline)
        self._count_cutoff = frame_settings.count_cutoff
        if frame_settings.downsample == "sum" and factor > 1:
            line = "data.downsample: sum has no effect on frames that are stored already"
            self.notes.append(Note(line))

    @property
    def start_us(self) -> int:
        """0, as RVT's clocks have it."""
        return 0

    def frames(self, start: int, stop: int) -> NDArray[Any]:  # noqa: D102
        with open_hdf5(self.path, "preprocess again") as file:
            frames = file["data"][start:stop]
        least = 0 if frames.dtype == np.uint8 else -self._count_cutoff
        return np.clip(frames, least, self._count_cutoff, out=frames)


def _representation(folder: Path, frame_settings: FrameSettings) -> Path:
    """The folder with the expected window and number of bins."""
    candidates = sorted(path for path in folder.glob("event_representations_v2/*") if path.is_dir())
    wanted = (str(frame_settings.window_ms), str(frame_settings.bins))
    for candidate in candidates:
        match = _REPRESENTATION[frame_settings.representation].fullmatch(candidate.name)
        if match and match.groups() == wanted:
            return candidate
    found = ", ".join(path.name for path in candidates) or "none"
    raise UserError(
        f"{folder / 'event_representations_v2'}: must hold {_folder_name(frame_settings)} for "
        f"data.representation, data.window_ms and data.bins, got {found}: set these accordingly"
    )


def _folder_name(frame_settings: FrameSettings) -> str:
    """RVT's name of the representation."""
    name = f"dt={frame_settings.window_ms}_nbins={frame_settings.bins}"
    if frame_settings.representation == "stacked_histogram":
        return f"stacked_histogram_{name}"
    return f"mixeddensity_stack_{name}_cutoff={frame_settings.count_cutoff}"


def _frames_file(
    representation: Path, frame_settings: FrameSettings
) -> tuple[Path, tuple[int, int, int, int]]:
    """The file of frames with the expected size, and the shape of its data."""
    import h5py

    found = []
    size, expected = frame_settings.input_size, (frame_settings.channels, frame_settings.dtype)
    for path in sorted(representation.glob("*.h5")):
        with open_hdf5(path, "preprocess again") as file:
            data = file["data"]
            if not isinstance(data, h5py.Dataset):
                raise UserError(f"{path}: data must be an array, got a group: preprocess again")
            shape, dtype = data.shape, data.dtype
        if len(shape) == 4 and (shape[1], dtype) == expected and size in (None, shape[2:]):
            return path, shape
        found.append(f"{path.name} {dtype} {shape}")
    height, width = size or ("H", "W")
    raise UserError(
        f"{representation}: must hold frames of shape [F, {expected[0]}, {height}, {width}] "
        f"{expected[1]} for data.bins and data.input_size, got "
        f"{', '.join(found) or 'no .h5 file'}: set these accordingly"
    )


def _stored_timeline(
    path: Path,
    representation: Path,
    frame_end_us: NDArray[np.int64],
    sensor_size: tuple[int, int],
    split: str,
    label_settings: LabelSettings,
) -> Timeline:
    """Labels as RVT chose them, less what the filters take."""
    if not path.exists():
        raise NoLabels(f"{path}: must hold the boxes, got no such file: add it")
    stored = boxes_from(
        load_array(path, "labels"), path, label_settings.class_names, label_settings.filters
    )
    first_box = load_numbers(path, "objframe_idx_2_label_idx")
    frame = load_numbers(representation / "objframe_idx_2_repr_idx.npy")
    if (
        len(first_box) != len(frame)
        or np.any(np.diff(frame, prepend=-1, append=len(frame_end_us)) <= 0)
        or np.any(np.diff(first_box, prepend=0, append=len(stored)) < 0)
    ):
        raise UserError(
            f"{path}: objframe_idx_2_label_idx and objframe_idx_2_repr_idx.npy must ascend within "
            f"{len(stored)} boxes and {len(frame_end_us)} frames, got {first_box.tolist()[-3:]} "
            f"and {frame.tolist()[-3:]} at their ends: preprocess again"
        )
    if len(stored) == 0:
        raise no_boxes(path)
    boxes, kept, dropped = filter_boxes(stored, sensor_size, split, label_settings.filters)
    if len(boxes) == 0:
        raise NoUsableLabels(
            f"{path}: no label is left of {len(stored)} boxes{left_out(dropped)}: correct them, "
            "change data.filters, or take the recording out of its folder"
        )
    frame_of_box = np.repeat(frame, np.diff(first_box, append=len(stored)))
    return Timeline(frame_end_us, frame_of_box[kept], boxes, dropped)


def write_rvt(
    folder: Path,
    recording: Recording,
    frame_settings: FrameSettings,
    batches: Iterable[NDArray[Any]],
) -> None:
    """Write a recording's frames and labels as RVT's preprocessing does.

    Args:
        folder: the recording's folder.
        recording: its labels, times and sizes are taken.
        frame_settings: what its frames are.
        batches: its frames in order, as arrays ``[n, channels, H, W]``.

    Raises:
        UserError: the frames are neither as large as the sensor nor half as large.
    """
    import hdf5plugin

    half = tuple(side // 2 for side in recording.sensor_size)
    if recording.input_size not in (recording.sensor_size, half):
        raise UserError(
            f"data.input_size: must be {recording.sensor_size} or {half} in RVT's layout of "
            f"{recording.path}, got {recording.input_size}: set one of them"
        )
    representation = folder / "event_representations_v2" / _folder_name(frame_settings)
    representation.mkdir(parents=True)
    labels = folder / "labels_v2"
    labels.mkdir()
    suffix = "" if recording.input_size == recording.sensor_size else "_ds2_nearest"
    shape = (frame_settings.channels, *recording.input_size)
    path = representation / f"event_representations{suffix}.h5"
    with new_hdf5_file(path) as (file, raise_error):
        data = file.create_dataset(
            "data",
            (0, *shape),
            frame_settings.dtype,
            maxshape=(None, *shape),
            chunks=(1, *shape),
            track_times=False,
            **hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.SHUFFLE),
        )
        if version := simulator_version(recording):
            file.attrs[VERSION_ATTRIBUTE] = version
        for batch in batches:
            data.resize(len(data) + len(batch), axis=0)
            data[-len(batch) :] = batch
            raise_error()
    labelled, first_box = np.unique(recording.label_frame, return_index=True)
    np.save(representation / "timestamps_us.npy", recording.frame_end_us)
    np.save(representation / "objframe_idx_2_repr_idx.npy", labelled)
    np.save(labels / "timestamps_us.npy", recording.frame_end_us[labelled])
    boxes = packed(recording.label_boxes)
    np.savez(labels / "labels.npz", labels=boxes, objframe_idx_2_label_idx=first_box)
