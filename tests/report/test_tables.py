import csv
import io
import json
import os

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter

from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.report.metric_plots import show_results
from etram_det.report.run_files import results_of, write_results
from etram_det.report.tables import detail_tables, summary_tables
from etram_det.types import Detections, Labels


@pytest.fixture
def evaluated():
    """Result: one car found, one bus missed, no other class."""
    metric = SizeBinnedMAP(
        class_names=("pedestrian", "car", "micro-mobility", "bus"),
        class_groups={"VH": ["car", 3], "small_road_users": [0]},
    )
    boxes = torch.tensor([[0.0, 0, 20, 20], [40, 0, 140, 100]])
    metric.update(
        [Detections(boxes[:1], torch.ones(1), torch.ones(1), torch.tensor([1]))],
        Labels.stack([0], [boxes], [torch.tensor([1, 3])]),
        ["val_day_0001"],
        torch.tensor([100_000]),
        torch.ones(1, 2),
    )
    metric.compute()
    return metric.result


def results(result, **dropped):
    return results_of(result, score_threshold=0.5, dropped_by_data=dropped)


def printed(renderable, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def row(text, name):
    """Cells of the table row that starts with ``name``."""
    lines = [line.strip("│").split("│") for line in text.splitlines()]
    return next([c.strip() for c in cells] for cells in lines if cells[0].strip() == name)


def test_tables_show_metrics_counts_and_dashes(evaluated):
    text = printed(summary_tables(results(evaluated)))
    assert row(text, "all") == ["all", "0.500", "0.500", "0.500", "0.500", "2"]
    assert row(text, "medium") == ["medium", "-", "-", "-", "-", "0"]
    assert row(text, "night") == ["night", "-", "-", "-", "-", "0"]
    assert row(text, "car") == ["car", "1.000", "1.000", "1.000", "1.000", "1"]
    assert row(text, "pedestrian") == ["pedestrian", "-", "-", "-", "-", "0"]
    by_size = text[text.index("AP small (boxes)") :]
    assert row(by_size, "car") == ["car", "1.000 (1)", "- (0)", "- (0)"]
    assert row(by_size, "small_road_users") == ["small_road_users", "- (0)", "- (0)", "- (0)"]
    assert row(by_size, "VH") == ["VH", "1.000 (1)", "- (0)", "0.000 (1)"]


def test_details_show_recordings_and_confusion(evaluated):
    text = printed(detail_tables(results(evaluated)))
    cells = ["val_day_0001", "2", "0.500", "0.500", "1.000", "-", "0.000"]
    assert row(text, "val_day_0001") == cells
    # The car was found, the bus was not, and background has no count of its own.
    assert row(text, "1 car") == ["1 car", "0", "1", "0", "0", "0"]
    assert row(text, "3 bus") == ["3 bus", "0", "0", "0", "0", "1"]
    assert row(text, "none background") == ["none background", "0", "0", "0", "0", ""]
    assert "score at least 0.5, IoU at least 0.5" in text


def test_tables_say_how_it_was_evaluated(evaluated):
    dropped = {"outside the frame": 3, "min_side_5": 0, "between label times": 40}
    found = results_of(evaluated, score_threshold=0.5, dropped_by_data=dropped)
    text = printed(summary_tables(found), width=120)
    assert "protocol full, score objectness x class\n" in text
    assert "areas in network px²: small 0 to 1024, medium 1024 to 9216, large from 9216\n" in text
    assert "IoU 0.50 to 0.95, at most 100 detections for each frame and class\n" in text
    assert "1 frame of 1 recording; dropped by the protocol: 0 labels, 0 detections\n" in text
    assert "dropped when the labels were read: 3 outside the frame\n" in text
    assert "no intervals: 1 recording, at least 10 are needed\n" in text
    del found["intervals"]
    assert "no intervals: evaluated by an older release\n" in printed(summary_tables(found))
    between = "not evaluated: 40 boxes between the label times that data.interval_ms selects\n"
    assert between in text
    without = printed(summary_tables(results(evaluated)))
    assert "when the labels were read" not in without
    assert "not evaluated" not in without


def test_tables_say_what_the_groups_are(evaluated):
    text = printed(summary_tables(results(evaluated)))
    said = "groups, each the mean over its classes: VH = car, bus; small_road_users = pedestrian"
    assert said in " ".join(text.split())
    groupless = results(evaluated)
    groupless["evaluation"]["class_groups"] = {}
    assert "groups" not in printed(summary_tables(groupless))


def test_class_agnostic_metrics_say_so_and_have_no_class_table():
    metric = SizeBinnedMAP(class_names=("car",), protocol="etram_fork")
    with pytest.warns(UserWarning, match="called before"):
        metric.compute()
    found = results(metric.result)
    text = printed(summary_tables(found))
    assert "protocol etram_fork, class-agnostic, score class confidence" in text
    assert "class │" not in text
    assert found["confusion"]["names"] == ["any class", "background"]


def test_json_leaves_out_what_has_no_ground_truth(evaluated, tmp_path):
    found = results(evaluated, outside=3)
    write_results(tmp_path / "run", found, evaluated)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    expected = {"AP": 0.5, "AP_car": 1, "AP_small": 1, "AP_bus": 0, "num_boxes": 2, "AP_day": 0.5}
    assert {key: written[key] for key in expected} == expected
    assert not {"AP_medium", "AP_pedestrian", "AP_micro-mobility", "AP_car_large"} & set(written)
    assert written["evaluation"]["protocol"] == "full"
    assert written["evaluation"]["size_bins"]["large"] == [9216, None]
    assert written["evaluation"]["class_groups"]["VH"] == ["car", "bus"]
    assert written["evaluation"]["dropped_by_data"] == {"outside": 3}
    assert written["recordings"]["val_day_0001"]["AP_large"] == 0
    assert "AP_medium" not in written["recordings"]["val_day_0001"]
    assert written["confusion"]["score_threshold"] == 0.5
    assert written["confusion"]["counts"][3] == [0, 0, 0, 0, 1]
    # What was written can be shown again.
    assert printed(summary_tables(written)) == printed(summary_tables(found))
    assert printed(detail_tables(written)) == printed(detail_tables(found))


def test_csv_files_and_curves_hold_the_rest(evaluated, tmp_path):
    write_results(tmp_path, results(evaluated), evaluated)
    rows = dict(csv.reader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert (rows["AP"], rows["num_car"]) == ("0.5", "1")
    assert "AP_medium" not in rows
    assert rows["evaluation.protocol"] == "full"
    assert json.loads(rows["evaluation.size_bins"])["small"] == [0, 1024]
    [recording] = csv.DictReader((tmp_path / "recordings.csv").read_text().splitlines())
    assert recording["recording"] == "val_day_0001"
    assert (recording["AP"], recording["AP_small"], recording["num_boxes"]) == ("0.5", "1.0", "2")
    confusion = list(csv.reader((tmp_path / "confusion.csv").read_text().splitlines()))
    assert confusion[0][0] == "true / detected at score >= 0.5"
    assert confusion[2] == ["car", "0", "1", "0", "0", "0"]
    with np.load(tmp_path / "pr_curves.npz") as saved:
        assert saved["precision"].shape == (10, 101, 4, 4)
        car = saved["classes"].tolist().index("car")
        assert (saved["precision"][0, :, car, 0] == 1).all()
        assert np.isnan(saved["precision"][..., 0, 0]).all()
        assert saved["area_ranges"].tolist() == ["all", "small", "medium", "large"]
        assert saved["num_boxes"][:, 0].tolist() == [0, 1, 0, 1]


def test_failed_write_keeps_the_old_files(evaluated, tmp_path, monkeypatch):
    found = results(evaluated)
    write_results(tmp_path, found, evaluated)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 5

    def refuse(source, target):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_results(tmp_path, {**found, "AP": 0.9}, evaluated)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tensorboard_has_tables_and_curves(evaluated, tmp_path):
    with SummaryWriter(tmp_path) as writer:
        show_results(writer, results(evaluated), evaluated.curves, "val", 7)
    events = EventAccumulator(str(tmp_path)).Reload()
    # Classes without ground truth have no curve.
    tags = {f"val/{name}" for name in ("PR50_car", "PR50_bus")}
    texts = {f"val/{name}/text_summary" for name in ("summary", "details")}
    assert set(events.Tags()["tensors"]) == tags | texts
    [event] = events.Tensors("val/PR50_car")
    assert event.step == 7
    true, false, _, missed, precision, recall = make_ndarray(event.tensor_proto)
    assert (precision == 1).all()
    assert (recall[0], recall[-1]) == (1, 0)
    assert (true + missed == 1).all()
    assert (false == 0).all()
    [summary] = events.Tensors("val/summary/text_summary")
    assert b"protocol full" in summary.tensor_proto.string_val[0]
