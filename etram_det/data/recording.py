"""One recording on disk, whatever its layout: frames and the boxes that belong to them."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE, corners, has_tracks, signed_tracks
from etram_det.data.interpolation import TrainingLabels, labels_between, why_none_between
from etram_det.data.sparse_frames import SparseFrames
from etram_det.errors import UserError

_LATE_US = 100_000  # windows lead back to the start of the clock, which is this near to 0
OUTSIDE = "events: outside the sensor"  # among the reasons of Recording.dropped
INTERVAL = "interval"  # kind of the note on label times that match few intervals
REPAIRED = "with a repaired timestamp"  # among the names of Recording.events
REPAIRED_SHARE = 0.01  # of a recording's events: more are no stray timestamps
# In the folder of a sequence of DSEC, with DSEC-Det's labels.
DSEC_EVENTS = Path("events/left/events.h5")
DSEC_BOXES = Path("object_detections/left/tracks.npy")
# RVT's originals end in _td.dat.h5, all others in _td.h5, _td.raw and so on.
_SUFFIXES = re.compile(r"(_td)?(\.(dat|raw))?\.(h5|hdf5|raw|dat|aedat4)", re.IGNORECASE)


def recording_name(path: Path) -> str:
    """Name of the recording in a file of events: without its suffixes; in DSEC, the sequence's."""
    if path.parts[-3:] == DSEC_EVENTS.parts and len(path.parts) > len(DSEC_EVENTS.parts):
        return path.parents[2].name
    match = _SUFFIXES.search(path.name)
    return path.name[: match.start()] if match and match.end() == len(path.name) else path.stem


@dataclass(frozen=True)
class Note:
    """What was inferred, assumed or doubtful when a recording was opened.

    Attributes:
        message: what it is and what to do, without the recording's name.
        doubtful: whether the user should look at it before relying on the recording.
        kind: what notes have in common that are logged as one; the message unless set.
    """

    message: str
    doubtful: bool = False
    kind: str = ""


class NoLabels(UserError):
    """A recording without any box."""


class NoUsableLabels(NoLabels):
    """There is a box file, but no box is left after the filters and the rule for label times."""


class NoBoxes(NoUsableLabels):
    """There is a box file without any box: the recording shows nothing, or is not labelled."""


@dataclass(frozen=True)
class Timeline:
    """When the frames of a recording end, and which boxes belong to them: none unless given.

    Attributes:
        frame_end_us: ``[F]`` int64, end of each frame's window, ascending.
        label_frame: ``[M]`` int64, the frame of each box, ascending.
        label_boxes: ``[M]`` boxes of the labelled frames, in pixels of the sensor, with the
            fields of :data:`etram_det.boxes.BOX_DTYPE`.
        dropped: number of boxes left out, by reason.
        background_frame: ``[N]`` int64, frames labelled to show nothing, ascending.
        notes: what is doubtful about the labels.
    """

    frame_end_us: NDArray[np.int64]
    label_frame: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    label_boxes: NDArray[Any] = field(default_factory=lambda: np.empty(0, BOX_DTYPE))
    dropped: dict[str, int] = field(default_factory=dict)
    background_frame: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    notes: tuple[Note, ...] = ()

    def with_labels(self, frame: NDArray[np.int64], boxes: NDArray[Any]) -> Timeline:
        """The same frames, and labels for those that have none.

        Args:
            frame: ``[m]`` frame of each box, ascending.
            boxes: ``[m]`` boxes; those of labelled frames are left out.
        """
        new = ~np.isin(frame, self.label_frame)
        frame = np.concatenate([self.label_frame, frame[new]])
        order = np.argsort(frame, kind="stable")
        boxes = np.concatenate([self.label_boxes, boxes[new]])[order]
        return replace(self, label_frame=frame[order], label_boxes=boxes)


