import csv
import json
from pathlib import Path

import numpy as np
import numpy.lib.recfunctions as rfn
import pytest

from etram_det.boxes import BOX_DTYPE
from etram_det.cli.commands import run
from etram_det.cli.resume import shipped_checkpoint
from etram_det.data.box_formats.naming import ClassSettings, TimeSettings
from etram_det.data.box_formats.reading import open_box_files, read_boxes
from etram_det.data.labels import LabelSettings
from etram_det.data.preprocessing import preprocess
from etram_det.data.representation import FrameSettings
from etram_det.metrics.evaluation import evaluate
from etram_det.metrics.settings import SIZE_BINS, EvaluationSettings
from etram_det.simulator.dataset import SimulationSettings, simulate
from etram_det.tools.evaluate import command
from etram_det.tools.evaluate.frames import PixelSettings, evaluation_frames
from etram_det.tools.evaluate.labels import find_labels, labelled_frames
from support import paths
from support.coco_case import STATS, coco_case, coco_stats
from support.raw_files import boxes_at, random_events, write_raw

CLASSES = ("pedestrian", "car", "bicycle", "bus", "motorbike", "truck", "tram", "wheelchair")
REFERENCE = np.load(paths.REFERENCE / "evaluation.npz")
OF_NAMES = ["--times.pattern", "{recording}/{time}.png"]


def reference_boxes(kind):
    return {f"recording_{i}": REFERENCE[f"{kind}_{i}"] for i in range(6)}


def write_npy(folder, boxes):
    folder.mkdir(parents=True)
    for name, rows in boxes.items():
        np.save(folder / f"{name}_bbox.npy", rows)


def write_csv(path, boxes):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("recording t class_id confidence xmin ymin xmax ymax".split())
        for name, rows in boxes.items():
            for row in rows:
                x, y, w, h, score = (
                    float(row[f]) for f in ("x", "y", "w", "h", "class_confidence")
                )
                writer.writerow([name, row["t"], row["class_id"], score, x, y, x + w, y + h])


def coco_of(truth, detections):
    """A ground truth with category ids from 1 in the order of the alphabet, and results."""
    ids = {name: i + 1 for i, name in enumerate(sorted(CLASSES))}
    frames = [(name, int(t)) for name, rows in truth.items() for t in np.unique(rows["t"])]
    images = {frame: i + 100 for i, frame in enumerate(frames)}

    def annotations(boxes, with_scores):
        for name, rows in boxes.items():
            for row in rows:
                if (name, int(row["t"])) in images:
                    one = {
                        "image_id": images[name, int(row["t"])],
                        "category_id": ids[CLASSES[row["class_id"]]],
                        "bbox": [float(row[side]) for side in "xywh"],
                    }
                    yield one | ({"score": float(row["class_confidence"])} if with_scores else {})

    content = {
        "images": [{"id": i, "file_name": f"{n}/{t}.png"} for (n, t), i in images.items()],
        "categories": [{"id": i, "name": name.title()} for name, i in ids.items()],
        "annotations": list(annotations(truth, False)),
    }
    return content, list(annotations(detections, True))


def write_reference(folder):
    truth, detections = reference_boxes("gt"), reference_boxes("dt")
    for name, boxes in (("gt", truth), ("dt", detections)):
        write_npy(folder / name, boxes)
        write_csv(folder / f"{name}.csv", boxes)
    content, results = coco_of(truth, detections)
    (folder / "gt.json").write_text(json.dumps(content))
    (folder / "dt.json").write_text(json.dumps(results))


@pytest.fixture
def _no_page(monkeypatch):
    """Evaluations without their pages, which take most of the time."""
    monkeypatch.setattr(command, "write_report", lambda folders, output=None: folders[0])


def evaluated(labels, detections, output, *flags):
    arguments = ["evaluate", "--labels", str(labels), "--detections", str(detections)]
    assert run([*arguments, "--output", str(output), *flags]) == 0
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.usefixtures("_no_page")
@pytest.mark.parametrize(
    ("labels", "detections", "flags"),
    [
        ("gt", "dt", []),
        ("gt.json", "dt.json", OF_NAMES),
        ("gt.csv", "dt.csv", []),
        ("gt.json", "dt", OF_NAMES),
        ("gt", "dt.json", ["--images", "gt.json", *OF_NAMES]),
    ],
)
def test_the_reference_is_equal_in_all_formats(tmp_path, monkeypatch, labels, detections, flags):
    write_reference(tmp_path)
    monkeypatch.chdir(tmp_path)
    metrics = evaluated(labels, detections, tmp_path / "out", *flags)
    expected = REFERENCE["full_useCats1_stats"]
    np.testing.assert_allclose([metrics[key] for key in STATS], expected, rtol=0, atol=1e-6)
    by_class = REFERENCE["full_ap_class_by_area"]
    for name, values in zip(CLASSES, by_class, strict=True):
        found = [
            metrics.get(f"AP_{name}{size}", -1) for size in ("", "_small", "_medium", "_large")
        ]
        np.testing.assert_allclose(found, values, rtol=0, atol=1e-6)
    assert metrics["evaluation"]["class_names"] == list(CLASSES)


