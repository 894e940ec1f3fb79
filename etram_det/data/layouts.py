"""What lies in a folder of recordings: the layouts that are read as they are, found by looking."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.camera_files import CAMERA_SUFFIXES, CameraRecording
from etram_det.data.folders import (
    EVENT_SUFFIXES,
    SPLITS,
    boxes_name,
    contents_of,
    eight_class_boxes,
    has_events,
    has_frames,
    split_folders,
)
from etram_det.data.labels import ETRAM3_CLASSES, ETRAM_CLASSES, LabelSettings, load_array
from etram_det.data.preprocessed import PreprocessedRecording
from etram_det.data.raw import RawRecording
from etram_det.data.recording import NoUsableLabels, Recording, recording_name
from etram_det.data.representation import FrameSettings
from etram_det.data.sparse import FRAMES_FILE, SparseRecording
from etram_det.errors import UserError

_LAYOUTS = (
    "<split>/<name>_td.h5 (raw eTraM), Static/HDF5/<split>_h5_<n>/<name>_td.h5 or Static/RAW/"
    "<split>_<n>/<name>_td.raw (eTraM as downloaded), <split>filelist<n>/<split>/<name>_td.dat "
    "(Prophesee), <split>/<name>/events/left/events.h5 (DSEC), <split>/<name>/sparse_frames.h5 "
    "(preprocessed) or <split>/<name>/event_representations_v2 (RVT); .raw, .dat, .aedat4 or "
    "_td.dat.h5 in place of _td.h5 will do, and files need no <split> for prediction"
)

_DEFAULTS = FrameSettings()
_log = logging.getLogger(__name__)


def find_recordings(
    root: Path,
    split: str,
    frame_settings: FrameSettings,
    label_settings: LabelSettings,
    require_labels: bool = True,
    faults: list[UserError] | None = None,
) -> list[Recording]:
    """The recordings of one split, sorted by name.

    A recording without any usable label (an empty box file, all boxes filtered out, or none after
    the first interval) is left out with a warning; or, where ``keep_unlabelled`` is set, one to
    train on with an empty box file is background. A missing box file is an error all the same.

    Args:
        root: folder of the recordings, in any of the layouts; where no labels are required, also
            a file of events, or a folder of such files.
        split: ``"train"``, ``"val"`` or ``"test"``.
        frame_settings: how events become frames.
        label_settings: which boxes become labels.
        require_labels: whether each recording needs labels; false for prediction.
        faults: where this is a list, recordings that cannot be opened are left out, and what is
            wrong with them is added to it.

    Raises:
        UserError: no layout fits, or a file of a recording is missing or damaged.
    """
    openers = _openers_under(root, split, label_settings.class_names, require_labels)
    recordings: list[Recording] = []
    unusable = []
    for opener in openers:
        try:
            recordings.append(opener(split, frame_settings, label_settings, require_labels))
        except NoUsableLabels as error:
            unusable.append(error)
        except UserError as error:
            if faults is None:
                raise
            faults.append(error)
    is_labelled = any(len(recording.label_boxes) for recording in recordings)
    if require_labels and not is_labelled and not faults:
        raise unusable[0] if unusable else _all_background(root, split)
    if unusable:
        _log.warning(
            "%d of %d %s recordings are left out, as they have no usable label: %s%s",
            len(unusable),
            len(openers),
            split,
            unusable[0],
            "" if len(unusable) == 1 else f" and {len(unusable) - 1} more",
        )
    if require_labels:
        classes = [recording.label_boxes["class_id"] for recording in recordings]
        warn_of_three_classes(split, classes, label_settings.class_names)
    return sorted(recordings, key=lambda recording: recording.name)


def _all_background(root: Path, split: str) -> UserError:
    return UserError(
        f"data.root: no {split} recording under {root} has a box: add recordings with labels to "
        "learn from"
    )


def warn_of_three_classes(
    split: str, classes: Sequence[NDArray[np.integer[Any]]], class_names: Sequence[str]
) -> None:
    """Warn where boxes seem to be eTraM's 3-class ones, read as its 8 classes.

    Args:
        split: of the boxes.
        classes: ``[M]`` class ids of each recording's boxes.
        class_names: the classes that are asked for.
    """
    highest = max((int(ids.max()) for ids in classes if len(ids)), default=len(ETRAM_CLASSES))
    if tuple(class_names) == ETRAM_CLASSES and highest < len(ETRAM3_CLASSES):
        _log.warning(
            "%s: no box has a class id above %d, though 8 classes are asked for: if these are "
            "eTraM's 3-class boxes (%s), set class_names to etram3 or add Eight_class_annotations",
            split,
            highest,
            ", ".join(ETRAM3_CLASSES),
        )


def open_recording(path: str | Path, frame_settings: FrameSettings = _DEFAULTS) -> Recording:
    """One recording without its labels, to detect in.

    Example:
        >>> from etram_det import SimulationSettings, open_recording, simulate
        >>> few = SimulationSettings(height=90, width=160, train=1, val=0, test=0, seconds=0.5)
        >>> simulate("traffic", few)
        >>> recording = open_recording("traffic/train/train_day_0001_td.h5")
        >>> len(recording), recording.input_size
        (10, (45, 80))
        >>> recording.frames(0, 2).shape  # [T, 2 * bins, H, W]
        (2, 20, 45, 80)

    Args:
        path: a file of events: raw eTraM's ``.h5``, or a camera's ``.raw``, ``.dat`` or
            ``.aedat4``; or the folder of a preprocessed recording.
        frame_settings: how events become frames.

    Raises:
        UserError: there is no such file, or it cannot be read as a recording.
    """
    path = Path(path)
    if not path.is_file() and not has_frames(path):
        raise UserError(
            f"{path}: must be a file of events or a preprocessed recording, got no such file"
        )
    # Stored frames have their labels, whose settings do not matter here.
    labels = None if (path / FRAMES_FILE).is_file() else LabelSettings()
    return _opener(path)("test", frame_settings, labels, False)


def recording_paths(path: Path) -> list[Path]:
    """The recordings that a path stands for, each for ``open_recording``.

    Args:
        path: a recording itself, or a folder of recordings. Of one that lies there in several
            forms, HDF5 counts before a camera's file, and events before frames.

    Raises:
        UserError: there is no such path, or no recording in the folder.
    """
    if has_frames(path) or (path.exists() and not path.is_dir()):
        return [path]
    if not path.is_dir():
        raise UserError(
            f"{path}: must be a recording or a folder of recordings, got no such file: check the "
            "path"
        )
    found = [each for each in sorted(path.iterdir()) if has_events(each) or has_frames(each)]
    if not found:
        raise UserError(
            f"{path}: must hold recordings, got none: use a folder with .h5, .hdf5, "
            f"{', '.join(CAMERA_SUFFIXES)}, or folders that preprocess made"
        )
    forms: dict[str, int] = {}
    for each in found:
        name = _name_of(each)
        forms[name] = min(_form(each), forms.get(name, _form(each)))
    return [each for each in found if _form(each) == forms[_name_of(each)]]


def _name_of(path: Path) -> str:
    return path.name if path.is_dir() else recording_name(path)


def _form(path: Path) -> int:
    """The place of a recording's form among those of which the first one is used."""
    if has_frames(path):
        return 2
    return int(path.suffix.lower() in CAMERA_SUFFIXES)


