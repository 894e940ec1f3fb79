"""CSV files of boxes: the columns that detectors and annotation tools write, by their names."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from etram_det.boxes import CSV_COLUMNS
from etram_det.data.box_formats.coco import BAD_TRACK, NO_BOX, NO_SCORE, shortest, track_number
from etram_det.data.box_formats.naming import (
    INDEX_KEYS,
    RECORDING_KEYS,
    TIME_KEYS,
    ClassSettings,
    NamedImage,
    TimeSettings,
    places_of,
)
from etram_det.data.box_formats.table import BoxTable, LeftOut, Reason, TableBuilder
from etram_det.errors import UserError
from etram_det.files import write_text

# Left, top, then width and height, or right and bottom. Those with corners come first: beside
# them, width and height are the image's.
_CORNERS = (
    "xmin ymin xmax ymax",
    "x_min y_min x_max y_max",
    "x1 y1 x2 y2",
    "left top right bottom",
)
_SIZES = (
    "x y w h",
    "x y width height",
    "left top width height",
    "bbox_x bbox_y bbox_width bbox_height",
    "bbox_left bbox_top bbox_width bbox_height",
    "bb_left bb_top bb_width bb_height",
)
_IMAGES = ("image", "file_name", "filename", "image_name", "image_id")
_CLASS_NAMES = ("class_name", "label_name", "category_name", "label", "category", "class")
_CLASS_IDS = ("class_id", "category_id", "label_id")
_SCORES = ("score", "confidence", "class_confidence", "conf", "probability")
_TRACKS = ("track_id", "track", "object_id")


@dataclass(frozen=True)
class CsvRows:
    """What a CSV file holds.

    Attributes:
        columns: their names, in small letters.
        rows: the line of each row in the file, and its cells by column.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[int, Mapping[str, str]]]


def load_csv(path: Path) -> CsvRows:
    """The rows of a CSV file with a line of names first, separated by commas, semicolons or tabs.

    Raises:
        UserError: it is no such file.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: must be text in UTF-8, got {error}: export it again") from error
    heading = text.partition("\n")[0]
    separator = max(",;\t", key=heading.count)
    try:
        reader = csv.reader(io.StringIO(text), delimiter=separator)
        columns = [_plain(name) for name in next(reader, [])]
        rows = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise UserError(f"{path}: must be CSV, got {error}: export it again") from error
    padding = [""] * len(columns)
    return CsvRows(
        columns,
        [
            (line, dict(zip(columns, [*map(str.strip, cells), *padding], strict=False)))
            for line, cells in rows
        ],
    )


def _plain(column: str) -> str:
    """A column's name as it is looked up: ``Time Stamp`` is ``time_stamp``."""
    return column.strip().casefold().replace(" ", "_")


def _with_column(times: TimeSettings, columns: Sequence[str], path: Path) -> TimeSettings:
    """The settings with their column as it is looked up.

    Raises:
        UserError: the file has no such column.
    """
    if times.column is None:
        return times
    column = _plain(times.column)
    if times.pattern is None and column not in columns:
        raise UserError(
            f"times.column: must be a column of {path}, got {times.column}: set one of "
            f"{', '.join(columns)}"
        )
    return replace(times, column=column)


