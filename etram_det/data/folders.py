"""Where the recordings of a split lie: in folders sorted by hand, or in unpacked downloads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from etram_det.data.camera_files import CAMERA_SUFFIXES
from etram_det.data.recording import DSEC_BOXES, DSEC_EVENTS, recording_name
from etram_det.data.sparse import FRAMES_FILE
from etram_det.errors import UserError

SPLITS = ("train", "val", "test")
_HDF5_SUFFIXES = (".h5", ".hdf5")
EVENT_SUFFIXES = (*_HDF5_SUFFIXES, *CAMERA_SUFFIXES)
_MAX_NAMES = 5
_LEVELS = 2  # that a download may unpack below the folder that is given
# DSEC-Det validates on these sequences, which lie among those to train on.
_DSEC_VAL = re.compile(r"zurich_city_(1[6-9]|2[01])_[a-z]", re.IGNORECASE)


@dataclass
class Contents:
    """What lies in the folders of a split, by the recordings' names in lower case.

    Attributes:
        events: files of events.
        boxes: box files.
        frames: folders of preprocessed recordings.
    """

    events: dict[str, Path] = field(default_factory=dict)
    boxes: dict[str, Path] = field(default_factory=dict)
    frames: dict[str, Path] = field(default_factory=dict)


def contents_of(root: Path, split: str) -> Contents:
    """What lies in the folders of a split.

    DSEC has no folder of its own for validation: where there is none, DSEC-Det's sequences for it
    are taken from those to train on.

    Args:
        root: folder of the recordings.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        UserError: two recordings have the same name.
    """
    folders = split_folders(root, split)
    if split == "test" or (split == "val" and folders) or split_folders(root, "val"):
        return _contents(folders, split)
    contents = _contents(split_folders(root, "train"), "train")
    paths = chain(contents.events.items(), contents.boxes.items())
    sequences = {name for name, path in paths if is_dsec(path)}
    held_out = {name for name in sequences if _DSEC_VAL.fullmatch(name)}
    if held_out == sequences:
        held_out = set()  # nothing would be left to train on

    def part(of: dict[str, Path]) -> dict[str, Path]:
        return {name: path for name, path in of.items() if (name in held_out) == (split == "val")}

    return Contents(part(contents.events), part(contents.boxes), part(contents.frames))


def split_folders(root: Path, split: str) -> list[Path]:
    """The folders of a split, those inside others after them.

    They are ``train``, or a download's ``train_h5_1``, ``train_1`` and ``trainfilelist00``, in any
    case and numbering, also inside each other.

    Raises:
        UserError: ``root`` holds several folders of recordings, none of its own.
    """
    return [folder for base in _bases(root) for folder in _folders_in(base, split)]


def eight_class_boxes(root: Path) -> dict[str, Path]:
    """Box files of eTraM's ``Eight_class_annotations``, by the recordings' names in lower case."""
    # The folder may lie beside the recordings, or beside ``HDF5``, ``RAW`` and ``Static`` above.
    places = _bases(root)
    for place in places:
        if place.name.lower() in ("hdf5", "raw", "static") and place.parent not in places:
            places.append(place.parent)
    pattern = re.compile(r"(eight[ _-]?)?class[ _-]?annotations?.*", re.IGNORECASE)
    return {
        boxes_name(Path(name)).lower(): Path(folder) / name
        for place in places
        for top in _subfolders(place)
        if pattern.fullmatch(top.name)
        for folder, _, names in os.walk(top, followlinks=True)
        for name in sorted(names)
        if name.lower().endswith(".npy")
    }


def has_frames(path: Path) -> bool:
    """Whether this is the folder of a preprocessed recording."""
    return (path / FRAMES_FILE).is_file() or (path / "event_representations_v2").is_dir()


def has_events(path: Path) -> bool:
    """Whether this is a file of events, by its name."""
    return not path.name.startswith(".") and path.suffix.lower() in EVENT_SUFFIXES


def is_dsec(path: Path) -> bool:
    """Whether this is a file of events or boxes of a sequence in DSEC's layout."""
    return path.parts[-3:] in (DSEC_EVENTS.parts, DSEC_BOXES.parts)


