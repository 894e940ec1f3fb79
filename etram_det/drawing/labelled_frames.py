"""A frame with its labels and detections as one picture, large enough to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from etram_det.drawing.frames import Image, draw_boxes, draw_text, frame_image

LEAST_WIDTH = 640  # of a picture in pixels: smaller frames are enlarged


class Boxes(NamedTuple):
    """Boxes of a frame.

    Attributes:
        corners: ``[D, 4]`` ``xyxy`` in pixels of the frame.
        classes: ``[D]`` class ids.
        scores: ``[D]`` in [0, 1], best first, written behind the class; None for none.
        dashed: whether they are drawn dashed and without their class, as labels are where
            detections are drawn beside them.
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
        ``[n * H, n * W, 3]``, whole ``n`` so that it is at least ``LEAST_WIDTH`` pixels wide.
    """
    picture = frame_image(frame, representation)
    zoom = -(-LEAST_WIDTH // picture.shape[1])
    picture = np.ascontiguousarray(picture.repeat(zoom, axis=0).repeat(zoom, axis=1))
    for corners, classes, scores, dashed in boxes:
        draw_boxes(picture, corners * zoom, classes, class_names, scores, dashed=dashed)
    if title:
        draw_text(picture, title, (0, 0))
    return picture
