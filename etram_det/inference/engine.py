"""Inference window by window, with the state inside."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from etram_det.models.detector import Detector
from etram_det.models.fpn import ConvBlock
from etram_det.types import State


class DetectorStream:
    """A detector that goes on from window to window, in its fastest form for this.

    It works on a copy, whose batch normalisation is merged into the convolutions.

    Args:
        detector: as trained.
        dtype: of all weights but those of the LSTMs: ``torch.bfloat16`` is faster where the
            processor has it. State and decoding stay in float32.
        compile: whether to compile the detector's parts by ``torch.compile``.
        cuda_graph: whether to record one window's work and replay it, which spares the launches;
            needs a CUDA device, and frames of one size.

    Attributes:
        state: one (hidden, cell) pair ``[B, C, h, w]`` for each stage; None before any window.
    """

    def __init__(
        self,
        detector: Detector,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        self.detector = copy.deepcopy(detector).eval()
        for module in self.detector.modules():
            if isinstance(module, ConvBlock):
                module.fold()
        for name, parameter in self.detector.named_parameters():
            if ".lstm." not in name:
                parameter.data = parameter.data.to(dtype)
        if compile:
            self.detector.compile_parts()
        self.dtype = dtype
        self.state: State | None = None
        self._recording: _Recording | None = None
        self._cuda_graph = cuda_graph

    def __call__(self, events: Tensor) -> Tensor:
        """Detect in the next window.

        Args:
            events: ``[B, 2 * bins, H, W]``, any numeric type, on the detector's device.

        Returns:
            ``[B, A, 5 + K]``: cx, cy, w, h in pixels, objectness and class probabilities.
        """
        if not self._cuda_graph:
            return self.predict(self.features(events))
        if self._recording is None:
            self._recording = _Recording(self, events)
        return self._recording.replay(events)

    @torch.no_grad()
    def features(self, events: Tensor) -> list[Tensor]:
        """Backbone features ``[B, C_s, h_s, w_s]`` of the next window; carries the state on."""
        features, self.state = self.detector.features(events[None], self.state)
        return features

    @torch.no_grad()
    def predict(self, features: list[Tensor]) -> Tensor:
        """Decoded predictions ``[B, A, 5 + K]`` of features ``[B, C_s, h_s, w_s]``."""
        return self.detector.predict([x.to(self.dtype) for x in features]).decode()

    def reset(self) -> None:
        """Start a new recording."""
        if self._recording is None:
            self.state = None
        elif self.state is not None:
            # A recorded graph knows these very tensors.
            for part in (part for pair in self.state for part in pair):
                part.zero_()


class _Recording:
    """The work of one window as a CUDA graph, between tensors that stay where they are."""

    def __init__(self, stream: DetectorStream, events: Tensor) -> None:
        self._events = events.clone()
        # Streams and graphs belong to the current device, which need not be that of the events.
        with torch.cuda.device(events.device):
            self._record(stream)

    def _record(self, stream: DetectorStream) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        before = stream.state
        with torch.cuda.stream(side):
            for _ in range(3):  # whatever is chosen, compiled or allocated once
                stream.predict(stream.features(self._events))
        torch.cuda.current_stream().wait_stream(side)
        assert stream.state is not None
        warm = stream.state
        state = [(hidden.clone(), cell.clone()) for hidden, cell in before or warm]
        stream.state = state
        if before is None:
            for part in (part for pair in state for part in pair):
                part.zero_()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=side):
            self._decoded = stream.predict(stream.features(self._events))
            for pair, new_pair in zip(state, stream.state, strict=True):
                for part, new in zip(pair, new_pair, strict=True):
                    part.copy_(new)
        stream.state = state

    def replay(self, events: Tensor) -> Tensor:
        """Decoded predictions ``[B, A, 5 + K]`` of the next window, in a tensor of their own."""
        with torch.cuda.device(events.device):
            self._events.copy_(events)
            self._graph.replay()
            return self._decoded.clone()
