import json

import numpy as np
import pytest

from etram_det.data.box_formats.coco import (
    BAD_TRACK,
    NO_BOX,
    NO_SCORE,
    NOT_LISTED,
    SAME_ID,
    UNKNOWN_IMAGE,
    coco_table,
    listing_of,
    load_coco,
    shortest,
)
from etram_det.data.box_formats.naming import (
    NO_TIME,
    UNKNOWN_CLASS,
    ClassSettings,
    TimeSettings,
)
from etram_det.errors import UserError

IMAGES = [
    {"id": 20, "file_name": "b_5", "t": 5},
    {"id": 3, "file_name": "a_9", "t": 9},
    {"id": 4, "file_name": "a_7", "t": 7},
]
CATEGORIES = [{"id": 1, "name": "Car"}, {"id": 2, "name": "pedestrian"}, {"id": 5, "name": "dog"}]


def annotation(image, category=1, box=(1, 2, 3, 4), **others):
    return {"image_id": image, "category_id": category, "bbox": list(box), **others}


def table_of(tmp_path, content, scored=False, listing=None, times=None):
    path = tmp_path / "labels_coco.json"
    path.write_text(json.dumps(content))
    return coco_table(
        load_coco(path),
        path,
        ClassSettings(),
        times or TimeSettings(),
        scored=scored,
        listing=listing,
    )


def test_ground_truth(tmp_path):
    boxes = [
        annotation(3, track_id=8),
        annotation(20, 2, box=(0.1, 0.2, 0.3, 0.4), iscrowd=1),
        annotation(3, 2, attributes={"track_id": 4}),
    ]
    content = {"images": IMAGES, "annotations": boxes, "categories": CATEGORIES}
    table, left_out = table_of(tmp_path, content)
    assert table.recording.tolist() == ["a", "a", "b"]
    assert table.time_us.tolist() == [7, 9, 5]  # that of id 4 is there without boxes
    assert table.frame.tolist() == [1, 1, 2]
    assert table.boxes.tolist() == [[1, 2, 3, 4], [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]]
    assert table.classes.tolist() == [1, 0, 0]
    assert table.tracks.tolist() == [8, 4, -1]
    assert table.scores.tolist() == [1, 1, 1]
    assert table.crowd.tolist() == [False, False, True]
    assert not left_out.counts


def test_labels_need_no_score(tmp_path):
    boxes = [annotation(3, score=score) for score in (None, "", 0.5, "high")]
    content = {"images": IMAGES, "annotations": boxes, "categories": CATEGORIES}
    table, left_out = table_of(tmp_path, content)
    assert table.scores.tolist() == [1, 1, 0.5]
    assert left_out.counts == {NO_SCORE: 1}
    assert table_of(tmp_path, content, scored=True)[1].counts == {NO_SCORE: 3}


def test_results_take_images_and_categories_of_the_ground_truth(tmp_path):
    content = {"images": IMAGES, "annotations": [], "categories": CATEGORIES}
    listing = listing_of(content, tmp_path / "gt.json", TimeSettings())
    results = [annotation(4, score=0.25), annotation(20, 2, score=0.5)]
    table, _ = table_of(tmp_path, results, True, listing)
    assert table.frame.tolist() == [0, 2]
    assert table.classes.tolist() == [1, 0]
    assert table.scores.tolist() == [0.25, 0.5]


def test_ids_of_results_alone_are_names_or_indices(tmp_path):
    results = [annotation("a_7", 3, score=0.5), annotation("b_5", 0, score=0.5)]
    times = TimeSettings("{recording}_{time}")
    table, _ = table_of(tmp_path, results, True, times=times)
    assert table.recording.tolist() == ["a", "b"]
    assert table.time_us.tolist() == [7, 5]
    assert table.classes.tolist() == [3, 0]  # class ids, as there are no categories
    by_index = [annotation(12, 3, score=0.5)]
    table, _ = table_of(tmp_path, by_index, True, times=TimeSettings("{index}", rate=10))
    assert (table.recording[0], table.time_us[0]) == ("labels", 1_200_000)
    for times in (TimeSettings(), TimeSettings(rate=20)):
        table, left_out = table_of(tmp_path, by_index, True, times=times)
        assert (len(table), left_out.counts) == (0, {NOT_LISTED: 1})


