"""Labels on disk: class names, box files, filters and the times that become labelled frames."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE, NO_TRACK
from etram_det.data.clock import Timestamps
from etram_det.errors import UserError

ETRAM_CLASSES = (
    "pedestrian", "car", "bicycle", "bus", "motorbike", "truck", "tram", "wheelchair",
)  # fmt: skip
ETRAM3_CLASSES = ("pedestrian", "vehicle", "micro-mobility")
GEN1_CLASSES = ("car", "pedestrian")
ONE_MPX_CLASSES = ("pedestrian", "two wheeler", "car")
DSEC_CLASSES = (
    "pedestrian", "rider", "car", "bus", "truck", "bicycle", "motorcycle", "train",
)  # fmt: skip
CLASS_NAMES_OF = {
    "etram": ETRAM_CLASSES,
    "etram3": ETRAM3_CLASSES,
    "gen1": GEN1_CLASSES,
    "1mpx": ONE_MPX_CLASSES,
    "dsec": DSEC_CLASSES,
}
ONLY_NAMED = "only_named_classes"
_UNNAMED = 2**32 - 1  # class id of boxes that this filter is to drop

NO_TIME = np.iinfo(np.int64).min  # of boxes whose time is no finite number
_NEEDED_FIELDS = ("t", "x", "y", "w", "h", "class_id")
_OLD_NAMES = {"t": "ts", "class_confidence": "confidence"}
# What np.load raises for files that are missing, cut short or overwritten.
_DAMAGE = (
    OSError,
    EOFError,
    MemoryError,
    NotImplementedError,
    SyntaxError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def class_names_of(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes, given themselves or the name of a data set (see ``data``)."""
    if isinstance(class_names, str):
        if class_names not in CLASS_NAMES_OF:
            raise UserError(
                f"data.class_names: must be names or one of {', '.join(CLASS_NAMES_OF)}, "
                f"got {class_names}: use one of these"
            )
        return CLASS_NAMES_OF[class_names]
    return tuple(class_names)


@dataclass(frozen=True)
class LabelSettings:
    """Which boxes become labels.

    Boxes are always cropped to the sensor's frame; those without any area in it are no labels.

    Attributes:
        class_names: name of each class id, in the order of the ids; or ``etram`` (8 classes),
            ``etram3``, ``gen1``, ``1mpx``, ``dsec`` for the names of that data set.
        interval_ms: raw recordings: labels are taken this far apart, in ms, a multiple of
            ``window_ms``.
        jitter_ms: raw recordings: how far a label time may lie off the interval, in ms.
        filters: names of the filters that drop boxes, in the order of their use: ``min_side_5``
            and ``max_width`` (RVT's), ``prophesee``, ``prophesee_gen1``; ``only_named_classes``
            drops class ids without a name, which are an error otherwise.
        keep_unlabelled: train on recordings whose box file is empty, as background: at every
            interval, a frame is labelled to show nothing. Otherwise, and in evaluation, where
            frames without labels do not count, as in RVT, they are left out with a warning. A
            missing box file is an error all the same.
    """

    class_names: Sequence[str] | Literal["etram", "etram3", "gen1", "1mpx", "dsec"] = ETRAM_CLASSES
    interval_ms: int = 100
    jitter_ms: int = 2
    filters: tuple[str, ...] = ()
    keep_unlabelled: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", class_names_of(self.class_names))
        if not self.class_names:
            raise UserError("data.class_names: must have at least one name, got none: add it")
        if self.interval_ms < 1 or self.jitter_ms < 0:
            raise UserError(
                "data.interval_ms: must be at least 1, and data.jitter_ms at least 0, "
                f"got {self.interval_ms} and {self.jitter_ms}: raise them"
            )
        unknown = sorted(set(self.filters) - set(FILTERS))
        if unknown:
            raise UserError(
                f"data.filters: must be of {sorted(FILTERS)}, got {unknown}: use these names"
            )


