"""Events to frames: the hot loop of reading raw recordings.

As timestamps ascend, each time bin is one run of events: its ends are found by bisection, and each
run is counted into the planes of its bin, which then stay in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numba
import numpy as np
from numpy.typing import NDArray

from etram_det.errors import UserError

# What -1 becomes in unsigned numbers is -1 too.
POLARITIES = (0, 1, -1, 2**8 - 1, 2**16 - 1, 2**32 - 1, 2**64 - 1)
SENSOR_SIZE = (720, 1280)  # height and width, assumed where nothing states them


@dataclass(frozen=True)
class FrameSettings:
    """How the events of one window become one frame.

    Attributes:
        input_size: height and width of the frames in pixels. Unset: half of the sensor's size
            (raw recordings) or the stored size (preprocessed ones).
        window_ms: length of a window, and the step from one frame to the next, in ms.
        bins: parts in time of a window.
        count_cutoff: counts saturate at this value, in [1, 255]; of a ``mixed_density``, at it and
            its negative, in [1, 127].
        timing: ``"events"`` cuts the bins between the first and the last event of a window, as
            RVT does; ``"window"`` between the bounds of the window itself.
        downsample: ``"sum"`` adds up the sensor's pixels that share a pixel of the frame;
            ``"nearest"`` keeps one of them, as RVT does (three events in four are lost at half
            size). Preprocessed recordings keep what they were stored with.
        sensor_size: height and width of the sensor in pixels, for raw recordings that do not
            state their own, or one that their events contradict. Null: what
            the file states, or 720 and 1280 where it states none.
        representation: ``"stacked_histogram"`` counts events by polarity in equal parts of the
            window, ``"mixed_density"`` sums polarities over its whole, half, quarter and so on.
        time_unit: unit of the timestamps in HDF5 files. Unset: microseconds, which are refused
            where span and rate of the events leave no doubt that they are something else.
        clock: RAW files: ``"recording"`` takes off the camera's time at their start, as the readers
            of Metavision and OpenEB do; ``"camera"`` keeps it.
    """

    input_size: tuple[int, int] | None = None
    window_ms: int = 50
    bins: int = 10
    count_cutoff: int = 10
    timing: Literal["events", "window"] = "events"
    downsample: Literal["sum", "nearest"] = "sum"
    sensor_size: tuple[int, int] | None = SENSOR_SIZE
    representation: Literal["stacked_histogram", "mixed_density"] = "stacked_histogram"
    time_unit: Literal["us", "ms", "ns", "s"] | None = None
    clock: Literal["recording", "camera"] = "recording"

    def __post_init__(self) -> None:
        for name in ("window_ms", "bins", "count_cutoff"):
            if (found := getattr(self, name)) < 1:
                raise UserError(f"data.{name}: must be at least 1, got {found}: raise it")
        for name in ("timing", "downsample", "representation", "time_unit", "clock"):
            choices = _choices(get_type_hints(FrameSettings)[name])
            if (found := getattr(self, name)) not in choices:
                raise UserError(f"data.{name}: must be one of {choices}, got {found!r}: choose one")
        most = int(np.iinfo(self.dtype).max)
        if self.count_cutoff > most:
            raise UserError(
                f"data.count_cutoff: must be at most {most} for {self.representation}, "
                f"got {self.count_cutoff}: lower it"
            )
        for name in ("input_size", "sensor_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise UserError(
                    f"data.{name}: must be height and width in pixels, got {size}: set both to "
                    "at least 1, such as [360, 640]"
                )

    @property
    def channels(self) -> int:
        """Channels of a frame."""
        return channels_of(self.bins, self.representation)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a frame's counts."""
        return np.dtype(np.uint8 if self.representation == "stacked_histogram" else np.int8)


def _choices(hint: Any) -> tuple[Any, ...]:
    """What a setting of a ``Literal``, or of one or None, may be."""
    members = get_args(hint)
    return members if get_origin(hint) is Literal else (*get_args(members[0]), None)


def channels_of(bins: int, representation: str) -> int:
    """Channels of a frame: one for each bin and, in a stacked histogram, each polarity."""
    return 2 * bins if representation == "stacked_histogram" else bins