def test_what_does_not_fit_is_counted_with_examples(tmp_path):
    images = [*IMAGES, {"id": 77, "file_name": "untimed.png"}]
    boxes = [
        annotation(3, id=1, score=0.5),
        annotation(99, id=2, score=0.5),
        annotation([99], id=3, score=0.5),
        annotation(77, id=4, score=0.5),
        annotation(3, 5, id=5, score=0.5),
        annotation(3, 17, id=6, score=0.5),  # no category at all
        annotation(3, box=(1, 2, 3), id=7, score=0.5),
        annotation(3, box=(1, 2, 3, float("nan")), id=8, score=0.5),
        annotation(3, id=9),
        {"id": 10, "image_id": 3, "category_id": 1, "segmentation": [], "score": 0.5},
        annotation(3, id=11, score=0.5, track_id="x"),
        annotation(3, {}, id=12, score=0.5),
        annotation(3, box=(1, 2, -3, 4), id=13, score=0.5),
        annotation(3, box=(1, 2, 10**400, 4), id=14, score=0.5),
    ]
    content = {"images": images, "annotations": boxes, "categories": CATEGORIES}
    table, left_out = table_of(tmp_path, content, scored=True)
    assert len(table) == 2
    assert left_out.counts == {
        NO_TIME: 1,
        UNKNOWN_IMAGE: 2,
        UNKNOWN_CLASS: 3,
        NO_BOX: 5,
        NO_SCORE: 1,
        BAD_TRACK: 1,
    }
    assert left_out.line(NO_BOX) == (
        "boxes without four finite numbers, the last two at least 0: 5 "
        "(annotation 7, annotation 8, annotation 10, …): correct them or take them out"
    )
    assert left_out.line(UNKNOWN_CLASS).startswith(
        "boxes of a class without an id: 3 ('dog', 17, '{}'): set class_map"
    )


def test_images_of_videos_and_ids_that_are_there_twice(tmp_path):
    images = [
        {"id": 1, "video_id": 5, "frame_id": 2, "file_name": "x/a.png"},
        {"id": 2, "video_id": 6, "frame_id": 2, "file_name": "y/b.png"},
        {"id": 3, "video_id": 6, "frame_id": 3, "file_name": "y/c.png"},
        {"id": 3, "video_id": 6, "frame_id": 4, "file_name": "y/d.png"},
    ]
    videos = [{"id": 5, "name": "north"}, {"id": 6, "name": "south"}]
    boxes = [{"image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4]} for i in (1, 2, 3)]
    content = {
        "images": images,
        "videos": videos,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "car"}],
    }
    times = TimeSettings(rate=10)
    table, left_out = coco_table(content, tmp_path / "a.json", ClassSettings(), times, scored=False)
    places = list(zip(table.recording.tolist(), table.time_us.tolist(), strict=True))
    assert places == [("north", 200_000), ("south", 200_000), ("south", 400_000)]
    assert left_out.counts == {SAME_ID: 1}
    assert "'y/c.png'" in left_out.line(SAME_ID)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON, got"),
        ("[" * 100_000, "must be JSON, got"),
        ("3", "must be a COCO ground truth with images and annotations, or a list of results"),
        ("{}", "must be a COCO ground truth with images and annotations"),
        ("[1]", "must be a COCO ground truth with images and annotations"),
        ('{"annotations": [], "images": 3}', "must be a COCO ground truth"),
        ('{"annotations": [], "categories": [3]}', "must be a COCO ground truth"),
    ],
)
def test_other_json_is_refused(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_coco(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_of_single_precision_are_written_as_short_as_they_are():
    values = np.array([np.float32(12.34), 12.34, 0.1 + 0.2, 1e300], dtype=np.float64)
    written = shortest(values)
    assert written == [12.34, 12.34, 0.1 + 0.2, 1e300]
    assert np.float32(written[0]) == np.float32(values[0])
