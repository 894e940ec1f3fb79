import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etram_det.data import time_index
from etram_det.data.time_index import TimeIndex, cached_time_index


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(time_index, "BLOCK", 4)
    monkeypatch.setattr(time_index, "_READ", 12)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@given(
    num_events=st.integers(0, 60),
    setback=st.sampled_from([0, 2, 10, 60]),
    start=st.integers(-5, 65),
    length=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_a_cut_equals_mending_the_whole_recording(num_events, setback, start, length, seed):
    rng = np.random.default_rng(seed)
    timestamps = np.sort(rng.integers(0, 60, num_events)) - rng.integers(0, setback + 1, num_events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_index, "BLOCK", 4)
        patch.setattr(time_index, "_READ", 12)
        index = TimeIndex.build(timestamps)
        first, cut = index.cut(timestamps, start, start + length)
    repaired = np.maximum.accumulate(timestamps)
    inside = np.flatnonzero((repaired >= start) & (repaired <= start + length))
    np.testing.assert_array_equal(cut, repaired[inside])
    if len(inside):
        assert first == inside[0]
    assert index.num_repaired == np.count_nonzero(repaired != timestamps)


@pytest.mark.usefixtures("small_blocks")
def test_the_index_is_made_once_and_anew_for_a_changed_file(tmp_path, cache, monkeypatch):
    def write(number):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["t"] = np.arange(number)

    def index():
        with h5py.File(tmp_path / "a.h5") as file:
            return cached_time_index(tmp_path / "a.h5", file["t"])

    write(18)
    assert index().block_time_us.tolist() == [0, 4, 8, 12, 16]
    (stored,) = (cache / "time_index").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(TimeIndex, "build", None)  # would fail if it were called
        assert index().block_time_us.tolist() == [0, 4, 8, 12, 16]
    stored.write_bytes(stored.read_bytes()[:-9])
    assert index().block_time_us.tolist() == [0, 4, 8, 12, 16]
    write(5)
    assert index().block_time_us.tolist() == [0, 4]


@pytest.mark.usefixtures("small_blocks")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, cache):
    cache.write_text("a file where the folder should be")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["t"] = np.arange(9)
        assert cached_time_index(tmp_path / "a.h5", file["t"]).block_time_us.tolist() == [0, 4, 8]
