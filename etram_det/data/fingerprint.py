"""What identifies a set of recordings: names, lengths, labels and sizes on disk."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from etram_det.data.augment import AugmentSettings
from etram_det.data.hdf5_file import open_hdf5
from etram_det.data.interpolation import TrainingLabels
from etram_det.data.labels import LabelSettings
from etram_det.data.recording import Recording
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from etram_det.simulator.version import VERSION_ATTRIBUTE

_MAX_NAMES = 3
_AUGMENTATION = "data.augmentation"  # a group of settings
# What another value in each place of an identity means.
_DIFFERENCES = (
    "of another length",
    *["with other labels"] * 3,
    "of another size on disk",
    "of another version of the simulator",
)

# Other settings of the plan that older checkpoints do not hold, with the values they had.
_NEWER = {"data.class_balance": 0.0}


def fingerprint(recordings: Sequence[Recording]) -> dict[str, Any]:
    """A set of recordings as plain values, with a digest that changes whenever one of them does.

    Args:
        recordings: of one split.

    Returns:
        ``recordings``: name, ``frames``, labelled frames (``labelled``), ``boxes``, their
        checksum (``boxes_crc32``) and ``bytes`` on disk of each, and of simulated ones
        ``simulator_version``; ``digest``: of all that, hexadecimal.
    """
    facts = [
        {
            "name": recording.name,
            "frames": len(recording),
            "labelled": int(recording.labelled.sum()),
            "boxes": len(recording.label_boxes),
            "boxes_crc32": _checksum_of_boxes(recording),
            "bytes": _bytes_of(recording.path),
            **({"simulator_version": version} if (version := simulator_version(recording)) else {}),
        }
        for recording in recordings
    ]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return {"recordings": facts, "digest": digest}


def identities(recordings: Sequence[Recording]) -> dict[str, list[int]]:
    """By name, what shows that a recording is another one, without reading its events.

    Returns:
        Number of frames, number of labelled ones, a checksum of which ones these are, one of their
        boxes, the size on disk in bytes, and the version of the simulator that made it, 0 for
        none. The first three decide the plan of a training.
    """
    return {
        recording.name: [
            len(recording),
            int(recording.labelled.sum()),
            int.from_bytes(hashlib.sha256(recording.labelled.tobytes()).digest()[:4], "little"),
            _checksum_of_boxes(recording),
            _bytes_of(recording.path),
            simulator_version(recording),
        ]
        for recording in recordings
    }


def place_in_plan(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], source: str
) -> tuple[tuple[int, int], bool, list[str]]:
    """Where a checkpoint enters the training plan: its own place, if the plan is still the same.

    Args:
        theirs: as :func:`changes_between` takes it, with the ``epoch``, its ``step`` and the
            ``validation`` recordings, which older checkpoints and runs without one do not hold.
        ours: the same without a place, as it is now.
        source: the checkpoint, for messages.

    Returns:
        Epoch and step, the first step where the plan has changed; whether it is still the same;
        and what has changed of it or of the validation recordings, which leave it as it is, in
        sentences.

    Raises:
        UserError: if ``theirs`` is damaged.
    """
    epoch, step = theirs.get("epoch"), theirs.get("step")
    validation = theirs.get("validation", {})
    parts = (theirs.get("settings"), theirs.get("recordings"), validation)
    if not (isinstance(epoch, int) and isinstance(step, int) and min(epoch, step) >= 0) or not all(
        isinstance(part, Mapping) for part in parts
    ):
        raise UserError(
            f"{source}: must hold a place in the training plan, with its settings and recordings, "
            f"got step {step} of epoch {epoch}: the checkpoint is damaged, use another one"
        )
    changes = changes_between(theirs, ours)
    others = []
    if "validation" in theirs and "validation" in ours:
        others = _changed_recordings(validation, ours["validation"], "validation")
    plan = "training cannot go on exactly where the checkpoint stopped, its epoch starts anew"
    metrics = "metrics do not compare with those before the checkpoint, the best one included"
    found = ((plan, changes), (metrics, others))
    sentences = [f"{what}: {'; '.join(why)}" for what, why in found if why]
    return (epoch, 0 if changes else step), not changes, sentences


def changes_between(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What differs between the training that wrote a checkpoint and the one of now, in words.

    A setting of frames, labels or augmentation that is newer than the checkpoint had its default
    there.

    Args:
        theirs: the checkpoint's ``settings`` by dotted name, and its training ``recordings`` as
            :func:`identities` returned them.
        ours: the same, as it is now.
    """
    newer = {name: value for name, value in _NEWER.items() if name in ours["settings"]}
    defaults = newer | {
        f"data.{each.name}": each.default
        for of in (FrameSettings, LabelSettings, TrainingLabels)
        for each in fields(of)
        if f"data.{each.name}" in ours["settings"]
    }
    before, now = defaults | dict(theirs["settings"]), ours["settings"]
    if isinstance(group := before.get(_AUGMENTATION), Mapping):
        before[_AUGMENTATION] = asdict(AugmentSettings()) | dict(group)
    settings = [
        f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if _plain(before.get(name)) != _plain(now.get(name))
    ]
    return settings + _changed_recordings(theirs["recordings"], ours["recordings"], "training")


def _changed_recordings(
    theirs: Mapping[str, Sequence[int]], ours: Mapping[str, Sequence[int]], split: str
) -> list[str]:
    groups = {
        "new": sorted(ours.keys() - theirs.keys()),
        "gone": sorted(theirs.keys() - ours.keys()),
        **{what: [] for what in _DIFFERENCES},
    }
    for name in sorted(theirs.keys() & ours.keys()):
        # Older checkpoints know the first three or five values alone.
        values = zip(_DIFFERENCES, theirs[name], ours[name], strict=False)
        if differences := [what for what, one, other in values if one != other]:
            groups[differences[0]].append(name)
    return [
        f"{len(names)} of the {split} recordings {'is' if len(names) == 1 else 'are'} {what} "
        f"({', '.join(names[:_MAX_NAMES])}{', …' if len(names) > _MAX_NAMES else ''})"
        for what, names in groups.items()
        if names
    ]


def _checksum_of_boxes(recording: Recording) -> int:
    """CRC-32 of what a recording's labels are made of: frames, classes and coordinates."""
    checksum = 0
    for timeline in recording.phases:
        checksum = zlib.crc32(timeline.label_frame.tobytes(), checksum)
        for name in ("class_id", "x", "y", "w", "h"):
            checksum = zlib.crc32(timeline.label_boxes[name].tobytes(), checksum)
    return checksum


def simulator_version(recording: Recording) -> int:
    """Of the simulator that made a recording; 0 for none."""
    if recording.path.suffix != ".h5":
        return 0
    with open_hdf5(recording.path, "fetch the file again", even_cut=True) as file:
        return int(file.attrs.get(VERSION_ATTRIBUTE, 0))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))  # a tuple and the list it is stored as are the same


def _bytes_of(path: Path) -> int:
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
