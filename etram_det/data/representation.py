"""Events to frames: the hot loop of reading raw recordings.

As stamps ascend, each time bin is one run of events: its ends are found by bisection, and each run
is counted into the planes of its bin, which then stay in the processor's cache.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from etram_det.errors import UserError


@dataclass(frozen=True)
class FrameSettings:
    """How the events of one window become one frame.

    Attributes:
        input_size: height and width of the frames in pixels; None for half of the sensor's size
            (raw recordings) or the stored size (preprocessed ones).
        window_ms: length of a window, and the step from one frame to the next, in ms.
        bins: parts in time of a window.
        count_cutoff: counts saturate at this value, in [1, 255]; of a ``mixed_density``, at it and
            its negative, in [1, 127].
        timing: ``"events"`` cuts the bins between the first and the last event of a window, as
            RVT does; ``"window"`` between the bounds of the window itself.
        downsample: ``"sum"`` adds up the sensor's pixels that share a pixel of the frame;
            ``"nearest"`` keeps one of them, as RVT does (three events in four are lost at half
            size). Preprocessed recordings keep the timing and the way in which they were stored.
        sensor_size: height and width of the sensor in pixels, for raw recordings that do not
            tell their own.
        representation: ``"stacked_histogram"`` (:class:`StackedHistogram`) or
            ``"mixed_density"`` (:class:`MixedDensityStack`).
    """

    input_size: tuple[int, int] | None = None
    window_ms: int = 50
    bins: int = 10
    count_cutoff: int = 10
    timing: Literal["events", "window"] = "events"
    downsample: Literal["sum", "nearest"] = "sum"
    sensor_size: tuple[int, int] = (720, 1280)
    representation: Literal["stacked_histogram", "mixed_density"] = "stacked_histogram"

    def __post_init__(self) -> None:
        for name in ("window_ms", "bins", "count_cutoff"):
            if getattr(self, name) < 1:
                found = getattr(self, name)
                raise UserError(f"data.{name}: must be at least 1, found {found}: raise it")
        for name, choices in (
            ("timing", ("events", "window")),
            ("downsample", ("sum", "nearest")),
            ("representation", ("stacked_histogram", "mixed_density")),
        ):
            if getattr(self, name) not in choices:
                found = getattr(self, name)
                raise UserError(f"data.{name}: must be one of {choices}, found {found!r}")
        most = int(np.iinfo(self.dtype).max)
        if self.count_cutoff > most:
            raise UserError(
                f"data.count_cutoff: must be at most {most} for {self.representation}, "
                f"found {self.count_cutoff}"
            )
        for name in ("input_size", "sensor_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise UserError(
                    f"data.{name}: must be height and width in pixels, found {size}: set both to "
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


def channels_of(bins: int, representation: str) -> int:
    """Channels of a frame: one for each bin and, in a stacked histogram, each polarity."""
    return 2 * bins if representation == "stacked_histogram" else bins


class Representation(ABC):
    """Makes the events of a window into a frame, straight in the down-sampled grid.

    Args:
        sensor_size: height and width of the sensor in pixels.
        input_size: height and width of the frames, at most the sensor's.
        settings: bins, timing and down-sampling.

    Attributes:
        shape: channels, height and width of a frame.
        dtype: of its counts.
    """

    def __init__(
        self,
        sensor_size: tuple[int, int],
        input_size: tuple[int, int],
        settings: FrameSettings,
    ) -> None:
        self.shape = (settings.channels, *input_size)
        self.dtype = settings.dtype
        self._count_cutoff = settings.count_cutoff
        self._timing = settings.timing
        self._row = _target_of_source(sensor_size[0], input_size[0], settings.downsample)
        self._column = _target_of_source(sensor_size[1], input_size[1], settings.downsample)

    @abstractmethod
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
            p: ``[E]`` polarities, 0 and 1 or -1 and 1.
            t_us: ``[E]`` stamps inside the window, never descending.
            window_us: first and last microsecond of the window, both inside.

        Returns:
            The number of events outside the sensor, which were dropped.
        """

    def _time_span(self, t_us: NDArray[np.int64], window_us: tuple[int, int]) -> tuple[int, int]:
        """The times between which bins are cut."""
        return (t_us[0], t_us[-1]) if self._timing == "events" else window_us


