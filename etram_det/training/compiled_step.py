"""State and labels in the form that one compiled graph of a training step serves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from etram_det.models.detector import Detector
from etram_det.types import Batch, Labels, State


def in_one_form(batch: Batch, state: State | None, detector: Detector) -> tuple[State, Labels]:
    """State and labels of a chunk in the form that one graph serves all of.

    The first chunk has zeros for a state. The number of boxes is padded to a power of two, at
    least 8. It and the number of frames are dynamic, but a chunk that is so crowded that its frames
    are assigned some at a time may take a graph of its own.
    """
    labels, (lanes, height, width) = batch.labels, (len(batch.lane), *batch.frame_size)
    if state is None:
        # As later states lie in memory, and hidden and cell state apart.
        pairs = [
            torch.zeros(2, b, h, w, c, device=batch.lane.device).permute(0, 1, 4, 2, 3)
            for b, c, h, w in detector.state_shapes(lanes, height, width)
        ]
        state = [(hidden.clone(), cell.clone()) for hidden, cell in pairs]
    number = labels.classes.shape[1]
    missing = max(8, 1 << (number - 1).bit_length()) - number if number else 8
    boxes = F.pad(labels.boxes, (0, 0, 0, missing))
    classes = F.pad(labels.classes, (0, missing), value=-1)
    for each in (labels.frame, boxes, classes):
        if len(labels) > 1:
            torch._dynamo.maybe_mark_dynamic(each, 0)
    for each in (boxes, classes):
        torch._dynamo.maybe_mark_dynamic(each, 1)
    return state, replace(labels, boxes=boxes, classes=classes)
