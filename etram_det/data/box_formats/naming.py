"""Which recording and time an image belongs to, and which class a name: as settings have it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import cached_property
from os.path import commonprefix
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from etram_det.data.box_formats.table import Reason
from etram_det.data.folders import boxes_name, is_dsec
from etram_det.data.labels import ETRAM_CLASSES, class_names_of
from etram_det.errors import UserError

TIME_KEYS = ("t", "ts", "time_us", "timestamp_us")  # of times in microseconds, unless set
RECORDING_KEYS = ("recording", "sequence", "video")
INDEX_KEYS = ("frame", "frame_id", "frame_index", "frame_number")
_MOST_DIGITS = 30  # of a time, before or behind the point
_UNITS: dict[str, Fraction] = {
    "us": Fraction(1),
    "ms": Fraction(1000),
    "ns": Fraction(1, 1000),
    "s": Fraction(1_000_000),
}
_PARTS = {
    "{recording}": "(?P<recording>[^/]+)",
    "{time}": r"(?P<time>\d+(?:\.\d+)?)",
    "{index}": r"(?P<index>\d+)",
    "*": "[^/]*",
}
_SUFFIX = re.compile("(_td)?(_(bbox|coco|detections|labels))?$", re.IGNORECASE)
_LATEST_US = 2**62
NO_TIME = Reason(
    "images without a time",
    "set times.pattern to what their names look like, such as {recording}_{time}.png, times.rate "
    "to images a second, or times.column to the key or column with the time",
)
NO_NAME = Reason(
    "boxes of images without a name or a time",
    "add the time in microseconds under t, or set times.column to what holds it, or times.rate to "
    "images a second where a column frame counts them",
)
BAD_TIME = Reason(
    "images with a time or an index that is no number, or none that is possible", "correct it"
)
NO_MATCH = Reason(
    "names of images that do not look like times.pattern", "set another pattern, or none"
)
UNKNOWN_CLASS = Reason(
    "boxes of a class without an id",
    "set class_map to a class for its name, or to null to leave it out, or set class_names",
)
CHOSEN_CLASS = Reason("boxes of classes that class_map leaves out")


@dataclass(frozen=True)
class TimeSettings:
    """Where the times of boxes are: in microseconds under ``t``, unless a setting says otherwise.

    Attributes:
        pattern: what names of images look like, with ``{recording}``, ``{time}`` or ``{index}``,
            and ``*`` for anything: ``{recording}/{index}.png``. Folders to the left and an ending
            may be left out.
        column: key of COCO's images or column of a CSV file that holds the time.
        unit: of the times in names and columns.
        rate: images a second: an image's time is its index divided by it. The index is that of the
            pattern, or under ``frame`` or ``frame_id``, or, where COCO lists the images and none
            has such a key, the image's place in its recording, by its id, from 0.
        start_us: time of index 0 in microseconds.
    """

    pattern: str | None = None
    column: str | None = None
    unit: Literal["us", "ms", "ns", "s"] = "us"
    rate: float | None = None
    start_us: int = 0

    def __post_init__(self) -> None:
        parts = re.findall(r"\{.*?\}", "{time}" if self.pattern is None else self.pattern)
        known = {part for part in _PARTS if part[0] == "{"}
        if not parts or len({*parts}) < len(parts) or {*parts} - known or len(parts) > 2:
            raise UserError(
                "times.pattern: must have {recording}, and {time} or {index}, or one of these, got "
                f"{self.pattern}: use such as {{recording}}_{{time}}.png"
            )
        if "{index}" in parts and self.rate is None:
            raise UserError(
                "times.rate: must be set for a pattern with {index}, got none: set it to the "
                "images a second"
            )
        if self.rate is not None and not self.rate > 0:
            raise UserError(f"times.rate: must be above 0, got {self.rate:g}: set images a second")

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys or columns that hold the time or the index, of which the first counts."""
        if self.column is not None:
            return (self.column,)
        return TIME_KEYS if self.rate is None else INDEX_KEYS

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        words = re.split(r"(\{recording\}|\{time\}|\{index\}|\*)", self.pattern or "")
        inner = "".join(_PARTS.get(word) or re.escape(word) for word in words)
        return re.compile(rf"(?:.*/)?{inner}(?:\.[A-Za-z]\w*)?")

    def in_us(self, time: Any, unit: str | None = None) -> int | None:
        """A number, or its text, of the unit in microseconds; None for anything else."""
        try:
            number = Decimal(str(time).strip())
        except InvalidOperation:
            return None
        # Of a number of more digits, all of them would be written out.
        if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
            return None
        return round(Fraction(number) * _UNITS[unit or self.unit])

    def of_index(self, index: int) -> int:
        """Time in microseconds of an image by its index."""
        assert self.rate is not None
        return self.start_us + round(index * 1_000_000 / Fraction(str(self.rate)))

    def match(self, name: str) -> re.Match[str] | None:
        """The parts of an image's name; None where it does not look like the pattern."""
        return self._expression.fullmatch(name.replace("\\", "/"))


