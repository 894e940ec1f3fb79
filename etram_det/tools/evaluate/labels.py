"""The labels of an evaluation: of a data root or of files, with the frames that count."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE, signed_tracks
from etram_det.data.box_formats.coco import Listing, category_names, listing_of
from etram_det.data.box_formats.naming import CHOSEN_CLASS, ClassSettings, TimeSettings
from etram_det.data.box_formats.reading import BoxFile, open_box_files, read_boxes
from etram_det.data.box_formats.table import BoxTable, LeftOut, Reason, joined
from etram_det.data.clock import LONGEST_US
from etram_det.data.folders import has_events, split_folders
from etram_det.data.interpolation import TrainingLabels
from etram_det.data.label_times import LEAD_US, label_times, merged_times
from etram_det.data.labels import ETRAM_CLASSES, LabelSettings, class_names_of
from etram_det.data.layouts import boxes_without_recordings, find_recordings, splits_of
from etram_det.data.recording import Recording
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from etram_det.report.tables import BETWEEN_LABEL_TIMES
from etram_det.tools.evaluate.window_ends import WindowEnds

_log = logging.getLogger(__name__)
DEFAULT_INTERVAL_MS = 100  # of a data root, as in training
_MERGED_US = 100  # times of one frame that were rounded differ by so much at most


@dataclass(frozen=True)
class LabelSource:
    """Where labels are: of a data root, recordings; otherwise files of boxes.

    Attributes:
        path: as it was given.
        split: of a data root; None for files.
        root: of recordings; None for files.
        files: of boxes; none where there are recordings.
    """

    path: Path
    split: str | None
    root: Path | None
    files: Sequence[BoxFile] = ()

    def class_names(self, given: Sequence[str] | None, are_mapped: bool) -> tuple[str, ...]:
        """The names of the classes: those that are given, or COCO's categories, or eTraM's.

        Args:
            given: names, or that of a data set; None where they are not given.
            are_mapped: whether categories have another name, so that they are not the classes.
        """
        if given is not None:
            return class_names_of(given)
        if are_mapped:
            return ETRAM_CLASSES
        contents = [file.content for file in self.files if file.format == ".json"]
        names = list(dict.fromkeys(name for each in contents for name in category_names(each)))
        plain, in_order = [name.casefold() for name in names], iter(ETRAM_CLASSES)
        # Some of eTraM's in another order are another data set's, such as Gen1's car, pedestrian.
        if {*plain} == {*ETRAM_CLASSES}:
            return ETRAM_CLASSES
        if all(name in in_order for name in plain):
            if names:
                _log.info("class_names: eTraM's, by which ids count, as %s has some", self.path)
            return ETRAM_CLASSES
        _log.info(
            "class_names: the categories of %s, by which ids count from 0: %s",
            self.path,
            ", ".join(names),
        )
        return tuple(names)

    def listing(self, images: Path | None, times: TimeSettings) -> Listing | None:
        """The images that COCO's lists of results refer to: of a file, or of the labels."""
        files = open_box_files([images], "images") if images else self.files
        coco = [file for file in files if file.format == ".json"]
        listings = [listing_of(file.content, file.path, times) for file in coco]
        return next((each for each in listings if each is not None), None)


@dataclass(frozen=True)
class LabelledFrames:
    """Labels with the frames that count.

    Attributes:
        table: labels; every frame is one that counts.
        start_us: ``[F]`` where the clock of each frame's recording starts.
        dropped: labels that were left out, by reason.
        rank: ``[F]`` order of COCO's image ids, in which detections of equal score count there;
            None where there are no ids.
        recordings: by name, where there are some.
        off_windows: by recording, how many label times were left out, as no window ends there.
    """

    table: BoxTable
    start_us: NDArray[np.int64]
    dropped: dict[str, int]
    rank: NDArray[np.int64] | None = None
    recordings: dict[str, Recording] = field(default_factory=dict)
    off_windows: dict[str, int] = field(default_factory=dict)

    def of_recordings(self, names: Sequence[str]) -> LabelledFrames:
        """The frames of some recordings."""
        kept = np.isin(self.table.recording, list(names))
        return self._of_frames(kept, self.dropped)

    def at_interval(self, interval_us: int, jitter_us: int) -> LabelledFrames:
        """The frames that lie whole intervals apart, by the rule for recordings."""
        kept = np.zeros(len(self.table.time_us), dtype=bool)
        for name in self.table.recordings:
            of = np.flatnonzero(self.table.recording == name)
            times_us, origin_us = self.table.time_us[of], int(self.start_us[of[0]])
            times = label_times(times_us, interval_us, jitter_us, origin_us)
            kept[of] = np.isin(times_us, times)
        between = int(np.count_nonzero(~kept[self.table.frame]))
        return self._of_frames(kept, {**self.dropped, BETWEEN_LABEL_TIMES: between})

    def at_window_ends(self, ends: Sequence[WindowEnds], classes: ClassSettings) -> LabelledFrames:
        """The frames at which windows of all detectors end; all frames where there are none.

        Of recordings, those of the label phase that most windows meet, with labels of the classes.
        """
        if self.recordings:
            found = [_in_phase_of_windows(each, ends) for each in self.recordings.values()]
            labels = _of_recordings([recording for recording, _ in found], classes)
            off = Counter({recording.name: number for recording, number in found if number})
        else:
            labels, off = self, Counter()
        kept = np.ones(len(labels.table.time_us), dtype=bool)
        for name in labels.table.recordings:
            of = np.flatnonzero(labels.table.recording == name)
            kept[of] = _met(ends, name, labels.table.time_us[of])
        if kept.all() or not kept.any():
            return replace(labels, off_windows=off)
        off += Counter(labels.table.recording[~kept].tolist())
        between = labels.dropped.get(BETWEEN_LABEL_TIMES, 0)
        between += int(np.count_nonzero(~kept[labels.table.frame]))
        labels = labels._of_frames(kept, {**labels.dropped, BETWEEN_LABEL_TIMES: between})
        return replace(labels, off_windows=off)

    def _of_frames(self, kept: NDArray[np.bool_], dropped: dict[str, int]) -> LabelledFrames:
        rank = None if self.rank is None else self.rank[kept]
        table, start_us = self.table.of_frames(kept), self.start_us[kept]
        return replace(self, table=table, start_us=start_us, dropped=dropped, rank=rank)