def splits_of(root: Path) -> list[str]:
    """The splits of which there are recordings under ``root``, in any of the layouts."""
    return [split for split in SPLITS if _openers(root, split, ETRAM3_CLASSES, False)]


def layout_of(recording: Recording, split: str) -> str:
    """Name of the layout in which a recording of a split was found."""
    folder = recording.source.parent.as_posix().lower()
    if not isinstance(recording, RawRecording):
        return recording.layout
    if folder.endswith("/events/left"):
        return "DSEC"
    is_sorted = re.search(rf"filelist\d*/{split}$", folder) is None and folder.endswith(f"/{split}")
    return recording.layout if is_sorted else f"{recording.layout}, as downloaded"


def names_under(root: Path) -> set[str]:
    """Names of the files and folders in which recordings of any split may lie, less ``_td``."""
    folders = [root, *(each for split in SPLITS for each in split_folders(root, split))]
    paths = [path for folder in folders for path in folder.iterdir()]
    return {_name_of(path) for path in paths}


def _openers_under(
    root: Path, split: str, class_names: Sequence[str], require_labels: bool
) -> list[Callable[..., Recording]]:
    """What :func:`_openers` gives or, where no labels are required, one for each file of events."""
    if not root.is_dir() and (require_labels or not root.is_file()):
        raise UserError(f"data.root: no folder {root}; expected one with {_LAYOUTS}")
    openers = _openers(root, split, class_names, require_labels) if root.is_dir() else []
    if not openers and not require_labels:
        files = filter(has_events, sorted(root.iterdir())) if root.is_dir() else [root]
        openers = [_opener(each) for each in files]
    if not openers:
        others = splits_of(root)
        found = f"; found only {' and '.join(others)}" if others else ""
        raise UserError(
            f"data.root: no {split} recordings under {root}{found}: expected {_LAYOUTS}"
        )
    return openers


