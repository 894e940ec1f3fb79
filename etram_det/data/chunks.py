"""Chunks: what a lane of a batch gets in a step, loaded, augmented and put into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from etram_det.data.augment import Augmentation, AugmentSettings, draw
from etram_det.data.recording import OUTSIDE, Recording
from etram_det.data.seen_labels import seen_labels
from etram_det.data.sparse_batch import SparseBatch, SparseEvents
from etram_det.data.sparse_frames import SparseFrames
from etram_det.data.streaming import ChunkRequest
from etram_det.errors import UserError
from etram_det.types import Labels


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames of one recording with their labels.

    Attributes:
        request: the request that it answers.
        frames: its ``F`` frames, before they are augmented; fewer than ``T`` at the end of a
            recording.
        time_us: ``[F]`` int64, end of each frame's window.
        labels: index, boxes ``[M, 4]`` and classes ``[M]`` of each labelled frame.
        recording: name of the recording.
        scale: pixels of the sensor per pixel of the frame, in x and y.
        fault: why the recording is unreadable, in which case there are no frames.
        num_outside: events in the frames' windows that lay outside the sensor and were dropped.
        repaired_share: share of the recording's events, in [0, 1], whose timestamp was repaired.
        start_us: where the recording's clock starts.
        tracks: track ids ``[M]`` of each labelled frame; None where boxes were augmented.
        augmentation: what is to be done to the frames; boxes have it already, and events are
            dropped.
    """

    request: ChunkRequest
    frames: SparseFrames
    time_us: NDArray[np.int64]
    labels: list[tuple[int, NDArray[np.float32], NDArray[np.int64]]]
    recording: str
    scale: tuple[float, float]
    fault: str | None = None
    num_outside: int = 0
    repaired_share: float = 0.0
    start_us: int = 0
    tracks: list[NDArray[np.int64]] | None = None
    augmentation: Augmentation | None = None


@dataclass(eq=False)
class ChunkDataset(Dataset[Chunk]):
    """Loads the chunks that a plan asks for.

    Attributes:
        recordings: the recordings that the plan's indices refer to.
        num_steps: frames of a chunk, ``T``.
        augmentation: settings for chunks whose request has a seed; None for no augmentation.
        no_frames: ``[0, channels, H, W]``, the frames of an unreadable chunk; None to raise an
            error instead.
        count_cutoff: where counts saturate.
        least_motion_px: of random chunks, the labels that :func:`seen_labels` does not see are left
            out; 0 leaves out none.

    Raises:
        UserError: if a chunk is unreadable and ``no_frames`` is None.
    """

    recordings: Sequence[Recording]
    num_steps: int
    augmentation: AugmentSettings | None = None
    no_frames: NDArray[Any] | None = None
    count_cutoff: int = 255
    least_motion_px: float = 0.0

    def __getitem__(self, request: ChunkRequest) -> Chunk:
        recording = self.recordings[request.recording]
        name, scale = recording.name, recording.scale
        stop = min(request.start + self.num_steps, len(recording))
        outside_before = recording.dropped.get(OUTSIDE, 0)
        try:
            frames = recording.sparse_frames(request.start, stop, self.count_cutoff)
        except (UserError, OSError) as error:
            fault = str(error) if isinstance(error, UserError) else f"{recording.path}: {error}"
            if self.no_frames is None:
                raise UserError(fault, exit_code=1) from error
            request = replace(request, reset=True)
            none = SparseFrames.of(self.no_frames, self.count_cutoff)
            return Chunk(request, none, np.empty(0, np.int64), [], name, scale, fault)
        labels = [
            (frame - request.start, *labelled)
            for frame in range(request.start, stop)
            if (labelled := recording.boxes(frame)) is not None
        ]
        chunk = Chunk(
            request,
            frames,
            recording.frame_end_us[request.start : stop],
            labels,
            name,
            scale,
            num_outside=recording.dropped.get(OUTSIDE, 0) - outside_before,
            repaired_share=recording.repaired_share,
            start_us=recording.start_us,
            tracks=[recording.track_ids(request.start + t) for t, *_ in labels],
        )
        if self.least_motion_px > 0 and not request.stream:
            chunk = _with_seen_labels(chunk, recording, self.least_motion_px)
        if self.augmentation is not None and request.augment_seed is not None:
            return _augment(chunk, self.augmentation, request.augment_seed)
        return chunk


