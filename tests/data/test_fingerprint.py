"""What identifies a set of recordings."""

import h5py
import numpy as np
import pytest

from etram_det.data.datamodule import EventDataModule
from etram_det.data.fingerprint import changes_between, fingerprint, identities, place_in_plan
from etram_det.errors import UserError
from support.raw_files import boxes_at, random_events, write_raw


@pytest.fixture
def recordings(tmp_path):
    def make(*box_times):
        boxes = boxes_at(list(box_times))
        boxes["track_id"] = 1
        write_raw(tmp_path / "train", "a", random_events(500, 0.52), boxes)
        write_raw(tmp_path / "val", "b", random_events(500, 0.52), boxes_at([100_000]))
        data = EventDataModule(root=str(tmp_path), input_size=(48, 64))
        data.setup("fit")
        return data.recordings["train"]

    return make


def test_lengths_and_sizes_of_recordings(recordings, tmp_path):
    [fact] = fingerprint(recordings(200_000, 300_000))["recordings"]
    assert fact.pop("boxes_crc32") > 0
    size = (tmp_path / "train" / "a_td.h5").stat().st_size
    assert fact == {"name": "a", "frames": 6, "labelled": 2, "boxes": 2, "bytes": size}


def test_a_digest_of_all_that(recordings):
    first = fingerprint(recordings(200_000))["digest"]
    assert len(first) == 64
    assert fingerprint(recordings(200_000))["digest"] == first
    assert fingerprint(recordings(200_000, 300_000))["digest"] != first


def test_changes_are_reported_by_name(recordings):
    def facts(found, **settings):
        return {"settings": settings, "recordings": identities(found)}

    before = facts(recordings(200_000, 300_000), lanes=2, size=(1, 2))
    assert changes_between(before, before | {"settings": {"lanes": 2, "size": [1, 2]}}) == []
    assert changes_between(before, facts(recordings(200_000, 300_000), lanes=3, size=(1, 2))) == [
        "lanes was 2 and is 3"
    ]
    # As many labelled frames as before, but others.
    moved = facts(recordings(100_000, 300_000), lanes=2, size=(1, 2))
    assert changes_between(before, moved) == [
        "1 of the training recordings is with other labels (a)"
    ]
    longer = facts(recordings(200_000, 400_000), lanes=2, size=(1, 2))
    assert changes_between(before, longer) == [
        "1 of the training recordings is of another length (a)"
    ]
    # A checkpoint that was written before boxes and sizes were kept.
    old = before | {"recordings": {"a": before["recordings"]["a"][:3]}}
    assert changes_between(old, before) == []
    many = {name: [1, 1, 1] for name in "cdefa"} | {"a": before["recordings"]["a"]}
    more = {"settings": before["settings"], "recordings": many}
    assert changes_between(before, more) == ["4 of the training recordings are new (c, d, e, …)"]


@pytest.mark.parametrize(("field", "value"), [("class_id", 1), ("x", 3.5), ("h", 9.0)])
def test_other_boxes_in_the_same_frames_are_other_labels(recordings, tmp_path, field, value):
    before = recordings(200_000, 300_000)
    facts, digest = identities(before), fingerprint(before)["digest"]
    path = tmp_path / "train" / "a_bbox.npy"
    boxes = np.load(path)
    assert boxes[field][1] != value
    boxes[field][1] = value
    np.save(path, boxes)
    data = EventDataModule(root=str(tmp_path), input_size=(48, 64))
    data.setup("fit")
    after = data.recordings["train"]
    changes = changes_between(
        {"settings": {}, "recordings": facts}, {"settings": {}, "recordings": identities(after)}
    )
    assert changes == ["1 of the training recordings is with other labels (a)"]
    assert fingerprint(after)["digest"] != digest


