"""``python -m etram_det live``: run a checkpoint on a camera, or on a replayed recording."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Group
from rich.live import Live

from etram_det.boxes import BOX_DTYPE
from etram_det.cli.flags import in_own_keys
from etram_det.cli.resume import warning_of_simulation
from etram_det.data.fingerprint import simulator_version
from etram_det.data.representation import FrameSettings
from etram_det.drawing.frames import Image
from etram_det.drawing.video import DetectionPainter
from etram_det.errors import UserError
from etram_det.inference.engine import Precision, Runtime
from etram_det.inference.live.camera import Camera, open_camera
from etram_det.inference.live.recorder import Recorder, require_new
from etram_det.inference.live.session import Found, LiveSession
from etram_det.inference.live.sources import RawPipe, Replay, standard_input
from etram_det.inference.live.view import LiveView
from etram_det.inference.placement import Resize
from etram_det.inference.streaming_detector import StreamingDetector
from etram_det.inference.tracking import Tracker
from etram_det.inference.writer import box_records
from etram_det.progress import screen
from etram_det.tools.detect.command import trained_detector
from etram_det.tools.detect.signals import first_signal
from etram_det.tools.detect.streams import PIPE
from etram_det.tools.detect.summary import event_faults, table_of

_STATUS_S = 0.5  # between two states of the line that shows how it goes


def live_command(
    ckpt_path: Path | None = None,
    replay: str | None = None,
    pace: float = 1.0,
    serial: str | None = None,
    record: Path | None = None,
    view: bool = False,
    host: str = "127.0.0.1",
    port: int = 8321,
    score: float | None = None,
    nms: float | None = None,
    class_agnostic_nms: bool = False,
    window_ms: int | None = None,
    input_size: tuple[int, int] | None = None,
    resize: Resize = "stretch",
    downsample: Literal["sum", "nearest"] | None = None,
    sensor_size: tuple[int, int] | None = None,
    clock: Literal["recording", "camera"] = "recording",
    time_unit: Literal["us", "ms", "ns", "s"] | None = None,
    track: bool = False,
    precision: Precision = "float32",
    device: str = "auto",
    runtime: Runtime = "auto",
) -> None:
    """Detect in what a camera sees: boxes as JSON lines, a recording, a page for the browser.

    Each line on standard output is a window: its end in microseconds of the camera's clock, its
    boxes in pixels of the sensor, the latency from its last event, and the windows dropped so far.
    Windows that would come too late are dropped, so that none has a growing delay. Ctrl-C ends it.

    Args:
        ckpt_path: the detector's checkpoint (.ckpt), or what ``export`` made of it (.onnx);
            ``last``, ``best``: the checkpoint of the newest run. Unset: the package's own, which
            knows simulated traffic only.
        replay: a recording in place of a camera, in real time; ``-`` for RAW bytes from a
            pipe. Unset: a camera (needs ``pip install 'etram-det[camera]'``).
        pace: how many times faster than in real time a recording is replayed.
        serial: serial number of the camera; the first one that is connected unless set.
        record: a new ``.dat`` file for all events.
        view: whether to serve a page that shows picture, boxes, rates and counts.
        host: address that the page is served at; another than this machine's own makes it visible
            to others.
        port: port that the page is served at; 0 for any that is free.
        score: least score of a detection, objectness times class confidence, in [0, 1]; as exported
            unless set, and 0.3 of a checkpoint.
        nms: IoU above which the lower-scored of two boxes of a class is dropped; as exported unless
            set, and 0.45 of a checkpoint.
        class_agnostic_nms: whether such a box is dropped whatever its class.
        window_ms: length of a window in ms; as in the checkpoint's training unless set, like all
            of how frames are made.
        input_size: height and width of the network's frames in pixels.
        resize: ``stretch`` fills the frame with the sensor's picture, each side by a factor of its
            own; ``letterbox`` scales both sides by one factor and leaves the rest empty.
        downsample: ``sum`` adds up the sensor's pixels that share a pixel of the frame,
            ``nearest`` keeps one of them, as RVT does.
        sensor_size: height and width of the sensor in pixels, for recordings that do not state
            them, or state ones that their events contradict; of RAW bytes, the header's unless set.
        clock: of RAW files and bytes: ``recording`` takes off the camera's time at their start,
            ``camera`` keeps it.
        time_unit: unit of the timestamps in HDF5 files, microseconds unless set.
        track: whether to number the objects (needs ``pip install 'etram-det[track]'``).
        precision: of the network's weights.
        device: ``auto`` takes a CUDA device where there is one; or ``cpu``, ``cuda:1`` and so on.
        runtime: ``auto`` takes PyTorch for a checkpoint, and for an exported file OpenVINO or ONNX
            Runtime, by what is installed.

    Raises:
        UserError: a setting does not fit, or events come no more. What is complete is kept.
    """
    if record is not None:
        require_new(record := record.expanduser())
    if track:
        Tracker(0.0)  # what is missing shows before any work
    trained, frame_settings = trained_detector(
        ckpt_path,
        {"sensor_size": sensor_size, "clock": clock, "time_unit": time_unit},
        {"window_ms": window_ms, "input_size": input_size, "downsample": downsample},
    )
    make_detector = partial(
        StreamingDetector,
        trained,
        frame_settings=frame_settings,
        resize=resize,
        score_threshold=score,
        nms_threshold=nms,
        class_agnostic_nms=class_agnostic_nms,
        precision=precision,
        device=device,
        runtime=runtime,
    )
    with ExitStack() as stack:
        page = LiveView(host, port) if view else None
        if page is not None:
            stack.callback(page.close)
        make_source = partial(_source, replay, serial, frame_settings, resize, pace)
        if replay is None:  # a camera sends events from then on
            detector, source = make_detector(), make_source()
        else:  # a recording that cannot be read shows at once
            source = make_source()
            detector = make_detector()
        stack.callback(source.close)
        if detector.knows_simulation_only and not _is_simulated(source):
            screen(stderr=True).out(warning_of_simulation("ckpt_path", source.name))
        for note in source.notes:
            screen(stderr=True).out(f"{source.name}: {in_own_keys(note.message, live_command)}")
        recorder = Recorder(record, source.sensor_size) if record is not None else None
        if recorder is not None:
            stack.callback(recorder.finish)
        of_replay = pace if isinstance(source, Replay) else 1.0
        session = LiveSession(source, detector, resize, track, recorder, of_replay)
        stack.enter_context(first_signal(session.stop))  # between two windows
        session.warm_up()
        shown = None if page is None else _Shown(session, page)
        _run(session, shown, len(source.notes))


def _source(
    replay: str | None, serial: str | None, settings: FrameSettings, resize: Resize, pace: float
) -> Camera | Replay | RawPipe:
    if pace != 1 and replay in (None, PIPE):
        raise UserError(
            f"pace: must be 1 without a recording, got {pace:g}: leave it out, or use --replay FILE"
        )
    if serial is not None and replay is not None:
        raise UserError(
            f"serial: must be left out with --replay {replay}, got {serial}: leave one of them out"
        )
    if replay is None:
        for name in ("sensor_size", "time_unit"):
            if (given := getattr(settings, name)) is not None:
                raise UserError(
                    f"{name}: must be left out with a camera, which states its own, got {given}: "
                    "leave it out, or use --replay FILE"
                )
        return open_camera(serial)
    if replay == PIPE:
        return RawPipe(standard_input(), settings.clock, settings.sensor_size)
    return Replay(Path(replay).expanduser(), settings, resize, pace)


def _is_simulated(source: Camera | Replay | RawPipe) -> bool:
    return isinstance(source, Replay) and simulator_version(source.recording) > 0


def _run(session: LiveSession, shown: _Shown | None, num_notes: int) -> None:
    """Detect until the end, and print what it came to."""
    source = session.source
    height, width = source.sensor_size
    where = "" if shown is None else f"; the page is {shown.page.address}"
    console = screen(stderr=True)
    console.out(f"{source.description}, {width}x{height} px: Ctrl-C ends it{where}")
    if shown is not None and not shown.page.is_loopback:
        console.out(f"host: others can see the page at {shown.page.address}")
    try:
        with _status() as show_status, closing(session.found()) as windows:
            for found in windows:
                records = box_records(found.rows, session.detector.class_names, session.track)
                latency_ms = round(found.latency_s * 1000, 1)
                line = {"t": found.end_us, "boxes": records, "latency_ms": latency_ms}
                _write(json.dumps(line | {"dropped": session.num_dropped}))
                show_status(session)
                if shown is not None:
                    shown.show(found, records)
    finally:
        session.frames.count_repaired(session.cutter)
        console.print(_summary(session))
        for fault in event_faults(session.frames):
            console.out(f"{source.name}: {in_own_keys(fault, live_command)}")
        for note in source.notes[num_notes:]:
            console.out(f"{source.name}: {in_own_keys(note.message, live_command)}")
    recorder = session.recorder
    if recorder is not None and recorder.error is not None:
        raise UserError(
            f"record: {recorder.path} could not be continued ({recorder.error.strerror}): it holds "
            f"the first {recorder.num_events:,} events: make room",
            exit_code=1,
        )


class _Shown:
    """Shows windows on the page.

    Attributes:
        page: it.
    """

    def __init__(self, session: LiveSession, page: LiveView) -> None:
        frames, settings = session.frames, session.detector.frame_settings
        self._session, self.page = session, page
        self._painter = DetectionPainter(
            frames.sensor_size,
            frames.placement.content_size,
            session.detector.class_names,
            settings.representation,
        )
        # Compile what paints, before any event is waited for.
        noise = frames.noise(session.source.dtypes)
        self._painter.picture(noise, 0, np.empty(0, BOX_DTYPE))

    def show(self, found: Found, records: list[dict[str, Any]]) -> None:
        """Show a window, once a browser asks for it."""
        self.page.show(partial(self._content, found, records))

    def _content(self, found: Found, records: list[dict[str, Any]]) -> tuple[Image, dict[str, Any]]:
        session = self._session
        now = np.bincount(found.rows["class_id"], minlength=len(session.detector.class_names))
        said = {
            "source": session.source.description,
            "t": found.end_us,
            "boxes": records,
            "windows": session.num_windows,
            "dropped": session.num_dropped,
            "windows_per_s": session.rates()[0],
            "events_per_s": session.rates()[1],
            "latency_ms": found.latency_s * 1000,
            "median_ms": session.latencies.quantile_ms(0.5),
            "p99_ms": session.latencies.quantile_ms(0.99),
            "counts": [
                {"class_name": name, "now": int(now[i]), "all": session.counts[i]}
                for i, name in enumerate(session.detector.class_names)
            ],
        }
        return self._painter.picture(found.frame, found.end_us, found.rows), said


@contextmanager
def _status() -> Iterator[Callable[[LiveSession], None]]:
    """Show how it goes: in a line of the terminal, and the first dropped window in any case."""
    console = screen(stderr=True)
    # Lines of boxes and a line that changes do not share a terminal.
    has_line = console.is_terminal and not sys.stdout.isatty()
    shown_s, has_warned = 0.0, False

    def show(session: LiveSession) -> None:
        nonlocal shown_s, has_warned
        if session.num_dropped and not has_warned:
            has_warned = True
            console.out(_why_dropped(session))
        if status is not None and time.monotonic() - shown_s > _STATUS_S:
            shown_s = time.monotonic()
            windows, events = session.rates()
            status.update(
                f"{session.num_windows:,} windows, {session.num_dropped:,} dropped, "
                f"{windows:.1f} a second, {events:,.0f} events a second, latency "
                f"{session.latencies.quantile_ms(0.5):.0f} ms",
                refresh=True,
            )

    with ExitStack() as stack:
        status = None
        if has_line:  # standard output is for boxes alone
            line = Live(
                "waiting for events",
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
            )
            status = stack.enter_context(line)
        yield show


def _why_dropped(session: LiveSession) -> str:
    taken_ms, every_ms = session.duration_s * 1000, session.window_s * 1000
    return (
        "windows are dropped from now on where their boxes would come too late: one takes "
        f"{taken_ms:.0f} ms here, and one comes every {every_ms:g} ms: "
        "docs/live.md says what makes it faster"
    )


def _summary(session: LiveSession) -> Group:
    """What became of the windows, how fast, and the detections by class."""
    elapsed_s = max(time.monotonic() - session.started_s, 1e-9)
    has_any = session.num_windows > 0
    table = table_of("windows", (session.source.name,))
    rows = {
        "detected in": f"{session.num_windows:,}",
        "dropped": f"{session.num_dropped:,}",
        "a second": f"{session.num_windows / elapsed_s:.1f}",
        "latency, median ms": f"{session.latencies.quantile_ms(0.5):.1f}" if has_any else "-",
        "latency, p99 ms": f"{session.latencies.quantile_ms(0.99):.1f}" if has_any else "-",
        "events": f"{session.cutter.num_events:,}",
        "events a second": f"{session.cutter.num_events / elapsed_s:,.0f}",
    }
    if session.cutter.num_resets:
        rows["camera's clock set anew"] = f"{session.cutter.num_resets:,}"
    if session.recorder is not None:
        rows["events recorded"] = f"{session.recorder.num_events:,}"
    for name, value in rows.items():
        table.add_row(name, value)
    table.caption = "latency: from the arrival of a window's last event to its boxes"
    found = table_of("detections", (session.source.name,))
    for class_id, name in enumerate(session.detector.class_names):
        found.add_row(name, f"{session.counts[class_id]:,}")
    return Group(table, found)


def _write(line: str) -> None:
    """Write a line of boxes to standard output at once."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        # What is left in its buffer has no place to go at the end of the program.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(
            "standard output: must stay open, got it closed by its reader: what is complete is "
            "kept",
            exit_code=1,
        ) from error
