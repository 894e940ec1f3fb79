"""Preprocessing: equal to raw recordings and to RVT, whatever happens meanwhile."""

import filecmp
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etram_det.cli.commands import run
from etram_det.data import preprocessing
from etram_det.data.fingerprint import simulator_version
from etram_det.data.labels import LabelSettings
from etram_det.data.layouts import find_recordings
from etram_det.data.preprocessed import PreprocessedRecording
from etram_det.data.preprocessing import MANIFEST, preprocess
from etram_det.data.recording import NoUsableLabels
from etram_det.data.representation import FrameSettings
from etram_det.data.sparse import SparseRecording
from etram_det.data.sparse_frames import SparseFrames, decode, encode
from etram_det.errors import UserError
from support.paths import REFERENCE, ROOT
from support.raw_files import boxes_at, random_events, write_raw

RAW, RVT = REFERENCE / "raw_etram", REFERENCE / "preprocessed_etram"
NEAREST = FrameSettings(input_size=(360, 640), downsample="nearest")
SMALL = FrameSettings(input_size=(24, 32))
LABELS = LabelSettings()


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """Six small recordings, 14 to 24 frames each, some events of them outside the sensor."""
    for i in range(6):
        events = random_events(4000, seconds=1.2, seed=i)
        events["y"][::1000] = 33014
        times = 133_333 + np.arange(6 + i) * 100_000
        boxes = boxes_at(times, class_id=i % 3, w=10 + i)
        split = "val" if i == 5 else "train"
        write_raw(tmp_path / "raw" / split, f"{split}_day_{i:04d}", events, boxes)
    return tmp_path / "raw"


