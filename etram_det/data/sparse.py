"""Our own cache: the frames of a recording as lists of their non-zero counts, fast to read."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE
from etram_det.data.fingerprint import simulator_version
from etram_det.data.hdf5_file import open_hdf5
from etram_det.data.labels import LabelSettings, apply_filters, packed
from etram_det.data.recording import REPAIRED, NoUsableLabels, Recording, Timeline
from etram_det.data.representation import FrameSettings
from etram_det.data.sparse_frames import SparseFrames, count_bits_of, decode, encode, fit_into
from etram_det.data.timeline import no_boxes, timeline_without_labels
from etram_det.errors import UserError
from etram_det.files import new_hdf5_file
from etram_det.simulator.version import VERSION_ATTRIBUTE

FRAMES_FILE = "sparse_frames.h5"
_VERSION = 1
_CHUNK = 2**15  # entries that are packed together: about a frame of traffic
_LONGEST_SIDE = 2**14
_REMEDY = "remove it and preprocess again"
# Of the settings that a cache is made with, those that reading cannot change any more.
_FIXED = (
    "window_ms",
    "bins",
    "timing",
    "downsample",
    "representation",
    "class_names",
    "interval_ms",
    "jitter_ms",
)
_REPAIRED_BEFORE = "with a mended stamp"  # REPAIRED in older caches
_NARROWED = ("count_cutoff", "filters")  # those that it can still narrow


class SparseRecording(Recording):
    """Frames and labels of ``<split>/<name>/sparse_frames.h5``.

    Both are what the settings of its making gave. More filters and a lower ``count_cutoff`` still
    apply; all other settings must be those it was made with, but for those of labels where
    ``label_settings`` is None. Arguments and errors are those of
    :class:`~etram_det.data.preprocessed.PreprocessedRecording`.
    """

    layout = "sparse cache"

    def __init__(
        self,
        folder: Path,
        split: str,
        frame_settings: FrameSettings,
        label_settings: LabelSettings | None,
        require_labels: bool = True,
    ) -> None:
        path = folder / FRAMES_FILE
        try:
            with open_hdf5(path, _REMEDY) as file:
                text, checksum = str(file.attrs["about"]), int(file.attrs["about_crc32"])
                self._first_entry = file["first_entry"][:]
                frame_end_us, label_frame = file["frame_end_us"][:], file["label_frame"][:]
                boxes = file["label_boxes"][:].astype(BOX_DTYPE)
                num_entries = len(file["entries"])
                is_numbers = getattr(file["entries"], "dtype", None) == np.uint16
            _require(is_numbers, "its entries are no 16-bit numbers")
            _require(zlib.crc32(text.encode()) == checksum, "its description is damaged")
            about = json.loads(text)
            _require(about["version"] == _VERSION, f"written by version {about['version']}")
            settings = {name: about["settings"][name] for name in (*_FIXED, *_NARROWED)}
            sensor_size, dropped_before = tuple(about["sensor_size"]), dict(about["dropped"])
            num_events: dict[str, int] = dict(about["events"])
            if _REPAIRED_BEFORE in num_events:
                num_events[REPAIRED] = num_events.pop(_REPAIRED_BEFORE)
            self._shape, self._count_bits = tuple(about["shape"]), int(about["count_bits"])
            _require_sizes(self._shape, sensor_size, self._count_bits)
            counts = (*dropped_before.values(), *num_events.values())
            _require(all(isinstance(count, int) for count in counts), "counts are no numbers")
            lengths = len(self._first_entry) - 1, len(boxes)
            _require(lengths == (len(frame_end_us), len(label_frame)), "lengths do not agree")
            _require_ascending(self._first_entry, 0, num_entries)
            _require_ascending(label_frame, 0, len(frame_end_us) - 1)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read ({error}): {_REMEDY}") from error
        require_same_settings(path, settings, self._shape[1:], frame_settings, label_settings)
        labels = label_settings or LabelSettings()
        kept, dropped = apply_filters(boxes, sensor_size, split, labels.filters)
        if require_labels and len(boxes) and len(kept) == 0:
            raise NoUsableLabels(
                f"{path}: no label is left of {len(boxes)} boxes: change data.filters"
            )
        for reason, number in dropped_before.items():
            dropped[reason] = dropped.get(reason, 0) + number
        timeline = Timeline(frame_end_us, label_frame[kept], boxes[kept], dropped)
        if len(boxes) == 0:
            timeline = timeline_without_labels(
                frame_end_us, no_boxes(path), split, frame_settings, labels, require_labels
            )
        super().__init__(folder.name, path, sensor_size, self._shape[1:], timeline)
        self.events = num_events
        self._window_us = int(settings["window_ms"]) * 1000
        self._dtype = frame_settings.dtype
        lower = frame_settings.count_cutoff < settings["count_cutoff"]
        self._count_cutoff = frame_settings.count_cutoff if lower else None

    def _follow(self, timeline: Timeline) -> None:
        super()._follow(timeline)
        is_empty = np.diff(self._first_entry) == 0
        self.labels_without_events = int(np.count_nonzero(is_empty[self.label_frame]))

    def event_rate(self) -> float | None:  # noqa: D102
        num_events = self.events.get("in windows")
        return None if num_events is None else num_events / (len(self) * self._window_us / 1e6)

    def frames(self, start: int, stop: int) -> NDArray[Any]:  # noqa: D102
        entries, first_entry = self._entries(start, stop)
        frames = np.empty((len(first_entry) - 1, *self._shape), np.uint8)
        flat = frames.reshape(len(frames), math.prod(self._shape))
        self._require_whole(decode(flat, entries, first_entry, self._count_bits))
        counts = frames.view(self._dtype)
        if self._count_cutoff is not None:
            least = 0 if self._dtype == np.uint8 else -self._count_cutoff
            np.clip(counts, least, self._count_cutoff, out=counts)
        return counts

    def sparse_frames(self, start: int, stop: int, count_cutoff: int) -> SparseFrames:  # noqa: D102
        is_signed = self._dtype == np.int8
        is_stored_so = self._count_bits == count_bits_of(is_signed, count_cutoff)
        if self._count_cutoff is not None or not is_stored_so:
            return super().sparse_frames(start, stop, count_cutoff)
        entries, first_entry = self._entries(start, stop)
        size = math.prod(self._shape)
        self._require_whole(fit_into(size, entries, first_entry, self._count_bits))
        return SparseFrames(entries, np.diff(first_entry), self._shape, is_signed, count_cutoff)

    def _entries(self, start: int, stop: int) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Entries of frames ``start`` to ``stop``, and the first of each frame and of the next."""
        first_entry = self._first_entry[start : stop + 1]
        with open_hdf5(self.path, _REMEDY) as file:
            entries = file["entries"][first_entry[0] : first_entry[-1]]
        return entries, first_entry - first_entry[0]

    def _require_whole(self, is_whole: bool) -> None:
        if not is_whole:
            raise UserError(f"{self.path}: frames are damaged: {_REMEDY}")


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(fault)


