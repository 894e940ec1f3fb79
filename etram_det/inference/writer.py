"""Detections on disk: NumPy as the data set has it, COCO and CSV, written as they come."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE, CSV_COLUMNS
from etram_det.files import replacing
from etram_det.types import Detections

_DECIMALS = 4  # of numbers in text


class DetectionWriter:
    """Writes the detections of one recording, window by window.

    There are three files, and none of them is kept in memory: ``<name>_bbox.npy`` with the fields
    of :data:`~etram_det.boxes.BOX_DTYPE`, ``<name>_coco.json`` and ``<name>_detections.csv``.
    Times are the ends of the windows in microseconds, boxes are in pixels of the sensor, and the
    score is objectness times class confidence. The files take their names with :meth:`finish`.

    Args:
        folder: where the files go; made if missing.
        recording: name of the recording.
        class_names: name of each class id.
        sensor_size: height and width of the sensor in pixels.

    Raises:
        OSError: the files cannot be written.
    """

    def __init__(
        self, folder: Path, recording: str, class_names: Sequence[str], sensor_size: tuple[int, int]
    ) -> None:
        self._class_names = tuple(class_names)
        self._recording, self._size = recording, sensor_size
        self._times_us, self._num_rows = array("q"), 0
        categories = [{"id": i, "name": name} for i, name in enumerate(class_names)]
        starts = {
            "bbox.npy": _npy_header(0),
            "coco.json": f'{{"categories": {json.dumps(categories)},\n"annotations": ['.encode(),
            "detections.csv": _csv_lines([CSV_COLUMNS]),
        }
        self._files: list[GrowingFile] = []
        with ExitStack() as opened:
            for ending, start in starts.items():
                self._files.append(GrowingFile(folder / f"{recording}_{ending}", start))
                opened.push(self._files[-1].place)
            opened.pop_all()

    def add(self, time_us: int, rows: NDArray[Any], with_tracks: bool = False) -> None:
        """Write the detections of one window.

        Args:
            time_us: end of the window.
            rows: its detections ``[D]``, of :func:`box_rows`.
            with_tracks: whether ``track_id`` holds the numbers of objects, from 1 on, 0 for none.

        Raises:
            OSError: the files cannot be written; they are as they were before this window.
        """
        parts = (
            rows.tobytes(),
            self._annotations(rows, with_tracks).encode(),
            _csv_lines(map(partial(self._csv_row, time_us), rows)),
        )
        try:
            for file, part in zip(self._files, parts, strict=True):
                file.write(part)
        except OSError:
            for file in self._files:
                file.go_back()
            raise
        for file in self._files:
            file.keep()
        self._times_us.append(time_us)
        self._num_rows += len(rows)

    def finish(self) -> None:
        """Complete the files with what was added and move them into place.

        Raises:
            OSError: a file cannot be completed; nothing is left of that one.
        """
        boxes, coco, table = self._files
        with ExitStack() as endings:  # each of them, whatever becomes of the others
            endings.callback(boxes.finish, start=_npy_header(self._num_rows))
            endings.callback(coco.finish, ending=self._images())
            endings.callback(table.finish)

    def _annotations(self, rows: NDArray[Any], with_tracks: bool) -> str:
        """COCO's annotations of the next window, each with the comma before it."""
        texts = []
        for number, row in enumerate(rows, start=self._num_rows + 1):
            x, y, w, h, score = _rounded(row, ("x", "y", "w", "h", "class_confidence"))
            annotation = {
                "id": number,
                "image_id": len(self._times_us) + 1,
                "category_id": int(row["class_id"]),
                "bbox": [x, y, w, h],
                "area": round(w * h, _DECIMALS),
                "iscrowd": 0,
                "score": score,
            }
            if with_tracks:
                annotation["track_id"] = int(row["track_id"])
            texts.append((",\n" if number > 1 else "\n") + json.dumps(annotation))
        return "".join(texts)

    def _images(self) -> Iterator[bytes]:
        """What follows COCO's annotations."""
        height, width = self._size
        yield b'],\n"images": ['
        for i, time_us in enumerate(self._times_us, start=1):
            name = f"{self._recording}_{time_us}"
            image = {"id": i, "file_name": name, "width": width, "height": height, "t": time_us}
            yield ((",\n" if i > 1 else "\n") + json.dumps(image)).encode()
        yield b"]}\n"

    def _csv_row(self, time_us: int, row: Any) -> list[Any]:
        score, *box = _rounded(row, ("class_confidence", "x", "y", "w", "h"))
        class_id = int(row["class_id"])
        track = int(row["track_id"]) or ""
        return [time_us, class_id, self._class_names[class_id], score, *box, track]