def test_settings_that_a_checkpoint_does_not_know_had_their_defaults(tmp_path, recordings):
    recordings(200_000, 300_000)
    data = EventDataModule(root=str(tmp_path), input_size=(48, 64))
    data.setup("fit")
    ours = data._what_a_run_follows_from()
    new = ("interpolate_labels", "label_phase", "keep_unlabelled")
    before = {name: ours["settings"][name] for name in ours["settings"]}
    for name in new:
        del before[f"data.{name}"]
    old = ("enabled", "flip", "stream_zoom", "random_zoom", "zoom_in_share")
    old += ("zoom_in_max", "zoom_out_max", "least_visible")
    before["data.augmentation"] = {name: before["data.augmentation"][name] for name in old}
    theirs = {**ours, "settings": before}
    assert changes_between(theirs, ours) == []
    before["data.augmentation"]["flip"] = 0.25
    [change] = changes_between(theirs, ours)
    assert change.startswith("data.augmentation was {'enabled': True, 'flip': 0.25, ")
    data = EventDataModule(root=str(tmp_path), input_size=(48, 64), interpolate_labels=True)
    data.setup("fit")
    changes = changes_between(ours, data._what_a_run_follows_from())
    assert changes[0] == "data.interpolate_labels was False and is True"
    assert changes[1:] == ["1 of the training recordings is with other labels (a)"]


def test_another_size_on_disk_is_reported():
    facts = {"settings": {}, "recordings": {"a": [6, 2, 7, 8, 5000]}}
    other = {"settings": {}, "recordings": {"a": [6, 2, 7, 8, 5001]}}
    assert changes_between(facts, other) == [
        "1 of the training recordings is of another size on disk (a)"
    ]


def test_other_validation_recordings_leave_the_plan_as_it_is():
    ours = {"settings": {}, "recordings": {"a": [6] * 5}, "validation": {"b": [6] * 5}}
    theirs = ours | {"epoch": 1, "step": 3, "validation": {"b": [6] * 5, "c": [6] * 5}}
    place, is_exact, sentences = place_in_plan(theirs, ours, "last.ckpt")
    assert (place, is_exact) == ((1, 3), True)
    assert sentences == [
        "metrics do not compare with those before the checkpoint, the best one "
        "included: 1 of the validation recordings is gone (c)"
    ]
    del theirs["validation"]  # as in older checkpoints
    assert place_in_plan(theirs, ours, "last.ckpt") == ((1, 3), True, [])


def test_another_plan_starts_its_epoch_anew():
    ours = {"settings": {"seed": 1}, "recordings": {}, "validation": {}}
    theirs = ours | {"epoch": 1, "step": 3, "settings": {"seed": 2}}
    place, is_exact, sentences = place_in_plan(theirs, ours, "last.ckpt")
    assert (place, is_exact) == ((1, 0), False)
    assert sentences == [
        "training cannot go on exactly where the checkpoint stopped, its epoch starts "
        "anew: seed was 2 and is 1"
    ]


def test_a_damaged_place_is_reported_with_its_file():
    ours = {"settings": {}, "recordings": {}, "validation": {}}
    with pytest.raises(UserError, match="last.ckpt: .*, got step -3 of epoch 0: .*damaged"):
        place_in_plan(ours | {"epoch": 0, "step": -3}, ours, "last.ckpt")
    with pytest.raises(UserError, match="last.ckpt: must hold a place .* with its settings"):
        place_in_plan(ours | {"epoch": 0, "step": 3, "recordings": 5}, ours, "last.ckpt")


def test_the_version_of_the_simulator_is_part_of_it(recordings, tmp_path):
    before = recordings(200_000, 300_000)
    facts, digest = identities(before), fingerprint(before)["digest"]
    with h5py.File(tmp_path / "train" / "a_td.h5", "r+") as file:
        file.attrs["simulator_version"] = 3
    [fact] = fingerprint(before)["recordings"]
    assert fact["simulator_version"] == 3
    assert fingerprint(before)["digest"] != digest
    now = identities(before)
    assert (facts["a"][5], now["a"][5]) == (0, 3)
    now["a"][4] = facts["a"][4]  # the attribute may need room
    changes = changes_between(
        {"settings": {}, "recordings": facts}, {"settings": {}, "recordings": now}
    )
    assert changes == ["1 of the training recordings is of another version of the simulator (a)"]
    # A checkpoint that was written before the version was kept.
    facts["a"] = facts["a"][:5]
    assert not changes_between(
        {"settings": {}, "recordings": facts}, {"settings": {}, "recordings": now}
    )
