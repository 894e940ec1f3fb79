"""Labelled frames side by side: where clocks or axes do not fit, boxes lie beside the events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from etram_det.data.datamodule import EventDataModule
from etram_det.data.recording import Recording
from etram_det.drawing.frames import Boxes, Image, labelled_picture
from etram_det.errors import UserError
from etram_det.files import replacing
from etram_det.tools.check.split_findings import SplitFindings

_PICTURES = 12
_COLUMNS = 3
_GAP = 4  # pixels between pictures
_GREY = 96


def write_sheet(path: Path, splits: Sequence[SplitFindings], data: EventDataModule) -> int:
    """Write one picture of labelled frames of all splits; none where nothing is labelled.

    Args:
        path: PNG file to write.
        splits: what was found.
        data: the settings.

    Returns:
        How many frames it shows.

    Raises:
        OSError: it cannot be written.
    """
    labelled = [split for split in splits if any(len(r.label_boxes) for r in split.recordings)]
    pictures = [
        picture
        for split in labelled
        for picture in _pictures(split, _PICTURES // len(labelled), data)
    ]
    if pictures:
        with replacing(path) as unfinished:
            unfinished.write_bytes(cv2.imencode(".png", _grid(pictures)[..., ::-1])[1].tobytes())
    return len(pictures)


def _pictures(split: SplitFindings, number: int, data: EventDataModule) -> Iterator[Image]:
    for recording, frame in chosen_frames(split.recordings, number):
        try:
            [counts] = recording.frames(frame, frame + 1)
        except UserError as error:
            split.faults.append(error)
            continue
        boxes = recording.boxes(frame)
        assert boxes is not None
        seconds = recording.frame_end_us[frame] / 1e6
        yield labelled_picture(
            counts,
            data.class_names,
            [Boxes(*boxes)],
            f"{split.title}: {recording.name}, {seconds:.2f} s",
            data.frame_settings.representation,
        )


def chosen_frames(recordings: Sequence[Recording], number: int) -> list[tuple[Recording, int]]:
    """Labelled frames with many boxes, spread over recordings and over their time.

    Args:
        recordings: of a split.
        number: frames to choose: one of each of as many recordings, or more of fewer.
    """
    labelled = [each for each in recordings if len(each.label_boxes)]
    if not labelled:
        return []
    places = np.linspace(0, len(labelled) - 1, min(number, len(labelled))).round().astype(int)
    chosen = []
    for i in range(number):
        recording = labelled[places[i % len(places)]]
        frames, counts = np.unique(recording.label_frame, return_counts=True)
        part = np.array_split(np.arange(len(frames)), number)[i]
        if len(part):
            chosen.append((recording, int(frames[part[counts[part].argmax()]])))
    return chosen


def _grid(pictures: Sequence[Image]) -> NDArray[Any]:
    """Pictures ``[H, W, 3]`` of perhaps several sizes, row by row."""
    height = max(picture.shape[0] for picture in pictures) + _GAP
    width = max(picture.shape[1] for picture in pictures) + _GAP
    rows = -(-len(pictures) // _COLUMNS)
    columns = min(_COLUMNS, len(pictures))
    sheet = np.full((rows * height - _GAP, columns * width - _GAP, 3), _GREY, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // _COLUMNS * height, i % _COLUMNS * width
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet
