"""Records of an evaluation, and the flat keys that files and loggers hold."""

from math import isnan

import pytest

from etram_det.metrics.records import (
    flat_key,
    flat_metrics,
    metric_of,
    recording_part,
    records_in,
)
from etram_det.report.run_files import results_of
from support.small_evaluation import CLASSES, evaluated


@pytest.fixture(scope="module")
def result():
    return evaluated()


@pytest.fixture(scope="module")
def results(result):
    return results_of(result, score_threshold=0.3, dropped_by_data={})


def same(one, other):
    return one == other or (isnan(one) and isnan(other))


def test_flat_keys_name_metric_and_cell():
    assert flat_key("AP", ("", "", "")) == "AP"
    assert flat_key("boxes", ("", "", "")) == "num_boxes"
    assert flat_key("AP50", ("", "car", "small")) == "AP50_car_small"
    assert flat_key("AR", ("day", "", "large")) == "AR_day_large"
    assert flat_key("boxes", ("", "car", "")) == "num_car"


def test_records_are_read_from_flat_keys_as_they_were_made(result, results):
    read = records_in(results)
    # Everything, three classes, a group, day and night, over all sizes and in three bins.
    assert len(result.records) == 7 * 4
    for record in result.records:
        assert all(map(same, read[record[:3]][3:], record[3:])), record
    assert [record[:3] for record in result.records] == list(read)[: 7 * 4]


def test_metric_names_are_the_precisions_and_recalls_of_the_flat_metrics(result):
    flat = result.flat_metrics()
    names = set(result.settings.metric_names)
    # The labels have no tracks, from which motion would be known.
    of_motion = {name for name in names if name.endswith(("_standing", "_slow", "_fast"))}
    assert names - of_motion == {name for name in flat if name.startswith("A")}
    assert {"AP_standing", "AR_fast", "AP50_VH_slow"} <= of_motion
    assert {"AP", "AR10", "AP_VH_small", "AR_night"} <= set(result.settings.metric_names)


def test_recordings_have_records_of_their_own(result, results):
    read = records_in(results)
    assert len(read) == (7 + 2 + len(results["times"])) * 4
    for name, flat in result.per_recording().items():
        own = [read[recording_part(name), "", size] for size in ("", "small", "medium", "large")]
        again = flat_metrics(record._replace(part="") for record in own)
        assert again.keys() == flat.keys()
        assert all(same(again[key], flat[key]) for key in flat)


def test_what_has_no_ground_truth_or_no_cell_is_none(results):
    records = records_in(results)
    assert metric_of(records, ("", CLASSES[0], "large"), "AP") is None
    assert metric_of(records, ("", CLASSES[0], "large"), "boxes") == 0
    assert metric_of(records, ("", "unicycle", ""), "boxes") is None
    assert metric_of(records, ("", "", ""), "boxes") == results["num_boxes"]
