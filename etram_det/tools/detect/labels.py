"""Labels that ``detect`` draws beside its detections: where they lie, and those of each window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE
from etram_det.data.label_times import merged_times
from etram_det.data.labels import NO_TIME, boxes_from, load_array
from etram_det.data.recording import Recording, recording_name
from etram_det.errors import UserError

_ENDING = "_bbox.npy"
_OF_ONE_FRAME_US = 2000  # between times of boxes that belong together


class WindowLabels:
    """The labels of a recording, window by window.

    Args:
        boxes: ``[M]`` with the fields of :data:`~etram_det.boxes.BOX_DTYPE`.
        window_us: length of a window.
    """

    def __init__(self, boxes: NDArray[Any], window_us: int) -> None:
        timed = boxes[boxes["t"] != NO_TIME]
        self._boxes = timed[np.argsort(timed["t"], kind="stable")]
        self._times_us = merged_times(self._boxes["t"].astype(np.int64), _OF_ONE_FRAME_US)
        self._window_us = window_us

    def in_window(self, end_us: int) -> NDArray[Any]:
        """Those of the latest time with labels in the window that ends then; there may be none."""
        first, stop = np.searchsorted(
            self._times_us, [end_us - self._window_us, end_us], side="right"
        )
        within = self._times_us[first:stop]
        return self._boxes[first:stop][within == within.max(initial=NO_TIME)]

    def doubt(self, windows_us: tuple[int, int] | None) -> str | None:
        """What is doubtful about their times.

        Args:
            windows_us: ends of the first and last window, where they are known.
        """
        if not len(self._times_us):
            return "labels: none in the file"
        start, end = self._times_us[[0, -1]].tolist()
        if windows_us is None or (start <= windows_us[1] and end >= windows_us[0]):
            return None
        return (
            f"labels: from {start / 1e6:.3f} to {end / 1e6:.3f} s, where the recording has none of "
            f"its windows, from {windows_us[0] / 1e6:.3f} to {windows_us[1] / 1e6:.3f} s: use its "
            "own labels, or another --clock"
        )


def labels_of(
    given: Path | None,
    name: str,
    path: Path,
    recording: Recording | None,
    class_names: Sequence[str],
    window_ms: int,
) -> WindowLabels:
    """The labels to draw.

    Args:
        given: their file, or a folder of such files by the recordings' names; None for what lies
            beside the recording.
        name: of the recording.
        path: its file or folder.
        recording: itself, where it is one: its frames may be stored with their labels.
        class_names: name of each class id of the detector.
        window_ms: length of a window.

    Raises:
        UserError: there is no such file, or it holds no boxes.
    """
    if given is None and recording is not None and len(recording.label_boxes):
        boxes = recording.label_boxes.copy()
        boxes["t"] = recording.frame_end_us[recording.label_frame]
        return WindowLabels(boxes, window_us=1)
    file = path.with_name(f"{recording_name(path)}{_ENDING}") if given is None else given
    if file.is_dir():
        file = file / f"{name}{_ENDING}"
    if not file.is_file():
        raise UserError(
            f"labels: must be a box file, or a folder with {name}{_ENDING}, got no file {file}: "
            "set --labels to where they are"
        )
    if file.suffix.lower() != ".npy":
        raise UserError(
            f"labels: must be a box file (.npy), got {file}: make one of it by "
            f"convert-labels {file.name} --output FOLDER"
        )
    # Only where they are is drawn: classes of another data set have their places, too.
    boxes = boxes_from(load_array(file), file, class_names, ("only_named_classes",))
    return WindowLabels(boxes.astype(BOX_DTYPE, copy=False), window_ms * 1000)
