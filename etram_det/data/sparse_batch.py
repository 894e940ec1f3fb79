"""Batches as the loader hands them over: lists of counts, made into frames on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from etram_det.data.augment import Augmentation
from etram_det.data.sparse_frames import SparseFrames, count_bits_of
from etram_det.types import Batch, BatchOfLanes, Container

_NOWHERE = 2**40  # place of what a zoom moves out of the frame: behind all others


@dataclass
class SparseEvents(Container):
    """The counts of ``T`` frames of ``B`` lanes, and how augmentation moves them.

    Attributes:
        buffer: uint8, all that goes to the device: the number of entries of each frame, lane by
            lane (int64); the tables of :func:`_tables` (int32), if augmentation moves anything; and
            the entries of all frames (uint16), as :class:`~etram_det.data.sparse_frames.
            SparseFrames` has them.
        shape: ``T``, ``B``, channels, height and width.
        num_entries: of each lane.
        num_tables: numbers in the tables.
        is_signed: whether counts are int8, rather than uint8.
        count_cutoff: where counts saturate.
        augmentations: of each lane.
    """

    buffer: Tensor
    shape: tuple[int, ...]
    num_entries: list[int]
    num_tables: int
    is_signed: bool
    count_cutoff: int
    augmentations: list[Augmentation]

    @staticmethod
    def stack(
        chunks: Sequence[SparseFrames], augmentations: Sequence[Augmentation], num_steps: int
    ) -> SparseEvents:
        """Lay out the frames of all lanes one after the other, for one copy.

        Args:
            chunks: at most ``T`` frames of each lane; the rest is padding.
            augmentations: of each lane.
            num_steps: frames of each lane, ``T``.
        """
        first = chunks[0]
        num_entries = np.zeros((len(chunks), num_steps), np.int64)
        for b, chunk in enumerate(chunks):
            num_entries[b, : len(chunk)] = chunk.num_entries
        tables = _tables(augmentations, first.shape[0], first.is_signed)
        parts: list[NDArray[Any]] = [num_entries.reshape(-1), tables]
        parts += [chunk.entries for chunk in chunks]
        buffer = torch.empty(sum(part.nbytes for part in parts), dtype=torch.uint8)
        if get_worker_info() is not None:
            buffer.share_memory_()  # shared while empty: the queue would copy a full one
        np.concatenate([part.view(np.uint8) for part in parts], out=buffer.numpy())
        return SparseEvents(
            buffer,
            (num_steps, len(chunks), *first.shape),
            num_entries.sum(axis=1).tolist(),
            len(tables),
            first.is_signed,
            first.count_cutoff,
            list(augmentations),
        )

    def dense(self) -> Tensor:
        """Frames ``[T, B, C, H, W]`` uint8 or int8, augmented, and zero where padded.

        All sizes are known on the host, so it does not wait for the device.
        """
        steps, lanes, *of_frame = self.shape
        size, device = math.prod(of_frame), self.buffer.device
        dtype = torch.int8 if self.is_signed else torch.uint8
        frame = torch.arange(steps * lanes, device=device)
        # Entries come lane by lane, frames of the batch step by step.
        first = (frame % steps * lanes + frame // steps) * size
        counts = torch.zeros(len(frame) * size + 1, dtype=dtype, device=device)
        frames = counts[:-1].view(self.shape)  # the last count takes what is nowhere
        place, values = self._entries()
        if self.num_tables:
            self._write_moved(counts, frames, first, place, values)
        else:
            counts.scatter_(0, self._spread(first).add_(place), values)
        return frames

    def _write_moved(
        self, counts: Tensor, frames: Tensor, first: Tensor, place: Tensor, values: Tensor
    ) -> None:
        """Write augmented frames into zeros.

        Args:
            counts: ``[T * B * C * H * W + 1]``.
            frames: ``[T, B, C, H, W]``, the same memory.
            first: ``[B * T]``, place in ``counts`` of each frame's first count, lane by lane.
            place: ``[n]`` of each entry, before it is moved, in its frame.
            values: ``[n]`` its count.
        """
        steps, _, channels, height, width = self.shape
        end = len(counts) - 1
        frame = torch.arange(len(first), device=first.device, dtype=torch.int32)
        lane = frame // steps
        rows, columns, sources = self._tables()
        row = place // width
        column = place.sub_(row * width).add_(self._spread(lane * width))
        row.add_(self._spread(frame * (channels * height)))
        # Where each entry's row begins in the result.
        start = (first[:, None] + rows.index_select(0, lane)).flatten().index_select(0, row)
        lanes = list(zip(self._lanes(), self.augmentations, strict=True))
        for part, augmentation in lanes:
            if self.is_signed and augmentation.polarity_flip:
                values[part].neg_()
        place = columns[0].index_select(0, column).add_(start).clamp_(max=end)
        counts.scatter_(0, place, values)
        for b, (part, augmentation) in enumerate(lanes):
            if augmentation.zoom > 1:
                for others in columns[1:]:
                    place = others.index_select(0, column[part]).add_(start[part])
                    counts.scatter_(0, place.clamp_(max=end), values[part])
                frames[:, b] = frames[:, b].index_select(2, sources[b])
            elif augmentation.zoom < 1 and augmentation.adds_up:
                place = columns[0].index_select(0, column[part]).add_(start[part])
                frames[:, b] = self._sums(b, place, values[part])

    def _sums(self, b: int, place: Tensor, values: Tensor) -> Tensor:
        """Frames ``[T, C, H, W]`` int16 of one lane, in which counts of the same place add up."""
        steps, lanes, *of_frame = self.shape
        size = math.prod(of_frame)
        step = torch.arange(steps, device=place.device)
        others = self._spread((step * (lanes - 1) + b) * size, b)  # before each of its frames
        sums = torch.zeros(steps * size + 1, dtype=torch.int16, device=place.device)
        sums.index_add_(0, (place - others).clamp_(max=steps * size), values.short())
        cutoff = self.count_cutoff
        return sums[:-1].clamp_(-cutoff, cutoff).view(steps, *of_frame)

    def _entries(self) -> tuple[Tensor, Tensor]:
        """Place ``[n]`` int32 of each entry in its frame, and its count."""
        words = self.buffer[len(self.buffer) - 2 * sum(self.num_entries) :]
        words = words.view(torch.int16).int().bitwise_and_(0xFFFF)
        count_bits = count_bits_of(self.is_signed, self.count_cutoff)
        values = (words & ((1 << count_bits) - 1)).to(torch.uint8)
        # Steps lead from entry to entry. Their sum may wrap; what it grows by in a frame does not.
        ends = words.bitwise_right_shift_(count_bits).cumsum(0, dtype=torch.int32)
        number = self._numbers()
        before = torch.cat([ends.new_zeros(1), ends]).index_select(0, number.cumsum(0) - number)
        place = ends.sub_(self._spread(before + 1))
        return place, values.view(torch.int8) if self.is_signed else values

    def _numbers(self) -> Tensor:
        """Number of entries of each frame, ``[B * T]``, lane by lane."""
        return self.buffer[: 8 * self.shape[0] * self.shape[1]].view(torch.int64)

    def _lanes(self) -> list[slice]:
        """The entries of each lane."""
        ends = np.cumsum(self.num_entries).tolist()
        return [slice(end - n, end) for end, n in zip(ends, self.num_entries, strict=True)]

    def _spread(self, of_frames: Tensor, lane: int | None = None) -> Tensor:
        """For each entry of all lanes, or one, the value of its frame."""
        numbers, total = self._numbers(), sum(self.num_entries)
        if lane is not None:
            steps = self.shape[0]
            numbers = numbers[lane * steps : (lane + 1) * steps]
            total = self.num_entries[lane]
        return of_frames.repeat_interleave(numbers, output_size=total)

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """How pixels move.

        Returns:
            For each row of a lane's channels, where it begins in the result, ``[B, C * H]``; for
            each column of the lanes, those of the result, ``[R, B * W]``; and for each row of a
            lane's result, its source in a zoom in, ``[B, H]``.
        """
        lanes, channels, height, width = self.shape[1:]
        first = 8 * self.shape[0] * lanes
        tables = self.buffer[first : first + 4 * self.num_tables].view(torch.int32).long()
        sizes = [lanes * channels, lanes * height, lanes * height]
        channel, row, source, column = tables.split([*sizes, self.num_tables - sum(sizes)])
        row = torch.where(row < 0, _NOWHERE, row * width).view(lanes, 1, height)
        starts = channel.view(lanes, channels, 1) * (height * width) + row
        column = torch.where(column < 0, _NOWHERE, column)
        return starts.flatten(1), column.view(-1, lanes * width), source.view(lanes, height)


@dataclass(kw_only=True)
class SparseBatch(BatchOfLanes):
    """A :class:`~etram_det.types.Batch` before it is on its device.

    Attributes:
        sparse_events: its frames.
    """

    sparse_events: SparseEvents

    @property
    def events(self) -> Tensor:
        """The frames ``[T, B, C, H, W]``, made dense anew at each access."""
        return self.sparse_events.dense()

    def to(self, device: Any, non_blocking: bool = False) -> Batch:  # type: ignore[override]
        """The batch on ``device``, where its frames are made dense."""
        moved = super().to(device, non_blocking)
        others = {each.name: getattr(moved, each.name) for each in fields(BatchOfLanes)}
        return Batch(events=moved.events, **others)


def _tables(
    augmentations: Sequence[Augmentation], num_channels: int, is_signed: bool
) -> NDArray[np.int32]:
    """Where channels, rows and columns of each lane go, -1 for nowhere; empty if none moves.

    Returns:
        One after the other: channel of the result for each channel, ``[B, C]``; row of the result
        for each row, ``[B, H]``; for each row of the result, its source in a zoom in, ``[B, H]``;
        and columns of the result for each column, ``[R, B, W]``.
    """
    if not any(each.moves_pixels for each in augmentations):
        return np.empty(0, np.int32)
    channel = np.arange(num_channels)
    swapped = channel if is_signed else np.roll(channel, num_channels // 2)
    columns = [each.target_columns() for each in augmentations]
    most = max(map(len, columns))
    padded = [np.pad(each, ((0, most - len(each)), (0, 0)), constant_values=-1) for each in columns]
    tables = (
        [swapped if each.polarity_flip else channel for each in augmentations],
        [each.target_rows() for each in augmentations],
        [each.source_rows() for each in augmentations],
        np.stack(padded, axis=1),
    )
    return np.concatenate([np.ravel(table) for table in tables]).astype(np.int32)
