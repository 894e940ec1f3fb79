"""The report: what its page shows, and the command that writes it."""

import base64
import html
import json
from pathlib import Path

import pytest

from etram_det.cli.commands import run
from etram_det.report.page import write_report
from etram_det.report.page_tables import difference_colour, signed
from support.paths import ROOT
from support.random_checkpoint import write_random_checkpoint
from support.small_evaluation import CLASSES, FRAMES, Tables, page_of, shown, write_run

RAW = ROOT / "tests" / "reference" / "raw_etram"


# The page


def test_tables_hold_the_metrics_of_metrics_json(tmp_path):
    results = write_run(tmp_path)
    page = page_of(tmp_path)
    kinds = ("AP", "AP50", "AP75", "AR")
    for size, suffix in {"all": "", "small": "_small", "medium": "_medium"}.items():
        count = results.get(f"num{suffix or '_boxes'}", 0)
        expected = [shown(results, kind + suffix) for kind in kinds]
        assert page.row("sizes", size) == [*expected, str(count)]
    for name in (*CLASSES, "VH"):
        expected = [shown(results, f"{kind}_{name}") for kind in kinds]
        assert page.row("classes", name) == [*expected, str(results[f"num_{name}"])]
        by_size = [f"AP_{name}{suffix}" for suffix in ("", "_small", "_medium", "_large")]
        assert page.row("heat", name) == [shown(results, key) for key in by_size]
    assert page.row("heat", "pedestrian") == ["1.000", "1.000", "–", "–"]
    heat = {
        cells[0]: notes for cells, notes in zip(page.rows["heat"], page.notes["heat"], strict=True)
    }
    assert heat["pedestrian"][1:] == ["2", "2", "0", "0"]
    for part in ("day", "night"):
        keys = [f"AP_{part}{suffix}" for suffix in ("", "_small", "_medium", "_large")]
        assert page.row("day-night", part) == [shown(results, key) for key in keys]
    for name, metrics in results["recordings"].items():
        keys = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")
        expected = [shown(metrics, key) for key in keys]
        assert page.row("recordings", name) == [*expected, str(metrics["num_boxes"])]
    for name, counts in zip(CLASSES, results["confusion"]["counts"], strict=False):
        assert page.row("confusion-a", name) == [str(n) for n in counts]
    assert page.row("confusion-a", "localisation error") == ["0", "0", "0", ""]
    assert page.row("confusion-a", "false alarm") == ["0", "2", "0", ""]
    best = results["best_scores"]
    assert list(best) == ["all classes", *CLASSES]
    assert page.row("best-scores", "pedestrian") == ["0.20", "1.000", "1.000", "1.000"]
    for name, of in best.items():
        expected = [f"{of['score']:.2f}", *(f"{of[x]:.3f}" for x in ("f1", "precision", "recall"))]
        assert page.row("best-scores", name) == expected


def test_false_alarms_stand_apart_from_localisation_errors(tmp_path):
    off = ((75, 60, 115, 100), 1, 0.45)  # of the car, 15 of 40 px to the right
    frames = [*FRAMES[:2], (*FRAMES[2][:3], [off, ((200, 130, 220, 150), 1, 0.4)])]
    results = write_run(tmp_path, frames=frames)
    page = page_of(tmp_path)
    assert page.row("confusion-a", "localisation error") == ["0", "1", "0", ""]
    assert page.row("confusion-a", "false alarm") == ["0", "2", "0", ""]
    assert results["confusion"]["counts"][-1] == [0, 3, 0, 0]  # of both, as ever
    [shown_off] = results["gallery"]["localisation_errors"]
    assert (shown_off["class"], shown_off["score"]) == ("car", pytest.approx(0.45))
    assert shown_off["closest"]["iou"] == pytest.approx(25 * 40 / (2 * 40 * 40 - 25 * 40), abs=0.02)
    # The label that it is off is no miss.
    assert {each["class"] for each in results["gallery"]["misses"]} == {"<b>bus</b>"}
    text = (tmp_path / "report.html").read_text()
    for title in ("Good detections", "Worst misses", "Worst localisation errors"):
        assert f"{title}</h3>" in text


