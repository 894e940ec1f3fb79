"""Evaluation of an engine, window by window, by the metric that `validate` uses."""

from collections.abc import Iterable

import torch

from etram_det.data.recording import Recording
from etram_det.inference.engine import Engine
from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.models.postprocessing import decode_detections
from etram_det.types import Labels

SCORE, NMS = 0.001, 0.45  # of evaluation


def detections_of_all(engine: Engine, recordings: Iterable[Recording], every_class=True):
    """Recording, frame and detections of each labelled frame; all frames are run through."""
    for recording in recordings:
        engine.reset()
        for i in range(len(recording)):
            frame = recording.frames(i, i + 1)[0]
            boxes, objectness, classes = map(torch.from_numpy, engine.run(frame))
            if recording.boxes(i) is not None:
                sides = boxes[:, 2:] - boxes[:, :2]
                decoded = torch.cat(
                    [boxes[:, :2] + 0.5 * sides, sides, objectness[:, None], classes], dim=1
                )
                size = (frame.shape[1], frame.shape[2])
                found = decode_detections(
                    decoded[None], SCORE, NMS, frame_size=size, every_class=every_class
                )
                yield recording, i, found[0]


def average_precision(engine: Engine, recordings, class_names, labels=None):
    """AP of an engine; ``labels`` of a recording's frame, those on disk unless given."""
    metric = SizeBinnedMAP(class_names=class_names)
    for recording, i, found in detections_of_all(engine, recordings):
        boxes, classes = recording.boxes(i) if labels is None else labels[recording.name, i]
        metric.update(
            [found],
            Labels.stack([0], [torch.as_tensor(boxes)], [torch.as_tensor(classes)]),
            recording=[recording.name],
            time_us=torch.tensor([int(recording.frame_end_us[i])]),
            scale=torch.tensor([recording.scale]),
        )
    return float(metric.compute()["AP"])
