"""What computes predictions window by window, with the state inside, and which runtime does it."""

from __future__ import annotations

import logging
import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol

from numpy.typing import NDArray

from etram_det.errors import UserError
from etram_det.inference.exported_file import ExportedDetector
from etram_det.inference.postprocessing import Predictions

if TYPE_CHECKING:
    from etram_det.models.detector import Detector

Precision = Literal["float32", "bfloat16"]
Runtime = Literal["auto", "pytorch", "onnxruntime", "openvino"]
_EXTRAS = {"pytorch": "torch", "onnxruntime": "onnx", "openvino": "openvino"}

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """A network on one stream of frames.

    Attributes:
        name: runtime, device and precision, for people.
    """

    name: str

    def run(self, frame: NDArray[Any]) -> Predictions:
        """Predict in the next window.

        Args:
            frame: ``[C, H, W]``. Another size than before starts a new stream.

        Raises:
            UserError: the network was exported for frames of another size.
        """
        ...

    def reset(self) -> None:
        """Start a new recording."""
        ...


class ExportedEngine(Engine, Protocol):
    """An engine on an exported file, whose state can be read and replaced."""

    @property
    def state(self) -> list[NDArray[Any]]:
        """Hidden, then cell state ``[1, C, h, w]`` of each stage, after the latest window."""
        ...

    @state.setter
    def state(self, state: list[NDArray[Any]]) -> None: ...


def engine_for(
    source: Detector | ExportedDetector, runtime: Runtime, precision: Precision, device: str
) -> Engine:
    """An engine for a detector, named in a line of the log unless ``pytorch`` is asked for.

    Args:
        source: PyTorch's detector, or an exported one.
        runtime: ``auto`` takes PyTorch for the former; for the latter ONNX Runtime where it has
            CUDA, else OpenVINO, else ONNX Runtime, whichever is installed.
        precision: of the computation. PyTorch and OpenVINO have ``bfloat16``.
        device: ``auto``, ``cpu``; PyTorch and ONNX Runtime: ``cuda:1`` and so on; ONNX Runtime:
            ``tensorrt``; OpenVINO: ``gpu`` and ``npu`` of Intel.

    Raises:
        UserError: the runtime is not installed, cannot read the file, or lacks precision or device.
    """
    if isinstance(source, ExportedDetector):
        return exported_engine(source, runtime, precision, device)
    if runtime not in ("auto", "pytorch"):
        raise UserError(
            f"runtime: must be auto or pytorch for a checkpoint, got {runtime}: use an exported "
            "file (python -m etram_det export --ckpt_path FILE.ckpt --output FILE.onnx)"
        )
    require_installed("pytorch")
    from etram_det.inference.pytorch_engine import PyTorchEngine

    engine = PyTorchEngine(source, precision, device)
    if runtime == "auto":
        _log.info("runtime: %s", engine.name)
    return engine


def exported_engine(
    source: ExportedDetector,
    runtime: Runtime = "auto",
    precision: Precision = "float32",
    device: str = "auto",
) -> ExportedEngine:
    """An engine for an exported detector; arguments and errors are those of :func:`engine_for`."""
    if runtime == "pytorch":
        raise UserError(
            f"runtime: must be auto, onnxruntime or openvino for {source.path}, got pytorch: "
            "use the checkpoint that it was exported from"
        )
    chosen = _for_exported(source, precision, device) if runtime == "auto" else runtime
    require_installed(chosen)
    engine: ExportedEngine
    if chosen == "openvino":
        from etram_det.inference.openvino_engine import OpenVINOEngine

        engine = OpenVINOEngine(source, precision, device)
    else:
        from etram_det.inference.onnxruntime_engine import ONNXRuntimeEngine

        engine = ONNXRuntimeEngine(source, precision, device)
    _log.info("runtime: %s", engine.name)
    return engine


def require_installed(runtime: str) -> None:
    """Refuse a runtime that is not installed.

    Raises:
        UserError: naming what to install.
    """
    package = {"pytorch": "torch"}.get(runtime, runtime)
    if find_spec(package) is None:
        extra = "" if runtime == "pytorch" else f", of the extra [{_EXTRAS[runtime]}]"
        raise UserError(
            f"runtime: must be installed, got {runtime}, which is not: use pip install "
            f"{package}{extra}"
        )


def num_threads() -> int:
    """Threads that an engine may use: of ``OMP_NUM_THREADS``, or 0 for the runtime's own choice."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else 0


def _for_exported(source: ExportedDetector, precision: Precision, device: str) -> Runtime:
    """The runtime that ``auto`` stands for with an exported file."""
    kind = device.partition(":")[0]
    if kind in ("cuda", "tensorrt"):
        return "onnxruntime"
    if kind in ("gpu", "npu") or precision == "bfloat16":
        return "openvino"
    has_openvino, has_onnxruntime = map(find_spec, ("openvino", "onnxruntime"))
    if has_onnxruntime and (not has_openvino or (device == "auto" and _has_cuda())):
        return "onnxruntime"
    if has_openvino:
        return "openvino"
    raise UserError(
        f"runtime: must be installed to read {source.path}, got neither openvino nor onnxruntime: "
        "use pip install openvino, of the extra [openvino], or onnxruntime, of the extra [onnx]"
    )


def _has_cuda() -> bool:
    """Whether ONNX Runtime is installed in its build for CUDA and finds it."""
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
