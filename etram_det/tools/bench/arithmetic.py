"""What the model asks for, counted without computing, and how near the variants come to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from etram_det.models.head import HeadOutput
from etram_det.tools.bench.inputs import DTYPES, BenchSettings, Precision
from etram_det.tools.bench.measure import Section, add_variants, measure
from etram_det.training.devices import kept_for_backward


@dataclass(frozen=True)
class Work:
    """Operations of one frame; a multiplication and an addition are two.

    Attributes:
        forward: of the forward pass.
        training: of forward and backward pass.
    """

    forward: float
    training: float


@dataclass(frozen=True)
class Arithmetic:
    """Counted work of one frame of one lane.

    Attributes:
        backbone: of the backbone.
        rest: of pyramid and head.
        parameter_bytes: of the weights in float32.
        activation_bytes: what the backward pass keeps of the forward pass, in float32.
    """

    backbone: Work
    rest: Work
    parameter_bytes: int
    activation_bytes: int


def count(settings: BenchSettings) -> Arithmetic:
    """Count one labelled frame, on tensors without content."""
    meta = torch.device("meta")
    detector = settings.detector(meta)
    shape = (1, 1, settings.frames.channels, *settings.input_size)
    events = torch.empty(shape, dtype=torch.uint8, device=meta)
    with kept_for_backward() as kept:
        backbone, features = _count(lambda: detector.features(events)[0])
        inputs = [x.detach().requires_grad_() for x in features]
        rest, _ = _count(lambda: _tensors_of(detector.predict(inputs)))
    parameters = {p.untyped_storage()._cdata for p in detector.parameters()}
    return Arithmetic(
        backbone,
        rest,
        sum(4 * p.numel() for p in detector.parameters()),
        sum(x.untyped_storage().nbytes() for key, x in kept.items() if key not in parameters),
    )


def _count(run: Callable[[], list[Tensor]]) -> tuple[Work, list[Tensor]]:
    with FlopCounterMode(display=False) as counter:
        outputs = run()
        forward = counter.get_total_flops()
        torch.stack([x.sum() for x in outputs]).sum().backward()
    return Work(forward, counter.get_total_flops()), outputs


def _tensors_of(output: HeadOutput) -> list[Tensor]:
    return [output.offsets, output.objectness, output.classes]


def compare(
    section: Section,
    settings: BenchSettings,
    variants: Mapping[str, Callable[[], Any]],
    num_labelled: int | None = None,
    warm_up: int = 2,
) -> list[str]:
    """Time variants, and add the share that they reach of the counted operations' floor.

    The floor is the time that the operations take at least, at the rate of large matrix products,
    which take turns with the variants, so that they share the machine.

    Args:
        section: takes the measurements.
        settings: sizes, precisions and device.
        variants: what to run, by ``variant, precision``.
        num_labelled: labelled frames of a training step; None for streaming one window.
        warm_up: runs of each before the first that counts.

    Returns:
        Names of the variants that could be measured.
    """
    what = "window" if num_labelled is None else "step"
    runs: dict[str, Callable[[], Any]] = {}
    for precision in settings.precision:
        with section.part(f"large products, {precision}"):
            runs[f"large products, {precision}"] = large_product(settings, precision)
    runs |= variants
    times = measure(runs, settings.repeats, settings.device, section, warm_up)
    measured = [name for name in times if name in variants]
    fastest = add_variants(section, {name: times[name] for name in measured}, f"{what}s/s")
    with section.part("arithmetic"):
        work = count(settings)
        section.add("parameters", work.parameter_bytes / 1e6, "MB")
        flops = operations(work, settings, num_labelled)
        if num_labelled is not None:
            kept = "kept for the backward pass, a labelled frame"
            section.add(kept, work.activation_bytes / 1e6, "MB")
        section.add(f"operations of a {what}", flops / 1e9, "GFLOP")
        for kind, best in fastest.items():
            name = f"large products, {kind}"
            if name in times:
                # The fastest product counts, as it is a limit.
                rate = product_operations(settings) / min(times[name]) / 1e9
                floor_ms = flops / rate / 1e6
                section.add(name, rate, "GFLOP/s")
                note = f"{best.name} reaches {floor_ms / best.value:.0%} of the rate"
                section.add(f"floor, {kind}", floor_ms, "ms", note)
                for each in section.measurements:
                    if each.name in measured and each.name.endswith(f", {kind}"):
                        each.note += f", {floor_ms / each.value:.0%} of the arithmetic's rate"
    return measured


def operations(work: Arithmetic, settings: BenchSettings, num_labelled: int | None) -> float:
    """Operations of a training step with labelled frames, or of one window where it is None."""
    if num_labelled is None:
        return work.backbone.forward + work.rest.forward
    # The backbone sees all frames, pyramid and head the labelled ones only.
    of_backbone = work.backbone.training * settings.steps * settings.lanes
    return of_backbone + work.rest.training * num_labelled


def large_product(settings: BenchSettings, precision: Precision) -> Callable[[], Tensor]:
    """A large matrix product: what arithmetic can reach on a device."""
    dtype = DTYPES[precision]
    if settings.device.type == "cpu" and dtype == torch.float16:
        raise ValueError("processors emulate half precision: no rate to compare with")
    side = _side(settings)
    matrix = torch.randn(side, side, device=settings.device, dtype=dtype)
    return partial(torch.mm, matrix, matrix)


def product_operations(settings: BenchSettings) -> int:
    """Operations of a large product."""
    return 2 * _side(settings) ** 3


def _side(settings: BenchSettings) -> int:
    return 8192 if settings.device.type == "cuda" else 2048
