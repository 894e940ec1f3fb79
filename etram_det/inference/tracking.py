"""Detections of one object through time: ByteTrack, of the package ``edgefirst-tracker``."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import corners
from etram_det.errors import UserError

_CLEARLY = 0.1  # above the threshold: the score of what starts a track
_LIFESPAN_US = 500_000  # for which an object that is not found is waited for
_MIN_IOU = 0.1  # of a detection with where its object is expected


class Tracker:
    """Gives each object of one recording a number, by where it is expected in the next window.

    Classes are not looked at: an object that is taken for a car now and for a truck then keeps its
    number. (Zhang et al., "ByteTrack", ECCV 2022.)

    An object gets its number once it is found with a score that is clearly above the threshold.

    Args:
        score_threshold: least score of the detections, in [0, 1].

    Raises:
        UserError: the tracker is not installed.
    """

    def __init__(self, score_threshold: float) -> None:
        try:
            from edgefirst.tracker import ByteTrack
        except ImportError as error:
            raise UserError(
                "track: must be false without the package edgefirst-tracker, got true: use "
                "pip install edgefirst-tracker, of the extra [track]"
            ) from error
        start = min(score_threshold + _CLEARLY, 1)
        self._tracker = ByteTrack(high_conf=start, iou=_MIN_IOU, lifespan_ns=_LIFESPAN_US * 1000)
        self._number_of: dict[str, int] = {}
        self._new_numbers = count(1)

    def update(self, time_us: int, rows: NDArray[Any]) -> NDArray[np.int64]:
        """The objects' numbers ``[D]``, from 1 on and 0 for none, of the next window.

        Args:
            time_us: end of the window.
            rows: its detections ``[D]`` as in a box file.
        """
        scores, classes = rows["class_confidence"].copy(), rows["class_id"].astype(np.uintp)
        tracks = self._tracker.update(corners(rows), scores, classes, time_us * 1000)
        alive = {track.info.uuid for track in self._tracker.get_active_tracks()}
        numbers = np.zeros(len(rows), np.int64)
        for i, track in enumerate(tracks):
            if track is not None:
                if track.uuid not in self._number_of:
                    self._number_of[track.uuid] = next(self._new_numbers)
                numbers[i] = self._number_of[track.uuid]
        self._number_of = {uuid: n for uuid, n in self._number_of.items() if uuid in alive}
        return numbers
