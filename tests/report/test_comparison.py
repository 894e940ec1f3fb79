"""Comparisons of runs: the paired bootstrap, several runs a side, and what does not compare."""

import numpy as np
import pytest

from etram_det.cli.commands import run
from etram_det.metrics.bootstrap import interval
from etram_det.report.comparison import compare, unlike
from etram_det.report.run_files import read_run
from support.small_evaluation import page_of, write_run


def frames(seed, share=0.6, recordings=range(12)):
    """A frame of each recording with four pedestrians, of which the detector finds a share."""
    rng = np.random.default_rng(seed)
    labels = [((60 * k, 10, 60 * k + 30, 60), 0) for k in range(4)]
    of_recordings = []
    for r in recordings:
        found = [(box, 0, rng.uniform(0.3, 1)) for box, _ in labels if rng.random() < share]
        found.append(((0, 120, 40, 160), 0, rng.uniform(0, 1)))
        name = f"val_{'day' if r % 12 < 11 else 'night'}_{r:04d}"
        of_recordings.append((name, 1_000_000, labels, found))
    return of_recordings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs a0 to a2, b0 to b2, which are better, of 12 recordings, and c of other ones."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        write_run(folder / f"a{seed}", False, frames(seed, 0.4))
        write_run(folder / f"b{seed}", False, frames(10 + seed, 0.9))
    write_run(folder / "same", False, frames(21, 0.4))
    write_run(folder / "c", False, frames(0, recordings=range(1, 13)))
    write_run(folder / "few", False, frames(0, recordings=range(9)))
    write_run(folder / "prophesee", False, frames(0), protocol="prophesee")
    return folder


@pytest.fixture
def _in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def runs(folder, *names):
    return [read_run(folder / name) for name in names]


def test_two_runs_are_compared_on_the_same_resamples(folder):
    a, b = runs(folder, "a0", "b0")
    found = compare([a], [b], "AP")
    drawn = b.resamples.values["AP"] - a.resamples.values["AP"]
    assert len(drawn) == 1000
    assert found.interval == interval(drawn, 12)
    assert found.interval[0] > 0
    assert found.verdict == "better"
    assert found.difference == b.results["AP"] - a.results["AP"]
    assert [side.interval for side in found.sides] == [
        pytest.approx(tuple(run.results["intervals"]["AP"]), abs=1e-6) for run in (a, b)
    ]
    assert compare([b], [a], "AP").verdict == "worse"
    assert compare([a], runs(folder, "same"), "AP").verdict == "no difference"
    # A run does not differ from itself, and that is certain.
    assert compare([a], [a], "AP").interval == (0, 0)
    assert compare([a], [b], "AP_night").verdict == ""  # one recording
    assert compare([a], [b], "AP_car") is None  # no labels


def test_several_runs_a_side_vary_by_recordings_and_by_seeds(folder):
    a, b = runs(folder, "a0", "a1", "a2"), runs(folder, "b0", "b1", "b2")
    found = compare(a, b, "AP50")
    values = [[run.results["AP50"] for run in side] for side in (a, b)]
    for side, of in zip(found.sides, values, strict=True):
        assert side.mean == pytest.approx(np.mean(of))
        assert side.spread == pytest.approx(np.std(of, ddof=1))
        assert side.interval[0] < side.mean < side.interval[1]
    # Without the spread over seeds only the recordings are left.
    drawn = [np.mean([run.resamples.values["AP50"] for run in side], axis=0) for side in (a, b)]
    low, high = interval(drawn[1] - drawn[0], 12)
    assert found.interval[0] < low
    assert found.interval[1] > high
    # Wide apart in seeds: Student's t with two degrees of freedom, 4.30 standard errors, or more.
    error = np.hypot(*(side.spread / 3**0.5 for side in found.sides))
    assert found.interval[1] - found.interval[0] > 2 * 2.5 * error
    same = compare(a, a, "AP50")
    assert same.verdict == "no difference"


@pytest.mark.usefixtures("_in_folder")
def test_the_page_of_two_runs_says_where_there_is_no_difference(folder, capsys):
    assert run(["report", "a0", "same", "--output", "two.html"]) == 0
    assert capsys.readouterr().out == "report: two.html\n"
    page = page_of(folder / "a0", folder / "same", output=folder / "two.html")
    row = page.row("comparison", "AP")
    assert row[-1] == "no difference"
    assert page.row("comparison", "AP_night")[-2:] == ["–", "–"]
    assert "no difference" in [cells[3] for cells in page.notes["sizes"]]
    one = page_of(folder / "a0")
    ends = read_run(folder / "a0").results["intervals"]["AP"]
    assert one.row("sizes", "all")[-1] == f"{ends[0]:.3f}–{ends[1]:.3f}"
    assert "bootstrap over 12 recordings, 1,000 resamples" in one.text


