"""What one split holds, and what was inferred, left out and doubtful in it."""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from etram_det.data.datamodule import EventDataModule
from etram_det.data.findings import findings, index_recordings
from etram_det.data.layouts import find_recordings, layout_of
from etram_det.data.recording import (
    OUTSIDE,
    REPAIRED,
    REPAIRED_SHARE,
    Recording,
    repaired_events,
)
from etram_det.data.sparse import estimated_size
from etram_det.errors import UserError

_STRAY = 0.01  # of the events outside the sensor: more are no stray ones
_OUTSIDE_FRAME = 0.05  # of the boxes: more are no road users that have just left it
_MAX_NAMES = 3
_MAX_KINDS = 4  # of faults that are shown, each by one example
_log = logging.getLogger("etram_det.data")  # above those of all its modules


@dataclass(frozen=True)
class Finding:
    """One thing to know about the data.

    Attributes:
        text: what it is and, where it is doubtful, what to do.
        is_doubtful: whether to look at it before training.
    """

    text: str
    is_doubtful: bool = False


@dataclass
class SplitFindings:
    """What is known of a split.

    Attributes:
        name: ``train``, ``val`` or ``test``; None for files without a split, to detect in.
        recordings: those that can be used.
        faults: what is wrong with the others.
        warnings: what was logged while they were opened.
        num_indexed: recordings that were read through now; the others had been before.
        index_s: the time of it.
        cache_bytes: size of the sparse cache of them, by a sample.
    """

    name: str | None
    recordings: list[Recording]
    faults: list[UserError]
    warnings: list[Finding]
    num_indexed: int
    index_s: float
    cache_bytes: int = field(default=0, init=False)

    @property
    def title(self) -> str:
        """Its name, also of what has none."""
        return self.name or "files"

    @property
    def layouts(self) -> list[str]:
        """Names of the layouts in which its recordings lie."""
        layouts = (layout_of(each, self.name or "") for each in self.recordings)
        return list(dict.fromkeys(layouts if self.name else (x.layout for x in self.recordings)))

    def sample(self, data: EventDataModule, number: int) -> Iterator[None]:
        """Read some frames of each recording, to estimate its cache and to count events.

        Args:
            data: the settings.
            number: frames of each recording.
        """
        settings = asdict(data.frame_settings) | asdict(data.label_settings)
        readable = []
        for recording in self.recordings:
            try:
                self.cache_bytes += estimated_size(recording, settings, number)
                readable.append(recording)
            except UserError as error:
                self.faults.append(error)
            yield
        self.recordings = readable


def findings_of(name: str | None, data: EventDataModule) -> SplitFindings:
    """Open the recordings of a split and index them, with a bar.

    Args:
        name: of the split; None for files without one, which need no labels.
        data: the settings.

    Raises:
        UserError: the subset does not fit, or there are neither splits nor files.
    """
    faults: list[UserError] = []
    settings = data.frame_settings, data.label_settings
    recordings: list[Recording] = []
    with warnings_as_findings() as warnings:
        try:
            recordings = find_recordings(
                data.folder, name or "train", *settings, name is not None, faults
            )
        except UserError as error:
            if name is None:
                raise
            faults.append(error)
        if recordings and name is not None:
            recordings = data.subset_of(recordings, name)
        num_new = sum(each.num_events_to_index > 0 for each in recordings)
        started_s = time.monotonic()
        recordings = index_recordings(recordings, faults=faults)
        index_s = time.monotonic() - started_s
    return SplitFindings(name, recordings, faults, warnings, num_new, index_s)


@contextmanager
def warnings_as_findings() -> Iterator[list[Finding]]:
    """Gather what reading the data logs as a warning, in place of printing it at once."""
    found: list[Finding] = []
    gatherer = _Gatherer(found)
    before = _log.propagate
    _log.addHandler(gatherer)
    _log.propagate = False
    try:
        yield found
    finally:
        _log.propagate = before
        _log.removeHandler(gatherer)


class _Gatherer(logging.Handler):
    def __init__(self, found: list[Finding]) -> None:
        super().__init__()
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self._found.append(Finding(record.getMessage(), True))
        else:
            logging.getLogger().handle(record)


def remarks_of(splits: Sequence[SplitFindings]) -> list[Finding]:
    """What was inferred, assumed, left out or doubtful in any split, each with what to do."""
    recordings = [each for split in splits for each in split.recordings]
    faults = sorted(str(fault) for split in splits for fault in split.faults)
    return [
        *_kinds(faults, len(recordings) + len(faults)),
        *_merged(splits),
        *(Finding(line, is_doubtful) for line, is_doubtful in findings(recordings)),
        *_of_events(recordings),
        *_of_boxes(recordings),
    ]


