"""The cases of ``bench gpu``: each measures one thing on a device, with input made up there."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from etram_det.boxes import BOX_DTYPE
from etram_det.data.datamodule import EventDataModule
from etram_det.data.recording import Recording, Timeline
from etram_det.data.representation import FrameSettings, Representation
from etram_det.tools.bench.arithmetic import (
    Arithmetic,
    count,
    large_product,
    operations,
    product_operations,
)
from etram_det.tools.bench.inputs import BenchSettings, Precision, random_events
from etram_det.tools.bench.measure import (
    Section,
    Stopwatch,
    measure,
    peak_memory_mb,
    reset_peak_memory,
)
from etram_det.tools.bench.module_step import COMPILED, GraphedStep, ModuleStep, made_up_batch
from etram_det.tools.bench.stream import bench_stream

Case = Callable[[], Section]
_EVENTS = 100_000  # of a window
_COSTS = 3  # that a profile names


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        settings: of the network, the frames and the device.
        lanes: of the training batches, the usual number first.
        precisions: of training and streaming, the usual one first.
        workers: numbers of loading processes.
        windows: repeats of one window in streaming.
        compiled: values of ``model.compile`` in training and profile.
        streams: values of ``--compile`` in streaming.
    """

    settings: BenchSettings
    lanes: tuple[int, ...] = (12, 6, 24)
    precisions: tuple[Precision, ...] = ("bf16-mixed", "32-true")
    workers: tuple[int, ...] = (0, 2, 4)
    windows: int = 200
    compiled: tuple[str, ...] = COMPILED
    streams: tuple[Literal["none", "stages"], ...] = ("none", "stages")

    def of_training(self, lanes: int, precision: Precision) -> BenchSettings:
        """Settings of one training step."""
        return replace(self.settings, lanes=lanes, precision=(precision,))


def sizes_on(device: torch.device, tiny: bool) -> Sizes:
    """RVT base at 384x640 on chunks of 5; tiny: what shows in seconds that it runs, uncompiled."""
    settings = BenchSettings(
        preset="tiny" if tiny else "base",
        input_size=(64, 64) if tiny else (384, 640),
        lanes=1,
        steps=2 if tiny else 5,
        scales=3,
        precision=("32-true",),
        compile="none",
        gradient_checkpointing=False,
        repeats=2 if tiny else 20,
        device=device,
    )
    if tiny:
        return Sizes(settings, (1,), ("bf16-mixed",), (0, 1), 2, (), ("none",))
    return Sizes(settings)


def cases(sizes: Sizes) -> dict[str, dict[str, Case]]:
    """What each part measures, by the name of the case."""
    steps = [(lanes, precision) for precision in sizes.precisions for lanes in sizes.lanes]
    usual = sizes.of_training(sizes.lanes[0], sizes.precisions[0])
    return {
        "eager": {_name(*step): partial(_training, sizes, "none", *step) for step in steps},
        "compiled": {
            f"{mode}, {_name(*step)}": partial(_training, sizes, mode, *step)
            for mode in sizes.compiled
            for step in steps
        },
        "graph": {_name(*step): partial(_training, sizes, "graph", *step) for step in steps},
        "stream": {
            f"{mode}, {precision}": partial(_stream, sizes, mode, precision)
            for mode in sizes.streams
            for precision in sizes.precisions
        },
        "loader": {f"{n} workers": partial(_loader, usual, n) for n in sizes.workers},
        "profile": {mode: partial(_profile, usual, mode) for mode in ("none", *sizes.compiled)},
    }


def _name(lanes: int, precision: str) -> str:
    return f"{lanes} lanes, {precision}"


def _training(sizes: Sizes, mode: str, lanes: int, precision: Precision) -> Section:
    """Time a training step, with its share of the arithmetic's floor and its peak memory."""
    settings = sizes.of_training(lanes, precision)
    section = Section(f"Training step: {settings.frame}, T={settings.steps}")
    name = f"{mode if mode != 'none' else 'eager'}, {_name(lanes, precision)}"
    free_memory()
    reset_peak_memory(settings.device)
    with section.part(name):
        batch = made_up_batch(settings)
        step: Any = ModuleStep(settings, precision, "none" if mode == "graph" else mode)
        if mode == "graph":
            step = GraphedStep(step, batch)
        times = measure({name: partial(step, batch)}, settings.repeats, settings.device, section, 3)
        if name in times:
            found = section.add_times(name, times[name])
            share = _floor_ms(settings, precision, len(batch.labels)) / found.value
            found.note = f"{1e3 / found.value:.3g} steps/s, {share:.0%} of the floor's rate"
            if (peak := peak_memory_mb(settings.device)) is not None:
                section.add(f"  peak memory, {name}", peak, "MB")
    return section


def free_memory() -> None:
    """Give back what an earlier case has held."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _floor_ms(settings: BenchSettings, precision: Precision, num_labelled: int) -> float:
    """Least time of a step's operations, at the rate of large matrix products."""
    work = _work(replace(settings, lanes=1, device=torch.device("meta")))
    rate = _product_rate(replace(settings, lanes=1), precision)
    return 1e3 * operations(work, settings, num_labelled) / rate


@cache
def _work(settings: BenchSettings) -> Arithmetic:
    return count(settings)


@cache
def _product_rate(settings: BenchSettings, precision: Precision) -> float:
    """Operations a second in a large matrix product, the fastest of ten."""
    run = {"product": large_product(settings, precision)}
    times = measure(run, 10, settings.device, Section(""))["product"]
    return product_operations(settings) / min(times)


