"""Videos of events and detections: H.264 by ffmpeg, else what OpenCV encodes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import corners
from etram_det.drawing.ffmpeg import FfmpegEncoder, NoEncoder, encoding_ffmpeg
from etram_det.drawing.frames import Image, draw_boxes, draw_text, frame_image, text_place
from etram_det.errors import UserError
from etram_det.files import UNFINISHED, move_into_place

# The first that OpenCV has, where no ffmpeg encodes H.264: most free builds lack an encoder for it.
# Theirs for VP9 does 7 frames a second.
CODECS = ("avc1", "mp4v")
LEAST_HEIGHT = 360  # of a video in pixels; smaller frames are enlarged, for the text to be readable

_log = logging.getLogger(__name__)


class VideoWriter:
    """An ``.mp4`` file that takes its name when it is finished.

    Args:
        path: the file; its folder is made if missing.
        size: height and width in pixels, both even.
        rate: frames in a second.

    Raises:
        UserError: the file cannot be written, or there is neither an ffmpeg nor a codec in OpenCV
            for it.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        assert size[0] % 2 == size[1] % 2 == 0
        self.path, self.size = path, size
        self.num_frames = 0
        # OpenCV chooses the container by the suffix; what stands before a colon is a protocol to
        # both encoders, unless it holds a slash.
        self._unfinished = path.absolute().with_name(f".{path.stem}{UNFINISHED}{path.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._unfinished.write_bytes(b"")
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}): use another folder"
            ) from error
        self._encoder: FfmpegEncoder | _OpenCVEncoder
        try:
            self._encoder = FfmpegEncoder(encoding_ffmpeg(), self._unfinished, size, rate)
        except (NoEncoder, OSError) as error:
            self._encoder = self._without_ffmpeg(str(error), size, rate)

    def add(self, image: Image) -> None:
        """Write the next frame, RGB ``[H, W, 3]``."""
        assert image.shape[:2] == self.size
        self._encoder.write(image)
        self.num_frames += 1

    def finish(self) -> None:
        """Complete the file with the frames so far and move it into place.

        Raises:
            UserError: the file is incomplete.
        """
        try:
            fault = self._encoder.close()
            if self.num_frames and (fault or _frames_in(self._unfinished) < self.num_frames):
                raise UserError(
                    f"{self.path}: the video could not be completed{f' ({fault})' if fault else ''}"
                    ": make room on the disk, or use --video false",
                    exit_code=1,
                )
            if self.num_frames:
                move_into_place(self._unfinished, self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)

    def _without_ffmpeg(self, reason: str, size: tuple[int, int], rate: float) -> _OpenCVEncoder:
        """OpenCV's encoder, with a line on what its videos lack."""
        encoder = _OpenCVEncoder.opened(self._unfinished, size, rate)
        if encoder is None:
            self._unfinished.unlink()
            raise UserError(
                f"video: OpenCV has no codec for {self.path.suffix} here, tried "
                f"{', '.join(CODECS)}: install opencv-python-headless from PyPI, or use --video "
                "false"
            )
        if encoder.codec != CODECS[0]:
            _log_once(f"video: MPEG-4 part 2, which browsers do not play, as {reason}")
        return encoder


@cache
def _log_once(message: str) -> None:
    _log.warning(message)


class _OpenCVEncoder:
    """Encodes one video by the libraries within OpenCV.

    Attributes:
        codec: the one of ``CODECS``.
    """

    def __init__(self, writer: cv2.VideoWriter, codec: str) -> None:
        self._writer, self.codec = writer, codec

    @classmethod
    def opened(cls, path: Path, size: tuple[int, int], rate: float) -> _OpenCVEncoder | None:
        """The first codec that OpenCV has; None where it has none."""
        # MPEG-4 counts time in fractions of a second whose denominator has 16 bits.
        rate = round(rate, 3 if rate < 65 else 2 if rate < 650 else 1)
        with _opencv_silent():  # the error names the codecs that are missing
            for codec in CODECS:
                fourcc = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(str(path), fourcc, rate, (size[1], size[0]))
                if writer.isOpened():
                    return cls(writer, codec)
        return None

    def write(self, image: Image) -> None:
        """Encode the next picture, RGB ``[H, W, 3]``; OpenCV does not report errors in this."""
        with _opencv_silent():
            self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> str | None:
        """Complete the file; what it lacks is not known here."""
        with _opencv_silent():
            self._writer.release()
        return None


