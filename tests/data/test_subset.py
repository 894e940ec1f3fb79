"""Parts of a data set: by name, and shares that resemble the whole."""

from types import SimpleNamespace

import numpy as np
import pytest

from etram_det.data.datamodule import EventDataModule
from etram_det.data.labels import BOX_DTYPE
from etram_det.data.subset import choose_subset, class_share_difference
from etram_det.errors import UserError
from support.raw_files import boxes_at, random_events, write_raw


def recording(name, counts):
    boxes = np.zeros(sum(counts), BOX_DTYPE)
    boxes["class_id"] = np.repeat(np.arange(len(counts)), counts)
    return SimpleNamespace(name=name, label_boxes=boxes)


@pytest.fixture
def recordings():
    """Forty recordings with boxes of three classes, the last one in three recordings only."""
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 200, (40, 3)) * rng.integers(0, 2, (40, 3))
    counts[:, 2] = 0
    counts[:3, 2] = [400, 30, 100]
    return [recording(f"train_day_{i:04d}", row.tolist()) for i, row in enumerate(counts)]


def test_a_share_has_nearly_the_class_shares_of_the_whole(recordings):
    at_random = [
        class_share_difference([recordings[i] for i in chosen], recordings, 3)
        for chosen in np.random.default_rng(0).permuted(np.tile(np.arange(40), (50, 1)), axis=1)[
            :, :8
        ]
    ]
    for seed in range(5):
        chosen = choose_subset(recordings, 0.2, 3, seed)
        difference = class_share_difference(chosen, recordings, 3)
        assert len(chosen) == 8
        assert difference < 0.02
        assert difference < min(at_random)


def test_the_seed_decides_and_the_order_stays(recordings):
    chosen = [each.name for each in choose_subset(recordings, 0.3, 3, seed=1)]
    assert chosen == [each.name for each in choose_subset(recordings, 0.3, 3, seed=1)]
    assert chosen == sorted(chosen)
    assert chosen != [each.name for each in choose_subset(recordings, 0.3, 3, seed=2)]
    assert choose_subset(recordings, 1.0, 3, seed=1) == recordings
    assert len(choose_subset(recordings, 0.001, 3, seed=1)) == 1


def test_names_in_a_file(recordings, tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("# mine\ntrain_day_0007\n\nval_day_0001\n  train_day_0002 \n")
    chosen = choose_subset(recordings, str(path), 3, seed=0)
    assert [each.name for each in chosen] == ["train_day_0002", "train_day_0007"]
    path.write_text("train_day_0007\ntrain_day_0002\n", encoding="utf-8-sig")  # of some editors
    assert choose_subset(recordings, str(path), 3, seed=0) == chosen


def test_what_cannot_be_is_refused(recordings, tmp_path):
    with pytest.raises(UserError, match="data.subset: must be above 0 and at most 1, got 1.5"):
        choose_subset(recordings, 1.5, 3, 0)
    with pytest.raises(
        UserError, match=r"data.subset: must be a share, or a text file .*\(No such file"
    ):
        choose_subset(recordings, str(tmp_path / "missing.txt"), 3, 0)
    for subset in (0.0, str(tmp_path / "missing.txt")):  # before there are any recordings
        with pytest.raises(UserError, match="data.subset: must be"):
            EventDataModule(subset=subset)
    path = tmp_path / "names.txt"
    path.write_text("elsewhere\n")
    with pytest.raises(
        UserError, match=r"names.txt must name recordings of .*0000 … train.*got elsewhere"
    ):
        choose_subset(recordings, str(path), 3, 0)


def test_names_that_no_recording_has_are_reported_once(tmp_path, caplog):
    boxes = boxes_at([100_000, 200_000])
    for split, name in (("train", "train_day_1"), ("val", "val_day_1"), ("test", "test_day.1")):
        write_raw(tmp_path / split, name, random_events(50), boxes)
    names = tmp_path / "names.txt"
    names.write_text("train_day_1\nval_day_1\ntest_day.1\ntrain_day_l\n")
    data = EventDataModule(root=str(tmp_path), input_size=(24, 32), subset=str(names))
    data.setup("fit")
    data.setup("fit")
    assert [message for message in caplog.messages if "names that no" in message] == [
        f"data.subset: {names} has names that no recording under {tmp_path} has: train_day_l: "
        "correct them"
    ]


def test_the_data_module_works_on_the_subset_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    for split, number in (("train", 6), ("val", 2)):
        for i in range(number):
            boxes = boxes_at([100_000, 200_000], class_id=i % 2)
            write_raw(tmp_path / split, f"{split}_day_{i}", random_events(50), boxes)
    data = EventDataModule(root=str(tmp_path), input_size=(24, 32), subset=0.4)
    with caplog.at_level("INFO"):
        data.setup("fit")
    chosen = [each.name for each in data.recordings["train"]]
    assert len(chosen) == 2
    assert len(data.recordings["val"]) == 1
    assert (
        "data.subset: train has 2 of 6 recordings, class shares within 0.0% of the whole: "
        f"{', '.join(chosen)}"
    ) in caplog.text
