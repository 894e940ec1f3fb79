"""Augmentation: flip and zoom of frames and their boxes, and more, drawn from a seed of the plan.

A zoom maps ``x`` to ``zoom * x + shift`` in each direction; the flip follows. A lane keeps its
seed, hence its flip and zoom, its polarities and the share of events that it drops, until its next
reset, so that motion stays continuous. Pixels move where frames become dense
(:mod:`~etram_det.data.sparse_batch`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etram_det.errors import UserError


@dataclass(frozen=True)
class AugmentSettings:
    """How training chunks are augmented; the defaults are RVT's, which has no more than that.

    Streaming lanes flip and zoom out. Random chunks zoom in as well: a crop would lose objects
    for a whole recording, but costs a chunk little.

    Attributes:
        enabled: whether chunks are augmented at all.
        flip: probability of a horizontal flip, in [0, 1].
        stream_zoom: probability that a streaming lane zooms (out), in [0, 1].
        random_zoom: probability that a random chunk zooms, in [0, 1].
        zoom_in_share: share of the zooms of random chunks that zoom in, in [0, 1].
        zoom_in_max: largest factor of zooming in, in [1, 10]; drawn uniformly from 1.
        zoom_out_max: largest factor of zooming out, in [1, 10]; drawn uniformly from 1.
        least_visible: boxes with less than this share of their area left in the frame after a
            zoom are dropped, in [0, 1].
        zoom_out: ``nearest`` takes one pixel of the source for each pixel of the result, as RVT
            does, which loses events; ``sum`` adds up the counts of all that fall together.
        event_drop: probability that a lane drops events at random, in [0, 1].
        event_drop_share: largest share of the events that it drops, in [0, 1]; drawn uniformly
            from 0.
        polarity_flip: probability that the polarities are swapped, in [0, 1].
    """

    enabled: bool = True
    flip: float = 0.5
    stream_zoom: float = 0.5
    random_zoom: float = 0.8
    zoom_in_share: float = 0.8
    zoom_in_max: float = 1.5
    zoom_out_max: float = 1.2
    least_visible: float = 0.1
    zoom_out: Literal["nearest", "sum"] = "nearest"
    event_drop: float = 0.0
    event_drop_share: float = 0.5
    polarity_flip: float = 0.0

    def __post_init__(self) -> None:
        if self.zoom_out not in ("nearest", "sum"):
            raise UserError(
                f"data.augmentation.zoom_out: must be nearest or sum, got {self.zoom_out}: use "
                "sum to keep all events"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("enabled", "zoom_out"):
                continue
            low, high = (1, 10) if field.name.endswith("_max") else (0, 1)
            if not low <= value <= high:
                raise UserError(
                    f"data.augmentation.{field.name}: must be in [{low}, {high}], got {value}: set "
                    f"{low} for none"
                )


@dataclass(frozen=True)
class Augmentation:
    """One draw of all that augmentation does, for frames of a given size and their boxes.

    Attributes:
        size: height and width of the frames in pixels.
        flip: whether the result is flipped horizontally.
        zoom: pixels of the result per pixel of the source: above 1 zooms in, below 1 out.
        shift: x and y of the source's upper left corner in the result, before the flip.
        least_visible: smallest share of a box's area that must be left, in [0, 1].
        adds_up: whether a zoom out adds up the counts of pixels that fall together.
        drop_share: share of the events that are dropped, in [0, 1].
        polarity_flip: whether the polarities are swapped.
    """

    size: tuple[int, int]
    flip: bool = False
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    least_visible: float = 0.1
    adds_up: bool = False
    drop_share: float = 0.0
    polarity_flip: bool = False

    @property
    def moves_pixels(self) -> bool:
        """Whether pixels, or channels, change their places."""
        return self.flip or self.zoom != 1 or self.polarity_flip

    def target_rows(self) -> NDArray[np.int64]:
        """Row ``[H]`` of the result for each row of the source, -1 for none.

        Those of a zoom in stay where they are, and :meth:`source_rows` has what follows.
        """
        if self.zoom > 1:
            return np.arange(self.size[0])
        return _targets_of_source(self.size[0], self.zoom, self.shift[1], self.adds_up)[0]

    def source_rows(self) -> NDArray[np.int64]:
        """Row ``[H]`` of the source for each row of the result of a zoom in."""
        return _source_of_target(self.size[0], self.zoom, self.shift[1])

    def target_columns(self) -> NDArray[np.int64]:
        """Columns ``[R, W]`` of the result for each column of the source, -1 where there are less.

        Where it does not zoom in, ``R`` is 1.
        """
        width = self.size[1]
        columns = _targets_of_source(width, self.zoom, self.shift[0], self.adds_up)
        return np.where(columns < 0, -1, width - 1 - columns) if self.flip else columns

    def apply_to_boxes(
        self, boxes: NDArray[np.float32], classes: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Flip and zoom boxes, clipped to the frame.

        Args:
            boxes: ``[M, 4]`` ``xyxy`` in pixels.
            classes: ``[M]`` class ids.

        Returns:
            The boxes with enough area left, ``[m, 4]`` with ``m <= M``, and their classes.
        """
        height, width = self.size
        mapped = boxes * self.zoom + np.tile(np.asarray(self.shift, np.float32), 2)
        if self.flip:
            mapped[:, [0, 2]] = width - mapped[:, [2, 0]]
        cut = mapped.clip(0, np.array([width, height, width, height], np.float32))
        left = _area(cut)
        kept = (left > 0) & (left >= self.least_visible * _area(mapped))
        return cut[kept], classes[kept]


