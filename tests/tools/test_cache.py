"""What the cache holds, and that clearing it removes what this project has made, nothing else."""

import ast
import io
from pathlib import Path

import numba.core.caching
import pytest
from filelock import FileLock

import etram_det
from etram_det.cli.commands import run
from etram_det.files import cached_file
from etram_det.simulator.dataset import SimulationSettings, simulated_root
from etram_det.tools import cache
from etram_det.tools.cache import FILES_OF, cache_contents, numba_folder, shown_size
from support.paths import ROOT

SMALL = SimulationSettings(height=90, width=160, train=1, val=0, test=0, seconds=0.2)
SET = "simulated-90x160-0123456789ab"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache folder in which each kind of thing lies, and a package with compiled kernels."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ETRAM_DET_CACHE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    monkeypatch.setattr(etram_det, "__file__", str(tmp_path / "site" / "etram_det" / "__init__.py"))
    sources = tmp_path / "site" / "etram_det" / "metrics"
    for path, size in {
        folder / SET / "simulation.json": 100,
        folder / SET / "train" / "train_day_0001_td.h5": 2900,
        folder / f".{SET}.{'f' * 32}.partial" / "train" / "x.h5": 500,
        folder / "camera_files" / f"{'a' * 32}.h5": 4000,
        folder / "camera_files" / f".{'a' * 32}.h5.{'b' * 32}.partial": 300,
        folder / "time_index" / f"{'0' * 32}.npy": 20,
        folder / "time_index" / f".{'0' * 32}.npy.lock": 0,
        sources / "curves.py": 10,
        sources / "__pycache__" / "curves.match-1.py311.nbi": 70,
        sources / "__pycache__" / "curves.cpython-311.pyc": 70,
        tmp_path / "home" / "numba" / numba_folder(sources) / "curves.match-1.py311.1.nbc": 30,
        tmp_path / "numba" / "metrics_of_others" / "curves.match-1.py311.1.nbc": 30,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return folder


@pytest.fixture
def strangers(kept, tmp_path):
    """What others have put into the folder, under names like those of the project."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "simulation.json").write_text("{}")
    for path in ("notes.txt", "simulated-90x160-mine/simulation.json", "camera_files/holiday.h5"):
        (kept / path).parent.mkdir(exist_ok=True)
        (kept / path).write_text("mine")
    (kept / "simulated-1x1-0123456789ab").mkdir()  # without the facts of a set
    (kept / "simulated-2x2-0123456789ab").symlink_to(tmp_path / "elsewhere")


def test_the_list_names_what_is_kept_with_its_size(kept, capsys):
    assert run(["cache"]) == 0
    shown = capsys.readouterr().out
    sizes = {each.what: each.num_bytes for each in cache_contents()}
    assert sizes == {
        "simulated traffic, 90x160": 3000,
        "unfinished simulated traffic, 90x160": 500,
        "events decoded from camera files": 4300,
        "time indices of recordings": 20,
        "compiled kernels": 100,
    }
    assert all(what in shown for what in sizes)
    assert "3.0 kB" in shown
    assert "7.9 kB" in shown  # all of it
    assert (kept / SET / "simulation.json").is_file()


def test_clearing_removes_what_was_made_here_and_nothing_else(kept, strangers, tmp_path, capsys):
    assert run(["cache", "clear", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert f"freed 3.0 kB: simulated traffic, 90x160, {kept / SET}" in shown
    assert "freed 4.3 kB: events decoded from camera files" in shown
    assert f"not made by this project, so it stays: {kept / 'camera_files' / 'holiday.h5'}" in shown
    files = (path for path in kept.rglob("*") if path.is_symlink() or not path.is_dir())
    left = {str(path.relative_to(kept)) for path in files}
    assert left == {
        "camera_files/holiday.h5",
        "notes.txt",
        "simulated-2x2-0123456789ab",
        "simulated-90x160-mine/simulation.json",
    }
    assert (kept / "simulated-1x1-0123456789ab").is_dir()
    assert (tmp_path / "elsewhere" / "simulation.json").is_file()
    compiled = {path.name for path in tmp_path.rglob("*.nb[ic]")}
    assert compiled == {"curves.match-1.py311.1.nbc"}  # of another package
    assert len([*tmp_path.rglob("*.pyc")]) == 1
    assert run(["cache", "clear", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "is_removed"), [("y\n", True), ("\n", False), ("n\n", False)])
def test_it_asks_before_it_removes(answer, is_removed, kept, monkeypatch, capsys):
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert run(["cache", "clear"]) == 0
    shown = capsys.readouterr().out
    assert "Remove these, 7.9 kB? [y/N]" in shown
    assert ("nothing was removed" in shown) is not is_removed
    assert (kept / SET).is_dir() is not is_removed


def test_without_a_terminal_it_has_to_be_asked_for(kept, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run(["cache", "clear"]) == 2
    assert capsys.readouterr().err == (
        "etram_det: error: cache clear: must be confirmed, got no terminal to ask in: use cache "
        "clear --yes\n"
    )
    assert (kept / SET).is_dir()


def test_what_another_process_makes_is_kept(kept, capsys):
    (kept / "locks").mkdir()
    with FileLock(kept / "locks" / f"{SET}.lock"), FileLock(kept / "locks" / f"{'a' * 32}.h5.lock"):
        assert run(["cache", "clear", "--yes"]) == 0
    assert f"kept, as another process is making it: {kept / SET}" in capsys.readouterr().out
    assert (kept / SET / "simulation.json").is_file()
    assert len([*kept.glob(f".{SET}.*")]) == 1
    assert len([*(kept / "camera_files").iterdir()]) == 2
    assert not [*(kept / "time_index").iterdir()]
    assert run(["cache", "clear", "--yes"]) == 0
    assert {path.name for path in kept.iterdir()} == {*FILES_OF, "locks"} - {"event_facts"}


def test_a_file_that_cannot_be_removed_is_named(kept, monkeypatch, capsys):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache.shutil, "rmtree", refuse)
    assert run(["cache", "clear", "--yes"]) == 1
    assert "cannot be removed (Permission denied): use an account" in capsys.readouterr().err


def test_real_traffic_and_cached_files_are_known(kept, tmp_path):
    root, _ = simulated_root(SMALL, workers=1)
    assert root in [each.place for each in cache_contents()]
    source = tmp_path / "x.raw"
    source.write_bytes(b"")
    made = cached_file("event_facts", source, "1", ".json")
    made.parent.mkdir()
    made.write_text("{}")
    assert made in [path for each in cache_contents() for path in each.paths]


def test_every_kind_of_cached_file_is_known():
    kinds = set()
    for path in (ROOT / "etram_det").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "cached_file":
                kinds.add(node.args[0].value)
    assert kinds == FILES_OF.keys()


def test_kernels_are_looked_for_where_numba_keeps_them():
    path = Path(etram_det.__file__).absolute().parent / "metrics" / "curves.py"
    own = numba.core.caching._CacheLocator.get_suitable_cache_subpath(str(path))
    assert numba_folder(path.parent) == own


def test_sizes_are_shown_for_people():
    shown = [shown_size(n) for n in (0, 999, 1000, 1_234_567, 5e9, 2e13)]
    assert shown == ["0 bytes", "999 bytes", "1.0 kB", "1.2 MB", "5.0 GB", "20.0 TB"]
