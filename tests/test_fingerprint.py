"""What tells sets of recordings apart."""

import pytest
from raw_files import boxes_at, random_events, write_raw

from etram_det.data.datamodule import EventDataModule
from etram_det.data.fingerprint import changes_between, fingerprint, lengths_of


@pytest.fixture
def recordings(tmp_path):
    def make(*box_times):
        write_raw(tmp_path / "train", "a", random_events(500, 0.52), boxes_at(list(box_times)))
        write_raw(tmp_path / "val", "b", random_events(500, 0.52), boxes_at([100_000]))
        data = EventDataModule(root=str(tmp_path), input_size=(48, 64))
        data.setup("fit")
        return data.recordings["train"]

    return make


def test_lengths_and_sizes_of_recordings(recordings, tmp_path):
    [fact] = fingerprint(recordings(200_000, 300_000))["recordings"]
    size = (tmp_path / "train" / "a_td.h5").stat().st_size
    assert fact == {"name": "a", "frames": 6, "labelled": 2, "boxes": 2, "bytes": size}


def test_a_digest_of_all_that(recordings):
    first = fingerprint(recordings(200_000))["digest"]
    assert len(first) == 64
    assert fingerprint(recordings(200_000))["digest"] == first
    assert fingerprint(recordings(200_000, 300_000))["digest"] != first


def test_changes_are_told_by_name(recordings):
    def facts(found, **settings):
        return {"settings": settings, "recordings": lengths_of(found)}

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
    many = {name: [1, 1, 1] for name in "cdefa"} | {"a": before["recordings"]["a"]}
    more = {"settings": before["settings"], "recordings": many}
    assert changes_between(before, more) == ["4 of the training recordings are new (c, d, e, …)"]