@pytest.mark.usefixtures("_in_folder")
def test_below_ten_recordings_there_is_no_interval_and_it_says_so(folder):
    page = page_of(folder / "few")
    assert not (folder / "few" / "resamples.npz").exists()
    assert "95 % of AP" not in page.rows["sizes"][0]
    assert "No intervals: 9 recordings, at least 10 are needed" in page.text


@pytest.mark.usefixtures("_in_folder")
def test_sides_are_compared_on_the_screen_and_in_a_page(folder, capsys):
    sides = ["a0", "a1", "a2", "vs", "b0", "b1", "b2"]
    assert run(["report", *sides, "--output", "sides.html"]) == 0
    out = capsys.readouterr().out
    found = compare(*(runs(folder, *names) for names in (sides[:3], sides[4:])), "AP")
    low, high = found.interval
    [line] = [line for line in out.splitlines() if line.startswith("│ AP ")]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "AP",
        *(f"{side.mean:.3f} ± {side.spread:.3f}" for side in found.sides),
        f"{found.difference:+.3f}",
        f"{low:+.3f} to {high:+.3f}",
        "better",
    ]
    assert out.endswith("report: sides.html\n")
    text = (folder / "sides.html").read_text()
    assert "AP_pedestrian" in text
    assert "a0, a1, a2" in text


@pytest.mark.usefixtures("_in_folder")
def test_runs_that_were_evaluated_differently_are_named_not_compared(folder, capsys):
    a, c = runs(folder, "a0", "c")
    [difference] = unlike({"a0": a, "c": c})
    assert difference == (
        "recordings (a0: 12, val_day_0000 only here; c: 12, val_day_0012 only here)"
    )
    assert run(["report", "a0", "c", "--output", "two.html"]) == 0
    said = "not compared, as they were not evaluated alike: recordings (A: 12, val_day_0000 only"
    assert said in capsys.readouterr().out
    page = page_of(folder / "a0", folder / "c", output=folder / "two.html")
    assert "The two are not compared" in page.text
    assert "comparison" not in page.rows
    assert page.row("sizes", "all")[2] == "–"

    assert run(["report", "a0", "a1", "vs", "b0", "prophesee"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "runs: must be evaluated on the same recordings by the same rules, got other" in line
    assert "protocol (a0: full; prophesee: prophesee)" in line


def test_sizes_in_other_frames_and_boxes_beyond_the_frame_do_not_compare(folder):
    a, b = runs(folder, "a0", "a1")
    for results, size in ((a.results, [180, 320]), (b.results, [360, 640])):
        results["run"] = {"input_size": size}
    del b.results["evaluation"]["as_published"]  # as in results of earlier releases
    assert list(unlike({"a": a, "b": b})) == [
        "as published (a: False; b: True)",
        "input size, in whose pixels areas are (a: [180, 320]; b: [360, 640])",
    ]


def test_groups_of_one_name_with_other_classes_do_not_compare(folder):
    a, b = runs(folder, "a0", "a1")
    a.results["evaluation"]["class_groups"] = {"VRU": ["pedestrian", "car"], "own": ["car"]}
    b.results["evaluation"]["class_groups"] = {"VRU": ["car", "pedestrian"]}
    assert list(unlike({"a": a, "b": b})) == []
    b.results["evaluation"]["class_groups"] = {"VRU": ["pedestrian"]}
    assert list(unlike({"a": a, "b": b})) == [
        "class group VRU (a: ['pedestrian', 'car']; b: ['pedestrian'])"
    ]


@pytest.mark.usefixtures("_in_folder")
def test_a_run_counts_once(capsys):
    assert run(["report", "a0", "a0", "vs", "b0", "b1"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "runs: must be different ones, got one of them twice: leave it out" in line


@pytest.mark.usefixtures("_in_folder")
@pytest.mark.parametrize("sides", [["vs", "a0"], ["a0", "a1", "vs", "b0"], ["a0", "vs", "vs"]])
def test_sides_that_are_none_take_one_line(sides, capsys):
    assert run(["report", *sides]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "runs: must be two sides of two or more runs, or of one each, with vs between" in line
