"""``bench train`` and ``bench assign``: a step, its parts, and what growth costs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from etram_det.data.datamodule import EventDataModule
from etram_det.models.assign import SimOTA, simota
from etram_det.models.losses import YOLOXLoss
from etram_det.models.size_aware_assign import SizeAwareSimOTA
from etram_det.tools.bench.arithmetic import compare
from etram_det.tools.bench.inputs import (
    BOXES_PER_FRAME,
    NUM_CLASSES,
    BenchSettings,
    Precision,
    autocast,
    head_output,
    random_boxes,
)
from etram_det.tools.bench.measure import (
    Section,
    Stopwatch,
    measure,
    peak_memory_mb,
    reset_peak_memory,
)
from etram_det.types import Batch, Labels, State


class TrainingStep:
    """One step as Lightning takes it: forward, loss, backward, optimiser.

    Args:
        settings: sizes and device.
        precision: of convolutions and products.
        compile: compile the detector's parts.

    Attributes:
        detector: is trained.
        stopwatch: measures the parts of a step where it is set.
    """

    def __init__(
        self, settings: BenchSettings, precision: Precision, compile: bool = False
    ) -> None:
        self.stopwatch: Stopwatch | None = None
        self._settings = settings
        self._precision = precision
        self.detector = settings.detector().train()
        if compile:
            self.detector.compile_parts()
        self._loss = YOLOXLoss()
        self._optimizer = torch.optim.AdamW(self.detector.parameters(), lr=1e-4)
        self._scaler = torch.amp.GradScaler(settings.device.type, enabled=precision == "16-mixed")
        self._state: State | None = None

    def __call__(self, events: Tensor, labels: Labels) -> float:
        """Take one step.

        Args:
            events: ``[T, B, 2 * bins, H, W]`` uint8.
            labels: of ``N`` frames.
        """
        detector = self.detector
        with autocast(self._settings.device, self._precision):
            with self._part("backbone"):
                features, state = self.features(events, self._state)
                self._state = [(hidden.detach(), cell.detach()) for hidden, cell in state]
            with self._part("neck"):
                pyramid = detector.fpn([x[labels.frame] for x in features])
            with self._part("head"):
                output = detector.head(pyramid)
            boxes = box_convert(labels.boxes, "xyxy", "cxcywh")
            if self.stopwatch is not None:  # once more, by itself: it runs inside the loss
                with self._part("assignment"):
                    simota(output, boxes, labels.classes)
            with self._part("loss"):
                loss = self._loss(output, boxes, labels.classes)["loss"]
        with self._part("backward"):
            self._scaler.scale(loss).backward()
        with self._part("optimiser"):
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def features(self, events: Tensor, state: State | None) -> tuple[list[Tensor], State]:
        """Features ``[T * B, C_s, h_s, w_s]`` of events ``[T, B, C, H, W]``, and the new state."""
        return self.detector.features(events, state)

    def _part(self, name: str) -> Any:
        return nullcontext() if self.stopwatch is None else self.stopwatch.part(name)


def bench_train(settings: BenchSettings, data: bool) -> Section:
    """Time a training step, whole, in parts and against the counted arithmetic."""
    sizes = f"{settings.frame}, T={settings.steps}, {settings.lanes} lanes"
    section = Section(f"Training step: {sizes}")
    batch = training_batch(settings)
    steps: dict[str, TrainingStep] = {}
    for precision in settings.precision:
        for kind in ("eager", "compiled") if settings.compile == "stages" else ("eager",):
            with section.part(name := f"{kind}, {precision}"):
                steps[name] = TrainingStep(settings, precision, compile=kind == "compiled")
    runs = {name: partial(step, *batch) for name, step in steps.items()}
    measured = compare(section, settings, runs, num_labelled=len(batch[1]))
    for precision in settings.precision:
        if (name := f"eager, {precision}") in measured:
            with section.part(f"parts, {precision}"):
                _add_parts(section, settings, steps[name], batch, precision)
            if data:
                with section.part(f"loading, {precision}"):
                    _add_loading(section, settings, steps[name], precision)
    return section


def training_batch(settings: BenchSettings) -> tuple[Tensor, Labels]:
    """Events, and labels of every other frame of each lane, as eTraM's."""
    frame = torch.arange(settings.steps * settings.lanes, device=settings.device)
    labelled = frame[(frame // settings.lanes) % 2 == (settings.steps - 1) % 2]
    boxes, classes = random_boxes(
        len(labelled), BOXES_PER_FRAME, settings.input_size, settings.device
    )
    labels = Labels(labelled, box_convert(boxes, "cxcywh", "xyxy"), classes)
    return settings.events(settings.steps, settings.lanes), labels


def _add_parts(
    section: Section,
    settings: BenchSettings,
    step: TrainingStep,
    batch: tuple[Tensor, Labels],
    precision: str,
) -> None:
    reset_peak_memory(settings.device)
    step.stopwatch = Stopwatch(settings.device)
    for _ in range(settings.repeats):
        step(*batch)
    times = step.stopwatch.times_s
    step.stopwatch = None
    # The assignment runs inside the loss.
    times["loss"] = [a - b for a, b in zip(times["loss"], times["assignment"], strict=True)]
    parts = [section.add_times(f"  {name}, {precision}", times[name]) for name in times]
    total = sum(part.value for part in parts)
    for part in parts:
        part.note = f"{part.value / total:.1%} of the step"
    peak = peak_memory_mb(settings.device)
    if peak is not None:
        # Growth measures each size by itself.
        tensors = "tensors, of all variants together"
        whose = tensors if settings.device.type == "cuda" else "the whole process so far"
        section.add(f"peak memory, {precision}", peak, "MB", whose)


def _add_loading(
    section: Section, settings: BenchSettings, step: TrainingStep, precision: str
) -> None:
    """Steps on batches from the real loader, and how long they wait for it."""
    module = EventDataModule(
        input_size=settings.input_size,
        num_steps=settings.steps,
        train_lanes=settings.lanes,
        sampling="stream" if settings.lanes == 1 else "mixed",
        num_workers=2,
    )
    module.prepare_data()
    module.setup("fit")
    stopwatch = Stopwatch(settings.device)
    batches = iter(module.train_dataloader())
    for _ in stopwatch.steps(settings.repeats, warm_up=3):
        with stopwatch.part("loading"):
            batch: Batch = next(batches)
        with stopwatch.part("step"):
            batch = batch.to(settings.device, non_blocking=True)
            if len(batch.labels):
                step(batch.events, batch.labels)
    times = stopwatch.times_s
    busy, idle = sum(times["step"]), sum(times["loading"])
    share = f"{idle / (busy + idle):.1%} of the run"
    section.add_times(f"  loading, {precision}", times["loading"], f"waiting for it: {share}")
    section.add_times(f"  step on loaded batches, {precision}", times["step"])


def bench_growth(settings: BenchSettings) -> Section:
    """Time the training step as lanes, steps, frames and scales grow, one at a time."""
    precision = settings.precision[0]
    section = Section(f"Growth of the training step: {precision}, from {settings.frame}")
    changes: dict[str, dict[str, Any]] = {
        f"T={settings.steps}, {settings.lanes} lanes": {},
        **{f"{n} lanes": {"lanes": n} for n in (1, 2, 4, 8, 12) if n != settings.lanes},
        **{f"T={n}": {"steps": n} for n in (1, 5, 10, 20) if n != settings.steps},
        **{f"{w}x{h}": {"input_size": (h, w)} for h, w in ((360, 640), (540, 960), (720, 1280))},
        **{f"{n} scales": {"scales": n} for n in (3, 4) if n != settings.scales},
    }
    for name, change in changes.items():
        with section.part(name):
            grown = replace(settings, **change)
            step, batch = TrainingStep(grown, precision), training_batch(grown)
            reset_peak_memory(settings.device)
            run = {name: partial(step, *batch)}
            times = measure(run, settings.repeats, settings.device, section, warm_up=1).get(name)
            if times:
                found = section.add_times(name, times)
                found.note = f"{found.value / (grown.steps * grown.lanes):.1f} ms a frame"
                if settings.device.type == "cuda":
                    found.note += f", peak {peak_memory_mb(settings.device):.0f} MB"
    return section


def bench_assign(device: torch.device, repeats: int) -> Section:
    """Time assignments of a whole batch: 24 frames, 20 boxes, 20,400 points and 8 classes."""
    num_frames, num_boxes, size = 24, 20, (384, 640)
    output = head_output(num_frames, size, device)
    boxes, classes = random_boxes(num_frames, num_boxes, size, device)
    section = Section(
        f"Assignment: {num_frames} frames x {num_boxes} boxes x {len(output.strides)} points x "
        f"{NUM_CLASSES} classes"
    )
    rules = {"SimOTA": SimOTA(), "SizeAwareSimOTA": SizeAwareSimOTA().to(device)}
    run = {name: partial(each, output, boxes, classes) for name, each in rules.items()}
    for name, times in measure(run, repeats, device, section).items():
        section.add_times(name, times)
    return section