@pytest.mark.usefixtures("_no_page")
@pytest.mark.parametrize(
    ("protocol", "flags", "stats"),
    [
        ("prophesee_gen1", [], "prophesee_useCats1"),
        ("prophesee", ["--pixels.boxes=frame", "--pixels.frame_scale=2"], "prophesee_useCats1"),
        ("etram_fork", ["--pixels.boxes=frame", "--pixels.frame_scale=2"], "prophesee_useCats0"),
    ],
)
def test_protocols(tmp_path, protocol, flags, stats):
    write_npy(tmp_path / "gt", reference_boxes("gt"))
    write_npy(tmp_path / "dt", reference_boxes("dt"))
    output = tmp_path / "out"
    flags = [*flags, "--protocol", protocol]
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", output, *flags)
    expected = REFERENCE[f"{stats}_stats"]
    np.testing.assert_allclose([metrics[key] for key in STATS], expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_no_page")
def test_areas_in_pixels_of_a_frame(tmp_path):
    rows = boxes_at([100_000], w=40, h=40)  # 1600 px² on the sensor, 400 px² at half its size
    write_npy(tmp_path / "gt", {"a": rows})
    flags = ["--pixels.frame_scale", "2"]
    counts = {}
    for name, given in (("sensor", []), ("half", flags)):
        metrics = evaluated(tmp_path / "gt", tmp_path / "gt", tmp_path / name, *given)
        counts[name] = metrics["num_small"], metrics["num_medium"]
        assert metrics["AP"] == pytest.approx(1)
    assert counts == {"sensor": (0, 1), "half": (1, 0)}


def test_coco_of_a_thousand_images_equals_cocos_own_metrics(tmp_path):
    """With fractional coordinates, equal scores, IoUs of exactly 0.75, and crowds."""
    truth, found = coco_case(with_crowds=True)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(found))
    source, times = find_labels(tmp_path / "gt.json", "val"), TimeSettings()
    classes = ClassSettings(source.class_names(None, are_mapped=False))
    assert len(classes.class_names) == 80
    labels = labelled_frames(source, classes, times, None)
    files = open_box_files([tmp_path / "dt.json"], "detections")
    listing = source.listing(None, times)
    read = read_boxes(files, classes, times, scored=True, listing=listing)
    frames = evaluation_frames("dt", labels, read, PixelSettings(), 2000, 10)
    settings = EvaluationSettings(classes.class_names, SIZE_BINS, "native", "full", {}, 100)
    ours = evaluate(frames, settings).flat_metrics()
    expected = coco_stats(truth, found)
    np.testing.assert_allclose([ours[key] for key in STATS], expected, rtol=0, atol=1e-9)
    assert ours["num_recordings"] == 20


def many_recordings(seed):
    """Labels of tracks, and detections of another quality, of twelve recordings."""
    rng = np.random.default_rng(seed)
    labels, detections = {}, {}
    for i in range(12):
        rows = np.concatenate(
            [boxes_at(np.arange(1, 9) * 100_000, i % 2, 20 * j) for j in range(4)]
        )
        rows["x"] += np.arange(len(rows)) % 8 * 3
        rows["track_id"] = np.repeat(np.arange(1, 5), 8)
        found = rows.copy()
        found["x"] += np.random.default_rng(i).normal(0, 2, len(rows)) + rng.normal(0, seed)
        found["class_confidence"] = np.random.default_rng(i).uniform(0.2, 1, len(rows))
        name = f"val_{'day' if i % 3 else 'night'}_{i:04d}"
        labels[name], detections[name] = rows, found
    return labels, detections


@pytest.mark.gate
def test_two_detectors_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels, good = many_recordings(0)
    write_npy(tmp_path / "gt", labels)
    write_npy(tmp_path / "good", good)
    write_csv(tmp_path / "bad.csv", many_recordings(6)[1])
    detectors = ["--detections", "good", "--detections", "worse=bad.csv"]
    classes = ["--class-names", "pedestrian", "car"]  # fewer take less time
    assert run(["evaluate", "--labels", "gt", *detectors, *classes, "--output", "out"]) == 0
    metrics = {n: json.loads(Path("out", n, "metrics.json").read_text()) for n in ("good", "worse")}
    assert metrics["good"]["AP"] > metrics["worse"]["AP"] + 0.1
    low, high = metrics["good"]["intervals"]["AP"]
    assert low < metrics["good"]["AP"] < high
    assert metrics["good"]["num_slow"] > 300  # 30 px/s
    assert metrics["good"]["num_day"] == 8 * 32
    assert {path.name for path in Path("out").iterdir()} == {"good", "worse", "report.html"}
    printed = capsys.readouterr().out
    row = next(
        line for line in printed.splitlines() if line.startswith("│ AP ") and "worse" in line
    )
    assert row.split("│")[2].strip() == f"{metrics['good']['AP']:.3f}"
    # The folders are runs like others.
    assert run(["report", "out/good", "out/worse", "--output", "again.html"]) == 0
    assert "not evaluated alike" not in Path("again.html").read_text()
    page = Path("out/good/report.html").read_text()
    assert "as in the files" in page
    assert "use a data root for labels" in page  # for pictures


