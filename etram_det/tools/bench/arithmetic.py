"""What the model asks for: operations and bytes, counted without computing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from etram_det.models.head import HeadOutput
from etram_det.tools.bench.measure import LargeProduct, Measurement, Section
from etram_det.tools.bench.settings import DTYPES, BenchSettings


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
    events = torch.empty(1, 1, 20, *settings.input_size, dtype=torch.uint8, device=meta)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        """Note a tensor ``[*]`` by its memory."""
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
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


class Floors:
    """The time that counted operations take at least, at the rate of large products.

    Args:
        settings: precisions and device.
        section: where those that cannot be had are noted.

    Attributes:
        runs: products to be timed in turn with the variants, so that they share the machine.
    """

    def __init__(self, settings: BenchSettings, section: Section) -> None:
        self._products: dict[str, LargeProduct] = {}
        for precision in settings.precision:
            with section.part(f"large products, {precision}"):
                self._products[precision] = LargeProduct(settings.device, DTYPES[precision])
        self.runs = {f"large products, {name}": run for name, run in self._products.items()}

    def add(
        self,
        section: Section,
        flops: float,
        what: str,
        times: dict[str, list[float]],
        fastest: dict[str, Measurement],
    ) -> None:
        """Add operations, rates, and the share of the floor that is reached.

        Args:
            section: takes the measurements.
            flops: operations of the measured work.
            what: the measured work in words.
            times: durations in seconds by name; those of the products are among them.
            fastest: the fastest variant of each precision.
        """
        section.add(f"operations of {what}", flops / 1e9, "GFLOP")
        for precision, product in self._products.items():
            name = f"large products, {precision}"
            if name not in times or precision not in fastest:
                continue
            rate, best = product.rate(times[name]), fastest[precision]
            floor_ms = flops / rate / 1e6
            section.add(name, rate, "GFLOP/s")
            note = f"{best.name} reaches {floor_ms / best.value:.0%} of the rate"
            section.add(f"floor, {precision}", floor_ms, "ms", note)