def files_of(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def assert_same_recordings(ours, theirs):
    assert [each.name for each in ours] == [each.name for each in theirs]
    for our, their in zip(ours, theirs, strict=True):
        for name in ("sensor_size", "input_size", "scale"):
            assert getattr(our, name) == getattr(their, name)
        for name in ("frame_end_us", "label_frame", "label_boxes"):
            np.testing.assert_array_equal(getattr(our, name), getattr(their, name))
        np.testing.assert_array_equal(our.frames(0, len(our)), their.frames(0, len(their)))


@pytest.mark.parametrize(
    "frames",
    [
        SMALL,
        FrameSettings(input_size=(48, 64), count_cutoff=255, bins=3, window_ms=20),
        FrameSettings(input_size=(31, 50), timing="window", downsample="nearest"),
        FrameSettings(input_size=(24, 32), representation="mixed_density"),
    ],
)
def test_the_sparse_cache_equals_the_raw_recordings(root, tmp_path, frames):
    preprocess(root, tmp_path / "out", frames, LABELS, workers=1)
    for split in ("train", "val"):
        raw = find_recordings(root, split, frames, LABELS)
        cached = find_recordings(tmp_path / "out", split, frames, LABELS)
        assert all(isinstance(recording, SparseRecording) for recording in cached)
        assert_same_recordings(cached, raw)
        one = pickle.loads(pickle.dumps(cached[0]))
        np.testing.assert_array_equal(one.frames(3, 5), raw[0].frames(3, 5))
        assert one.frames(4, 4).shape == (0, frames.channels, *frames.input_size)
        # Entries travel as they are stored, where the raw recording's frames are encoded.
        cutoff = frames.count_cutoff
        for start, stop in ((0, len(one)), (3, 5), (4, 4)):
            ours, theirs = (each.sparse_frames(start, stop, cutoff) for each in (one, raw[0]))
            np.testing.assert_array_equal(ours.entries, theirs.entries)
            assert ours.num_entries.tolist() == theirs.num_entries.tolist()
            assert (ours.shape, ours.is_signed) == (theirs.shape, theirs.is_signed)


@given(
    st.integers(1, 8),
    st.sampled_from([0.0, 1e-4, 0.02, 0.6, 1.0]),
    st.sampled_from([1, 300, 70_000]),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=60)
def test_any_counts_survive_the_sparse_form(count_bits, density, size, seed):
    rng = np.random.default_rng(seed)
    counts = (rng.random((2, size)) < density) * rng.integers(1, 2**count_bits, (2, size))
    counts = counts.astype(np.uint8)
    parts = [encode(frame, count_bits) for frame in counts]
    first_entry = np.cumsum([0, *map(len, parts)])
    decoded = np.zeros_like(counts)
    assert decode(decoded, np.concatenate(parts), first_entry, count_bits)
    np.testing.assert_array_equal(decoded, counts)


def test_rvts_layout_is_written_as_rvt_writes_it(tmp_path):
    preprocess(RAW, tmp_path / "out", NEAREST, LABELS, "rvt", workers=1)
    theirs = sorted(path.relative_to(RVT) for path in RVT.rglob("*") if path.is_file())
    assert len(theirs) == 15
    for path in theirs:
        our, their = tmp_path / "out" / path, RVT / path
        if path.suffix == ".npz":  # a zip archive: RVT's carries the time of its making
            our, their = np.load(our), np.load(their)
            assert our.files == their.files
            for name in our.files:
                np.testing.assert_array_equal(our[name], their[name])
                assert our[name].dtype == their[name].dtype
        elif path.suffix == ".h5":
            with h5py.File(our) as our, h5py.File(their) as their:
                assert (our["data"].chunks, our["data"].maxshape) == (
                    their["data"].chunks,
                    their["data"].maxshape,
                )
                filters = [
                    each["data"].id.get_create_plist().get_filter(0) for each in (our, their)
                ]
                assert filters[0] == filters[1]
                np.testing.assert_array_equal(our["data"], their["data"])
        else:
            assert our.read_bytes() == their.read_bytes()
    (ours,) = find_recordings(tmp_path / "out", "val", NEAREST, LABELS)
    assert isinstance(ours, PreprocessedRecording)
    assert_same_recordings([ours], find_recordings(RAW, "val", NEAREST, LABELS))


def test_formats_turn_into_each_other(tmp_path):
    for source, layout, target in (
        (RVT, "sparse", tmp_path / "sparse"),
        (tmp_path / "sparse", "rvt", tmp_path / "rvt"),
    ):
        preprocess(source, target, NEAREST, LABELS, layout, workers=1)
    for split in ("train", "val", "test"):
        expected = find_recordings(RVT, split, NEAREST, LABELS)
        for name in ("sparse", "rvt"):
            assert_same_recordings(
                find_recordings(tmp_path / name, split, NEAREST, LABELS), expected
            )
    with pytest.raises(UserError, match=r"data.downsample: must be nearest for .*got sum"):
        preprocess(RVT, tmp_path / "other", FrameSettings(), LABELS, workers=1)


def test_rvts_layout_keeps_the_settings_that_it_was_written_with(root, tmp_path):
    labels = LabelSettings(filters=("min_side_5",))
    preprocess(root, tmp_path / "rvt", SMALL, labels, "rvt", workers=1)
    for changed, message in (
        (
            {"downsample": "nearest"},
            "data.downsample: must be sum, with which .*rvt/manifest.json was",
        ),
        ({"timing": "window"}, "data.timing: must be events, with"),
        ({"count_cutoff": 20}, "data.count_cutoff: must be 10, with"),
    ):
        with pytest.raises(UserError, match=message):
            preprocess(
                tmp_path / "rvt", tmp_path / "no", replace(SMALL, **changed), labels, workers=1
            )
    with pytest.raises(UserError, match=r"data.filters: must be \['min_side_5'\], .*got \[\]"):
        preprocess(tmp_path / "rvt", tmp_path / "no", SMALL, LABELS, workers=1)
    assert not (tmp_path / "no").exists()
    manifest = preprocess(tmp_path / "rvt", tmp_path / "back", SMALL, labels, workers=1)
    assert manifest["settings"]["downsample"] == "sum"
    assert_same_recordings(
        find_recordings(tmp_path / "back", "val", SMALL, labels),
        find_recordings(root, "val", SMALL, labels),
    )


def test_a_mixed_density_goes_through_rvts_layout(root, tmp_path):
    frames = FrameSettings(input_size=(24, 32), representation="mixed_density")
    preprocess(root, tmp_path / "out", frames, LABELS, "rvt", workers=1)
    stored = find_recordings(tmp_path / "out", "val", frames, LABELS)
    assert stored[0].path.parent.name == "mixeddensity_stack_dt=50_nbins=10_cutoff=10"
    assert_same_recordings(stored, find_recordings(root, "val", frames, LABELS))


@pytest.mark.parametrize("layout", ["sparse", "rvt"])
def test_simulated_traffic_is_known_as_such_in_every_layout(layout, root, tmp_path):
    shutil.copytree(root, tmp_path / "simulated")
    for events in (tmp_path / "simulated").rglob("*.h5"):
        with h5py.File(events, "a") as file:
            file.attrs["simulator_version"] = 3
    preprocess(tmp_path / "simulated", tmp_path / "out", SMALL, LABELS, layout, workers=1)
    stored = find_recordings(tmp_path / "out", "val", SMALL, LABELS)
    assert {simulator_version(each) for each in stored} == {3}


def test_what_was_read_and_dropped_is_in_the_manifest(root, tmp_path):
    labels = LabelSettings(filters=("min_side_5",))
    manifest = preprocess(root, tmp_path / "out", SMALL, labels, workers=1)
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["filters"] == ["min_side_5"]
    assert manifest["settings"]["input_size"] == [24, 32]
    raw = find_recordings(root, "train", SMALL, labels)[0]
    raw.frames(0, len(raw))
    counts = manifest["recordings"]["train/train_day_0000"]
    assert counts["dropped events: outside the sensor"] == raw.dropped["events: outside the sensor"]
    assert counts["events: in windows"] == raw.events["in windows"] > 1000
    assert counts["frames"] == len(raw) == 12
    assert (counts["labelled frames"], counts["boxes"]) == (6, 6)
    assert manifest["totals"]["recordings"] == 6
    assert manifest["totals"]["boxes"] == sum(range(6, 12))


def test_workers_and_shards_give_the_same_bytes(root, tmp_path):
    progress = []
    preprocess(root, tmp_path / "one", SMALL, LABELS, workers=1)
    preprocess(
        root,
        tmp_path / "two",
        SMALL,
        LABELS,
        workers=2,
        progress=lambda done, total: progress.append((done, total)),
    )
    for shard in (2, 1, 3):
        preprocess(root, tmp_path / "shards", SMALL, LABELS, workers=1, shard=(shard, 3))
    expected = files_of(tmp_path / "one")
    assert len(expected) == 13
    assert files_of(tmp_path / "two") == expected
    assert files_of(tmp_path / "shards") == expected
    assert progress[0] == (0, 102)
    assert progress[-1] == (102, 102)


def kill_and_resume(output, start, num_kills, seconds, seed, is_ready=lambda: True):
    """Start again and again, killing each run at a random moment; the last one may finish.

    Returns how many recordings were finished after each kill.
    """
    rng = np.random.default_rng(seed)
    num_finished = []
    for _ in range(num_kills):
        process = start()
        deadline = time.monotonic() + 900
        while not is_ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        getattr(process, "join", getattr(process, "wait", None))()
        for folder in output.glob("*/*"):
            if not folder.name.startswith("."):  # whole, or not there at all
                assert sorted(path.name for path in folder.iterdir()) == [
                    "counts.json",
                    "sparse_frames.h5",
                ]
        num_finished.append(len(list(output.glob("*/*/counts.json"))))
    return num_finished


def test_a_killed_run_resumes_to_the_same_bytes(root, tmp_path):
    started = time.monotonic()
    preprocess(root, tmp_path / "whole", SMALL, LABELS, workers=1)
    seconds = time.monotonic() - started
    output = tmp_path / "killed"

    def start():
        process = multiprocessing.get_context("fork").Process(
            target=preprocess, args=(root, output, SMALL, LABELS), kwargs={"workers": 1}
        )
        process.start()
        return process

    kill_and_resume(output, start, 3, seconds, seed=0)
    preprocess(root, output, SMALL, LABELS, workers=1)
    assert files_of(output) == files_of(tmp_path / "whole")


def test_a_run_that_was_killed_at_its_very_first_file_resumes(root, tmp_path):
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / f".{MANIFEST}.1-of-1.partial").write_text("{")
    preprocess(root, tmp_path / "killed", SMALL, LABELS, workers=1)
    preprocess(root, tmp_path / "whole", SMALL, LABELS, workers=1)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.gate
