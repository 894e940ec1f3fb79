"""The state that lanes carry from one chunk to the next."""

from __future__ import annotations

import torch
from torch import Tensor

from etram_det.types import State


class LaneStates:
    """The carried state: one row for each lane, detached and kept between chunks."""

    def __init__(self) -> None:
        self.rows: State | None = None

    def get(self, lane: Tensor, reset: Tensor) -> State | None:
        """State of the lanes of a batch: zeros for those that start a recording.

        Args:
            lane: ``[B]`` int64, row of each lane.
            reset: ``[B]`` bool, true where the lane starts a recording.

        Returns:
            One (hidden, cell) pair ``[B, C, h, w]`` for each stage; ``None`` before the first
            chunk.
        """
        if self.rows is None:
            return None
        return _cleared([(hidden[lane], cell[lane]) for hidden, cell in self.rows], reset)

    def update(self, lane: Tensor, state: State) -> None:
        """Store the state ``[B, C, h, w]`` of lanes ``[B]``; the first batch holds all lanes."""
        new = [(hidden.detach(), cell.detach()) for hidden, cell in state]
        if self.rows is None or len(lane) == len(self.rows[0][0]):
            # All lanes are present and in order: nothing to scatter.
            self.rows = new
        else:
            self.rows = [
                (old_hidden.index_copy(0, lane, hidden), old_cell.index_copy(0, lane, cell))
                for (old_hidden, old_cell), (hidden, cell) in zip(self.rows, new, strict=True)
            ]

    def clear(self) -> None:
        """Forget all lanes."""
        self.rows = None

    def clear_lanes(self, cleared: Tensor) -> None:
        """Reset some lanes: ``[B]`` bool, true for those to reset."""
        if self.rows is not None:
            self.rows = _cleared(self.rows, cleared)

    def clear_not_finite(self) -> None:
        """Reset the lanes whose state holds a nan or an infinity."""
        if self.rows is not None:
            parts = [part for pair in self.rows for part in pair]
            are_finite = torch.stack([part.flatten(1).isfinite().all(dim=1) for part in parts])
            self.clear_lanes(~are_finite.all(dim=0))


def _cleared(rows: State, lanes: Tensor) -> State:
    fresh = lanes[:, None, None, None]
    return [(hidden.masked_fill(fresh, 0), cell.masked_fill(fresh, 0)) for hidden, cell in rows]
