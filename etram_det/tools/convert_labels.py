"""``python -m etram_det convert-labels``: COCO JSON and CSV to box files, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from etram_det.data.box_formats.coco import write_coco
from etram_det.data.box_formats.csv_files import write_csv
from etram_det.data.box_formats.naming import ClassSettings, TimeSettings
from etram_det.data.box_formats.npy import write_npy
from etram_det.data.box_formats.reading import open_box_files, read_boxes
from etram_det.data.box_formats.table import (
    EMPTY_RECORDING,
    BoxTable,
    without_what_only_coco_holds,
)
from etram_det.data.labels import ETRAM_CLASSES, class_names_of
from etram_det.data.representation import SENSOR_SIZE
from etram_det.errors import UserError
from etram_det.progress import screen
from etram_det.report.tables import number_of


def convert_labels_command(
    files: Sequence[str],
    output: Path = Path("labels"),
    class_names: Sequence[str] | Literal["etram", "etram3", "gen1", "1mpx", "dsec"] = ETRAM_CLASSES,
    class_map: dict[str, str | None] | None = None,
    times: TimeSettings = TimeSettings(),  # noqa: B008 (frozen)
    sensor_size: tuple[int, int] = SENSOR_SIZE,
) -> int:
    """Turn labels of annotation tools into box files, or box files into COCO JSON or CSV.

    What does not fit is listed by reason, with the first examples; all else is written.

    Args:
        files: COCO JSON, CSV or ``_bbox.npy`` files, or folders of these.
        output: ``labels.json`` for COCO, ``labels.csv`` for CSV, or a folder, which gets a
            ``<recording>_bbox.npy`` for each recording.
        class_names: name of each class id, or etram, etram3, gen1, 1mpx, dsec for the names of that
            data set.
        class_map: for names or ids of classes in files one of these names, or null to leave the
            class out: ``{person: pedestrian, dog: null}``.
        times: where the times of the images are.
        sensor_size: height and width of the images in pixels, for COCO.

    Returns:
        0 where everything fits, 1 where something is listed that settings could make fit.

    Raises:
        UserError: a file or setting does not fit, or nothing in the files does.
    """
    opened = open_box_files([Path(each).expanduser() for each in files], "files")
    classes = ClassSettings(class_names_of(class_names), class_map or {})
    read = read_boxes(opened, classes, times, scored=False)
    table, left_out = read.table, read.left_out
    output = output.expanduser()
    if lost := [each.path for each in opened if _would_replace(output, each.path)]:
        raise UserError(
            f"output: must not replace a file that is read, got {output} for {lost[0]}: name "
            "another, as what does not fit would be lost"
        )
    ending = output.suffix.lower()
    if ending != ".json":
        table, unfit = without_what_only_coco_holds(table)
        left_out.merge(unfit)
    recordings = _held_recordings(table, sorted(read.recordings), ending)
    for name in sorted(read.recordings.keys() - {*recordings}):
        left_out.add(EMPTY_RECORDING, name)
    misfits = [reason for reason in left_out.counts if reason.remedy]
    if misfits and not len(table):
        raise UserError(f"{files[0]}: no box fits: {left_out.line(misfits[0])}")
    _write(output, table, recordings, classes.class_names, sensor_size)
    console = screen()
    boxes, of = number_of(len(table), "box"), number_of(len(recordings), "recording")
    console.out(f"{boxes} of {of}: {output}")
    for line in left_out.lines():
        console.out(f"left out: {line}")
    return int(bool(misfits))


def _would_replace(output: Path, file: Path) -> bool:
    """Whether writing to an output may replace a file of labels."""
    target = file.parent if file.suffix.lower() == ".npy" and output.is_dir() else file
    return output.resolve() == target.resolve()


def _held_recordings(table: BoxTable, recordings: Sequence[str], ending: str) -> Sequence[str]:
    """The recordings that a format holds: in COCO those of images, in CSV those of boxes."""
    if ending == ".json":
        return table.recordings
    if ending == ".csv":
        return np.unique(table.recording[table.frame]).tolist()
    return recordings


def _write(
    output: Path,
    table: BoxTable,
    recordings: Sequence[str],
    class_names: Sequence[str],
    sensor_size: tuple[int, int],
) -> None:
    """Write boxes in the format that the name of the output stands for."""
    ending = output.suffix.lower()
    if ending == ".json":
        write_coco(output, table, class_names, sensor_size)
    elif ending == ".csv":
        write_csv(output, table, class_names)
    elif ending and not output.is_dir():
        raise UserError(
            f"output: must be a .json or .csv file, or a folder for box files, got {output}: use "
            "one of these"
        )
    else:
        write_npy(output, table, recordings)
