"""Streaming: the sampler is the plan.

A batch sampler yields, for each step, the chunk of a recording that each lane of the batch takes;
:class:`~etram_det.data.chunks.ChunkDataset` loads it. The plan is a pure function of the seed, the
epoch, the rank and the lanes, and any of its steps can be computed without the ones before. So
batches do not depend on the number of workers, and a run resumes at the step where it stopped.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat, zip_longest

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from etram_det.data.class_balance import draw_windows, windows_with_labels

# Purposes of random numbers; each has its own sequence under the seed.
_RECORDINGS, _WINDOWS, _AUGMENTATION, _PHASES = range(4)


@dataclass(frozen=True)
class ChunkRequest:
    """The chunk that one lane of a batch is to load.

    Attributes:
        recording: index of the recording.
        start: first frame; at or past the end of the recording, all frames are padding.
        reset: whether the lane's state is reset to zeros.
        lane: the lane's row of the carried state.
        augment_seed: seed of augmentation, the same from one reset to the next; None for none.
        stream: whether the lane follows a recording, rather than taking random chunks.
    """

    recording: int
    start: int
    reset: bool
    lane: int
    augment_seed: int | None
    stream: bool


@dataclass(eq=False)
class TrainingPlan(Sampler[list[ChunkRequest]]):
    """The batches of a training epoch on one rank: streaming lanes first, then random ones.

    **Streaming lanes.** All recordings, shuffled in each epoch, are laid end to end in a ring of
    chunks, and the lanes of all ranks start at even distances on it. So an epoch passes once
    through each recording, all lanes end within a chunk of each other, and any number of lanes can
    share any number of recordings. The price: a lane may start an epoch in the middle of a
    recording, with a reset, and a few chunks come twice where the ring does not divide evenly. At
    the end of a recording the lane continues with the next.

    **Random lanes.** They take shuffled windows of ``num_steps`` frames, each ending with a
    labelled frame, as in RVT, and reset in each step. (A labelled frame nearer to the start of its
    recording is in the first window.) Without streaming lanes, an epoch takes each window once;
    beside them, it takes as many as fit, and repeats them when they run out. With ``chunk_shares``,
    they take as many, but so many of each recording as it asks for.

    Attributes:
        labelled: for each recording, or each label phase of it, ``[F]`` bool, true for its
            labelled frames.
        num_steps: frames of a chunk, ``T``.
        stream_lanes: lanes of each rank that follow recordings.
        random_lanes: lanes of each rank that take random chunks; these need labelled frames.
        seed: seed of all random numbers.
        rank: rank of this process among ``world_size``.
        world_size: number of processes that train together.
        epoch: the epoch that is planned; see :meth:`set_epoch`.
        start_step: steps to skip at the start of that epoch, to resume a run.
        num_phases: label phases of each recording, which follow each other in ``labelled``; each
            epoch draws one of them, none twice before all had their turn. None where each recording
            has one. All epochs have as many steps as the first phases give, though others may be a
            chunk longer or shorter.
        chunk_shares: share of each recording in the chunks of the random lanes, with a sum of 1;
            None for that of its windows.
    """

    labelled: Sequence[NDArray[np.bool_]]
    num_steps: int
    stream_lanes: int
    random_lanes: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    start_step: int = 0
    num_phases: Sequence[int] | None = None
    chunk_shares: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self._num_chunks = np.array([-(-len(frames) // self.num_steps) for frames in self.labelled])
        self._windows = windows_with_labels(self.labelled, self.num_steps)
        self._phases = np.array(self.num_phases or [1] * len(self.labelled))
        self._first_phase = np.cumsum(self._phases) - self._phases
        self._chunks_of_epoch = int(self._num_chunks[self._first_phase].sum())
        self._windows_of_epoch = int(np.isin(self._windows[:, 0], self._first_phase).sum())
        assert self.stream_lanes + self.random_lanes > 0
        assert self._num_chunks.sum() > 0
        assert len(self._windows) > 0 or self.random_lanes == 0

    @property
    def sampler(self) -> TrainingPlan:
        """Itself: Lightning looks for ``set_epoch`` here."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Plan another epoch, from its first step. Lightning calls it before each one."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.start_step = 0

    def __len__(self) -> int:
        """Steps of an epoch, the same on all ranks."""
        if self.stream_lanes:
            return -(-self._chunks_of_epoch // (self.stream_lanes * self.world_size))
        return -(-self._windows_of_epoch // (self.random_lanes * self.world_size))

    def __iter__(self) -> Iterator[list[ChunkRequest]]:
        drawn = self._first_phase + [self._phase(*each) for each in enumerate(self._phases)]
        order = drawn[self._random(_RECORDINGS).permutation(len(drawn))]
        ends = np.cumsum(self._num_chunks[order])
        windows = self._windows_of(drawn)
        for step in range(self.start_step, len(self)):
            streams = [self._stream_chunk(step, j, order, ends) for j in range(self.stream_lanes)]
            yield streams + [self._random_chunk(step, j, windows) for j in range(self.random_lanes)]

    def _windows_of(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """``[W, 2]`` windows of the epoch's label phases, in the order in which they are dealt."""
        rng, windows = self._random(_WINDOWS), self._windows
        if self.chunk_shares is None:
            return rng.permutation(windows[np.isin(windows[:, 0], drawn)])
        places, starts = np.nonzero(windows[:, 0] == drawn[:, None])
        of_recordings = np.stack([places, windows[starts, 1]], axis=1)
        shares = np.where(np.isin(np.arange(len(drawn)), places), self.chunk_shares, 0)
        number = len(self) * self.random_lanes * self.world_size
        dealt = draw_windows(of_recordings, shares / shares.sum(), number, rng)
        return np.stack([drawn[dealt[:, 0]], dealt[:, 1]], axis=1)

    def _stream_chunk(
        self, step: int, lane: int, order: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> ChunkRequest:
        """Chunk of a streaming lane from the ring of recordings, which end at ``ends`` chunks."""
        global_lane = self.rank * self.stream_lanes + lane
        total = int(ends[-1])
        begin = global_lane * total // (self.stream_lanes * self.world_size)
        # Positions are counted on past the ring's end, so that each visit has its own number.
        lap, position = divmod(begin + step, total)
        place = int(np.searchsorted(ends, position, side="right"))
        recording = int(order[place])
        chunk = position - int(ends[place] - self._num_chunks[recording])
        visit = lap * len(ends) + place
        return ChunkRequest(
            recording=recording,
            start=chunk * self.num_steps,
            reset=step == 0 or chunk == 0,
            lane=lane,
            augment_seed=self._augment_seed(global_lane, visit),
            stream=True,
        )

    def _random_chunk(self, step: int, lane: int, windows: NDArray[np.int64]) -> ChunkRequest:
        """Chunk of a random lane: windows are dealt to the random lanes of all ranks in turn."""
        num_lanes = self.random_lanes * self.world_size
        deal = step * num_lanes + self.rank * self.random_lanes + lane
        recording, start = windows[deal % len(windows)]
        # Numbered after all streaming lanes, so that no two lanes share random numbers.
        global_lane = self.stream_lanes * self.world_size + self.rank * self.random_lanes + lane
        return ChunkRequest(
            recording=int(recording),
            start=int(start),
            reset=True,
            lane=self.stream_lanes + lane,
            augment_seed=self._augment_seed(global_lane, step),
            stream=False,
        )

    def _phase(self, recording: int, num_phases: int) -> int:
        """Label phase of a recording: in as many epochs as it has, each once, in random order."""
        turn, place = divmod(self.epoch, num_phases)
        return int(self._random_of(turn, _PHASES, recording).permutation(num_phases)[place])

    def _random(self, *purpose: int) -> np.random.Generator:
        """Random numbers of this epoch for one purpose, the same on all ranks."""
        return self._random_of(self.epoch, *purpose)

    def _random_of(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _augment_seed(self, global_lane: int, visit: int) -> int:
        return int(self._random(_AUGMENTATION, global_lane, visit).integers(2**63))


@dataclass(eq=False)
class EvaluationPlan(Sampler[list[ChunkRequest]]):
    """The batches of an evaluation on one rank: each recording once, from start to end.

    Over all ranks, recordings are assigned longest first, each to the lane with the least work. A
    lane that has run out leaves the batch. All ranks take the same number of steps, as collective
    operations require: a rank that has run out yields a single lane of padding.

    Attributes:
        lengths: number of frames of each recording.
        num_steps: frames of a chunk, ``T``.
        lanes: largest number of lanes in a batch; surplus lanes stay empty.
        rank: rank of this process among ``world_size``.
        world_size: number of processes that evaluate together.
    """

    lengths: Sequence[int]
    num_steps: int
    lanes: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        num_chunks = [-(-length // self.num_steps) for length in self.lengths]
        # Ranks alternate, so that each has a recording before any has two.
        shares = _deal_longest_first(num_chunks, self.lanes * self.world_size)
        self._shares = shares[self.rank :: self.world_size]
        self._num_batches = max(sum(num_chunks[i] for i in share) for share in shares)

    def __len__(self) -> int:
        """Steps of the evaluation, the same on all ranks."""
        return self._num_batches

    def __iter__(self) -> Iterator[list[ChunkRequest]]:
        idle = ChunkRequest(0, self.lengths[0], True, 0, None, True)
        lanes = (self._follow(lane, share) for lane, share in enumerate(self._shares))
        steps = chain(zip_longest(*lanes), repeat(()))
        for _, requests in zip(range(len(self)), steps, strict=False):
            yield [request for request in requests if request is not None] or [idle]

    def _follow(self, lane: int, recordings: Sequence[int]) -> Iterator[ChunkRequest]:
        """All chunks of one lane, in order."""
        for recording in recordings:
            for start in range(0, self.lengths[recording], self.num_steps):
                yield ChunkRequest(recording, start, start == 0, lane, None, True)


def _deal_longest_first(sizes: Sequence[int], num_shares: int) -> list[list[int]]:
    """Split the indices of ``sizes`` into shares of about equal total, largest size first."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    totals = [(0, share) for share in range(num_shares)]
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        total, share = heapq.heappop(totals)
        shares[share].append(index)
        heapq.heappush(totals, (total + sizes[index], share))
    return shares
