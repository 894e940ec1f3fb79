"""Which metrics stand in which table, and tables on the screen.

Those of an evaluation are at most 80 columns wide for three size bins. Throughout, ``results`` are
what :func:`etram_det.report.run_files.results_of` returns, and ``evaluation`` is that part of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etram_det.metrics.bootstrap import LEAST_RECORDINGS, NUM_RESAMPLES
from etram_det.metrics.records import (
    METRICS,
    PARTS_OF_DAY,
    Cell,
    Records,
    flat_key,
    metric_of,
    recording_part,
    records_in,
    time_part,
)
from etram_det.report.comparison import Comparison
from etram_det.types import dotted_items

Intervals = Mapping[str, Sequence[float]]  # by flat key
BOXES = {"boxes": ("boxes", "")}  # a column
INTERVAL = {"95 % of AP": ("interval", "")}  # another
_MOST_CLASSES = 21  # and background, of a confusion matrix on the screen
# Why boxes are no labels that were not dropped: the reason under which recordings count them.
BETWEEN_LABEL_TIMES = "between label times"


class Grid(NamedTuple):
    """A table of metrics.

    Attributes:
        corner: what the rows are.
        rows: cell of each row by its name; a row without a name is a line between rows.
        columns: metric and size of each column by its name, for rows over all sizes.
    """

    corner: str
    rows: Mapping[str, Cell]
    columns: Mapping[str, tuple[str, str]]

    def keys(self) -> list[list[str]]:
        """Flat key of each column's metric in each row."""
        return [
            [
                flat_key(metric, (part, name, own_size or size))
                for metric, size in self.columns.values()
            ]
            for part, name, own_size in self.rows.values()
        ]

    def values(
        self, records: Records, intervals: Intervals
    ) -> Iterator[tuple[str, list[tuple[Any, Any]]]]:
        """Name of each row, and in each column its metric and its number of boxes.

        Both are as :func:`~etram_det.metrics.records.metric_of` gives them; an interval is text.
        """
        for name, (part, class_name, own_size) in self.rows.items():
            values = []
            for metric, size in self.columns.values():
                cell = (part, class_name, own_size or size)
                if metric == "interval":
                    value: Any = interval_text(intervals.get(flat_key("AP", cell)))
                else:
                    value = metric_of(records, cell, metric)
                values.append((value, metric_of(records, cell, "boxes")))
            yield name, values


def metric_grids(*runs: Mapping[str, Any]) -> dict[str, Grid]:
    """The tables of one evaluation, or of two side by side, by key, from their ``results``."""

    def names(kind: str) -> list[str]:
        return list(dict.fromkeys(name for run in runs for name in run["evaluation"][kind]))

    sizes, classes, groups = names("size_bins"), names("class_names"), names("class_groups")
    motions = list(dict.fromkeys(m for r in runs for m in r["evaluation"].get("motion_bins", ())))
    times = list(dict.fromkeys(name for run in runs for name in run.get("times", ())))
    interval = INTERVAL if len(runs) == 1 and runs[0].get("intervals") else {}
    metrics = {metric: (metric, "") for metric in METRICS} | BOXES | interval
    by_size = {"all sizes": ("AP", "")} | {size: ("AP", size) for size in sizes}
    line = [""] if classes and groups else []
    by_class: dict[str, Cell] = {name: ("", name, "") for name in (*classes, *line, *groups)}
    recordings = sorted({name for run in runs for name in run["recordings"]})
    by_recording = {name: (recording_part(name), "", "") for name in recordings}
    main = {"AP": ("AP", ""), "AP50": ("AP50", "")} | {f"AP {size}": ("AP", size) for size in sizes}
    return {
        "sizes": Grid("size", {size or "all": ("", "", size) for size in ("", *sizes)}, metrics),
        "classes": Grid("class", by_class, metrics),
        "heat": Grid("class", by_class, by_size),
        "day-night": Grid("part", {part: (part, "", "") for part in PARTS_OF_DAY}, by_size),
        "recordings": Grid("recording", by_recording, main),
        "motion": Grid("motion", {motion: ("", "", motion) for motion in motions}, metrics),
        "motion-classes": Grid("class", by_class, {motion: ("AP", motion) for motion in motions}),
        "times": Grid("since the start", {t: (time_part(t), "", "") for t in times}, metrics),
    }


def summary_tables(results: Mapping[str, Any]) -> RenderableType:
    """How it was evaluated, the metrics by size, by class, and by class and size.

    A metric without ground truth shows as ``-``.
    """
    evaluation, records, grids = results["evaluation"], records_in(results), metric_grids(results)
    rows = {**grids["sizes"].rows, **grids["motion"].rows, **grids["day-night"].rows}
    intervals = results.get("intervals", {})
    tables = [_metric_table(Grid("part", rows, grids["sizes"].columns), records, intervals)]
    if evaluation["class_names"]:
        columns = {f"AP {size} (boxes)": ("AP", size) for size in evaluation["size_bins"]}
        tables.append(_metric_table(grids["classes"], records, intervals))
        if groups := groups_of(results):
            tables[-1].caption = f"groups, each the mean over its classes: {groups}"
            tables[-1].caption_justify = "left"
        heat = grids["heat"]._replace(columns=columns)
        tables.append(_metric_table(heat, records, intervals, counted=True))
    described = f"{describe_evaluation(evaluation)}\n{describe_intervals(results)}"
    return Group(Text(described), *tables)