def _kinds(faults: Sequence[str], total: int) -> Iterator[Finding]:
    """One example of each kind of fault."""
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kinds.setdefault(re.sub(r"\S*[/\\]\S*|\S*_(td|bbox)\S*|\d+", "", fault), []).append(fault)
    for first, *others in list(kinds.values())[:_MAX_KINDS]:
        text = f"{1 + len(others)} of {total} recordings cannot be used: {first}"
        files = [Path(place).name for each in others if os.sep in (place := each.split(": ")[0])]
        if files:
            more = f" and {len(files) - _MAX_NAMES} more" if len(files) > _MAX_NAMES else ""
            text += f"; nor can {', '.join(files[:_MAX_NAMES])}{more}"
        yield Finding(text, True)
    if len(kinds) > _MAX_KINDS:
        num_more = sum(map(len, list(kinds.values())[_MAX_KINDS:]))
        yield Finding(
            f"{num_more} more cannot be used for other reasons: correct these first", True
        )


def _merged(splits: Sequence[SplitFindings]) -> list[Finding]:
    """Warnings, those that several splits share once."""
    names: dict[Finding, list[str]] = {}
    for split in splits:
        for each in split.warnings:
            text = each.text.removeprefix(f"{split.name}: ")
            is_of_split = text != each.text
            shared = names.setdefault(replace(each, text=text), [])
            shared += [split.name] if is_of_split and split.name else []
    return [
        replace(each, text=f"{', '.join(found)}: {each.text}") if found else each
        for each, found in names.items()
    ]


def _of_events(recordings: Sequence[Recording]) -> Iterator[Finding]:
    """What was dropped and repaired beyond what stray events are."""
    repaired = {each.name: share_repaired([each]) for each in recordings}
    many = sorted((n for n in repaired if repaired[n] > REPAIRED_SHARE), key=lambda n: -repaired[n])
    if many:
        more = f" and {len(many) - 1} more" if len(many) > 1 else ""
        text = f"{many[0]}{more}: {repaired_events(repaired[many[0]])}"
        yield Finding(f"{text} or leave it out by data.subset", True)
    outside = [
        each
        for each in recordings
        if share_outside([each]) > _STRAY and not any(note.doubtful for note in each.notes)
    ]
    if outside:
        more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
        text = f"{outside[0].name}{more}: {share_outside(outside):.1%} of the events looked at lie "
        yield Finding(f"{text}outside the sensor and are dropped: set data.sensor_size", True)


def _of_boxes(recordings: Sequence[Recording]) -> Iterator[Finding]:
    """Boxes that the frame cuts off, beyond those of what has just left it."""
    outside = {each.name: boxes_left_out([each])["outside the frame"] for each in recordings}
    total = sum(len(r.label_boxes) + boxes_left_out([r]).total() for r in recordings)
    number = sum(outside.values())
    if number > _OUTSIDE_FRAME * total:
        worst = max(outside, key=lambda name: outside[name])
        yield Finding(
            f"{number:,} of {total:,} boxes lie outside the frame, most of them in {worst}: x, y, "
            "w and h must be pixels of the sensor, x from the left: correct them, or set "
            "data.sensor_size",
            True,
        )


def boxes_left_out(recordings: Sequence[Recording]) -> Counter[str]:
    """Boxes that became no labels, by reason."""
    counts: Counter[str] = Counter()
    for recording in recordings:
        for reason, number in recording.dropped.items():
            if reason.startswith("boxes: ") and number:
                counts[reason.removeprefix("boxes: ")] += number
    return counts


def share_outside(recordings: Sequence[Recording]) -> float:
    """Share in [0, 1] of the events looked at that lie outside the sensor."""
    looked_at = sum(each.events.get("in windows", 0) for each in recordings)
    outside = sum(each.dropped.get(OUTSIDE, 0) for each in recordings)
    return outside / looked_at if looked_at else 0.0


def share_repaired(recordings: Sequence[Recording]) -> float:
    """Share in [0, 1] of the events whose timestamp was behind an earlier one."""
    repaired = sum(each.events.get(REPAIRED, 0) for each in recordings)
    of_all = sum(each.num_events or each.events.get("in windows", 0) for each in recordings)
    return repaired / of_all if of_all else 0.0
