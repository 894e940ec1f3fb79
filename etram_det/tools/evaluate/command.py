"""``python -m etram_det evaluate``: the size-binned metric of any detector's detections."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from etram_det import __version__
from etram_det.data.box_formats.coco import Listing
from etram_det.data.box_formats.naming import ClassSettings, TimeSettings
from etram_det.data.box_formats.reading import ReadBoxes, open_box_files, read_boxes
from etram_det.data.box_formats.table import BoxTable
from etram_det.data.representation import FrameSettings
from etram_det.drawing.frames import Image, frame_image
from etram_det.errors import UserError
from etram_det.metrics.evaluation import EvaluationResult, evaluate
from etram_det.metrics.settings import (
    COUNTED_DETECTIONS,
    MOTION_BINS,
    SIZE_BINS,
    EvaluationSettings,
    ProtocolName,
    class_groups_by_id,
)
from etram_det.progress import screen
from etram_det.report.comparison import compared_metrics
from etram_det.report.gallery import Gallery
from etram_det.report.page import FILE_NAME, write_report
from etram_det.report.run_files import CONFUSION_IOU, read_run, results_of, write_results
from etram_det.report.tables import detail_tables, sides_table, summary_tables
from etram_det.tools.evaluate.frames import (
    PixelSettings,
    common_recordings,
    evaluation_frames,
    log_left_out,
)
from etram_det.tools.evaluate.labels import (
    LabelledFrames,
    find_labels,
    labelled_frames,
    require_fit,
    with_merged_times,
)
from etram_det.tools.evaluate.window_ends import window_ends

_log = logging.getLogger(__name__)
_WIDTH = 120  # of tables that go into a file or a pipe, in columns


@dataclass(frozen=True)
class MetricSettings:
    """How detections are counted, and what is shown.

    Attributes:
        size_bins: least and greatest area of each bin in square pixels, both included.
        motion_bins: least and greatest speed of each bin in sensor pixels a second, where labels
            have track ids.
        class_groups: names or ids of the classes in each group.
        max_detections: most detections that count for each frame and class.
        score_threshold: least score, in [0, 1], of a detection in the confusion matrix and among
            labels found and missed.
        pictures: most pictures of each kind, good detections, misses, localisation errors and false
            alarms, of recordings in a data root; 0 for none.
    """

    size_bins: dict[str, tuple[float, float]] = field(default_factory=SIZE_BINS.copy)
    motion_bins: dict[str, tuple[float, float]] = field(default_factory=MOTION_BINS.copy)
    class_groups: dict[str, Sequence[int | str]] = field(default_factory=dict)
    max_detections: int = COUNTED_DETECTIONS
    score_threshold: float = 0.3
    pictures: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise UserError(
                f"metric.score_threshold: must be in [0, 1], got {self.score_threshold:g}: set "
                "another"
            )


def evaluate_command(
    labels: Path,
    detections: Sequence[Sequence[str]],
    output: Path = Path("evaluation"),
    split: Literal["train", "val", "test"] = "val",
    protocol: ProtocolName = "full",
    class_names: Sequence[str] | Literal["etram", "etram3", "gen1", "1mpx", "dsec"] | None = None,
    class_map: dict[str, str | None] | None = None,
    images: Path | None = None,
    times: TimeSettings = TimeSettings(),  # noqa: B008 (frozen)
    label_times: TimeSettings | None = None,
    interval_ms: int | None = None,
    jitter_ms: int = 2,
    frames: FrameSettings = FrameSettings(),  # noqa: B008 (frozen)
    filters: tuple[str, ...] = (),
    tolerance_ms: float = 2.0,
    only_common: bool = False,
    pixels: PixelSettings = PixelSettings(),  # noqa: B008 (frozen)
    metric: MetricSettings = MetricSettings(),  # noqa: B008 (frozen)
) -> None:
    """Evaluate detections in files, of any detector, and write the report that validate writes.

    Args:
        labels: a data root or the folder of a split; a ``_bbox.npy`` file, a COCO ground truth or
            a CSV file; or a folder of these.
        detections: files or folders of one detector: ``_bbox.npy``, COCO results or CSV. Several
            detectors are compared: ``--detections yolo=A.json --detections rvt=B.json``.
        output: folder of the results; of several detectors, a folder for each in it.
        split: of a data root.
        protocol: ``full`` counts all labels; ``prophesee``, ``prophesee_gen1`` and ``etram_fork``
            filter as published results do. The score is that of the files.
        class_names: name of each class id, or etram, etram3, gen1, 1mpx, dsec for the names of that
            data set. Unset: the categories of COCO labels, or eTraM's eight, also where there is
            a ``class_map``.
        class_map: for names or ids of classes in files one of these names, or null to leave the
            class out: ``{person: pedestrian, dog: null}``.
        images: COCO file that lists the images of the results' ``image_id``, unless the labels do.
        times: where the times of labels and detections are.
        label_times: where those of labels are, if elsewhere or in another unit than those of
            detections: ``--label-times.unit us``.
        interval_ms: evaluate label times so far apart, by the rule of training. Unset: 100 in a
            data root, as in validate, and all label times of files, of these the ones at which
            windows of the detections end.
        jitter_ms: how far a label time may lie off the interval.
        frames: how events of a data root become frames, which pictures show; a preprocessed one
            must have these.
        filters: names of the filters that drop boxes of a data root, as ``data.filters`` of
            ``validate``.
        tolerance_ms: how far the time of detections may lie off that of labels.
        only_common: leave out recordings without detections, and detections of others.
        pixels: of the boxes and areas.
        metric: how detections are counted.

    Raises:
        UserError: a file or setting does not fit.
    """
    if min(tolerance_ms, jitter_ms) < 0 or (interval_ms is not None and interval_ms < 1):
        raise UserError(
            "tolerance_ms: must be at least 0, as jitter_ms, and interval_ms at least 1, got "
            f"{tolerance_ms:g}, {jitter_ms} and {interval_ms}: raise them"
        )
    output = output.expanduser()
    if output.exists() and not output.is_dir():
        raise UserError(f"output: must be a folder for the results, got {output}: name another")
    source = find_labels(labels.expanduser(), split)
    classes = ClassSettings(source.class_names(class_names, bool(class_map)), class_map or {})
    settings = _evaluation_settings(protocol, classes.class_names, pixels, metric)
    of_labels = label_times or times
    listed = source.listing(images, times if images else of_labels)
    with _of_labels(label_times is not None):
        truth = labelled_frames(
            source, classes, of_labels, interval_ms, jitter_ms, frames, filters, listed
        )
    read = _read(_named(detections), classes, times, listed)
    tolerance_us = tolerance_ms * 1000
    ends = [window_ends(each.table, tolerance_us) for each in read.values()]
    known = [each for each in ends if each is not None]
    truth = truth if interval_ms else truth.at_window_ends(known, classes)
    truth = truth.of_recordings(_recordings_of_all(read, truth, only_common))
    evaluated = {
        name: evaluation_frames(name, truth, found, pixels, tolerance_us, settings.moving_above)
        for name, found in read.items()
    }
    log_left_out(truth, known)
    folders = {name: output / name if len(read) > 1 else output for name in read}
    for name, folder in folders.items():
        facts = {"split": source.split, "data": str(labels), "detections": name}
        result = evaluate(evaluated[name], settings)
        _write(folder, result, truth, metric, frames, facts)
    _compare(folders, output)


@contextmanager
def _of_labels(have_own_times: bool) -> Iterator[None]:
    """Name the settings of labels alone in errors about times."""
    try:
        yield
    except UserError as error:
        message = str(error)
        if have_own_times:
            message = re.sub(r"(?<![\w.])times\.", "label_times.", message)
        elif re.search(r"(?<![\w.])times\.", message):
            message += " (for labels alone: label_times)"
        raise UserError(message) from error


def _read(
    groups: dict[str, list[Path]],
    classes: ClassSettings,
    times: TimeSettings,
    listing: Listing | None,
) -> dict[str, ReadBoxes]:
    """The detections of each detector, all of which fit."""
    read = {}
    for name, paths in groups.items():
        files = open_box_files(paths, "detections")
        found = read_boxes(files, classes, times, scored=True, listing=listing)
        require_fit(found.left_out, paths[0])
        if not found.recordings:
            raise UserError(
                f"detections: must hold detections, got none in {', '.join(map(str, paths))}: "
                "check that the detector has written any, or lower its least score"
            )
        _warn_of_scores(name, found.table)
        read[name] = replace(found, table=with_merged_times(found.table, files))
    return read


def _warn_of_scores(name: str, table: BoxTable) -> None:
    """Report scores that are none in [0, 1], such as percentages."""
    least, most = table.scores.min(initial=0), table.scores.max(initial=1)
    if least < 0 or most > 1:
        _log.warning(
            "%s: scores must be in [0, 1] for thresholds to mean what they say, got %g to %g, and "
            "AP goes by their order alone: divide percentages by 100",
            name,
            table.scores.min(),
            table.scores.max(),
        )


def _recordings_of_all(
    read: dict[str, ReadBoxes], truth: LabelledFrames, only_common: bool
) -> list[str]:
    """The recordings on which all detectors are evaluated."""
    of_each = [common_recordings(name, truth, each, only_common) for name, each in read.items()]
    together = [name for name in truth.table.recordings if all(name in of for of in of_each)]
    if not together:
        raise UserError(
            "detections: must have recordings in common, got none in all of "
            f"{', '.join(read)}: evaluate them one by one"
        )
    return together


def _evaluation_settings(
    protocol: ProtocolName,
    class_names: Sequence[str],
    pixels: PixelSettings,
    metric: MetricSettings,
) -> EvaluationSettings:
    try:
        return EvaluationSettings(
            tuple(class_names),
            metric.size_bins,
            "native" if pixels.frame_scale == 1 else "network",
            protocol,
            class_groups_by_id(metric.class_groups, class_names),
            metric.max_detections,
            metric.motion_bins,
        )
    except UserError as error:  # in the words of this command
        raise UserError(re.sub(r"\bmodel\.", "metric.", str(error))) from error


def _named(detections: Sequence[Sequence[str]]) -> dict[str, list[Path]]:
    """The files of each detector by its name: before ``=``, or that of its file or folder."""
    groups: dict[str, list[Path]] = {}
    for words in detections:
        if not words:
            raise UserError("detections: must be files, got none: name some")
        name, equals, first = words[0].partition("=")
        is_name = bool(equals) and not Path(words[0]).exists()
        fits = re.fullmatch(r"[\w.-]+", name)
        if is_name and not fits and Path(first).expanduser().exists():
            raise UserError(
                "detections: names before = must be of letters, digits, dots, _ and -, got "
                f"{name}: use another"
            )
        if is_name and fits:
            paths = [first, *words[1:]]
        else:
            paths, name = list(words), Path(words[0]).resolve().stem
        if name in groups:
            raise UserError(
                f"detections: must have a name for each detector, got {name} twice: name them by "
                f"--detections A={paths[0]}"
            )
        groups[name] = [Path(each).expanduser() for each in paths]
    if not groups:
        raise UserError("detections: must be files, got none: use --detections FILE")
    return groups


def _write(
    folder: Path,
    result: EvaluationResult,
    truth: LabelledFrames,
    metric: MetricSettings,
    frames: FrameSettings,
    facts: dict[str, Any],
) -> None:
    """Print and write what one detector's evaluation found."""
    results = results_of(
        result, score_threshold=metric.score_threshold, dropped_by_data=truth.dropped
    )
    results["evaluation"]["from_files"] = True
    results["run"] = {**facts, "step": None, "checkpoint": None, "version": __version__}
    results["run"]["input_size"] = None
    console = screen(width=_WIDTH)
    console.rule(facts["detections"])
    console.print(summary_tables(results))
    console.print(detail_tables(results))
    if truth.recordings and metric.pictures:
        results["gallery"] = _gallery(result, truth, metric, frames).write(folder)
    write_results(folder, results, result)
    console.print(f"report: {write_report([folder])}", soft_wrap=True)