def test_page_says_what_was_evaluated_and_how(tmp_path):
    write_run(tmp_path)
    page = page_of(tmp_path)
    facts = {name: value for name, value in page.rows["facts"]}
    rules = "every label counts; boxes are cut at the frame and count for each likely class"
    assert facts["protocol"] == f"full: {rules}"
    assert facts["score"] == "objectness x class"
    assert facts["size medium"] == "1024 to 9216 px²"
    assert facts["found, missed, confusion, pictures"] == "score at least 0.3, IoU at least 0.5"
    assert (facts["frames"], facts["recordings"], facts["labels"]) == ("3", "2", "7")
    assert facts["labels dropped when they were read"] == "7 outside the frame"
    assert facts["boxes not evaluated"] == "0 between the label times that count"
    assert facts["checkpoint"] == "a&b.ckpt"
    assert facts["network's frame"] == "320 x 180 pixels"
    groups = "are groups, each the mean over its classes: VH = car, <b>bus</b>."
    assert groups in html.unescape((tmp_path / "report.html").read_text())
    assert "Missing here" not in page.text
    assert "42.9%" in page.text  # three of seven labels found


def test_page_needs_nothing_else(tmp_path):
    results = write_run(tmp_path)
    page = page_of(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "@import" not in text
    assert "<script" not in text
    files = [each["file"] for kind in results["gallery"].values() for each in kind]
    assert len(page.images) == len(files) == 6
    for source, name in zip(page.images, files, strict=True):
        assert base64.b64decode(source.split(",")[1]) == (tmp_path / name).read_bytes()
    # Ids are there once, so that no plot takes the shapes of another.
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    # Names are text, whatever is in them; the same results give the same page.
    assert "<b>bus" not in text
    write_report([tmp_path])
    assert (tmp_path / "report.html").read_text() == text


def test_two_runs_stand_side_by_side_with_their_differences(tmp_path):
    a = write_run(tmp_path / "a")
    better = [*FRAMES[:2], (*FRAMES[2][:3], [((60, 60, 100, 101), 1, 0.6)])]
    b = write_run(tmp_path / "b", frames=better)
    page = page_of(tmp_path / "a", tmp_path / "b", output=tmp_path / "two.html")
    difference = signed(b["AP_car"] - a["AP_car"])
    assert page.row("classes", "car")[:3] == [shown(a, "AP_car"), shown(b, "AP_car"), difference]
    assert page.row("classes", "pedestrian")[:3] == ["1.000", "1.000", "0.000"]
    assert page.row("classes", "car")[-3:] == ["2", "2", "0"]
    assert page.row("heat", "pedestrian")[6:9] == ["–", "–", "–"]
    assert page.row("confusion-a", "false alarm")[1] == "2"
    assert page.row("confusion-b", "false alarm")[1] == "1"
    numbers = [{kind: len(x) for kind, x in each["gallery"].items()} for each in (a, b)]
    assert numbers == [
        {"found": 2, "misses": 2, "localisation_errors": 0, "false_alarms": 2},
        {"found": 2, "misses": 2, "localisation_errors": 0, "false_alarms": 1},
    ]
    assert len(page.images) == 11
    assert "not evaluated alike" not in page.text


def test_two_runs_that_were_counted_differently_are_named(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", protocol="prophesee")
    page = page_of(tmp_path / "a", tmp_path / "b", output=tmp_path / "two.html")
    assert "They differ in protocol (full / prophesee)" in page.text
    assert page.rows["settings"][1:] == [["model.protocol", "full", "prophesee"]]


def test_what_only_one_run_was_evaluated_for_has_no_metrics_of_the_other(tmp_path):
    results = write_run(tmp_path / "a")
    write_run(tmp_path / "b", class_groups={})
    page = page_of(tmp_path / "a", tmp_path / "b", output=tmp_path / "two.html")
    assert page.row("classes", "VH")[-3:] == [str(results["num_VH"]), "–", "–"]
    assert results["num_VH"] > 0


def test_signs_of_differences():
    assert (signed(0.1), signed(-0.1), signed(-0.0001)) == ("+0.100", "−0.100", "0.000")
    assert difference_colour(0.25) == "#66aad1"
    assert difference_colour(-1) == "#e69e66"
    assert difference_colour(0.0) == ""


@pytest.mark.filterwarnings("error", "ignore:The ``compute`` method")
def test_an_evaluation_without_frames_makes_a_page_without_plots(tmp_path):
    results = write_run(tmp_path, with_gallery=False, frames=[])
    assert results["evaluation"]["min_side_px"] is results["evaluation"]["min_diagonal_px"] is None
    page = page_of(tmp_path)
    assert "every label counts" in page.text
    assert "<svg" not in (tmp_path / "report.html").read_text()


def test_an_older_run_folder_shows_what_is_there_and_says_what_is_missing(tmp_path):
    results = write_run(tmp_path, with_gallery=False)
    del results["found_by_size"], results["run"]
    (tmp_path / "metrics.json").write_text(json.dumps(results))
    (tmp_path / "pr_curves.npz").write_bytes(b"PK damaged")
    (tmp_path / "config.yaml").unlink()
    page = page_of(tmp_path)
    for part in ("precision over recall", "found and missed by size", "pictures of detections"):
        assert f"{part}" in page.text
    assert page.row("sizes", "all")[0] == shown(results, "AP")
    write_run(tmp_path)
    (tmp_path / "gallery" / "miss_00.png").unlink()
    assert "1 of 6 pictures: their files are gone" in page_of(tmp_path).text


def test_a_class_agnostic_run_has_a_page(tmp_path):
    write_run(tmp_path, with_gallery=False, protocol="etram_fork")
    page = page_of(tmp_path)
    assert "classes are ignored" in page.text
    assert page.rows["confusion-a"][0] == ["true class", "any class", "missed"]


# The command


def test_test_writes_a_page_with_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {
        "config": ROOT / "configs" / "size_aware.yaml",
        "data.root": RAW,
        "ckpt_path": write_random_checkpoint(tmp_path / "random.ckpt"),
        "data.input_size": "[90, 160]",
        "model.pixel_frame": "native",
        "results.pictures": 2,
        "data.num_workers": 0,
        "trainer.accelerator": "cpu",
    }
    assert run(["test", *(f"--{name}={value}" for name, value in settings.items())]) == 0
    folder = Path("runs/evaluations/test")
    assert f"report: {folder / 'report.html'}" in capsys.readouterr().out
    results = json.loads((folder / "metrics.json").read_text())
    assert results["run"]["split"] == "test"
    misses = results["gallery"]["misses"]
    assert len(misses) == 2
    # Labels of the sensor's pixels are drawn where they are in the network's frame.
    assert all(0 < each["active"] <= 1 for each in misses)
    page = Tables((folder / "report.html").read_text())
    assert len(page.images) == sum(map(len, results["gallery"].values()))
    assert page.row("sizes", "all")[-1] == str(results["num_boxes"])

    before = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert run(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == before


def test_report_takes_two_runs_and_an_output(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_run(tmp_path / name)
    assert run(["report", "a", "b"]) == 0
    assert capsys.readouterr().out == "report: report.html\n"
    assert run(["report", "--output", "deep/two.html", "a", "b"]) == 0
    assert (tmp_path / "deep" / "two.html").read_text() == (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a run folder with metrics.json of an evaluation, got no metrics.json"),
        ("{", "must be JSON, got "),
        ("[1]", "got no evaluation"),
        ('{"evaluation": {}, "recordings": {}, "confusion": {}}', "got no evaluation.protocol"),
    ],
)
def test_a_damaged_run_folder_takes_one_line(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert_one_line(["report", str(tmp_path)], message, capsys)


def test_mistakes_take_one_line(tmp_path, capsys):
    write_run(tmp_path / "a")
    folder = str(tmp_path / "a")
    assert_one_line(
        ["report", folder, folder, folder], "runs: must be one or two run folders, got 3", capsys
    )
    assert_one_line(
        ["report", str(tmp_path / "none")],
        "a run folder with metrics.json of an evaluation, got no folder",
        capsys,
    )
    blocked = str(tmp_path / "a" / "metrics.json" / "page.html")
    assert_one_line(["report", folder, "--output", blocked], "metrics.json", capsys)
    assert_one_line(["fit", "--results.pictures", "-1"], "results.pictures", capsys)


def assert_one_line(arguments, message, capsys):
    assert run(arguments) in (1, 2)
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
