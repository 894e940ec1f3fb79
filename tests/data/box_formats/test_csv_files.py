import pytest

from etram_det.data.box_formats.coco import NO_BOX, NO_SCORE
from etram_det.data.box_formats.csv_files import csv_table, load_csv
from etram_det.data.box_formats.naming import (
    BAD_TIME,
    NO_MATCH,
    NO_NAME,
    NO_TIME,
    UNKNOWN_CLASS,
    ClassSettings,
    TimeSettings,
)
from etram_det.errors import UserError


def table_of(tmp_path, text, scored=False, **times):
    path = tmp_path / "val_day_0001_detections.csv"
    path.write_text(text)
    return csv_table(load_csv(path), path, ClassSettings(), TimeSettings(**times), scored=scored)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("t,class_id,class_name,score,x,y,w,h,track_id\n9,1,car,0.5,1,2,3,4,7\n", {}),
        ("ts;label;confidence;xmin;ymin;xmax;ymax;track\n9;Car;.5;1;2;4;6;7\n", {}),
        (
            "filename,width,height,class,xmin,ymin,xmax,ymax,score,track\n"
            "val_day_0001_9.png,1280,720,car,1,2,4,6,0.5,7.0\n",
            {"pattern": "{recording}_{time}"},
        ),
        (
            "image_name\tlabel_name\tbbox_x\tbbox_y\tbbox_width\tbbox_height\tconf\tobject_id\n"
            "val_day_0001/9.png\tcar\t1\t2\t3\t4\t0.5\t7\n",
            {"pattern": "{recording}/{time}.png"},
        ),
        (
            "frame,bb_left,bb_top,bb_width,bb_height,conf,class,track_id\n"
            "3,1,2,3,4,0.5,1,7\n",
            {"rate": 1000000 / 3},
        ),
        (
            "frame,image,x,y,w,h,conf,class,track_id\n"
            "3.0,val_day_0001/a.png,1,2,3,4,0.5,1,7\n",
            {"rate": 1000000 / 3},
        ),
        ("stamp,x1,y1,x2,y2,Class ID,score,track\n0.009,1,2,4,6,1,0.5,7\n\n", {
            "column": "stamp", "unit": "ms"
        }),
    ],
)  # fmt: skip
def test_columns_by_name(tmp_path, text, times):
    table, left_out = table_of(tmp_path, text, True, **times)
    assert not left_out.counts
    assert table.recording.tolist() == ["val_day_0001"]
    assert table.time_us.tolist() == [9]
    assert table.boxes.tolist() == [[1, 2, 3, 4]]
    assert (table.classes[0], table.scores[0], table.tracks[0]) == (1, 0.5, 7)


@pytest.mark.parametrize("times", [{}, {"rate": 20}, {"pattern": "{recording}_{time}"}])
def test_rows_without_image_and_time_need_a_column(tmp_path, times):
    text = "recording,class_name,score,x,y,w,h\na,car,0.5,1,2,3,4\n"
    table, left_out = table_of(tmp_path, text, True, **times)
    assert len(table) == 0
    assert left_out.counts == {NO_NAME: 1}
    assert "under t" in NO_NAME.remedy
    timed = "t,class_name,score,x,y,w,h\n9,car,0.5,1,2,3,4\n"  # whose pattern is the mistake
    if "pattern" in times:
        assert table_of(tmp_path, timed, True, **times)[1].counts == {NO_MATCH: 1}


def test_what_does_not_fit_is_counted_by_line(tmp_path):
    rows = [
        "9,car,0.5,1,2,3,4",
        ",car,0.5,1,2,3,4",
        "9,dog,0.5,1,2,3,4",
        "9,17,0.5,1,2,3,4",
        "9,car,0.5,1,2,3",
        "9,car,0.5,1,2,3,nan",
        "9,car,,1,2,3,4",
        "9,car,0.5,1,2,3,-4",
    ]
    text = "t,class_name,score,x,y,w,h\n" + "\n".join(rows)
    table, left_out = table_of(tmp_path, text, scored=True)
    assert len(table) == 1
    assert left_out.counts == {NO_TIME: 1, UNKNOWN_CLASS: 2, NO_BOX: 3, NO_SCORE: 1}
    assert left_out.examples[NO_TIME] == ["line 3"]
    assert left_out.examples[UNKNOWN_CLASS] == ["'dog'", "'17'"]
    assert left_out.examples[NO_BOX] == ["line 6", "line 7", "line 9"]


@pytest.mark.parametrize(
    ("heading", "scored", "message"),
    [
        ("", False, "got an empty file: name the columns so"),
        ("t,class,x,y,w", False, "columns for a box (x, y, w, h or xmin, ymin, xmax, ymax), got"),
        ("t,x,y,w,h", False, "must have columns for a class (class_name or class_id), got t, x"),
        ("t,class,x,y,w,h", True, "must have columns for a score (score or confidence), got"),
    ],
)
def test_missing_columns_are_refused(tmp_path, heading, scored, message):
    with pytest.raises(UserError) as error:
        table_of(tmp_path, heading, scored)
    assert message in str(error.value)


def test_other_text_than_utf_8_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"t,class\xff")
    with pytest.raises(UserError, match=r"a.csv: must be text in UTF-8, got .*: export it again"):
        load_csv(tmp_path / "a.csv")


def test_an_index_that_is_no_number_is_a_bad_time(tmp_path):
    text = "frame,class,x,y,w,h\n3.0,bus,1,2,3,4\nthird,bus,1,2,3,4\n"
    table, left_out = table_of(tmp_path, text, rate=10)
    assert table.time_us.tolist() == [300_000]
    assert left_out.counts == {BAD_TIME: 1}


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_name(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeff"t",class,x,y,w,h\r\n5,bus,1,2,3,4\r\n'.encode())
    table, left_out = csv_table(load_csv(path), path, ClassSettings(), TimeSettings(), scored=False)
    assert (table.time_us.tolist(), left_out.counts) == ([5], {})


def test_labels_need_no_score(tmp_path):
    table, _ = table_of(tmp_path, "t,class,x,y,w,h\n5,bus,1,2,3,4\n")
    assert table.scores.tolist() == [1]
    text = "t,class,score,x,y,w,h\n5,bus,,1,2,3,4\n6,bus,0.5,1,2,3,4\n7,bus,high,1,2,3,4\n"
    table, left_out = table_of(tmp_path, text)
    assert table.scores.tolist() == [1, 0.5]
    assert left_out.counts == {NO_SCORE: 1}


def test_a_time_stays_where_its_boxes_are_left_out(tmp_path):
    """Its frame shows nothing of the classes that are asked for."""
    path = tmp_path / "a.csv"
    path.write_text("t,class,x,y,w,h\n5,bus,1,2,3,4\n6,car,1,2,3,4\n")
    classes = ClassSettings(class_map={"bus": None})
    table, _ = csv_table(load_csv(path), path, classes, TimeSettings(), scored=False)
    assert (table.time_us.tolist(), table.frame.tolist()) == ([5, 6], [1])
