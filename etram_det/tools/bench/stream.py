"""``bench stream``: latency of one window after the other, with the state carried."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from etram_det.data.representation import FrameSettings, Representation
from etram_det.inference.engine import PyTorchEngine
from etram_det.models.postprocessing import decode_detections
from etram_det.tools.bench.arithmetic import compare
from etram_det.tools.bench.inputs import DTYPES, BenchSettings, random_events
from etram_det.tools.bench.measure import Section, Stopwatch, peak_memory_mb

_EVENTS_PER_WINDOW = 100_000
_NMS = (0.001, 0.45)  # score and overlap thresholds, as in evaluation


def bench_stream(settings: BenchSettings) -> Section:
    """Time one window, batch 1, whole and in parts, against the counted arithmetic."""
    settings = replace(settings, lanes=1, steps=1)
    section = Section(f"Streaming, one window at a time: {settings.frame}")
    events = settings.events(1, 1)[0]
    streams: dict[str, PyTorchEngine] = {}
    compiling = (False, True) if settings.compile == "stages" else (False,)
    for precision in settings.precision:
        for cuda_graph in (False, True) if settings.device.type == "cuda" else (False,):
            for compiled in compiling:
                kind = "compiled" if compiled else "eager"
                name = f"{kind}, {'CUDA graph, ' if cuda_graph else ''}{precision}"
                with section.part(name):
                    streams[name] = PyTorchEngine(
                        settings.detector(),
                        DTYPES[precision],
                        compile=compiled,
                        cuda_graph=cuda_graph,
                    )
    runs = {name: partial(stream, events) for name, stream in streams.items()}
    measured = compare(section, settings, runs, warm_up=4)
    for precision in settings.precision:
        if (name := f"eager, {precision}") in measured:
            with section.part(f"parts, {precision}"):
                _add_parts(section, settings, streams[name], precision)
    peak = peak_memory_mb(settings.device)
    if peak is not None:
        section.add("peak memory", peak, "MB", "all variants together")
    return section


def _add_parts(
    section: Section, settings: BenchSettings, stream: PyTorchEngine, precision: str
) -> None:
    """Add the parts of one window, from events to detections."""
    size = settings.input_size
    histogram = Representation(size, size, FrameSettings())
    window = random_events(_EVENTS_PER_WINDOW, size)
    stopwatch = Stopwatch(settings.device)
    for _ in stopwatch.steps(settings.repeats, warm_up=2):
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
    for name, values in stopwatch.times_s.items():
        section.add_times(f"  {name}, {precision}", values)
