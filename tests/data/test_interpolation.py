"""Labels for training between the label times, and the phases of these."""

import numpy as np
import pytest

from etram_det.boxes import NO_TRACK, corners
from etram_det.data.datamodule import EventDataModule
from etram_det.data.interpolation import TrainingLabels, labels_between, why_none_between
from etram_det.data.label_times import label_phases, label_times, notes_on_interval
from etram_det.data.labels import LabelSettings
from etram_det.data.layouts import find_recordings
from etram_det.data.preprocessing import preprocess
from etram_det.data.representation import FrameSettings
from support.raw_files import boxes_at, random_events, write_raw

FRAMES = FrameSettings(input_size=(24, 32))
TIMES_30_HZ = np.arange(61) * 100_000 // 3
BOTH = TrainingLabels(interpolate_labels=True)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "user_cache"))


def track(times, track_id=1, speed_px_s=10.0, **values):
    """Boxes of an object that moves to the right."""
    boxes = boxes_at(times, **values)
    boxes["x"] += speed_px_s * np.asarray(times) / 1e6
    boxes["track_id"] = track_id
    return boxes


def by_time(*tracks):
    boxes = np.concatenate(tracks)
    return boxes[np.argsort(boxes["t"], kind="stable")]


def between(boxes, *end_us, tolerance_us=2000):
    frame, made = labels_between(boxes, boxes["t"], np.array(end_us, np.int64), tolerance_us)
    return list(zip(frame.tolist(), made["track_id"].tolist(), strict=True)), made


def recordings(root, frames=FRAMES, split="train", **settings):
    return find_recordings(root, split, frames, LabelSettings(**settings))


def iou(one, other):
    one, other = corners(one), corners(other)
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    common = (high - low).clip(0).prod(axis=1)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (one, other)]
    return common / (areas[0] + areas[1] - common)


def test_every_second_label_of_a_smooth_track_can_be_left_out():
    turn = TIMES_30_HZ / 1e6
    boxes = track(TIMES_30_HZ, w=24, h=18)
    boxes["x"] += 40 * np.sin(2 * turn)  # up to 90 px/s, changing by 160 px/s²
    boxes["y"] += 30 * turn**2
    boxes["w"] *= np.exp(0.4 * turn)
    places, made = between(boxes[::2], *TIMES_30_HZ[1::2])
    assert places == [(i, 1) for i in range(30)]
    assert made["t"].tolist() == TIMES_30_HZ[1::2].tolist()
    overlap = iou(made, boxes[1::2])
    assert overlap.min() > 0.985
    assert overlap.mean() > 0.99
    # The label before it is a worse guess.
    assert iou(boxes[:-1:2], boxes[1::2]).mean() < 0.9


def test_boxes_lie_on_the_line_between_their_neighbours():
    boxes = track([100_000, 140_000], x=10, y=8, w=20, h=16)
    boxes[1]["y"], boxes[1]["w"], boxes[1]["h"] = 12, 28, 12
    _, made = between(boxes, 110_000)
    [box] = made
    sides = [box[name] for name in "xywh"]
    assert sides == pytest.approx([11.1, 9, 22, 15])
    assert (box["t"], box["class_id"], box["track_id"]) == (110_000, 0, 1)


def test_no_box_is_made_where_a_track_begins_ends_pauses_or_changes():
    times = [0, 40_000, 80_000, 120_000]
    whole = track(times, 1)
    pauses, ends = track([0, 80_000, 120_000], 2), track(times[:2], 3)
    boxes = by_time(whole, pauses, ends)
    places, _ = between(boxes, 20_000, 60_000, 100_000)
    assert places == [(0, 1), (0, 3), (1, 1), (2, 1), (2, 2)]
    outside, _ = between(boxes, -20_000, 140_000, 1_000_000)
    assert outside == []  # nothing is continued beyond its labels
    changes = track(times, 4)
    changes["class_id"][2:] = 1
    assert between(by_time(whole, changes), 20_000, 60_000, 100_000)[0] == [
        *[(0, 1), (0, 4), (1, 1), (2, 1), (2, 4)]
    ]


def test_label_times_that_are_missing_are_a_gap():
    times = [0, 40_000, 80_000, 160_000, 200_000, 2_000_000]
    assert between(track(times), 20_000, 120_000, 180_000, 1_000_000)[0] == [(0, 1), (2, 1)]
    assert between(track(np.arange(4) * 150_000), 75_000, 200_000)[0] == [(0, 1), (1, 1)]
    assert between(track(np.arange(4) * 151_000), 75_000, 200_000)[0] == []


