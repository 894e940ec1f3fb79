"""``bench sizes``: memory and speed of each preset with frames of several sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import get_args

import torch

from etram_det.inference.pytorch_engine import PyTorchEngine
from etram_det.tools.bench.arithmetic import count, operations
from etram_det.tools.bench.inputs import DTYPES, BenchSettings, Preset
from etram_det.tools.bench.measure import Section, measure, peak_memory_mb, reset_peak_memory
from etram_det.tools.bench.train import TrainingStep, training_batch
from etram_det.training.devices import bytes_of_a_lane

_PRESETS: tuple[Preset, ...] = get_args(Preset)
_SIZES = ((180, 320), (360, 640), (720, 1280))
_USABLE = 0.4  # share of the memory that a step may take, for others to have room
_COPIES = 4  # of the weights: themselves, gradients, and both means of Adam


def bench_sizes(settings: BenchSettings) -> Iterator[Section]:
    """Count memory and operations of each preset and size, and time a step and windows.

    Windows are timed in each precision, steps in the first. Memory is counted without computing,
    for float32, so it is also there for what does not fit.
    """
    for preset in _PRESETS:
        of_preset = replace(settings, preset=preset, source=None)
        section = Section(
            f"{preset}, {settings.scales} scales, T={settings.steps}, {settings.lanes} lanes, "
            f"{settings.precision[0]}"
        )
        weights = count(of_preset).parameter_bytes
        section.add("parameters", weights / 4e6, "million")
        section.add("weights, gradients, optimiser", _COPIES * weights / 1e6, "MB")
        for size in _SIZES:
            _add_size(section, replace(of_preset, input_size=size), _COPIES * weights)
        yield section


def _add_size(section: Section, settings: BenchSettings, fixed_bytes: int) -> None:
    name = f"{settings.input_size[1]}x{settings.input_size[0]}"
    lane = {kept: _lane_bytes(settings, kept) for kept in (False, True)}
    section.add(f"{name}: a lane in training", lane[False] / 1e6, "MB")
    section.add(f"{name}: the same, gradient checkpointing", lane[True] / 1e6, "MB")
    work = operations(count(settings), settings, None)
    section.add(f"{name}: operations of a window", work / 1e9, "GFLOP")
    for precision in settings.precision:
        with section.part(f"{name}: window, {precision}"):
            engine = PyTorchEngine(settings.detector(), DTYPES[precision])
            window = {"window": partial(engine, settings.events(1, 1)[0])}
            for times in measure(window, settings.repeats, settings.device, section).values():
                section.add_times(f"{name}: window, {precision}", times)
    needed = fixed_bytes + settings.lanes * lane[settings.gradient_checkpointing]
    if needed > _USABLE * _memory_bytes(settings.device):
        section.failures[f"{name}: training step"] = f"not tried, as it takes {needed / 1e9:.1f} GB"
        return
    with section.part(f"{name}: training step"):
        step, batch = TrainingStep(settings, settings.precision[0]), training_batch(settings)
        reset_peak_memory(settings.device)
        one = {"step": partial(step, *batch)}
        for times in measure(one, settings.repeats, settings.device, section, warm_up=1).values():
            found = section.add_times(f"{name}: training step", times)
            if settings.device.type == "cuda":
                found.note = f"peak {peak_memory_mb(settings.device):.0f} MB"


def _lane_bytes(settings: BenchSettings, gradient_checkpointing: bool) -> int:
    """What a training step keeps of one lane in float32, with all frames labelled."""
    meta = torch.device("meta")
    detector = replace(settings, gradient_checkpointing=gradient_checkpointing).detector(meta)
    shape = (settings.steps, 1, settings.frames.channels, *settings.input_size)
    return bytes_of_a_lane(detector, torch.empty(shape, dtype=torch.uint8, device=meta))


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
