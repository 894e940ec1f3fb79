"""When a detector's windows end, by the times of its detections."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etram_det.data.box_formats.table import BoxTable

# Windows without boxes may not be in the files. So many times that all lie on longer steps than the
# windows' own are no chance.
_LEAST_TIMES = 9
_LONGEST_US = 10**6  # of a step: times further apart are those of another unit


@dataclass(frozen=True)
class WindowEnds:
    """Ends of windows that follow each other in steps of one length, in each recording.

    Attributes:
        step_us: from one end to the next.
        tolerance_us: how far a label time may lie off an end.
        phases: by recording, where its ends lie within a step.
        usual_phase: that of recordings without detections, of which nothing else is known.
    """

    step_us: int
    tolerance_us: float
    phases: dict[str, int]
    usual_phase: int

    def meet(self, recording: str, times_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """At which times ``[L]`` of a recording a window ends."""
        phase = self.phases.get(recording, self.usual_phase)
        behind = (times_us - phase) % self.step_us
        return np.minimum(behind, self.step_us - behind) <= self.tolerance_us


def window_ends(detections: BoxTable, tolerance_us: float) -> WindowEnds | None:
    """The ends of a detector's windows: all its times lie whole steps apart.

    Args:
        detections: of all recordings.
        tolerance_us: how far a label time may lie off an end.

    Returns:
        None where the times are too few or irregular, or so close that each label time is met.
    """
    step, num_steps, firsts = 0, 0, {}
    for name in detections.recordings:
        times = detections.time_us[detections.recording == name]
        firsts[name] = int(times[0])
        num_steps += len(times) - 1
        step = int(np.gcd.reduce(np.append(np.diff(times), step)))
    if num_steps < _LEAST_TIMES - 1 or not 2 * tolerance_us < step <= _LONGEST_US:
        return None
    phases = {name: first % step for name, first in firsts.items()}
    [(usual, _)] = Counter(phases.values()).most_common(1)
    return WindowEnds(step, tolerance_us, phases, usual)