def load_array(path: Path, key: str | None = None) -> NDArray[Any]:
    """The array of an ``.npy`` file, or the one named ``key`` of an ``.npz`` archive.

    Raises:
        UserError: the file is missing, damaged, holds pickled objects or lacks the array.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if key is None:
                return loaded
            found = "a single array"
        else:
            with loaded:
                # What is no array in an archive comes as its bytes.
                if key in loaded.files and isinstance(array := loaded[key], np.ndarray):
                    return array
            found = f"the arrays {loaded.files}"
    except _DAMAGE as error:
        message = f"{path}: cannot be read as a NumPy file ({error}): fetch it again"
        raise UserError(message) from error
    wanted = "a single array" if key is None else f"the array {key!r}"
    raise UserError(f"{path}: must hold {wanted}, got {found}: fetch the file again")


def load_numbers(path: Path, key: str | None = None) -> NDArray[np.int64]:
    """A row of whole numbers, from where :func:`load_array` finds it.

    Raises:
        UserError: as there, or there is something else.
    """
    array = load_array(path, key)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(
            f"{path}: {'' if key is None else f'{key} '}must be a row of whole numbers, got "
            f"{array.dtype} {array.shape}: fetch the file again"
        )
    return array.astype(np.int64)


def has_confidences(array: NDArray[Any]) -> bool:
    """Whether boxes as :func:`boxes_from` takes them have their confidences, by either name."""
    names = ("class_confidence", _OLD_NAMES["class_confidence"])
    return any(name in (array.dtype.names or ()) for name in names)


def boxes_from(
    array: NDArray[Any],
    path: Path,
    class_names: Sequence[str],
    filters: Sequence[str] = (),
    time_unit: str = "us",
) -> NDArray[Any]:
    """Boxes read by the names of their fields, whatever their order and packing on disk.

    Args:
        array: ``[M]`` structured array; ``ts`` and ``confidence`` are taken as the old names of
            ``t`` and ``class_confidence``. Track ids default to 0, confidences to 1. Ids that are
            no track's, such as -1, become ``NO_TRACK``.
        path: the file it came from, for messages.
        class_names: names of the class ids.
        filters: those that are applied later: ``only_named_classes`` allows ids without a name.
        time_unit: of the times in the array: ``"us"``, ``"ms"``, ``"ns"`` or ``"s"``.

    Returns:
        ``[M]`` boxes, :data:`BOX_DTYPE`, in the order of the file, times in microseconds, or
        ``NO_TIME``.

    Raises:
        UserError: a needed field is missing, or a class id has no name.
    """
    found = array.dtype.names or ()
    sources = {
        name: name if name in found else _OLD_NAMES.get(name, name)
        for name in BOX_DTYPE.fields or ()
    }
    missing = [name for name in _NEEDED_FIELDS if sources[name] not in found]
    if missing:
        raise UserError(
            f"{path}: boxes must have the fields {', '.join(_NEEDED_FIELDS)}; missing "
            f"{', '.join(missing)}, got {', '.join(found) or 'a plain array'}: fetch the file "
            "again, or add what is missing"
        )
    for source in sources.values():
        if source in found and array.dtype[source].kind not in "iuf":
            raise UserError(
                f"{path}: {source} must be a number, got {array.dtype[source]}: fetch it again"
            )
    array = np.ravel(array)
    class_id = array["class_id"]
    is_unnamed = (class_id < 0) | (class_id >= len(class_names))
    if ONLY_NAMED not in filters and is_unnamed.any():
        raise UserError(
            f"{path}: class ids must be 0 to {len(class_names) - 1} ({', '.join(class_names)}), "
            f"got {np.unique(class_id[is_unnamed])[:10].tolist()}: set data.class_names to a name "
            f"for each class id, or add {ONLY_NAMED} to data.filters to drop these boxes"
        )
    boxes = np.zeros(len(array), BOX_DTYPE)
    boxes["class_confidence"] = 1
    with np.errstate(invalid="ignore"):  # what is no number is noted below
        for name, source in sources.items():
            if source in found:
                boxes[name] = array[source]
    if "track_id" in found:
        is_id = (array["track_id"] >= 0) & (array["track_id"] < NO_TRACK)
        boxes["track_id"][~is_id] = NO_TRACK
    untimed = ~np.isfinite(array[sources["t"]])
    boxes["class_id"][is_unnamed] = _UNNAMED
    if time_unit != "us":
        boxes["t"] = Timestamps(array[sources["t"]], time_unit)[:]
    boxes["t"][untimed] = NO_TIME
    return boxes


def packed(boxes: NDArray[Any]) -> NDArray[Any]:
    """The same boxes without unused bytes, whose values are chance, to be written to a file."""
    return boxes.astype([(name, BOX_DTYPE[name]) for name in BOX_DTYPE.names or ()])


def _crop_to_frame(boxes: NDArray[Any], sensor_size: tuple[int, int]) -> NDArray[Any]:
    """Boxes cropped to the sensor's last row and column, as by RVT; no area for those outside."""
    height, width = sensor_size
    cropped = boxes.copy()
    with np.errstate(invalid="ignore", over="ignore"):  # nan has no area and falls out later
        right = np.clip(boxes["x"] + boxes["w"], 0, width - 1)
        bottom = np.clip(boxes["y"] + boxes["h"], 0, height - 1)
        cropped["x"], cropped["y"] = boxes["x"].clip(0, width - 1), boxes["y"].clip(0, height - 1)
        cropped["w"], cropped["h"] = right - cropped["x"], bottom - cropped["y"]
    return cropped


