"""What is logged of recordings before a run: one line a kind, however many recordings share it."""

import threading

import numpy as np
import pytest

from etram_det.data import time_index
from etram_det.data.datamodule import EventDataModule
from etram_det.data.findings import findings, index_recordings
from etram_det.data.labels import LabelSettings
from etram_det.data.layouts import find_recordings
from etram_det.data.preprocessing import preprocess
from etram_det.data.representation import FrameSettings
from support.raw_files import boxes_at, random_events, write_raw

FRAMES = FrameSettings(input_size=(24, 32))
TIMES = np.arange(100_000, 2_000_000, 100_000)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "user_cache"))


@pytest.fixture
def root(tmp_path):
    """Five training recordings: two stop early, one pauses, one does not state its sensor."""
    for i, seconds in enumerate((2.0, 1.0, 1.5, 2.0, 2.0)):
        events = random_events(9000, seconds)
        if i == 3:
            runs = (events["t"] < 420_000) | (events["t"] > 1_080_000)
            events = {name: column[runs] for name, column in events.items()}
        size = None if i == 4 else (48, 64)
        for split in ("train", "val"):
            boxes = boxes_at(TIMES, class_id=7)
            write_raw(tmp_path / "raw" / split, f"{split}_day_{i}", events, boxes, size)
    return tmp_path / "raw"


LABELS = (
    "19 labels have no event in their windows, as where a recording has stopped early or paused, "
    "or clocks differ: 9 of 19 of train_day_1, 6 of 19 of train_day_3, 4 of 19 of train_day_2: "
    "they stay labels: correct the recordings, or leave them out by data.subset"
)


def test_labels_without_events_and_assumptions_are_logged_at_the_start(root, caplog):
    data = EventDataModule(root=str(root), input_size=(24, 32), sensor_size=(48, 64), num_workers=0)
    with caplog.at_level("INFO"):
        data.setup("fit")
    lines = [(record.levelname, record.message) for record in caplog.records]
    assert ("WARNING", f"train: {LABELS}") in lines
    assert ("WARNING", f"val: {LABELS.replace('train', 'val')}") in lines
    assumed = "its file does not state the sensor's size, 64x48 px is assumed: set data.sensor_size"
    one = f"train: 1 of 5 recordings (train_day_4): {assumed} if it is another"
    assert ("INFO", one) in lines
    caplog.clear()
    with caplog.at_level("INFO"):
        data.setup("validate")  # was found before
    assert not caplog.records


def test_many_recordings_share_a_line(tmp_path):
    for i in range(5):
        boxes = boxes_at(TIMES)
        write_raw(tmp_path / "train", f"a{i}", random_events(900, 2.0, (300, 300)), boxes, None)
    recordings = find_recordings(tmp_path, "train", FRAMES, LabelSettings())
    (line,) = findings(recordings)
    assert line[0].startswith("5 of 5 recordings (a0, a1, a2, …): its file does not state")
    assert line[1]


def test_the_cache_of_preprocess_knows_labels_without_events(root, tmp_path):
    recordings = find_recordings(root, "train", FRAMES, LabelSettings())
    index_recordings(recordings)
    preprocess(root, tmp_path / "out", FRAMES, LabelSettings(), workers=1)
    stored = find_recordings(tmp_path / "out", "train", FRAMES, LabelSettings())
    counts = [each.labels_without_events for each in recordings]
    assert counts == [0, 9, 4, 6, 0]
    assert [each.labels_without_events for each in stored] == counts


def test_of_two_that_index_at_a_time_one_reads_the_events(root, monkeypatch):
    built = []
    build = time_index.TimeIndex.build
    started = threading.Barrier(2)

    def counted(*args):
        built.append(1)
        return build(*args)

    monkeypatch.setattr(time_index.TimeIndex, "build", counted)

    def work():
        recordings = find_recordings(root, "train", FRAMES, LabelSettings())
        started.wait()
        index_recordings(recordings, shown=False)
        assert [each.labels_without_events for each in recordings] == [0, 9, 4, 6, 0]

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 5
