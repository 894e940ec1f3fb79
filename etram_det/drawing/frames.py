"""Frames and boxes as pictures that all kinds of colour vision can read.

Pictures are RGB, ``[H, W, 3]`` uint8. Events are blue where it grew brighter and orange where it
grew darker, on black; classes have the palette of Okabe and Ito (2008), which keeps apart under
all common kinds of colour blindness, and always come with their name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from etram_det.drawing.tags import place_tags

Image = NDArray[np.uint8]

# Less bright than the classes, whose boxes must stand out.
BRIGHTER, DARKER = (62, 130, 196), (204, 108, 0)
BACKGROUND = (0, 0, 0)
# Okabe and Ito's palette, without black, which is the background; grey fills the eighth place.
CLASS_COLOURS = (
    (240, 228, 66),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (213, 94, 0),
    (0, 114, 178),
    (190, 190, 190),
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
LEAST_WIDTH = 640  # of a labelled picture in pixels: smaller frames are enlarged
_FAINTEST, _SATURATION = 0.35, 4  # brightness of a single event, events in full brightness
_STRENGTH = np.linspace(_FAINTEST, 1, _SATURATION)[:, None]
# Colours [2, saturation + 1, 3] of darker and brighter pixels by number of events.
_SHADES = np.array(
    [[BACKGROUND, *(_STRENGTH * full).round().astype(int)] for full in (DARKER, BRIGHTER)], np.uint8
)


def frame_image(
    frame: NDArray[Any],
    representation: Literal["stacked_histogram", "mixed_density"] = "stacked_histogram",
) -> Image:
    """A frame in two colours, ``[H, W, 3]``: what prevails in a pixel, by the number of events.

    Args:
        frame: ``[C, H, W]``: counts of a ``stacked_histogram``, first of darker, then of brighter
            events; or sums of polarities of a ``mixed_density``, the first over all of the window.
        representation: how the frame was made.
    """
    if representation == "mixed_density":
        net = frame[0].astype(np.int16)
        darker, brighter = np.maximum(-net, 0), np.maximum(net, 0)
    else:
        darker, brighter = _sums(np.ascontiguousarray(frame))
    return _coloured(darker, brighter, _SHADES)


def draw_boxes(
    image: Image,
    boxes: NDArray[Any],
    classes: NDArray[Any],
    class_names: Sequence[str],
    scores: NDArray[Any] | None = None,
    track_ids: NDArray[Any] | None = None,
    dashed: bool = False,
    taken: Sequence[tuple[int, int, int, int]] = (),
    others: NDArray[Any] | None = None,
) -> None:
    """Draw boxes with the names of their classes into a picture.

    A name stands where it hides neither another one nor an object; it is short, or left out, where
    there is no such place.

    Args:
        image: ``[H, W, 3]``, changed in place.
        boxes: ``[D, 4]`` ``xyxy`` in pixels of the picture; what lies outside is cut off.
        classes: ``[D]`` class ids.
        class_names: name of each class id.
        scores: ``[D]``, written behind the name.
        track_ids: ``[D]``, written before the name; negative for none.
        dashed: for labels, which are drawn beside detections and without a name of their own.
        taken: ``xyxy`` of places in the picture where no name may stand.
        others: ``[M, 4]`` boxes of other objects that no name may hide.
    """
    corners = _in_picture(boxes, image)
    colours = [CLASS_COLOURS[int(class_id) % len(CLASS_COLOURS)] for class_id in classes]
    best_last = list(enumerate(corners.tolist()))[::-1]  # on top of all others
    for i, (left, top, right, bottom) in best_last:
        if dashed:
            _draw_dashed_box(image, left, top, right, bottom)
            continue
        # A dark line around it, for boxes among many events.
        cv2.rectangle(image, (left - 1, top - 1), (right + 1, bottom + 1), BACKGROUND, 1)
        cv2.rectangle(image, (left, top), (right, bottom), colours[i], 1)
    if dashed:
        return
    texts = []
    for i, class_id in enumerate(classes):
        name, track = class_names[int(class_id)], ""
        if track_ids is not None and track_ids[i] >= 0:
            track = f"#{int(track_ids[i])}"
        score = "" if scores is None else f"{scores[i]:.2f}"
        texts.append([" ".join(filter(None, (track, name, score))), track or name])
    sizes = [[_tag_size(text)[0] for text in forms] for forms in texts]
    objects = corners if others is None else np.concatenate([corners, _in_picture(others, image)])
    places = place_tags(corners, sizes, (image.shape[0], image.shape[1]), objects, taken)
    for forms, place, colour in zip(texts, places, colours, strict=True):
        if place is not None:
            _tag(image, forms[place[0]], place[1:], colour)


def _in_picture(boxes: NDArray[Any], image: Image) -> NDArray[np.int64]:
    """Boxes ``[D, 4]`` cut at the edges of a picture, in whole pixels."""
    size = np.array([image.shape[1], image.shape[0]] * 2)
    finite = np.nan_to_num(boxes, posinf=1e6, neginf=-1e6)
    return np.clip(finite, 0, size - 1).astype(np.int64)


def draw_text(image: Image, text: str, corner: tuple[int, int]) -> None:
    """Write a line into a picture, on a dark ground.

    Args:
        image: ``[H, W, 3]``, changed in place.
        text: in ASCII, as the font has nothing else.
        corner: x and y of the line's upper left corner in pixels.
    """
    x, y = corner
    cv2.rectangle(image, (x, y), text_place(text, corner)[2:], BACKGROUND, -1)
    height = cv2.getTextSize(text, _FONT, 0.45, 1)[0][1]
    cv2.putText(image, text, (x + 2, y + height + 1), _FONT, 0.45, (255,) * 3, 1, cv2.LINE_AA)


def text_place(text: str, corner: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels ``xyxy`` that :func:`draw_text` fills."""
    (width, height), below = cv2.getTextSize(text, _FONT, 0.45, 1)
    x, y = corner
    return x, y, x + width + 3, y + height + below + 2


