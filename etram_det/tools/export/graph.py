"""A detector as an ONNX file: one window with explicit state, and what the file says of itself."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from etram_det import __version__
from etram_det.errors import UserError
from etram_det.inference.exported_file import (
    PREDICTIONS,
    STATE,
    ExportedDetector,
    Thresholds,
)
from etram_det.inference.streaming_detector import TrainedDetector
from etram_det.models.backbone import STRIDES
from etram_det.models.detector import Detector
from etram_det.models.one_window import OneWindow, for_streams

# What ONNX Runtime 1.23 reads, the last one for Python 3.10; tests hold the export to it.
OPSET, IR_VERSION = 20, 10
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_MOST = 64  # streams, and multiples of the size that a frame's sides may have


def require_export_packages() -> None:
    """Refuse to export where a package for it is missing.

    Raises:
        UserError: naming what to install.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"export: must have the packages {', '.join(_PACKAGES)}, got no {', '.join(missing)}: "
            "use pip install 'etram-det[export]'"
        )


def export_detector(
    trained: TrainedDetector,
    path: Path,
    *,
    input_size: tuple[int, int] | None,
    dynamic_batch: bool = False,
    half: bool = False,
    thresholds: Thresholds | None = None,
    fingerprint: str = "",
) -> ExportedDetector:
    """Write a detector as an ONNX file.

    Args:
        trained: the detector, on the CPU, with what its file says of itself.
        path: the file to write.
        input_size: height and width of the frames in pixels; None for any.
        dynamic_batch: whether the file takes any number of streams, not one alone.
        half: whether weights and computation are in float16. State and predictions stay in float32.
        thresholds: that make a prediction a detection, unless others are set.
        fingerprint: of the checkpoint.

    Raises:
        OSError: the file cannot be written.
    """
    detector = trained.detector
    multiple = detector.backbone.size_multiple
    exported = ExportedDetector(
        path,
        class_names=trained.class_names,
        frame_settings=replace(
            trained.frame_settings, input_size=input_size or trained.frame_settings.input_size
        ),
        thresholds=thresholds or trained.thresholds,
        input_size=input_size,
        size_multiple=multiple,
        state=tuple(zip(detector.backbone.dims, STRIDES, strict=True)),
        network=trained.network,
        precision="float16" if half else "float32",
        version=__version__,
        fingerprint=fingerprint,
        knows_simulation_only=trained.knows_simulation_only,
    )
    _write(detector, exported, dynamic_batch)
    return exported


def _write(detector: Detector, exported: ExportedDetector, dynamic_batch: bool) -> None:
    """Write the file of an exported detector."""
    multiple, half = exported.size_multiple, exported.precision == "float16"
    batch, size = (2 if dynamic_batch else 1), exported.input_size or (2 * multiple, 3 * multiple)
    frames = exported.frame_settings
    events = torch.zeros(batch, frames.channels, *size, dtype=_torch_dtype(frames.dtype))
    state = [torch.zeros(shape) for shape in exported.state_shapes(*size, batch)]
    network = OneWindow(for_streams(detector, torch.float16 if half else torch.float32))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on names of axes, and on its own parts
        logging.getLogger("onnxscript").setLevel(logging.ERROR)  # on what is left to fold
        program = torch.onnx.export(
            network.eval(),
            (events, *state),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["events", *STATE],
            output_names=[*PREDICTIONS, *(f"new_{name}" for name in STATE)],
            dynamic_shapes=_dynamic_shapes(dynamic_batch, exported.input_size is None, multiple),
        )
    assert program is not None
    model = program.model
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # lines and folders of this installation
    model.metadata_props.clear()
    model.metadata_props.update(exported.metadata())
    model.producer_name, model.producer_version = "etram_det", __version__
    model.ir_version = IR_VERSION
    program.save(exported.path)


def _torch_dtype(dtype: Any) -> torch.dtype:
    return getattr(torch, str(dtype))


def _dynamic_shapes(batch: bool, size: bool, multiple: int) -> Any:
    """For events, then for the state, which sides are not fixed, and how they follow each other."""
    if not batch and not size:
        return None

    def of(stride: int) -> dict[int, Any]:
        sides = {2: multiple // stride * rows, 3: multiple // stride * columns} if size else {}
        return ({0: streams} if batch else {}) | sides

    streams, rows, columns = (
        torch.export.Dim(name, min=1, max=_MOST) for name in ("streams", "rows", "columns")
    )
    return (of(1), tuple(of(stride) for stride in STRIDES for _ in range(2)))