@dataclass(frozen=True)
class NamedImage:
    """An image as a file lists it.

    Attributes:
        name: its file name, or its id as text.
        facts: what else is known of it, by key.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)


# Recording and time in microseconds of an image, or why it has none.
Place = tuple[str, int] | Reason


def places_of(
    images: Sequence[NamedImage], times: TimeSettings, path: Path, *, all_listed: bool
) -> list[Place]:
    """Recording and time of each image.

    Args:
        images: those of a file, in the order of their ids.
        times: where the times are.
        path: the file, after which the recording is named where nothing else names it.
        all_listed: whether images without boxes are there, too, so that places can be indices.
    """
    by_folder = _recordings_by_folder({_folder(image.name) for image in images})
    by_name = _recordings_of_detect(images, times)
    are_counted = all_listed and times.rate is not None and times.column is None
    are_counted = are_counted and all(_stated(image, times.keys) is None for image in images)
    counted: dict[str, int] = {}
    places: list[Place] = []
    for image, own in zip(images, by_name, strict=True):
        has_place = image.name or any(key in image.facts for key in (*TIME_KEYS, *times.keys))
        match = times.match(image.name) if times.pattern else None
        if times.pattern and match is None:
            places.append(NO_MATCH if has_place else NO_NAME)
            continue
        parts = match.groupdict() if match else {}
        stated = parts.get("recording") or _stated(image, RECORDING_KEYS)
        recording = own if stated is None else str(stated)
        recording = recording or by_folder.get(_folder(image.name)) or recording_of(path)
        time_us = _stated_time(image, parts, times)
        if time_us is None and are_counted:
            time_us = times.of_index(counted.get(recording, 0))
            counted[recording] = counted.get(recording, 0) + 1
        if time_us is None or abs(time_us) > _LATEST_US:
            is_by_key = not {"time", "index"} & parts.keys()
            is_stated = is_by_key and _stated(image, times.keys) is not None
            without = NO_TIME if has_place else NO_NAME
            places.append(BAD_TIME if is_stated else without)
        else:
            places.append((recording, time_us))
    return places


def _folder(name: str) -> tuple[str, ...]:
    """The folders in an image's name, the innermost one first."""
    return PurePosixPath(name.replace("\\", "/")).parent.parts[::-1]