def detail_tables(results: Mapping[str, Any]) -> RenderableType:
    """Metrics by class and motion, by time, of each recording, and the confusion matrix."""
    grids, records, intervals = (
        metric_grids(results),
        records_in(results),
        results.get("intervals", {}),
    )
    corner, rows, columns = grids["recordings"]
    tables = [
        _metric_table(Grid(corner, rows, {**BOXES, **columns}), records, intervals),
        _metric_table(grids["times"], records, intervals),
    ]
    if rest := results.get("found_by_rest"):
        of_motion = {f"AP {m} (boxes)": of for m, of in grids["motion-classes"].columns.items()}
        by_class = grids["motion-classes"]._replace(columns=of_motion)
        tables.append(_metric_table(by_class, records, intervals, counted=True))
        tables.append(_rest_table(rest, results["confusion"]))
    confusion = results["confusion"]
    return Group(*tables, *([_confusion_table(confusion)] if _fits(confusion) else []))


def _fits(confusion: Mapping[str, Any]) -> bool:
    """Whether there are so few classes that a screen can show the matrix."""
    return len(confusion["names"]) <= _MOST_CLASSES


def describe_evaluation(evaluation: Mapping[str, Any]) -> str:
    """Protocol, pixels, bins, thresholds and numbers of frames in a few lines of text."""
    classes = ", class-agnostic" if evaluation["class_agnostic"] else ""
    bins = ", ".join(f"{name} {area_range(*of)}" for name, of in evaluation["size_bins"].items())
    ious = evaluation["iou_thresholds"]
    labels, detections = evaluation["dropped_labels"], evaluation["dropped_detections"]
    lines = [
        f"protocol {evaluation['protocol']}{classes}, score {score_of(evaluation)}",
        f"areas in {evaluation['pixel_frame']} px²: {bins}",
        f"IoU {ious[0]:.2f} to {ious[-1]:.2f}, at most {evaluation['max_detections']} detections "
        "for each frame and class",
        f"{number_of(evaluation['frames'], 'frame')} of "
        f"{number_of(evaluation['recordings'], 'recording')}; dropped by the protocol: "
        f"{number_of(labels, 'label')}, {number_of(detections, 'detection')}",
    ]
    if reasons := dropped_by_data(evaluation):
        lines.append(f"dropped when the labels were read: {reasons}")
    if number := not_evaluated(evaluation):
        which = "count" if evaluation.get("from_files") else "data.interval_ms selects"
        boxes = number_of(number, "box")
        lines.append(f"not evaluated: {boxes} between the label times that {which}")
    return "\n".join(lines)


def describe_intervals(results: Mapping[str, Any]) -> str:
    """Where the intervals come from, or why there are none."""
    recordings = results["evaluation"]["recordings"]
    number = number_of(recordings, "recording")
    if "intervals" not in results:
        return "no intervals: evaluated by an older release"
    if recordings < LEAST_RECORDINGS:
        return f"no intervals: {number}, at least {LEAST_RECORDINGS} are needed"
    return (
        f"95 % intervals: bootstrap over {number}, {NUM_RESAMPLES:,} resamples; none where fewer "
        f"than {LEAST_RECORDINGS} have labels"
    )


def interval_text(ends: Sequence[float] | None) -> str | None:
    """``0.251–0.312``; None without an interval."""
    return None if ends is None else f"{ends[0]:.3f}–{ends[1]:.3f}"


def score_of(evaluation: Mapping[str, Any]) -> str:
    """What the score of a detection is."""
    if evaluation.get("from_files"):
        return "as in the files"
    return "objectness x class" if evaluation["uses_objectness"] else "class confidence"


def thresholds_of(confusion: Mapping[str, Any]) -> str:
    """Least score and IoU of the pairs in the ``confusion`` of results."""
    score, iou = confusion["score_threshold"], confusion["iou_threshold"]
    return f"score at least {score:g}, IoU at least {iou:g}"


def area_range(low: float, high: float | None) -> str:
    """Bounds of a size bin in square pixels; None for a bin without an upper bound."""
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"


def dropped_by_data(evaluation: Mapping[str, Any]) -> str:
    """Numbers of labels that were dropped when they were read, by reason; empty if none were."""
    counts = evaluation["dropped_by_data"].items()
    return ", ".join(f"{n:,} {x}" for x, n in counts if n and x != BETWEEN_LABEL_TIMES)


