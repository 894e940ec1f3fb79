"""What was found in all splits, on one screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from etram_det.data.datamodule import EventDataModule
from etram_det.data.recording import Recording
from etram_det.data.sparse import SparseRecording
from etram_det.report.tables import BETWEEN_LABEL_TIMES
from etram_det.tools.check.split_findings import (
    Finding,
    SplitFindings,
    boxes_left_out,
    share_outside,
    share_repaired,
)

_GB = 1e9
_BOXES = "boxes"
_NUMBERS = "recordings, unusable"


def summary_of(
    splits: Sequence[SplitFindings],
    remarks: Sequence[Finding],
    data: EventDataModule,
    free_bytes: int,
) -> Group:
    """Settings, a table of the splits, their classes, and what is not doubtful but worth knowing.

    Args:
        splits: what was found.
        remarks: of all splits.
        data: the settings.
        free_bytes: left on the disk.
    """
    settings, labels = data.frame_settings, data.label_settings
    height, width = data.input_size
    lines = [
        f"{data.folder}, as fit reads it: frames of {width}x{height} px and {settings.window_ms} "
        f"ms, {data.num_classes} classes, labels every {labels.interval_ms} ms"
    ]
    after = [
        *(_classes(split, data.class_names) for split in splits if split.name and split.recordings),
        f"the cache of preprocess takes {_size(splits)}, {free_bytes / _GB:,.0f} GB are free here",
        *(each.text for each in remarks if not each.is_doubtful),
    ]
    return Group(*map(Text, lines), _table(splits), *map(Text, after))


def _reason(name: str) -> str:
    """Why boxes are no labels."""
    return f"  {name}, not used" if name == BETWEEN_LABEL_TIMES else f"  dropped: {name}"


def _size(splits: Sequence[SplitFindings]) -> str:
    """Of the sparse cache of all splits."""
    num_bytes = sum(split.cache_bytes for split in splits)
    size = f"{num_bytes / _GB:,.1f} GB" if num_bytes > _GB else f"{num_bytes / 1e6:,.1f} MB"
    is_there = all(isinstance(r, SparseRecording) for split in splits for r in split.recordings)
    return size if is_there else f"about {size}, by a sample of frames"


def _table(splits: Sequence[SplitFindings]) -> Table:
    table = Table("of", box=None, pad_edge=False)
    for split in splits:
        table.add_column(split.title, justify="right")
    dropped = [boxes_left_out(split.recordings) for split in splits]
    reasons = dict.fromkeys(reason for counts in dropped for reason in counts)
    for name, value in _ROWS.items():
        cells = [value(split) if split.recordings or name == _NUMBERS else "-" for split in splits]
        if set(cells) != {"-"}:
            table.add_row(name, *cells)
        if name == _BOXES:
            for reason in reasons:
                table.add_row(_reason(reason), *(f"{each[reason]:,}" for each in dropped))
    return table


def _sensor(split: SplitFindings) -> str:
    sizes = Counter(each.sensor_size for each in split.recordings)
    return ", ".join(
        f"{width}x{height}" + (f" ({count})" if len(sizes) > 1 else "")
        for (height, width), count in sizes.most_common(3)
    )


def _seconds_of(recording: Recording) -> float:
    first, last = recording.event_span_us or (
        2 * recording.frame_end_us[0] - recording.frame_end_us[min(1, len(recording) - 1)],
        recording.frame_end_us[-1],
    )
    return float(last - first) / 1e6


def _duration(split: SplitFindings) -> str:
    seconds = sum(map(_seconds_of, split.recordings))
    return f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 3600:,.2f} h"


def _events(split: SplitFindings) -> str:
    known = [each.num_events for each in split.recordings if each.num_events is not None]
    return f"{sum(known):,}" if known else "-"


def _rate(split: SplitFindings) -> str:
    rates = [rate / 1e6 for each in split.recordings if (rate := each.event_rate()) is not None]
    if len(rates) < 2:
        return "".join(f"{rate:.3g}" for rate in rates) or "-"
    return f"{np.median(rates):.3g} ({min(rates):.3g} to {max(rates):.3g})"


def _range(values: Iterable[float]) -> str:
    """The least and the greatest of some seconds."""
    shown = sorted(values)
    if not shown:
        return "-"
    texts = f"{shown[0]:,.2f}", f"{shown[-1]:,.2f}"
    return f"{texts[0]} s" if texts[0] == texts[1] else f"{texts[0]} to {texts[1]} s"


def _spans(recordings: Sequence[Recording]) -> Iterable[tuple[float, float, float, float]]:
    """First and last event, first and last label in seconds, where they are known."""
    for each in recordings:
        if each.event_span_us is not None and len(each.label_frame):
            labels = each.frame_end_us[each.label_frame[[0, -1]]]
            first, last, begin, end = np.array([*each.event_span_us, *labels]) / 1e6
            yield float(first), float(last), float(begin), float(end)


def _index_time(split: SplitFindings) -> str:
    if not split.num_indexed:
        return "done before" if any(each.num_events for each in split.recordings) else "-"
    each = split.index_s / split.num_indexed
    return f"{split.index_s:,.1f} s, {each:,.2g} s each"


def _total(number_of: Callable[[Recording], int]) -> Callable[[SplitFindings], str]:
    return lambda split: f"{sum(map(number_of, split.recordings)):,}"


def _labelled_frames(split: SplitFindings) -> str:
    labelled = sum(int(np.count_nonzero(each.labelled)) for each in split.recordings)
    return f"{labelled:,} of {sum(map(len, split.recordings)):,}"


_ROWS: Mapping[str, Callable[[SplitFindings], str]] = {
    "layout": lambda split: ", ".join(split.layouts),
    _NUMBERS: lambda split: f"{len(split.recordings):,}, {len(split.faults):,}",
    "sensor": _sensor,
    "duration": _duration,
    "events": _events,
    "million events a second": _rate,
    "first event at": lambda split: _range(
        span[0] / 1e6 for each in split.recordings if (span := each.event_span_us) is not None
    ),
    "labels start later by": lambda split: _range(x[2] - x[0] for x in _spans(split.recordings)),
    "labels end earlier by": lambda split: _range(x[1] - x[3] for x in _spans(split.recordings)),
    "labelled of all frames": _labelled_frames,
    _BOXES: _total(lambda each: len(each.label_boxes)),
    "labels without events": _total(lambda each: each.labels_without_events),
    "events outside, sampled": lambda split: f"{share_outside(split.recordings):.2%}",
    "timestamps repaired": lambda split: f"{share_repaired(split.recordings):.2%}",
    "time to index": _index_time,
}


def _classes(split: SplitFindings, class_names: Sequence[str]) -> str:
    """Boxes of a split by class, in one line."""
    counts = np.zeros(len(class_names), np.int64)
    for each in split.recordings:
        counts += np.bincount(each.label_boxes["class_id"], minlength=len(counts))
    order = np.argsort(-counts, kind="stable").tolist()
    named = [f"{class_names[i]} {counts[i]:,}" for i in order if counts[i]]
    none = [class_names[i] for i in order if not counts[i]]
    missing = f"; no {', '.join(none)}" if none else ""
    return f"boxes in {split.title}: {', '.join(named) or 'none'}{missing}"
