"""The report: one HTML page of one run, of two or of two sides, that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from etram_det import __version__
from etram_det.drawing.plots import DAY_COLOURS
from etram_det.files import write_text
from etram_det.metrics.records import flat_key, metric_of
from etram_det.report import bar_plots, line_plots, svg_plots, time_plots
from etram_det.report.comparison import NO_DIFFERENCE, Comparison, compare, compared_metrics, unlike
from etram_det.report.page_facts import (
    differing_evaluation,
    differing_settings,
    facts_of,
    training_facts,
)
from etram_det.report.page_tables import (
    UNKNOWN,
    best_scores_table,
    comparison_table,
    confusion_table,
    difference_colour,
    metric_tables,
    signed,
)
from etram_det.report.run_files import EvaluatedRun, read_run
from etram_det.report.tables import (
    describe_intervals,
    groups_of,
    interval_text,
    metric_grids,
    number_of,
)

FILE_NAME = "report.html"
_GALLERIES = {
    "found": "Good detections",
    "misses": "Worst misses",
    "localisation_errors": "Worst localisation errors",
    "false_alarms": "Worst false alarms",
}
_OLDER_GALLERIES = ("misses", "false_alarms")  # of runs of every release


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
    _write_page(output, "page.html", _content(runs))
    return output


def write_comparison(
    sides: Mapping[str, Sequence[EvaluatedRun]], output: Path | None = None
) -> tuple[Path, list[list[Comparison]]]:
    """Write the page of two sides of several runs each; return its path and what it compares.

    Args:
        sides: runs of A and of B, by these names, evaluated alike.
        output: file to write; ``report.html`` in the current folder unless set.

    Raises:
        OSError: the file may not be written.
    """
    groups = compared_metrics(*sides.values())
    first = next(iter(sides.values()))[0]
    content = {
        "version": __version__,
        "sides": {name: [str(run.folder) for run in runs] for name, runs in sides.items()},
        "summary": _summary(first),
        "intervals": describe_intervals(first.results),
        "compared": comparison_table(groups, several=True),
        "groups": groups_of(first.results),
    }
    output = output or Path(FILE_NAME)
    _write_page(output, "comparison.html", content)
    return output, groups


def _write_page(output: Path, template: str, content: Mapping[str, Any]) -> None:
    strict: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined}
    loader = PackageLoader("etram_det.report")
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, **strict)
    write_text(output, environment.get_template(template).render(content))


def _content(runs: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """What the template shows."""
    letters = ("A", "B")[: len(runs)]
    named = list(zip(letters, runs, strict=True))
    is_pair = len(runs) == 2
    named_runs = dict(named)
    titled = named_runs if is_pair else {"all classes": runs[0]}
    apart = list(unlike(dict(named))) if is_pair else []
    compared = is_pair and not apart
    prefixed = [(f"{letter}: " if is_pair else "", run) for letter, run in named]
    return {
        "version": __version__,
        "names": _names(runs),
        "letters": letters,
        "summaries": [_summary(run) for run in runs],
        "differing": list(differing_evaluation(*runs)) if is_pair else [],
        "apart": apart,
        "comparison": (
            comparison_table(compared_metrics(runs[:1], runs[1:]), several=False)
            if compared
            else None
        ),
        "intervals": [describe_intervals(run.results) for run in runs],
        "missing": [prefix + text for prefix, run in prefixed for text in run.missing],
        "tiles": _tiles(runs, compared),
        "threshold": runs[0].results["confusion"]["score_threshold"],
        "iou": runs[0].results["confusion"]["iou_threshold"],
        "tables": metric_tables(runs, compared),
        "training_plots": list(line_plots.training_plots(runs)),
        "training_facts": training_facts(runs),
        "size_bars": list(bar_plots.bin_plots(named_runs, "size_bins")),
        "motion_bars": list(bar_plots.bin_plots(named_runs, "motion_bins")),
        "best_scores": best_scores_table(runs),
        "f1_plots": list(line_plots.f1_plots(runs)),
        "error_plots": [bar_plots.error_plot(run, title) for title, run in titled.items()],
        "error_colours": bar_plots.ERRORS,
        "recording_plots": list(bar_plots.recording_plots(titled)),
        "has_motion": any(run.results.get("found_by_rest") for run in runs),
        "rest_plots": list(time_plots.rest_plots(runs)),
        "time_plots": list(time_plots.time_plots(runs)),
        "groups": groups_of(*(run.results for run in runs)),
        "confusion_tables": [confusion_table(run, f"confusion-{x.lower()}") for x, run in named],
        "curve_plots": list(svg_plots.curve_plots(runs)),
        "curve_key": _curve_key(runs),
        "size_plots": list(svg_plots.size_plots(titled)),
        "class_size_plots": list(svg_plots.class_size_plots(runs)),
        "outcome_colours": svg_plots.OUTCOMES,
        "day_colours": DAY_COLOURS,
        "day_night_plots": list(bar_plots.day_night_plots(titled)),
        "has_pictures": any(run.results.get("gallery") is not None for run in runs),
        "galleries": [
            (title, letter, _cards(run, key))
            for key, title in _GALLERIES.items()
            for letter, run in named
            if key in run.results.get("gallery", {}) or key in _OLDER_GALLERIES
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


def _tiles(runs: Sequence[EvaluatedRun], compared: bool) -> list[dict[str, Any]]:
    """The metrics that come first, with the differences between two runs that compare."""
    columns = metric_grids(*(run.results for run in runs))["recordings"].columns
    tiles = []
    for name, (metric, size) in columns.items():
        key = flat_key(metric, ("", "", size))
        tile = _tile(
            name, [metric_of(run.records, ("", "", size), metric) for run in runs], compared
        )
        if len(runs) == 1:
            tile["note"] = interval_text(runs[0].results.get("intervals", {}).get(key))
        elif compared and (found := compare(runs[:1], runs[1:], key)):
            same = found.verdict == NO_DIFFERENCE
            tile["note"] = NO_DIFFERENCE if same else None
        tiles.append(tile)
    shares = [_share_found(run) for run in runs]
    return [*tiles, _tile("labels found", shares, compared, is_share=True)]


def _tile(
    name: str, values: Sequence[float | None], compared: bool, is_share: bool = False
) -> dict[str, Any]:
    form = ".1%" if is_share else ".3f"
    difference = None
    if compared and values[0] is not None and values[1] is not None:
        change = values[1] - values[0]
        text = f"{signed(100 * change, 1)} points" if is_share else signed(change)
        difference = {"text": text, "colour": difference_colour(change)}
    texts = [UNKNOWN if value is None else f"{value:{form}}" for value in values]
    return {"name": name, "texts": texts, "difference": difference, "note": None}


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
    if kind == "found":
        nearest = f"IoU {closest['iou']:.2f} with its label"
    elif closest is None:
        nearest = f"no {other} overlaps it"
    else:
        score = f" {closest['score']:.2f}" if kind == "misses" else ""
        nearest = f"closest {other}: {closest['class']}{score} at IoU {closest['iou']:.2f}"
    title = mistake["class"] + (f" {mistake['score']:.2f}" if "score" in mistake else "")
    size = f"{right - left:.0f} x {bottom - top:.0f} px, events in {mistake['active']:.0%} of them"
    place = f"{mistake['recording']} at {mistake['time_us'] / 1e6:.2f} s"
    return {"title": title, "lines": [size, nearest, place]}
