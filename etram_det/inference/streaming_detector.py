"""A trained detector on a stream of events: from one file alone, window by window."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.representation import SENSOR_SIZE, FrameSettings, Representation
from etram_det.errors import UserError
from etram_det.inference.engine import Precision, Runtime, engine_for, require_installed
from etram_det.inference.exported_file import (
    SUFFIX,
    ExportedDetector,
    Thresholds,
    read_exported,
)
from etram_det.inference.placement import Placement, Resize
from etram_det.inference.postprocessing import detections_of
from etram_det.types import Detections

if TYPE_CHECKING:
    from etram_det.models.detector import Detector

# Events of a window: an array with the fields x, y, p and t, a mapping of columns, or the four
# columns in this order.
Events = NDArray[Any] | Mapping[str, NDArray[Any]] | Sequence[NDArray[Any]]

_IN_ORDER = "use reset() before a new recording, and windows in their order"


@dataclass(frozen=True)
class TrainedDetector:
    """What a checkpoint holds for detecting.

    Attributes:
        detector: the network with its weights, on the CPU.
        class_names: name of each class id.
        frame_settings: how events became frames in training.
        knows_frames: whether the checkpoint holds ``frame_settings``; where it does not, as with
            imported ones, they are the defaults with its number of bins.
        network: arguments of ``Detector`` that the checkpoint holds, ``num_classes`` included.
        knows_simulation_only: whether it was trained on simulated recordings alone.
    """

    detector: Detector
    class_names: tuple[str, ...]
    frame_settings: FrameSettings
    knows_frames: bool = True
    network: Mapping[str, Any] = field(default_factory=dict)
    knows_simulation_only: bool = False

    @property
    def thresholds(self) -> Thresholds:
        """Used unless others are set."""
        return Thresholds()


def open_detector(path: str | Path) -> TrainedDetector | ExportedDetector:
    """What a file holds for detecting.

    Args:
        path: a checkpoint (.ckpt), or an exported detector (.onnx), for which PyTorch need not be
            installed.

    Raises:
        UserError: the file is missing, damaged, or none of these.
    """
    return read_exported(path) if Path(path).suffix.lower() == SUFFIX else read_detector(path)


def read_detector(path: str | Path) -> TrainedDetector:
    """Build a detector from a checkpoint of this project, imported ones included.

    Args:
        path: the checkpoint (.ckpt).

    Raises:
        UserError: the file is missing, damaged, or no such checkpoint; or PyTorch is not installed.
    """
    require_installed("pytorch")
    from etram_det.checkpoint.contents import require_same_tensors
    from etram_det.checkpoint.file import read_checkpoint
    from etram_det.models.detector import Detector

    checkpoint = read_checkpoint(path)
    checkpoint.require_own("ckpt_path")
    settings, class_names = checkpoint.settings, tuple(checkpoint.class_names)
    architecture = {
        name: settings[name] for name in inspect.signature(Detector).parameters if name in settings
    }
    architecture["num_classes"] = len(class_names)
    detector = Detector(**architecture).eval()
    require_same_tensors(checkpoint.detector_tensors, detector.state_dict(), str(path))
    detector.load_state_dict(checkpoint.detector_tensors)  # in float32, however it is stored
    names = [each.name for each in fields(FrameSettings)]
    stored = {name: x for name, x in checkpoint.frame_settings.items() if name in names}
    for name in ("input_size", "sensor_size"):
        if stored.get(name) is not None:
            stored[name] = tuple(stored[name])
    bins = int(settings.get("in_channels", 20)) // 2
    frame_settings = FrameSettings(**({"bins": bins} | stored))
    simulated = checkpoint.knows_simulation_only
    return TrainedDetector(
        detector, class_names, frame_settings, bool(stored), architecture, simulated
    )


class StreamingDetector:
    """Detects in one window of events after the other; the state is inside.

    Example:
        >>> import numpy as np
        >>> from etram_det import Detector, FrameSettings, StreamingDetector
        >>> from etram_det.inference.streaming_detector import TrainedDetector
        >>> network = Detector(num_classes=2, embed_dim=8, dim_head=4)
        >>> trained = TrainedDetector(network, ("pedestrian", "car"), FrameSettings())
        >>> detector = StreamingDetector(trained, sensor_size=(96, 128))  # or "best.ckpt"
        >>> t = np.arange(90)
        >>> detections = detector({"x": t, "y": t, "p": t % 2, "t": t})  # pixels, 0 or 1, µs
        >>> detections.boxes.shape, detections.scores.shape  # xyxy in pixels of the sensor
        ((0, 4), (0,))
        >>> detector.reset()  # before the next recording

    Args:
        checkpoint: a checkpoint of this project or a file that ``export`` made of one, or what
            ``open_detector`` made of either.
        sensor_size: height and width of the sensor in pixels; the one of ``frame_settings`` unless
            set.
        frame_settings: how events become frames; as in training unless set. Where ``input_size``
            is None, frames have half the sensor's size. An exported file may be made for one size.
        resize: ``"stretch"`` fills the frame with the sensor's picture, each side by a factor of
            its own; ``"letterbox"`` scales both sides by one factor and leaves the rest empty.
        score_threshold: least objectness times class confidence of a detection, in [0, 1]; as
            exported unless set, and 0.3 of a checkpoint.
        nms_threshold: IoU above which the lower-scored of two boxes of a class is dropped; as
            exported unless set, and 0.45 of a checkpoint.
        class_agnostic_nms: whether boxes are dropped so whatever their classes.
        max_detections: detections kept of each window, best first; as exported unless set, and 300
            of a checkpoint.
        precision: of the network's computation; the state is in ``float32`` always.
        device: ``"auto"`` takes the first CUDA device, where there is one and the runtime can use
            it; or ``"cpu"``, ``"cuda:1"``, and so on; with ONNX Runtime also ``"tensorrt"``, with
            OpenVINO ``"gpu"`` and ``"npu"``.
        runtime: ``"auto"`` takes PyTorch for a checkpoint, and for an exported file OpenVINO or
            ONNX Runtime, by what is installed; or ``"pytorch"``, ``"openvino"``,
            ``"onnxruntime"``.

    Attributes:
        class_names: name of each class id.
        frame_settings: how events become frames.
        placement: where the sensor's picture lies in the frame.
        knows_simulation_only: whether it was trained on simulated recordings alone.

    Raises:
        UserError: the file cannot be read, a threshold is out of its range, frames have another
            size than the file was exported for, or there is no such runtime or device.
    """

    def __init__(
        self,
        checkpoint: str | Path | TrainedDetector | ExportedDetector,
        *,
        sensor_size: tuple[int, int] | None = None,
        frame_settings: FrameSettings | None = None,
        resize: Resize = "stretch",
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        class_agnostic_nms: bool = False,
        max_detections: int | None = None,
        precision: Precision = "float32",
        device: str = "auto",
        runtime: Runtime = "auto",
    ) -> None:
        given = score_threshold, nms_threshold, max_detections
        Thresholds().changed(*given)  # are they in range? before the file is read
        trained = open_detector(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
        thresholds = trained.thresholds.changed(*given)
        self.class_names = trained.class_names
        self.knows_simulation_only = trained.knows_simulation_only
        self.frame_settings = trained.frame_settings if frame_settings is None else frame_settings
        sensor_size = sensor_size or self.frame_settings.sensor_size or SENSOR_SIZE
        input_size = self.frame_settings.input_size or (sensor_size[0] // 2, sensor_size[1] // 2)
        self.placement = Placement.fitting(sensor_size, input_size, resize)
        self.score_threshold, self.nms_threshold = thresholds.score, thresholds.nms
        self.class_agnostic_nms = class_agnostic_nms
        self.max_detections = thresholds.max_detections
        self._channels = trained.frame_settings.channels
        if isinstance(trained, ExportedDetector):
            trained.require_size(input_size)
            self._engine = engine_for(trained, runtime, precision, device)
        else:
            self._engine = engine_for(trained.detector, runtime, precision, device)
        self._representation = Representation(
            sensor_size, self.placement.counted_size, self.frame_settings
        )
        self._end_us: int | None = None  # of the last window
        self._latest_us: int | None = None  # event so far

    def __call__(self, events: Events, end_us: int | None = None) -> Detections[NDArray[Any]]:
        """Detect in the next window.

        Args:
            events: all events of the window, in the order of their timestamps: an array with the
                fields ``x``, ``y`` (pixels of the sensor), ``p`` (0 or -1, and 1) and ``t``
                (microseconds), a mapping of such columns ``[E]``, or the columns ``x``, ``y``,
                ``p``, ``t`` themselves. There may be none.
            end_us: end of the window in microseconds, which comes later with every window; gaps
                between windows will do. The window reaches back by ``window_ms`` of the frame
                settings, both ends included. Unset: the first window starts with its first event,
                and each one follows the one before, or starts with its own first event where that
                does not hold its events, as behind a gap.

        Returns:
            What was found, best first, in NumPy arrays; boxes ``[D, 4]`` ``xyxy`` in pixels of
            the sensor.

        Raises:
            UserError: ``events`` has none of these forms, the window is not later than the last
                one (call ``reset`` before a new recording), or events lie outside it, with
                timestamps that go back repaired. The window does not count then.
        """
        frame = self.placement.place(self._frame(events, end_us))
        detections = self.detect_frame(frame, self.placement.content_size)
        scale = np.array(self.placement.scale * 2, np.float32)
        return replace(detections, boxes=detections.boxes * scale)

    def detect_frame(
        self, frame: NDArray[Any], content_size: tuple[int, int] | None = None
    ) -> Detections[NDArray[Any]]:
        """Detect in the next window, given as a frame.

        Args:
            frame: ``[C, H, W]``, as a recording gives it. Another size than before starts anew.
            content_size: height and width of the sensor's picture in the frame, at which boxes
                are cut; the frame's own unless set.

        Returns:
            What was found, best first, in NumPy arrays; boxes ``[D, 4]`` ``xyxy`` in pixels of
            the frame.

        Raises:
            UserError: the frame has another number of channels than the network's, or another size
                than the network was exported for.
        """
        if frame.ndim != 3 or frame.shape[0] != self._channels:
            raise UserError(
                f"frame: must be of shape [{self._channels}, H, W], as in the checkpoint's "
                f"training, got {list(frame.shape)}: use its bins and representation"
            )
        return detections_of(
            self._engine.run(frame),
            self.score_threshold,
            self.nms_threshold,
            self.max_detections,
            content_size or frame.shape[1:],
            self.class_agnostic_nms,
        )

    def reset(self) -> None:
        """Start a new recording."""
        self._end_us = self._latest_us = None
        self._engine.reset()

    def _frame(self, events: Events, end_us: int | None) -> NDArray[Any]:
        """The frame ``[C, h, w]`` of a window's events."""
        x, y, p, timestamps = _columns(events)
        # As when recordings are read: a timestamp that goes back takes the latest one before it.
        t_us = np.maximum.accumulate(timestamps.astype(np.int64))
        span = (int(t_us[0]), int(t_us[-1])) if len(t_us) else None
        window_us = self.frame_settings.window_ms * 1000
        if end_us is None:
            end_us = self._next_end_us(span)
        elif self._end_us is not None and end_us <= self._end_us:
            raise UserError(
                f"end_us: must be later than {self._end_us}, where the last window ends, got "
                f"{end_us}: {_IN_ORDER}"
            )
        bounds = (0, window_us) if end_us is None else (end_us - window_us, end_us)
        if span is not None and not bounds[0] <= span[0] <= span[1] <= bounds[1]:
            raise UserError(
                f"events: must lie in the window from {bounds[0]} to {bounds[1]} us, got them "
                f"from {span[0]} to {span[1]}: use the events of this window of "
                f"{self.frame_settings.window_ms} ms alone, in microseconds, or set another end_us"
            )
        self._end_us = end_us
        self._latest_us = self._latest_us if span is None else span[1]
        frame = np.empty(self._representation.shape, self._representation.dtype)
        self._representation.fill(frame, x, y, p, t_us, bounds)
        return frame

    def _next_end_us(self, span: tuple[int, int] | None) -> int | None:
        """End of the window that comes now, from its first and last event; None if none is known.

        Raises:
            UserError: the events are earlier than those of the last window.
        """
        window_us = self.frame_settings.window_ms * 1000
        following = None if self._end_us is None else self._end_us + window_us
        if span is None:
            return following
        first, last = span
        if following is not None and following - window_us <= first <= last <= following:
            return following
        if self._latest_us is not None and first < self._latest_us:
            raise UserError(
                f"events: must not be earlier than {self._latest_us}, the last one before them, "
                f"got them from {first} to {last}: {_IN_ORDER}"
            )
        return first + window_us


def _columns(events: Events) -> tuple[NDArray[Any], ...]:
    """Columns x, y, p and t, ``[E]`` each."""
    if isinstance(events, Mapping):
        columns = tuple(np.asarray(events[name]) for name in "xypt")
    elif isinstance(events, np.ndarray):
        if not {*"xypt"} <= {*(events.dtype.names or ())}:
            raise UserError(
                f"events: must have the fields x, y, p and t, got {events.dtype}: use these names"
            )
        columns = tuple(np.ascontiguousarray(events[name]) for name in "xypt")
    else:
        columns = tuple(np.asarray(column) for column in events)
    lengths = [column.shape for column in columns]
    if len(columns) != 4 or len(set(lengths)) != 1 or len(lengths[0]) != 1:
        raise UserError(
            f"events: must be x, y, p and t, equally long, got {lengths}: use these four columns"
        )
    return columns
