"""Detection by ONNX Runtime, which is imported when the engine is made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.errors import UserError
from etram_det.inference.engine import num_threads
from etram_det.inference.exported_file import PREDICTIONS, STATE, ExportedDetector
from etram_det.inference.postprocessing import Predictions

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_FATAL = 4  # severity from which on ONNX Runtime logs: errors are raised as well


class ONNXRuntimeEngine:
    """An exported detector that goes on from window to window; the state stays on the device.

    Args:
        exported: the file.
        precision: ``float32``.
        device: ``auto`` for CUDA where there is one, ``cpu``, ``cuda``, ``cuda:1``, ``tensorrt``
            and so on.

    Attributes:
        name: runtime, device and precision, for people.

    Raises:
        UserError: the file cannot be read, or precision or device are not there.
    """

    def __init__(
        self, exported: ExportedDetector, precision: str = "float32", device: str = "auto"
    ) -> None:
        import onnxruntime

        if precision != "float32":
            raise UserError(
                f"precision: must be float32 with ONNX Runtime, got {precision}: use --runtime "
                "openvino"
            )
        self._exported = exported
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = num_threads()
        # Planned memory took 80 MB more and no time less; threads that wait by spinning took half
        # of the time from whatever else ran on the same cores.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        kind, self._number = _place(device, onnxruntime.get_available_providers())
        session = _session(exported, options, kind, self._number)
        if session is None:  # built for CUDA, on a machine without it
            kind, session = "cpu", _session(exported, options, "cpu", 0)
            if device != "auto":
                raise UserError(
                    f"device: must be one that ONNX Runtime can start, got {device}: install its "
                    "libraries, or set cpu"
                )
        self._session, self._device = session, "cpu" if kind == "cpu" else "cuda"
        self._state: list[Any] = []
        self._value_of = onnxruntime.OrtValue.ortvalue_from_numpy
        self._frame_shape: tuple[int, ...] = ()
        where = kind if kind == "cpu" else f"{kind}:{self._number}"
        self.name = f"ONNX Runtime {onnxruntime.__version__} on {where}, {exported.precision}"

    def run(self, frame: NDArray[Any]) -> Predictions:
        """Predict in the next window, the frame ``[C, H, W]``, as an ``Engine`` does."""
        events = self._exported.events_of(frame)
        if events.shape != self._frame_shape:
            self._frame_shape = events.shape
            self.reset()
        binding = self._session.io_binding()
        binding.bind_cpu_input("events", events)
        for name in PREDICTIONS:
            binding.bind_output(name, "cpu")
        for name, value in zip(STATE, self._state, strict=True):
            binding.bind_ortvalue_input(name, value)
            binding.bind_output(f"new_{name}", self._device, self._number)
        self._session.run_with_iobinding(binding)
        boxes, objectness, classes, *self._state = binding.get_outputs()
        return Predictions(*(each.numpy()[0] for each in (boxes, objectness, classes)))

    def reset(self) -> None:
        """Start a new recording."""
        if self._frame_shape:
            shapes = self._exported.state_shapes(*self._frame_shape[-2:])
            zeros = (np.zeros(shape, np.float32) for shape in shapes)
            self._state = [self._value_of(each, self._device, self._number) for each in zeros]

    @property
    def state(self) -> list[NDArray[np.float32]]:
        """Hidden, then cell state ``[1, C, h, w]`` of each stage."""
        return [each.numpy() for each in self._state]

    @state.setter
    def state(self, state: list[NDArray[np.float32]]) -> None:
        self._state = [self._value_of(each, self._device, self._number) for each in state]


def _session(exported: ExportedDetector, options: Any, kind: str, number: int) -> Any:
    """The session on a device of that kind; None where it cannot be started there.

    Raises:
        UserError: the file cannot be read.
    """
    import onnxruntime

    providers: list[Any] = [_PROVIDERS["cpu"]]
    if kind != "cpu":
        providers.insert(0, (_PROVIDERS[kind], {"device_id": number}))
    try:
        # Left to itself, it prints why it falls back, on standard output.
        session = onnxruntime.InferenceSession(
            str(exported.path), options, providers=providers, enable_fallback=0
        )
    except _errors_of(onnxruntime) as error:
        if kind != "cpu":
            return None
        raise UserError(
            f"{exported.path}: cannot be read by ONNX Runtime {onnxruntime.__version__} "
            f"({str(error).splitlines()[0]}): use another release of it, or export again"
        ) from error
    return session if session.get_providers()[0] == _PROVIDERS[kind] else None


def _errors_of(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """The errors that ONNX Runtime raises, which have no class of their own above them."""
    kinds = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    own = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))
    return (RuntimeError, ValueError, *own)


def _place(device: str, available: list[str]) -> tuple[str, int]:
    """Kind of a device and its number."""
    known = [kind for kind, provider in _PROVIDERS.items() if provider in available]
    if device == "auto":
        return ("cuda" if "cuda" in known else "cpu"), 0
    kind, _, number = device.partition(":")
    if kind not in known or not (number or "0").isdecimal():
        raise UserError(
            f"device: must be auto, {', '.join(known)} with this ONNX Runtime, got {device}: set "
            "one of these"
        )
    return kind, int(number or 0)
