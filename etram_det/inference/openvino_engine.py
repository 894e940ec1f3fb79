"""Detection by OpenVINO, which is imported when the engine is made."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.errors import UserError
from etram_det.inference.engine import num_threads
from etram_det.inference.exported_file import PREDICTIONS, STATE, ExportedDetector
from etram_det.inference.postprocessing import Predictions

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


@cache
def _core() -> Any:
    """OpenVINO, once for the whole process.

    It gives the thread that loads it a stack for signal handlers and takes it back with the last
    reference. Where another thread drops that, the next signal ends the process.
    """
    import openvino

    return openvino.Core()


class OpenVINOEngine:
    """An exported detector that goes on from window to window.

    Two sets of tensors hold the old and the new state by turns, so that nothing is copied.

    Args:
        exported: the file.
        precision: of the computation. The processor must have ``bfloat16``.
        device: ``auto`` and ``cpu`` for the processor, ``gpu`` and ``npu`` for those of Intel.

    Attributes:
        name: runtime, device and precision, for people.

    Raises:
        UserError: the file cannot be read, or precision or device are not there.
    """

    def __init__(
        self, exported: ExportedDetector, precision: str = "float32", device: str = "auto"
    ) -> None:
        import openvino

        self._exported, self._tensor = exported, openvino.Tensor
        core = _core()
        place = "CPU" if device == "auto" else device.upper().replace(":", ".")
        # To look for others loads the plugins of all of them.
        known = ["cpu"] if place == "CPU" else [name.lower() for name in core.available_devices]
        if place.lower() not in known:
            raise UserError(
                f"device: must be auto, {', '.join(known)} with this OpenVINO, got {device}: set "
                "one of these"
            )
        if precision == "bfloat16" and "BF16" not in core.get_property(
            place, "OPTIMIZATION_CAPABILITIES"
        ):
            raise UserError(
                "precision: must be float32 on this processor, got bfloat16, for which it lacks "
                "avx512_bf16 and AMX: use --precision float32"
            )
        self._hints: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
        }
        if place == "CPU" and num_threads():
            self._hints["INFERENCE_NUM_THREADS"] = num_threads()
        self._core, self._place = core, place
        self._frame_shape: tuple[int, ...] = ()
        try:
            self._model = core.read_model(str(exported.path))
            if exported.input_size is not None:
                self._compile((1, exported.frame_settings.channels, *exported.input_size))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{exported.path}: cannot be read by OpenVINO {openvino.__version__} ({reason}): "
                "use another release of it, or export again"
            ) from error
        release = openvino.__version__.partition("-")[0]
        self.name = f"OpenVINO {release} on {place.lower()}, {precision}"

    def run(self, frame: NDArray[Any]) -> Predictions:
        """Predict in the next window, the frame ``[C, H, W]``, as an ``Engine`` does."""
        events = self._exported.events_of(frame)
        if events.shape != self._frame_shape:
            self._compile(events.shape)
        request, (before, after) = self._request, self._states
        request.set_tensor("events", self._tensor(events, shared_memory=True))
        for name, old, new in zip(STATE, before, after, strict=True):
            request.set_tensor(name, old)
            request.set_tensor(f"new_{name}", new)
        request.infer()
        self._states.reverse()
        # Its own tensors are overwritten by the next window.
        return Predictions(*(request.get_tensor(name).data[0].copy() for name in PREDICTIONS))

    def reset(self) -> None:
        """Start a new recording."""
        for tensor in self._states[0] if self._frame_shape else ():
            tensor.data[:] = 0

    @property
    def state(self) -> list[NDArray[np.float32]]:
        """Hidden, then cell state ``[1, C, h, w]`` of each stage."""
        return [each.data.copy() for each in self._states[0]]

    @state.setter
    def state(self, state: list[NDArray[np.float32]]) -> None:
        for tensor, each in zip(self._states[0], state, strict=True):
            tensor.data[:] = each

    def _compile(self, shape: tuple[int, ...]) -> None:
        """Compile for events ``[1, C, H, W]``, and start with an empty state."""
        state_shapes = self._exported.state_shapes(*shape[-2:])
        self._model.reshape({"events": shape, **dict(zip(STATE, state_shapes, strict=True))})
        compiled = self._core.compile_model(self._model, self._place, self._hints)
        if self._exported.input_size is not None:
            self._model = None  # it is compiled for no other size, and takes memory
        self._request = compiled.create_infer_request()
        self._states = [
            [self._tensor(np.zeros(each, np.float32)) for each in state_shapes] for _ in range(2)
        ]
        self._frame_shape = shape
