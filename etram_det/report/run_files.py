"""The results of an evaluation as plain values, and as files in the run folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from etram_det.files import replacing, write_text
from etram_det.metrics.confusion import OUTCOMES, confusion_matrix, outcomes_by_size
from etram_det.metrics.curves import RECALL_THRESHOLDS
from etram_det.metrics.evaluation import EvaluationResult
from etram_det.metrics.matching import IOU_THRESHOLDS
from etram_det.metrics.records import flat_metrics

CONFUSION_IOU = 0.5


def results_of(
    result: EvaluationResult,
    *,
    score_threshold: float,
    dropped_by_data: Mapping[str, int],
) -> dict[str, Any]:
    """Everything that an evaluation found, as it stands in ``metrics.json``.

    Args:
        result: of ``SizeBinnedMAP.result``.
        score_threshold: least score, in [0, 1], of the detections in the confusion matrix and
            among those that found a label or missed it.
        dropped_by_data: labels that were left out before the evaluation, by reason.

    Returns:
        The metrics by flat key, without those that have no ground truth; ``evaluation``: what
        they were computed from and how; ``recordings``: the metrics of each recording;
        ``confusion``: boxes by true class (rows) and detected class (columns), background last,
        with the thresholds and the names of the rows; ``found_by_size``: labels that were
        ``found``, taken for an ``other_class`` or ``missed``, by class (rows) and area (columns),
        with the bounds of the areas.
    """
    settings = result.settings
    names = settings.reported_classes or ("any class",)
    pairing = result.pairing(score_threshold=score_threshold, iou_threshold=CONFUSION_IOU)
    matrix = confusion_matrix(pairing, settings.num_classes)
    area_bounds, outcomes = outcomes_by_size(pairing, settings.num_classes)
    return {
        **_known(result.flat_metrics()),
        "evaluation": {**result.description(), "dropped_by_data": dict(dropped_by_data)},
        "recordings": {name: _known(of) for name, of in result.per_recording().items()},
        "confusion": {
            "score_threshold": score_threshold,
            "iou_threshold": CONFUSION_IOU,
            "names": [*names, "background"],
            "counts": matrix.tolist(),
        },
        "found_by_size": {
            "area_bounds": area_bounds.tolist(),
            **dict(zip(OUTCOMES, outcomes.tolist(), strict=True)),
        },
    }


def write_results(
    folder: Path,
    results: Mapping[str, Any],
    result: EvaluationResult,
    metrics_file: str = "metrics.csv",
) -> None:
    """Write an evaluation into a run folder, each file atomically.

    ``metrics.json`` holds everything but the curves; ``metrics.csv`` its metrics and description
    as rows of ``key,value``; ``recordings.csv`` a row for each recording; ``confusion.csv`` the
    confusion matrix; ``pr_curves.npz`` precision ``[I, R, K, A]`` at IoU thresholds I and recall
    thresholds R of classes K in area ranges A, nan without ground truth, with their names.

    Args:
        folder: the run folder, made if need be.
        results: what :func:`results_of` returned.
        result: what it was made from.
        metrics_file: another name for ``metrics.csv``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    described = (
        (f"evaluation.{key}", value if isinstance(value, str) else json.dumps(value))
        for key, value in results["evaluation"].items()
    )
    flat = (item for item in results.items() if not isinstance(item[1], Mapping))
    _write_csv(folder / metrics_file, [("key", "value"), *flat, *described])

    sizes = flat_metrics(r for r in result.records if not (r.part or r.class_name))
    keys = [key for key in sizes if key in results]
    recordings = (
        [name, *(of.get(key, "") for key in keys)] for name, of in results["recordings"].items()
    )
    _write_csv(folder / "recordings.csv", [["recording", *keys], *recordings])

    confusion = results["confusion"]
    threshold = f"true / detected at score >= {confusion['score_threshold']}"
    counts = zip(confusion["names"], confusion["counts"], strict=True)
    matrix = ([name, *row] for name, row in counts)
    _write_csv(folder / "confusion.csv", [[threshold, *confusion["names"]], *matrix])

    with replacing(folder / "pr_curves.npz") as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(
            file,
            precision=result.curves.precision,
            num_boxes=result.curves.num_boxes,
            iou_thresholds=IOU_THRESHOLDS,
            recall_thresholds=RECALL_THRESHOLDS,
            classes=np.array(confusion["names"][:-1]),
            area_ranges=np.array(["all", *result.settings.size_bins]),
        )


def _known(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that have ground truth."""
    return {key: value for key, value in metrics.items() if not isnan(value)}


def _write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
