"""Labels of what stands still teach nothing in a chunk that starts without memory."""

import numpy as np
import pytest

from etram_det.boxes import NO_TRACK
from etram_det.data.augment import AugmentSettings
from etram_det.data.datamodule import EventDataModule
from etram_det.data.seen_labels import seen_labels
from etram_det.errors import UserError
from support.raw_files import boxes_at, random_events, write_raw

TIMES = np.arange(100_000, 1_000_001, 100_000)
STANDS, STOPS, MOVES, SHRINKS, NEW = range(5)  # 0 is an id as any other
NO_ID = -1


def track(track_id, times=TIMES, **sides):
    boxes = boxes_at(times, class_id=0, **sides)
    boxes["track_id"] = track_id
    return boxes


@pytest.fixture
def made(tmp_path):
    """Makes data of a recording whose frames of 50 ms are labelled every second time."""
    boxes = np.concatenate(
        [
            track(STANDS, x=1.0),
            track(STOPS, x=1.0 + 5 * np.minimum(TIMES / 1e6, 0.5)),
            track(MOVES, y=2.0 + 8 * TIMES / 1e6),
            track(SHRINKS, w=20 - 6 * TIMES / 1e6),
            track(NEW, TIMES[-1:]),
            track(NO_TRACK, x=3.0),
        ]
    )
    boxes = boxes[np.argsort(boxes["t"], kind="stable")]
    for split in ("train", "val"):
        write_raw(tmp_path / split, f"{split}_day_1", random_events(4000, 1.05), boxes)

    def data(**settings):
        data = EventDataModule(
            root=str(tmp_path), input_size=(48, 64), num_workers=0, sensor_size=(48, 64),
            train_lanes=2, num_steps=4, augmentation=AugmentSettings(enabled=False), **settings,
        )  # fmt: skip
        data.setup("fit")
        return data

    return data


def frame_at(recording, time_us):
    return int(np.flatnonzero(recording.frame_end_us == time_us)[0])


def ids_seen(recording, start_us, time_us, least_motion_px):
    frame = frame_at(recording, time_us)
    seen = seen_labels(recording, frame_at(recording, start_us), frame, least_motion_px)
    return set(recording.track_ids(frame)[seen].tolist())


def test_what_has_moved_since_the_chunk_began_is_seen(made):
    [recording] = made().recordings["train"]
    # From the label at 0.4 s, the last one before the chunk, on: the ways are 2, 0.5, 1.6 and 1.2.
    at = 400_000 + 50_000, 600_000
    assert ids_seen(recording, *at, 0.4) == {STOPS, MOVES, SHRINKS, NO_ID}
    assert ids_seen(recording, *at, 0.55) == {MOVES, SHRINKS, NO_ID}
    assert ids_seen(recording, *at, 1.3) == {MOVES, NO_ID}
    assert ids_seen(recording, *at, 1.7) == {NO_ID}
    # It has stopped before this chunk began.
    assert ids_seen(recording, 650_000, 800_000, 0.1) == {MOVES, SHRINKS, NO_ID}


def test_what_is_not_known_counts_as_seen(made):
    [recording] = made().recordings["train"]
    assert NEW in ids_seen(recording, 850_000, 1_000_000, 100)
    # The first label of all: nothing is known of what was before.
    first = int(recording.frame_end_us[0])
    assert ids_seen(recording, first, 100_000, 100) == {STANDS, STOPS, MOVES, SHRINKS, NO_ID}


@pytest.mark.parametrize("sampling", ["random", "stream", "mixed"])
def test_only_random_chunks_leave_labels_out_and_their_frames_stay_labelled(made, sampling):
    batches = {
        least: list(made(sampling=sampling, least_motion_px=least).train_dataloader())
        for least in (0.0, 1.5, 100.0)
    }
    left_out = 0
    for every, some, few in zip(*batches.values(), strict=True):
        assert every.labels.frame.tolist() == some.labels.frame.tolist()
        assert every.labels.frame.tolist() == few.labels.frame.tolist()
        for n, frame in enumerate(every.labels.frame.tolist()):
            all_ids, ids, few_ids = (
                x.labels.tracks[n][x.labels.valid[n]].tolist() for x in (every, some, few)
            )
            assert STANDS in all_ids
            if every.stream[frame % 2]:
                assert ids == few_ids == all_ids
                continue
            left_out += STANDS not in ids
            assert NO_ID in few_ids
            # The first label time has none before it.
            assert (STANDS in few_ids) == (every.time_us[divmod(frame, 2)] == TIMES[0])
    assert (left_out > 3) == (sampling != "stream")


def test_boxes_without_track_ids_are_pointed_out(made, tmp_path, caplog):
    path = tmp_path / "train" / "train_day_1_bbox.npy"
    made(least_motion_px=1.5)
    assert "least_motion_px" not in caplog.text
    boxes = np.load(path)
    boxes["track_id"] = 0
    np.save(path, boxes)
    with caplog.at_level("INFO", logger="etram_det"):
        made(least_motion_px=1.5)
    assert [line for line in caplog.messages if "least_motion_px" in line] == [
        "train: train_day_1: its boxes have no track ids, so that data.least_motion_px leaves none "
        "out"
    ]


def test_least_motion_is_not_negative(made):
    with pytest.raises(UserError, match="data.least_motion_px: must be at least 0, got -1"):
        made(least_motion_px=-1.0)