@pytest.mark.skipif(sys.platform != "linux", reason="children of a process are in /proc")
def test_ctrl_c_while_workers_start_is_one_line(root, tmp_path):
    command = [sys.executable, "-m", "etram_det", "preprocess", "--root", str(root)]
    command += ["--workers", "2", "--frames.input_size", "[24, 32]", "--output"]
    # A shell sends Ctrl-C to all processes of a command.
    program = subprocess.Popen(
        [*command, str(tmp_path / "out")], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    while len(children.read_text().split()) < 2:  # one keeps account of what they share
        time.sleep(0.01)
    time.sleep(0.05)  # the worker is importing
    os.killpg(program.pid, signal.SIGINT)
    _, printed = program.communicate(timeout=600)
    assert program.returncode == 1
    assert "Traceback" not in printed
    assert printed.splitlines()[-1] == "etram_det: error: interrupted"


def test_an_interrupt_stops_workers_within_a_recording(tmp_path):
    for i in range(2):
        events = random_events(40_000, seconds=240, seed=i)
        boxes = boxes_at(np.arange(1, 2400) * 100_000)
        write_raw(tmp_path / "raw" / "train", f"train_day_{i}", events, boxes)

    def interrupt(done, _):
        if done:
            raise KeyboardInterrupt

    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        preprocess(tmp_path / "raw", output, SMALL, LABELS, workers=2, progress=interrupt)
    assert list(output.glob("train/*")) == list(output.glob("train/.*")) == []


@pytest.mark.slow
def test_twenty_kills_of_the_command_leave_the_same_bytes(tmp_path):
    for i in range(40):
        events = random_events(400_000, seconds=5, size=(360, 640), seed=i)
        times = np.arange(1, 50) * 100_000
        write_raw(tmp_path / "raw" / "train", f"a{i:02d}", events, boxes_at(times), (360, 640))
    command = [sys.executable, "-m", "etram_det", "preprocess", "--root", str(tmp_path / "raw")]
    command += ["--workers", "2", "--frames.input_size", "[180, 320]", "--output"]
    output = tmp_path / "killed"

    def start(folder=output):
        return subprocess.Popen([*command, str(folder)], stderr=subprocess.DEVNULL)

    whole = start(tmp_path / "whole")
    while not (tmp_path / "whole" / "train").exists():
        time.sleep(0.01)
    started = time.monotonic()
    assert whole.wait() == 0
    # Of each piece, a second goes into the start of the kernels; so twenty do not make the whole.
    seconds = 0.5 + (time.monotonic() - started) / 15

    def is_ready():
        written = {path.name for path in output.glob("*/.*.partial")}
        return bool(written - left_over) or len(list(output.glob("*/*/counts.json"))) == 40

    left_over = set()
    finished = []
    for seed in range(20):
        finished += kill_and_resume(output, start, 1, seconds, seed, is_ready)
        left_over |= {path.name for path in output.glob("*/.*.partial")}
    assert 0 < finished[10] < 40
    assert start().wait() == 0
    assert files_of(output) == files_of(tmp_path / "whole")


def test_shards_that_end_at_once_leave_a_manifest_of_all(root, tmp_path, monkeypatch):
    output = tmp_path / "out"
    preprocess(root, output, SMALL, LABELS, workers=1, shard=(1, 2))
    write = preprocessing.write_text

    def written_late(path, text, writer):
        monkeypatch.setattr(preprocessing, "write_text", write)
        preprocess(root, output, SMALL, LABELS, workers=1, shard=(2, 2))
        write(path, text, writer)

    monkeypatch.setattr(preprocessing, "write_text", written_late)
    manifest = preprocess(root, output, SMALL, LABELS, workers=1, shard=(1, 2))
    assert manifest == json.loads((output / MANIFEST).read_text())
    assert len(manifest["recordings"]) == len(list(output.glob("*/*/counts.json"))) > 2


def test_half_written_recordings_are_removed_and_finished_ones_kept(root, tmp_path):
    output = tmp_path / "out"
    preprocess(root, output, SMALL, LABELS, workers=1, shard=(1, 2))
    kept = {name: (output / name).stat().st_mtime_ns for name in files_of(output)}
    left_over = output / "train" / f".train_day_0001.{32 * '0'}.partial"
    of_another = output / "train" / f".train_day_0001.b.{32 * '0'}.partial"
    for path in (left_over, of_another):  # which another process may be writing
        path.mkdir()
        (path / "sparse_frames.h5").write_bytes(b"half")
    assert len(find_recordings(output, "train", SMALL, LABELS)) == 3
    preprocess(root, output, SMALL, LABELS, workers=1)
    assert not left_over.exists()
    assert of_another.exists()
    for name, modified in kept.items():
        if name != "manifest.json":
            assert (output / name).stat().st_mtime_ns == modified


@pytest.mark.parametrize(
    ("frames", "labels", "layout", "message"),
    [
        (
            FrameSettings(input_size=(24, 32), bins=5),
            {},
            "sparse",
            "^bins: must be 10 as .*, got 5: ",
        ),
        (SMALL, {"interval_ms": 200}, "sparse", "^interval_ms: must be 100 as in .*, got 200: "),
        (SMALL, {}, "rvt", "^format: must be sparse as in .*manifest.json, got rvt"),
    ],
)
def test_a_folder_of_other_settings_is_refused(root, tmp_path, frames, labels, layout, message):
    preprocess(root, tmp_path / "out", SMALL, LABELS, workers=1)
    with pytest.raises(UserError, match=message):
        preprocess(root, tmp_path / "out", frames, LabelSettings(**labels), layout, workers=1)


def test_a_folder_with_something_else_is_refused(root, tmp_path):
    with pytest.raises(UserError, match="^output: must be a new or empty folder, or one with"):
        preprocess(root, root, SMALL, LABELS, workers=1)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest.json: cannot be read"):
        preprocess(root, tmp_path, SMALL, LABELS, workers=1)


def full_disk(root, output, layout, workers):
    """In a process of its own: what is said when files can no longer grow."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
    try:
        preprocess(root, output, SMALL, LABELS, layout, workers)
    except UserError as error:
        return str(error), error.exit_code
    return "nothing", 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of file sizes are POSIX's")
@pytest.mark.parametrize(
    ("layout", "workers"),
    [("sparse", 1), ("rvt", 1), pytest.param("sparse", 2, marks=pytest.mark.slow)],
)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(root, tmp_path, layout, workers):
    output = tmp_path / "out"
    with multiprocessing.get_context("fork").Pool(1) as pool:
        # Not a daemon's child: those may have no workers of their own.
        arguments = (root, output, layout, workers)
        message, exit_code = (
            pool.apply(full_disk, arguments) if workers == 1 else _in_a_script(arguments, tmp_path)
        )
    assert message == (
        f"output: {output} cannot be written (File too large): make room or choose another, then "
        "run again: what is finished is kept"
    )
    assert exit_code == 1
    assert list(output.glob("*/*")) == []
    preprocess(root, output, SMALL, LABELS, layout, workers=1)
    assert len(list(output.glob("*/*"))) == 6


def _in_a_script(arguments, folder):
    script = folder / "script.py"
    script.write_text(
        "import sys, json\nfrom pathlib import Path\n"
        f"sys.path[:0] = [{str(ROOT / 'tests')!r}, {str(ROOT / 'tests/data')!r}]\n"
        "from test_preprocessing import full_disk\n"
        "if __name__ == '__main__':\n"
        "    root, output, layout, workers = sys.argv[1:]\n"
        "    result = full_disk(Path(root), Path(output), layout, int(workers))\n"
        "    print(json.dumps(result))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_no_permission_is_one_line(root, tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr(preprocessing.Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"^output: .* cannot be written \(Permission denied\)"):
        preprocess(root, tmp_path / "out", SMALL, LABELS, workers=1)


def test_one_damaged_recording_does_not_cost_the_others(root, tmp_path):
    path = root / "train" / "train_day_0002_td.h5"
    content = bytearray(path.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["events/t"]
        broken = np.full(4000, 7)
        file.create_dataset("events/t", data=broken, compression="gzip", chunks=(4000,))
        offset = file["events/t"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        preprocess(root, tmp_path / "out", SMALL, LABELS, workers=1)
    assert "1 of 6 recordings could not be preprocessed, the others are finished" in str(
        caught.value
    )
    assert "train_day_0002_td.h5: cannot be read as HDF5" in str(caught.value)
    assert caught.value.exit_code == 1
    assert len(find_recordings(tmp_path / "out", "train", SMALL, LABELS)) == 4
    assert not list((tmp_path / "out").glob("*/.*"))


def test_files_that_cannot_be_opened_do_not_cost_the_others(root, tmp_path, caplog):
    for number, length in (("0001", 700), ("0003", 0)):
        path = root / "train" / f"train_day_{number}_td.h5"
        path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError) as caught:
        preprocess(root, tmp_path / "out", SMALL, LABELS, workers=1)
    assert str(caught.value).startswith(
        "2 of 6 recordings could not be preprocessed, the others are finished: "
        f"{root}/train/train_day_0001_td.h5: cannot be read as HDF5"
    )
    assert caught.value.exit_code == 1
    [reported] = [message for message in caplog.messages if "not preprocessed" in message]
    assert reported.startswith(
        f"not preprocessed: {root}/train/train_day_0003_td.h5: cannot be read"
    )
    assert len(find_recordings(tmp_path / "out", "train", SMALL, LABELS)) == 3
    assert len(find_recordings(tmp_path / "out", "val", SMALL, LABELS)) == 1


def test_where_no_file_can_be_opened_nothing_is_made(root, tmp_path):
    for path in root.glob("*/*_td.h5"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="train_day_0000_td.h5: cannot be read as HDF5") as caught:
        preprocess(root, tmp_path / "out", SMALL, LABELS)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="^workers: must be at least 1, got -2: raise it$"):
        preprocess(root, tmp_path / "out", SMALL, LABELS, workers=-2)


def cached(root, tmp_path, labels=LABELS):
    preprocess(root, tmp_path / "out", SMALL, labels, workers=1)
    return tmp_path / "out" / "train" / "train_day_0000"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bins": 5}, "data.bins: must be 10, with which .* was preprocessed, got 5"),
        ({"input_size": (48, 64)}, r"data.input_size: must be \[24, 32\], with which"),
        ({"timing": "window"}, "data.timing: must be events, with"),
        ({"count_cutoff": 11}, "data.count_cutoff: must be 10, with which"),
        ({"interval_ms": 200}, "data.interval_ms: must be 100, with which"),
        ({"class_names": ("a", "b")}, "data.class_names: must be .*pedestrian.*, with which"),
        ({"filters": ()}, r"data.filters: must be \['min_side_5'\], .*got \[\]"),
    ],
)
def test_a_cache_of_other_settings_is_refused(root, tmp_path, changed, message):
    folder = cached(root, tmp_path, LabelSettings(filters=("min_side_5",)))
    frames = {"input_size": (24, 32)} | {
        name: value for name, value in changed.items() if hasattr(SMALL, name)
    }
    labels = {"filters": ("min_side_5",)} | {
        name: value for name, value in changed.items() if hasattr(LABELS, name)
    }
    with pytest.raises(UserError, match=message):
        SparseRecording(folder, "train", FrameSettings(**frames), LabelSettings(**labels))


def test_filters_and_a_lower_cutoff_still_apply(root, tmp_path):
    folder = cached(root, tmp_path)
    frames = FrameSettings(count_cutoff=2)
    recording = SparseRecording(folder, "train", frames, LabelSettings(filters=("min_side_5",)))
    whole = SparseRecording(folder, "train", SMALL, LABELS)
    np.testing.assert_array_equal(recording.frames(0, 4), np.minimum(whole.frames(0, 4), 2))
    lowered = recording.sparse_frames(0, 4, 2)
    np.testing.assert_array_equal(
        lowered.entries, SparseFrames.of(recording.frames(0, 4), 2).entries
    )
    # As many bits hold a cutoff of 9 as the stored one of 10.
    nine = SparseRecording(folder, "train", FrameSettings(count_cutoff=9), LABELS)
    np.testing.assert_array_equal(
        nine.sparse_frames(0, 4, 9).entries, SparseFrames.of(nine.frames(0, 4), 9).entries
    )
    assert recording.dropped["boxes: min_side_5"] == 0
    with pytest.raises(NoUsableLabels, match="no label is left of 6 boxes"):
        SparseRecording(folder, "train", SMALL, LabelSettings(filters=("prophesee",)))
    unlabelled = SparseRecording(
        folder, "train", SMALL, LabelSettings(filters=("prophesee",)), require_labels=False
    )
    assert not unlabelled.labelled.any()


def test_damage_to_the_cache_is_refused_or_changes_nothing(root, tmp_path):
    folder = cached(root, tmp_path)
    path = folder / "sparse_frames.h5"
    intact = path.read_bytes()
    expected = SparseRecording(folder, "train", SMALL, LABELS)
    frames = expected.frames(0, len(expected))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        content = bytearray(intact)
        if rng.random() < 0.2:
            content = content[: rng.integers(len(content))]
        else:
            start = rng.integers(len(content))
            stop = min(start + rng.integers(1, 200), len(content))
            content[start:stop] = rng.bytes(int(stop - start))
        path.write_bytes(content)
        refusal = None
        try:
            recording = SparseRecording(folder, "train", SMALL, LABELS)
            read = recording.frames(0, len(recording))
        except UserError as error:
            refusal = str(error)
            with pytest.raises(UserError, match=re.escape(refusal)):
                SparseRecording(folder, "train", SMALL, LABELS).sparse_frames(
                    0, len(expected), SMALL.count_cutoff
                )
        if refusal is not None:
            refused += 1
            assert str(path) in refusal
            assert "\n" not in refusal
            continue
        np.testing.assert_array_equal(read, frames)
        np.testing.assert_array_equal(recording.label_boxes, expected.label_boxes)
    assert 20 < refused < 60


def test_the_command(root, tmp_path, capsys):
    arguments = ["preprocess", "--root", str(root), "--output", str(tmp_path / "out")]
    small = ["--workers", "1", "--frames.input_size", "[24, 32]"]
    assert run([*arguments, *small]) == 0
    shown = capsys.readouterr()
    assert "102" in shown.out  # frames
    assert "boxes between label times, not used" in shown.out
    assert "dropped boxes: outside the frame" in shown.out
    assert "manifest.json" in shown.out
    assert run([*arguments, *small, "--frames.bins", "4"]) == 2
    assert "error: bins: must be 10 as in" in capsys.readouterr().err
    assert run([*arguments, "--shard", "3"]) == 2
    assert "shard: must be i/n, got 3: write 1/4, say" in capsys.readouterr().err
    assert run([*arguments, *small, "--shard", "3/2"]) == 2
    assert filecmp.dircmp(root, tmp_path / "out").common == ["train", "val"]


def test_event_counts_of_older_caches_are_read_under_their_new_name(root, tmp_path):
    folder = cached(root, tmp_path)
    with h5py.File(folder / "sparse_frames.h5", "r+") as file:
        about = json.loads(file.attrs["about"])
        about["events"]["with a mended stamp"] = about["events"].pop("with a repaired timestamp")
        text = json.dumps(about)
        file.attrs["about"], file.attrs["about_crc32"] = text, zlib.crc32(text.encode())
    events = SparseRecording(folder, "train", SMALL, LABELS).events
    assert events.keys() == {"in windows", "with a repaired timestamp"}
