"""Labels of simulated recordings as eTraM has them, and what the labelled road users do."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE
from etram_det.simulator.event_camera import EventCamera

LABEL_INTERVAL_US = 33_333

# A road user is labelled if this share of its box is in the frame, or it fills this share of the
# frame; this share of its pixels there is not hidden by what is nearer; its longer side has so many
# pixels; and it has caused so many events.
_MIN_IN_FRAME = 0.2
_MIN_OF_FRAME = 0.02
_MIN_VISIBLE = 0.4
_MIN_SIDE_PX = 5.0
_MIN_EVENTS = 20

_STANDING_S = 1.0
_MOVES_MS = 0.3
_TURNS_RAD = math.radians(30)


def boxes_now(camera: EventCamera) -> NDArray[Any]:
    """The labels of this moment, as ``BOX_DTYPE``, one for each visible road user.

    A box bounds the visible pixels of the silhouette: it is cut at the frame and where nearer ones
    hide the road user.
    """
    views, actors = camera.look(), camera.stage.actors
    height, width = camera.image.shape
    parts: dict[int, list[int]] = defaultdict(list)
    for i, track in enumerate(actors["track"].tolist()):
        if track >= 0:
            parts[track].append(i)
    own, visible = views["num_own"].tolist(), views["num_visible"].tolist()
    whole, seen, caused = views["box"].tolist(), views["seen"].tolist(), views["num_events"]
    boxes = []
    for track, of_track in parts.items():
        drawn = [i for i in of_track if visible[i]]
        if not drawn or caused[drawn[0]] < _MIN_EVENTS:
            continue
        u0, v0, u1, v1 = _union([whole[i] for i in of_track])
        inside = (max(u0, 0), max(v0, 0), min(u1, width), min(v1, height))
        in_frame = _area(inside) / max(_area((u0, v0, u1, v1)), 1e-9)
        unhidden = sum(visible[i] for i in drawn) / sum(own[i] for i in of_track)
        x0, y0, x1, y1 = _union([seen[i] for i in drawn])
        sides = (x1 - x0, y1 - y0)
        if sum(visible[i] for i in drawn) > _MIN_OF_FRAME * height * width:
            in_frame = 1.0
        if in_frame < _MIN_IN_FRAME or unhidden < _MIN_VISIBLE or max(sides) < _MIN_SIDE_PX:
            continue
        boxes.append((x0, y0, *sides, int(actors["class_id"][drawn[0]]), track))
    table = np.zeros(len(boxes), BOX_DTYPE)
    table["t"], table["class_confidence"] = camera.now_us, 1
    columns = np.array(boxes, np.float64).reshape(-1, 6).T
    for name, column in zip(("x", "y", "w", "h", "class_id", "track_id"), columns, strict=True):
        table[name] = column
    return table


def _union(bounds: list[list[float]]) -> tuple[float, float, float, float]:
    """Bounds of rectangles, u0 v0 u1 v1."""
    u0, v0, u1, v1 = zip(*bounds, strict=True)
    return min(u0), min(v0), max(u1), max(v1)


def _area(bounds: tuple[float, float, float, float]) -> float:
    return (bounds[2] - bounds[0]) * (bounds[3] - bounds[1])


@dataclass
class _Track:
    """What a labelled road user has done so far."""

    labels: int = 0
    still: int = 0  # labels in a row up to now at which it stands
    longest: int = 0
    fastest: float = 0.0
    low: float = math.inf  # bounds of its heading
    high: float = -math.inf

    @property
    def stands_and_moves(self) -> bool:
        long = self.longest * LABEL_INTERVAL_US >= _STANDING_S * 1e6
        return long and self.fastest > _MOVES_MS


class Behaviour:
    """What the labelled road users of a recording do."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = defaultdict(_Track)

    def add(self, camera: EventCamera, boxes: NDArray[Any]) -> None:
        """Note the labelled road users of now."""
        users = {user.track: user for user in camera.scene.traffic.users}
        for number in boxes["track_id"].tolist():
            if (user := users.get(number)) is None:
                continue
            track, heading = self._tracks[number], user.heading
            track.labels += 1
            track.still = track.still + 1 if user.stands else 0
            track.longest = max(track.longest, track.still)
            track.fastest = max(track.fastest, user.speed)
            track.low, track.high = min(track.low, heading), max(track.high, heading)

    def counts(self) -> dict[str, int]:
        """Numbers of tracks and boxes: all, of turning tracks, of road users that stand and move.

        A track turns if its heading changes by over 30 degrees while it is labelled. A road user
        stands and moves if it keeps still for a second or more, and moves before or after.
        """
        tracks = self._tracks.values()
        standing = [track.labels for track in tracks if track.stands_and_moves]
        return {
            "tracks": len(tracks),
            "turning_tracks": sum(track.high - track.low > _TURNS_RAD for track in tracks),
            "boxes": sum(track.labels for track in tracks),
            "standing_tracks": len(standing),
            "standing_boxes": sum(standing),
        }