def test_labels_of_a_data_root_are_those_of_validate(tmp_path, monkeypatch, caplog):
    """Every 100 ms, in the sensor's frame, with pictures; detections of 50 ms are not all used."""
    monkeypatch.chdir(tmp_path)
    times = np.arange(1, 28) * 33_334
    rows = boxes_at(times, class_id=1, x=-5)
    events = random_events(2000, seconds=1)
    for split in ("train", "val"):
        write_raw(tmp_path / "root" / split, f"{split}_day_1", events, rows)
    detections = boxes_at(np.arange(1, 20) * 50_000, class_id=1, x=0, w=14)
    detections["x"][1] = 40
    write_npy(tmp_path / "dt", {"val_day_1": detections})
    for labels in ("root", "root/val"):
        metrics = evaluated(labels, "dt", tmp_path / "out", "--metric.pictures", "3")
        assert metrics["num_boxes"] == metrics["num_frames"] == 9
        # The first of nine is a false alarm; all have the same score.
        assert metrics["AP50"] == pytest.approx(89 / 101 * 8 / 9)
        assert metrics["evaluation"]["dropped_by_data"]["between label times"] == 18
        assert metrics["run"]["split"] == "val"
        assert len(metrics["gallery"]["misses"]) == 1
        assert (tmp_path / "out" / metrics["gallery"]["misses"][0]["file"]).is_file()
    assert (
        "dt: not evaluated: 10 of 19 detections, at times without labels that count" in caplog.text
    )


@pytest.mark.usefixtures("_no_page")
@pytest.mark.parametrize("labels", ["root", "root/val/val_1_bbox.npy"])
def test_a_class_map_holds_for_all_labels(tmp_path, monkeypatch, caplog, labels):
    """A frame with boxes of a class that is left out alone shows none of the others."""
    monkeypatch.chdir(tmp_path)
    rows = np.concatenate([boxes_at(np.arange(1, 10) * 100_000, i, 15 * i) for i in range(3)])
    rows = rows[(rows["t"] > 300_000) | (rows["class_id"] == 0)]
    write_raw(tmp_path / "root" / "val", "val_1", random_events(2000), rows)
    found = boxes_at(np.arange(1, 10) * 100_000, 1, 15)
    found["class_confidence"] = 0.5
    write_npy(tmp_path / "dt", {"val_1": found})
    flags = ["--class-map", "{pedestrian: null, bicycle: car}", "--metric.pictures", "0"]
    metrics = evaluated(labels, "dt", tmp_path / "out", *flags)
    assert (metrics["num_frames"], metrics["num_boxes"], metrics["num_car"]) == (9, 12, 12)
    assert metrics["AR"] == pytest.approx(0.5)
    counts = metrics["confusion"]["counts"]
    assert counts[-1][1] == 3  # false alarms where the labels are of the class that is left out
    dropped = metrics["evaluation"]["dropped_by_data"]
    assert dropped["boxes of classes that class_map leaves out"] == 9
    assert "left out: boxes of classes that class_map leaves out: 9" in caplog.text


@pytest.mark.parametrize(
    ("names", "wanted"),
    [(["car", "pedestrian"], ("car", "pedestrian")), (["pedestrian", "Car", "bus"], CLASSES)],
)
def test_ids_go_by_the_order_of_the_categories(tmp_path, caplog, names, wanted):
    """Gen1's car is 0, and eTraM's is 1."""
    caplog.set_level("INFO")
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a/100.png"}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [0, 0, 9, 9]}],
    }))  # fmt: skip
    assert find_labels(path, "val").class_names(None, are_mapped=False) == wanted
    said = f"class_names: the categories of {path}, by which ids count from 0: car, pedestrian"
    assert (said in caplog.text) == (wanted != CLASSES)


@pytest.mark.usefixtures("_no_page")
def test_names_that_yaml_reads_as_numbers(tmp_path, capsys):
    rows = boxes_at(np.arange(1, 10) * 100_000)  # class 0
    write_npy(tmp_path / "gt", {"a": rows})
    write_npy(tmp_path / "dt", {"a": rows})
    flags = [
        *("--class-map", "{0: car}"),
        *("--metric.size_bins", "{1: [0, 10], 2: [10, 100000]}"),
        *("--metric.class_groups", "{3: [car]}"),
    ]
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out", *flags)
    assert (metrics["AP_2"], metrics["AP_3"]) == (pytest.approx(1), pytest.approx(1))
    assert metrics["AP_car"] == pytest.approx(1)  # not pedestrian's, which id 0 is