def _gallery(
    result: EvaluationResult,
    truth: LabelledFrames,
    metric: MetricSettings,
    frames: FrameSettings,
) -> Gallery:
    """Pictures of what went wrong; recordings are read through when the first is drawn."""
    prepared = set()

    def draw_frame(name: str, time_us: int) -> tuple[Image, np.ndarray]:
        recording = truth.recordings[name]
        if name not in prepared:
            recording.prepare()
            prepared.add(name)
        index = int(np.searchsorted(recording.frame_end_us, time_us))
        picture = frame_image(recording.frames(index, index + 1)[0], frames.representation)
        of_sensor = 1 / np.array(recording.scale)
        scale = result.frames.scale[0] if len(result.frames) else np.ones(2)
        return picture, of_sensor * scale

    return Gallery(
        result.frames,
        result.pairing(score_threshold=metric.score_threshold, iou_threshold=CONFUSION_IOU),
        result.settings.reported_classes or ("any class",),
        draw_frame,
        metric.pictures,
    )


def _compare(folders: dict[str, Path], output: Path) -> None:
    """Compare each two detectors, on the screen and in a page."""
    pairs = list(combinations(folders, 2))
    for pair in pairs:
        runs = [read_run(folders[name]) for name in pair]
        page = FILE_NAME if len(pairs) == 1 else f"report_{pair[0]}_{pair[1]}.html"
        path = write_report([folders[name] for name in pair], output / page)
        console = screen(width=_WIDTH)
        console.rule(f"A: {pair[0]}, B: {pair[1]}")
        console.print(sides_table(compared_metrics(runs[:1], runs[1:])))
        console.print(f"report: {path}", soft_wrap=True)