def not_evaluated(evaluation: Mapping[str, Any]) -> int:
    """Number of boxes at other times than those that are evaluated."""
    return int(evaluation["dropped_by_data"].get(BETWEEN_LABEL_TIMES, 0))


def groups_of(*runs: Mapping[str, Any]) -> str:
    """The groups of one evaluation or of two, with their classes; empty if there are none."""
    groups = {name: of for run in runs for name, of in run["evaluation"]["class_groups"].items()}
    return "; ".join(f"{name} = {', '.join(classes)}" for name, classes in groups.items())


def number_of(count: int, thing: str) -> str:
    """``1 recording``, ``2 recordings``, ``2 boxes``."""
    ending = "es" if thing.endswith("x") else "s"
    return f"{count:,} {thing}{'' if count == 1 else ending}"


def _metric_table(
    grid: Grid, records: Records, intervals: Intervals, counted: bool = False
) -> Table:
    """A table of metrics, with the numbers of boxes in brackets if they are counted."""
    table = _new_table(grid.corner, grid.columns)
    for name, values in grid.values(records, intervals):
        if name:
            table.add_row(name, *(_text(*each, counted) for each in values))
        else:
            table.add_section()
    return table


def _text(value: float | None, boxes: int, counted: bool) -> str:
    if isinstance(value, int | str):
        return str(value)
    metric = "-" if value is None else f"{value:.3f}"
    return f"{metric} ({boxes or 0})" if counted else metric


def _rest_table(rest: Mapping[str, Any], confusion: Mapping[str, Any]) -> Table:
    table = _new_table("since the last motion", ("labels", "share found", "95 %"))
    table.caption = thresholds_of(confusion)
    for name, row in rest.items():
        share = f"{row['found'] / row['labels']:.3f}" if row["labels"] else "-"
        table.add_row(name, str(row["labels"]), share, interval_text(row["interval"]) or "-")
    return table


def _confusion_table(confusion: Mapping[str, Any]) -> Table:
    names = confusion["names"]
    numbers = [str(i) for i in range(len(names) - 1)] + ["none"]
    table = _new_table("true class, by detected class", numbers)
    table.caption = thresholds_of(confusion)
    for number, name, counts in zip(numbers, names, confusion["counts"], strict=True):
        # Background that was found to be background is not counted.
        cells = [str(n) for n in counts] if name != names[-1] else [*map(str, counts[:-1]), ""]
        table.add_row(f"{number} {name}", *cells)
    return table


def _new_table(first: str, others: Iterable[str]) -> Table:
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def settings_table(settings: Mapping[str, Any]) -> Table:
    """Settings by dotted name; nested ones are taken apart, unset ones left out."""
    table = Table()
    for heading in ("setting", "value"):
        table.add_column(heading, overflow="fold")
    for name, value in dotted_items(settings):
        if value not in (None, {}):
            # Text: brackets in it are no markup.
            table.add_row(Text(name), Text(str(value)))
    return table


def parameters_table(counts: Mapping[str, int]) -> Table:
    """Learnt numbers ``counts`` of each part of a network, their share and size in float32."""
    table = _new_table("part", ("parameters", "share", "MiB"))
    total = sum(counts.values())
    for name, count in (*counts.items(), ("all", total)):
        table.add_row(name, f"{count:,}", f"{count / total:.1%}", f"{count * 4 / 2**20:.2f}")
    table.rows[-2].end_section = True
    return table


def comparison_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """AP over all, by size, class and part of the day, of the ``results`` of two runs by name."""
    records = [records_in(results) for results in runs.values()]
    evaluation = next(iter(runs.values()))["evaluation"]
    by_size = [("AP", ("", "", size)) for size in evaluation["size_bins"]]
    by_day = [("AP", (part, "", "")) for part in PARTS_OF_DAY]
    by_class = [("AP", ("", name, "")) for name in evaluation["class_names"]]
    table = _new_table("metric", (*runs, "difference"))
    for group in ([(metric, ("", "", "")) for metric in METRICS] + by_size + by_day, by_class):
        for metric, cell in group:
            one, other = (metric_of(each, cell, metric) for each in records)
            if one is not None and other is not None:
                cells = f"{one:.3f}", f"{other:.3f}", f"{other - one:+.3f}"
                table.add_row(flat_key(metric, cell), *cells)
        table.add_section()
    return table


def sides_table(groups: Iterable[Iterable[Comparison]]) -> Table:
    """Metrics of two sides of several runs: means ± spreads, difference, interval, verdict on B."""
    table = _new_table("metric", ("A", "B", "B - A", "95 %", "verdict on B"))
    for group in groups:
        for each in group:
            sides = [
                f"{side.mean:.3f}" + ("" if side.spread is None else f" ± {side.spread:.3f}")
                for side in each.sides
            ]
            ends = "-" if each.interval is None else "{:+.3f} to {:+.3f}".format(*each.interval)
            table.add_row(each.key, *sides, f"{each.difference:+.3f}", ends, each.verdict or "-")
        table.add_section()
    return table
