"""``bench metric``: the metric against torchmetrics' mean average precision."""

from __future__ import annotations

import logging
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_convert

from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.tools.bench.inputs import NUM_CLASSES, random_boxes
from etram_det.tools.bench.measure import Section, measure, measurement_of, resident_mb
from etram_det.types import Detections, Labels

_LABELS, _DETECTIONS = 8, 28  # of a frame
_BATCH = 50  # frames of an update
_SIZE = (384, 640)
_OURS = "SizeBinnedMAP, all metrics"


def bench_metric(num_frames: int, repeats: int) -> Section:
    """Time updates and result over frames with 8 labels and 28 detections each."""
    section = Section(f"Metric: {num_frames} frames, {_LABELS} labels, {_DETECTIONS} detections")
    labels, detections = _evaluation(num_frames)
    runs = {_OURS: lambda: _run_ours(_metric(), labels, detections)}
    for backend in ("faster_coco_eval", "pycocotools"):
        name = f"torchmetrics, {backend}, classes"
        if find_spec(backend) is None:
            section.failures[name] = f"needs: pip install {backend}"
        else:
            runs[name] = partial(_run_theirs, labels, detections, backend)
    precisions: dict[str, float] = {}
    for name, run in runs.items():  # which warms up, too
        with section.part(name):
            precisions[name] = run()
    ready = {name: runs[name] for name in precisions}
    times = measure(ready, repeats, torch.device("cpu"), section, warm_up=0)
    base = measurement_of("", times[_OURS]).value if _OURS in times else None
    for name, values in times.items():
        found = section.add_times(name, values)
        if base is not None and name != _OURS:
            difference = abs(precisions[name] - precisions[_OURS])
            found.note = f"{found.value / base:.1f} times ours; AP differs by {difference:.1e}"
    with section.part("memory"):
        metric, held_mb = _metric(), []
        for _ in range(3):
            _run_ours(metric, labels, detections)
            metric.reset()
            held_mb.append(resident_mb())
        growth = f"{held_mb[2] - held_mb[0]:+.1f} MB since the first"
        section.add("memory after three epochs", held_mb[2], "MB", growth)
    return section


def _metric() -> SizeBinnedMAP:
    return SizeBinnedMAP(class_names=[f"class{i}" for i in range(NUM_CLASSES)])


def _evaluation(num_frames: int) -> tuple[tuple[Tensor, Tensor], list[Detections]]:
    """Labels, and detections of which some are labels that moved a little."""
    boxes, classes = random_boxes(num_frames, _LABELS, _SIZE, torch.device("cpu"))
    boxes = box_convert(boxes, "cxcywh", "xyxy")
    generator = torch.Generator().manual_seed(1)
    false, false_classes = random_boxes(num_frames, _DETECTIONS, _SIZE, torch.device("cpu"))
    moved = boxes + 3 * torch.randn(boxes.shape, generator=generator)
    found = box_convert(false, "cxcywh", "xyxy")
    found[:, :_LABELS], false_classes[:, :_LABELS] = moved, classes
    scores = torch.rand(num_frames, _DETECTIONS, generator=generator)
    scores[:, :_LABELS] = 0.5 + scores[:, :_LABELS] / 2
    scores, order = scores.sort(dim=1, descending=True)
    detections = [
        Detections(
            found[i, order[i]], scores[i], torch.ones(_DETECTIONS), false_classes[i, order[i]]
        )
        for i in range(num_frames)
    ]
    return (boxes, classes), detections


def _run_ours(
    metric: SizeBinnedMAP, labels: tuple[Tensor, Tensor], detections: list[Detections]
) -> float:
    boxes, classes = labels
    for start in range(0, len(boxes), _BATCH):
        rows = slice(start, start + _BATCH)
        count = len(boxes[rows])
        metric.update(
            detections[rows],
            Labels(torch.arange(count), boxes[rows], classes[rows]),
            recording=["recording_day_0001"] * count,
            time_us=torch.arange(start, start + count) * 100_000,
            scale=torch.ones(count, 2),
        )
    return float(metric.compute()["AP"])


def _run_theirs(labels: tuple[Tensor, Tensor], detections: list[Detections], backend: Any) -> float:
    metric: Any = MeanAveragePrecision(backend=backend, class_metrics=True)
    metric.warn_on_many_detections = False
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # a table for each class
    boxes, classes = labels
    for start in range(0, len(boxes), _BATCH):
        rows = slice(start, start + _BATCH)
        metric.update(
            [{"boxes": d.boxes, "scores": d.scores, "labels": d.classes} for d in detections[rows]],
            [
                {"boxes": frame_boxes, "labels": frame_classes}
                for frame_boxes, frame_classes in zip(boxes[rows], classes[rows], strict=True)
            ],
        )
    return float(metric.compute()["map"])
