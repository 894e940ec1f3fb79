"""`live`: boxes of a camera or a replay as they come, and how a run ends."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from etram_det.cli.commands import run
from etram_det.data.representation import FrameSettings
from etram_det.inference.live.window_queue import WindowQueue
from etram_det.inference.streaming_detector import StreamingDetector
from etram_det.simulator.dataset import SimulationSettings, simulate
from etram_det.tools import live as live_module
from support.camera_files import evt2, evt3
from support.fake_camera import FakeDevice, packet_of
from support.random_checkpoint import know_simulation_only, write_random_checkpoint
from support.raw_files import random_events, write_raw

FRAMES = FrameSettings(input_size=(48, 64))
SETTINGS = ["--ckpt_path", "random.ckpt", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    write_random_checkpoint(tmp_path / "random.ckpt", FRAMES)


@pytest.fixture
def patient(monkeypatch):
    """A machine that is fast enough, whatever else it does."""
    monkeypatch.setattr(WindowQueue, "_is_late", lambda *_: False)


@pytest.fixture
def plug_in(monkeypatch):
    """Connects a camera that gives these packets."""

    def plug_in(*packets, **settings):
        device = FakeDevice(packets, **settings)

        def open_device(serial, iterator_timeout):
            return device

        monkeypatch.setitem(sys.modules, "neuromorphic_drivers", SimpleNamespace(open=open_device))
        return device

    return plug_in


@pytest.fixture
def interrupted(monkeypatch):
    """Makes a function that presses Ctrl-C once so many windows were written, and more is true."""
    written, write, is_over = [], live_module._write, threading.Event()

    def written_down(line):
        write(line)
        written.append(line)

    def interrupted(num_windows, too=lambda: True):
        def press():
            deadline_s = time.monotonic() + 60
            while not (len(written) >= num_windows and too()) and time.monotonic() < deadline_s:
                if is_over.wait(0.01):
                    return  # nobody is left to interrupt but the tests
            os.kill(os.getpid(), signal.SIGINT)

        return press

    monkeypatch.setattr(live_module, "_write", written_down)
    yield interrupted
    is_over.set()


def live(*arguments):
    return run(["live", *map(str, arguments), *SETTINGS])


def detect(*arguments):
    return run(["detect", *map(str, arguments), *SETTINGS, "--video", "false"])


def packets(events, per_packet=500):
    for start in range(0, len(events["t"]), per_packet):
        yield packet_of({n: column[start : start + per_packet] for n, column in events.items()})


def windows_in(text):
    """Ends of the windows, and their boxes as a table."""
    lines = [json.loads(line) for line in text.splitlines()]
    names = ("class_id", "score", "x", "y", "w", "h")
    rows = [[line["t"], *(box[n] for n in names)] for line in lines for box in line["boxes"]]
    return [line["t"] for line in lines], np.array(rows)


def detected(name):
    """The same of what `detect` has written."""
    images = json.loads(Path(f"detections/{name}_coco.json").read_text())["images"]
    boxes = np.load(f"detections/{name}_bbox.npy")
    names = ("t", "class_id", "class_confidence", "x", "y", "w", "h")
    rows = np.stack([boxes[n].astype(np.float64) for n in names], axis=1)
    return [image["t"] for image in images], rows


def assert_same(one, other):
    assert one[0] == other[0]
    assert len(one[1]) > 20
    np.testing.assert_allclose(one[1], other[1], rtol=0, atol=5.1e-5)  # as it is rounded


def dirty_events(seconds=0.52):
    events = random_events(6000, seconds)
    events["t"] += 3_000_000
    events["t"][2000:2010] -= 20_000
    events["t"][4000:] += 130_000  # two windows without events
    events["y"][50] = 1000  # not on the sensor
    return events


@pytest.mark.parametrize("name", ["night_td.h5", "evt2.raw", "evt3.raw"])
def test_a_replay_gives_what_detect_gives(name, patient, capfd):
    events, encode = dirty_events(), {"evt2.raw": evt2, "evt3.raw": evt3}.get(name)
    if encode is None:
        write_raw(Path(), "night", events)
    else:
        events["t"] = np.sort(events["t"])
        Path(name).write_bytes(encode(events))
    assert live("--replay", name, "--pace", 5, "--record", "new/kept.dat") == 0
    shown = capfd.readouterr()
    assert detect(name, "new/kept.dat", "--clock", "recording") == 0
    stem = "night" if encode is None else Path(name).stem
    assert_same(windows_in(shown.out), detected(stem))
    # What was recorded is what was seen; its clock is the one of the run.
    assert_same(windows_in(shown.out), detected("kept"))
    ends = windows_in(shown.out)[0]
    number = 14 if name == "evt3.raw" else 13
    assert len(ends) == number
    rows = "dropped │ 0", "events │ 6,000", "events recorded │ 6,000"
    for row in (f"detected in │ {number}", *rows):
        assert row in re.sub(r"\s*│\s*", " │ ", shown.err)
    assert f"{stem}: 1 events outside the sensor were dropped" in shown.err
    assert ("events with a repaired timestamp: " in shown.err) == (encode is None)


@pytest.mark.parametrize("encode", [evt2, evt3])
def test_detect_takes_bytes_from_a_pipe(encode, monkeypatch, capfd):
    events = random_events(6000, 0.52)
    events["t"] += 3_000_000
    content = encode(events)
    Path("a.raw").write_bytes(content)
    assert detect("a.raw") == 0
    for name in ("bytes", "cut"):
        read, write = os.pipe()
        sent = content if name == "bytes" else content[: len(content) // 2 + 1]
        threading.Thread(target=lambda w=write, s=sent: os.fdopen(w, "wb").write(s)).start()
        with os.fdopen(read, "rb", buffering=0) as file:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
            capfd.readouterr()
            assert detect("-", "--output", name) == 0
        shown = capfd.readouterr()
        found = np.load(f"{name}/stdin_bbox.npy")
        expected = np.load("detections/a_bbox.npy")
        if name == "cut":
            assert "stdin: it ends within an event: it was cut short, and what comes" in shown.err
            expected = expected[expected["t"] < found["t"].max()]
            found = found[found["t"] < found["t"].max()]
        np.testing.assert_array_equal(found, expected)
        assert len(found) > 20


def test_bytes_from_a_pipe_can_be_live(patient, monkeypatch, capfd):
    Path("a.raw").write_bytes(evt3(random_events(6000, 0.52)))
    with Path("a.raw").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        assert live("--replay", "-") == 0
    shown = capfd.readouterr()
    assert detect("a.raw") == 0
    assert_same(windows_in(shown.out), detected("a"))
    assert "standard input, 64x48 px: Ctrl-C ends it" in shown.err


def test_a_checkpoint_of_simulated_traffic_warns_of_what_is_real(patient, capfd):
    know_simulation_only("random.ckpt")
    settings = SimulationSettings(height=48, width=64, train=0, val=0, test=1, seconds=0.3)
    simulate("set", settings)
    [simulated] = Path("set").glob("test/*_td.h5")
    write_raw(Path("data"), "night_1", random_events(3000, 0.3))
    warning = "ckpt_path: trained on simulated traffic only, and night_1 is a real recording"
    for path, number in ((simulated, 0), ("data/night_1_td.h5", 1)):
        assert live("--replay", path, "--pace", "10") == 0
        assert capfd.readouterr().err.count(warning) == number


def test_an_unplugged_camera_ends_the_run_and_nothing_is_lost(patient, plug_in, capfd):
    events = random_events(6000, 0.52)
    gone = RuntimeError("Error { Usb(NoDevice) }")
    device = plug_in(*packets(events), gone)
    assert live("--record", "kept.dat") == 1
    shown = capfd.readouterr()
    assert device.is_closed
    last = shown.err.splitlines()[-1]
    assert last == (
        "etram_det: error: camera: must stay connected, got Error { Usb(NoDevice) }: plug it in "
        "and start again"
    )
    assert "Prophesee EVK4, serial 00050423, 64x48 px: Ctrl-C ends it" in shown.err
    assert detect("kept.dat") == 0
    ends, boxes = detected("kept")
    found = windows_in(shown.out)
    assert found[0] == ends[:-1]  # the last one was not over
    assert_same(found, (ends[:-1], boxes[boxes[:, 0] < ends[-1]]))


def test_ctrl_c_ends_it_with_a_summary(patient, plug_in, interrupted, capfd):
    before = signal.getsignal(signal.SIGINT)
    device = plug_in(*packets(random_events(6000, 0.52)), interrupted(10))  # then it is silent
    assert live("--record", "kept.dat", "--track") == 0
    shown = capfd.readouterr()
    assert device.is_closed
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert len(lines) == 10
    assert set(lines[0]) == {"t", "boxes", "latency_ms", "dropped"}
    fields = {"class_id", "class_name", "score", "x", "y", "w", "h", "track_id"}
    assert all(set(box) == fields for line in lines for box in line["boxes"])
    assert max(box["track_id"] for line in lines for box in line["boxes"]) > 3
    assert "latency, p99 ms" in shown.err
    assert "error" not in shown.err
    assert Path("kept.dat").stat().st_size > 6000 * 8
    assert signal.getsignal(signal.SIGINT) == before


def test_a_machine_that_is_too_slow_drops_windows_and_counts_them(monkeypatch, capfd):
    detect_frame = StreamingDetector.detect_frame

    def slow(self, *frame):
        time.sleep(0.15)
        return detect_frame(self, *frame)

    monkeypatch.setattr(StreamingDetector, "detect_frame", slow)
    path = write_raw(Path(), "night", random_events(20_000, 3.0))
    assert live("--replay", path) == 0
    shown = capfd.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    dropped = int(re.search(r"dropped\s*│\s*(\d+)", shown.err)[1])
    assert len(lines) + dropped == 60
    assert 30 <= dropped
    assert lines[-1]["dropped"] <= dropped
    assert re.search(r"dropped from now on .*: one takes \d+ ms here, and one comes", shown.err)
    assert " and one comes every 50 ms: docs/live.md says" in shown.err
    # The delay does not grow: it is what one window takes, and the wait for the one before.
    late = [line["latency_ms"] for line in lines]
    assert np.median(late[len(late) // 2 :]) < 2 * np.median(late[: len(late) // 2])


def test_the_page_of_a_run(plug_in, patient, interrupted, capfd):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    got = []
    is_there = interrupted(10, lambda: got and got[-1]["windows"] == 10)
    plug_in(*packets(random_events(6000, 0.52)), is_there)

    def browse():
        while not got:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/windows") as stream:
                    for line in stream:
                        if line.startswith(b"data: "):
                            got.append(json.loads(line[6:]))
            except OSError:
                time.sleep(0.05)

    browser = threading.Thread(target=browse)
    browser.start()
    assert live("--view", "--port", port) == 0
    browser.join()
    shown = capfd.readouterr()
    assert f"; the page is http://127.0.0.1:{port}/\n" in shown.err
    last = json.loads(shown.out.splitlines()[-1])
    assert (got[-1]["t"], got[-1]["boxes"]) == (last["t"], last["boxes"])
    assert got[-1]["windows"] == 10
    assert sum(count["now"] for count in got[-1]["counts"]) == len(last["boxes"])
    boxes = sum(len(json.loads(line)["boxes"]) for line in shown.out.splitlines())
    assert sum(count["all"] for count in got[-1]["counts"]) == boxes
    assert len(got[-1]["picture"]) > 1000


def test_a_terminal_has_a_line_and_standard_output_only_boxes(patient, monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setattr(live_module, "_STATUS_S", 0.0)
    path = write_raw(Path(), "night", random_events(6000, 0.52))
    assert live("--replay", path) == 0
    shown = capfd.readouterr()
    assert len(windows_in(shown.out)[0]) == 11
    assert re.search(r"11 windows, 0 dropped, [\d.]+ a second, [\d,]+ events a second", shown.err)


def test_a_taken_port_is_known_before_the_camera_is_opened(plug_in, capfd):
    device = plug_in()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert live("--view", "--port", port) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"etram_det: error: port: must be free to listen at, got 127.0.0.1 and {port}"
    )
    assert device.place == 0


def test_a_reader_that_closes_the_pipe(patient, plug_in, monkeypatch, tmp_path, capfd):
    class Closed:
        def __init__(self):
            self.num_lines, self.file = 0, (tmp_path / "out").open("w")
            self.fileno, self.isatty = self.file.fileno, self.file.isatty

        def write(self, line):
            self.num_lines += 1
            if self.num_lines > 2:
                raise BrokenPipeError

        def flush(self):
            pass

    device = plug_in(*packets(random_events(6000, 0.52)))
    monkeypatch.setattr(sys, "stdout", Closed())
    assert live("--record", "kept.dat") == 1
    assert capfd.readouterr().err.splitlines()[-1] == (
        "etram_det: error: standard output: must stay open, got it closed by its reader: what is "
        "complete is kept"
    )
    assert device.is_closed
    assert Path("kept.dat").is_file()


def test_a_recording_on_a_full_disk_ends_and_the_run_goes_on(patient, plug_in, monkeypatch, capfd):
    from etram_det.inference.writer import GrowingFile

    write = GrowingFile.write

    def full(self, part):
        if self._file.tell() > 20_000:
            raise OSError(28, "No space left on device")
        write(self, part)

    monkeypatch.setattr(GrowingFile, "write", full)
    plug_in(*packets(random_events(6000, 0.52)), StopIteration())
    assert live("--record", "kept.dat") == 1
    shown = capfd.readouterr()
    assert len(shown.out.splitlines()) == 11
    assert shown.err.splitlines()[-1] == (
        "etram_det: error: record: kept.dat could not be continued (No space left on device): it "
        "holds the first 2,500 events: make room"
    )
    monkeypatch.setattr(GrowingFile, "write", write)
    assert detect("kept.dat") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replay", "none.raw"], "none.raw: must be a file of events or a preprocessed"),
        (["--replay", "a_td.h5", "--pace", "-1"], "pace: must be above 0, got -1"),
        (["--replay", "a_td.h5", "--record", "a.h5"], "record: must be a .dat file, got a.h5"),
        (["--pace", "2"], "pace: must be 1 without a recording, got 2: leave it out"),
        (["--replay", "-", "--pace", "2"], "pace: must be 1 without a recording, got 2"),
        (["--replay", "a_td.h5", "--serial", "7"], "serial: must be left out with --replay a_td"),
        (["--sensor-size", "9", "9"], "sensor_size: must be left out with a camera, which states"),
        (["--time-unit", "ms"], "time_unit: must be left out with a camera, which states its own"),
        (["--replay", "a_td.h5", "--score", "2"], "score: must be in [0, 1], got 2"),
    ],
)
def test_mistakes(arguments, message, capfd):
    write_raw(Path(), "a", random_events(50))
    assert live(*arguments) == 2
    shown = capfd.readouterr()
    assert shown.err.splitlines()[-1].startswith(f"etram_det: error: {message}")
    assert shown.out == ""


@pytest.mark.slow
def test_ten_minutes_of_life_grow_neither_memory_nor_latency(capfd):
    """At 40 times real time, in windows of a second; how much is printed, too."""
    path = write_raw(Path(), "long", random_events(2_000_000, 600.0))
    sizes_mb = []
    write = live_module._write

    def written_down(line):
        write(line)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes_mb.append(pages * os.sysconf("SC_PAGESIZE") / 2**20)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_module, "_write", written_down)
        assert live("--replay", path, "--pace", 40, "--window-ms", 1000, "--view", "--port", 0) == 0
    shown = capfd.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    dropped = int(re.search(r"dropped\s*│\s*(\d+)", shown.err)[1])
    assert len(lines) + dropped == 600
    late_ms = [line["latency_ms"] for line in lines]
    first, _, last = (np.median(part) for part in np.array_split(late_ms, 3))
    with capfd.disabled():
        print(
            f"\n{dropped} windows dropped; latency {first:.1f} ms, in the end {last:.1f} ms; ",
            end="",
        )
        print(f"{sizes_mb[len(lines) // 3]:.0f} MB, in the end {sizes_mb[-1]:.0f} MB")
    assert last < 2 * first + 10
    assert sizes_mb[-1] - sizes_mb[len(lines) // 3] < 32
