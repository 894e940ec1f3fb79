"""Object detection on event-camera recordings of traffic.

The public names are imported when they are first used, so that importing the package takes some
milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etram_det.data.datamodule import EventDataModule as EventDataModule
    from etram_det.data.labels import LabelSettings as LabelSettings
    from etram_det.data.layouts import open_recording as open_recording
    from etram_det.data.representation import FrameSettings as FrameSettings
    from etram_det.errors import UserError as UserError
    from etram_det.inference.streaming_detector import StreamingDetector as StreamingDetector
    from etram_det.metrics.size_binned_map import SizeBinnedMAP as SizeBinnedMAP
    from etram_det.models.box_losses import SizeAwareIOULoss as SizeAwareIOULoss
    from etram_det.models.class_losses import SizeAwareFocalLoss as SizeAwareFocalLoss
    from etram_det.models.detector import Detector as Detector
    from etram_det.models.losses import SizeAwareLossWrapper as SizeAwareLossWrapper
    from etram_det.simulator.dataset import SimulationSettings as SimulationSettings
    from etram_det.simulator.dataset import simulate as simulate
    from etram_det.training.module import DetectionModule as DetectionModule
    from etram_det.types import Batch as Batch
    from etram_det.types import Detections as Detections
    from etram_det.types import Labels as Labels

__version__ = "0.2.0"

_MODULE_OF = {
    "Batch": "types",
    "DetectionModule": "training.module",
    "Detections": "types",
    "Detector": "models.detector",
    "EventDataModule": "data.datamodule",
    "FrameSettings": "data.representation",
    "LabelSettings": "data.labels",
    "Labels": "types",
    "SimulationSettings": "simulator.dataset",
    "SizeAwareFocalLoss": "models.class_losses",
    "SizeAwareIOULoss": "models.box_losses",
    "SizeAwareLossWrapper": "models.losses",
    "SizeBinnedMAP": "metrics.size_binned_map",
    "StreamingDetector": "inference.streaming_detector",
    "UserError": "errors",
    "open_recording": "data.layouts",
    "simulate": "simulator.dataset",
}
__all__ = ("__version__", *_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
