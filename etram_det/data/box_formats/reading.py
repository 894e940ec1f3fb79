"""Boxes read from files of any of the formats."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etram_det.data.box_formats.coco import Listing, coco_table, load_coco
from etram_det.data.box_formats.csv_files import csv_table, load_csv
from etram_det.data.box_formats.naming import ClassSettings, TimeSettings, recording_of
from etram_det.data.box_formats.npy import npy_table
from etram_det.data.box_formats.table import BoxTable, LeftOut, joined
from etram_det.data.labels import load_array
from etram_det.errors import UserError

_log = logging.getLogger(__name__)

_LOADERS = {".npy": load_array, ".json": load_coco, ".csv": load_csv}
# Of a folder, the files of the first pattern that is there: others hold the same once more.
_PATTERNS = ("*_bbox.npy", "*.npy", "*.json", "*.csv")
FORMATS = "_bbox.npy (Prophesee, eTraM), .json (COCO) or .csv"


@dataclass(frozen=True)
class BoxFile:
    """A file of boxes, read but not understood yet.

    Attributes:
        path: the file.
        content: an array, the content of JSON, or the rows of a CSV file.
    """

    path: Path
    content: Any

    @property
    def format(self) -> str:
        """Its ending: ``.npy``, ``.json`` or ``.csv``."""
        return self.path.suffix.lower()


@dataclass(frozen=True)
class ReadBoxes:
    """The boxes of some files.

    Attributes:
        table: all of them.
        left_out: what of the files did not fit.
        recordings: the file of each recording, also of one without boxes.
    """

    table: BoxTable
    left_out: LeftOut
    recordings: dict[str, Path]


def open_box_files(paths: Sequence[Path], setting: str) -> list[BoxFile]:
    """The files that paths stand for: files themselves, or folders of files of one format.

    Args:
        paths: files and folders.
        setting: their name, for messages.

    Raises:
        UserError: there is no such file, or none in a folder.
        OSError: a file cannot be read.
    """
    files = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = _files_of_first_format(path)
        wrong = [each for each in found if each.suffix.lower() not in _LOADERS]
        if wrong or not found or not all(each.is_file() for each in found):
            what = str(wrong[0]) if wrong else "none"
            what = what if path.exists() else "no such file"
            where = "" if what == str(path) else f" for {path}"
            raise UserError(
                f"{setting}: must be files of boxes or folders of these, got {what}{where}: "
                f"use {FORMATS}"
            )
        files += [BoxFile(each, _LOADERS[each.suffix.lower()](each)) for each in found]
    return files


def _files_of_first_format(folder: Path) -> list[Path]:
    """Files of one format; it is logged how many of another one are left unread."""
    found = {
        pattern: [each for each in sorted(folder.glob(pattern)) if not each.name.startswith(".")]
        for pattern in _PATTERNS
    }
    chosen = next((pattern for pattern in _PATTERNS if found[pattern]), None)
    if chosen is None:
        return []
    unread = {pattern: len(set(files) - set(found[chosen])) for pattern, files in found.items()}
    if others := [f"{number} {pattern}" for pattern, number in unread.items() if number]:
        _log.info(
            "%s: reading its %d %s, not its %s: name files to read those",
            folder,
            len(found[chosen]),
            chosen,
            ", ".join(others),
        )
    return found[chosen]


def read_boxes(
    files: Sequence[BoxFile],
    classes: ClassSettings,
    times: TimeSettings,
    *,
    scored: bool,
    listing: Listing | None = None,
) -> ReadBoxes:
    """The boxes of files.

    Args:
        files: of :func:`open_box_files`.
        classes: which class each name or id is.
        times: where the times are.
        scored: whether these are detections, which need scores.
        listing: images and categories for COCO's lists of results, which have none.

    Raises:
        UserError: a file cannot be understood, or two hold the same recording.
    """
    tables, left_out, recordings = [], LeftOut(), dict[str, Path]()
    for file in files:
        if file.format == ".npy":
            table, unfit = npy_table(file.content, file.path, classes, times, scored=scored)
            names = [recording_of(file.path)]
        elif file.format == ".json":
            table, unfit = coco_table(
                file.content, file.path, classes, times, scored=scored, listing=listing
            )
            names = table.recordings
        else:
            table, unfit = csv_table(file.content, file.path, classes, times, scored=scored)
            names = table.recordings
        for name in names:
            if (other := recordings.setdefault(name, file.path)) != file.path:
                raise UserError(
                    f"{file.path}: must hold other recordings than {other}, got {name} in both: "
                    "name one of them"
                )
        tables.append(table)
        left_out.merge(unfit)
    return ReadBoxes(joined(tables), left_out, recordings)
