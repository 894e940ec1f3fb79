"""Recordings whose frames say where they come from, and plans over them."""

from pathlib import Path

import numpy as np

from etram_det.data.recording import OUTSIDE, Recording
from etram_det.data.streaming import TrainingPlan

T = 5  # frames of a chunk


class FakeRecording:
    """Frames that encode their recording and index; every second one has a box."""

    def __init__(self, index, num_frames, size=(12, 16)):
        self.index = index
        self.name = f"recording_{index}"
        self.path = Path(self.name)
        self.input_size = size
        self.scale = (2.0, 3.0)
        self.frame_end_us = 50_000 * np.arange(1, num_frames + 1)
        self.dropped = {}
        self.repaired_share = 0.25 * index
        self.start_us = 1000 * index

    def __len__(self):
        return len(self.frame_end_us)

    @property
    def labelled(self):
        return np.arange(len(self)) % 2 == 1

    def frames(self, start, stop):
        frames = np.zeros((stop - start, 4, *self.input_size), np.uint8)
        frames[:, 0] = self.index
        frames[:, 1] = np.arange(start, stop)[:, None, None]
        frames[:, 2, 3:8, 2:9] = 1
        self.dropped[OUTSIDE] = self.dropped.get(OUTSIDE, 0) + self.index * len(frames)
        return frames

    sparse_frames = Recording.sparse_frames

    def boxes(self, frame):
        if frame % 2 == 0:
            return None
        return np.array([[2, 3, 9, 8]], np.float32), np.array([frame % 8])

    def track_ids(self, frame):
        return np.array([100 * self.index + frame])


def training_plan(num_frames, stream_lanes=2, random_lanes=2, **settings):
    labelled = [np.arange(length) % 2 == 1 for length in num_frames]
    return TrainingPlan(labelled, T, stream_lanes, random_lanes, **settings)