def _openers(
    root: Path, split: str, class_names: Sequence[str], require_labels: bool
) -> list[Callable[..., Recording]]:
    """For each recording of a split, what makes it when given the rest of the arguments."""
    contents = contents_of(root, split)
    stored = [
        _opener(path) for name, path in contents.frames.items() if name not in contents.events
    ]
    if not contents.events:
        return stored
    boxes = contents.boxes
    if len(class_names) > len(ETRAM3_CLASSES):
        folders = split_folders(root, split)
        names = [folder.name.lower() for folder in folders]
        downloaded = any(name != split and "filelist" not in name for name in names)
        if eight := eight_class_boxes(root):
            boxes = eight
        elif downloaded and _only_three_classes(boxes.values()):
            if require_labels:
                raise UserError(
                    "data.class_names: must be eTraM's 3-class ones "
                    f"({', '.join(ETRAM3_CLASSES)}), as in the boxes under {folders[0].parent}, "
                    f"got {len(class_names)}: set etram3, or add Eight_class_annotations to {root}"
                )
            boxes = {}
    return [_opener(path, boxes.get(name)) for name, path in contents.events.items()] + stored


def _opener(path: Path, box_path: Path | None = None) -> Callable[..., Recording]:
    """What makes a recording of a file, by its suffix, or of a folder, by what it holds."""
    if (path / FRAMES_FILE).is_file():
        return partial(SparseRecording, path)
    if has_frames(path):
        return partial(PreprocessedRecording, path)
    if path.suffix.lower() in CAMERA_SUFFIXES:
        return partial(CameraRecording, path, box_path)
    if path.suffix.lower() in EVENT_SUFFIXES:
        return partial(RawRecording, path, box_path)
    raise UserError(f"{path}: must be a file of events: use {', '.join(EVENT_SUFFIXES)}")


def boxes_without_recordings(root: Path, split: str, class_names: Sequence[str]) -> list[Path]:
    """Box files of a split that lie there without their recordings, sorted by name.

    They are of ``Eight_class_annotations`` where these are there and more than eTraM's three
    classes are asked for, else of the split's own folders.

    Args:
        root: folder of recordings in the raw layout, or of nothing but their boxes.
        split: ``"train"``, ``"val"`` or ``"test"``.
        class_names: name of each class id.
    """
    if not root.is_dir():
        raise UserError(f"data.root: no folder {root}; expected one with {_LAYOUTS}")
    contents = contents_of(root, split)
    lone = root.glob(f"*{split}*/*_bbox.npy")
    found = {boxes_name(path).lower(): path for path in lone} | contents.boxes
    if len(class_names) > len(ETRAM3_CLASSES):
        eight = {
            name: path
            for name, path in eight_class_boxes(root).items()
            if path.parent.name.lower().endswith(split) or name.startswith(split)
        }
        found = eight or found
    recordings = contents.events.keys() | contents.frames.keys()
    return [found[name] for name in sorted(found) if name not in recordings]


def _only_three_classes(boxes: Iterable[Path]) -> bool:
    """Whether no box file has an id beyond eTraM's three classes."""
    for path in boxes:
        array = load_array(path)
        if "class_id" in (array.dtype.names or ()) and array["class_id"].max(initial=0) > 2:
            return False
    return True
