"""``bench stream``: latency of one window after the other, with the state carried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch

from etram_det.data.representation import Representation
from etram_det.inference.engine import Engine, Precision, Runtime, engine_for
from etram_det.inference.exported_file import ExportedDetector
from etram_det.inference.postprocessing import detections_of
from etram_det.inference.pytorch_engine import PyTorchEngine, predictions_of
from etram_det.tools.bench.arithmetic import compare
from etram_det.tools.bench.inputs import DTYPES, BenchSettings, random_events
from etram_det.tools.bench.measure import Section, Stopwatch, peak_memory_mb
from etram_det.tools.export.graph import export_detector

_EVENTS_PER_WINDOW, _WINDOW_US = 100_000, 50_000
_NMS = (0.001, 0.45)  # score and overlap thresholds, as in evaluation
_MAX_DETECTIONS = 300
_RUNTIMES: dict[str, Runtime] = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def bench_stream(settings: BenchSettings) -> Section:
    """Time one window, batch 1, whole and in parts, against the counted arithmetic."""
    settings = replace(settings, lanes=1, steps=1)
    section = Section(f"Streaming, one window at a time: {settings.frame}")
    events = settings.events(1, 1)[0]
    streams = _pytorch_streams(section, settings) if "pytorch" in settings.runtimes else {}
    runs: dict[str, Callable[[], Any]] = {
        name: partial(stream, events) for name, stream in streams.items()
    }
    frame = events[0].cpu().numpy()
    for name, engine in _other_engines(section, settings).items():
        runs[name] = partial(engine.run, frame)
    measured = compare(section, settings, runs, warm_up=4)
    for precision in settings.precision:
        if (name := f"eager, {precision}") in measured:
            with section.part(f"parts, {precision}"):
                _add_parts(section, settings, streams[name], precision)
    peak = peak_memory_mb(settings.device)
    if peak is not None:
        section.add("peak memory", peak, "MB", "all variants together")
    return section


def _pytorch_streams(section: Section, settings: BenchSettings) -> dict[str, PyTorchEngine]:
    """PyTorch's variants by name."""
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
    return streams


def _other_engines(section: Section, settings: BenchSettings) -> dict[str, Engine]:
    """The other runtimes by name, on an exported file, made now unless there is one."""
    engines: dict[str, Engine] = {}
    names = {name: each for name, each in _RUNTIMES.items() if each in settings.runtimes}
    if not names:
        return engines
    device = "auto" if settings.device.type == "cuda" else "cpu"
    with TemporaryDirectory() as folder, section.part("export"):
        exported = settings.trained
        if not isinstance(exported, ExportedDetector):
            path = Path(folder) / "detector.onnx"
            exported = export_detector(exported, path, input_size=settings.input_size)
        for precision in settings.precision:
            for name, runtime in names.items():
                with section.part(f"{name}, {precision}"):
                    dtype = str(DTYPES[precision]).removeprefix("torch.")
                    engines[f"{name}, {precision}"] = engine_for(
                        exported, runtime, cast(Precision, dtype), device
                    )
    return engines


def _add_parts(
    section: Section, settings: BenchSettings, stream: PyTorchEngine, precision: str
) -> None:
    """Add the parts of one window, from events to detections."""
    size = settings.input_size
    histogram = Representation(size, size, settings.frames)
    window = random_events(_EVENTS_PER_WINDOW, size)
    stopwatch = Stopwatch(settings.device)
    for _ in stopwatch.steps(settings.repeats, warm_up=2):
        with stopwatch.part("representation"):
            frame = np.empty(histogram.shape, histogram.dtype)
            histogram.fill(frame, *window, (0, _WINDOW_US))
        with stopwatch.part("copy to the device"):
            events = torch.from_numpy(frame)[None].to(settings.device)
        with stopwatch.part("backbone"):
            features = stream.features(events)
        with stopwatch.part("neck and head"):
            decoded = stream.predict(features)
        with stopwatch.part("NMS"):
            detections_of(predictions_of(decoded[0]), *_NMS, _MAX_DETECTIONS, size)
    for name, values in stopwatch.times_s.items():
        section.add_times(f"  {name}, {precision}", values)
