"""Latencies of any number of windows in a fixed amount of memory."""

from __future__ import annotations

import numpy as np

_STEP_S, _STEPS = 1e-4, 2**16  # a tenth of a millisecond, up to 6.5 s


class Latencies:
    """Counts latencies in steps of 0.1 ms; those beyond 6.5 s count as that."""

    def __init__(self) -> None:
        self._counts = np.zeros(_STEPS, np.int64)

    def __len__(self) -> int:
        return int(self._counts.sum())

    def add(self, latency_s: float) -> None:
        """Count one."""
        self._counts[min(max(int(latency_s / _STEP_S), 0), _STEPS - 1)] += 1

    def quantile_ms(self, share: float) -> float:
        """The least latency that at least this share of all, in [0, 1], does not exceed; in ms.

        It is nan where there are none.
        """
        total = len(self)
        if total == 0:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self._counts), max(share * total, 1)))
        return (place + 1) * _STEP_S * 1000