def find_labels(path: Path, split: str) -> LabelSource:
    """What a path stands for.

    Args:
        path: a data root, a folder of one of its splits, a file of boxes, or a folder of these.
        split: of a data root.

    Raises:
        UserError: there are no labels.
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        return LabelSource(path, None, None, open_box_files([path], "labels"))
    if any(has_events(each) for each in path.iterdir()):
        parents = [x for x in ("train", "val", "test") if path in split_folders(path.parent, x)]
        if parents:
            return LabelSource(path, parents[0], path.parent)
    if splits := splits_of(path):
        if split not in splits:
            raise UserError(
                f"split: must be one of {', '.join(splits)} that are under {path}, got {split}: "
                "set one of these"
            )
        return LabelSource(path, split, path)
    if lone := boxes_without_recordings(path, split, ETRAM_CLASSES):
        return LabelSource(path, split, None, open_box_files(lone, "labels"))
    return LabelSource(path, None, None, open_box_files([path], "labels"))


def labelled_frames(
    source: LabelSource,
    classes: ClassSettings,
    times: TimeSettings,
    interval_ms: int | None,
    jitter_ms: int = 2,
    frames: FrameSettings = FrameSettings(),  # noqa: B008 (frozen)
    filters: tuple[str, ...] = (),
    listing: Listing | None = None,
) -> LabelledFrames:
    """The labels of a source.

    Args:
        source: of :func:`find_labels`.
        classes: the classes.
        times: where the times are, of files.
        interval_ms: label times that count lie so far apart; None for 100 in a data root, and for
            all label times in files.
        jitter_ms: how far a label time may lie off the interval.
        frames: how events become frames, of a data root.
        filters: that drop boxes, of a data root.
        listing: images and categories of COCO labels that list none themselves.

    Raises:
        UserError: a file cannot be understood, or something in it does not fit.
    """
    if source.root is not None:
        assert source.split is not None
        label_settings = LabelSettings(
            classes.class_names, interval_ms or DEFAULT_INTERVAL_MS, jitter_ms, filters
        )
        found = find_recordings(source.root, source.split, frames, label_settings)
        labels = _of_recordings(found, classes)
        _require_boxes(labels.table, source)
        if count := labels.dropped.get(CHOSEN_CLASS.text):
            _log.warning("%s: left out: %s: %d", source.path, CHOSEN_CLASS.text, count)
        return labels
    if frames != FrameSettings() or filters:
        raise UserError(
            f"frames, filters: are for data roots, got some for {source.path}, whose boxes are "
            "taken as they are: leave them out"
        )
    read = read_boxes(source.files, classes, times, scored=False, listing=listing)
    require_fit(read.left_out, source.path)
    _require_boxes(read.table, source)
    table = with_merged_times(read.table, source.files)
    dropped = {each.text: count for each, count in read.left_out.counts.items()}
    first, last = _spans(table)
    start_us = np.where(last <= LONGEST_US, 0, first - LEAD_US)
    labels = LabelledFrames(table, start_us, dropped, _ranks(table, source, times))
    if interval_ms is not None:
        labels = labels.at_interval(interval_ms * 1000, jitter_ms * 1000)
    if not len(labels.table):
        raise UserError(
            f"interval_ms: must leave labels of {source.path}, got {interval_ms} and none at such "
            "times: set another interval"
        )
    return labels


def _met(
    ends: Sequence[WindowEnds], recording: str, times_us: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """At which times ``[L]`` of a recording windows of all detectors end."""
    of_each = [each.meet(recording, times_us) for each in ends]
    return np.logical_and.reduce([np.ones(len(times_us), dtype=bool), *of_each])


def _ranks(table: BoxTable, source: LabelSource, times: TimeSettings) -> NDArray[np.int64] | None:
    """The place of each frame among the image ids of a COCO file."""
    listing = source.listing(None, times) if len(source.files) == 1 else None
    if listing is None:
        return None
    places = {place: i for i, place in enumerate(listing.places.values())}
    frames = zip(table.recording.tolist(), table.time_us.tolist(), strict=True)
    return np.array([places[frame] for frame in frames], dtype=np.int64)


def require_fit(left_out: LeftOut, path: Path) -> None:
    """Refuse what does not fit and was not left out on purpose.

    Raises:
        UserError: there is some.
    """
    for reason in left_out.counts:
        if reason.remedy:
            raise UserError(f"{path}: {left_out.line(reason)}")
    for line in left_out.lines():
        _log.warning("%s: left out: %s", path, line)


def _require_boxes(table: BoxTable, source: LabelSource) -> None:
    if not len(table):
        raise UserError(f"labels: must have boxes, got none in {source.path}: use another file")


def _of_recordings(found: Sequence[Recording], classes: ClassSettings) -> LabelledFrames:
    """Labels of a split as ``validate`` takes them: by the rule for label times, in the frame.

    The frames are the same without the classes that are left out.
    """
    dropped: Counter[str] = Counter()
    tables, starts = [], {}
    for each in found:
        frame_times = each.frame_end_us[each.label_frame]
        tables.append(_table_of(each.name, frame_times, each.label_boxes))
        starts[each.name] = each.start_us
        dropped.update(
            {
                reason.removeprefix("boxes: "): count
                for reason, count in each.dropped.items()
                if reason.startswith("boxes: ")
            }
        )
    table = joined(tables)
    ids = [classes.class_id(None, i) for i in range(len(classes.class_names))]
    is_left_out = np.array([isinstance(each, Reason) for each in ids])[table.classes]
    if count := int(np.count_nonzero(is_left_out)):
        dropped[CHOSEN_CLASS.text] = count
    table = table.select(~is_left_out)
    class_id = np.array([0 if isinstance(each, Reason) else each for each in ids])
    table = replace(table, classes=class_id[table.classes])
    start_us = np.array([starts[name] for name in table.recording.tolist()], dtype=np.int64)
    recordings = {each.name: each for each in found}
    return LabelledFrames(table, start_us, dict(dropped), recordings=recordings)


def _in_phase_of_windows(recording: Recording, ends: Sequence[WindowEnds]) -> tuple[Recording, int]:
    """A recording with its labels of the phase that most windows meet, the first where none does.

    And how many label times of other phases are left out for that.
    """
    times_us = recording.frame_end_us[np.unique(recording.label_frame)]
    if _met(ends, recording.name, times_us).all():
        return recording, 0
    recording.label_for_training(TrainingLabels(label_phase="random"))
    phases = [each.frame_end_us[np.unique(each.label_frame)] for each in recording.phases]
    num_met = [np.count_nonzero(_met(ends, recording.name, each)) for each in phases]
    best = int(np.argmax(num_met))
    if not num_met[best]:
        return recording, 0
    chosen = recording.in_phase(best)
    chosen.dropped = {**recording.dropped, **recording.phases[best].dropped}
    return chosen, sum(map(len, phases)) - len(phases[best])


def _table_of(name: str, time_us: NDArray[np.int64], boxes: NDArray[Any]) -> BoxTable:
    """Boxes ``[M]`` of :data:`BOX_DTYPE` at times ``[M]`` of one recording."""
    assert boxes.dtype.names == BOX_DTYPE.names
    times_us, frame = np.unique(time_us, return_inverse=True)
    return BoxTable(
        np.full(len(times_us), name),
        times_us,
        frame,
        np.stack([boxes[side].astype(np.float64) for side in "xywh"], axis=1),
        boxes["class_id"].astype(np.int64),
        np.ones(len(boxes)),
        signed_tracks(boxes["track_id"]),
        np.zeros(len(boxes), dtype=bool),
    )


def with_merged_times(table: BoxTable, files: Sequence[BoxFile]) -> BoxTable:
    """Times that differ by microseconds, as of seconds that were rounded, as one.

    COCO lists its images, of which each is one.

    Args:
        table: boxes of labels, or of one detector.
        files: where they come from.
    """
    if any(file.format == ".json" for file in files):
        return table
    time_us = table.time_us.copy()
    for name in table.recordings:
        of = table.recording == name
        time_us[of] = merged_times(time_us[of], _MERGED_US)
    if (time_us == table.time_us).all():
        return table
    parts = {name: getattr(table, name) for name in table.__dataclass_fields__}
    return joined([BoxTable(**{**parts, "time_us": time_us})])


def _spans(table: BoxTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last time of each frame's recording, ``[F]`` each."""
    _, first, which = np.unique(table.recording, return_index=True, return_inverse=True)
    last = np.append(first[1:], len(table.time_us)) - 1
    return table.time_us[first][which], table.time_us[last][which]