def _tag_size(text: str) -> tuple[tuple[int, int], int]:
    """Width and height of a tag in pixels, and of its text above the base line."""
    (width, height), below = cv2.getTextSize(text, _FONT, 0.38, 1)
    return (width + 1, height + below), height


def _tag(image: Image, text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Write a box's name, on the ground of its colour."""
    x, y = corner
    (width, line), height = _tag_size(text)
    cv2.rectangle(image, (x, y), (x + width - 1, y + line - 1), colour, -1)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 110
    ink = (0,) * 3 if bright else (255,) * 3
    cv2.putText(image, text, (x, y + height), _FONT, 0.38, ink, 1, cv2.LINE_AA)


def _draw_dashed_box(image: Image, left: int, top: int, right: int, bottom: int) -> None:
    x, y = np.arange(left, right + 1), np.arange(top, bottom + 1)
    image[[[top], [bottom]], x[(x - left) % 6 < 3]] = 255
    image[y[(y - top) % 6 < 3], [[left], [right]]] = 255


@numba.njit(cache=True, nogil=True)
def _sums(frame: NDArray) -> tuple[NDArray, NDArray]:
    """Events ``[H, W]`` of each polarity, over all bins of a histogram ``[2 * bins, H, W]``."""
    channels, height, width = frame.shape
    sums = np.zeros((2, height, width), np.int16)
    for channel in range(channels):
        plane = sums[channel // (channels // 2)]
        for y in range(height):
            for x in range(width):
                plane[y, x] += frame[channel, y, x]
    return sums[0], sums[1]


@numba.njit(cache=True, nogil=True)
def _coloured(darker: NDArray, brighter: NDArray, shades: NDArray) -> NDArray:
    height, width = darker.shape
    image = np.empty((height, width, 3), np.uint8)
    most = shades.shape[1] - 1
    for y in range(height):
        for x in range(width):
            polarity = 1 if brighter[y, x] >= darker[y, x] else 0
            number = min(most, max(brighter[y, x], darker[y, x]))
            for c in range(3):
                image[y, x, c] = shades[polarity, number, c]
    return image


class Boxes(NamedTuple):
    """Boxes of a frame.

    Attributes:
        corners: ``[D, 4]`` ``xyxy`` in pixels of the frame.
        classes: ``[D]`` class ids.
        scores: ``[D]`` in [0, 1], best first, written behind the class; None for none.
        dashed: as in :func:`draw_boxes`.
    """

    corners: NDArray[Any]
    classes: NDArray[Any]
    scores: NDArray[Any] | None = None
    dashed: bool = False


def labelled_picture(
    frame: NDArray[Any],
    class_names: Sequence[str],
    boxes: Sequence[Boxes],
    title: str = "",
    representation: Literal["stacked_histogram", "mixed_density"] = "stacked_histogram",
) -> Image:
    """A frame in two colours with its boxes.

    Args:
        frame: ``[C, H, W]``, as a recording gives it.
        class_names: name of each class id.
        boxes: what is drawn, the last on top.
        title: written into the upper left corner, in ASCII.
        representation: how the frame was made.

    Returns:
        ``[n * H, n * W, 3]`` with the least ``n`` for a width of at least ``LEAST_WIDTH`` pixels.
    """
    picture = frame_image(frame, representation)
    zoom = -(-LEAST_WIDTH // picture.shape[1])
    picture = np.ascontiguousarray(picture.repeat(zoom, axis=0).repeat(zoom, axis=1))
    taken = [text_place(title, (0, 0))] if title else []
    labels = [each.corners * zoom for each in boxes if each.dashed]
    others = np.concatenate(labels) if labels else None
    for corners, classes, scores, dashed in boxes:
        place = corners * zoom
        draw_boxes(picture, place, classes, class_names, scores, None, dashed, taken, others)
    if title:
        draw_text(picture, title, (0, 0))
    return picture
