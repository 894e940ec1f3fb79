"""What was evaluated and how, and in what two evaluations differ, for a report's page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etram_det.report.evaluated_run import EvaluatedRun
from etram_det.report.page_tables import UNKNOWN
from etram_det.report.tables import area_range, dropped_by_data, score_of

# Of the parts of metrics.json: two runs compare where these are the same.
_EQUAL_WHERE_COMPARED = {
    "run": "split data input_size",
    "evaluation": "protocol pixel_frame size_bins max_detections class_names frames recordings",
    "confusion": "score_threshold",
}
_PIXELS = {"network": "network's frame", "native": "sensor"}


def differing_evaluation(a: EvaluatedRun, b: EvaluatedRun) -> Iterator[str]:
    """What ought to be the same in two evaluations and differs, as far as both hold it."""
    for part, keys in _EQUAL_WHERE_COMPARED.items():
        for key in keys.split():
            theirs, ours = (run.results.get(part, {}).get(key) for run in (a, b))
            if theirs != ours and None not in (theirs, ours):
                yield f"{key.replace('_', ' ')} ({_plain(theirs)} / {_plain(ours)})"


def differing_settings(a: EvaluatedRun, b: EvaluatedRun) -> list[tuple[str, list[str]]]:
    """Dotted key and both values of each setting in which two runs differ."""
    rows = (
        (key, [_plain(run.settings.get(key)) for run in (a, b)])
        for key in dict.fromkeys([*a.settings, *b.settings])
    )
    return [(key, values) for key, values in rows if values[0] != values[1]]


def facts_of(runs: Sequence[EvaluatedRun]) -> list[tuple[str, list[str]]]:
    """What was evaluated and how, a row for each fact and a column for each run."""
    of_runs = [dict(_facts_of(run)) for run in runs]
    names = dict.fromkeys(name for facts in of_runs for name in facts)
    return [(name, [facts.get(name, UNKNOWN) for facts in of_runs]) for name in names]


def _facts_of(run: EvaluatedRun) -> Iterator[tuple[str, str]]:
    evaluation, facts = run.results["evaluation"], run.results.get("run", {})
    confusion = run.results["confusion"]
    yield "run folder", str(run.folder)
    yield "data", _plain(facts.get("data"))
    yield "split", _plain(facts.get("split"))
    yield "checkpoint", _plain(facts.get("checkpoint"))
    size = facts.get("input_size")
    yield "network's frame", UNKNOWN if size is None else f"{size[1]} x {size[0]} pixels"
    yield "protocol", f"{evaluation['protocol']}: {_rules(evaluation)}"
    yield "score", score_of(evaluation)
    yield "areas", f"in square pixels of the {_PIXELS[evaluation['pixel_frame']]}"
    for name, bounds in evaluation["size_bins"].items():
        yield f"size {name}", f"{area_range(*bounds)} px²"
    ious = evaluation["iou_thresholds"]
    yield "IoU of AP and AR", f"{ious[0]:.2f} to {ious[-1]:.2f}, {len(ious)} thresholds"
    yield "detections that count", f"{evaluation['max_detections']} of each frame and class"
    yield (
        "found, missed, confusion, pictures",
        f"score at least {confusion['score_threshold']:g}, "
        f"IoU at least {confusion['iou_threshold']:g}",
    )
    yield "frames", f"{evaluation['frames']:,}"
    yield "recordings", f"{evaluation['recordings']:,}"
    yield "labels", f"{run.records['', '', ''].boxes:,}"
    yield "labels dropped by the protocol", f"{evaluation['dropped_labels']:,}"
    yield "detections dropped by the protocol", f"{evaluation['dropped_detections']:,}"
    yield "labels dropped when they were read", dropped_by_data(evaluation) or "none"
    yield "written by", f"etram_det {facts['version']}" if facts.get("version") else UNKNOWN


def _rules(evaluation: Mapping[str, Any]) -> str:
    if not evaluation["filtered"]:
        return "every label counts"
    rules = (
        f"the first 0.5 s, sides under {evaluation['min_side_px']} px and diagonals under "
        f"{evaluation['min_diagonal_px']} px on the sensor are dropped"
    )
    return f"{rules}; classes are ignored" if evaluation["class_agnostic"] else rules


def _plain(value: Any) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else json.dumps(value)
