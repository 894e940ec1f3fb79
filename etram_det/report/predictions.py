"""Detections on disk: NumPy as the data set has it, COCO and CSV, written as they come."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE
from etram_det.files import replacing
from etram_det.types import Detections

CSV_COLUMNS = ("t", "class_id", "class_name", "score", "x", "y", "w", "h", "track_id")
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
        self,
        folder: Path,
        recording: str,
        class_names: Sequence[str],
        sensor_size: tuple[int, int],
    ) -> None:
        with ExitStack() as files:
            boxes, coco, table = (
                files.enter_context(replacing(folder / f"{recording}_{ending}"))
                for ending in ("bbox.npy", "coco.json", "detections.csv")
            )
            self._boxes = files.enter_context(_GrowingBoxes(boxes))
            self._coco = files.enter_context(_CocoFile(coco, recording, class_names, sensor_size))
            table_file = files.enter_context(table.open("w", encoding="utf-8", newline=""))
            self._table = csv.writer(table_file, lineterminator="\n")
            self._table.writerow(CSV_COLUMNS)
            self._files = files.pop_all()
        self._class_names = tuple(class_names)

    def add(self, time_us: int, rows: NDArray[Any], with_tracks: bool = False) -> None:
        """Write the detections of one window.

        Args:
            time_us: end of the window.
            rows: its detections ``[D]``, of :func:`box_rows`.
            with_tracks: whether ``track_id`` holds the numbers of objects, from 1 on, 0 for none.
        """
        self._boxes.append(rows)
        self._coco.append(time_us, rows, with_tracks)
        for row in rows:
            score, *box = _rounded(row, ("class_confidence", "x", "y", "w", "h"))
            class_id = int(row["class_id"])
            track = int(row["track_id"]) or ""
            self._table.writerow(
                [time_us, class_id, self._class_names[class_id], score, *box, track]
            )

    def finish(self) -> None:
        """Complete the files with what was added and move them into place.

        Raises:
            OSError: the files cannot be written; nothing is left of those.
        """
        self._files.close()


def box_rows(time_us: int, detections: Detections, scale: tuple[float, float]) -> NDArray[Any]:
    """The detections of one window as rows ``[D]`` of a box file, in pixels of the sensor.

    Args:
        time_us: end of the window.
        detections: boxes ``[D, 4]`` ``xyxy`` in pixels of the input frame.
        scale: pixels of the sensor per pixel of the input frame, in x and y.
    """
    boxes = detections.boxes.cpu().numpy() * np.array([*scale, *scale], dtype=np.float32)
    rows = np.zeros(len(detections), dtype=BOX_DTYPE)
    rows["t"] = time_us
    rows["x"], rows["y"] = boxes[:, 0], boxes[:, 1]
    rows["w"], rows["h"] = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    rows["class_id"] = detections.classes.cpu().numpy()
    rows["class_confidence"] = detections.scores.cpu().numpy()
    return rows


class _GrowingBoxes:
    """An ``.npy`` file of boxes that rows are appended to; its header is set at the end."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._length = 0
        self._write_header()
        self._start = self._file.tell()

    def append(self, rows: NDArray[Any]) -> None:
        self._file.write(rows.tobytes())
        self._length += len(rows)

    def __enter__(self) -> _GrowingBoxes:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
            # NumPy leaves room in the header for a length that grows.
            assert self._file.tell() == self._start

    def _write_header(self) -> None:
        header = npy_format.header_data_from_array_1_0(np.empty(0, BOX_DTYPE))
        npy_format.write_array_header_1_0(self._file, header | {"shape": (self._length,)})


class _CocoFile:
    """A COCO data set whose annotations are detections; what follows them is written at the end."""

    def __init__(
        self,
        path: Path,
        recording: str,
        class_names: Sequence[str],
        sensor_size: tuple[int, int],
    ) -> None:
        self._recording, self._size = recording, sensor_size
        self._times_us = array("q")
        self._num_annotations = 0
        categories = [{"id": i, "name": name} for i, name in enumerate(class_names)]
        self._file = path.open("w", encoding="utf-8")
        self._file.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [')

    def append(self, time_us: int, rows: NDArray[Any], with_tracks: bool) -> None:
        self._times_us.append(time_us)
        for row in rows:
            x, y, w, h, score = _rounded(row, ("x", "y", "w", "h", "class_confidence"))
            self._num_annotations += 1
            annotation = {
                "id": self._num_annotations,
                "image_id": len(self._times_us),
                "category_id": int(row["class_id"]),
                "bbox": [x, y, w, h],
                "area": round(w * h, _DECIMALS),
                "iscrowd": 0,
                "score": score,
            }
            if with_tracks:
                annotation["track_id"] = int(row["track_id"])
            separator = ",\n" if self._num_annotations > 1 else "\n"
            self._file.write(separator + json.dumps(annotation))

    def __enter__(self) -> _CocoFile:
        return self

    def __exit__(self, *_: object) -> None:
        height, width = self._size
        with self._file:
            self._file.write('],\n"images": [')
            for i, time_us in enumerate(self._times_us, start=1):
                image = {
                    "id": i,
                    "file_name": f"{self._recording}_{time_us}",
                    "width": width,
                    "height": height,
                    "t": time_us,
                }
                self._file.write((",\n" if i > 1 else "\n") + json.dumps(image))
            self._file.write("]}\n")


def _rounded(row: Any, names: Sequence[str]) -> list[float]:
    return [round(float(row[name]), _DECIMALS) for name in names]