def _require_sizes(shape: tuple[Any, ...], sensor_size: tuple[Any, ...], count_bits: int) -> None:
    sides = (*shape, *sensor_size)
    are_sides = all(isinstance(side, int) and 1 <= side <= _LONGEST_SIDE for side in sides)
    _require(are_sides and (len(shape), len(sensor_size)) == (3, 2), f"frames of {list(shape)}")
    _require(1 <= count_bits <= 8, f"counts of {count_bits} bits")


def _require_ascending(numbers: NDArray[np.int64], least: int, most: int) -> None:
    inside = len(numbers) == 0 or (numbers[0] >= least and numbers[-1] <= most)
    _require(bool(inside and np.all(np.diff(numbers) >= 0)), "numbers do not ascend")


def require_same_settings(
    path: Path,
    made_with: Mapping[str, Any],
    input_size: tuple[int, ...],
    frame_settings: FrameSettings,
    label_settings: LabelSettings | None,
) -> None:
    """Refuse settings that frames and labels cannot follow which preprocess has stored.

    Args:
        path: the file that holds the settings they were made with.
        made_with: these settings by name.
        input_size: height and width of the stored frames.
        frame_settings: the frames that are expected.
        label_settings: which boxes are to become labels; None where labels do not matter.

    Raises:
        UserError: naming the setting that differs.
    """
    wanted = asdict(frame_settings)
    if label_settings is not None:
        wanted |= asdict(label_settings)
        wanted |= {name: list(wanted[name]) for name in ("class_names", "filters")}
    stored = {**made_with, "input_size": list(input_size)}
    differing = [name for name in _FIXED if name in wanted and stored[name] != wanted[name]]
    if wanted["input_size"] not in (None, input_size):
        differing.append("input_size")
    if wanted["count_cutoff"] > stored["count_cutoff"]:
        differing.append("count_cutoff")
    if not set(stored["filters"]) <= set(wanted.get("filters", stored["filters"])):
        differing.append("filters")
    if differing:
        name = differing[0]
        raise UserError(
            f"data.{name}: must be {stored[name]}, with which {path} was preprocessed, got "
            f"{wanted[name]}: set it so, or preprocess again"
        )


