"""The results of an evaluation: as plain values, as files in its run folder, and read again."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from etram_det.errors import UserError
from etram_det.files import replacing, write_text
from etram_det.metrics.bootstrap import interval, resample_weights
from etram_det.metrics.confusion import (
    OUTCOMES,
    Pairing,
    confusion_matrix,
    localisation_errors,
    outcomes_by_size,
)
from etram_det.metrics.curves import RECALL_THRESHOLDS
from etram_det.metrics.evaluation import EvaluationResult
from etram_det.metrics.intervals import Resamples
from etram_det.metrics.matching import IOU_THRESHOLDS
from etram_det.metrics.motion import found_by_rest
from etram_det.metrics.records import Cell, Record, flat_metrics, records_in
from etram_det.metrics.scores import ScoreCounts
from etram_det.report.training_run import Training, read_training
from etram_det.types import dotted_items

CONFUSION_IOU = 0.5
ALL_CLASSES = "all classes"  # in best_scores, whatever the class of a detection
# Folder of an evaluation in the run folder of its checkpoint.
_EVALUATION = re.compile(r"(validate|test)(_\d+)?")


def results_of(
    result: EvaluationResult, *, score_threshold: float, dropped_by_data: Mapping[str, int]
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
        with the thresholds and the names of the rows, and how many detections of each class that
        took no box are ``localisation`` errors; ``best_scores``: by class, and of all together
        under ``all classes``, the score with the highest F1; ``found_by_size``: labels that were
        ``found``, taken for an ``other_class`` or ``missed``, by class (rows) and area (columns),
        with the bounds of the areas; ``times``: metrics by time since the start; ``found_by_rest``:
        labels found by the time since they last moved; ``intervals``: of the metrics by flat key,
        none below ten recordings.
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
            "localisation": localisation_errors(pairing, settings.num_classes).tolist(),
        },
        "best_scores": {
            name: None if (best := result.over_score.best(class_id)) is None else best._asdict()
            for name, class_id in ((ALL_CLASSES, None), *((n, i) for i, n in enumerate(names)))
        },
        "found_by_size": {
            "area_bounds": area_bounds.tolist(),
            **dict(zip(OUTCOMES, outcomes.tolist(), strict=True)),
        },
        "times": {name: _known(of) for name, of in result.per_time().items()},
        "found_by_rest": _found_by_rest(result, pairing),
        "intervals": {key: list(ends) for key, ends in result.resamples.intervals().items()},
    }


def _found_by_rest(result: EvaluationResult, pairing: Pairing) -> dict[str, dict[str, Any]]:
    """Labels found and all, and the interval of their share, by time since the last motion."""
    names, recording = np.unique(result.frames.recording, return_inverse=True)
    weights = resample_weights(len(names))
    rows = {}
    for name, (found, labels) in found_by_rest(pairing, recording, len(names)).items():
        in_resamples = weights @ labels
        share = np.where(in_resamples > 0, weights @ found / np.maximum(in_resamples, 1), nan)
        ends = interval(share, int(np.count_nonzero(labels)))
        rows[name] = {"found": int(found.sum()), "labels": int(labels.sum()), "interval": ends}
    return rows


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
    thresholds R of classes K in area ranges A, nan without ground truth, with their names, and the
    numbers ``true [S, K]`` and ``detections [S, K]`` from each of the scores S on at the least IoU;
    ``resamples.npz``, from ten recordings on, every metric in the resamples of the bootstrap.

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
    _write_csv(folder / metrics_file, ["key", "value"], [*flat, *described])

    sizes = flat_metrics(r for r in result.records if not (r.part or r.class_name))
    keys = [key for key in sizes if key in results]
    recordings = [
        [name, *(of.get(key, "") for key in keys)] for name, of in results["recordings"].items()
    ]
    _write_csv(folder / "recordings.csv", ["recording", *keys], recordings)

    confusion = results["confusion"]
    corner = f"true / detected at score >= {confusion['score_threshold']}"
    matrix = zip(confusion["names"], *zip(*confusion["counts"], strict=True), strict=True)
    _write_csv(folder / "confusion.csv", [corner, *confusion["names"]], matrix)

    with replacing(folder / "pr_curves.npz") as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(
            file,
            precision=result.curves.precision,
            num_boxes=result.curves.num_boxes,
            iou_thresholds=IOU_THRESHOLDS,
            recall_thresholds=RECALL_THRESHOLDS,
            classes=np.array(confusion["names"][:-1]),
            area_ranges=np.array(["all", *result.settings.size_bins]),
            scores=result.over_score.scores,
            true=result.over_score.true,
            detections=result.over_score.detections,
        )
    _write_resamples(folder / "resamples.npz", result.resamples)


def _write_resamples(path: Path, resamples: Resamples) -> None:
    if not resamples.values:
        path.unlink(missing_ok=True)  # that of an earlier evaluation
        return
    keys = list(resamples.values)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(
            file,
            keys=np.array(keys),
            values=np.array([resamples.values[key] for key in keys], dtype=np.float32),
            num_recordings=np.array([resamples.num_recordings[key] for key in keys]),
        )


def _read_resamples(path: Path) -> Resamples | None:
    try:
        with np.load(path, allow_pickle=False) as saved:
            keys = saved["keys"].tolist()
            numbers = saved["num_recordings"].tolist()
            values = saved["values"].astype(np.float64)
            return Resamples(
                dict(zip(keys, values, strict=True)), dict(zip(keys, numbers, strict=True))
            )
    except _DAMAGE:
        return None


def _known(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that have ground truth."""
    return {key: value for key, value in metrics.items() if not isnan(value)}


