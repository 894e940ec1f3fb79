"""Which labels of a random chunk can be seen in it: those of tracks that have moved since it began.

What stands still gives no events. A lane that follows a recording may have seen it move before; a
random chunk starts without memory, and a label of what it cannot have seen teaches nothing but
where objects tend to stand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import NO_TRACK, corners
from etram_det.data.recording import Recording


def seen_labels(
    recording: Recording, start: int, frame: int, least_motion_px: float
) -> NDArray[np.bool_]:
    """Which labels of a frame belong to tracks that have moved since a chunk began.

    A track has moved by the largest way, in any of the four coordinates of its corners, between
    its labels from the last labelled frame before the chunk on. Labels without a track id, or
    without another label of their track in that time, count as seen: how they move is not known.

    Args:
        recording: what the chunk is of.
        start: first frame of the chunk.
        frame: a labelled frame of it.
        least_motion_px: least motion of what is seen, in pixels of the sensor.

    Returns:
        ``[M]`` for each label of ``frame``.
    """
    of_frame = recording.label_frame
    own, stop = np.searchsorted(of_frame, [frame, frame + 1])
    before = np.searchsorted(of_frame, start)
    first = np.searchsorted(of_frame, of_frame[before - 1]) if before else 0
    boxes = recording.label_boxes[first:stop]
    sides, tracks, classes = corners(boxes), boxes["track_id"], boxes["class_id"]
    seen = np.ones(stop - own, np.bool_)
    if not recording.has_tracks:
        return seen
    for i in range(own - first, len(boxes)):
        same = (tracks == tracks[i]) & (classes == classes[i])
        if tracks[i] == NO_TRACK or same[own - first :].sum() > 1 or same.sum() < 2:
            continue
        seen[i - (own - first)] = np.ptp(sides[same], axis=0).max() >= least_motion_px
    return seen