def csv_table(
    content: CsvRows, path: Path, classes: ClassSettings, times: TimeSettings, *, scored: bool
) -> tuple[BoxTable, LeftOut]:
    """The boxes of a CSV file, and what was left out.

    Args:
        content: of :func:`load_csv`.
        path: the file, for names and messages.
        classes: which class each name or id is.
        times: where the times are.
        scored: whether these are detections, which need scores.

    Raises:
        UserError: columns are missing.
    """
    columns = _Columns(content.columns, path, scored)
    times = _with_column(times, content.columns, path)
    images: dict[tuple[str, ...], NamedImage] = {}
    keys = []
    of_image = [*TIME_KEYS, *RECORDING_KEYS, *INDEX_KEYS, *([times.column] if times.column else [])]
    known = [name for name in of_image if name in content.columns]
    for _, cells in content.rows:
        name = cells[columns.image] if columns.image else ""
        key = (name, *(cells[each] for each in known))
        if key not in images:
            images[key] = NamedImage(name, {each: cells[each] for each in known})
        keys.append(key)
    places = dict(
        zip(images, places_of(list(images.values()), times, path, all_listed=False), strict=True)
    )
    builder, left_out = TableBuilder(), LeftOut()
    class_ids: dict[str, int | Reason] = {}
    without = "" if scored else "1"  # the score of an empty cell
    for (line, cells), key in zip(content.rows, keys, strict=True):
        place, where, box = places[key], f"line {line}", columns.box(cells)
        text = columns.class_text(cells)
        if text not in class_ids:
            class_ids[text] = _class_id(text, classes)
        class_id = class_ids[text]
        score = _number(cells[columns.score] or without) if columns.score else 1.0
        track = track_number(cells[columns.track]) if columns.track else -1
        if track is None:
            left_out.add(BAD_TRACK, where)
            track = -1
        if isinstance(place, Reason):
            left_out.add(place, where)
            continue
        frame = builder.frame(*place)
        if isinstance(class_id, Reason):
            left_out.add(class_id, repr(text))
        elif box is None:
            left_out.add(NO_BOX, where)
        elif score is None:
            left_out.add(NO_SCORE, where)
        else:
            builder.add(frame, box, class_id, score, track)
    return builder.table(), left_out


class _Columns:
    """Which columns hold what.

    Args:
        columns: names of those that are there.
        path: the file, for messages.
        scored: whether there must be scores.

    Raises:
        UserError: one is missing.
    """

    def __init__(self, columns: Sequence[str], path: Path, scored: bool) -> None:
        def first(names: Sequence[str]) -> str | None:
            return next((name for name in names if name in columns), None)

        ways = [names.split() for names in (*_CORNERS, *_SIZES)]
        found = [names for names in ways if set(names) <= set(columns)]
        self._box = found[0] if found else []
        self._has_corners = " ".join(self._box) in _CORNERS
        self._name, self._id = first(_CLASS_NAMES), first(_CLASS_IDS)
        self.image, self.score, self.track = first(_IMAGES), first(_SCORES), first(_TRACKS)
        missing = {
            "a box (x, y, w, h or xmin, ymin, xmax, ymax)": not self._box,
            "a class (class_name or class_id)": self._name is None and self._id is None,
            "a score (score or confidence)": scored and self.score is None,
        }
        if lacking := [text for text, is_missing in missing.items() if is_missing]:
            raise UserError(
                f"{path}: must have columns for {' and for '.join(lacking)}, got "
                f"{', '.join(columns) or 'an empty file'}: name the columns so"
            )

    def box(self, cells: Mapping[str, str]) -> list[float] | None:
        """Left, top, width and height; None where they are none."""
        values = [_number(cells[name]) for name in self._box]
        if any(value is None for value in values):
            return None
        left, top, *others = (float(value) for value in values if value is not None)
        if self._has_corners:
            others = [others[0] - left, others[1] - top]
        return [left, top, *others] if min(others) >= 0 else None

    def class_text(self, cells: Mapping[str, str]) -> str:
        """Name of the class, or else its id."""
        return cells.get(self._name or "") or cells.get(self._id or "") or ""


def _class_id(text: str, classes: ClassSettings) -> int | Reason:
    """Id of the class of a cell, or why it has none."""
    is_number = _number(text) is not None
    return classes.class_id(None, text) if is_number else classes.class_id(text)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def write_csv(path: Path, table: BoxTable, class_names: Sequence[str]) -> None:
    """Write boxes as CSV, atomically: the recording, then the columns of what ``detect`` writes.

    Args:
        path: the file.
        table: the boxes, all of them finite.
        class_names: of the class ids.

    Raises:
        OSError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("recording", *CSV_COLUMNS))
    recordings, times = table.recording[table.frame].tolist(), table.time_us[table.frame].tolist()
    boxes, scores = shortest(table.boxes), shortest(table.scores)
    tracks = [each if table.has_tracks and each >= 0 else "" for each in table.tracks.tolist()]
    for i, class_id in enumerate(table.classes.tolist()):
        row = (recordings[i], times[i], class_id, class_names[class_id], scores[i], *boxes[i])
        writer.writerow((*row, tracks[i]))
    write_text(path, text.getvalue())
