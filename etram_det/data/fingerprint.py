"""What tells one set of recordings from another: names, lengths, labels and sizes on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etram_det.data.recording import Recording
from etram_det.types import UserError

_MOST_NAMES = 3


def fingerprint(recordings: Sequence[Recording]) -> dict[str, Any]:
    """A set of recordings as plain values, with a digest that changes whenever one of them does.

    Args:
        recordings: of one split.

    Returns:
        ``recordings``: name, ``frames``, labelled frames (``labelled``), ``boxes`` and ``bytes`` on
        disk of each; ``digest``: of all that, hexadecimal.
    """
    facts = [
        {
            "name": recording.name,
            "frames": len(recording),
            "labelled": int(recording.labelled.sum()),
            "boxes": len(recording.label_boxes),
            "bytes": _bytes_of(recording.path),
        }
        for recording in recordings
    ]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return {"recordings": facts, "digest": digest}


def lengths_of(recordings: Sequence[Recording]) -> dict[str, list[int]]:
    """By name, what a plan of training takes from each recording.

    Returns:
        Number of frames, number of labelled ones, and a checksum of which ones these are.
    """
    return {
        recording.name: [
            len(recording),
            int(recording.labelled.sum()),
            int.from_bytes(hashlib.sha256(recording.labelled.tobytes()).digest()[:4], "little"),
        ]
        for recording in recordings
    }


def place_in_plan(
    theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> tuple[tuple[int, int], list[str]]:
    """Where a checkpoint enters the training plan: its own place, if the plan is still the same.

    Args:
        theirs: as :func:`changes_between` takes it, with the ``epoch`` and its ``step``.
        ours: the same without a place, as it is now.

    Returns:
        Epoch and step, the first step where the plan has changed; and the changes.

    Raises:
        UserError: if ``theirs`` is damaged.
    """
    try:
        changes = changes_between(theirs, ours)
        return (int(theirs["epoch"]), 0 if changes else int(theirs["step"])), changes
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            "ckpt_path: the place in the training plan that the checkpoint keeps is damaged "
            f"({type(error).__name__}: {error}): choose another one"
        ) from error


def changes_between(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What differs between the training that wrote a checkpoint and the one of now, in words.

    Args:
        theirs: the checkpoint's ``settings`` by dotted name, and its ``recordings`` as
            :func:`lengths_of` returned them.
        ours: the same, as it is now.
    """
    return [
        *_changed_settings(theirs["settings"], ours["settings"]),
        *_changed_recordings(theirs["recordings"], ours["recordings"]),
    ]


def _changed_settings(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {theirs.get(name)} and is {ours.get(name)}"
        for name in sorted(theirs.keys() | ours.keys())
        if _plain(theirs.get(name)) != _plain(ours.get(name))
    ]


def _changed_recordings(
    theirs: Mapping[str, Sequence[int]], ours: Mapping[str, Sequence[int]]
) -> list[str]:
    both = sorted(theirs.keys() & ours.keys())
    groups = {
        "new": sorted(ours.keys() - theirs.keys()),
        "gone": sorted(theirs.keys() - ours.keys()),
        "of another length": [name for name in both if theirs[name][0] != ours[name][0]],
        "with other labels": [
            name
            for name in both
            if theirs[name][0] == ours[name][0] and list(theirs[name]) != list(ours[name])
        ],
    }
    return [
        f"{len(names)} of the training recordings {'is' if len(names) == 1 else 'are'} {what} "
        f"({', '.join(names[:_MOST_NAMES])}{', …' if len(names) > _MOST_NAMES else ''})"
        for what, names in groups.items()
        if names
    ]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))  # a tuple and the list it is stored as are the same


def _bytes_of(path: Path) -> int:
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
