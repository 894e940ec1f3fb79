"""Finished runs of an experiment, a JSON line each, from which it goes on anywhere."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etram_det.errors import UserError
from etram_det.files import write_text
from etram_det.metrics.intervals import Resamples
from etram_det.metrics.records import PARTS_OF_DAY, flat_key
from etram_det.report.run_files import EvaluatedRun, read_run
from etram_det.tools.experiment.plan import Run

_STEPS = 65_535  # of a metric in [0, 1]: resamples are kept in two bytes
_NONE = np.uint16(_STEPS)  # no ground truth in a resample
_DIGITS = 5
_KEYS = ("variant", "seed", "steps", "settings", "cpu_s", "wall_s", "versions", "data")
_COMPARED = ("name", "frames", "labelled", "boxes", "boxes_crc32", "simulator_version")
_RESULT_KEYS = ("results", "resamples")


@dataclass(frozen=True)
class FinishedRun:
    """One line.

    Attributes:
        run: what was trained.
        settings: as ``fit`` was given them.
        cpu_s: CPU time of training and evaluation, in seconds.
        wall_s: elapsed time, in seconds.
        evaluated: what it found, as read from its run folder or from the line.
        versions: of the package and of what it stands on, by name, and its ``commit``.
        data: a checksum of the recordings' names and labels, by split.
    """

    run: Run
    settings: Sequence[str]
    cpu_s: float
    wall_s: float
    evaluated: EvaluatedRun
    versions: Mapping[str, str]
    data: Mapping[str, str]


def finished_run(
    folder: Path, run: Run, settings: Sequence[str], cpu_s: float, wall_s: float
) -> FinishedRun:
    """A run from its run folder.

    Raises:
        UserError: the folder holds no evaluation.
    """
    evaluated = read_run(folder)
    facts = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    start = facts["starts"][-1]
    versions = {**start["versions"], "commit": (start.get("git") or {}).get("commit", "unknown")}
    data = data_checksums(facts["data"])
    return FinishedRun(run, settings, cpu_s, wall_s, evaluated, versions, data)


def data_checksums(fingerprints: Mapping[str, Any]) -> dict[str, str]:
    """Of what is the same wherever recordings were written: compressed sizes may differ.

    Args:
        fingerprints: of the recordings by split, of ``EventDataModule.fingerprints``.
    """
    checksums = {}
    for split, fingerprint in fingerprints.items():
        rows = [[each.get(key) for key in _COMPARED] for each in fingerprint["recordings"]]
        checksums[split] = f"{zlib.crc32(json.dumps(rows).encode()):08x}"
    return checksums


def compared_keys(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """Flat keys of the metrics whose resamples are kept, in groups.

    Overall and by size; by motion, day and night; by class.
    """
    sizes = [flat_key("AP", ("", "", name)) for name in evaluation["size_bins"]]
    motions = [flat_key("AP", ("", "", name)) for name in evaluation["motion_bins"]]
    parts = [flat_key("AP", (part, "", "")) for part in PARTS_OF_DAY]
    classes = [flat_key("AP", ("", name, "")) for name in evaluation["class_names"]]
    return [["AP", "AP50", *sizes], [*motions, *parts], classes]


def read_finished(file: Path) -> list[FinishedRun]:
    """The runs in a file of JSON lines; none where it is missing.

    Raises:
        UserError: the file cannot be read, or a line is damaged.
    """
    if not file.exists():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: must be text in UTF-8, got {error}: use another file") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_run_in(file, json.loads(line)))
        except (ValueError, LookupError, TypeError, zlib.error) as error:
            raise UserError(
                f"{file}: line {number}: must be a finished run, got {error!r}: remove the line"
            ) from error
    return found


def write_finished(file: Path, runs: Sequence[FinishedRun]) -> None:
    """Write all lines, atomically."""
    lines = [json.dumps(_line_of(run), separators=(",", ":")) for run in runs]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(f"{line}\n" for line in lines))


def _line_of(finished: FinishedRun) -> dict[str, Any]:
    results, resamples = finished.evaluated.results, finished.evaluated.resamples
    kept = {
        key: round(value, _DIGITS)
        for key, value in results.items()
        if isinstance(value, float | int)
    }
    recordings = {
        name: {key: round(of[key], _DIGITS) for key in ("AP", "num_boxes") if key in of}
        for name, of in results["recordings"].items()
    }
    groups = compared_keys(results["evaluation"])
    keys = [key for group in groups for key in group if key in resamples.values]
    return {
        **finished.run._asdict(),
        "settings": list(finished.settings),
        "cpu_s": round(finished.cpu_s),
        "wall_s": round(finished.wall_s),
        "versions": dict(finished.versions),
        "data": dict(finished.data),
        "results": {**kept, "evaluation": results["evaluation"], "recordings": recordings},
        "resamples": {
            "num_recordings": {key: resamples.num_recordings[key] for key in keys},
            "values": _packed(np.array([resamples.values[key] for key in keys])),
        },
    }


def _run_in(file: Path, line: Mapping[str, Any]) -> FinishedRun:
    if lacking := [key for key in (*_KEYS, *_RESULT_KEYS) if key not in line]:
        raise ValueError(f"no {', '.join(lacking)}")
    run = Run(line["variant"], line["seed"], line["steps"])
    numbers = line["resamples"]["num_recordings"]
    values = _unpacked(line["resamples"]["values"], len(numbers))
    evaluated = EvaluatedRun(
        file.parent / str(run),
        {"intervals": {}, **line["results"]},
        None,
        {},
        {},
        [],
        Resamples(dict(zip(numbers, values, strict=True)), numbers),
    )
    return FinishedRun(
        run,
        line["settings"],
        line["cpu_s"],
        line["wall_s"],
        evaluated,
        line["versions"],
        line["data"],
    )


def _packed(values: np.ndarray) -> str:
    known = np.round(np.clip(np.nan_to_num(values), 0, 1) * (_STEPS - 1)).astype("<u2")
    stored = np.where(np.isnan(values), _NONE, known).astype("<u2")
    return b64encode(zlib.compress(stored.tobytes(), 9)).decode("ascii")


def _unpacked(text: str, num_keys: int) -> np.ndarray:
    stored = np.frombuffer(zlib.decompress(b64decode(text)), "<u2")
    values = stored / (_STEPS - 1)
    return np.where(stored == _NONE, np.nan, values).reshape(num_keys, -1) if num_keys else values
