import csv
import io
import json
import os

import pytest
import torch
from rich.console import Console

from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.report.table import metrics_tables, write_metrics
from etram_det.types import Detections, Labels


@pytest.fixture
def evaluated():
    """Figures and description: one car found, one bus missed, no other class."""
    metric = SizeBinnedMAP(
        class_names=("pedestrian", "car", "micro-mobility", "bus"), class_groups={"VH": ["car", 3]}
    )
    boxes = torch.tensor([[0.0, 0, 20, 20], [40, 0, 140, 100]])
    metric.update(
        [Detections(boxes[:1], torch.ones(1), torch.ones(1), torch.tensor([1]))],
        Labels.stack([0], [boxes], [torch.tensor([1, 3])]),
        ["val_day_0001"],
        torch.tensor([100_000]),
        torch.ones(1, 2),
    )
    figures = metric.compute()
    return figures, metric.result.description()


def printed(figures, evaluation):
    console = Console(file=io.StringIO(), width=100)
    console.print(metrics_tables(figures, evaluation))
    return console.file.getvalue()


def row(text, name):
    """Cells of the table row that starts with ``name``."""
    lines = [line.strip("│").split("│") for line in text.splitlines()]
    return next([c.strip() for c in cells] for cells in lines if cells[0].strip() == name)


def test_tables_show_figures_counts_and_dashes(evaluated):
    text = printed(*evaluated)
    assert row(text, "all") == ["all", "0.500", "0.500", "0.500", "0.500", "2"]
    assert row(text, "medium") == ["medium", "-", "-", "-", "-", "0"]
    assert row(text, "night") == ["night", "-", "-", "-", "-", "0"]
    assert row(text, "car") == ["car", "1.000", "1.000 (1)", "1.000 (1)", "- (0)", "- (0)"]
    assert row(text, "pedestrian") == ["pedestrian", "-", "- (0)", "- (0)", "- (0)", "- (0)"]
    assert row(text, "VH") == ["VH", "0.500", "0.500 (2)", "1.000 (1)", "- (0)", "0.000 (1)"]


def test_tables_say_how_it_was_evaluated(evaluated):
    text = printed(*evaluated)
    assert "protocol full, score objectness x class\n" in text
    assert "areas in network px²: small 0 to 1024, medium 1024 to 9216, large from 9216\n" in text
    assert "IoU 0.50 to 0.95, at most 100 detections for each frame and class\n" in text
    assert "1 frames of 1 recordings, dropped 0 labels, 0 detections\n" in text


def test_class_agnostic_figures_say_so_and_have_no_class_table():
    metric = SizeBinnedMAP(class_names=("car",), protocol="etram_fork")
    with pytest.warns(UserWarning, match="called before"):
        figures = metric.compute()
    text = printed(figures, metric.result.description())
    assert "protocol etram_fork, class-agnostic, score class confidence" in text
    assert "AP50 │ AP (boxes)" not in text


def test_json_leaves_out_what_has_no_ground_truth(evaluated, tmp_path):
    write_metrics(tmp_path / "run", *evaluated)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (written["AP"], written["AP_car"], written["AP_small"], written["AP_bus"]) == (
        0.5,
        1.0,
        1.0,
        0.0,
    )
    assert written["num_boxes"] == 2
    assert not {"AP_medium", "AP_pedestrian", "AP_micro-mobility", "AP_car_large"} & set(written)
    assert written["evaluation"]["protocol"] == "full"
    assert written["evaluation"]["size_bins"]["large"] == [9216, None]
    assert written["evaluation"]["class_groups"] == {"VH": ["car", "bus"]}
    # What was written can be shown again.
    evaluation = written.pop("evaluation")
    assert printed(written, evaluation) == printed(*evaluated)


def test_csv_holds_the_same_rows(evaluated, tmp_path):
    write_metrics(tmp_path, *evaluated)
    rows = dict(csv.reader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert (rows["AP"], rows["num_car"]) == ("0.5", "1")
    assert "AP_medium" not in rows
    assert rows["evaluation.protocol"] == "full"
    assert json.loads(rows["evaluation.size_bins"])["small"] == [0, 1024]


def test_failed_write_keeps_the_old_file(evaluated, tmp_path, monkeypatch):
    write_metrics(tmp_path, *evaluated)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(before) == {"metrics.json", "metrics.csv"}

    def refuse(source, target):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_metrics(tmp_path, {"AP": 0.9}, evaluated[1])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