def _min_side(boxes: NDArray[Any], side: int, diagonal: int = 0) -> NDArray[np.bool_]:
    w, h = boxes["w"], boxes["h"]
    return (w >= side) & (h >= side) & (w**2 + h**2 >= diagonal**2)


# Name -> (boxes [M], sensor's (height, width), split) -> which boxes to keep [M].
FILTERS: dict[str, Callable[[NDArray[Any], tuple[int, int], str], NDArray[np.bool_]]] = {
    # RVT's own: no side under 5 px, and in training no box wider than 9/10 of the frame, which
    # are faults of automatic labelling.
    "min_side_5": lambda boxes, sensor_size, split: _min_side(boxes, 5),
    "max_width": lambda boxes, sensor_size, split: (
        (boxes["w"] <= 9 * sensor_size[1] // 10) | (split != "train")
    ),
    # RVT's for 1 Mpx: three of Prophesee's seven classes have names.
    ONLY_NAMED: lambda boxes, sensor_size, split: boxes["class_id"] != _UNNAMED,
    # Prophesee's evaluation toolbox, for its 1280x720 sensor and for Gen1 (304x240).
    "prophesee": lambda boxes, sensor_size, split: _min_side(boxes, 20, diagonal=60),
    "prophesee_gen1": lambda boxes, sensor_size, split: _min_side(boxes, 10, diagonal=30),
}


def filter_boxes(
    boxes: NDArray[Any], sensor_size: tuple[int, int], split: str, filters: tuple[str, ...]
) -> tuple[NDArray[Any], NDArray[np.intp], dict[str, int]]:
    """Crop boxes to the frame, then apply the named filters in their order.

    Args:
        boxes: ``[M]`` boxes, :data:`BOX_DTYPE`.
        sensor_size: height and width of the sensor in pixels.
        split: ``"train"``, ``"val"`` or ``"test"``.
        filters: keys of :data:`FILTERS`.

    Returns:
        The boxes left, their places among ``boxes``, and how many boxes each step removed.
    """
    cropped = _crop_to_frame(boxes, sensor_size)
    inside = np.flatnonzero((cropped["w"] > 0) & (cropped["h"] > 0))
    kept, dropped = apply_filters(cropped[inside], sensor_size, split, filters)
    dropped = {"boxes: outside the frame": len(boxes) - len(inside), **dropped}
    return cropped[inside[kept]], inside[kept], dropped


def left_out(dropped: Mapping[str, int]) -> str:
    """What became of boxes, for errors where none is left: `` (5 outside …, 2 by max_width)``.

    Args:
        dropped: how many boxes each step of :func:`filter_boxes` removed.
    """
    counts = {step.removeprefix("boxes: "): count for step, count in dropped.items() if count}
    reasons = [
        f"{count} by {name}" if name in FILTERS else f"{count} {name} or not finite"
        for name, count in counts.items()
    ]
    return f" ({', '.join(reasons)})" if reasons else ""


def apply_filters(
    boxes: NDArray[Any], sensor_size: tuple[int, int], split: str, filters: tuple[str, ...]
) -> tuple[NDArray[np.intp], dict[str, int]]:
    """Apply the named filters, in their order, to boxes ``[M]`` that lie in the frame.

    The arguments are those of :func:`filter_boxes`.

    Returns:
        The places of the boxes left, and how many boxes each filter removed.
    """
    kept = np.arange(len(boxes))
    dropped = {}
    for name in filters:
        keep = FILTERS[name](boxes[kept], sensor_size, split)
        dropped[f"boxes: {name}"] = int(np.count_nonzero(~keep))
        kept = kept[keep]
    return kept, dropped
