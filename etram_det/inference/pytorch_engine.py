"""Detection by PyTorch, which is imported when the engine is made, not with this module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etram_det.errors import UserError
from etram_det.inference.postprocessing import Predictions
from etram_det.types import State

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from etram_det.models.detector import Detector


class PyTorchEngine:
    """A detector that goes on from window to window, in its fastest form for this.

    It works on a copy, whose batch normalisation is merged into the convolutions.

    Args:
        detector: as trained.
        dtype: of all weights but those of the LSTMs, by name or as PyTorch's: ``bfloat16`` is
            faster where the processor has it. State and decoding stay in float32.
        device: ``auto`` for the first CUDA device, where there is one; or ``cpu``, ``cuda:1`` and
            so on. Unset: the detector's.
        compile: whether to compile the detector's parts by ``torch.compile``.
        cuda_graph: whether to record one window's work and replay it, which spares the launches;
            needs a CUDA device. Unset: where ``device`` is one.

    Attributes:
        name: runtime, device and precision, for people.
        state: one (hidden, cell) pair ``[B, C, h, w]`` for each stage; None before any window.

    Raises:
        UserError: there is no such device, or it does not compute in bfloat16.
    """

    def __init__(
        self,
        detector: Detector,
        dtype: str | torch.dtype = "float32",
        device: str | None = None,
        compile: bool = False,
        cuda_graph: bool | None = None,
    ) -> None:
        import torch

        from etram_det.models.arithmetic import lacks_bfloat16
        from etram_det.models.one_window import for_streams

        self.dtype: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        self.detector = for_streams(detector, self.dtype)
        if device is not None:
            self.detector.to(_device(device))
        self._device = next(self.detector.parameters()).device
        if self.dtype == torch.bfloat16 and lacks_bfloat16(self._device):
            raise UserError(
                f"precision: must be float32 on {torch.cuda.get_device_name(self._device)}, which "
                "does not compute in bfloat16, got bfloat16: set float32"
            )
        if compile:
            self.detector.compile_parts()
        self.state: State | None = None
        self._cuda_graph = self._device.type == "cuda" if cuda_graph is None else cuda_graph
        self._captured: _CapturedGraph | None = None
        self._frame_shape: tuple[int, ...] = ()
        precision = str(self.dtype).removeprefix("torch.")
        self.name = f"PyTorch {torch.__version__} on {self._device}, {precision}"

    def run(self, frame: NDArray[Any]) -> Predictions:
        """Predict in the next window, the frame ``[C, H, W]``, as an ``Engine`` does."""
        import torch

        if frame.shape != self._frame_shape:
            self._frame_shape = frame.shape
            self.state = self._captured = None
        return predictions_of(self(torch.from_numpy(frame)[None].to(self._device))[0])

    def __call__(self, events: Tensor) -> Tensor:
        """Predict in the next window of ``B`` streams, whose frames keep their size.

        Args:
            events: ``[B, 2 * bins, H, W]``, any numeric type, on the detector's device.

        Returns:
            ``[B, A, 5 + K]``: cx, cy, w, h in pixels, objectness and class probabilities.
        """
        if not self._cuda_graph:
            return self.predict(self.features(events))
        if self._captured is None:
            self._captured = _CapturedGraph(self, events)
        return self._captured.replay(events)

    def features(self, events: Tensor) -> list[Tensor]:
        """Backbone features ``[B, C_s, h_s, w_s]`` of the next window; carries the state on.

        Args:
            events: ``[B, 2 * bins, H, W]``.
        """
        import torch

        with torch.no_grad():
            features, self.state = self.detector.features(events[None], self.state)
        return features

    def predict(self, features: list[Tensor]) -> Tensor:
        """Decoded predictions ``[B, A, 5 + K]`` of features ``[B, C_s, h_s, w_s]``."""
        import torch

        with torch.no_grad():
            return self.detector.predict([x.to(self.dtype) for x in features]).decode()

    def reset(self) -> None:
        """Start a new recording."""
        if self._captured is None:
            self.state = None
        elif self.state is not None:
            # A captured graph knows these very tensors.
            for part in (part for pair in self.state for part in pair):
                part.zero_()


def predictions_of(decoded: Tensor) -> Predictions:
    """The head's decoded output ``[A, 5 + K]`` of one window on the host, boxes as ``xyxy``."""
    found = decoded.cpu().numpy()
    centre, half = found[:, :2], 0.5 * found[:, 2:4]
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return Predictions(boxes, found[:, 4], found[:, 5:])


class _CapturedGraph:
    """The work of one window as a CUDA graph, between tensors that stay where they are."""

    def __init__(self, engine: PyTorchEngine, events: Tensor) -> None:
        import torch

        self._events = events.clone()
        # Streams and graphs belong to the current device, which need not be that of the events.
        with torch.cuda.device(events.device):
            self._capture(engine)

    def _capture(self, engine: PyTorchEngine) -> None:
        import torch

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        before = engine.state
        with torch.cuda.stream(side):
            for _ in range(3):  # whatever is chosen, compiled or allocated once
                engine.predict(engine.features(self._events))
        torch.cuda.current_stream().wait_stream(side)
        assert engine.state is not None
        warm = engine.state
        state = [(hidden.clone(), cell.clone()) for hidden, cell in before or warm]
        engine.state = state
        if before is None:
            for part in (part for pair in state for part in pair):
                part.zero_()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=side):
            self._decoded = engine.predict(engine.features(self._events))
            for pair, new_pair in zip(state, engine.state, strict=True):
                for part, new in zip(pair, new_pair, strict=True):
                    part.copy_(new)
        engine.state = state

    def replay(self, events: Tensor) -> Tensor:
        """Decoded predictions ``[B, A, 5 + K]`` of the next window ``[B, 2 * bins, H, W]``."""
        import torch

        with torch.cuda.device(events.device):
            self._events.copy_(events)
            self._graph.replay()
            return self._decoded.clone()


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device: must be auto, cpu or a device that PyTorch finds, got {name} "
            f"({str(error).splitlines()[0]}): set auto or cpu"
        ) from error
    return device
