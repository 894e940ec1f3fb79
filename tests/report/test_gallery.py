"""What became of labels, and the pictures of what went wrong."""

import cv2
import numpy as np
import pytest

from etram_det.drawing.frames import CLASS_COLOURS
from etram_det.metrics.confusion import confusion_matrix, outcomes_by_size
from etram_det.report import gallery
from etram_det.report.gallery import PICTURE_SIZE
from support.small_evaluation import HEIGHT, WIDTH, evaluated, gallery_of

# What is counted


def test_outcomes_by_size_by_hand():
    pairing = evaluated().pairing(score_threshold=0.3)
    # The bus that was found at 0.2 counts as missed, the car was taken for a bus.
    assert confusion_matrix(pairing, 3).tolist() == [
        [2, 0, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 3],
        [0, 2, 0, 0],
    ]
    bounds, counts = outcomes_by_size(pairing, 3)
    # Pedestrians have 200 px², cars 1600 and 1640, buses 13000 to 14200.
    assert bounds.tolist() == [2.0**k for k in range(7, 15)]
    found, other_class, missed = counts
    assert found[0].tolist() == [2, 0, 0, 0, 0, 0, 0]
    assert (found[1].tolist(), other_class[1].tolist()) == ([0, 0, 0, 1, 0, 0, 0],) * 2
    assert missed[2].tolist() == [0, 0, 0, 0, 0, 0, 3]
    assert counts.sum() == 7


def test_outcomes_of_boxes_without_area_or_labels():
    frames = [("a", 0, [((5, 5, 5, 9), 0)], [((0, 0, 9, 9), 0, 0.9)])]
    bounds, counts = outcomes_by_size(evaluated(frames).pairing(score_threshold=0.5), 3)
    assert (bounds.tolist(), counts[2, 0].tolist()) == ([1, 2], [1])
    nothing = evaluated(frames, protocol="prophesee").pairing(score_threshold=0.5)
    bounds, counts = outcomes_by_size(nothing, 3)
    assert (bounds.tolist(), counts.sum()) == ([1, 2], 0)


# Pictures of what went wrong


def test_gallery_shows_the_worst_of_each_class_and_says_what_is_near(tmp_path):
    gallery = gallery_of(evaluated()).write(tmp_path)
    misses, alarms = gallery["misses"], gallery["false_alarms"]
    # The larger bus of the first recording stands for that of a second before.
    assert [(each["recording"], each["time_us"]) for each in misses] == [
        ("val_day_0001", 2_000_000),
        ("val_night_0002", 1_000_000),
    ]
    assert misses[0]["class"] == "<b>bus</b>"
    assert misses[0]["box"] == [150, 20, 292, 120]
    assert misses[0]["active"] == pytest.approx(10 * 70 / (142 * 100))
    assert misses[0]["closest"] is None
    assert misses[1]["active"] == pytest.approx(10 * 70 / (130 * 100))
    assert [each["score"] for each in alarms] == pytest.approx([0.7, 0.5])
    assert alarms[0]["closest"] is None
    assert alarms[1]["closest"]["class"] == "car"
    assert alarms[1]["closest"]["iou"] == pytest.approx(38 * 28 / (40 * 41))
    for each in misses + alarms:
        picture = cv2.imread(str(tmp_path / each["file"]))
        assert picture.shape == (*PICTURE_SIZE, 3)
    # Pictures of an earlier evaluation are gone, those of others are not.
    (tmp_path / "gallery" / "holiday_01.png").write_bytes(b"")
    gallery_of(evaluated(), number=1).write(tmp_path)
    names = {path.name for path in (tmp_path / "gallery").iterdir()}
    assert names == {"found_00.png", "miss_00.png", "false_alarm_00.png", "holiday_01.png"}


def test_gallery_shows_good_detections_best_first(tmp_path):
    found = gallery_of(evaluated()).write(tmp_path)["found"]
    # The pedestrian a second later would be too near in time; the bus was a car.
    assert [(each["class"], each["recording"]) for each in found] == [
        ("pedestrian", "val_day_0001"),
        ("car", "val_night_0002"),
    ]
    assert [each["score"] for each in found] == pytest.approx([0.9, 0.6])
    assert found[0]["closest"] == {"class": "pedestrian", "score": 1.0, "iou": 1.0}
    # Score times IoU decides: 0.8 * 1 before 0.9 * 0.75.
    frames = [
        (name, 0, [((0, 0, 40, 40), 1)], [((0, 0, 40, 10 * tens), 1, score)])
        for name, tens, score in (("a", 3, 0.9), ("b", 4, 0.8))
    ]
    boxes = gallery_of(evaluated(frames), number=1).found()
    assert boxes.scores.tolist() == pytest.approx([0.8])


