from pathlib import Path

import pytest

from etram_det.data.box_formats.naming import (
    BAD_TIME,
    CHOSEN_CLASS,
    NO_MATCH,
    NO_TIME,
    UNKNOWN_CLASS,
    ClassSettings,
    NamedImage,
    TimeSettings,
    places_of,
    recording_of,
)
from etram_det.errors import UserError

FILE = Path("folder/val_day_0001_coco.json")


def places(names, facts=None, all_listed=True, **times):
    images = [NamedImage(name, facts or {}) for name in names]
    return places_of(images, TimeSettings(**times), FILE, all_listed=all_listed)


@pytest.mark.parametrize(
    ("name", "times", "place"),
    [
        ("a/1500000.png", {"pattern": "{recording}/{time}.png"}, ("a", 1_500_000)),
        ("x/a/1500000.png", {"pattern": "{recording}/{time}"}, ("a", 1_500_000)),
        ("a_b_1500.jpg", {"pattern": "{recording}_{time}", "unit": "ms"}, ("a_b", 1_500_000)),
        ("a_1.5.jpg", {"pattern": "{recording}_{time}.jpg", "unit": "s"}, ("a", 1_500_000)),
        ("a\\1500000.png", {"pattern": "{recording}/{time}.png"}, ("a", 1_500_000)),
        ("a/left_00012_x.png", {"pattern": "{recording}/*_{index}_x", "rate": 20}, ("a", 600_000)),
        ("12", {"pattern": "{index}", "rate": 30}, ("val_day_0001", 400_000)),
        (
            "a/3.png",
            {"pattern": "{recording}/{index}.png", "rate": 10, "start_us": 5},
            ("a", 300_005),
        ),
        ("a.b/3.png", {"pattern": "{recording}/{index}.png", "rate": 10}, ("a.b", 300_000)),
        ("a/b.png", {"pattern": "{recording}/{time}.png"}, NO_MATCH),
        ("frame_000003.png", {}, NO_TIME),
    ],
)
def test_a_pattern_gives_recording_and_time(name, times, place):
    assert places([name], **times) == [place]


def test_times_of_an_index_do_not_drift():
    names = [f"{i}.png" for i in range(200_001)]
    found = places(names[-1:], pattern="{index}", rate=29.97)
    assert found == [("val_day_0001", round(200_000 / 29.97 * 1e6))]


@pytest.mark.parametrize(
    ("facts", "times", "place"),
    [
        ({"t": 7}, {}, ("val_day_0001", 7)),
        ({"ts": "7"}, {}, ("val_day_0001", 7)),
        ({"t": 7, "recording": "b"}, {}, ("b", 7)),
        ({"t": 0.25}, {"unit": "s"}, ("val_day_0001", 250_000)),
        ({"stamp": 250}, {"column": "stamp", "unit": "ms"}, ("val_day_0001", 250_000)),
        ({"frame_id": 5}, {"rate": 10}, ("val_day_0001", 500_000)),
        ({"frame": 3.0}, {"rate": 10}, ("val_day_0001", 300_000)),
        ({"frame": "3.0"}, {"rate": 10}, ("val_day_0001", 300_000)),
        ({"frame": None, "frame_id": 3}, {"rate": 10}, ("val_day_0001", 300_000)),
        ({"frame": None}, {"rate": 10}, ("val_day_0001", 0)),
        ({"frame": 3.5}, {"rate": 10}, BAD_TIME),
        ({"frame": "third"}, {"rate": 10}, BAD_TIME),
        ({"frame": -1}, {"rate": 10}, BAD_TIME),
        ({"frame": 10**400}, {"rate": 10}, BAD_TIME),
        ({"t": 7}, {"pattern": "{recording}_*"}, ("x", 7)),
        ({"t": "soon"}, {}, BAD_TIME),
        ({"t": None}, {}, NO_TIME),
        ({"t": float("nan")}, {}, BAD_TIME),
        ({"t": float("inf")}, {}, BAD_TIME),
        ({"t": "1e999999999"}, {}, BAD_TIME),
        ({"t": "2/3"}, {}, BAD_TIME),
        ({"t": 10**40}, {}, BAD_TIME),
        ({"t": 7}, {"column": "stamp"}, NO_TIME),
    ],
)
def test_keys_of_images_give_recording_and_time(facts, times, place):
    assert places(["x_y.png"], facts, **times) == [place]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a_coco.json", "a"),
        ("a_td_bbox.npy", "a"),
        ("a.csv", "a"),
        ("bbox.npy", "bbox"),
        ("a/object_detections/left/tracks.npy", "a"),
    ],
)
def test_files_are_named_after_recordings(file, name):
    assert recording_of(Path(file)) == name


