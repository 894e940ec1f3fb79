"""What augmentation does to frames, on dense arrays, one thing after the other."""

import numpy as np
import torch

from etram_det.data.augment import Augmentation
from etram_det.data.sparse_batch import SparseEvents
from etram_det.data.sparse_frames import SparseFrames


def plain(augmentation, frames, count_cutoff=255, seed=(0,)):
    """Frames ``[T, C, H, W]`` with all that was drawn; zero outside the source."""
    if augmentation.drop_share:
        frames = without_share(frames, augmentation.drop_share, np.random.default_rng(seed))
    if augmentation.polarity_flip:
        is_signed = frames.dtype == np.int8
        frames = -frames if is_signed else np.roll(frames, frames.shape[1] // 2, axis=1)
    if augmentation.zoom < 1 and augmentation.adds_up:
        frames = added_up(frames, augmentation.zoom, augmentation.shift, count_cutoff)
    elif augmentation.zoom != 1:
        frames = nearest(frames, augmentation.zoom, augmentation.shift)
    return frames[..., ::-1] if augmentation.flip else frames


def without_share(frames, share, rng):
    """Each event is drawn for, in the flat order of the frames."""
    flat = frames.reshape(-1)
    is_dropped = rng.random(int(flat.sum(dtype=np.int64))) < share
    place = np.repeat(np.arange(len(flat)), flat)
    kept = np.bincount(place[~is_dropped], minlength=len(flat))
    return kept.astype(frames.dtype).reshape(frames.shape)


def nearest(frames, zoom, shift):
    """Each pixel of the result takes the source's at its centre."""
    source = []
    for size, offset in zip(frames.shape[2:], (shift[1], shift[0]), strict=True):
        source.append(np.floor((np.arange(size) + 0.5 - offset) / zoom).astype(int))
    inside = [(at >= 0) & (at < size) for at, size in zip(source, frames.shape[2:], strict=True)]
    result = np.zeros_like(frames)
    rows, columns = (at[is_in] for at, is_in in zip(source, inside, strict=True))
    where = np.ix_(*map(np.arange, frames.shape[:2]), *map(np.flatnonzero, inside))
    result[where] = frames[:, :, rows][..., columns]
    return result


def added_up(frames, zoom, shift, count_cutoff):
    """Each pixel of the source is added to that in which its centre falls."""
    (height, width), sums = frames.shape[2:], np.zeros(frames.shape, np.int64)
    row = ((np.arange(height) + 0.5) * zoom + shift[1]).astype(int)
    column = ((np.arange(width) + 0.5) * zoom + shift[0]).astype(int)
    for y in range(height):
        for x in range(width):
            sums[:, :, row[y], column[x]] += frames[:, :, y, x]
    return sums.clip(-count_cutoff, count_cutoff).astype(frames.dtype)


def travelled(frames, augmentation=None, count_cutoff=255, seed=(0,)):
    """Frames ``[T, C, H, W]`` as they arrive: encoded, augmented and made dense."""
    if frames.dtype == np.int8:
        count_cutoff = min(count_cutoff, 127)
    augmentation = augmentation or Augmentation(frames.shape[2:])
    sparse = SparseFrames.of(np.ascontiguousarray(frames), count_cutoff)
    if augmentation.drop_share:
        sparse = sparse.without_share(augmentation.drop_share, np.random.default_rng(seed))
    return SparseEvents.stack([sparse], [augmentation], len(frames)).dense()[:, 0].numpy()


def frames_of(chunk):
    """Frames ``[F, C, H, W]`` of a chunk, augmented."""
    frames = chunk.frames
    augmentation = chunk.augmentation or Augmentation(frames.size)
    events = SparseEvents.stack([frames], [augmentation], len(frames)).dense()
    assert isinstance(events, torch.Tensor)
    return events[:, 0].numpy()
