"""Boxes of many recordings, whatever file they came from, and what of the file did not fit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAX_EXAMPLES = 3


class Reason(NamedTuple):
    """Why something was left out.

    Attributes:
        text: what was left out, in the plural.
        remedy: what to set; empty where it was left out on purpose, or cannot be helped.
    """

    text: str
    remedy: str = ""


EMPTY = Reason("images left without boxes, which only COCO can hold")
EMPTY_RECORDING = Reason(
    "recordings left without boxes, which box files hold, and COCO where it lists their images"
)
CROWD = Reason("regions of many objects (iscrowd), which only COCO can hold")


@dataclass
class LeftOut:
    """What was left out of files, by reason.

    Attributes:
        counts: how often.
        examples: the first ones.
    """

    counts: Counter[Reason] = field(default_factory=Counter)
    examples: dict[Reason, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: Reason, example: str, count: int = 1) -> None:
        """Count one more, or several of which the first is ``example``."""
        self.counts[reason] += count
        known = self.examples[reason]
        if len(known) < _MAX_EXAMPLES and example not in known:
            known.append(example)

    def merge(self, other: LeftOut) -> None:
        """Add what was left out elsewhere."""
        for reason, count in other.counts.items():
            for example in other.examples[reason]:
                self.add(reason, example, 0)
            self.counts[reason] += count

    def lines(self) -> list[str]:
        """A line for each reason: text, number, first examples, remedy."""
        return [self.line(reason) for reason in self.counts]

    def line(self, reason: Reason) -> str:
        """Text, number, first examples and remedy of a reason."""
        count, examples = self.counts[reason], self.examples[reason]
        more = ", …" if count > len(examples) else ""
        remedy = f": {reason.remedy}" if reason.remedy else ""
        return f"{reason.text}: {count:,} ({', '.join(examples)}{more}){remedy}"


@dataclass(frozen=True)
class BoxTable:
    """Boxes of F frames of some recordings, by recording and time.

    Attributes:
        recording: ``[F]`` name of each frame's recording.
        time_us: ``[F]`` int64, its time.
        frame: ``[M]`` int64, index of the frame that holds the box, ascending.
        boxes: ``[M, 4]`` float64, left, top, width and height in pixels, as the file has them.
        classes: ``[M]`` int64, class ids.
        scores: ``[M]`` float64, 1 for labels.
        tracks: ``[M]`` int64, track ids, -1 for none; 0 throughout where a file has none.
        crowd: ``[M]`` bool, regions of many objects: COCO's ``iscrowd``.
    """

    recording: NDArray[np.str_]
    time_us: NDArray[np.int64]
    frame: NDArray[np.int64]
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    tracks: NDArray[np.int64]
    crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def recordings(self) -> list[str]:
        """Names of the recordings, sorted."""
        return np.unique(self.recording).tolist()

    @property
    def has_tracks(self) -> bool:
        """Whether there are track ids; 0 is one where there are others."""
        return bool((self.tracks > 0).any())

    def select(self, kept: NDArray[Any]) -> BoxTable:
        """All frames, with the boxes where ``kept`` ``[M]`` is true."""
        names = [each.name for each in fields(self) if each.name not in ("recording", "time_us")]
        changes: Any = {name: getattr(self, name)[kept] for name in names}
        return replace(self, **changes)

    def of_frames(self, kept: NDArray[np.bool_]) -> BoxTable:
        """The frames where ``kept`` ``[F]`` is true, with their boxes."""
        place = np.cumsum(kept) - 1
        table = self.select(kept[self.frame])
        recording, time_us = self.recording[kept], self.time_us[kept]
        return replace(table, frame=place[table.frame], recording=recording, time_us=time_us)


def without_what_only_coco_holds(table: BoxTable) -> tuple[BoxTable, LeftOut]:
    """The boxes without crowds; what is left out are these, and images without boxes."""
    left_out = LeftOut()
    names = [f"{n}_{t}" for n, t in zip(table.recording, table.time_us, strict=True)]
    has_boxes = np.bincount(table.frame, minlength=len(names)) > 0
    for i in np.flatnonzero(~has_boxes).tolist():
        left_out.add(EMPTY, names[i])
    for frame in table.frame[table.crowd].tolist():
        left_out.add(CROWD, names[frame])
    return table.select(~table.crowd), left_out


def joined(tables: Sequence[BoxTable]) -> BoxTable:
    """One table of several, by recording and time; frames of the same time become one."""
    recording = np.concatenate([np.empty(0, "U1"), *(each.recording for each in tables)])
    time_us = np.concatenate([np.empty(0, np.int64), *(each.time_us for each in tables)])
    names, index = np.unique(recording, return_inverse=True)
    keys, place = np.unique(np.stack([index, time_us], axis=1), axis=0, return_inverse=True)
    starts = np.cumsum([0, *(len(each.time_us) for each in tables)])
    frame = _concatenated([place[t.frame + s] for t, s in zip(tables, starts, strict=False)])
    order = np.argsort(frame, kind="stable")

    def column(name: str, empty: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([empty, *(getattr(each, name) for each in tables)])[order]

    return BoxTable(
        names[keys[:, 0]] if len(names) else recording,
        keys[:, 1],
        frame[order],
        column("boxes", np.empty((0, 4))),
        column("classes", np.empty(0, np.int64)),
        column("scores", np.empty(0)),
        column("tracks", np.empty(0, np.int64)),
        column("crowd", np.empty(0, np.bool_)),
    )


def _concatenated(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *parts])


class TableBuilder:
    """Collects frames and boxes one by one."""

    def __init__(self) -> None:
        self._frames: dict[tuple[str, int], int] = {}
        self._rows: list[tuple[int, float, float, float, float, int, float, int, bool]] = []

    def frame(self, recording: str, time_us: int) -> int:
        """The index of a frame, which is added unless it is there."""
        return self._frames.setdefault((recording, time_us), len(self._frames))

    def add(
        self,
        frame: int,
        box: Sequence[float],
        class_id: int,
        score: float = 1.0,
        track: int = -1,
        crowd: bool = False,
    ) -> None:
        """Add a box ``[left, top, width, height]`` to a frame."""
        left, top, width, height = box
        self._rows.append((frame, left, top, width, height, class_id, score, track, crowd))

    def table(self) -> BoxTable:
        """What was collected, by recording and time; boxes of a frame in the order they came."""
        columns = list(zip(*self._rows, strict=True)) or [()] * 9
        frame, classes, tracks = (np.array(columns[i], dtype=np.int64) for i in (0, 5, 7))
        table = BoxTable(
            np.array([name for name, _ in self._frames], dtype=str),
            np.array([time_us for _, time_us in self._frames], dtype=np.int64),
            frame,
            np.array(columns[1:5], dtype=np.float64).T.reshape(-1, 4),
            classes,
            np.array(columns[6], dtype=np.float64),
            tracks,
            np.array(columns[8], dtype=np.bool_),
        )
        return joined([table])
