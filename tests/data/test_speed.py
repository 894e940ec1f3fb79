"""How fast recordings become frames: measurements and ratios of one run on this machine."""

import numpy as np
import pytest
import torch

from etram_det.__main__ import keep_freed_memory
from etram_det.data.labels import LabelSettings
from etram_det.data.layouts import find_recordings
from etram_det.data.preprocessing import preprocess
from etram_det.data.representation import FrameSettings, Representation
from etram_det.tools.bench.data import bench_memory
from support.plain_histogram import oracle
from support.raw_files import boxes_at, write_raw
from support.timing import best_seconds

SENSOR, INPUT = (720, 1280), (360, 640)

pytestmark = pytest.mark.slow
# As the program itself does: without it, most of the time goes into getting memory from the system.
keep_freed_memory()


def traffic(num_events, seconds, seed=0):
    """Events of 40 moving blobs, one in five of them noise, with ascending timestamps."""
    rng = np.random.default_rng(seed)
    blob = rng.integers(0, 40, num_events)
    centre_x, centre_y = rng.integers(0, 1280, 40), rng.integers(200, 720, 40)
    x = (centre_x[blob] + rng.normal(0, 25, num_events)).clip(0, 1279)
    y = (centre_y[blob] + rng.normal(0, 15, num_events)).clip(0, 719)
    noise = rng.random(num_events) < 0.2
    x[noise], y[noise] = rng.integers(0, 1280, noise.sum()), rng.integers(0, 720, noise.sum())
    return {
        "x": x.astype(np.uint16),
        "y": y.astype(np.uint16),
        "p": rng.integers(0, 2, num_events).astype(np.uint8),
        "t": np.sort(rng.integers(0, int(seconds * 1e6), num_events)),
    }


def counting(events):
    """A function that counts the events of a window."""
    stack = Representation(SENSOR, INPUT, FrameSettings())
    frame = np.empty(stack.shape, np.uint8)
    columns = [events[name] for name in "xypt"]
    return lambda: stack.fill(frame, *columns, (0, 50_000))


def test_the_kernel():
    events = traffic(250_000, 0.05)  # 5 million events in a second
    torch.set_num_threads(1)
    plain = lambda: oracle(events, (0, 50_000), SENSOR, INPUT, FrameSettings())  # noqa: E731
    (ours,) = best_seconds(counting(events), repeats=200)
    (plain,) = best_seconds(plain, repeats=3)
    print(
        f"\nkernel: {0.25 / ours:.0f} M events/s; plain torch {0.25 / plain:.0f} "
        f"({plain / ours:.1f} times slower)"
    )
    assert plain / ours > 3


def test_the_sparse_cache_against_rvts_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    times = np.arange(1, 21) * 100_000
    # 100,000 events in a window, as in traffic.
    write_raw(tmp_path / "raw" / "train", "a", traffic(4_000_000, 2), boxes_at(times), SENSOR)
    frames = FrameSettings(input_size=INPUT, downsample="nearest")
    recordings = {}
    for layout in ("rvt", "sparse"):
        output = tmp_path / layout
        preprocess(tmp_path / "raw", output, frames, LabelSettings(), layout, workers=1)
        (recordings[layout],) = find_recordings(output, "train", frames, LabelSettings())
    # Chunks of five frames, as in training.
    seconds = best_seconds(
        lambda: recordings["rvt"].frames(10, 15), lambda: recordings["sparse"].frames(10, 15)
    )
    milliseconds = {name: each / 5 * 1e3 for name, each in zip(recordings, seconds, strict=True)}
    kilobytes = {
        name: each.path.stat().st_size / len(each) / 1e3 for name, each in recordings.items()
    }
    ratio = milliseconds["rvt"] / milliseconds["sparse"]
    print(f"\nms a frame {milliseconds}, kB a frame {kilobytes}, {ratio:.1f} times faster")
    assert kilobytes["sparse"] <= kilobytes["rvt"]
    assert ratio > 6  # 13 to 18 were measured


def test_gzip_raw_to_frames(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    events = traffic(4_000_000, 2)
    times = np.arange(1, 21) * 100_000
    write_raw(tmp_path / "train", "a", events, boxes_at(times), SENSOR, compression="gzip")
    (recording,) = find_recordings(tmp_path, "train", FrameSettings(), LabelSettings())

    def read():
        for start in range(0, 40, 5):
            recording.frames(start, start + 5)

    frames_per_second = 40 / best_seconds(read, repeats=3)[0]
    print(f"\nraw gzip: {frames_per_second:.0f} frames/s, one worker, 100,000 events a window")
    assert frames_per_second > 10


def test_memory_of_a_recording_of_300_million_events():
    section = bench_memory()
    assert not section.failures
    imports, peak = (each.value for each in section.measurements)
    print(f"\n300 million events: {peak:.0f} MB at the peak, {imports:.0f} MB with imports alone")
    assert 20 < peak - imports < 400