def test_an_image_named_by_its_time_names_its_recording():
    assert places(["night_2_7.png"], {"t": 7}) == [("night_2", 7)]


@pytest.mark.parametrize(
    ("facts", "times"),
    [
        ([{"t": 0}, {"t": 50_000}], {}),
        ([{"t": 0}, {"t": 0}], {"pattern": "frame_{time}", "unit": "s"}),
        ([{}, {}], {"pattern": "frame_{index}", "rate": 20}),
        ([{}, {}], {"rate": 20}),
        ([{"frame": 0}, {"frame": 1}], {"rate": 20}),
        ([{"stamp": 0}, {"stamp": 1}], {"column": "stamp"}),
    ],
)
def test_an_image_whose_number_is_its_time_by_chance_names_no_recording(facts, times):
    """The first image of a file is at time 0 under any rate."""
    names = ["frame_0.png", "frame_1.png"]
    images = [NamedImage(name, of) for name, of in zip(names, facts, strict=True)]
    found = places_of(images, TimeSettings(**times), FILE, all_listed=True)
    assert [recording for recording, _ in found] == ["val_day_0001"] * 2


def test_an_image_without_an_index_beside_others_is_not_placed():
    images = [NamedImage("a.png", {"frame": 7}), NamedImage("b.png")]
    found = places_of(images, TimeSettings(rate=10), FILE, all_listed=True)
    assert found == [("val_day_0001", 700_000), NO_TIME]


@pytest.mark.parametrize(
    ("folders", "recordings"),
    [
        (["seq0/images", "seq1/images"], ["seq0", "seq1"]),
        (["day/seq0/cam/images", "day/seq1/cam/images"], ["seq0", "seq1"]),
        (["train/a", "val/b"], ["a", "b"]),
        (["a/x", "a/y", "b/x"], ["a/x", "a/y", "b/x"]),
        (["images", "a/images"], ["images", "a/images"]),
        (["a\\images", "b/images"], ["a", "b"]),
        (["images", "images"], ["val_day_0001", "val_day_0001"]),
    ],
)
def test_images_of_several_folders_are_of_several_recordings(folders, recordings):
    found = places([f"{folder}/000.png" for folder in folders], rate=10)
    assert [recording for recording, _ in found] == recordings


def test_the_place_is_an_index_where_all_images_are_listed():
    names = ["a/x.png", "b/x.png", "a/y.png"]
    assert places(names, rate=10) == [("a", 0), ("b", 0), ("a", 100_000)]
    assert places(["x.png", "y.png"], rate=10, start_us=3) == [
        ("val_day_0001", 3),
        ("val_day_0001", 100_003),
    ]
    assert places(names, rate=10, all_listed=False) == [NO_TIME] * 3


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"pattern": "{index}"}, "times.rate: must be set for a pattern with {index}, got none"),
        ({"pattern": "{name}_{time}"}, "times.pattern: must have {recording}, and {time} or"),
        ({"pattern": "{time}_{time}"}, "times.pattern: must have {recording}, and {time} or"),
        ({"pattern": "*.png"}, "times.pattern: must have {recording}, and {time} or"),
        ({"rate": 0}, "times.rate: must be above 0, got 0: set images a second"),
    ],
)
def test_time_settings_that_do_not_fit_are_refused(times, message):
    with pytest.raises(UserError) as error:
        TimeSettings(**times)
    assert message in str(error.value)


def test_classes_by_name_id_and_map():
    classes = ClassSettings(class_map={"person": "Pedestrian", "dog": None, "9": "car"})
    assert classes.class_id("pedestrian") == 0
    assert classes.class_id("Motorbike ") == 4
    assert classes.class_id("PERSON") == 0
    assert classes.class_id("dog") is CHOSEN_CLASS
    assert classes.class_id("cat") is UNKNOWN_CLASS
    renamed = ClassSettings(class_map={"wheelchair": None, "Car": "bus"})
    assert [renamed.class_id(None, number) for number in (7, "7.0", 1, 0)] == [
        CHOSEN_CLASS,
        CHOSEN_CLASS,
        3,
        0,
    ]
    assert [classes.class_id(None, number) for number in (7, "7", "7.0", 9, 8, -1, None)] == [
        7,
        7,
        7,
        1,
        UNKNOWN_CLASS,
        UNKNOWN_CLASS,
        UNKNOWN_CLASS,
    ]
    two_words = ClassSettings(("two wheeler",))
    assert two_words.class_id("Two_Wheeler") == two_words.class_id("two-wheeler") == 0


def test_a_class_map_must_lead_to_classes():
    message = r"class_map: must map to a, b or null, got c: use one of these, or set class_names"
    with pytest.raises(UserError, match=message):
        ClassSettings(("a", "b"), {"x": "c"})