def boxes_name(path: Path) -> str:
    """Name of the recording that a box file belongs to."""
    return path.parents[2].name if is_dsec(path) else re.sub("_bbox$", "", path.stem, flags=re.I)


def _contents(folders: Iterable[Path], split: str) -> Contents:
    contents = Contents()
    for path in (path for folder in folders for path in sorted(folder.iterdir())):
        name = path.name.lower()
        if name.startswith("."):
            continue  # what is being written, or another system's notes
        if name.endswith("_bbox.npy"):
            contents.boxes.setdefault(boxes_name(path).lower(), path)
        elif not path.is_dir() and has_events(path):
            _add(contents.events, recording_name(path), path, split)
        if (path / DSEC_BOXES).is_file():
            contents.boxes.setdefault(name, path / DSEC_BOXES)
        if (path / DSEC_EVENTS).is_file():
            _add(contents.events, path.name, path / DSEC_EVENTS, split)
        elif has_frames(path):
            _add(contents.frames, path.name, path, split)
    return contents


def _add(found: dict[str, Path], name: str, path: Path, split: str) -> None:
    """Add a recording; of two kinds of the same one, HDF5 and our own frames are kept."""
    other = found.setdefault(name.lower(), path)
    if other is path or path.resolve() == other.resolve():
        return
    kinds = [
        each.suffix.lower() in _HDF5_SUFFIXES or (each / FRAMES_FILE).is_file()
        for each in (other, path)
    ]
    if kinds[0] == kinds[1]:
        raise UserError(
            f"data.root: must hold one {split} recording named {name}, got {other} and {path}: "
            "rename one of them with its boxes, or take it out of its folder"
        )
    found[name.lower()] = other if kinds[0] else path


def _bases(root: Path) -> list[Path]:
    """The folders in which those of the splits lie: in the root, or in the one below that has some.

    Raises:
        UserError: there are several of these.
    """
    found = _holders(root, _LEVELS)
    if len(found) > 1:
        names = ", ".join(str(each.relative_to(root)) for each in found[:_MAX_NAMES])
        raise UserError(
            f"data.root: must be one folder of recordings, got {root} with {names}: set it to one "
            "of these"
        )
    return _downloaded_in(found[0] if found else root)


def _holders(folder: Path, levels: int) -> list[Path]:
    """The folder itself if it has splits or files of events, or those below it that have."""
    try:
        if any(_has_splits(base) for base in _downloaded_in(folder)):
            return [folder]
        if levels == 0 or any(has_events(path) for path in folder.iterdir()):
            return []
        found = [each for path in _subfolders(folder) for each in _holders(path, levels - 1)]
    except PermissionError:
        return []
    return list({each.resolve(): each for each in found}.values())  # links may lead to the same


def _downloaded_in(root: Path) -> list[Path]:
    """The folder itself if it has splits, or what there is of ``Static/HDF5`` and ``RAW`` in it."""
    if _has_splits(root):
        return [root]
    inside = {path.name.lower(): path for path in _subfolders(root)}
    if "static" in inside:
        return _downloaded_in(inside["static"])
    return [inside[kind] for kind in ("hdf5", "raw") if kind in inside] or [root]


def _has_splits(folder: Path) -> bool:
    return any(_folders_in(folder, split) for split in SPLITS)


def _folders_in(base: Path, split: str) -> list[Path]:
    pattern = re.compile(rf"{split}([_-]?(h5|raw|filelist))?([_-]?\d+)?", re.IGNORECASE)
    return [
        folder
        for path in _subfolders(base)
        if pattern.fullmatch(path.name) and not has_frames(path)
        for folder in (path, *_folders_in(path, split))
    ]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())
