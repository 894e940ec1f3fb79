"""``bench train``: a training step, its parts, and what growth costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from etram_det.data.datamodule import EventDataModule
from etram_det.models.assign import Assignment, simota
from etram_det.models.detector import Detector
from etram_det.models.losses import YOLOXLoss
from etram_det.tools.bench import arithmetic
from etram_det.tools.bench.measure import (
    Figure,
    Section,
    Stopwatch,
    figure_of_times,
    measure,
    peak_memory_mb,
)
from etram_det.tools.bench.plain import assignment_by, plain_features, plain_simota
from etram_det.tools.bench.settings import BenchSettings, Precision, autocast
from etram_det.types import Batch, Labels, State


class TrainingStep:
    """One step as Lightning takes it: forward, loss, backward, optimiser.

    Args:
        settings: sizes and device.
        precision: of convolutions and products.
        plain: go the plain path.
        compile: compile the detector's parts.

    Attributes:
        stopwatch: measures the parts of a step where it is set.
    """

    def __init__(
        self,
        settings: BenchSettings,
        precision: Precision,
        plain: bool = False,
        compile: bool = False,
    ) -> None:
        self.stopwatch: Stopwatch | None = None
        self._settings = settings
        self._precision = precision
        self._plain = plain
        self._detector = settings.detector().train()
        if plain:
            self._detector.to(memory_format=torch.contiguous_format)
        if compile:
            self._detector.compile_parts()
        self._loss = YOLOXLoss()
        self._optimizer = torch.optim.AdamW(self._detector.parameters(), lr=1e-4)
        self._scaler = torch.amp.GradScaler(settings.device.type, enabled=precision == "16-mixed")
        self._state: State | None = None

    def __call__(self, events: Tensor, labels: Labels) -> float:
        """Take one step.

        Args:
            events: ``[T, B, 2 * bins, H, W]`` uint8.
            labels: of ``N`` frames.
        """
        detector: Detector = self._detector
        with autocast(self._settings.device, self._precision):
            with self._part("backbone"):
                features = self._features(events)
            with self._part("neck"):
                pyramid = detector.fpn([x[labels.frame] for x in features])
            with self._part("head"):
                output = detector.head(pyramid)
            with self._part("loss"), assignment_by(self._assign):
                boxes = box_convert(labels.boxes, "xyxy", "cxcywh")
                loss = self._loss(output, boxes, labels.classes, labels.rows)["loss"]
        with self._part("backward"):
            self._scaler.scale(loss).backward()
        with self._part("optimiser"):
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _features(self, events: Tensor) -> list[Tensor]:
        detector = self._detector
        run = partial(plain_features, detector) if self._plain else detector.features
        features, state = run(events, self._state)
        self._state = [(hidden.detach(), cell.detach()) for hidden, cell in state]
        return features

    def _assign(self, *args: Any) -> Assignment:
        with self._part("assignment"):
            return (plain_simota if self._plain else simota)(*args)

    def _part(self, name: str) -> Any:
        return nullcontext() if self.stopwatch is None else self.stopwatch.part(name)


def bench_train(settings: BenchSettings, data: bool) -> Section:
    """Time a training step against the plain path, in parts and against the counted arithmetic.

    Args:
        settings: sizes, precisions and device.
        data: whether to load real batches as well.
    """
    sizes = f"{settings.frame}, T={settings.steps}, {settings.lanes} lanes"
    section = Section(f"Training step: {sizes}")
    batch = _batch(settings)
    fastest: dict[str, Figure] = {}
    floors = arithmetic.Floors(settings, section)
    all_times: dict[str, list[float]] = {}
    for precision in settings.precision:
        steps = _variants(settings, precision, section)
        runs: dict[str, Callable[[], Any]] = {
            name: partial(step, *batch) for name, step in steps.items()
        }
        runs |= {name: run for name, run in floors.runs.items() if name.endswith(precision)}
        times = measure(runs, settings.repeats, settings.device, section)
        all_times |= times
        for figure in _compared(times, f"plain, {precision}"):
            section.figures.append(figure)
            if not figure.name.startswith("plain"):
                best = fastest.setdefault(precision, figure)
                fastest[precision] = min(best, figure, key=lambda f: f.value)
        ours = steps.get(f"eager, {precision}")
        if ours is not None and f"eager, {precision}" in times:
            with section.part(f"parts, {precision}"):
                _add_parts(section, settings, ours, batch, precision)
            if data:
                with section.part(f"loading, {precision}"):
                    _add_loading(section, settings, ours, precision)
    with section.part("arithmetic"):
        work = arithmetic.count(settings)
        # The backbone sees all frames, pyramid and head the labelled ones only.
        num_frames, num_labelled = settings.steps * settings.lanes, len(batch[1])
        flops = work.backbone.training * num_frames + work.rest.training * num_labelled
        section.add("parameters", work.parameter_bytes / 1e6, "MB")
        kept = "kept for the backward pass, a labelled frame"
        section.add(kept, work.activation_bytes / 1e6, "MB")
        floors.add(section, flops, "a step", all_times, fastest)
    return section


def _variants(
    settings: BenchSettings, precision: Precision, section: Section
) -> dict[str, TrainingStep]:
    """The steps to compare, by name."""
    options: dict[str, dict[str, bool]] = {"plain": {"plain": True}, "eager": {}}
    if settings.compile == "stages":
        options["compiled"] = {"compile": True}
    steps: dict[str, TrainingStep] = {}
    for name, option in options.items():
        with section.part(f"{name}, {precision}"):
            steps[f"{name}, {precision}"] = TrainingStep(settings, precision, **option)
    return steps


def bench_growth(settings: BenchSettings) -> Section:
    """Time our training step as lanes, steps, frames and scales grow, one at a time.

    Args:
        settings: what growth starts from.
    """
    precision = settings.precision[0]
    section = Section(f"Growth of our training step: {precision}, from {settings.frame}")
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
            step, batch = TrainingStep(grown, precision), _batch(grown)
            if settings.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(settings.device)
            run = {name: partial(step, *batch)}
            times = measure(run, settings.repeats, settings.device, section, warm_up=1).get(name)
            if times:
                figure = figure_of_times(name, times)
                frames = grown.steps * grown.lanes
                peak = peak_memory_mb(settings.device)
                memory = f", peak {peak:.0f} MB" if settings.device.type == "cuda" else ""
                note = f"{figure.value / frames:.1f} ms a frame{memory}"
                section.figures.append(replace(figure, note=note))
    return section


def _batch(settings: BenchSettings) -> tuple[Tensor, Labels]:
    """Events, and labels of every other frame of each lane, as eTraM's."""
    frame = torch.arange(settings.steps * settings.lanes, device=settings.device)
    labelled = frame[(frame // settings.lanes) % 2 == (settings.steps - 1) % 2]
    boxes, classes = settings.labels(len(labelled))
    rows = torch.arange(classes.numel(), device=settings.device)  # none of them is padding
    labels = Labels(labelled, box_convert(boxes, "cxcywh", "xyxy"), classes, rows)
    return settings.events(settings.steps, settings.lanes), labels


def _compared(times: dict[str, list[float]], reference: str) -> Iterator[Figure]:
    """Steps by name, with their ratio to the plain path's."""
    base = figure_of_times(reference, times[reference]).value if reference in times else None
    for name, values in times.items():
        if name.startswith("large products"):
            continue
        figure = figure_of_times(name, values)
        note = f"{1e3 / figure.value:.2f} steps/s"
        if base is not None and name != reference:
            note += f", {base / figure.value:.2f} times the plain path's"
        yield replace(figure, note=note)


def _add_parts(
    section: Section,
    settings: BenchSettings,
    step: TrainingStep,
    batch: tuple[Tensor, Labels],
    precision: str,
) -> None:
    if settings.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(settings.device)
    step.stopwatch = Stopwatch(settings.device)
    for _ in range(settings.repeats):
        step(*batch)
    times = step.stopwatch.times_s
    step.stopwatch = None
    # The assignment runs inside the loss.
    times["loss"] = [a - b for a, b in zip(times["loss"], times["assignment"], strict=True)]
    figures = [figure_of_times(f"  {name}, {precision}", values) for name, values in times.items()]
    total = sum(figure.value for figure in figures)
    section.figures += [replace(f, note=f"{f.value / total:.1%} of the step") for f in figures]
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
    warm_up = 3
    for i in range(warm_up + settings.repeats):
        with stopwatch.part("loading"):
            batch: Batch = next(batches)
        with stopwatch.part("step"):
            batch = batch.to(settings.device, non_blocking=True)
            if len(batch.labels):
                step(batch.events, batch.labels)
        if i + 1 == warm_up:
            stopwatch.clear()
    times = stopwatch.times_s
    busy, idle = sum(times["step"]), sum(times["loading"])
    share = f"{idle / (busy + idle):.1%} of the run"
    section.add_times(f"  loading, {precision}", times["loading"], f"waiting for it: {share}")
    section.add_times(f"  step on loaded batches, {precision}", times["step"])
