"""Recordings as RVT and its eTraM fork preprocess them: frames and labels, ready to read."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  RVT stores its frames with blosc
import numpy as np
from numpy.typing import NDArray

from etram_det.data.labels import LabelSettings, boxes_from, filter_boxes, load_array
from etram_det.data.recording import NoLabels, NoUsableLabels, Recording, Timeline
from etram_det.data.representation import FrameSettings
from etram_det.types import UserError

# RVT writes stacked_histogram_dt=50_nbins=10, evlib stacked_histogram_dt50_nbins10.
_REPRESENTATION = re.compile(r"stacked_histogram_dt=?(\d+)_nbins=?(\d+)")
_DAMAGE = (OSError, RuntimeError, KeyError)  # what h5py raises for damaged files


class PreprocessedRecording(Recording):
    """Frames of ``<name>/event_representations_v2``, labels of ``<name>/labels_v2``.

    The frames are what RVT made of them, down-sampled ``nearest`` and timed by ``events``, and so
    are the label frames; only filters and ``count_cutoff`` still apply.

    Args:
        folder: the recording's folder.
        split: ``"train"``, ``"val"`` or ``"test"``, for filters that depend on it.
        frames: the frames that are expected.
        labels: which boxes become labels.
        require_labels: whether missing labels are an error.

    Raises:
        UserError: a file is missing or damaged, or holds other frames than expected.
        NoLabels: there are no boxes.
        NoUsableLabels: there are boxes, but the filters left none.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        frames: FrameSettings,
        labels: LabelSettings,
        require_labels: bool = True,
    ) -> None:
        representation = _representation(folder, frames)
        path, shape = _frames_file(representation, frames)
        factor = 2 if "ds2" in path.stem else 1
        sensor_size = shape[2] * factor, shape[3] * factor
        frame_end_us = load_array(representation / "timestamps_us.npy").astype(np.int64)
        if frame_end_us.shape != shape[:1]:
            raise UserError(
                f"{path}: {len(frame_end_us)} frames are expected by timestamps_us.npy, "
                f"found {shape[0]}"
            )
        label_path = folder / "labels_v2" / "labels.npz"
        try:
            timeline = _stored_timeline(
                label_path, representation, frame_end_us, sensor_size, split, labels
            )
        except NoLabels:
            if require_labels:
                raise
            timeline = Timeline.without_labels(frame_end_us)
        super().__init__(folder.name, path, sensor_size, shape[2:], timeline)
        self._count_cutoff = frames.count_cutoff

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:  # noqa: D102
        try:
            with h5py.File(self.path, locking=False) as file:
                frames = file["data"][start:stop]
        except _DAMAGE as error:
            raise UserError(f"{self.path}: cannot be read as HDF5 ({error})") from error
        return np.minimum(frames, self._count_cutoff, out=frames)


def _representation(folder: Path, frames: FrameSettings) -> Path:
    """The folder with the expected window and number of bins."""
    candidates = sorted(path for path in folder.glob("event_representations_v2/*") if path.is_dir())
    for candidate in candidates:
        match = _REPRESENTATION.fullmatch(candidate.name)
        if match and (int(match[1]), int(match[2])) == (frames.window_ms, frames.bins):
            return candidate
    found = ", ".join(path.name for path in candidates) or "none"
    raise UserError(
        f"{folder / 'event_representations_v2'}: a folder "
        f"stacked_histogram_dt={frames.window_ms}_nbins={frames.bins} is required by "
        f"data.window_ms and data.bins, found {found}"
    )


def _frames_file(
    representation: Path, frames: FrameSettings
) -> tuple[Path, tuple[int, int, int, int]]:
    """The file of frames with the expected size, and the shape of its data."""
    found = []
    for path in sorted(representation.glob("*.h5")):
        try:
            with h5py.File(path, locking=False) as file:
                shape, dtype = file["data"].shape, file["data"].dtype
        except _DAMAGE as error:
            raise UserError(f"{path}: cannot be read as HDF5 ({error})") from error
        fits = len(shape) == 4 and shape[1] == 2 * frames.bins and dtype == np.uint8
        if fits and frames.input_size in (None, shape[2:]):
            return path, shape
        found.append(f"{path.name} {dtype} {shape}")
    size = frames.input_size or ("H", "W")
    raise UserError(
        f"{representation}: frames of shape [F, {2 * frames.bins}, {size[0]}, {size[1]}] uint8 are "
        "required by data.bins and data.input_size, "
        f"found {', '.join(found) or 'no .h5 file'}"
    )


def _stored_timeline(
    path: Path,
    representation: Path,
    frame_end_us: NDArray[np.int64],
    sensor_size: tuple[int, int],
    split: str,
    labels: LabelSettings,
) -> Timeline:
    """Labels as RVT chose them, less what the filters take."""
    if not path.exists():
        raise NoLabels(f"{path}: required for the boxes, found no such file")
    stored = boxes_from(load_array(path, "labels"), path, labels.class_names)
    first_box = load_array(path, "objframe_idx_2_label_idx")
    frame = load_array(representation / "objframe_idx_2_repr_idx.npy")
    boxes_of_frame = np.diff(first_box, append=len(stored))
    if (
        len(first_box) != len(frame)
        or np.any(np.diff(frame, prepend=-1, append=len(frame_end_us)) <= 0)
        or np.any(np.diff(first_box, prepend=0, append=len(stored)) < 0)
    ):
        raise UserError(
            f"{path}: objframe_idx_2_label_idx and objframe_idx_2_repr_idx.npy must ascend within "
            f"{len(stored)} boxes and {len(frame_end_us)} frames, found {first_box.tolist()[-3:]} "
            f"and {frame.tolist()[-3:]} at their ends"
        )
    if len(stored) == 0:
        raise NoLabels(f"{path}: holds no boxes; take the recording out of its folder")
    boxes, kept, dropped = filter_boxes(stored, sensor_size, split, labels.filters)
    if len(boxes) == 0:
        raise NoUsableLabels(f"{path}: no label is left of {len(stored)} boxes")
    label_frame = np.repeat(frame, boxes_of_frame)[kept]
    return Timeline(frame_end_us, label_frame, boxes, dropped)
