"""The report: one HTML page of one run, or of two side by side, that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from etram_det import __version__
from etram_det.files import write_text
from etram_det.metrics.records import metric_of
from etram_det.report import svg_plots
from etram_det.report.page_tables import (
    UNKNOWN,
    confusion_table,
    difference_colour,
    differing_evaluation,
    differing_settings,
    facts_of,
    metric_tables,
    signed,
)
from etram_det.report.run_files import EvaluatedRun, read_run
from etram_det.report.tables import groups_of, metric_grids, number_of

FILE_NAME = "report.html"


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of one run folder, or of two side by side, and return its path.

    Args:
        folders: one or two that hold an evaluation.
        output: file to write; ``report.html`` in the run folder unless set, for two runs in the
            current one.

    Raises:
        UserError: a folder holds no evaluation, or it is damaged.
        OSError: a file may not be read or written.
    """
    runs = [read_run(folder) for folder in folders]
    if output is None:
        output = (folders[0] if len(folders) == 1 else Path()) / FILE_NAME
    strict: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined}
    loader = PackageLoader("etram_det.report")
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, **strict)
    write_text(output, environment.get_template("page.html").render(_content(runs)))
    return output


def _content(runs: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """What the template shows."""
    letters = ("A", "B")[: len(runs)]
    named = list(zip(letters, runs, strict=True))
    is_pair = len(runs) == 2
    titled = dict(named) if is_pair else {"all classes": runs[0]}
    prefixed = [(f"{letter}: " if is_pair else "", run) for letter, run in named]
    return {
        "version": __version__,
        "names": _names(runs),
        "letters": letters,
        "summaries": [_summary(run) for run in runs],
        "differing": list(differing_evaluation(*runs)) if is_pair else [],
        "missing": [prefix + text for prefix, run in prefixed for text in run.missing],
        "tiles": _tiles(runs),
        "threshold": runs[0].results["confusion"]["score_threshold"],
        "iou": runs[0].results["confusion"]["iou_threshold"],
        "tables": metric_tables(runs),
        "groups": groups_of(*(run.results for run in runs)),
        "confusion_tables": [confusion_table(run, f"confusion-{x.lower()}") for x, run in named],
        "curve_plots": list(svg_plots.curve_plots(runs)),
        "curve_key": _curve_key(runs),
        "size_plots": list(svg_plots.size_plots(titled)),
        "class_size_plots": list(svg_plots.class_size_plots(runs)),
        "outcome_colours": svg_plots.OUTCOMES,
        "day_colours": svg_plots.PARTS_OF_DAY,
        "day_night_plots": list(svg_plots.day_night_plots(titled)),
        "galleries": [
            (kind, letter, _cards(run, key))
            for key, kind in (("misses", "misses"), ("false_alarms", "false alarms"))
            for letter, run in named
        ],
        "facts": facts_of(runs),
        "settings": differing_settings(*runs) if is_pair else [],
    }


def _names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Short names of the runs; their paths where these would be the same."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _summary(run: EvaluatedRun) -> str:
    """What was evaluated, in a line."""
    evaluation, facts = run.results["evaluation"], run.results.get("run", {})
    split = [f"split {facts['split']}"] if facts.get("split") else []
    frames = number_of(evaluation["frames"], "frame")
    parts = [
        f"{frames} of {number_of(evaluation['recordings'], 'recording')}",
        number_of(run.records["", "", ""].boxes, "label"),
        f"protocol {evaluation['protocol']}",
        f"sizes in {evaluation['pixel_frame']} pixels",
    ]
    return " · ".join(split + parts)


def _tiles(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """The metrics that come first, with the differences between two runs."""
    columns = metric_grids(*(run.results for run in runs))["recordings"].columns
    tiles = [
        _tile(name, [metric_of(run.records, ("", "", size), metric) for run in runs])
        for name, (metric, size) in columns.items()
    ]
    return [*tiles, _tile("labels found", [_share_found(run) for run in runs], is_share=True)]


def _tile(name: str, values: Sequence[float | None], is_share: bool = False) -> dict[str, Any]:
    form = ".1%" if is_share else ".3f"
    difference = None
    if len(values) == 2 and values[0] is not None and values[1] is not None:
        change = values[1] - values[0]
        text = f"{signed(100 * change, 1)} points" if is_share else signed(change)
        difference = {"text": text, "colour": difference_colour(change)}
    texts = [UNKNOWN if value is None else f"{value:{form}}" for value in values]
    return {"name": name, "texts": texts, "difference": difference}


def _share_found(run: EvaluatedRun) -> float | None:
    """Share of the labels that a detection of their class took."""
    counts = run.results["confusion"]["counts"][:-1]
    total = sum(map(sum, counts))
    return sum(row[i] for i, row in enumerate(counts)) / total if total else None


def _curve_key(runs: Sequence[EvaluatedRun]) -> list[tuple[str, str, str]]:
    """Name, colour and dash of each line in the plots of precision over recall."""
    if len(runs) == 2:
        return [(name, *style) for name, style in zip(("A", "B"), svg_plots.RUNS, strict=True)]
    names = ["all sizes", *runs[0].results["evaluation"]["size_bins"]]
    styles = (svg_plots.ALL_SIZES, *svg_plots.SIZE_BINS)
    return [(name, *style) for name, style in zip(names, styles, strict=False)]


def _cards(run: EvaluatedRun, kind: str) -> list[dict[str, Any]]:
    """Pictures of a gallery that are there, with their captions."""
    return [
        _caption(each, kind) | {"source": run.pictures[each["file"]]}
        for each in run.results.get("gallery", {}).get(kind, [])
        if each["file"] in run.pictures
    ]


def _caption(mistake: Mapping[str, Any], kind: str) -> dict[str, Any]:
    left, top, right, bottom = mistake["box"]
    closest = mistake["closest"]
    other = "detection" if kind == "misses" else "label"
    if closest is None:
        nearest = f"no {other} overlaps it"
    else:
        score = f" {closest['score']:.2f}" if kind == "misses" else ""
        nearest = f"closest {other}: {closest['class']}{score} at IoU {closest['iou']:.2f}"
    title = mistake["class"] + (f" {mistake['score']:.2f}" if "score" in mistake else "")
    size = f"{right - left:.0f} x {bottom - top:.0f} px, events in {mistake['active']:.0%} of them"
    place = f"{mistake['recording']} at {mistake['time_us'] / 1e6:.2f} s"
    return {"title": title, "lines": [size, nearest, place]}