def test_ends_at_a_label_time_take_its_boxes():
    boxes = by_time(track([0, 40_000, 80_000], 1), track([40_000], 2), track([40_000], 3))
    places, made = between(boxes, 0, 39_000, 60_000, 83_000)
    assert places == [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1)]
    assert made["t"].tolist() == [0, 40_000, 40_000, 40_000, 60_000]
    assert between(boxes[:0], 0, 50_000)[0] == []
    assert between(boxes[:1], 0, 50_000)[0] == [(0, 1)]


def test_ids_that_boxes_of_a_time_share_are_no_tracks():
    times = np.arange(20) * 40_000
    shared = by_time(track(times, 0), track(times, 0, y=30))
    assert between(shared, 20_000)[0] == []
    few = by_time(*(track(times, i) for i in range(10)), track(times[:2], 3))
    assert [i for _, i in between(few, 20_000)[0]] == [0, 1, 2, *range(4, 10)]


def test_training_labels_every_frame_of_a_recording(tmp_path):
    boxes = by_time(track(TIMES_30_HZ, 5), track(TIMES_30_HZ[10:], 6, y=30))
    write_raw(tmp_path / "train", "a", random_events(2000, 2.0), boxes)
    [before], [recording] = recordings(tmp_path), recordings(tmp_path)
    recording.label_for_training(BOTH)
    assert recording.frame_end_us.tolist() == before.frame_end_us.tolist()
    assert before.labelled.tolist() == [False, True] * 20
    assert recording.labelled.all()
    for frame in range(40):
        found, classes = recording.boxes(frame)
        end_s = recording.frame_end_us[frame] / 1e6
        assert len(classes) == (1 if end_s < 0.33 else 2)
        left = (10 + 10 * end_s) / 2
        assert found[0, 0] == pytest.approx(left, abs=0.01)
    at_label = [i for i in range(40) if before.labelled[i]]
    kept = np.isin(recording.label_frame, at_label)
    np.testing.assert_array_equal(recording.label_boxes[kept], before.label_boxes)


def test_labels_made_are_cropped_and_filtered(tmp_path):
    leaving = track(TIMES_30_HZ, 5, speed_px_s=60.0, x=-10, w=40)
    small = track(TIMES_30_HZ, 6, w=3, speed_px_s=0)
    write_raw(tmp_path / "train", "a", random_events(2000, 2.0), by_time(leaving, small))
    [recording] = recordings(tmp_path, filters=["min_side_5"])
    dropped = dict(recording.dropped)
    recording.label_for_training(BOTH)
    assert set(recording.label_boxes["track_id"]) == {5}
    right = recording.label_boxes["x"] + recording.label_boxes["w"]
    assert (recording.label_boxes["x"].min(), right.max()) == (0, 63)
    assert recording.label_boxes["w"].min() >= 5
    end_s = recording.frame_end_us[recording.label_frame] / 1e6
    expected = (60 * end_s - 10).clip(0)
    np.testing.assert_allclose(recording.label_boxes["x"], expected, atol=0.02)
    assert recording.dropped == dropped  # counts are of the labels on disk