def draw(
    settings: AugmentSettings,
    seed: int,
    size: tuple[int, int],
    stream: bool,
    boxes: NDArray[np.float32] | None = None,
) -> Augmentation:
    """Draw what happens to a chunk.

    A streaming lane's draw depends on the seed alone. As in RVT, a zoom in is placed around one of
    the boxes, so that the window holds an object.

    Args:
        settings: probabilities and ranges.
        seed: seed of the draw; the same seed gives the same result.
        size: height and width of the frames in pixels.
        stream: whether this is for a streaming lane, which never zooms in.
        boxes: ``[M, 4]`` ``xyxy`` in pixels, of the last labelled frame of a random chunk; None
            if it has none.
    """
    rng = np.random.default_rng(seed)
    flip, zooms, zooms_in = rng.random(3) < (
        settings.flip,
        settings.stream_zoom if stream else settings.random_zoom,
        0 if stream else settings.zoom_in_share,
    )
    zoom, shift = 1.0, (0.0, 0.0)
    if zooms and zooms_in:
        zoom = rng.uniform(1, settings.zoom_in_max)
        target = rng.choice(boxes) if boxes is not None and len(boxes) else None
        corner = _window_corner(rng, size, zoom, target)
        shift = (-zoom * corner[0], -zoom * corner[1])
    elif zooms:
        zoom = 1 / rng.uniform(1, settings.zoom_out_max)
        shift = (rng.uniform(0, size[1] * (1 - zoom)), rng.uniform(0, size[0] * (1 - zoom)))
    # Other random numbers, so that flips and zooms do not depend on whether these are asked for.
    drops, swaps, share = np.random.default_rng((seed, 1)).random(3)
    return Augmentation(
        size,
        bool(flip),
        zoom,
        shift,
        settings.least_visible,
        adds_up=settings.zoom_out == "sum",
        drop_share=share * settings.event_drop_share if drops < settings.event_drop else 0.0,
        polarity_flip=bool(swaps < settings.polarity_flip),
    )


def _window_corner(
    rng: np.random.Generator, size: tuple[int, int], zoom: float, target: NDArray[np.float32] | None
) -> tuple[float, float]:
    """Upper left corner (x, y) of a window of ``size / zoom`` that holds a box, or is inside it."""
    corner = []
    for axis, length in enumerate((size[1], size[0])):
        room = length * (1 - 1 / zoom)
        low, high = 0.0, room
        if target is not None:
            bounds = (target[axis + 2] - length / zoom, target[axis])
            low, high = np.clip((min(bounds), max(bounds)), 0, room)
        corner.append(float(rng.uniform(low, high)))
    return corner[0], corner[1]


def _source_of_target(size: int, zoom: float, shift: float) -> NDArray[np.int64]:
    """Source row or column ``[size]`` of each pixel centre of the result, -1 for none."""
    source = np.floor((np.arange(size) + 0.5 - shift) / zoom).astype(np.int64)
    source[(source < 0) | (source >= size)] = -1
    return source


def _targets_of_source(size: int, zoom: float, shift: float, adds_up: bool) -> NDArray[np.int64]:
    """Rows or columns ``[R, size]`` of the result for each one of the source, -1 for no further.

    A zoom out that adds up has one for each pixel centre of the source.
    """
    if zoom < 1 and adds_up:
        return np.floor((np.arange(size) + 0.5) * zoom + shift).astype(np.int64)[None]
    source = _source_of_target(size, zoom, shift)
    target = np.flatnonzero(source >= 0)
    source = source[target]  # ascending
    copy = np.arange(len(source)) - np.searchsorted(source, source)
    targets = np.full((copy.max() + 1, size), -1)
    targets[copy, source] = target
    return targets


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Area ``[M]`` of ``xyxy`` boxes ``[M, 4]``, in square pixels."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