def collate(chunks: Sequence[Chunk], num_steps: int) -> SparseBatch:
    """Put the chunks of all lanes into one batch, padded to ``num_steps`` frames.

    Args:
        chunks: one for each of ``B`` lanes.
        num_steps: frames of a chunk, ``T``.
    """
    num_lanes = len(chunks)
    padded = torch.ones(num_steps, num_lanes, dtype=torch.bool)
    time_us = torch.full((num_steps, num_lanes), -1, dtype=torch.int64)
    labels = []
    has_tracks = all(chunk.tracks is not None or not chunk.labels for chunk in chunks)
    for b, chunk in enumerate(chunks):
        num_frames = len(chunk.frames)
        padded[:num_frames, b] = False
        time_us[:num_frames, b] = torch.from_numpy(chunk.time_us)
        # What has no tracks in one chunk has none in the batch.
        tracks = chunk.tracks or [classes for *_, classes in chunk.labels]
        of_chunk = zip(chunk.labels, tracks, strict=True)
        labels += [
            (t * num_lanes + b, boxes, classes, ids) for (t, boxes, classes), ids in of_chunk
        ]
    labels.sort(key=lambda label: label[0])
    requests = [chunk.request for chunk in chunks]
    lanes = list(enumerate(chunks))
    as_they_are = Augmentation(chunks[0].frames.size)
    return SparseBatch(
        sparse_events=SparseEvents.stack(
            [chunk.frames for chunk in chunks],
            [chunk.augmentation or as_they_are for chunk in chunks],
            num_steps,
        ),
        labels=Labels.stack(
            [frame for frame, *_ in labels],
            [torch.from_numpy(boxes) for _, boxes, *_ in labels],
            [torch.from_numpy(classes) for _, _, classes, _ in labels],
            [torch.from_numpy(ids) for *_, ids in labels] if has_tracks else None,
        ),
        reset=torch.tensor([request.reset for request in requests]),
        lane=torch.tensor([request.lane for request in requests]),
        padded=padded,
        time_us=time_us,
        recording=[chunk.recording for chunk in chunks],
        scale=torch.tensor([chunk.scale for chunk in chunks], dtype=torch.float32),
        stream=torch.tensor([request.stream for request in requests]),
        faults={b: chunk.fault for b, chunk in lanes if chunk.fault is not None},
        num_outside={b: chunk.num_outside for b, chunk in lanes if chunk.num_outside},
        repaired_share={b: chunk.repaired_share for b, chunk in lanes if chunk.repaired_share},
        start_us={b: chunk.start_us for b, chunk in lanes if chunk.start_us},
    )


def _with_seen_labels(chunk: Chunk, recording: Recording, least_motion_px: float) -> Chunk:
    """A chunk without the labels of what cannot be seen; its frames stay labelled."""
    start, labels, tracks = chunk.request.start, [], []
    for (t, boxes, classes), ids in zip(chunk.labels, chunk.tracks or [], strict=True):
        seen = seen_labels(recording, start, start + t, least_motion_px)
        labels.append((t, boxes[seen], classes[seen]))
        tracks.append(ids[seen])
    return replace(chunk, labels=labels, tracks=tracks)


def _augment(chunk: Chunk, settings: AugmentSettings, seed: int) -> Chunk:
    """Augment a chunk by its seed; frames whose boxes are all lost become unlabelled."""
    frames = chunk.frames
    last_boxes = chunk.labels[-1][1] if chunk.labels else None  # perhaps none, of background
    augmentation = draw(settings, seed, frames.size, chunk.request.stream, last_boxes)
    labels = []
    for t, boxes, classes in chunk.labels:
        left, left_classes = augmentation.apply_to_boxes(boxes, classes)
        if len(left) or not len(boxes):
            labels.append((t, left, left_classes))
    if augmentation.drop_share:
        # A lane keeps its seed, but drops other events in each chunk.
        rng = np.random.default_rng((seed, chunk.request.start))
        frames = frames.without_share(augmentation.drop_share, rng)
    return replace(chunk, frames=frames, labels=labels, tracks=None, augmentation=augmentation)
