"""Events to stacked histograms: the hot loop of reading raw recordings.

A frame holds ``2 * bins`` channels, polarity first: ``[p0 bin0, p0 bin1, …, p1 bin0, …]``. As the
stamps ascend, each bin is one run of events: its ends are found by bisection, and each run is
counted into the two planes of its bin, which then stay in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from etram_det.types import UserError


@dataclass(frozen=True)
class FrameSettings:
    """How the events of one window become one frame.

    Attributes:
        input_size: height and width of the frames in pixels; None for half of the sensor's size
            (raw recordings) or the stored size (preprocessed ones).
        window_ms: length of a window, and the step from one frame to the next, in ms.
        bins: equal parts in time of a window, one channel for each part and polarity.
        count_cutoff: counts saturate at this value, in [1, 255].
        timing: ``"events"`` cuts the bins between the first and the last event of a window, as
            RVT does; ``"window"`` between the bounds of the window itself.
        downsample: ``"sum"`` adds up the sensor's pixels that share a pixel of the frame;
            ``"nearest"`` keeps one of them, as RVT does (three events in four are lost at half
            size). Preprocessed recordings keep the timing and the way in which they were stored.
        sensor_size: height and width of the sensor in pixels, for raw recordings that do not
            tell their own.
    """

    input_size: tuple[int, int] | None = None
    window_ms: int = 50
    bins: int = 10
    count_cutoff: int = 10
    timing: Literal["events", "window"] = "events"
    downsample: Literal["sum", "nearest"] = "sum"
    sensor_size: tuple[int, int] = (720, 1280)

    def __post_init__(self) -> None:
        for name in ("window_ms", "bins", "count_cutoff"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name}: must be at least 1, found {getattr(self, name)}")
        if self.count_cutoff > 255:
            raise UserError(f"data.count_cutoff: must be at most 255, found {self.count_cutoff}")
        for name, choices in (("timing", ("events", "window")), ("downsample", ("sum", "nearest"))):
            if getattr(self, name) not in choices:
                found = getattr(self, name)
                raise UserError(f"data.{name}: must be one of {choices}, found {found!r}")
        for name in ("input_size", "sensor_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise UserError(f"data.{name}: must be height and width in pixels, found {size}")


class StackedHistogram:
    """Counts events by polarity, time bin and pixel, straight into the down-sampled grid.

    Args:
        sensor_size: height and width of the sensor in pixels.
        input_size: height and width of the frames, at most the sensor's.
        settings: bins, timing and down-sampling.
    """

    def __init__(
        self,
        sensor_size: tuple[int, int],
        input_size: tuple[int, int],
        settings: FrameSettings,
    ) -> None:
        self.shape = (2 * settings.bins, *input_size)
        self._count_cutoff = settings.count_cutoff
        self._timing = settings.timing
        self._row = _target_of_source(sensor_size[0], input_size[0], settings.downsample)
        self._column = _target_of_source(sensor_size[1], input_size[1], settings.downsample)

    def add(
        self,
        frame: NDArray[np.uint8],
        x: NDArray[np.integer],
        y: NDArray[np.integer],
        p: NDArray[np.integer],
        t_us: NDArray[np.int64],
        window_us: tuple[int, int],
    ) -> int:
        """Count the events of one window into a frame.

        Args:
            frame: ``[2 * bins, H, W]``, contiguous, changed in place.
            x: ``[E]`` columns on the sensor.
            y: ``[E]`` rows on the sensor.
            p: ``[E]`` polarities, 0 and 1 or -1 and 1.
            t_us: ``[E]`` stamps inside the window, never descending.
            window_us: first and last microsecond of the window, both inside.

        Returns:
            The number of events outside the sensor, which were dropped.
        """
        if len(t_us) == 0:
            return 0
        first, last = (t_us[0], t_us[-1]) if self._timing == "events" else window_us
        planes = frame.reshape(self.shape[0], -1)
        width = self.shape[2]
        return _scatter(
            planes, width, x, y, p, t_us, first, last, self._row, self._column, self._count_cutoff
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
) -> int:
    """Count events into ``planes`` [2 * bins, H * W]; returns how many lay outside the sensor."""
    bins = planes.shape[0] // 2
    num_outside = 0
    start = 0
    for this_bin in range(bins):
        stop = _first_of_bin(t, start, first, last, bins, this_bin + 1)
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