def _stream(sizes: Sizes, mode: Any, precision: Precision) -> Section:
    """Time one window after the other, eager or compiled, and as a CUDA graph."""
    free_memory()
    reset_peak_memory(sizes.settings.device)
    return bench_stream(
        replace(sizes.settings, compile=mode, precision=(precision,), repeats=sizes.windows)
    )


class MadeUpRecording(Recording):
    """Random events in memory, every second window labelled: what a loader has without files.

    Args:
        name: of it.
        input_size: height and width of its frames and of its sensor.
        num_frames: windows of 50 ms, all with the same events.
    """

    layout = "made up"

    def __init__(self, name: str, input_size: tuple[int, int], num_frames: int) -> None:
        ends_us = 50_000 * np.arange(1, num_frames + 1)
        frames = np.arange(1, num_frames, 2)
        boxes = np.zeros(len(frames), BOX_DTYPE)
        boxes["t"], boxes["w"], boxes["h"] = ends_us[frames], 20, 20
        super().__init__(name, Path(name), input_size, input_size, Timeline(ends_us, frames, boxes))
        self._events = random_events(_EVENTS, input_size)
        self._representation = Representation(input_size, input_size, FrameSettings())

    def frames(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``[stop - start, 20, H, W]``."""
        shape = (stop - start, *self._representation.shape)
        frames = np.empty(shape, self._representation.dtype)
        for frame in frames:
            self._representation.fill(frame, *self._events, (0, 50_000))
        return frames


def _loader(settings: BenchSettings, num_workers: int) -> Section:
    """Batches a second of the loader alone, and how long training waits for it."""
    precision = settings.precision[0]
    section = Section(f"Loader: {settings.frame}, T={settings.steps}, {settings.lanes} lanes")
    data = EventDataModule(
        input_size=settings.input_size,
        num_steps=settings.steps,
        train_lanes=settings.lanes,
        sampling="stream",
        num_workers=num_workers,
    )
    # More than what is loaded ahead, which would seem to come at once.
    warm_up, repeats = 2 + 2 * num_workers, 3 * settings.repeats
    num_frames = settings.steps * (warm_up + repeats + 1)
    data.recordings["train"] = [
        MadeUpRecording(f"{i}", settings.input_size, num_frames) for i in range(settings.lanes)
    ]
    name = f"{num_workers} workers, {settings.lanes} lanes"
    free_memory()
    with section.part(name):
        step = ModuleStep(settings, precision)
        for trains in (False, True):
            stopwatch = Stopwatch(settings.device)
            steps = stopwatch.steps(repeats, warm_up)
            _load(section, data, stopwatch, steps, step if trains else None, name)
    return section


def _load(
    section: Section,
    data: EventDataModule,
    stopwatch: Stopwatch,
    steps: Iterator[None],
    step: ModuleStep | None,
    name: str,
) -> None:
    """Take batches through the loader, and steps on them where there is a ``step``."""
    batches = iter(data.train_dataloader())
    num_bytes = 0
    for _ in steps:
        with stopwatch.part("loading"):
            loaded: Any = next(batches)
            num_bytes = bytes_of(loaded)
            batch = data.transfer_batch_to_device(loaded, stopwatch.device, 0)
            batch = data.on_after_batch_transfer(batch, 0)
        if step is not None:
            with stopwatch.part("step"):
                step(batch)
    times = stopwatch.times_s
    if step is None:
        found = section.add_times(f"loading alone, {name}", times["loading"])
        found.note = f"{1e3 / found.value:.3g} batches/s, {num_bytes / 1e6:.2f} MB a batch"
        return
    waited = sum(times["loading"]) / (sum(times["loading"]) + sum(times["step"]))
    section.add_times(f"step on loaded batches, {name}", times["step"])
    section.add_times(f"waiting for them, {name}", times["loading"], f"{waited:.1%} of the run")


def bytes_of(content: Any) -> int:
    """Bytes of the tensors in a batch, its containers included."""
    if isinstance(content, torch.Tensor):
        return content.nbytes
    return sum(map(bytes_of, vars(content).values())) if hasattr(content, "__dict__") else 0


def _profile(settings: BenchSettings, mode: str) -> Section:
    """The largest costs of a training step on the device, by kernel or operation."""
    precision = settings.precision[0]
    kind = mode if mode != "none" else "eager"
    section = Section(
        f"Largest costs of a step: {settings.frame}, {_name(settings.lanes, precision)}, {kind}"
    )
    free_memory()
    with section.part(kind):
        batch, step = made_up_batch(settings), ModuleStep(settings, precision, mode)
        for _ in range(3):
            step(batch)
        is_cuda = settings.device.type == "cuda"
        activities = [ProfilerActivity.CUDA] if is_cuda else []
        with profile(activities=[ProfilerActivity.CPU, *activities]) as profiler:
            step(batch)
            if is_cuda:
                torch.cuda.synchronize(settings.device)
        costs = {
            each.key: (each.self_device_time_total if is_cuda else each.self_cpu_time_total) / 1e3
            for each in profiler.key_averages()
            if (each.device_type == DeviceType.CUDA) == is_cuda
            and not getattr(each, "is_user_annotation", False)  # which spans what is in it
        }
        total_ms = sum(costs.values())
        section.add(f"all, {kind}", total_ms, "ms")
        for name in sorted(costs, key=lambda key: -costs[key])[:_COSTS]:
            section.add(f"  {name[:60]}", costs[name], "ms", f"{costs[name] / total_ms:.1%}")
    return section