@pytest.mark.usefixtures("_no_page")
def test_pictures_show_frames_of_any_kind(tmp_path, monkeypatch):
    """With an odd number of bins as well."""
    shown = []
    draw = command.frame_image
    monkeypatch.setattr(
        command, "frame_image", lambda frame, kind: shown.append(kind) or draw(frame, kind)
    )
    rows = boxes_at(np.arange(1, 10) * 100_000)
    write_raw(tmp_path / "root" / "val", "val_1", random_events(2000), rows)
    write_npy(tmp_path / "dt", {"val_1": rows})
    frames = ["--frames.representation", "mixed_density", "--frames.bins", "5"]
    evaluated(tmp_path / "root", tmp_path / "dt", tmp_path / "out", *frames)
    assert set(shown) == {"mixed_density"}


@pytest.mark.usefixtures("_no_page")
def test_a_class_map_that_leaves_nothing(tmp_path, capsys):
    write_raw(tmp_path / "root" / "val", "val_1", random_events(2000), boxes_at([100_000]))
    write_npy(tmp_path / "dt", {"val_1": boxes_at([100_000])})
    arguments = [
        "evaluate",
        "--labels",
        str(tmp_path / "root"),
        "--class-map",
        "{pedestrian: null}",
    ]
    assert run([*arguments, "--detections", str(tmp_path / "dt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("etram_det: error: labels: must have boxes, got none in ")


def roots_with_settings(folder):
    """By the setting that it needs, a data root and the message without it."""
    rows = boxes_at(np.arange(1, 10) * 100_000)
    events = random_events(2000)
    raw, five, named, ms = (folder / name for name in ("raw", "bins", "filters", "unit"))
    write_raw(raw / "val", "val_1", events, rows)
    preprocess(raw, five, FrameSettings(bins=5), LabelSettings(), workers=1)
    write_raw(named / "val", "val_1", events, np.append(rows, boxes_at([100_000], class_id=11)))
    in_ms = rows.copy()
    in_ms["t"] //= 1000
    many = random_events(20_000, seconds=1000)
    write_raw(ms / "val", "val_1", {**many, "t": many["t"] // 1_000_000}, in_ms)
    return {
        ("--frames.bins", "5"): (five, "frames.bins: must be 5, with which "),
        ("--filters", "only_named_classes"): (named, "add only_named_classes to filters"),
        ("--frames.time_unit", "ms"): (ms, "set frames.time_unit to ms"),
    }


@pytest.mark.usefixtures("_no_page")
def test_a_data_root_with_settings_of_its_own(tmp_path, capsys):
    """The message names what helps."""
    write_npy(tmp_path / "dt", {"val_1": boxes_at(np.arange(1, 10) * 100_000)})
    for flags, (root, message) in roots_with_settings(tmp_path).items():
        arguments = ["evaluate", "--labels", str(root), "--detections", str(tmp_path / "dt")]
        assert run([*arguments, "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        metrics = evaluated(root, tmp_path / "dt", tmp_path / "out", *flags)
        assert (metrics["num_frames"], metrics["AP"]) == (9, pytest.approx(1))


@pytest.mark.parametrize("flags", [["--filters", "min_side_5"], ["--frames.bins", "5"]])
def test_settings_of_data_roots_are_refused_for_label_files(tmp_path, capsys, flags):
    write_npy(tmp_path / "gt", {"a": boxes_at([100_000])})
    gt = str(tmp_path / "gt")
    assert run(["evaluate", "--labels", gt, "--detections", gt, *flags]) == 2
    assert capsys.readouterr().err == (
        f"etram_det: error: frames, filters: are for data roots, got some for {gt}, whose boxes "
        "are taken as they are: leave them out\n"
    )


@pytest.mark.usefixtures("_no_page")
def test_label_times_of_files_at_an_interval(tmp_path, caplog):
    rows = boxes_at(np.arange(1, 28) * 33_334)
    write_npy(tmp_path / "gt", {"a": rows})
    write_npy(tmp_path / "dt", {"a": boxes_at(np.arange(1, 19) * 50_000)})
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out", "--interval_ms", "33")
    assert metrics["num_frames"] == 27
    assert "dt: detections within 2 ms at 9 of 27 label times, and the labels at" in caplog.text
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out", "--interval_ms", "100")
    assert (metrics["num_frames"], metrics["AP"]) == (9, pytest.approx(1))
    assert metrics["evaluation"]["dropped_by_data"] == {"between label times": 18}


LEFT_OUT = (
    "label times, those at which windows end: every 50 ms, by the times of the "
    "detections: set interval_ms to evaluate label times so far apart whether one ends there or not"
)


@pytest.mark.usefixtures("_no_page")
def test_labels_of_files_where_windows_of_the_detections_end(tmp_path, caplog):
    """The labels of a window without boxes are misses; those between windows do not count."""
    write_npy(tmp_path / "gt", {"a": boxes_at(np.arange(1, 28) * 33_333)})
    ends = np.delete(np.arange(1, 19) * 50_000 + 365, 5)  # nothing was found at 300 ms
    write_npy(tmp_path / "dt", {"a": boxes_at(ends)})
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out")
    assert (metrics["num_frames"], metrics["num_boxes"]) == (9, 9)
    assert metrics["AR"] == pytest.approx(8 / 9)
    assert metrics["evaluation"]["dropped_by_data"] == {"between label times": 18}
    assert f"labels: evaluated at 9 of 27 {LEFT_OUT}" in caplog.text
    assert (
        "dt: not evaluated: 9 of 17 detections, at times without labels that count" in caplog.text
    )


@pytest.mark.usefixtures("_no_page")
def test_labels_of_a_data_root_where_windows_of_the_detections_end(tmp_path, caplog):
    """By the rule of validate from 0.2 s on, though validate itself starts at 0.133332 s."""
    rows = boxes_at(np.arange(1, 61) * 33_333)
    names = "val_1", "val_2"
    for name in names:
        write_raw(tmp_path / "root" / "val", name, random_events(2000, seconds=2), rows)
    found = boxes_at(np.arange(1, 41) * 50_000)
    write_npy(tmp_path / "dt", {names[0]: found, names[1]: found[:0]})
    metrics = evaluated(
        tmp_path / "root", tmp_path / "dt", tmp_path / "out", "--metric.pictures", "1"
    )
    assert metrics["num_frames"] == 2 * 19  # also of the recording in which nothing was found
    assert metrics["AR"] == pytest.approx(0.5)
    assert metrics["evaluation"]["dropped_by_data"]["between label times"] == 2 * (60 - 19)
    assert f"labels: evaluated at 38 of 114 {LEFT_OUT}" in caplog.text
    [miss] = metrics["gallery"]["misses"]
    assert miss["time_us"] % 99_999 == 0


@pytest.mark.usefixtures("_no_page")
def test_detect_then_evaluate_equals_validate(tmp_path, monkeypatch, caplog):
    """With the thresholds of detect, above which no box has two classes."""
    monkeypatch.chdir(tmp_path)
    size = {"height": 360, "width": 640, "train": 0, "val": 1, "test": 0}
    simulate("traffic", SimulationSettings(**size, seconds=1.0))
    [boxes] = Path("traffic/val").glob("*_bbox.npy")
    rows = np.load(boxes)
    rows["t"] = (rows["t"] // 33_333 * 100_000 / 3).round()  # on whole windows, unlike 33,333
    np.save(boxes, rows)
    at_most = ["--score", "0.4", "--nms", "0.5", "--device", "cpu", "--video", "false"]
    assert run(["detect", "traffic/val", *at_most]) == 0
    same = ["--model.score_threshold", "0.4", "--model.nms_threshold", "0.5"]
    same += ["--model.pixel_frame", "native", "--data.root", "traffic", "--data.num_workers", "0"]
    same += ["--trainer.accelerator", "cpu", "--results.pictures", "0"]
    assert run(["validate", "--ckpt_path", str(shipped_checkpoint()), *same]) == 0
    [expected] = Path("runs").rglob("metrics.json")
    expected = json.loads(expected.read_text())
    found = evaluated("traffic", "detections", tmp_path / "out", "--metric.pictures", "0")
    keys = [key for key in found if isinstance(found[key], float | int) and key in expected]
    assert {"AP", "AP50", "AP_small", "AP_car", "AR", "num_boxes", "num_frames"} <= {*keys}
    assert expected["AP"] > 0.01
    for key in keys:
        assert found[key] == pytest.approx(expected[key], abs=1e-6), key
    # The same label times of the box file alone, of which validate takes every third.
    of_file = evaluated(boxes, "detections", tmp_path / "of_file", "--metric.pictures", "0")
    assert of_file["num_frames"] == found["num_frames"] == 10
    assert f"labels: evaluated at 10 of 30 {LEFT_OUT}" in caplog.text


@pytest.mark.usefixtures("_no_page")
@pytest.mark.parametrize("times", [[100_000], np.arange(1, 9) * 200_000, np.arange(10) * 1007 + 1])
def test_few_or_close_times_are_no_windows(tmp_path, times):
    """Labels between them are missed."""
    write_npy(tmp_path / "gt", {"a": boxes_at(np.arange(1, 51) * 33_334)})
    write_npy(tmp_path / "dt", {"a": boxes_at(np.append(times, 33_334))})
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out")
    assert metrics["num_frames"] == 50


@pytest.mark.usefixtures("_no_page")
def test_two_detectors_are_evaluated_where_windows_of_both_end(tmp_path):
    gt, a, b = (np.arange(1, 61) * step for step in (10_000, 20_000, 30_000))
    for name, times in (("gt", gt), ("a", a), ("b", b)):
        write_npy(tmp_path / name, {"r": boxes_at(times[times <= 600_000])})
    both = ["--detections", str(tmp_path / "b")]
    command = ["evaluate", "--labels", str(tmp_path / "gt"), "--detections", str(tmp_path / "a")]
    assert run([*command, *both, "--output", str(tmp_path / "out")]) == 0
    for name in "ab":
        metrics = json.loads((tmp_path / "out" / name / "metrics.json").read_text())
        assert (metrics["num_frames"], metrics["AP"]) == (10, pytest.approx(1))


@pytest.mark.usefixtures("_no_page")
def test_rounded_label_times_are_one_frame(tmp_path):
    rows = np.concatenate([boxes_at([100_000]), boxes_at([100_003], x=50)])
    write_npy(tmp_path / "gt", {"a": rows})
    metrics = evaluated(tmp_path / "gt", tmp_path / "gt", tmp_path / "out")
    assert (metrics["num_frames"], metrics["num_boxes"]) == (1, 2)


@pytest.mark.usefixtures("_no_page")
@pytest.mark.parametrize("apart", [1, 100])
def test_rounded_times_of_detections_are_one_frame(tmp_path, caplog, apart):
    times = np.arange(1, 11) * 100_000
    rows = np.concatenate([boxes_at(times), boxes_at(times, x=50)])
    write_npy(tmp_path / "gt", {"a": rows})
    found = rows.copy()
    found["t"][10:] += apart
    write_npy(tmp_path / "dt", {"a": found})
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out")
    assert (metrics["num_frames"], metrics["AP"]) == (10, pytest.approx(1))
    assert "not evaluated" not in caplog.text


@pytest.mark.usefixtures("_no_page")
def test_scores_beyond_1_are_reported(tmp_path, caplog):
    found = boxes_at([100_000, 200_000])
    write_npy(tmp_path / "gt", {"a": found})
    found["class_confidence"] = [5, 87.5]
    write_npy(tmp_path / "dt", {"a": found})
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out")
    assert metrics["AP"] == pytest.approx(1)
    [line] = [each for each in caplog.messages if "scores" in each]
    assert line == (
        "dt: scores must be in [0, 1] for thresholds to mean what they say, got 5 to 87.5, and AP "
        "goes by their order alone: divide percentages by 100"
    )


@pytest.mark.usefixtures("_no_page")
def test_a_labelled_frame_takes_the_detections_nearest_in_time(tmp_path):
    write_npy(tmp_path / "gt", {"a": boxes_at([100_000, 200_000])})
    near = boxes_at([99_500, 101_000, 200_900])
    near["x"][1] = 300  # further away than the one before
    write_npy(tmp_path / "dt", {"a": near})
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out")
    assert metrics["AP"] == pytest.approx(1)


@pytest.mark.usefixtures("_no_page")
def test_common_recordings_alone(tmp_path, caplog):
    labels, detections = many_recordings(0)
    names = sorted(labels)
    write_npy(tmp_path / "gt", {name: labels[name] for name in names[:8]})
    write_npy(tmp_path / "dt", {name: detections[name] for name in names[2:8]})
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out")
    assert metrics["num_recordings"] == 8
    assert "dt: no detections in 2 of 8 recordings with labels, all of which count" in caplog.text
    metrics = evaluated(tmp_path / "gt", tmp_path / "dt", tmp_path / "out", "--only_common")
    assert metrics["num_recordings"] == 6


IMAGE = {"id": 1, "file_name": "a_100000", "t": 100_000}
BOX = {"image_id": 1, "category_id": 2, "bbox": [10, 12, 20, 16], "score": 0.5}
CAR = {"id": 2, "name": "car"}


def ground_truth(images=(IMAGE,), annotations=(BOX,), categories=(CAR,)):
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.mark.parametrize(
    ("labels", "detections", "flags", "message"),
    [
        (
            {"a": boxes_at([100_000])},
            {"b": boxes_at([100_000])},
            [],
            "detections: must be of recordings with labels (a), got b in dt/b_bbox.npy: name the "
            "files or the column recording after these, or set times.pattern",
        ),
        (
            {"a": boxes_at([100_000])},
            {"a": boxes_at([100_000]), "b": boxes_at([100_000])},
            [],
            "detections: must be of recordings with labels (a), got b in dt/b_bbox.npy: name the "
            "files or the column recording after these, or set times.pattern, or set only_common "
            "to leave them out",
        ),
        (
            {"a": boxes_at([100_000])},
            {"a": boxes_at([100_000], class_id=11)},
            [],
            "dt: boxes of a class without an id: 1 (a_bbox.npy: id 11): set class_map to a class "
            "for its name, or to null to leave it out, or set class_names",
        ),
        (
            ground_truth(),
            [BOX | {"category_id": 5}],
            [],
            "dt.json: boxes of a class without an id: 1 (5): set class_map to a class",
        ),
        (
            ground_truth(),
            [BOX | {"image_id": 7}],
            [],
            "dt.json: boxes of images that are not listed: 1 (image_id 7): use the image ids of "
            "the file that lists the images: labels list their own under images, for detections "
            "set images to the COCO file of the ground truth",
        ),
        (
            ground_truth(images=[{"id": 1, "file_name": "frame_000001.png"}]),
            [BOX],
            [],
            "gt.json: images without a time: 1 ('frame_000001.png'): set times.pattern to what "
            "their names look like, such as {recording}_{time}.png, times.rate to images a "
            "second, or times.column to the key or column with the time",
        ),
        (
            ground_truth(images=[IMAGE, IMAGE | {"id": 2}]),
            [BOX],
            [],
            "gt.json: images of one recording and time, of which the first is used: 1 "
            "('a_100000'): set times.pattern to take recording and time from the images' names",
        ),
        (
            {"a": boxes_at([100_000])},
            [BOX],
            [],
            "dt.json: boxes whose images are known by a number alone: 1 ('1'): set images to the "
            "COCO file that lists them, such as that of the ground truth",
        ),
        (
            ground_truth(),
            [{key: value for key, value in BOX.items() if key != "score"}],
            [],
            "dt.json: detections without a score: 1 (annotation 1): add a score to each",
        ),
        (
            {"a": boxes_at([100_000])},
            {"a": boxes_at([100])},
            [],
            "detections: must have times of labels, within tolerance_ms (2), got 100 to 100 us in "
            "dt, where labels are at 100,000 to 100,000 us: set times.unit, times.start_us, "
            "interval_ms or tolerance_ms, or detect with predict, whose windows end at label times",
        ),
        (
            {"a": boxes_at([])},
            {"a": boxes_at([100])},
            [],
            "labels: must have boxes, got none in gt: use another file",
        ),
        (
            {"a": boxes_at([100_000])},
            {"a": boxes_at([100_000])},
            ["--metric.size_bins", "{small: [9, 4]}"],
            "metric.size_bins.small: must be [low, high] in square pixels",
        ),
        (
            {"a": boxes_at([100_000])},
            {"a": boxes_at([100_000])},
            ["--detections", "gone.npy"],
            "detections: must be files of boxes or folders of these, got no such file for gone.npy",
        ),
        (
            {"a": boxes_at([100_000])},
            {"a": boxes_at([100_000])},
            ["--detections", "other/dt"],
            "detections: must have a name for each detector, got dt twice: name them by "
            "--detections A=other/dt",
        ),
        (
            {"a": boxes_at([100_000])},
            {"a": boxes_at([100_000])},
            ["--interval_ms", "0"],
            "tolerance_ms: must be at least 0, as jitter_ms, and interval_ms at least 1, got 2, 2 "
            "and 0: raise them",
        ),
        (
            {"a": boxes_at([100_000])},
            {"a": boxes_at([100_000])},
            ["--metric.score_threshold", "3"],
            "metric.score_threshold: must be in [0, 1], got 3: set another",
        ),
        (
            {"a": boxes_at([100_000])},
            {"a": boxes_at([100_000])},
            ["--pixels.frame_scale", "0"],
            "pixels.frame_scale: must be above 0, got 0: set 1 for areas in pixels of the sensor",
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, labels, detections, flags, message):
    monkeypatch.chdir(tmp_path)
    names = []
    for name, content in (("gt", labels), ("dt", detections)):
        is_npy = isinstance(content, dict) and "images" not in content
        if is_npy:
            write_npy(tmp_path / name, content)
        else:
            Path(f"{name}.json").write_text(json.dumps(content))
        names.append(name if is_npy else f"{name}.json")
    arguments = ["evaluate", "--labels", names[0], "--detections", names[1]]
    assert run([*arguments, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"etram_det: error: {message}")
    assert error.count("\n") == 1
    assert not Path("evaluation").exists()


def test_a_detector_that_found_nothing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_npy(tmp_path / "gt", {"a": boxes_at([100_000])})
    Path("nothing.csv").write_text("recording,t,class,score,x,y,w,h\n")
    assert run(["evaluate", "--labels", "gt", "--detections", "nothing.csv"]) == 2
    assert capsys.readouterr().err == (
        "etram_det: error: detections: must hold detections, got none in nothing.csv: check "
        "that the detector has written any, or lower its least score\n"
    )


SECONDS = "recording,Time Stamp,class,score,x,y,w,h\na,0.1,car,0.9,10,10,20,20\n"


@pytest.mark.usefixtures("_no_page")
def test_detections_may_have_times_in_another_place_and_unit(tmp_path, capsys):
    """A column is found as its file writes it."""
    (tmp_path / "gt.csv").write_text("recording,t,class,x,y,w,h\na,100000,car,10,10,20,20\n")
    (tmp_path / "dt.csv").write_text(SECONDS)
    flags = ["--times.column", "Time Stamp", "--times.unit", "s"]
    given = ["--labels", str(tmp_path / "gt.csv"), "--detections", str(tmp_path / "dt.csv")]
    assert run(["evaluate", *given, *flags]) == 2
    error = capsys.readouterr().err
    assert "error: times.column: must be a column of " in error
    assert error.endswith(" (for labels alone: label_times)\n")
    flags += ["--label-times.unit", "us"]
    metrics = evaluated(tmp_path / "gt.csv", tmp_path / "dt.csv", tmp_path / "out", *flags)
    assert (metrics["num_boxes"], metrics["AP"]) == (1, pytest.approx(1))


@pytest.mark.usefixtures("_no_page")
def test_labels_in_coco_without_images_are_listed_by_another_file(tmp_path):
    images = [{"id": 7, "file_name": "a_100000.png"}]
    box = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 10, 20, 20]}
    of_classes = [{"id": 1, "name": "car"}]
    listed = {"images": images, "annotations": [], "categories": of_classes}
    (tmp_path / "listed.json").write_text(json.dumps(listed))
    (tmp_path / "gt.json").write_text(json.dumps({"annotations": [box]}))
    (tmp_path / "dt.json").write_text(json.dumps([{**box, "score": 0.5}]))
    flags = ["--images", str(tmp_path / "listed.json")]
    flags += ["--times.pattern", "{recording}_{time}.png"]
    metrics = evaluated(tmp_path / "gt.json", tmp_path / "dt.json", tmp_path / "out", *flags)
    assert (metrics["num_boxes"], metrics["AP_car"]) == (1, pytest.approx(1))


def test_box_files_without_scores_are_no_detections(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_npy(tmp_path / "gt", {"a": boxes_at([100_000])})
    (tmp_path / "dt").mkdir()
    rows = boxes_at([100_000])
    names = [name for name in rows.dtype.names if name != "class_confidence"]
    np.save("dt/a_bbox.npy", rows[names])
    command = ["evaluate", "--labels", "gt", "--detections", "dt"]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert "dt/a_bbox.npy: must have the scores of detections as class_confidence, got" in error
    old = rfn.rename_fields(rfn.repack_fields(rows), {"class_confidence": "confidence"})
    np.save("dt/a_bbox.npy", old)
    monkeypatch.setattr("etram_det.tools.evaluate.command.write_report", lambda *_: "none")
    assert run(command) == 0
    np.save("dt/a_bbox.npy", np.zeros((3, 4)))
    assert run(command) == 2
    assert "got a plain array" in capsys.readouterr().err


def test_results_are_a_folder_and_names_of_detectors_fit_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_npy(tmp_path / "gt", {"a": boxes_at([100_000])})
    Path("taken").write_text("")
    given = ["evaluate", "--labels", "gt", "--detections"]
    assert run([*given, "gt", "--output", "taken"]) == 2
    assert "output: must be a folder for the results, got taken: name" in capsys.readouterr().err
    assert Path("taken").read_text() == ""
    assert run([*given, "my det=gt"]) == 2
    assert "names before = must be of letters, digits, dots, _ and -, got my det: use" in (
        capsys.readouterr().err
    )


def test_detectors_without_a_common_recording(tmp_path, capsys):
    rows = boxes_at([100_000])
    write_npy(tmp_path / "gt", {"a": rows, "b": rows})
    for name in "ab":
        write_npy(tmp_path / f"of_{name}", {name: rows})
    arguments = ["evaluate", "--labels", str(tmp_path / "gt"), "--only-common"]
    detectors = [word for x in "ab" for word in ("--detections", str(tmp_path / f"of_{x}"))]
    assert run([*arguments, *detectors, "--output", str(tmp_path / "out")]) == 2
    message = "detections: must have recordings in common, got none in all of of_a, of_b: evaluate"
    assert capsys.readouterr().err.startswith(f"etram_det: error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_not_there(tmp_path, capsys):
    write_raw(tmp_path / "root" / "val", "val_1", random_events(500), boxes_at([100_000]))
    arguments = ["evaluate", "--labels", str(tmp_path / "root"), "--split", "test"]
    assert run([*arguments, "--detections", str(tmp_path / "root" / "val")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("etram_det: error: split: must be one of val that are under")


@pytest.mark.usefixtures("_no_page")
def test_box_files_of_a_root_without_recordings(tmp_path):
    for split in ("val", "test"):
        write_npy(tmp_path / "root" / split, {f"{split}_1": boxes_at([100_000])})
    assert BOX_DTYPE.names
    root = tmp_path / "root"
    metrics = evaluated(root, root / "test", tmp_path / "out", "--split", "test")
    assert list(metrics["recordings"]) == ["test_1"]
