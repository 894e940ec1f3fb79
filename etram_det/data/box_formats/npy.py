"""Box files of eTraM and Prophesee: ``<recording>_bbox.npy``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE, NO_TRACK, signed_tracks
from etram_det.data.box_formats.coco import NO_BOX, NO_SCORE
from etram_det.data.box_formats.naming import (
    NO_TIME,
    ClassSettings,
    TimeSettings,
    recording_of,
)
from etram_det.data.box_formats.table import BoxTable, LeftOut, Reason, joined
from etram_det.data.labels import NO_TIME as NO_STORED_TIME
from etram_det.data.labels import ONLY_NAMED, boxes_from, has_confidences, packed
from etram_det.errors import UserError
from etram_det.files import replacing


def npy_table(
    content: NDArray[Any],
    path: Path,
    classes: ClassSettings,
    times: TimeSettings,
    *,
    scored: bool = False,
) -> tuple[BoxTable, LeftOut]:
    """The boxes of a box file, and what was left out.

    Args:
        content: the array of the file.
        path: the file, after which the recording is named.
        classes: which class each id is.
        times: in which unit times are.
        scored: whether these are detections, which need scores.

    Raises:
        UserError: it is no box file, or has no scores.
    """
    if content.size == 0:
        return joined([]), LeftOut()
    with np.errstate(invalid="ignore"):  # times that are no numbers
        stored = boxes_from(content, path, classes.class_names, (ONLY_NAMED,), times.unit)
    if scored and not has_confidences(content):
        raise UserError(
            f"{path}: must have the scores of detections as class_confidence, got "
            f"{', '.join(content.dtype.names or ())}: write them, too"
        )
    content, left_out = np.ravel(content), LeftOut()
    boxes = np.stack([content[name].astype(np.float64) for name in "xywh"], axis=1)
    numbers, which = np.unique(content["class_id"], return_inverse=True)
    ids = [classes.class_id(None, number) for number in numbers.tolist()]
    kept = np.ones(len(stored), dtype=bool)
    for i, found in enumerate(ids):
        if isinstance(found, Reason):
            kept &= which != i
            count = int(np.count_nonzero(which == i))
            left_out.add(found, f"{path.name}: id {numbers[i]}", count)
    is_timed = stored["t"] != NO_STORED_TIME
    times_us = np.unique(stored["t"][is_timed])
    for reason, is_so in (
        (NO_TIME, ~is_timed),
        (NO_BOX, ~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1))),
        (NO_SCORE, ~np.isfinite(stored["class_confidence"])),
    ):
        if number := int(np.count_nonzero(is_so & kept)):
            first = int(np.flatnonzero(is_so & kept)[0])
            left_out.add(reason, f"{path.name}: box {first + 1}", number)
        kept &= ~is_so
    stored, boxes, which = stored[kept], boxes[kept], which[kept]
    class_ids = np.array([0 if isinstance(each, Reason) else each for each in ids], np.int64)
    table = BoxTable(
        np.full(len(times_us), recording_of(path)),
        times_us,
        np.searchsorted(times_us, stored["t"]),
        boxes,
        class_ids[which],
        stored["class_confidence"].astype(np.float64),
        signed_tracks(stored["track_id"]),
        np.zeros(len(stored), dtype=bool),
    )
    return joined([table]), left_out


def write_npy(folder: Path, table: BoxTable, recordings: Sequence[str]) -> None:
    """Write a box file for each recording into a folder, each atomically.

    Args:
        folder: of the files.
        table: the boxes, all of them finite.
        recordings: names of those of the table and of others, whose files are empty.

    Raises:
        UserError: a recording's name is no file name.
        OSError: a file cannot be written.
    """
    wrong = [x for x in recordings if Path(x).name != x or "\0" in x]
    if wrong:
        raise UserError(
            f"recordings: must have names that files can have, got {wrong[0]!r}: set times.pattern "
            "to take them from the images' names"
        )
    of_box = table.recording[table.frame]
    for recording in recordings:
        part = table.select(of_box == recording)
        rows = np.zeros(len(part), BOX_DTYPE)
        rows["t"] = part.time_us[part.frame]
        for i, name in enumerate("xywh"):
            rows[name] = part.boxes[:, i]
        rows["class_id"] = part.classes
        if part.has_tracks:
            rows["track_id"] = np.where(part.tracks < 0, NO_TRACK, part.tracks)
        rows["class_confidence"] = part.scores
        path = folder / f"{recording}_bbox.npy"
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, packed(rows))
