"""Atomic writes, and the one cache folder."""

import os
from pathlib import Path

import pytest

from etram_det.files import (
    CACHE_VARIABLE,
    UNFINISHED,
    cache_folder,
    move_into_place,
    new_hdf5_file,
    replacing,
    write_text,
)


def test_a_file_takes_its_name_when_it_is_written(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    with replacing(path) as unfinished:
        unfinished.write_text("1")
        assert not path.exists()
        assert unfinished.parent == path.parent
    assert [each.name for each in path.parent.iterdir()] == ["metrics.json"]
    assert path.read_text() == "1"


def test_what_stops_the_writing_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "last.ckpt"
    write_text(path, "complete")

    def write_half():
        with replacing(path) as unfinished:
            unfinished.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "complete"
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_what_a_kill_left_goes_with_the_next_writing(tmp_path):
    path = tmp_path / "last.ckpt"
    left_over = path.with_name(f".last.ckpt{UNFINISHED}")
    left_over.write_text("half")
    write_text(path, "complete")
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_writers_have_places_of_their_own(tmp_path):
    path = tmp_path / "manifest.json"
    with replacing(path, "1-of-2") as first, replacing(path, "2-of-2") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1"  # the outer one ends last


def test_a_folder_replaces_an_empty_one_only(tmp_path):
    for name in ("empty", "full", "a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "kept").touch()
    (tmp_path / "a" / "new").touch()
    move_into_place(tmp_path / "a", tmp_path / "empty")
    assert os.listdir(tmp_path / "empty") == ["new"]
    with pytest.raises(OSError, match="not empty"):
        move_into_place(tmp_path / "b", tmp_path / "full")
    assert os.listdir(tmp_path / "full") == ["kept"]


@pytest.mark.parametrize("value", [None, ""])
def test_the_cache_is_the_systems_unless_it_is_set(tmp_path, monkeypatch, value):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "system"))
    if value is None:
        monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(CACHE_VARIABLE, value)
    assert cache_folder().name == "etram_det"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_new_hdf5_file_keeps_few_chunks_in_memory(tmp_path):
    with new_hdf5_file(tmp_path / "new.h5") as (file, _):
        dataset = file.create_dataset("t", (0,), "<i8", maxshape=(None,), chunks=(2**15,))
        assert dataset.id.get_access_plist().get_chunk_cache()[1] == 2**19


def test_the_cache_has_one_path():
    package = Path(__file__).parent.parent / "etram_det"
    users = {
        path.name for path in package.rglob("*.py") if "import platformdirs" in path.read_text()
    }
    assert users == {"files.py", "cache.py"}  # which also looks for numba's
