"""``bench assign``: SimOTA of a whole batch."""

from __future__ import annotations

import torch

from etram_det.models.assign import simota
from etram_det.models.head import HeadOutput
from etram_det.tools.bench.measure import Section, measure
from etram_det.tools.bench.settings import NUM_CLASSES, random_boxes

_NUM_FRAMES, _NUM_BOXES = 24, 20
_SIZE = (384, 640)
_STRIDES = (4, 8, 16, 32)


def head_output(
    num_frames: int, size: tuple[int, int], device: torch.device, num_classes: int = NUM_CLASSES
) -> HeadOutput:
    """Random predictions at all points of four scales.

    Args:
        num_frames: ``N``.
        size: height and width of the frames in pixels, multiples of 32.
        device: where they lie.
        num_classes: ``K``.
    """
    generator = torch.Generator().manual_seed(0)
    scales = tuple((size[0] // stride, size[1] // stride, stride) for stride in _STRIDES)
    cells = [
        torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), dim=-1)
        for h, w, _ in scales
    ]
    strides = torch.cat([torch.full((h * w,), float(stride)) for h, w, stride in scales])
    random = torch.randn(num_frames, len(strides), 5 + num_classes, generator=generator)
    return HeadOutput(
        (0.5 * random[..., :4]).to(device),
        random[..., 4].to(device),
        random[..., 5:].to(device),
        torch.cat([x.flatten(0, 1) for x in cells]).float().to(device),
        strides.to(device),
        scales,
    )


def bench_assign(device: torch.device, repeats: int) -> Section:
    """Time the assignment at 24 frames, 20 boxes, 20,400 points and 8 classes.

    Args:
        device: where to compute.
        repeats: measurements.
    """
    output = head_output(_NUM_FRAMES, _SIZE, device)
    boxes, classes = random_boxes(_NUM_FRAMES, _NUM_BOXES, _SIZE, device)
    rows = torch.arange(classes.numel(), device=device)
    section = Section(
        f"Assignment: {_NUM_FRAMES} frames x {_NUM_BOXES} boxes x {len(output.strides)} points x "
        f"{NUM_CLASSES} classes"
    )
    name = "whole batch"
    times = measure({name: lambda: simota(output, boxes, classes, rows)}, repeats, device, section)
    if name in times:
        section.add_times(name, times[name])
    return section