def box_rows(
    time_us: int, detections: Detections[NDArray[Any]], scale: tuple[float, float]
) -> NDArray[Any]:
    """The detections of one window as rows ``[D]`` of a box file, in pixels of the sensor.

    Args:
        time_us: end of the window.
        detections: boxes ``[D, 4]`` ``xyxy`` in pixels of the input frame.
        scale: pixels of the sensor per pixel of the input frame, in x and y.
    """
    boxes = detections.boxes * np.array([*scale, *scale], dtype=np.float32)
    rows = np.zeros(len(detections), dtype=BOX_DTYPE)
    rows["t"] = time_us
    rows["x"], rows["y"] = boxes[:, 0], boxes[:, 1]
    rows["w"], rows["h"] = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    rows["class_id"] = detections.classes
    rows["class_confidence"] = detections.scores
    return rows


def box_records(
    rows: NDArray[Any], class_names: Sequence[str], with_tracks: bool
) -> list[dict[str, Any]]:
    """The detections of one window by the names of ``CSV_COLUMNS``, but for the time.

    Args:
        rows: of :func:`box_rows`.
        class_names: name of each class id.
        with_tracks: whether ``track_id`` holds the numbers of objects.
    """
    records = []
    for row in rows:
        score, *box = _rounded(row, ("class_confidence", "x", "y", "w", "h"))
        class_id = int(row["class_id"])
        record = {"class_id": class_id, "class_name": class_names[class_id], "score": score}
        record |= dict(zip("xywh", box, strict=True))
        records.append(record | ({"track_id": int(row["track_id"])} if with_tracks else {}))
    return records


class GrowingFile:
    """A file that grows by complete parts, and takes its name when it is finished.

    It is not buffered: what a full disk refuses is known at once, and can be taken back.

    Args:
        path: the file; its folder is made if missing.
        start: its first bytes.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, start: bytes) -> None:
        with ExitStack() as place:
            unfinished = place.enter_context(replacing(path))
            self._file = place.enter_context(unfinished.open("wb", buffering=0))
            self.write(start)
            self.place = place.pop_all()
        self.keep()

    def write(self, part: bytes) -> None:
        """Write bytes that count from :meth:`keep` on."""
        left = memoryview(part)
        while left:
            left = left[self._file.write(left) :]

    def keep(self) -> None:
        """Count what was written until now as complete."""
        self._end = self._file.tell()

    def go_back(self) -> None:
        """Forget what was written since :meth:`keep`."""
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def finish(self, start: bytes = b"", ending: Iterable[bytes] = ()) -> None:
        """Complete it by its last bytes, and by first ones that take the place of the old ones."""
        with self.place:
            for part in ending:
                self.write(part)
            self._file.seek(0)
            self.write(start)

    def discard(self) -> None:
        """Leave no file."""
        with suppress(InterruptedError), self.place:
            raise InterruptedError


def _npy_header(length: int) -> bytes:
    """First bytes of an array file of boxes; NumPy leaves room in it for a length that grows."""
    header = npy_format.header_data_from_array_1_0(np.empty(0, BOX_DTYPE))
    file = BytesIO()
    npy_format.write_array_header_1_0(file, header | {"shape": (length,)})
    return file.getvalue()


def _csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _rounded(row: Any, names: Sequence[str]) -> list[float]:
    return [round(float(row[name]), _DECIMALS) for name in names]