class Representation:
    """Makes the events of a window into a frame, straight in the down-sampled grid.

    A ``stacked_histogram`` counts events by polarity, time bin and pixel. Its channels are polarity
    first, ``[p0 bin0, p0 bin1, …, p1 bin0, …]``; bins are equally long.

    A ``mixed_density`` sums polarities over ever longer parts of the window, as RVT's mixed-density
    stack: the last channel holds the sum (events of polarity 1 less those of the other) over all of
    the window, the one before it over its first half, then the first quarter, and so on. Sums
    saturate where RVT's 8-bit ones would wrap. (Nam et al., "Stereo depth from events cameras",
    CVPR 2022.)

    Args:
        sensor_size: height and width of the sensor in pixels.
        input_size: height and width of the frames, at most the sensor's.
        settings: kind, bins, timing and down-sampling.

    Attributes:
        shape: channels, height and width of a frame.
        dtype: of its counts.
    """

    def __init__(
        self, sensor_size: tuple[int, int], input_size: tuple[int, int], settings: FrameSettings
    ) -> None:
        self.shape = (settings.channels, *input_size)
        self.dtype = settings.dtype
        self._settings = settings
        self._row = _target_of_source(sensor_size[0], input_size[0], settings.downsample)
        self._column = _target_of_source(sensor_size[1], input_size[1], settings.downsample)

    def fill(
        self,
        frame: NDArray[Any],
        x: NDArray[np.integer],
        y: NDArray[np.integer],
        p: NDArray[np.integer],
        t_us: NDArray[np.int64],
        window_us: tuple[int, int],
    ) -> int:
        """Make the events of one window into a frame.

        Args:
            frame: ``[channels, H, W]``, contiguous, overwritten.
            x: ``[E]`` columns on the sensor.
            y: ``[E]`` rows on the sensor.
            p: ``[E]`` polarities, 0 and 1 or -1 and 1; an unsigned -1 that wrapped (255 …) is -1.
            t_us: ``[E]`` timestamps inside the window, never descending.
            window_us: first and last microsecond of the window, both inside.

        Returns:
            The number of events outside the sensor, which were dropped.

        Raises:
            UserError: a polarity is something else.
        """
        if len(t_us) == 0:
            frame[:] = 0
            return 0
        planes = frame.reshape(self.shape[0], -1)
        first_us, last_us = window_us
        if self._settings.timing == "events":
            first_us, last_us = t_us[0], t_us[-1]
        is_histogram = self._settings.representation == "stacked_histogram"
        kernel = _count_events if is_histogram else _sum_polarities
        if p.dtype.kind == "f" or p.min() < -1 or p.max() > 1:
            require_polarities(p)
            p = p == 1  # the others are -1 that has wrapped
        return kernel(
            planes, self.shape[2], x, y, p, t_us, first_us, last_us,
            self._row, self._column, self._settings.count_cutoff,
        )  # fmt: skip


def require_polarities(p: NDArray[Any], name: str = "p") -> None:
    """Refuse polarities ``[E]`` other than 0 and 1, or -1 and 1, however -1 has wrapped.

    Args:
        p: as they are stored.
        name: of the column, for the message.

    Raises:
        UserError: naming the first of the others, or both 0 and -1.
    """
    wrong = ~np.isin(p, POLARITIES)
    if np.any(wrong):
        raise UserError(
            f"{name}: polarities must be 0 and 1, or -1 and 1, got {p[wrong.argmax()]}: write the "
            "file with such polarities"
        )
    if len(off := np.unique(p[p != 1])) > 1:
        raise UserError(
            f"{name}: polarities must be 0 and 1, or -1 and 1, got {' and '.join(map(str, off))}: "
            "write the file with such polarities"
        )