@pytest.mark.parametrize("layout", ["sparse", "rvt"])
def test_stored_frames_are_labelled_by_the_boxes_stored_with_them(tmp_path, layout):
    boxes = track(TIMES_30_HZ, 5)
    write_raw(tmp_path / "raw" / "train", "a", random_events(2000, 2.0), boxes)
    frames = FrameSettings(input_size=(24, 32), downsample="nearest")
    preprocess(tmp_path / "raw", tmp_path / layout, frames, LabelSettings(), layout, workers=1)
    [recording] = recordings(tmp_path / layout, frames)
    assert recording.labelled.tolist() == [False, True] * 20
    recording.label_for_training(TrainingLabels(True, "random"))
    assert recording.labelled.tolist() == [False] + [True] * 39  # none is before the first label
    end_s = recording.frame_end_us[1:] / 1e6
    np.testing.assert_allclose(recording.label_boxes["x"], 10 + 10 * end_s, atol=0.01)
    assert len(recording.phases) == 1
    note = "data.label_phase: random has no effect on frames that are stored already"
    assert note in [each.message for each in recording.notes]


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        (
            by_time(track(TIMES_30_HZ, 0), track(TIMES_30_HZ, 0, y=20)),
            "its boxes have no track ids that last from one label time to the next",
        ),
        (track(np.arange(1, 9) * 200_000), "its labels lie 200 ms apart, more than 150 ms"),
        (track([200_000]), "it has a single label time"),
    ],
)
def test_what_cannot_be_interpolated_is_a_warning(tmp_path, boxes, reason):
    write_raw(tmp_path / "train", "a", random_events(2000, 2.0), boxes)
    [recording] = recordings(tmp_path)
    labelled = recording.labelled.tolist()
    recording.label_for_training(BOTH)
    assert recording.labelled.tolist() == labelled
    [note] = [each for each in recording.notes if each.kind == "interpolation"]
    assert note.doubtful
    assert note.message == (
        f"{reason}, so that data.interpolate_labels adds no labels to it: correct its boxes, or "
        "set data.interpolate_labels to false"
    )


def test_an_interval_that_few_labels_match_is_a_warning(tmp_path):
    write_raw(tmp_path / "train", "a", random_events(2000, 2.0), track(TIMES_30_HZ))
    [recording] = recordings(tmp_path, interval_ms=50)
    [note] = [each for each in recording.notes if each.doubtful]
    assert note.message == (
        "its labels, 33 ms apart, match data.interval_ms 50 every 100 ms only, at 20 times and not "
        "at 39: set it to 100, and data.interpolate_labels to train on all windows"
    )
    recording.label_for_training(BOTH)
    assert recording.labelled.all()
    assert not [each for each in recording.notes if each.doubtful]
    # Pauses, and labels as rare as they are used, are as they should be.
    pauses = np.concatenate([TIMES_30_HZ[:20], TIMES_30_HZ[20:40] + 9_000_000])
    for times, interval_ms in ((pauses, 100), (np.arange(1, 20) * 100_000, 50)):
        write_raw(tmp_path / "train", "a", random_events(20_000, 11.0), track(times))
        [recording] = recordings(tmp_path, interval_ms=interval_ms)
        assert not [each for each in recording.notes if each.doubtful]


@pytest.mark.parametrize(
    ("times", "interval_ms", "jitter_ms", "line"),
    [
        (
            np.arange(1, 60) * 33_333,
            100,
            0,
            "its labels, 33 ms apart, match data.interval_ms 100 at 1 time and not at 19: set "
            "data.jitter_ms higher, and data.interpolate_labels to train on all windows",
        ),
        (
            np.arange(1, 40) * 52_500,
            100,
            2,
            "its labels, 52 ms apart, match data.interval_ms 100 at 1 time and not at 20: set ",
        ),
        (
            np.arange(1, 200) * 45_000,
            100,
            2,
            "its labels, 45 ms apart, match data.interval_ms 100 every 900 ms only, at 10 times "
            "and not at 89: set it to 900, ",
        ),
    ],
)
def test_labels_that_hardly_ever_match_are_a_warning(times, interval_ms, jitter_ms, line):
    used = label_times(times, interval_ms * 1000, jitter_ms * 1000)
    [note] = notes_on_interval(used, times, interval_ms)
    assert note.message.startswith(line)


def test_irregular_labels_get_no_interval_that_they_do_not_have():
    times = np.sort(np.random.default_rng(0).choice(5_000_000, 150, replace=False))
    [note] = notes_on_interval(label_times(times, 100_000, 2000), times, 100)
    assert ": set data.jitter_ms higher, and" in note.message
    # A label after a long pause is no reason for a warning.
    late = np.append(np.arange(1, 31) * 100_000, 9_050_000)
    assert not notes_on_interval(label_times(late, 100_000, 2000), late, 100)


def phases_of(times_us, interval_us=100_000):
    first = label_times(times_us, interval_us, 2000)
    random = TrainingLabels(label_phase="random")
    assert label_phases(first, times_us, interval_us, 2000, TrainingLabels()) == [first]
    return label_phases(first, times_us, interval_us, 2000, random)


@pytest.mark.parametrize(("rate_hz", "number"), [(10, 1), (20, 2), (25, 5), (30, 3), (60, 6)])
def test_phases_use_every_label_once(rate_hz, number):
    times = np.arange(1, 121) * 1_000_000 // rate_hz
    phases = phases_of(times)
    assert len(phases) == number
    used = sorted(time for phase in phases for time in phase)
    assert used == [time for time in times.tolist() if time >= phases[0][0]]


