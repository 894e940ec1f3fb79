import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from etram_det.boxes import BOX_DTYPE, NO_TRACK
from etram_det.cli.commands import run
from support import paths
from support.raw_files import boxes_at

CLASSES = ("pedestrian", "car", "bicycle", "bus", "motorbike", "truck", "tram", "wheelchair")


def random_boxes(seed, tracks="all"):
    """Boxes by time, of any class, with coordinates of single precision that leave the frame."""
    rng = np.random.default_rng(seed)
    boxes = np.zeros(40, BOX_DTYPE)
    boxes["t"] = np.sort(rng.integers(0, 12, 40)) * 33_333
    for name, low, high in (("x", -50, 1300), ("y", -9, 800), ("w", 0, 90), ("h", 1e-3, 90)):
        boxes[name] = rng.uniform(low, high, 40)
    boxes["class_id"] = rng.integers(0, 8, 40)
    boxes["class_confidence"] = rng.choice([1, 0.5, 0.123456], 40)
    if tracks != "none":
        boxes["track_id"] = rng.integers(0, NO_TRACK, 40, dtype=np.uint32)
    if tracks == "some":
        boxes["track_id"][:9] = 0
        boxes["track_id"][9:20] = NO_TRACK
    return boxes


def write_boxes(folder, **others):
    folder.mkdir()
    for seed, name in enumerate(("val_day_0001", "val_night_0002")):
        np.save(folder / f"{name}_bbox.npy", random_boxes(seed, **others))


def same_boxes(one, other):
    names = sorted(path.name for path in one.glob("*.npy"))
    assert names == sorted(path.name for path in other.glob("*"))
    for name in names:
        a, b = np.load(one / name), np.load(other / name)
        for field in BOX_DTYPE.names:
            np.testing.assert_array_equal(a[field], b[field])
    return names


@pytest.mark.parametrize("tracks", ["all", "some", "none"])
@pytest.mark.parametrize("file", ["labels.json", "labels.csv"])
def test_box_files_there_and_back_are_equal(tmp_path, file, tracks, capsys):
    write_boxes(tmp_path / "a", tracks=tracks)
    assert run(["convert-labels", str(tmp_path / "a"), "--output", str(tmp_path / file)]) == 0
    back = ["convert-labels", str(tmp_path / file), "--output", str(tmp_path / "b")]
    assert run(back) == 0
    assert len(same_boxes(tmp_path / "a", tmp_path / "b")) == 2
    written = capsys.readouterr().out.splitlines()
    assert written == [
        f"80 boxes of 2 recordings: {tmp_path / file}",
        f"80 boxes of 2 recordings: {tmp_path / 'b'}",
    ]


@pytest.mark.parametrize("file", ["labels.json", "labels.csv"])
def test_files_of_annotation_tools_there_and_back_are_equal(tmp_path, file):
    write_boxes(tmp_path / "a")
    first, second = tmp_path / file, tmp_path / f"again_{file}"
    run(["convert-labels", str(tmp_path / "a"), "--output", str(first)])
    run(["convert-labels", str(first), "--output", str(tmp_path / "b")])
    run(["convert-labels", str(tmp_path / "b"), "--output", str(second)])
    assert first.read_text() == second.read_text()


def test_a_box_file_of_the_reference_comes_back_equal(tmp_path):
    data = np.load(paths.REFERENCE / "evaluation.npz")
    (tmp_path / "a").mkdir()
    for i in range(6):
        np.save(tmp_path / "a" / f"recording_{i}_bbox.npy", data[f"gt_{i}"])
    run(["convert-labels", str(tmp_path / "a"), "--output", str(tmp_path / "a.json")])
    run(["convert-labels", str(tmp_path / "a.json"), "--output", str(tmp_path / "b")])
    assert len(same_boxes(tmp_path / "a", tmp_path / "b")) == 6


@pytest.mark.parametrize("output", ["boxes", "boxes/a_bbox.npy", "labels.csv"])
def test_what_is_read_is_not_replaced(output, tmp_path, monkeypatch, capsys):
    """What does not fit would be lost."""
    monkeypatch.chdir(tmp_path)
    Path("boxes").mkdir()
    np.save("boxes/a_bbox.npy", boxes_at([100_000]))
    Path("labels.csv").write_text("recording,t,class,x,y,w,h\na,100000,car,10,10,20,20\n")
    source = "labels.csv" if output == "labels.csv" else "boxes"
    before = Path("boxes/a_bbox.npy").read_bytes(), Path("labels.csv").read_text()
    assert run(["convert-labels", source, "--output", output]) == 2
    assert capsys.readouterr().err.startswith("etram_det: error: output: must ")
    assert (Path("boxes/a_bbox.npy").read_bytes(), Path("labels.csv").read_text()) == before
    # Beside it is fine.
    assert run(["convert-labels", "labels.csv", "--output", "boxes/labels.json"]) == 0


