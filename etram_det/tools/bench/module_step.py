"""A training step of the real module, on batches made up on the device, without Lightning."""

from __future__ import annotations

import copy
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from etram_det.data.labels import ETRAM_CLASSES
from etram_det.tools.bench.inputs import BenchSettings, Precision, autocast
from etram_det.tools.bench.train import training_batch
from etram_det.training.module import DetectionModule
from etram_det.types import Batch

# What model.compile can be set to, beside none.
COMPILED: tuple[str, ...] = tuple(
    each for each in get_args(get_type_hints(DetectionModule.__init__)["compile"]) if each != "none"
)
_CLIP = 1.0  # gradients' largest value, as in baseline.yaml


class ModuleStep:
    """One step as ``fit`` takes it: module, scaler, clipping, optimiser.

    Args:
        settings: sizes and device.
        precision: of convolutions and products.
        compile: value of ``model.compile``.

    Attributes:
        module: is trained.
    """

    def __init__(
        self, settings: BenchSettings, precision: Precision, compile: str = "none"
    ) -> None:
        self._settings, self._precision = settings, precision
        torch.manual_seed(0)
        choice: Any = compile
        self.module = DetectionModule(
            class_names=ETRAM_CLASSES,
            train_lanes=settings.lanes,
            compile=choice,
            gradient_checkpointing=settings.gradient_checkpointing,
            **settings.architecture,
        )
        self.module.to(settings.device).train()
        silent: Any = self.module  # there is no trainer to log to
        silent.log = silent.log_dict = lambda *_, **__: None
        self.optimizer = self._optimizer()
        self._scaler = torch.amp.GradScaler(settings.device.type, enabled=precision == "16-mixed")

    def __call__(self, batch: Batch) -> Tensor:
        """Take one step; returns the loss ``[]`` on the device, of a batch ``[T, B, C, H, W]``."""
        loss = self.gradients(batch)
        self._scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_value_(self.module.detector.parameters(), _CLIP)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def gradients(self, batch: Batch) -> Tensor:
        """Forward and backward pass; returns the loss ``[]`` of a batch ``[T, B, C, H, W]``."""
        with autocast(self._settings.device, self._precision):
            loss = self.module.training_step(batch, 0)
        self._scaler.scale(loss).backward()
        return loss.detach()

    def _optimizer(self) -> torch.optim.Optimizer:
        is_cuda = self._settings.device.type == "cuda"
        parameters = self.module.detector.parameters()
        return torch.optim.AdamW(parameters, lr=1e-4, fused=is_cuda, capturable=is_cuda)


class GraphedStep:
    """The same step as a CUDA graph, recorded once and replayed on each batch.

    Args:
        step: is recorded; in full or bfloat16 precision, as a scaler waits for the device.
        batch: ``[T, B, C, H, W]``; all that follow have its sizes and numbers of labels.

    Raises:
        ValueError: there is no CUDA device.
    """

    def __init__(self, step: ModuleStep, batch: Batch) -> None:
        if batch.events.device.type != "cuda":
            raise ValueError("a CUDA graph needs a CUDA device")
        self._batch = copy.deepcopy(batch)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # what is chosen, compiled or allocated once
                step(self._batch)
        torch.cuda.current_stream().wait_stream(side)
        states = step.module.train_states
        assert states.rows is not None
        rows = [(hidden.clone(), cell.clone()) for hidden, cell in states.rows]
        states.rows = rows
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=side):
            self._loss = step(self._batch)
            # The next replay reads the state where this one has read it.
            for pair, new_pair in zip(rows, states.rows, strict=True):
                for part, new in zip(pair, new_pair, strict=True):
                    part.copy_(new)
        states.rows = rows
        # A replay reads and writes the memory of these, and does not keep it.
        self._step, self._rows = step, rows

    def __call__(self, batch: Batch) -> Tensor:
        """Replay on a batch ``[T, B, C, H, W]``; returns the loss ``[]`` on the device."""
        self._batch.events.copy_(batch.events)
        for name, value in vars(batch.labels).items():
            if isinstance(value, Tensor):
                getattr(self._batch.labels, name).copy_(value)
        self._batch.reset.copy_(batch.reset)
        self._graph.replay()
        return self._loss


def made_up_batch(settings: BenchSettings) -> Batch:
    """A batch ``[T, B, 20, H, W]`` on the device, every other frame of each lane labelled."""
    events, labels = training_batch(settings)
    steps, lanes, device = settings.steps, settings.lanes, settings.device
    times_us = 50_000 * torch.arange(1, steps + 1, device=device)
    return Batch(
        events=events,
        labels=labels,
        reset=torch.zeros(lanes, dtype=torch.bool, device=device),
        lane=torch.arange(lanes, device=device),
        padded=torch.zeros(steps, lanes, dtype=torch.bool, device=device),
        time_us=times_us[:, None].expand(steps, lanes).contiguous(),
        recording=["made_up"] * lanes,
        scale=torch.full((lanes, 2), 2.0, device=device),
        stream=torch.ones(lanes, dtype=torch.bool, device=device),
    )