def test_a_time_that_few_others_follow_is_no_phase():
    times = np.sort(np.append(np.arange(1, 31) * 100_000, 133_000))
    assert len(phases_of(times)) == 1
    assert len(phases_of(np.array([100_000]))) == 1


@pytest.fixture
def root(tmp_path):
    for split, number in (("train", 3), ("val", 1)):
        for i in range(number):
            boxes = track(TIMES_30_HZ[: 61 - 7 * i], i + 1)
            events = random_events(4000, 2.0, seed=i)
            write_raw(tmp_path / "raw" / split, f"{split}_{i}", events, boxes)
    return str(tmp_path / "raw")


def module(root, **settings):
    data = EventDataModule(
        root=root, input_size=(24, 32), num_steps=4, train_lanes=2, num_workers=0, **settings
    )
    data.setup("fit")
    return data


def epochs(data, number=9):
    loader = data.train_dataloader()
    for epoch in range(number):
        loader.batch_sampler.set_epoch(epoch)
        yield [
            (batch.recording, batch.time_us.tolist(), batch.labels.boxes.tolist())
            for batch in loader
        ]


def test_boxes_without_ids_are_no_tracks():
    times = np.arange(0, 1_000_000, 100_000)
    apart = track(times, track_id=0)  # one car leaves, and another one comes
    assert labels_between(apart, times, np.array([50_000]), 0)[0].size == 0
    assert why_none_between(apart, times) == (
        "its boxes have no track ids that last from one label time to the next"
    )


def test_a_box_without_an_id_is_on_no_track_where_others_have_one():
    times = np.arange(0, 400_000, 100_000)
    zero, one = track(times, track_id=0), track(times, track_id=5)
    lone = [track([at], track_id=NO_TRACK, x=x) for at, x in ((100_000, 5), (200_000, 40))]
    assert between(by_time(zero, one, *lone), 150_000)[0] == [(0, 0), (0, 5)]


def test_only_training_is_labelled_between_the_label_times(root):
    plain, data = module(root), module(root, interpolate_labels=True)
    for split, share in (("train", 1.0), ("val", 0.5)):
        for recording in data.recordings[split]:
            assert recording.labelled.mean() == share
    batch = next(iter(data.train_dataloader()))
    assert len(batch.labels) == int((~batch.padded).sum())
    # The subset, lengths and frames are the same.
    lengths = [[len(each) for each in one.recordings["train"]] for one in (plain, data)]
    assert lengths[0] == lengths[1]


@pytest.mark.gate
@pytest.mark.parametrize("sampling", ["stream", "random", "mixed"])
def test_each_epoch_draws_the_label_times_of_each_recording(root, sampling):
    data = module(root, label_phase="random", sampling=sampling)
    assert [len(each.phases) for each in data.recordings["train"]] == [3, 3, 3]
    seen = list(epochs(data))
    assert {len(batches) for batches in seen} == {len(seen[0])}
    orders = set()
    for recording in data.recordings["train"]:
        drawn = []
        for batches in seen:
            ends = {
                row[names.index(recording.name)]
                for names, time_us, _ in batches
                for row in time_us
                if recording.name in names
            } - {-1}
            phases = [set(phase.frame_end_us.tolist()) for phase in recording.phases]
            drawn += [place for place, each in enumerate(phases) if ends <= each]
        assert len(drawn) == len(seen)
        assert sorted(drawn[:3]) == sorted(drawn[3:6]) == sorted(drawn[6:]) == [0, 1, 2]
        orders.add(tuple(drawn))
    assert len(orders) == 3
    assert list(epochs(data, 3)) == seen[:3]
    other = module(root, label_phase="random", sampling=sampling, seed=1)
    assert list(epochs(other, 3)) != seen[:3]


def test_resuming_in_an_epoch_draws_the_same_phases(root):
    data = module(root, label_phase="random", interpolate_labels=True)
    *_, last = epochs(data, 4)
    data.resume_at = (3, 2)
    resumed = [
        (batch.recording, batch.time_us.tolist(), batch.labels.boxes.tolist())
        for batch in data.train_dataloader()
    ]
    assert resumed == last[2:]