def estimated_size(recording: Recording, settings: Mapping[str, Any], number: int) -> int:
    """Bytes of a recording in the cache, by some of its frames, encoded as all of them would be.

    Args:
        recording: with frames; one that is in the cache already takes what it takes.
        settings: as in :func:`write_sparse`.
        number: frames to encode, spread evenly.

    Raises:
        UserError: the recording is damaged where it is read.
        OSError: there is no room for these frames among the temporary files.
    """
    if isinstance(recording, SparseRecording):
        return recording.path.stat().st_size
    places = np.unique(np.linspace(0, len(recording) - 1, number + 2)[1:-1].round().astype(int))
    with TemporaryDirectory() as folder:
        frames = (recording.frames(place, place + 1) for place in places.tolist())
        write_sparse(Path(folder), recording, settings, frames)
        path = Path(folder) / FRAMES_FILE
        with open_hdf5(path, _REMEDY) as file:
            of_frames = file["entries"].id.get_storage_size()
        return path.stat().st_size + round(of_frames * (len(recording) / len(places) - 1))


def write_sparse(
    folder: Path, recording: Recording, settings: Mapping[str, Any], batches: Iterable[NDArray[Any]]
) -> None:
    """Write a recording's frames and labels.

    Args:
        folder: where ``sparse_frames.h5`` is to lie.
        recording: its labels, times and sizes are taken.
        settings: frame and label settings by name, stored with it.
        batches: its frames in order, as arrays ``[n, channels, H, W]``.
    """
    import hdf5plugin

    with new_hdf5_file(folder / FRAMES_FILE) as (file, raise_error):
        entries = file.create_dataset(
            "entries",
            (0,),
            np.uint16,
            maxshape=(None,),
            chunks=(_CHUNK,),
            fletcher32=True,  # damage on the disk must not pass for counts
            track_times=False,
            **hdf5plugin.Bitshuffle(),
        )
        num_entries = [0]
        shape: tuple[int, ...] = ()
        count_bits = 0
        for batch in batches:
            shape = batch.shape[1:]
            count_bits = count_bits_of(batch.dtype == np.int8, int(settings["count_cutoff"]))
            parts = [encode(frame, count_bits) for frame in batch]
            num_entries += [len(part) for part in parts]
            stored = len(entries)
            entries.resize(stored + sum(map(len, parts)), axis=0)
            entries[stored:] = np.concatenate(parts)
            raise_error()
        for name, values in {
            "first_entry": np.cumsum(num_entries),
            "frame_end_us": recording.frame_end_us,
            "label_frame": recording.label_frame,
            "label_boxes": packed(recording.label_boxes),
        }.items():
            checked = {"chunks": values.shape, "fletcher32": True} if len(values) else {}
            file.create_dataset(name, data=values, track_times=False, **checked)
        about = {
            "version": _VERSION,
            "settings": dict(settings),
            "sensor_size": recording.sensor_size,
            "shape": shape,
            "count_bits": count_bits,
            "dropped": recording.dropped,
            "events": recording.events,
        }
        text = json.dumps(about)
        file.attrs["about"], file.attrs["about_crc32"] = text, zlib.crc32(text.encode())
        if version := simulator_version(recording):
            file.attrs[VERSION_ATTRIBUTE] = version
