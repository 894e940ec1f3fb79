"""``python -m etram_det stats``: what a folder of recordings holds, before training on it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from etram_det.data.findings import index_recordings, log_findings
from etram_det.data.folders import SPLITS, boxes_name
from etram_det.data.labels import LabelSettings
from etram_det.data.layouts import (
    boxes_without_recordings,
    find_recordings,
    splits_of,
    warn_of_three_classes,
)
from etram_det.data.recording import NoUsableLabels, Recording, Timeline
from etram_det.data.representation import SENSOR_SIZE, FrameSettings
from etram_det.data.timeline import LabelSource, labelled_timeline
from etram_det.errors import UserError
from etram_det.progress import screen
from etram_det.tools.stats.statistics import RecordingFacts, statistics_of
from etram_det.tools.stats.summary import statistics_tables, write_statistics

_log = logging.getLogger(__name__)


def stats_command(
    root: Path,
    output: Path | None = None,
    small_threshold: float = 32**2,
    medium_threshold: float = 96**2,
    frames: FrameSettings = FrameSettings(input_size=(360, 640)),  # noqa: B008 (frozen)
    labels: LabelSettings = LabelSettings(),  # noqa: B008 (frozen)
) -> None:
    """Describe the labels of recordings: classes, sizes, rates, day and night; advise thresholds.

    Events need not be there: the boxes alone will do. Where they are, timestamps are read once.

    Args:
        root: folder of the recordings, in any layout, or of box files only.
        output: folder for ``stats.json``, ``stats.csv`` and plots; none are written if unset.
        small_threshold: boxes of a smaller area are small, in square pixels of the input frame.
        medium_threshold: boxes of this area and more are large.
        frames: how events become frames; areas are in pixels of these.
        labels: which boxes become labels.

    Raises:
        UserError: nothing was found, or a file is damaged.
    """
    if not 0 < small_threshold < medium_threshold:
        raise UserError(
            "small_threshold: must lie between 0 and medium_threshold, got "
            f"{small_threshold:g} and {medium_threshold:g}: set others"
        )
    root = root.expanduser()
    splits = _facts(root, frames, labels)
    height, width = frames.input_size or (0, 0)
    pixels = f"{width}x{height} frame" if width else "frame of half the sensor's size"
    statistics = statistics_of(
        splits, labels.class_names, small_threshold, medium_threshold, pixels
    )
    console = screen()
    console.print(statistics_tables(statistics))
    if output is not None:
        paths = write_statistics(output.expanduser(), statistics, splits)
        names = ", ".join(path.name for path in paths)
        console.out(f"{names} in {output}")


def _facts(
    root: Path, frames: FrameSettings, labels: LabelSettings
) -> dict[str, list[RecordingFacts]]:
    """Of each split that is there, what is known of its recordings."""
    splits: dict[str, list[RecordingFacts]] = {}
    for split in SPLITS:
        lone_boxes = boxes_without_recordings(root, split, labels.class_names)
        if split in (with_recordings := splits_of(root)):
            recordings = find_recordings(root, split, frames, labels)
            index_recordings(recordings)
            log_findings(split, recordings)
            splits[split] = [facts_of(each) for each in recordings]
            if lone_boxes:
                _log.warning(
                    f"{split}: {len(lone_boxes)} box files have no recording and are left out, "
                    f"the first of them {lone_boxes[0]}"
                )
        elif lone_boxes:
            splits[split] = _facts_of_boxes(lone_boxes, split, frames, labels)
            if with_recordings:
                _log.warning(
                    f"{split}: none of {len(lone_boxes)} box files has a recording: described by "
                    "the boxes alone"
                )
    if not splits:
        find_recordings(root, SPLITS[0], frames, labels)  # says what was expected
    return splits


def facts_of(recording: Recording) -> RecordingFacts:
    """What is known of a recording without reading its events."""
    timeline = Timeline(
        recording.frame_end_us, recording.label_frame, recording.label_boxes, recording.dropped
    )
    facts = _from_timeline(recording.name, timeline, recording.scale, recording.event_rate())
    return replace(facts, labels_without_events=recording.labels_without_events)


def _facts_of_boxes(
    paths: list[Path], split: str, frames: FrameSettings, labels: LabelSettings
) -> list[RecordingFacts]:
    """Facts from box files alone; those without usable labels are left out."""
    height, width = frames.sensor_size or SENSOR_SIZE
    input_height, input_width = frames.input_size or (height // 2, width // 2)
    scale = width / input_width, height / input_height
    facts = []
    for path in paths:
        try:
            timeline = labelled_timeline(
                LabelSource(path, path, (height, width), split, frames, labels)
            )
        except NoUsableLabels as error:
            _log.warning("left out: %s", error)
            continue
        facts.append(_from_timeline(boxes_name(path), timeline, scale, None))
    warn_of_three_classes(split, [each.classes for each in facts], labels.class_names)
    return facts


def _from_timeline(
    name: str, timeline: Timeline, scale: tuple[float, float], event_rate: float | None
) -> RecordingFacts:
    ends, boxes = timeline.frame_end_us, timeline.label_boxes
    # From one frame to the next is as long as a frame.
    seconds = float(ends[-1] - ends[0]) / 1e6 * len(ends) / max(len(ends) - 1, 1)
    return RecordingFacts(
        name=name,
        seconds=seconds,
        event_rate=event_rate,
        num_frames=len(ends),
        num_labelled=len(np.unique(timeline.label_frame)),
        classes=boxes["class_id"].astype(np.int64),
        sizes=np.stack([boxes["w"] / scale[0], boxes["h"] / scale[1]], axis=1).astype(np.float64),
        dropped=timeline.dropped,
    )