class DetectionPainter:
    """Pictures of windows: events in two colours, boxes with class and score, the time.

    Args:
        sensor_size: height and width of the sensor in pixels, whose shape the pictures have.
        content_size: height and width of the sensor's picture in a frame.
        class_names: name of each class id.
        representation: how frames are made.
        side_by_side: whether the events alone stand on the left, and those with boxes on the right.

    Attributes:
        size: height and width of a picture in pixels, both even.
    """

    def __init__(
        self,
        sensor_size: tuple[int, int],
        content_size: tuple[int, int],
        class_names: Sequence[str],
        representation: Literal["stacked_histogram", "mixed_density"] = "stacked_histogram",
        side_by_side: bool = False,
    ) -> None:
        height = max(LEAST_HEIGHT, content_size[0])
        width = height * sensor_size[1] / sensor_size[0]
        self._shape = height + height % 2, max(2, 2 * round(width / 2))
        self.size = self._shape[0], self._shape[1] * (2 if side_by_side else 1)
        self._content_size = content_size
        height, width = self._shape
        self._scale = np.array([width / sensor_size[1], height / sensor_size[0]] * 2)
        self._class_names = tuple(class_names)
        self._representation = representation
        self._side_by_side = side_by_side

    def picture(
        self,
        frame: NDArray[Any],
        time_us: int,
        rows: NDArray[Any],
        labels: NDArray[Any] | None = None,
    ) -> Image:
        """The picture ``[H, W, 3]`` of one window.

        Args:
            frame: ``[C, H, W]``, the sensor's picture in its upper left corner.
            time_us: end of the window.
            rows: its detections ``[D]`` as in a box file, best first.
            labels: its labels ``[M]`` as in a box file, which are dashed; None for none to be
                shown.
        """
        height, width = self._shape
        content = frame[:, : self._content_size[0], : self._content_size[1]]
        image = frame_image(content, self._representation)
        if image.shape[:2] != (height, width):
            enlarged = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
            image = np.asarray(enlarged, np.uint8)
        plain = image.copy() if self._side_by_side else image
        text = f"{time_us / 1e6:.3f} s" + ("" if labels is None else ", dashed: labels")
        track_ids = np.where(rows["track_id"] > 0, rows["track_id"].astype(np.int64), -1)
        truth = np.empty((0, 4)) if labels is None else corners(labels) * self._scale
        draw_text(image, text, (0, 0))  # first, as it hides what lies below it
        draw_boxes(image, truth, np.zeros(len(truth), int), self._class_names, dashed=True)
        draw_boxes(
            image,
            corners(rows) * self._scale,
            rows["class_id"],
            self._class_names,
            rows["class_confidence"],
            track_ids,
            taken=[text_place(text, (0, 0))],
            others=truth,
        )
        if not self._side_by_side:
            return image
        plain[:, -2:] = 128  # a line between the two
        return np.concatenate([plain, image], axis=1)


class DetectionVideo(VideoWriter):
    """A video of one recording, with the pictures of :class:`DetectionPainter`.

    Args:
        path: the ``.mp4`` file.
        rate: frames in a second.
        **settings: of the painter.
    """

    def __init__(self, path: Path, *, rate: float, **settings: Any) -> None:
        painter = DetectionPainter(**settings)
        super().__init__(path, painter.size, rate)
        self.picture = painter.picture


@contextmanager
def _opencv_silent() -> Iterator[None]:
    """Keep what OpenCV writes to the terminal, which errors say here."""
    # OpenCV looks at this variable once.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # OpenCV 5 has moved these functions.
    messages: Any = getattr(cv2.utils, "logging", cv2)
    level = messages.getLogLevel()
    messages.setLogLevel(0)
    try:
        yield
    finally:
        messages.setLogLevel(level)


def _frames_in(path: Path) -> int:
    reader = cv2.VideoCapture(str(path))
    count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
    reader.release()
    return count