class Recording(ABC):
    """A sequence of ``F`` frames, some of them labelled.

    Files are opened for each read and closed after it (0.4 ms of some 20), so a
    recording can be pickled, sent to workers and carried over a fork, and no number of them
    exhausts memory or open files.

    Attributes:
        name: name of the recording, without folder or suffix.
        path: the file that holds the events or frames.
        source: the same file as the user knows it, which for a camera's is not the decoded one.
        layout: name of the layout in which it was found.
        sensor_size: height and width of the sensor in pixels.
        input_size: height and width of the frames in pixels.
        frame_end_us, label_frame, label_boxes, background_frame: as in :class:`Timeline`.
        has_tracks: whether its labels have track ids.
        phases: its frames and labels in each label phase that training draws from: one, unless
            :meth:`label_for_training` has found others.
        dropped: number of boxes left out and, of the frames that this process has read, events;
            by reason.
        events: number of events in the frames that this process has read, and of those in the
            file whose timestamp was behind an earlier one; empty where frames are stored as such.
        repaired_share: share of the file's events, in [0, 1], whose timestamp was behind an earlier
            one, once frames were read; 0 where that is not known.
        notes: what was inferred, assumed or doubtful when it was opened.
        labels_without_events: boxes in whose windows there is no event; known in part before
            :meth:`prepare`.
    """

    layout: ClassVar[str]

    def __init__(
        self,
        name: str,
        path: Path,
        sensor_size: tuple[int, int],
        input_size: tuple[int, int],
        timeline: Timeline,
    ) -> None:
        self.name = name
        self.path = self.source = path
        self.sensor_size = sensor_size
        self.input_size = input_size
        self.labels_without_events = 0
        self.phases = [timeline]
        self._follow(timeline)
        self.dropped = dict(timeline.dropped)
        self.events: dict[str, int] = {}
        self.repaired_share = 0.0
        self.notes = list(timeline.notes)

    def __len__(self) -> int:
        return len(self.frame_end_us)

    def _follow(self, timeline: Timeline) -> None:
        self.frame_end_us = timeline.frame_end_us
        self.label_frame = timeline.label_frame
        self.label_boxes = timeline.label_boxes
        self.has_tracks = has_tracks(timeline.label_boxes)
        self.background_frame = timeline.background_frame

    def label_for_training(self, training: TrainingLabels) -> None:
        """Add labels between the label times, and other phases of these, where they are asked for.

        What cannot be done is a note. Background stays as it is.
        """
        if training == TrainingLabels() or len(self.label_boxes) == 0:
            return
        times_us = self.frame_end_us[self.label_frame]
        self.phases = self._timelines(training)
        if training.interpolate_labels:
            self.notes = [note for note in self.notes if note.kind != INTERVAL]
            is_same = len(self.phases[0].label_boxes) == len(self.label_boxes)
            if is_same and (why := why_none_between(self.label_boxes, times_us)):
                note = f"{why}, so that data.interpolate_labels adds no labels to it: correct its "
                note += "boxes, or set data.interpolate_labels to false"
                self.notes.append(Note(note, True, "interpolation"))
        if training.least_motion_px and not self.has_tracks:
            line = "its boxes have no track ids, so that data.least_motion_px leaves none out"
            self.notes.append(Note(line))
        self._follow(self.phases[0])

    def _timelines(self, training: TrainingLabels) -> list[Timeline]:
        """Frames and labels in each label phase; stored frames have the one they were made in."""
        [timeline] = self.phases
        if training.label_phase == "random":
            line = "data.label_phase: random has no effect on frames that are stored already"
            self.notes.append(Note(line))
        if not training.interpolate_labels:
            return [timeline]
        times_us = timeline.frame_end_us[timeline.label_frame]
        made = labels_between(timeline.label_boxes, times_us, timeline.frame_end_us, 0)
        return [timeline.with_labels(*made)]

    def in_phase(self, phase: int) -> Recording:
        """The same recording with the frames and labels of a label phase.

        Args:
            phase: its place in ``phases``.
        """
        other = copy.copy(self)
        other._follow(self.phases[phase])
        return other

    @property
    def start_us(self) -> int:
        """Where its clock starts: 0 as in RVT, or its first window if that is much later."""
        ends = self.frame_end_us[:2].tolist()
        start = 2 * ends[0] - ends[1] if len(ends) == 2 else 0
        return 0 if start < _LATE_US else start

    def label_areas(self) -> NDArray[np.float32]:
        """Areas ``[M]`` of all labels in square pixels of the input frame."""
        scale_x, scale_y = self.scale
        return self.label_boxes["w"] * self.label_boxes["h"] / np.float32(scale_x * scale_y)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the sensor for each pixel of the input frame, in x and y."""
        (height, width), (input_height, input_width) = self.sensor_size, self.input_size
        return width / input_width, height / input_height

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """``[F]`` bool, true for frames that have labels, or are labelled to show nothing."""
        labelled = np.zeros(len(self), np.bool_)
        labelled[self.label_frame] = labelled[self.background_frame] = True
        return labelled

    def boxes(self, frame: int) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """The labels of one frame.

        Returns:
            Boxes ``[M, 4]``, ``xyxy`` in pixels of the input frame, and class ids ``[M]``: none of
            them where it is labelled to show nothing; None where the frame is not labelled.
        """
        first, last = np.searchsorted(self.label_frame, [frame, frame + 1])
        if first == last and frame not in self.background_frame:
            return None
        boxes = self.label_boxes[first:last]
        in_frame = corners(boxes)
        in_frame /= np.array(self.scale * 2, np.float32)
        return in_frame, boxes["class_id"].astype(np.int64)

    def track_ids(self, frame: int) -> NDArray[np.int64]:
        """Track ids ``[M]`` of the labels of one frame, -1 for none; 0 if the file has none."""
        first, last = np.searchsorted(self.label_frame, [frame, frame + 1])
        return signed_tracks(self.label_boxes["track_id"][first:last])

    def event_rate(self) -> float | None:
        """Events in a second, where that is known without reading them."""
        return None

    @property
    def num_events(self) -> int | None:
        """Events of all of it, where that is known without reading them."""
        return None

    @property
    def event_span_us(self) -> tuple[int, int] | None:
        """First and last timestamp of its events in µs, where they are there."""
        return None

    @property
    def num_events_to_index(self) -> int:
        """Events that :meth:`prepare` has to read through; 0 where this was done before."""
        return 0

    def prepare(  # noqa: B027 (nothing to do where frames are stored)
        self, progress: Callable[[int], None] | None = None
    ) -> None:
        """Read through the events once, where frames need that, and count labels without any.

        Args:
            progress: is called with a number of events that were read.

        Raises:
            UserError: the file is damaged where it is read.
        """

    @abstractmethod
    def frames(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop`` (not included), ``[stop - start, channels, H, W]``.

        Their counts are uint8, those of a mixed density int8.

        Raises:
            UserError: the file is damaged where it is read.
        """

    def sparse_frames(self, start: int, stop: int, count_cutoff: int) -> SparseFrames:
        """The same frames as lists of their non-zero counts.

        Args:
            start: the first frame.
            stop: the frame after the last one.
            count_cutoff: where the counts saturate.

        Raises:
            UserError: the file is damaged where it is read.
        """
        return SparseFrames.of(self.frames(start, stop), count_cutoff)


def dropped_events(num_outside: int) -> str:
    """What is reported of events outside the sensor."""
    return f"{num_outside:,} events outside the sensor were dropped"


def repaired_events(share: float) -> str:
    """What is reported of a recording of which more than ``REPAIRED_SHARE`` was repaired.

    Args:
        share: of its events, in [0, 1], whose timestamp was behind an earlier one.
    """
    return (
        f"{share:.0%} of its events have an earlier timestamp than the event before and take that "
        "one: many are in a wrong frame or in none: repair the recording"
    )