class StackedHistogram(Representation):
    """Counts events by polarity, time bin and pixel.

    Channels are polarity first, ``[p0 bin0, p0 bin1, …, p1 bin0, …]``; bins are equally long.

    Args:
        num_threads: that share the bins of a window; worth it for windows of 100,000 events.
    """

    def __init__(
        self,
        sensor_size: tuple[int, int],
        input_size: tuple[int, int],
        settings: FrameSettings,
        num_threads: int = 1,
    ) -> None:
        super().__init__(sensor_size, input_size, settings)
        edges = np.linspace(0, settings.bins, min(num_threads, settings.bins) + 1).astype(int)
        self._bin_shares = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))

    def fill(  # noqa: D102
        self,
        frame: NDArray[Any],
        x: NDArray[np.integer],
        y: NDArray[np.integer],
        p: NDArray[np.integer],
        t_us: NDArray[np.int64],
        window_us: tuple[int, int],
    ) -> int:
        if len(t_us) == 0:
            frame[:] = 0
            return 0
        planes = frame.reshape(self.shape[0], -1)
        span = self._time_span(t_us, window_us)

        def count(bins: tuple[int, int]) -> int:
            return _scatter(
                *(planes, self.shape[2], x, y, p, t_us, *span),
                *(self._row, self._column, self._count_cutoff, *bins),
            )

        if len(self._bin_shares) == 1:
            return count(self._bin_shares[0])
        # Bins are planes of their own, so threads need no locks.
        first, *others = self._bin_shares
        counting = [_threads().submit(count, bins) for bins in others]
        return count(first) + sum(each.result() for each in counting)


class MixedDensityStack(Representation):
    """Sums of polarities over ever longer parts of the window, as RVT's mixed-density stack.

    The last channel holds the sum (events of polarity 1 less those of the other) over the whole
    window, the one before it over its first half, then the first quarter, and so on. Sums saturate
    where RVT's 8-bit ones would wrap. (Nam et al., "Stereo depth from events cameras", CVPR 2022.)
    """

    def fill(  # noqa: D102
        self,
        frame: NDArray[Any],
        x: NDArray[np.integer],
        y: NDArray[np.integer],
        p: NDArray[np.integer],
        t_us: NDArray[np.int64],
        window_us: tuple[int, int],
    ) -> int:
        if len(t_us) == 0:
            frame[:] = 0
            return 0
        planes = frame.reshape(self.shape[0], -1)
        span = self._time_span(t_us, window_us)
        return _sum_polarities(
            *(planes, self.shape[2], x, y, p, t_us, *span),
            *(self._row, self._column, self._count_cutoff),
        )


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads of this process that are kept from window to window."""
    return ThreadPoolExecutor(os.cpu_count())


if hasattr(os, "register_at_fork"):
    # A fork has none of the threads, though it has the object.
    os.register_at_fork(after_in_child=_threads.cache_clear)


def representation_of(
    sensor_size: tuple[int, int], input_size: tuple[int, int], settings: FrameSettings
) -> Representation:
    """The representation that ``settings`` ask for."""
    kinds = {"stacked_histogram": StackedHistogram, "mixed_density": MixedDensityStack}
    return kinds[settings.representation](sensor_size, input_size, settings)


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
    """Time bin of a stamp, in single precision as RVT's float tensors have it."""
    share = np.float32(time - first) / np.float32(max(last - first, 1))
    return min(int(share * np.float32(bins)), bins - 1)


@numba.njit(cache=True, nogil=True)
def _first_of_bin(t: NDArray, start: int, first: int, last: int, bins: int, wanted: int) -> int:
    """The first event at ``start`` or later whose bin is ``wanted`` or a later one."""
    low, high = start, len(t)
    while low < high:
        middle = (low + high) // 2
        if _bin_of(t[middle], first, last, bins) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True)
def _scatter(
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
    first_bin: int,
    end_bin: int,
) -> int:
    """Count the events of some bins into ``planes`` [2 * bins, H * W].

    Returns how many of these events lay outside the sensor.
    """
    bins = planes.shape[0] // 2
    num_outside = 0
    start = _first_of_bin(t, 0, first, last, bins, first_bin)
    for this_bin in range(first_bin, end_bin):
        stop = _first_of_bin(t, start, first, last, bins, this_bin + 1)
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
def _halving_bin_of(time: int, first: int, last: int, bins: int) -> int:
    """The bin, of which each is twice as long as the one before, in single precision as in RVT."""
    share = np.float32(time - first) / np.float32(max(last - first, 1))
    share = min(max(share, np.float32(1e-6)), np.float32(1 - 1e-6))
    halvings = np.log(share) / np.float32(np.log(0.5))
    return min(max(int(np.floor(np.float32(bins) - halvings)), 0), bins - 1)


@numba.njit(cache=True, nogil=True)
def _first_of_halving_bin(
    t: NDArray, start: int, first: int, last: int, bins: int, wanted: int
) -> int:
    """The first event at ``start`` or later whose bin is ``wanted`` or a later one."""
    low, high = start, len(t)
    while low < high:
        middle = (low + high) // 2
        if _halving_bin_of(t[middle], first, last, bins) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


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
        stop = _first_of_halving_bin(t, start, first, last, bins, this_bin + 1)
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