def _target_of_source(source_size: int, target_size: int, downsample: str) -> NDArray[np.int32]:
    """``[source_size]``: the frame's row or column of each one of the sensor, -1 for none."""
    if downsample == "sum":
        return (np.arange(source_size) * target_size // source_size).astype(np.int32)
    # Target d keeps source floor((d + 0.5) * source_size / target_size), in whole numbers.
    target = np.full(source_size, -1, np.int32)
    order = np.arange(target_size)
    target[(2 * order + 1) * source_size // (2 * target_size)] = order
    return target


@numba.njit(cache=True, nogil=True)
def _bin_of(time: int, first: int, last: int, bins: int) -> int:
    """Time bin of a timestamp, in single precision as RVT's float tensors have it."""
    share = np.float32(time - first) / np.float32(max(last - first, 1))
    return min(int(share * np.float32(bins)), bins - 1)


@numba.njit(cache=True, nogil=True)
def _halving_bin_of(time: int, first: int, last: int, bins: int) -> int:
    """The bin, of which each is twice as long as the one before, in single precision as in RVT."""
    share = np.float32(time - first) / np.float32(max(last - first, 1))
    share = min(max(share, np.float32(1e-6)), np.float32(1 - 1e-6))
    halvings = np.log(share) / np.float32(np.log(0.5))
    return min(max(int(np.floor(np.float32(bins) - halvings)), 0), bins - 1)


@numba.njit(cache=True, nogil=True)
def _first_of_bin(
    t: NDArray, start: int, first: int, last: int, bins: int, wanted: int, halving: bool
) -> int:
    """The first event at ``start`` or later whose bin is ``wanted`` or a later one."""
    low, high = start, len(t)
    while low < high:
        middle = (low + high) // 2
        if halving:
            found = _halving_bin_of(t[middle], first, last, bins)
        else:
            found = _bin_of(t[middle], first, last, bins)
        if found < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True)
def _count_events(
    planes: NDArray,
    width: int,
    x: NDArray,
    y: NDArray,
    p: NDArray,
    t: NDArray,
    first: int,
    last: int,
    row: NDArray,
    column: NDArray,
    count_cutoff: int,
) -> int:
    """Count events into ``planes`` [2 * bins, H * W]; returns the events outside."""
    bins = planes.shape[0] // 2
    num_outside = 0
    start = 0
    for this_bin in range(bins):
        stop = _first_of_bin(t, start, first, last, bins, this_bin + 1, False)
        # Cleared only now, so that they are in the cache when they are counted into.
        planes[this_bin] = 0
        planes[this_bin + bins] = 0
        for i in range(start, stop):
            # Compared as signed numbers: camera files hold coordinates with a stray high bit.
            source_x, source_y = np.int64(x[i]), np.int64(y[i])
            if not (0 <= source_x < len(column) and 0 <= source_y < len(row)):
                num_outside += 1
                continue
            target_x, target_y = column[source_x], row[source_y]
            if (target_x | target_y) < 0:  # either is -1: one branch to mispredict, not two
                continue
            channel = this_bin + bins if p[i] > 0 else this_bin
            pixel = target_y * width + target_x
            if planes[channel, pixel] < count_cutoff:
                planes[channel, pixel] += 1
        start = stop
    return num_outside


@numba.njit(cache=True, nogil=True)
def _sum_polarities(
    planes: NDArray,
    width: int,
    x: NDArray,
    y: NDArray,
    p: NDArray,
    t: NDArray,
    first: int,
    last: int,
    row: NDArray,
    column: NDArray,
    count_cutoff: int,
) -> int:
    """Running sums of polarities into ``planes`` [bins, H * W]; returns the events outside."""
    bins = planes.shape[0]
    running = np.zeros(planes.shape[1], np.int32)
    num_outside = 0
    start = 0
    for this_bin in range(bins):
        stop = _first_of_bin(t, start, first, last, bins, this_bin + 1, True)
        for i in range(start, stop):
            source_x, source_y = np.int64(x[i]), np.int64(y[i])
            if not (0 <= source_x < len(column) and 0 <= source_y < len(row)):
                num_outside += 1
                continue
            target_x, target_y = column[source_x], row[source_y]
            if (target_x | target_y) >= 0:
                running[target_y * width + target_x] += 1 if p[i] > 0 else -1
        for pixel in range(len(running)):
            planes[this_bin, pixel] = min(max(running[pixel], -count_cutoff), count_cutoff)
        start = stop
    return num_outside
