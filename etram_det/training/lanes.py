"""The state that lanes carry from one chunk to the next."""

from __future__ import annotations

import torch
from torch import Tensor

from etram_det.types import State


class LaneStates:
    """The carried state: one row for each lane, detached and kept between chunks."""

    def __init__(self) -> None:
        self._rows: State | None = None
        self._cleared: Tensor | None = None  # [B] bool: lanes to clear before their next use

    @property
    def rows(self) -> State | None:
        """One (hidden, cell) pair ``[B, C, h, w]`` for each stage; ``None`` before any chunk."""
        if self._rows is not None and self._cleared is not None:
            self._rows, self._cleared = _zeroed(self._rows, self._cleared), None
        return self._rows

    @rows.setter
    def rows(self, rows: State | None) -> None:
        self._rows, self._cleared = rows, None

    def get(self, lane: Tensor, reset: Tensor) -> State | None:
        """State of the lanes of a batch: zeros for those that start a recording.

        Args:
            lane: ``[B]`` int64, row of each lane.
            reset: ``[B]`` bool, true where the lane starts a recording.

        Returns:
            One (hidden, cell) pair ``[B, C, h, w]`` for each stage; ``None`` before the first
            chunk.
        """
        if self._rows is None:
            return None
        if self._cleared is not None:
            reset = reset | self._cleared[lane]
        rows = self._rows
        if len(lane) < len(rows[0][0]):
            rows = [(_by_pixel(h)[lane], _by_pixel(c)[lane]) for h, c in rows]
            rows = [(_by_channel(h), _by_channel(c)) for h, c in rows]
        return _zeroed(rows, reset)

    def update(self, lane: Tensor, state: State) -> None:
        """Store the state ``[B, C, h, w]`` of lanes ``[B]``; the first batch holds all lanes."""
        new = [(hidden.detach(), cell.detach()) for hidden, cell in state]
        if self._rows is not None and len(lane) < len(self._rows[0][0]):

            def copied(old: Tensor, part: Tensor) -> Tensor:
                return _by_channel(_by_pixel(old).index_copy(0, lane, _by_pixel(part)))

            pairs = zip(self.rows or (), new, strict=True)
            self.rows = [(copied(h, new_h), copied(c, new_c)) for (h, c), (new_h, new_c) in pairs]
        else:
            # All lanes are present and in order: nothing to scatter.
            self.rows = new

    def clear(self) -> None:
        """Forget all lanes."""
        self.rows = None

    def clear_lanes(self, cleared: Tensor) -> None:
        """Reset some lanes: ``[B]`` bool, true for those to reset."""
        if self._rows is not None:
            self._cleared = cleared if self._cleared is None else self._cleared | cleared

    def clear_not_finite(self) -> Tensor | None:
        """Reset the lanes whose state holds a nan or an infinity.

        Returns:
            Which these are, ``[B]`` bool; None before any chunk.
        """
        if self._rows is None:
            return None
        by_pixel = [_by_pixel(part).flatten(1) for pair in self._rows for part in pair]
        norms = torch.stack([torch.linalg.vector_norm(part, dim=1) for part in by_pixel])
        not_finite = ~norms.isfinite().all(dim=0)
        self.clear_lanes(not_finite)
        return not_finite


def _by_pixel(part: Tensor) -> Tensor:
    """A state ``[B, C, h, w]`` as it lies in memory, ``[B, h, w, C]``."""
    return part.permute(0, 2, 3, 1)


def _by_channel(part: Tensor) -> Tensor:
    return part.permute(0, 3, 1, 2)


def _zeroed(rows: State, lanes: Tensor) -> State:
    """The rows with zeros in those lanes ``[B]`` that are true, whatever stood there."""
    kept = ~lanes[:, None, None, None]
    return [(torch.where(kept, hidden, 0.0), torch.where(kept, cell, 0.0)) for hidden, cell in rows]