def test_gallery_lets_classes_and_recordings_take_turns_and_keeps_apart_in_time():
    frames = []
    for recording in ("a", "b"):
        for tenth in range(50):  # 5 s of one car that grows, one pedestrian
            labels = [((0, 0, 40 + tenth / 10, 40), 1), ((60, 0, 66, 12), 0)]
            frames.append((recording, tenth * 100_000, labels, [((200, 90, 210, 99), 0, 0.1)]))
    result = evaluated(frames)
    misses = gallery_of(result, number=6).misses()
    of = [(result.frames.recording[f], result.frames.time_us[f] / 1e6) for f in misses.frame]
    assert misses.classes.tolist() == [1, 0, 1, 0, 1, 0]
    cars = [place for place, own in zip(of, misses.classes, strict=True) if own == 1]
    assert [recording for recording, _ in cars[:2]] in (["a", "b"], ["b", "a"])
    assert cars[0][1] == cars[1][1] == pytest.approx(4.9)
    assert cars[2][1] == pytest.approx(2.9)


def test_gallery_prefers_misses_with_events():
    frames = [
        ("a", 0, [((170, 100, 250, 170), 1)], [((0, 0, 9, 9), 0, 0.1)]),
        ("b", 0, [((10, 10, 60, 60), 1)], [((0, 0, 9, 9), 0, 0.1)]),
    ]
    result = evaluated(frames)
    # The larger one stands still, without events.
    [shown_first] = gallery_of(result, number=1).misses().boxes.tolist()
    assert shown_first == [10, 10, 60, 60]


def test_pictures_show_the_box_at_any_place_and_size(tmp_path):
    """A pixel of events in the box's upper left corner lies within its brackets."""
    boxes = [(0, 0, 8, 8), (312, 172, 320, 180), (0, 40, 320, 140), (-20, 50, 30, 90)]
    for i, box in enumerate([*boxes, (0, 0, 0, 0)]):
        # More detections than are drawn, in a row along the bottom.
        found = [((9 * n, 170, 9 * n + 8, 178), 0, 0.9) for n in range(30)]
        frames = [("a", 0, [(box, 1)], found)]

        def draw(recording, time_us, box=box):
            picture, scale = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.ones(2)
            left, top = max(box[0], 0) + 3, max(box[1], 0) + 3
            picture[top : top + 2, left : left + 2] = (255, 0, 0)
            return picture, scale

        gallery_of(evaluated(frames), draw=draw).write(tmp_path / str(i))
        picture = cv2.imread(str(tmp_path / str(i) / "gallery" / "miss_00.png"))
        red = (picture[..., 2] > 200) & (picture[..., 0] < 50)
        assert red.any(), box


def test_nothing_lies_over_the_name_of_the_box_in_question(tmp_path, monkeypatch):
    """Whatever is drawn before it: the picture with brackets has the name of that without."""
    frames = [("a", 0, [((250, 150, 300, 170), 1)], [((100, 60, 180, 120), 0, 0.9)])]

    def picture(name):
        gallery_of(evaluated(frames)).write(tmp_path / name)
        return cv2.imread(str(tmp_path / name / "gallery" / "false_alarm_00.png"))

    with_brackets = picture("with")
    monkeypatch.setattr(gallery, "_draw_brackets", lambda *_: None)
    without = picture("without")
    is_bracket = (with_brackets != without).any(axis=2)
    assert is_bracket.any()
    colour = without[tuple(np.argwhere(is_name(without))[0])]
    assert (with_brackets[is_name(without)] == colour).all()


def is_name(picture):
    """The ground of a name: pixels of the colour of the outline in rows that it fills."""
    outline = np.array(CLASS_COLOURS[0])[::-1]
    of_class = (picture == outline).all(axis=2)
    filled = of_class.sum(axis=1) > 20
    return of_class & filled[:, None]
