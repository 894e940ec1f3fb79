"""``bench stream``: latency of one window after the other, with the state carried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from etram_det.data.representation import FrameSettings, Representation
from etram_det.inference.engine import PyTorchEngine
from etram_det.models.postprocessing import decode_detections
from etram_det.tools.bench import arithmetic
from etram_det.tools.bench.events import random_events
from etram_det.tools.bench.measure import (
    Section,
    Stopwatch,
    add_variants,
    measure,
    peak_memory_mb,
)
from etram_det.tools.bench.settings import DTYPES, BenchSettings

_EVENTS_PER_WINDOW = 100_000
_NMS = (0.001, 0.45)  # score and overlap thresholds, as in evaluation


def bench_stream(settings: BenchSettings) -> Section:
    """Time one window, batch 1, whole and in parts, against the counted arithmetic.

    Args:
        settings: network, precisions and device; lanes and steps are 1 here.
    """
    settings = replace(settings, lanes=1, steps=1)
    section = Section(f"Streaming, one window at a time: {settings.frame}")
    events = settings.events(1, 1)[0]
    floors = arithmetic.Floors(settings, section)
    runs: dict[str, Callable[[], Any]] = dict(floors.runs)
    streams: dict[str, PyTorchEngine] = {}

    def add(name: str, **options: Any) -> None:
        with section.part(name):
            detector = settings.detector()
            streams[name] = PyTorchEngine(detector, **{"cuda_graph": False} | options)
            runs[name] = partial(streams[name], events)

    for precision in settings.precision:
        dtype = DTYPES[precision]
        add(f"eager, {precision}", dtype=dtype)
        if settings.compile == "stages":
            add(f"compiled, {precision}", dtype=dtype, compile=True)
        if settings.device.type == "cuda":
            add(f"eager, CUDA graph, {precision}", dtype=dtype, cuda_graph=True)
            if settings.compile == "stages":
                name = f"compiled, CUDA graph, {precision}"
                add(name, dtype=dtype, compile=True, cuda_graph=True)
    times = measure(runs, settings.repeats, settings.device, section, warm_up=4)
    latencies = {name: values for name, values in times.items() if name in streams}
    fastest = add_variants(section, latencies, "windows/s")
    for precision in settings.precision:
        name = f"eager, {precision}"
        if name in times:
            with section.part(f"parts, {precision}"):
                _add_parts(section, settings, streams[name], precision)
    peak = peak_memory_mb(settings.device)
    if peak is not None:
        section.add("peak memory", peak, "MB", "all variants together")
    with section.part("arithmetic"):
        work = arithmetic.count(settings)
        flops = work.backbone.forward + work.rest.forward
        section.add("parameters", work.parameter_bytes / 1e6, "MB")
        floors.add(section, flops, "a window", times, fastest)
    return section


def _add_parts(
    section: Section, settings: BenchSettings, stream: PyTorchEngine, precision: str
) -> None:
    """Add the parts of one window, from events to detections."""
    height, width = settings.input_size
    histogram = Representation((height, width), (height, width), FrameSettings())
    window = random_events(_EVENTS_PER_WINDOW, (height, width))
    stopwatch = Stopwatch(settings.device)
    warm_up = 2
    for i in range(warm_up + settings.repeats):
        with stopwatch.part("representation"):
            frame = np.empty(histogram.shape, np.uint8)
            histogram.fill(frame, *window, (0, 50_000))
        with stopwatch.part("copy to the device"):
            events = torch.from_numpy(frame)[None].to(settings.device)
        with stopwatch.part("backbone"):
            features = stream.features(events)
        with stopwatch.part("neck and head"):
            decoded = stream.predict(features)
        with stopwatch.part("NMS"):
            decode_detections(decoded, *_NMS)
        if i + 1 == warm_up:
            stopwatch.clear()
    for name, values in stopwatch.times_s.items():
        section.add_times(f"  {name}, {precision}", values)
