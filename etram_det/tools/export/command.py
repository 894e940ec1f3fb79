"""``python -m etram_det export``: a checkpoint as an ONNX file."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etram_det.cli.resume import named_checkpoint
from etram_det.data.representation import SENSOR_SIZE
from etram_det.errors import UserError
from etram_det.files import replacing
from etram_det.inference.exported_file import SUFFIX, ExportedDetector, Thresholds
from etram_det.inference.streaming_detector import TrainedDetector, read_detector
from etram_det.progress import screen

if TYPE_CHECKING:
    from etram_det.tools.export.check import Agreement

# Largest differences from PyTorch in float32 that are no fault.
_TOLERANCE, _TOLERANCE_HALF = 1e-4, 0.1

_log = logging.getLogger(__name__)


def export_command(
    ckpt_path: Path | None = None,
    output: Path | None = None,
    input_size: tuple[int, int] | Literal["dynamic"] | None = None,
    dynamic_batch: bool = False,
    half: bool = False,
    score: float = 0.3,
    nms: float = 0.45,
    max_detections: int = 300,
    recording: Path | None = None,
) -> None:
    """Turn a checkpoint into an ONNX file that ``detect`` runs without PyTorch.

    It computes one window, the state goes in and out. Before it takes its name, 100 windows of a
    recording are compared with PyTorch.

    Args:
        ckpt_path: the detector's checkpoint; ``last``, ``best``: that of the newest run; required.
        output: the file to write (.onnx); required.
        input_size: height and width of the frames in pixels, or ``dynamic`` for any size; as in the
            checkpoint's training unless set.
        dynamic_batch: take any number of streams at once, not one alone.
        half: weights and computation in float16, for accelerators: half the size. State and
            predictions stay in float32.
        score: least score of a detection that the file names, in [0, 1].
        nms: IoU that the file names, above which the lower-scored of two boxes of a class is
            dropped.
        max_detections: detections of a window that the file names.
        recording: to compare on, any that ``detect`` takes; simulated traffic unless set.

    Raises:
        UserError: a setting or file does not fit, a package is missing, or the exported detector
            computes something else. Nothing is written then.
    """
    thresholds = Thresholds(score, nms, max_detections)
    if ckpt_path is None:
        raise UserError("ckpt_path: must be a checkpoint, got none: use --ckpt_path FILE.ckpt")
    if output is None or output.suffix.lower() != SUFFIX:
        raise UserError(f"output: must be a file named {SUFFIX}, got {output}: use --output X.onnx")
    from etram_det.tools.export.check import compare, frames_of
    from etram_det.tools.export.graph import export_detector, require_export_packages

    require_export_packages()
    path, output = Path(named_checkpoint(ckpt_path, "ckpt_path")).expanduser(), output.expanduser()
    trained = read_detector(path)
    size = _frame_size(trained, None if input_size == "dynamic" else input_size)
    console = screen(stderr=True)
    how: dict[str, Any] = dict(
        input_size=None if input_size == "dynamic" else size,
        dynamic_batch=dynamic_batch,
        half=half,
        thresholds=thresholds,
        fingerprint=_sha256(path),
    )
    try:
        with (
            frames_of(recording, trained.frame_settings, size) as (name, frames),
            replacing(output) as unfinished,
        ):
            with console.status("exporting: about half a minute"):
                exported = export_detector(trained, unfinished, **how)
            with console.status(f"comparing with PyTorch on {name}"):
                agreement = compare(trained, exported, frames)
            _require(agreement, name, _TOLERANCE_HALF if half else _TOLERANCE)
    except OSError as error:
        raise UserError(
            f"output: {output} cannot be written ({error.strerror or error}): choose another",
            exit_code=1,
        ) from error
    screen().out(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, {_summary(exported, agreement, name)}"
    )


def _summary(exported: ExportedDetector, agreement: Agreement, name: str) -> str:
    """What was exported, and how far it is from PyTorch on a recording of that name."""
    size = exported.input_size
    side = "any size" if size is None else f"{size[0]}x{size[1]}"
    return (
        f"{exported.precision}, frames of {side}; differs from PyTorch by at most "
        f"{agreement.largest:.1e} on {agreement.windows} windows of {name}"
    )


def _frame_size(trained: TrainedDetector, given: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the frames; what is a guess is logged."""
    settings = replace(
        trained.frame_settings, input_size=given or trained.frame_settings.input_size
    )
    if settings.input_size is not None:
        return settings.input_size
    height, width = settings.sensor_size or SENSOR_SIZE
    _log.info(
        "input_size: the checkpoint holds none: using %d %d, half of the sensor's",
        height // 2,
        width // 2,
    )
    return height // 2, width // 2


def _require(agreement: Agreement, name: str, tolerance: float) -> None:
    """Refuse an exported detector that is too far from the checkpoint's."""
    if agreement.largest <= tolerance:
        return
    found = ", ".join(f"{part} {value:.1e}" for part, value in agreement.differences.items())
    raise UserError(
        f"export: must agree with PyTorch to {tolerance:g}, got differences of {found} on "
        f"{agreement.windows} windows of {name}: nothing is written; use other releases of torch "
        "and onnxruntime, or leave --half out",
        exit_code=1,
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
