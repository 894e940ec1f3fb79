"""Timing: warm-up, synchronisation, interleaving, medians; and the machine it happens on."""

from __future__ import annotations

import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "numba", "h5py", "numpy")
_LOAD_ALLOWED = 0.5  # other processes' share of a core before the header warns of them
_REASON = re.compile(r"\w+(Error|Exception)\b")  # how the last line of a traceback begins
_REASONS = {
    "out of memory": (
        "out of memory: use fewer lanes or steps, bf16-mixed, gradient_checkpointing or a smaller "
        "input_size"
    ),
    "InvalidCxxCompiler": "torch.compile needs a C++ compiler such as g++",
}


@dataclass
class Measurement:
    """One measured or counted value.

    Attributes:
        name: what it is.
        value: median of the repetitions, or the value itself.
        unit: of the value.
        low: first quartile, where there are repetitions.
        high: third quartile, where there are repetitions.
        p95: 95th percentile, where there are repetitions.
        note: how it compares.
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    p95: float | None = None
    note: str = ""


@dataclass
class Section:
    """The measurements of one benchmark.

    Attributes:
        title: what was measured, with its sizes.
        measurements: in the order of the table.
        failures: what could not be measured, by name, and why.
    """

    title: str
    measurements: list[Measurement] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str, note: str = "") -> None:
        """Add a value that has no spread."""
        self.measurements.append(Measurement(name, value, unit, note=note))

    def add_times(self, name: str, times_s: list[float], note: str = "") -> Measurement:
        """Add the median of durations in seconds, in ms."""
        self.measurements.append(measurement_of(name, times_s, note))
        return self.measurements[-1]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Note a failure in one line and go on with the other measurements."""
        try:
            yield
        except (RuntimeError, MemoryError, ImportError, ValueError, OSError) as error:
            self.failures[name] = _in_one_line(error)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _in_one_line(error: Exception) -> str:
    """What went wrong, in some 200 characters: of a compiler's report, beginning and reason."""
    text = f"{type(error).__name__}: {error}"
    for sign, reason in _REASONS.items():
        if sign in text:
            return reason
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].endswith(":") and len(lines) > 1:
        reasons = [line for line in lines[1:] if _REASON.match(line)]
        return f"{lines[0][:100]} {(reasons or lines)[-1][:100]}"
    return (lines[0] if lines else type(error).__name__)[:200]


def measurement_of(name: str, times_s: list[float], note: str = "") -> Measurement:
    """Median, quartiles and 95th percentile of durations in seconds, in ms."""
    times_ms = [1e3 * t for t in times_s]
    if len(times_ms) < 2:
        return Measurement(name, times_ms[0], "ms", note=note)
    low, median, high = statistics.quantiles(times_ms, n=4, method="inclusive")
    p95 = statistics.quantiles(times_ms, n=20, method="inclusive")[-1]
    return Measurement(name, median, "ms", low, high, p95, note)


def add_variants(
    section: Section, times: Mapping[str, list[float]], rate: str
) -> dict[str, Measurement]:
    """Add the variants of one measurement, each with its rate and its ratio to the first.

    Args:
        section: takes the measurements.
        times: durations in seconds by name, ``variant, precision``.
        rate: unit of runs in a second.

    Returns:
        The fastest variant of each precision.
    """
    fastest: dict[str, Measurement] = {}
    first: Measurement | None = None
    for name, values in times.items():
        found = section.add_times(name, values)
        found.note = f"{1e3 / found.value:.3g} {rate}"
        if first is not None:
            found.note += f", {first.value / found.value:.2f} times the rate of {first.name}"
        first = first or found
        precision = name.rsplit(", ", 1)[-1]
        fastest[precision] = min(fastest.get(precision, found), found, key=lambda m: m.value)
    return fastest


class Stopwatch:
    """Durations of the parts of a step, by name.

    Args:
        device: is waited for at the end of each part.

    Attributes:
        device: the same.
        times_s: durations in seconds, one for each step.
    """

    def __init__(self, device: torch.device) -> None:
        self.times_s: dict[str, list[float]] = {}
        self.device = device

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        _synchronise(self.device)
        started_s = time.perf_counter()
        yield
        _synchronise(self.device)
        self.times_s.setdefault(name, []).append(time.perf_counter() - started_s)

    def steps(self, repeats: int, warm_up: int = 0) -> Iterator[None]:
        """Count the steps of a loop, and forget what was measured while warming up."""
        for step in range(warm_up + repeats):
            if step == warm_up:
                self.times_s.clear()
            yield


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    variants: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: torch.device,
    section: Section,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Time variants in turn, A B A B, so that whatever else loads the machine meets them all.

    Args:
        variants: what to run, by name.
        repeats: durations of each.
        device: is waited for after each run.
        section: where those that fail are noted.
        warm_up: runs of each before the first that counts; compiled ones compile then.

    Returns:
        Durations in seconds of each variant that did not fail.
    """
    ready: dict[str, Callable[[], Any]] = {}
    for name, run in variants.items():
        with section.part(name):
            for _ in range(warm_up):
                run()
            _synchronise(device)
            ready[name] = run
    stopwatch = Stopwatch(device)
    for _ in range(repeats):
        for name, run in list(ready.items()):
            with section.part(name), stopwatch.part(name):
                run()
            if name in section.failures:
                del ready[name]
    return {name: stopwatch.times_s[name] for name in ready}


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, accelerator, system, versions and load, for the header of a report."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "load_before": load,
        "busy": load is not None and load > _LOAD_ALLOWED,
        "command": " ".join(["python -m etram_det", *sys.argv[1:]]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory_mb(device: torch.device) -> float | None:
    """Most memory in MB: of the accelerator's tensors since the last reset, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def reset_peak_memory(device: torch.device) -> None:
    """Let :func:`peak_memory_mb` of an accelerator count from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def resident_mb() -> float:
    """Memory in MB that this process holds now.

    Raises:
        OSError: the system does not say; Linux does.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
