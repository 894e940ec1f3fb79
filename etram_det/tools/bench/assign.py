"""``bench assign``: SimOTA for the whole batch against image by image."""

from __future__ import annotations

from functools import partial

import torch

from etram_det.models.assign import simota
from etram_det.models.head import HeadOutput
from etram_det.tools.bench.measure import Section, figure_of_times, measure
from etram_det.tools.bench.plain import plain_simota
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
    names = ("image by image", "whole batch")
    runs = {
        names[0]: partial(plain_simota, output, boxes, classes),
        names[1]: partial(simota, output, boxes, classes, rows),
    }
    times = measure(runs, repeats, device, section)
    if names[0] in times:
        section.add_times(names[0], times[names[0]])
    if names[1] in times:
        note = ""
        if names[0] in times:
            medians = [figure_of_times("", times[name]).value for name in names]
            note = f"{medians[0] / medians[1]:.1f} times as fast"
        section.add_times(names[1], times[names[1]], note)
    return section
