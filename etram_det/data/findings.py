"""What was found in the recordings of a split, before anything is made of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from etram_det.data.recording import Recording
from etram_det.errors import UserError
from etram_det.progress import shown_progress

_MAX_NAMES = 3
_STRAY = 0.01  # of a recording's labels without events: fewer are those at its ends
_log = logging.getLogger(__name__)


def index_recordings(
    recordings: Sequence[Recording], shown: bool = True, faults: list[UserError] | None = None
) -> list[Recording]:
    """Read through the timestamps of recordings, where this was not done before.

    Of several processes that share a cache, one reads a recording and the others wait for it.

    Args:
        recordings: to be prepared for reading frames.
        shown: whether a bar shows the progress.
        faults: where this is a list, recordings that are damaged are left out, and what is wrong
            with them is added to it.

    Returns:
        The recordings that can be read.

    Raises:
        UserError: a recording is damaged where it is read.
    """
    total = sum(recording.num_events_to_index for recording in recordings)
    with ExitStack() as shows:
        progress = (
            shows.enter_context(shown_progress("events read, once", transient=True))
            if total and shown
            else lambda done, total: None
        )
        done = 0

        def advance(num_events: int) -> None:
            nonlocal done
            done += num_events
            progress(done, total)

        readable = []
        for recording in recordings:
            try:
                recording.prepare(advance)
                readable.append(recording)
            except UserError as error:
                if faults is None:
                    raise
                faults.append(error)
    return readable


def log_findings(split: str, recordings: Sequence[Recording]) -> None:
    """Log what was inferred, assumed or doubtful, in one line each, and labels without events.

    Args:
        split: of the recordings, for the lines.
        recordings: after :meth:`~etram_det.data.recording.Recording.prepare`.
    """
    for line, is_doubtful in findings(recordings):
        (_log.warning if is_doubtful else _log.info)("%s: %s", split, line)


def findings(recordings: Sequence[Recording]) -> list[tuple[str, bool]]:
    """What :func:`log_findings` logs: lines, and whether they are doubtful."""
    kinds: dict[str, list[tuple[Recording, str, bool]]] = {}
    for recording in recordings:
        for note in recording.notes:
            found = (recording, note.message, note.doubtful)
            kinds.setdefault(note.kind or note.message, []).append(found)
    lines = [
        (f"{_names([found[0] for found in same], len(recordings))}: {same[0][1]}", same[0][2])
        for same in kinds.values()
    ]
    empty = [recording for recording in recordings if recording.labels_without_events]
    if empty:
        counts = sorted(empty, key=lambda each: -each.labels_without_events)
        listed = ", ".join(
            f"{each.labels_without_events:,} of {len(each.label_boxes):,} of {each.name}"
            for each in counts[:_MAX_NAMES]
        )
        more = f" and {len(empty) - _MAX_NAMES} more" if len(empty) > _MAX_NAMES else ""
        lines.append(
            (
                f"{sum(each.labels_without_events for each in empty):,} labels have no event in "
                "their windows, as where a recording has stopped early or paused, or clocks "
                f"differ: {listed}{more}: they stay labels: correct the recordings, or leave them "
                "out by data.subset",
                any(each.labels_without_events > _STRAY * len(each.label_boxes) for each in empty),
            )
        )
    return lines


def _names(recordings: Sequence[Recording], total: int) -> str:
    names = ", ".join(recording.name for recording in recordings[:_MAX_NAMES])
    if total == 1:
        return names
    more = ", …" if len(recordings) > _MAX_NAMES else ""
    return f"{len(recordings)} of {total} recordings ({names}{more})"