def _recordings_by_folder(folders: set[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Names of the recordings in several folders; none where images lie in one, or outside of any.

    They are the innermost folders, or those around them where these have the same name:
    ``seq0`` for ``seq0/images`` beside ``seq1/images``, ``a/x`` for ``a/x`` beside ``a/y`` and
    ``b/x``.

    Args:
        folders: of :func:`_folder`.
    """
    if len(folders) < 2 or () in folders:
        return {}
    first = min(len(commonprefix(list(folders))), min(map(len, folders)) - 1)
    for stop in range(first + 1, max(map(len, folders)) + 1):
        names = {folder: "/".join(folder[first:stop][::-1]) for folder in folders}
        if len({*names.values()}) == len(folders):
            break
    return names


def _recordings_of_detect(images: Sequence[NamedImage], times: TimeSettings) -> list[str | None]:
    """The recordings in names that are all as `detect` writes them: ``<recording>_<t>``."""
    found: list[str | None] = [None] * len(images)
    if times.pattern is not None or times.keys != TIME_KEYS:
        return found
    for i, image in enumerate(images):
        time_us = _stated_time(image, {}, times)
        match = re.fullmatch(rf"(?:.*/)?([^/]+)_{time_us}(?:\.\w+)?", image.name)
        if match is None and time_us is not None:
            return [None] * len(images)
        found[i] = match[1] if match else None
    return found


def _stated(image: NamedImage, keys: Sequence[str]) -> Any:
    """What is known of an image under the first of the keys that says something; None for none."""
    found = (image.facts.get(key) for key in keys)
    return next((each for each in found if each not in (None, "")), None)


def _stated_time(image: NamedImage, parts: Mapping[str, str], times: TimeSettings) -> int | None:
    """The time that the name holds, or a key; not one that follows from the image's place."""
    if "index" in parts:
        return times.of_index(int(parts["index"]))
    if "time" in parts:
        return times.in_us(parts["time"])
    stated = _stated(image, times.keys)
    if times.keys != INDEX_KEYS:
        return times.in_us(stated)
    index = _index(stated)
    return None if index is None else times.of_index(index)


def _index(value: Any) -> int | None:
    """A whole number from 0 on, or its text, also as ``3.0``; None for anything else."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return int(number) if number.is_integer() and number >= 0 else None


def recording_of(path: Path) -> str:
    """Name of the recording that a file of boxes is named after: ``a`` for ``a_coco.json``."""
    if is_dsec(path):
        return boxes_name(path)
    return _SUFFIX.sub("", path.stem)


@dataclass(frozen=True)
class ClassSettings:
    """The classes, and those of files under other names.

    Attributes:
        class_names: name of each class id, in the order of the ids; or ``etram`` (8 classes),
            ``etram3``, ``gen1``, ``1mpx``, ``dsec``.
        class_map: for names (or ids) of classes in files one of these names, or null to leave
            the class out: ``{person: pedestrian, dog: null}``. Files without names have those of
            ``class_names``.
    """

    class_names: Sequence[str] = ETRAM_CLASSES
    class_map: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", class_names_of(self.class_names))
        by_name = {str(key): name for key, name in self.class_map.items()}  # YAML's 0 is a number
        object.__setattr__(self, "class_map", by_name)
        known = {_plain(name) for name in self.class_names}
        unknown = [x for x in self.class_map.values() if x is not None and _plain(x) not in known]
        if unknown:
            raise UserError(
                f"class_map: must map to {', '.join(self.class_names)} or null, got "
                f"{', '.join(unknown)}: use one of these, or set class_names"
            )

    @cached_property
    def _ids(self) -> dict[str, int | None]:
        own = {_plain(name): i for i, name in enumerate(self.class_names)}
        mapped = {
            _plain(other): None if name is None else own[_plain(name)]
            for other, name in self.class_map.items()
        }
        return {**own, **mapped}

    def class_id(self, name: Any, number: Any = None) -> int | Reason:
        """Id of a class by its name or, where that is None, by its number; or why it has none."""
        key = str(number).strip() if name is None else _plain(str(name))
        if key in self._ids:
            found = self._ids[key]
            return CHOSEN_CLASS if found is None else found
        if name is None and re.fullmatch(r"\d+(\.0+)?", key):
            number = int(float(key))
            if str(number) in self._ids:
                return self.class_id(None, str(number))
            if number < len(self.class_names):
                return self.class_id(self.class_names[number])
        return UNKNOWN_CLASS


def _plain(name: str) -> str:
    """A name in small letters with spaces alone between its words."""
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", name.strip()).casefold()
