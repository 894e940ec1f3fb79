"""An exported detector: what an .onnx file says of itself, read without any library for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError

SUFFIX = ".onnx"
STAGES = range(1, 5)
# Names of the state in the file, in order; those of the new state have "new_" before them.
STATE = tuple(f"{part}_{stage}" for stage in STAGES for part in ("hidden", "cell"))
PREDICTIONS = ("boxes", "objectness", "classes")
FORMAT = "1"  # of the metadata; raise it when a reader of today could not use the file
_FORMAT = "etram_det_format"  # the key that makes an ONNX file one of ours
# Fields of the message ModelProto, and of its entries of metadata (onnx.proto3).
_METADATA, _KEY, _VALUE = 14, 1, 2
_IR_VERSION, _GRAPH = 1, 7


@dataclass(frozen=True)
class Thresholds:
    """What makes a prediction a detection.

    Attributes:
        score: least objectness times class confidence, in [0, 1].
        nms: IoU above which the lower-scored of two boxes of a class is dropped, in [0, 1].
        max_detections: detections kept of each window, best first; at least 1.
    """

    score: float = 0.3
    nms: float = 0.45
    max_detections: int = 300

    def __post_init__(self) -> None:
        for name in ("score", "nms"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"{name}: must be in [0, 1], got {value}: set it to such a value")
        if not self.max_detections >= 1:
            raise UserError(
                f"max_detections: must be at least 1, got {self.max_detections}: set such a number"
            )

    def changed(
        self,
        score: float | None = None,
        nms: float | None = None,
        max_detections: int | None = None,
    ) -> Thresholds:
        """These with others in place of those that are given.

        Raises:
            UserError: one is out of its range.
        """
        given = dict(score=score, nms=nms, max_detections=max_detections)
        changes: dict[str, Any] = {name: x for name, x in given.items() if x is not None}
        return replace(self, **changes)


@dataclass(frozen=True)
class ExportedDetector:
    """An exported detector: its file, and what stands in its metadata.

    Attributes:
        path: the file.
        class_names: name of each class id.
        frame_settings: how events become frames.
        thresholds: used unless others are set.
        input_size: height and width of the frames in pixels; None for any that are multiples of
            ``size_multiple``, to which smaller ones are padded on the right and at the bottom.
        size_multiple: of the frames' sides in pixels, padding included.
        state: channels and stride of each stage's hidden and cell state.
        network: arguments of :class:`~etram_det.models.detector.Detector`, the partition included.
        precision: of the weights, ``float32`` or ``float16``.
        version: of the package that exported it.
        fingerprint: SHA-256 of the checkpoint, hexadecimal.
        knows_simulation_only: whether the checkpoint was trained on simulated recordings alone.
    """

    path: Path
    class_names: tuple[str, ...]
    frame_settings: FrameSettings
    thresholds: Thresholds
    input_size: tuple[int, int] | None
    size_multiple: int
    state: tuple[tuple[int, int], ...]
    network: Mapping[str, Any]
    precision: str
    version: str
    fingerprint: str
    knows_simulation_only: bool = False

    @property
    def knows_frames(self) -> bool:
        """Whether ``frame_settings`` are those of the training: they are written at the export."""
        return True

    def metadata(self) -> dict[str, str]:
        """All but the path as the file's metadata: names and JSON."""
        values = {name: value for name, value in asdict(self).items() if name != "path"}
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        return (
            {_FORMAT: FORMAT} | {name: json.dumps(value) for name, value in values.items()} | texts
        )

    def state_shapes(self, height: int, width: int, batch: int = 1) -> list[tuple[int, ...]]:
        """Shapes ``[B, C, h, w]`` of the state, two a stage, for frames of this size."""
        height, width = (side + -side % self.size_multiple for side in (height, width))
        return [
            (batch, channels, height // stride, width // stride)
            for channels, stride in self.state
            for _ in range(2)
        ]

    def events_of(self, frame: NDArray[Any]) -> NDArray[Any]:
        """The input ``events`` ``[1, C, H, W]`` of a frame ``[C, h, w]``.

        Raises:
            UserError: the file was exported for frames of another size.
        """
        self.require_size((frame.shape[1], frame.shape[2]))
        if self.input_size is None:
            pad = [(0, -side % self.size_multiple) for side in frame.shape[1:]]
            frame = np.pad(frame, [(0, 0), *pad]) if any(end for _, end in pad) else frame
        return np.ascontiguousarray(frame[None])

    def require_size(self, size: tuple[int, int], setting: str = "input_size") -> None:
        """Refuse frames of another size than the file was exported for.

        Args:
            size: height and width of the frames in pixels.
            setting: what the user sets to it, for the message.

        Raises:
            UserError: naming both.
        """
        if self.input_size not in (None, size):
            height, width = self.input_size or size
            raise UserError(
                f"{setting}: must be {height} {width}, for which {self.path} was exported, got "
                f"{size[0]} {size[1]}: set {setting} to the former, or use python -m etram_det "
                f"export with --input-size {size[0]} {size[1]}, or dynamic"
            )


def read_exported(path: str | Path, setting: str = "ckpt_path") -> ExportedDetector:
    """Read what an exported detector says of itself.

    Args:
        path: the file (.onnx).
        setting: what the user set to the path, for messages.

    Raises:
        UserError: the file is missing, cut short, no ONNX, or not exported by this package.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{setting}: no file {path}: give the path of an exported detector (.onnx)")
    try:
        found = _metadata(path)
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{path}: must be an ONNX file, got something else or one that is cut short "
            f"({error}): copy it again, or use python -m etram_det export"
        ) from error
    if (written := found.get(_FORMAT)) != FORMAT:
        what = "an ONNX file of another origin" if written is None else f"format {written}"
        raise UserError(
            f"{path}: must be exported by this package in format {FORMAT}, got {what}: use "
            "python -m etram_det export"
        )
    try:
        return _from_metadata(path, found)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: must hold what export writes of a detector, got damaged metadata ({reason}): "
            "use python -m etram_det export"
        ) from error


def _from_metadata(path: Path, found: Mapping[str, str]) -> ExportedDetector:
    names = ("class_names", "frame_settings", "thresholds", "input_size", "size_multiple", "state")
    values = {name: json.loads(found[name]) for name in (*names, "network")}
    frames = dict(values["frame_settings"])
    for name in ("input_size", "sensor_size"):
        frames[name] = None if frames[name] is None else tuple(map(int, frames[name]))
    size = values["input_size"]
    stages = [(int(channels), int(stride)) for channels, stride in values["state"]]
    if len(stages) != len(STAGES) or min(map(min, stages)) < 1 or values["size_multiple"] < 1:
        raise ValueError(f"state {stages}, size_multiple {values['size_multiple']}")
    return ExportedDetector(
        path,
        class_names=tuple(map(str, values["class_names"])),
        frame_settings=FrameSettings(**frames),
        thresholds=Thresholds(**values["thresholds"]),
        input_size=None if size is None else (int(size[0]), int(size[1])),
        size_multiple=int(values["size_multiple"]),
        state=tuple(stages),
        network=dict(values["network"]),
        precision=found["precision"],
        version=found["version"],
        fingerprint=found["fingerprint"],
        knows_simulation_only=found.get("knows_simulation_only") == "true",
    )


def _metadata(path: Path) -> dict[str, str]:
    """Names and values of an ONNX file's metadata; the rest of it is skipped.

    Raises:
        ValueError: it is no such file.
    """
    found: dict[str, str] = {}
    seen = set()
    with path.open("rb") as file:
        for number, content in _fields(file, path.stat().st_size, {_METADATA}):
            seen.add(number)
            if number == _METADATA and content is not None:
                entry = dict(_entry(content))
                found[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    if not {_IR_VERSION, _GRAPH} <= seen:
        raise ValueError("it has no graph")
    return found


def _entry(content: bytes) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the fields of an entry."""
    from io import BytesIO

    for number, text in _fields(BytesIO(content), len(content), {_KEY, _VALUE}):
        if text is not None:
            yield number, text.decode()


def _fields(file: BinaryIO, size: int, wanted: set[int]) -> Iterator[tuple[int, bytes | None]]:
    """Fields of a protobuf message of ``size`` bytes: numbers, and the bytes of those wanted."""
    while file.tell() < size:
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _varint(file)
            yield number, None
            continue
        length = {1: 8, 2: -1, 5: 4}.get(kind, 0)
        length = _varint(file) if length < 0 else length
        if not number or not length and kind != 2 or file.tell() + length > size:
            raise ValueError(f"field {number} of kind {kind} does not fit")
        if number in wanted and kind == 2:
            yield number, file.read(length)
        else:
            file.seek(length, 1)
            yield number, None


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number is too long")