def _write_csv(path: Path, heading: list[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heading, *rows])
    write_text(path, text.getvalue())


# What NumPy raises for a file that is missing or damaged.
_DAMAGE = (FileNotFoundError, ValueError, LookupError, EOFError, zipfile.BadZipFile)
_EVALUATE = "use validate or test of this release"
# What a report cannot do without.
_REQUIRED = {
    "evaluation": "protocol filtered uses_objectness class_agnostic pixel_frame size_bins "
    "iou_thresholds max_detections class_names class_groups frames recordings dropped_labels "
    "dropped_detections dropped_by_data",
    "recordings": "",
    "confusion": "names counts score_threshold iou_threshold",
}


class PRCurves(NamedTuple):
    """Precision over recall at the least IoU threshold, as ``pr_curves.npz`` holds it."""

    recall: np.ndarray  # [R] thresholds
    # Of each class [R, A] in [0, 1], over all sizes and in each bin; nan without ground truth.
    precision: dict[str, np.ndarray]
    over_score: ScoreCounts | None = None  # of the classes in their order; older runs have none


@dataclass(frozen=True)
class EvaluatedRun:
    """One run folder.

    Attributes:
        folder: where it lies.
        results: what ``metrics.json`` holds.
        curves: what ``pr_curves.npz`` holds, None where it is missing.
        pictures: of each file of the gallery that is there, its content as a data URI.
        settings: what ``config.yaml`` of the training holds, by dotted key, or that of the
            evaluation where the training is not known; empty where it is missing.
        missing: what a report of this folder lacks and why, a sentence each.
        resamples: what ``resamples.npz`` holds; empty where there is none.
    """

    folder: Path
    results: dict[str, Any]
    curves: PRCurves | None
    pictures: dict[str, str]
    settings: dict[str, Any]
    missing: list[str]
    resamples: Resamples
    training: Training | None = None  # None where a detector was trained elsewhere

    @cached_property
    def records(self) -> dict[Cell, Record]:
        """Those of the results, by cell."""
        return records_in(self.results)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Those of the records, by flat key; nan where there is no ground truth."""
        return flat_metrics(self.records.values())

    @property
    def name(self) -> str:
        """The folder's name and its parent's, as in ``size_aware/version_0``, and evaluation."""
        return "/".join(self.folder.resolve().parts[-3 if _is_in_run(self.folder) else -2 :])


def newest_evaluation(run: Path) -> Path:
    """The folder of the newest evaluation of a run: the run folder itself, or one in it."""
    inner = [each for each in run.glob("*") if _EVALUATION.fullmatch(each.name)]
    found = [file for each in (run, *inner) if (file := each / "metrics.json").is_file()]
    return max(found, key=lambda file: file.stat().st_mtime_ns).parent if found else run


def _is_in_run(folder: Path) -> bool:
    folder = folder.resolve()
    return bool(_EVALUATION.fullmatch(folder.name)) and (folder.parent / "config.yaml").is_file()


def read_run(folder: Path) -> EvaluatedRun:
    """Read what an evaluation wrote into a run folder.

    Raises:
        UserError: there is no such folder, it holds no evaluation, or its file is damaged.
        OSError: a file may not be read.
    """
    results = _read_results(folder)
    missing = []
    curves = _read_curves(folder / "pr_curves.npz")
    if curves is None:
        missing.append(f"precision over recall: pr_curves.npz is missing or damaged: {_EVALUATE}")
    for key, what in (
        ("found_by_size", "found and missed by size"),
        ("best_scores", "best scores and F1"),
    ):
        if key not in results:
            missing.append(f"{what}: metrics.json is of an older run: {_EVALUATE}")
    resamples = _read_resamples(folder / "resamples.npz") if results.get("intervals") else None
    if "intervals" not in results:
        missing.append(f"95 % intervals: metrics.json is of an older run: {_EVALUATE}")
    elif results["intervals"] and resamples is None:
        missing.append(f"comparisons: resamples.npz is missing or damaged: {_EVALUATE}")
    gallery = results.get("gallery")
    pictures: dict[str, str] = {}
    if gallery is None and results["evaluation"].get("from_files"):
        missing.append(
            "pictures of misses and false alarms: they need recordings: use a data root for labels"
        )
    elif gallery is None:
        missing.append(
            f"pictures of detections, misses and false alarms: none were made: {_EVALUATE}, with "
            "results.pictures above 0"
        )
    else:
        shown = [each["file"] for kind in gallery.values() for each in kind]
        pictures = {
            name: f"data:image/png;base64,{b64encode((folder / name).read_bytes()).decode()}"
            for name in shown
            if (folder / name).is_file()
        }
        if len(pictures) < len(shown):
            lost = len(shown) - len(pictures)
            missing.append(f"{lost} of {len(shown)} pictures: their files are gone: {_EVALUATE}")
    configured = folder.resolve().parent if _is_in_run(folder) else folder
    settings = dict(dotted_items(read_settings(configured)))
    resamples = resamples or Resamples({}, {})
    training = read_training(configured)
    return EvaluatedRun(folder, results, curves, pictures, settings, missing, resamples, training)


def _read_results(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    if not path.is_file():
        found = "no metrics.json" if folder.is_dir() else "no folder"
        raise UserError(
            f"{folder}: must be a run folder with metrics.json of an evaluation, got {found}: "
            f"{_EVALUATE}, or another folder, such as runs/size_aware/version_0"
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: must be JSON, got {error}: {_EVALUATE}") from error
    lacking = list(_lacking(results))
    if lacking:
        raise UserError(
            f"{path}: must be what an evaluation writes, got no {', '.join(lacking)}: {_EVALUATE}"
        )
    return results


def _lacking(results: Any) -> Iterator[str]:
    for part, keys in _REQUIRED.items():
        content = results.get(part) if isinstance(results, dict) else None
        if not isinstance(content, dict):
            yield part
        else:
            yield from (f"{part}.{key}" for key in keys.split() if key not in content)


def _read_curves(path: Path) -> PRCurves | None:
    try:
        with np.load(path, allow_pickle=False) as saved:
            by_class = np.moveaxis(saved["precision"][0], 1, 0)
            precision = dict(zip(saved["classes"].tolist(), by_class, strict=True))
            counts = None
            if "scores" in saved:
                labels = saved["num_boxes"][:, 0]
                counts = ScoreCounts(saved["scores"], saved["true"], saved["detections"], labels)
            return PRCurves(saved["recall_thresholds"], precision, counts)
    except _DAMAGE:
        return None


def read_settings(folder: Path) -> dict[str, Any]:
    """What ``config.yaml`` of a run folder holds; empty where it is missing or damaged."""
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
