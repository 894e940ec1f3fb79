"""Good detections of an evaluation and what went worst, as pictures."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from etram_det.drawing.frames import Image, draw_boxes
from etram_det.files import replacing
from etram_det.metrics.confusion import Pairing, overlaps
from etram_det.metrics.evaluation_frames import EvaluationFrames, FrameBoxes

FOLDER = "gallery"
PICTURE_SIZE = (216, 384)  # height and width in pixels: legible as they are, without zooming in
APART_US = 2_000_000  # between two pictures of one class in one recording
CANDIDATES = 3  # misses whose frames are looked at for each one that is shown
_ZOOMS = (6, 5, 4, 3, 2, 1)
_SURROUNDINGS = 2.5  # least side of a picture as a multiple of its box's
_MAX_DRAWN = 12  # that are drawn: more hide the objects
_SMALL_FILE = [cv2.IMWRITE_PNG_COMPRESSION, 9]
_OUTSIDE = 64  # grey of what lies outside the frame

# Picture [H, W, 3] of the frame of a recording that ends at a time in us, and pixels [2] of it for
# each pixel of the evaluation, in x and y.
DrawFrame = Callable[[str, int], tuple[Image, NDArray[np.float64]]]


@dataclass(frozen=True)
class Gallery:
    """Chooses and draws what went well and what went worst.

    A good detection took a label of its class; these come by score times IoU. A localisation error
    took none and overlaps one that is free, at an IoU from 0.1 on; a false alarm took none
    otherwise; both come by their score. A miss is a label that no detection of any class took or is
    off from. Classes take turns, and within a class its recordings; two of one class in one
    recording are at least two seconds apart. Of the largest misses, those are shown whose boxes
    have most pixels with events: what stands still gives none.

    Attributes:
        frames: what was evaluated.
        pairing: of these frames, at the score from which detections count.
        class_names: name of each class id.
        draw_frame: draws a frame without boxes.
        number: most pictures of each kind.
    """

    frames: EvaluationFrames
    pairing: Pairing
    class_names: Sequence[str]
    draw_frame: DrawFrame
    number: int

    def write(self, folder: Path) -> dict[str, list[dict[str, Any]]]:
        """Write the pictures as PNG files into ``gallery`` of a run folder.

        Returns:
            ``found``, ``misses``, ``localisation_errors`` and ``false_alarms``: of each picture its
            ``file``, ``class``, ``recording``, ``time_us``, ``box`` ``xyxy`` in pixels of the
            evaluation, ``active`` share of its pixels that have events, and ``closest``: class,
            score and IoU of the detection, or label, that overlaps it most, or None; all but misses
            have a ``score``.

        Raises:
            OSError: a file cannot be written.
        """
        truth, detections = self.frames.truth, self.frames.detections
        kinds = {  # name of the files, boxes, and those of which the closest is named
            "found": ("found", self.found(), truth),
            "misses": ("miss", self.misses(), detections),
            "localisation_errors": ("localisation_error", self.localisation_errors(), truth),
            "false_alarms": ("false_alarm", self.false_alarms(), truth),
        }
        names = "|".join(name for name, _, _ in kinds.values())
        for earlier in (folder / FOLDER).glob("*.png"):
            if re.fullmatch(rf"({names})_\d\d+\.png", earlier.name):
                earlier.unlink()
        return {
            kind: [
                self._write(folder, f"{name}_{i:02d}", boxes, i, others) for i in range(len(boxes))
            ]
            for kind, (name, boxes, others) in kinds.items()
        }

    def found(self) -> FrameBoxes:
        """The good detections to show, best first."""
        pairing = self.pairing
        taken = np.flatnonzero(pairing.truth_of >= 0)
        boxes, truth = (
            pairing.detections.select(taken),
            pairing.truth.select(pairing.truth_of[taken]),
        )
        quality = boxes.scores * overlaps(boxes.boxes, truth.boxes)
        right = boxes.classes == truth.classes
        boxes = boxes.select(right)
        return boxes.select(self._in_turns(boxes, quality[right], self.number))

    def misses(self) -> FrameBoxes:
        """The misses to show, worst first."""
        is_missed = self.pairing.detection_of < 0
        is_missed[self.pairing.near_of[self.pairing.near_of >= 0]] = False
        missed = self.pairing.truth.select(is_missed)
        large = missed.select(self._in_turns(missed, missed.area, CANDIDATES * self.number))
        active = np.array([self._active_pixels(large, i) for i in range(len(large))])
        return large.select(self._in_turns(large, active, self.number))

    def localisation_errors(self) -> FrameBoxes:
        """The localisation errors to show, worst first."""
        near = self.pairing.detections.select(self.pairing.near_of >= 0)
        return near.select(self._in_turns(near, near.scores, self.number))

    def false_alarms(self) -> FrameBoxes:
        """The false alarms to show, worst first."""
        false = self.pairing.detections.select(self.pairing.is_false_alarm)
        return false.select(self._in_turns(false, false.scores, self.number))

    def _in_turns(
        self, boxes: FrameBoxes, severity: NDArray[Any], number: int
    ) -> NDArray[np.int64]:
        """Indices of the severest boxes, classes in turns and within them recordings."""
        times: dict[tuple[int, str], list[int]] = defaultdict(list)
        turns = []
        for i in np.argsort(-severity, kind="stable").tolist():
            frame = boxes.frame[i]
            own, time_us = int(boxes.classes[i]), int(self.frames.time_us[frame])
            shown = times[own, str(self.frames.recording[frame])]
            if len(shown) < number and all(abs(time_us - t) >= APART_US for t in shown):
                turns.append((len(shown), own, i))
                shown.append(time_us)
        of_class: Counter[int] = Counter()
        order = []
        for _, own, i in sorted(turns, key=lambda turn: turn[0]):  # severest first, as before
            order.append((of_class[own], -severity[i], i))
            of_class[own] += 1
        return np.array([i for *_, i in sorted(order)[:number]], dtype=np.int64)

    def _frame_of(self, boxes: FrameBoxes, i: int) -> tuple[Image, NDArray[np.float64]]:
        frame = boxes.frame[i]
        return self.draw_frame(str(self.frames.recording[frame]), int(self.frames.time_us[frame]))

    def _active_pixels(self, boxes: FrameBoxes, i: int) -> int:
        picture, scale = self._frame_of(boxes, i)
        return int(_active(picture, boxes.boxes[i] * np.tile(scale, 2)).sum())

    def _write(
        self, folder: Path, name: str, boxes: FrameBoxes, i: int, others: FrameBoxes
    ) -> dict[str, Any]:
        frame, box = boxes.frame[i], boxes.boxes[i]
        picture, scale = self._frame_of(boxes, i)
        in_picture = np.tile(scale, 2)
        window, origin, zoom = _window(picture, box * in_picture)

        def in_window(shown: FrameBoxes) -> FrameBoxes:
            corners = (shown.boxes * in_picture - np.tile(origin, 2)) * zoom
            reaches_in = (corners[:, 2:] > 0) & (corners[:, :2] < PICTURE_SIZE[::-1])
            return replace(shown, boxes=corners).select(np.all(reaches_in, axis=1))

        truth = in_window(self.pairing.truth.in_frame(frame))
        found = self.pairing.detections.in_frame(frame)
        # Before all others the one that the picture is about.
        is_subject = (found.boxes == box).all(axis=1)
        found = in_window(found.select(np.argsort(~is_subject, kind="stable")))
        found = found.select(np.arange(len(found)) < _MAX_DRAWN)
        draw_boxes(window, truth.boxes, truth.classes, self.class_names, dashed=True)
        # Names over the brackets, of which three remain to be seen.
        _draw_brackets(window, (box * in_picture - np.tile(origin, 2)) * zoom)
        names = self.class_names
        draw_boxes(window, found.boxes, found.classes, names, found.scores, others=truth.boxes)
        file = f"{FOLDER}/{name}.png"
        with replacing(folder / file) as unfinished:
            unfinished.write_bytes(
                cv2.imencode(".png", window[..., ::-1], _SMALL_FILE)[1].tobytes()
            )
        return {
            **({"score": float(boxes.scores[i])} if others is self.frames.truth else {}),
            "file": file,
            "class": self.class_names[boxes.classes[i]],
            "recording": str(self.frames.recording[frame]),
            "time_us": int(self.frames.time_us[frame]),
            "box": box.tolist(),
            "active": float(_active(picture, box * in_picture).mean()),
            "closest": self._closest(boxes, i, others),
        }

    def _closest(self, boxes: FrameBoxes, i: int, others: FrameBoxes) -> dict[str, Any] | None:
        """Class, score and IoU of the box of the same frame that overlaps most, if one does."""
        others = others.in_frame(boxes.frame[i])
        overlap = overlaps(others.boxes, boxes.boxes[i])
        if not overlap.any():
            return None
        best = int(overlap.argmax())
        name, score = self.class_names[others.classes[best]], float(others.scores[best])
        return {"class": name, "score": score, "iou": float(overlap[best])}


def _active(picture: Image, box: NDArray[Any]) -> NDArray[Any]:
    """Which of the pixels that a box touches have events, ``[h, w]``, at least one pixel."""
    height, width = picture.shape[:2]
    left, top = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    return picture[top : max(bottom, top + 1), left : max(right, left + 1)].max(axis=2) > 0


def _window(picture: Image, box: NDArray[Any]) -> tuple[Image, NDArray[np.int64], float]:
    """A box with its surroundings in ``PICTURE_SIZE``, the window's upper left corner, its zoom.

    Where the box is too large for that it is the full frame.
    """
    shape, frame = np.array(PICTURE_SIZE[::-1]), np.array(picture.shape[1::-1])
    least = _SURROUNDINGS * (box[2:] - box[:2])
    fitting = (z for z in _ZOOMS if (shape >= least * z).all() and (shape <= frame * z).all())
    zoom: float = next(fitting, (shape / frame).min())
    size = np.ceil(shape / zoom).astype(int)
    room = frame - size
    corner = ((box[:2] + box[2:] - size) / 2).round().astype(int)
    # Within the frame where it is large enough, else around it.
    corner = np.clip(corner, np.minimum(room, 0), np.maximum(room, 0))
    window = np.full((size[1], size[0], 3), _OUTSIDE, np.uint8)
    seen = picture[max(corner[1], 0) : corner[1] + size[1], max(corner[0], 0) : corner[0] + size[0]]
    x, y = np.maximum(-corner, 0)
    window[y : y + seen.shape[0], x : x + seen.shape[1]] = seen
    how = cv2.INTER_NEAREST if zoom >= 1 else cv2.INTER_AREA
    return cv2.resize(window, PICTURE_SIZE[::-1], interpolation=how).astype(np.uint8), corner, zoom


def _draw_brackets(image: Image, box: NDArray[Any]) -> None:
    """Mark the box that a picture is about, just outside it."""
    left, top, right, bottom = (int(each) for each in box + np.array([-4, -4, 4, 4]))
    for x, inwards in ((left, 7), (right, -7)):
        for y, down in ((top, 7), (bottom, -7)):
            cv2.line(image, (x, y), (x + inwards, y), (255,) * 3, 2)
            cv2.line(image, (x, y), (x, y + down), (255,) * 3, 2)
