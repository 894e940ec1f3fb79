"""``bench stream``: latency of one window after the other, with the state carried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from etram_det.data.representation import FrameSettings, StackedHistogram
from etram_det.inference.engine import PyTorchEngine
from etram_det.models.postprocessing import decode_detections
from etram_det.tools.bench import arithmetic
from etram_det.tools.bench.events import random_events
from etram_det.tools.bench.measure import (
    Figure,
    Section,
    Stopwatch,
    figure_of_times,
    measure,
    peak_memory_mb,
)
from etram_det.tools.bench.plain import plain_features
from etram_det.tools.bench.settings import DTYPES, BenchSettings, Precision, autocast
from etram_det.types import State

_EVENTS_PER_WINDOW = 100_000
_NMS = (0.001, 0.45)  # score and overlap thresholds, as in evaluation


class _PlainStream:
    """The plain path, window by window."""

    def __init__(self, settings: BenchSettings, precision: Precision) -> None:
        self._detector = settings.detector().eval()
        self._detector.to(memory_format=torch.contiguous_format)
        self._settings, self._precision = settings, precision
        self._state: State | None = None

    @torch.no_grad()
    def __call__(self, events: torch.Tensor) -> torch.Tensor:
        with autocast(self._settings.device, self._precision):
            features, self._state = plain_features(self._detector, events[None], self._state)
            return self._detector.predict(features).decode()


def bench_stream(settings: BenchSettings) -> Section:
    """Time one window, batch 1, whole and in parts, against the plain path and the arithmetic.

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
        name = f"plain, {precision}"
        with section.part(name):
            runs[name] = partial(_PlainStream(settings, precision), events)
        add(f"eager, {precision}", dtype=dtype)
        if settings.compile == "stages":
            add(f"compiled, {precision}", dtype=dtype, compile=True)
        if settings.device.type == "cuda":
            add(f"eager, CUDA graph, {precision}", dtype=dtype, cuda_graph=True)
            if settings.compile == "stages":
                name = f"compiled, CUDA graph, {precision}"
                add(name, dtype=dtype, compile=True, cuda_graph=True)
    times = measure(runs, settings.repeats, settings.device, section, warm_up=4)
    fastest = _add_latencies(section, times)
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


def _add_latencies(section: Section, times: dict[str, list[float]]) -> dict[str, Figure]:
    """Add latencies with their ratio to the first plain path; return the fastest by precision."""
    base = next((v for name, v in times.items() if name.startswith("plain")), None)
    fastest: dict[str, Figure] = {}
    for name, values in times.items():
        if name.startswith("large products"):
            continue
        figure = figure_of_times(name, values)
        note = f"{1e3 / figure.value:.1f} windows/s"
        if base is not None and values is not base:
            ratio = figure_of_times("", base).value / figure.value
            note += f", {ratio:.2f} times the first plain path's"
        section.figures.append(replace(figure, note=note))
        precision = name.rsplit(", ", 1)[-1]
        if not name.startswith("plain"):
            fastest[precision] = min(fastest.get(precision, figure), figure, key=lambda f: f.value)
    return fastest


def _add_parts(
    section: Section, settings: BenchSettings, stream: PyTorchEngine, precision: str
) -> None:
    """Add the parts of one window, from events to detections."""
    height, width = settings.input_size
    histogram = StackedHistogram((height, width), (height, width), FrameSettings())
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