def test_what_an_annotation_tool_exports(tmp_path, capsys):
    """Names in capitals, images by index, classes of other data, and all that does not fit."""
    content = {
        "categories": [{"id": i, "name": n} for i, n in enumerate(("Car", "Person", "dog", "cat"))],
        "images": [
            {"id": 1, "file_name": "images/val_day_0001/frame_000004.png"},
            {"id": 2, "file_name": "images/val_day_0001/frame_000006.png"},
            {"id": 3, "file_name": "images/val_day_0001/frame_000008.png"},
            {"id": 4, "file_name": "thumbnail.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 0, "bbox": [1.5, 2.25, 30, 40]},
            {"id": 2, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [1, 2, 300, 4], "iscrowd": 1},
            {"id": 4, "image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4]},
            {"id": 5, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]},
            {"id": 6, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4]},
            {"id": 7, "image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]},
        ],
    }
    (tmp_path / "export.json").write_text(json.dumps(content))
    command = ["convert-labels", str(tmp_path / "export.json"), "--output", str(tmp_path / "out")]
    command += ["--times.pattern", "{recording}/frame_{index}.png", "--times.rate", "20"]
    command += ["--class_map", "{person: pedestrian, dog: null}"]
    assert run(command) == 1
    boxes = np.load(tmp_path / "out" / "val_day_0001_bbox.npy")
    assert boxes["t"].tolist() == [200_000, 300_000]
    assert boxes["class_id"].tolist() == [1, 0]
    assert [boxes[name][0] for name in "xywh"] == [1.5, 2.25, 30, 40]
    assert boxes["class_confidence"].tolist() == [1, 1]
    written = capsys.readouterr().out
    assert written.splitlines()[0] == f"2 boxes of 1 recording: {tmp_path / 'out'}"
    listed = [line.removeprefix("left out: ").split("): ")[0] for line in written.splitlines()[1:]]
    assert sorted(each.rstrip(")") for each in listed) == [
        "boxes of a class without an id: 1 ('cat'",
        "boxes of classes that class_map leaves out: 1 ('dog'",
        "boxes of images that are not listed: 1 (image_id 9",
        "boxes without four finite numbers, the last two at least 0: 1 (annotation 7",
        "images left without boxes, which only COCO can hold: 1 (val_day_0001_400000",
        "names of images that do not look like times.pattern: 1 ('thumbnail.png'",
        "regions of many objects (iscrowd), which only COCO can hold: 1 (val_day_0001_300000",
    ]


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (
            "image,class,x,y,w,h\nframe_1.png,car,1,2,3,4\n",
            [],
            "labels.csv: no box fits: images without a time: 1 (line 2): set times.pattern to what "
            "their names look like, such as {recording}_{time}.png, times.rate to images a "
            "second, or times.column to the key or column with the time",
        ),
        (
            "t,class,x,y,w,h\nsoon,car,1,2,3,4\n",
            [],
            "labels.csv: no box fits: images with a time or an index that is no number, or "
            "none that is possible: 1 (line 2): correct it",
        ),
        (
            "t,class,x,y,w,h\n5,dog,1,2,3,4\n",
            [],
            "labels.csv: no box fits: boxes of a class without an id: 1 ('dog'): set class_map to "
            "a class for its name, or to null to leave it out, or set class_names",
        ),
        (
            "t,class,x,y,w,h\n5,car,1,2,3,4\n",
            ["--output", "labels.txt"],
            "output: must be a .json or .csv file, or a folder for box files, got labels.txt: use "
            "one of these",
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, text, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text(text)
    assert run(["convert-labels", "labels.csv", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"etram_det: error: {message}")
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "labels.csv"]


def test_a_class_map_holds_for_files_without_names(tmp_path, capsys):
    boxes = boxes_at([100_000, 200_000, 300_000])
    boxes["class_id"] = [7, 1, 0]
    np.save(tmp_path / "a_bbox.npy", boxes)
    command = ["convert-labels", str(tmp_path / "a_bbox.npy"), "--output", str(tmp_path / "out")]
    assert run([*command, "--class-map", "{wheelchair: null, car: bus}"]) == 0
    assert np.load(tmp_path / "out" / "a_bbox.npy")["class_id"].tolist() == [3, 0]
    line = "left out: boxes of classes that class_map leaves out: 1 (a_bbox.npy: id 7)"
    assert line in capsys.readouterr().out.splitlines()


EMPTY = "left out: recordings left without boxes, which box files hold, and COCO where it lists"


@pytest.mark.parametrize("file", ["labels.json", "labels.csv", "b"])
def test_recordings_without_boxes(tmp_path, capsys, file):
    (tmp_path / "a").mkdir()
    for name, times in (("val_1", [100_000]), ("val_2", [])):
        np.save(tmp_path / "a" / f"{name}_bbox.npy", boxes_at(times))
    assert run(["convert-labels", str(tmp_path / "a"), "--output", str(tmp_path / file)]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    if file == "b":
        assert (first, others) == (f"1 box of 2 recordings: {tmp_path / file}", [])
        assert same_boxes(tmp_path / "a", tmp_path / "b") == ["val_1_bbox.npy", "val_2_bbox.npy"]
    else:
        assert first == f"1 box of 1 recording: {tmp_path / file}"
        assert others == [f"{EMPTY} their images: 1 (val_2)"]


@pytest.mark.parametrize("file", ["labels.json", "labels.csv", "b"])
def test_images_without_boxes(tmp_path, capsys, file):
    """COCO holds them, box files their recording."""
    image = {"id": 1, "file_name": "val_1_5", "t": 5}
    content = {"images": [image], "annotations": [], "categories": []}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert run(["convert-labels", str(tmp_path / "a.json"), "--output", str(tmp_path / file)]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    lines = ["left out: images left without boxes, which only COCO can hold: 1 (val_1_5)"]
    lines += [f"{EMPTY} their images: 1 (val_1)"]
    held, listed = {"labels.json": (1, []), "labels.csv": (0, lines), "b": (1, lines[:1])}[file]
    of = "1 recording" if held else "0 recordings"
    assert (first, others) == (f"0 boxes of {of}: {tmp_path / file}", listed)
    assert [path.name for path in (tmp_path / "b").glob("*")] == ["val_1_bbox.npy"] * (file == "b")


@pytest.mark.parametrize(("number", "text"), [(1, "1 box of"), (2, "2 boxes of")])
def test_one_box_is_no_boxes(tmp_path, capsys, number, text):
    np.save(tmp_path / "a_bbox.npy", boxes_at(np.arange(number) * 100_000))
    command = ["convert-labels", str(tmp_path / "a_bbox.npy"), "--output", str(tmp_path / "out")]
    assert run(command) == 0
    assert capsys.readouterr().out.startswith(f"{text} 1 recording: ")


def test_the_commands_of_the_docs_run(tmp_path, monkeypatch):
    """Those of docs/labels.md, and of evaluate in docs/evaluation.md with what they leave."""
    monkeypatch.chdir(tmp_path)
    image = {"id": 1, "file_name": "val_day_0001/frame_000004.png"}
    names = ["pedestrian", "person", "van", "dog"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    box = {"id": 1, "image_id": 1, "bbox": [1, 2, 80, 90]}
    boxes = [box | {"category_id": i} for i in range(4)]
    export = {"images": [image], "categories": categories, "annotations": boxes}
    Path("export.json").write_text(json.dumps(export))
    Path("export.csv").write_text("image,label,x,y,w,h\nval_day_0002_900.jpg,car,1,2,80,90\n")
    exits = [run(arguments) for arguments in commands_of("labels.md", "convert-labels")]
    assert exits == [1, 0, 0, 0, 0]  # the first one lists classes without an id
    assert np.load("root/val/val_day_0001_bbox.npy")["class_id"].tolist() == [0, 0, 1]
    assert np.load("root/val/val_day_0002_bbox.npy")["t"].tolist() == [900_000]

    shutil.copytree("root/val", "yolo")
    shutil.copy("labels.csv", "rvt.csv")
    images = json.loads(Path("labels.json").read_text())["images"]
    box = {"bbox": [1, 2, 80, 90], "score": 0.5, "category_id": 1}
    Path("results.json").write_text(json.dumps([box | {"image_id": each["id"]} for each in images]))
    assert [run(each) for each in commands_of("evaluation.md", "evaluate")] == [0, 0, 0]
    assert Path("evaluation/report.html").is_file()
    assert Path("evaluation/rvt/metrics.json").is_file()


def commands_of(page, command):
    text = (paths.ROOT / "docs" / page).read_text().replace("\\\n", " ")
    found = re.findall(rf"^python -m etram_det {command} .*", text, re.MULTILINE)
    return [shlex.split(each, comments=True)[3:] for each in found]
