"""Facts of a report's page: how a detector was trained, what was evaluated, and how."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etram_det.report.page_tables import UNKNOWN
from etram_det.report.run_files import EvaluatedRun
from etram_det.report.tables import (
    area_range,
    describe_intervals,
    dropped_by_data,
    not_evaluated,
    number_of,
    score_of,
    thresholds_of,
)

# Of the parts of metrics.json: two runs compare where these are the same.
_EQUAL_WHERE_COMPARED = {
    "run": "split data input_size",
    "evaluation": "protocol pixel_frame size_bins motion_bins max_detections class_names frames "
    "recordings",
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
        for key in {**a.settings, **b.settings}
    )
    return [(key, values) for key, values in rows if values[0] != values[1]]


def facts_of(runs: Sequence[EvaluatedRun]) -> list[tuple[str, list[str]]]:
    """What was evaluated and how, a row for each fact and a column for each run."""
    return _side_by_side(runs, _facts_of)


def training_facts(runs: Sequence[EvaluatedRun]) -> list[tuple[str, list[str]]]:
    """How the detectors were trained, in the same form; empty where nothing is known."""
    return _side_by_side(runs, _training_facts_of)


def _side_by_side(
    runs: Sequence[EvaluatedRun], facts_of_run: Callable[[EvaluatedRun], Iterator[tuple[str, str]]]
) -> list[tuple[str, list[str]]]:
    of_runs = [dict(facts_of_run(run)) for run in runs]
    names = dict.fromkeys(name for facts in of_runs for name in facts)
    return [(name, [facts.get(name, UNKNOWN) for facts in of_runs]) for name in names]


def _facts_of(run: EvaluatedRun) -> Iterator[tuple[str, str]]:
    evaluation, facts = run.results["evaluation"], run.results.get("run", {})
    yield "run folder", str(run.folder)
    yield "data", _plain(facts.get("data"))
    yield "split", _plain(facts.get("split"))
    if facts.get("detections"):
        yield "detections", facts["detections"]
    else:
        yield "checkpoint", _plain(facts.get("checkpoint"))
    size = facts.get("input_size")
    yield "network's frame", UNKNOWN if size is None else f"{size[1]} x {size[0]} pixels"
    if (every := facts.get("forget_every")) is not None:
        yield "state forgotten after", number_of(every, "frame")
    yield "protocol", f"{evaluation['protocol']}: {_rules(evaluation)}"
    yield "score", score_of(evaluation)
    yield "areas", f"in square pixels of the {_PIXELS[evaluation['pixel_frame']]}"
    for name, bounds in evaluation["size_bins"].items():
        yield f"size {name}", f"{area_range(*bounds)} px²"
    ious = evaluation["iou_thresholds"]
    yield "IoU of AP and AR", f"{ious[0]:.2f} to {ious[-1]:.2f}, {len(ious)} thresholds"
    yield "detections that count", f"{evaluation['max_detections']} of each frame and class"
    yield "found, missed, confusion, pictures", thresholds_of(run.results["confusion"])
    for name, bounds in evaluation.get("motion_bins", {}).items():
        yield f"motion {name}", f"{area_range(*bounds)} px/s on the sensor"
    yield "intervals", describe_intervals(run.results)
    yield "frames", f"{evaluation['frames']:,}"
    yield "recordings", f"{evaluation['recordings']:,}"
    yield "labels", f"{run.records['', '', ''].boxes:,}"
    yield "labels dropped by the protocol", f"{evaluation['dropped_labels']:,}"
    yield "detections dropped by the protocol", f"{evaluation['dropped_detections']:,}"
    yield "labels dropped when they were read", dropped_by_data(evaluation) or "none"
    between = not_evaluated(evaluation)
    yield "boxes not evaluated", f"{between:,} between the label times that count"
    yield "written by", f"etram_det {facts['version']}" if facts.get("version") else UNKNOWN


def _rules(evaluation: Mapping[str, Any]) -> str:
    if not evaluation["filtered"]:
        if evaluation.get("as_published", True) or evaluation.get("from_files"):
            return "every label counts"
        return "every label counts; boxes are cut at the frame and count for each likely class"
    rules = (
        f"the first 0.5 s, sides under {evaluation['min_side_px']} px and diagonals under "
        f"{evaluation['min_diagonal_px']} px on the sensor are dropped"
    )
    return f"{rules}; classes are ignored" if evaluation["class_agnostic"] else rules


def _plain(value: Any) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else json.dumps(value)


def _training_facts_of(run: EvaluatedRun) -> Iterator[tuple[str, str]]:
    settings, training, facts = run.settings, run.training, run.results.get("run", {})
    if training is None:
        return
    yield "model", _model(settings, facts.get("parameters"))
    yield "loss", _chosen(settings, "model.loss", "YOLOXLoss")
    yield "assignment", _chosen(settings, "model.assignment", "SimOTA")
    last, planned = training.last_step(), settings.get("trainer.max_steps")
    steps = "" if last is None else f"{last:,}"
    if isinstance(planned, int) and planned > 0 and planned != last:
        steps = f"{steps or 'some'} of {planned:,}"
    yield "steps", steps or UNKNOWN
    if facts.get("step") is not None:
        yield "step of the checkpoint", f"{facts['step']:,}"
    lanes, length = settings.get("data.train_lanes"), settings.get("data.num_steps")
    if lanes and length:
        every = settings.get("trainer.accumulate_grad_batches", 1)
        batches = f", {every} batches a step" if every not in (None, 1) else ""
        yield "batch", f"{number_of(lanes, 'lane')} of {number_of(length, 'frame')}{batches}"
    rates = [training.median(f"train/{name}_per_second") for name in ("steps", "frames")]
    if None not in rates:
        yield "speed", f"{rates[0]:.3g} steps/s, {rates[1]:.3g} frames/s (medians)"
    yield "data", _plain(settings.get("data.root") or "simulated traffic")
    if settings.get("model.init_from"):
        yield "started from", _plain(settings["model.init_from"])
    yield from _start_facts(training.starts, settings)


def _start_facts(
    starts: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """When, where and by which code a training was started."""
    if starts:
        date = str(starts[0].get("time", UNKNOWN)).replace("T", " ").partition("+")[0]
        again = f", resumed {len(starts) - 1} times" if len(starts) > 2 else ""
        yield "date", f"{date} UTC{again or (', resumed once' if len(starts) == 2 else '')}"
        versions, git = starts[-1].get("versions") or {}, starts[-1].get("git") or {}
        precision = settings.get("trainer.precision")
        device = [str(x) for x in (versions.get("device"), precision) if x]
        yield "device and precision", ", ".join(device) or UNKNOWN
        code = [f"{n} {versions[n]}" for n in ("etram_det", "torch") if n in versions]
        if commit := git.get("commit"):
            code.append(f"commit {commit[:12]}{' with changes' if git.get('dirty') else ''}")
        yield "code", ", ".join(code) or UNKNOWN
    if settings.get("seed_everything") is not None:
        yield "seed", _plain(settings["seed_everything"])


def _model(settings: Mapping[str, Any], parameters: int | None) -> str:
    parts = [] if parameters is None else [f"{parameters / 1e6:.2f} million parameters"]
    if settings.get("model.embed_dim"):
        parts.append(f"embed_dim {settings['model.embed_dim']}")
    if stages := settings.get("model.fpn_stages"):
        parts.append(number_of(len(stages), "scale"))
    return ", ".join(parts) or UNKNOWN


def _chosen(settings: Mapping[str, Any], name: str, default: str) -> str:
    """A class by its short name, with those of its settings that are plain and set."""
    path = settings.get(f"{name}.class_path") or settings.get(name) or default
    own = f"{name}.init_args."
    chosen = [
        f"{key.removeprefix(own).replace('.class_path', '')} {_short(value)}"
        for key, value in settings.items()
        if key.startswith(own)
        and value not in (None, {}, [])
        and ".init_args." not in key[len(own) :]
    ]
    return _short(path) + (f" ({', '.join(chosen)})" if chosen else "")


def _short(value: Any) -> str:
    """A class without its module; the values of a list joined."""
    if isinstance(value, list):
        return "+".join(map(_plain, value))
    return value.rpartition(".")[2] if isinstance(value, str) else _plain(value)
