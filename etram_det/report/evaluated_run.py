"""What an evaluation left in a run folder, as a report needs it."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from etram_det.errors import UserError
from etram_det.types import dotted_items

_EVALUATE = "run validate or test with this release"
# What a report cannot do without.
_REQUIRED = {
    "evaluation": (
        *("protocol", "filtered", "uses_objectness", "class_agnostic", "pixel_frame", "size_bins"),
        *("iou_thresholds", "max_detections", "class_names", "class_groups", "frames"),
        *("recordings", "dropped_labels", "dropped_detections", "dropped_by_data"),
    ),
    "recordings": (),
    "confusion": ("names", "counts", "score_threshold", "iou_threshold"),
}


@dataclass(frozen=True)
class PRCurves:
    """Precision over recall, as ``pr_curves.npz`` holds it.

    Attributes:
        precision: ``[I, R, K, A]`` in [0, 1] at IoU thresholds I and recall thresholds R of
            classes K in area ranges A; nan where there is no ground truth.
        iou_thresholds: ``[I]``.
        recall_thresholds: ``[R]``.
        classes: name of each class.
        area_ranges: name of each area range, ``all`` first.
    """

    precision: np.ndarray
    iou_thresholds: np.ndarray
    recall_thresholds: np.ndarray
    classes: list[str]
    area_ranges: list[str]


@dataclass(frozen=True)
class EvaluatedRun:
    """One run folder.

    Attributes:
        folder: where it lies.
        results: what ``metrics.json`` holds.
        curves: what ``pr_curves.npz`` holds, None where it is missing.
        pictures: of each file of the gallery that is there, its content as a data URI.
        settings: what ``config.yaml`` holds, by dotted key; empty where it is missing.
        missing: what a report of this folder lacks and why, a sentence each.
    """

    folder: Path
    results: dict[str, Any]
    curves: PRCurves | None
    pictures: dict[str, str]
    settings: dict[str, Any]
    missing: list[str]

    @property
    def name(self) -> str:
        """The folder's name and its parent's, as in ``size_aware/version_0``."""
        return "/".join(self.folder.resolve().parts[-2:])


def read_run(folder: Path) -> EvaluatedRun:
    """Read what an evaluation wrote.

    Args:
        folder: run folder of ``fit``, ``validate`` or ``test``.

    Raises:
        UserError: there is no such folder, it holds no evaluation, or its file is damaged.
        OSError: a file may not be read.
    """
    results = _read_results(folder)
    missing = []
    curves = _read_curves(folder / "pr_curves.npz")
    if curves is None:
        missing.append(f"precision over recall: pr_curves.npz is missing or damaged: {_EVALUATE}")
    if "found_by_size" not in results:
        missing.append(f"found and missed by size: metrics.json is of an older run: {_EVALUATE}")
    gallery = results.get("gallery")
    pictures: dict[str, str] = {}
    if gallery is None:
        missing.append(
            f"pictures of misses and false alarms: none were made: {_EVALUATE} and with "
            "results.pictures above 0"
        )
    else:
        shown = [each["file"] for kind in gallery.values() for each in kind]
        pictures = {name: _data_uri(folder / name) for name in shown if (folder / name).is_file()}
        if len(pictures) < len(shown):
            lost = len(shown) - len(pictures)
            missing.append(f"{lost} of {len(shown)} pictures: their files are gone: {_EVALUATE}")
    return EvaluatedRun(folder, results, curves, pictures, _read_settings(folder), missing)


def _read_results(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: required a run folder, found none: name one under runs/")
    if not path.is_file():
        raise UserError(
            f"{folder}: required metrics.json of an evaluation, found none: {_EVALUATE}, or name "
            "the folder that holds it, such as runs/size_aware/version_0"
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged, no JSON ({error}): {_EVALUATE}") from error
    lacking = list(_lacking(results))
    if lacking:
        raise UserError(
            f"{path}: required what an evaluation writes, found no {', '.join(lacking)}: "
            f"{_EVALUATE}"
        )
    return results


def _lacking(results: Any) -> Iterator[str]:
    for part, keys in _REQUIRED.items():
        content = results.get(part) if isinstance(results, dict) else None
        if not isinstance(content, dict):
            yield part
        else:
            yield from (f"{part}.{key}" for key in keys if key not in content)


def _read_curves(path: Path) -> PRCurves | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as saved:
            return PRCurves(
                saved["precision"],
                saved["iou_thresholds"],
                saved["recall_thresholds"],
                saved["classes"].tolist(),
                saved["area_ranges"].tolist(),
            )
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):
        return {}
    return dict(dotted_items(content)) if isinstance(content, Mapping) else {}


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
