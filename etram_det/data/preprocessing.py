"""Recordings prepared once: written in our sparse cache or in RVT's layout, in parallel.

Each recording is one atomic write. So a run that was killed is resumed by running it again:
finished recordings are kept, unfinished ones are removed.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from glob import escape
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from etram_det.data.findings import log_findings
from etram_det.data.flag import Flag
from etram_det.data.folders import SPLITS
from etram_det.data.held_signals import signals_held_back
from etram_det.data.labels import LabelSettings
from etram_det.data.layouts import find_recordings, splits_of
from etram_det.data.preprocessed import PreprocessedRecording, write_rvt
from etram_det.data.recording import Recording
from etram_det.data.representation import FrameSettings
from etram_det.data.sparse import require_same_settings, write_sparse
from etram_det.errors import UserError
from etram_det.files import UNFINISHED, move_into_place, write_text

MANIFEST = "manifest.json"
COUNTS = "counts.json"
_VERSION = 1
_BATCH = 4  # frames made at a time: 20 MB at 640x360
_log = logging.getLogger(__name__)

# Called with the number of finished frames and the number of all frames.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Task:
    """One recording to write into a folder, with the settings that it was opened with."""

    recording: Recording
    folder: Path
    layout: str
    frames: FrameSettings
    labels: LabelSettings


def preprocess(
    root: Path,
    output: Path,
    frames: FrameSettings,
    labels: LabelSettings,
    layout: Literal["sparse", "rvt"] = "sparse",
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the frames and labels of all recordings under ``root``.

    The same settings give the same files, byte for byte, with any number of workers and shards,
    and however often the run was interrupted.

    Args:
        root: folder of the recordings, in any layout.
        output: folder to write, or one that an earlier run with the same settings wrote.
        frames: how events become frames.
        labels: which boxes become labels.
        layout: our sparse cache, or RVT's layout.
        workers: processes that work at the same time; one for each core if None.
        shard: number ``i`` of ``n``: this run takes the ``i``-th of ``n`` parts.
        progress: is called with how many frames are done, of how many.

    Returns:
        The manifest: settings, and what was counted in each recording that is finished.

    Raises:
        UserError: no layout fits, ``output`` has other settings or cannot be written, or
            recordings are damaged (the others are written all the same).
    """
    number, shards = shard
    if not 1 <= number <= shards:
        raise UserError(f"shard: must be i/n with 1 <= i <= n, got {number}/{shards}: set it so")
    if workers is not None and workers < 1:
        raise UserError(f"workers: must be at least 1, got {workers}: raise it")
    tasks, faults = _tasks(root, output, frames, labels, layout)
    tasks = tasks[number - 1 :: shards]
    num_recordings = len(tasks) + len(faults)
    settings = _settings(layout, frames, labels)
    try:
        writer = f"{number}-of-{shards}"  # shards may write the manifest at the same time
        _claim(output, settings, writer)
        faults += _run(tasks, workers or os.cpu_count() or 1, progress)
        manifest = _write_manifest(output, settings, writer)
    except OSError as error:
        raise UserError(
            f"output: {output} cannot be written ({error.strerror or error}): make room or choose "
            "another, then run again: what is finished is kept",
            exit_code=1,
        ) from error
    _report_faults(faults, num_recordings)
    return manifest


def _report_faults(faults: list[str], num_recordings: int) -> None:
    """Raise the first fault and log the others."""
    for fault in faults[1:]:
        _log.warning("not preprocessed: %s", fault)
    if faults:
        raise UserError(
            f"{len(faults)} of {num_recordings} recordings could not be preprocessed, "
            f"the others are finished: {faults[0]}",
            exit_code=1,
        )


def _tasks(
    root: Path, output: Path, frames: FrameSettings, labels: LabelSettings, layout: str
) -> tuple[list[_Task], list[str]]:
    """All recordings under ``root``, where they go, and the faults of those not to be opened."""
    splits = splits_of(root) if root.is_dir() else []
    faults: list[UserError] = []
    tasks = []
    for split in splits or SPLITS[:1]:  # where there are none, the first says what is required
        recordings = find_recordings(root, split, frames, labels, faults=faults)
        log_findings(split, recordings)
        tasks += [
            _Task(recording, output / split / recording.name, layout, frames, labels)
            for recording in recordings
        ]
    if not tasks:
        raise faults[0]
    _require_stored_settings_fit(root, tasks[0].recording, frames, labels)
    return tasks, [str(fault) for fault in faults]


def _require_stored_settings_fit(
    root: Path, recording: Recording, frames: FrameSettings, labels: LabelSettings
) -> None:
    """Refuse settings other than those that frames stored in RVT's layout were made with."""
    if not isinstance(recording, PreprocessedRecording):
        return
    manifest = root / MANIFEST
    if manifest.exists():
        stored = _stored_settings(manifest)
        try:
            require_same_settings(manifest, stored, recording.input_size, frames, labels)
        except (KeyError, TypeError) as error:
            raise _unreadable(manifest, error) from error
        return
    for name, required in (("downsample", "nearest"), ("timing", "events")):
        found = getattr(frames, name)
        if found != required:
            raise UserError(
                f"data.{name}: must be {required} for {recording.path}, as RVT made its frames "
                f"so, got {found}: set it so"
            )


def _settings(layout: str, frames: FrameSettings, labels: LabelSettings) -> dict[str, Any]:
    """All settings by name, as JSON gives them back."""
    settings = {"version": _VERSION, "format": layout, **asdict(frames), **asdict(labels)}
    return json.loads(json.dumps(settings))


def _claim(output: Path, settings: dict[str, Any], writer: str) -> None:
    """Make the folder with its manifest, or check that it has the same settings."""
    manifest = output / MANIFEST
    if not manifest.exists():
        # A killed run may have left an unfinished manifest.
        others = (each for each in output.glob("*") if not each.name.startswith(f".{MANIFEST}."))
        if output.is_file() or any(others):
            raise UserError(
                f"output: must be a new or empty folder, or one with {MANIFEST}, got "
                f"{output} with something else in it: choose another"
            )
        output.mkdir(parents=True, exist_ok=True)
        _write_manifest(output, settings, writer)
        return
    stored = _stored_settings(manifest)
    differing = sorted(name for name in settings | stored if settings.get(name) != stored.get(name))
    if differing:
        name = differing[0]
        raise UserError(
            f"{name}: must be {stored.get(name)} as in {manifest}, got {settings.get(name)}: "
            "set it so, or choose another output"
        )


def _stored_settings(manifest: Path) -> dict[str, Any]:
    """The settings that a folder was preprocessed with; newer ones have their defaults."""
    newer = {name: getattr(FrameSettings(), name) for name in ("time_unit", "clock")}
    newer["keep_unlabelled"] = LabelSettings().keep_unlabelled
    try:
        return newer | dict(json.loads(manifest.read_text())["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(manifest, error) from error


def _unreadable(manifest: Path, error: Exception) -> UserError:
    return UserError(f"{manifest}: cannot be read ({error}): choose another folder")


def _run(tasks: list[_Task], workers: int, progress: Progress | None) -> list[str]:
    """Write what is not there yet; returns the faults of recordings that cannot be read."""
    progress = progress or (lambda done, total: None)
    waiting = [task for task in tasks if not task.folder.exists()]
    total = sum(len(task.recording) for task in tasks)
    done = total - sum(len(task.recording) for task in waiting)
    progress(done, total)
    if workers == 1 or len(waiting) == 1:
        results = []
        for task in waiting:
            results.append(_write(task))
            done += len(task.recording)
            progress(done, total)
        return [fault for fault in results if fault]
    # Spawned, not forked: this process may hold threads and GPU state.
    context = multiprocessing.get_context("spawn")
    # Neither has a lock, which a worker that is ended from outside could take along.
    frames_done, stop = context.RawArray("q", len(waiting)), Flag(context)
    pool = ProcessPoolExecutor(
        max(1, min(workers, len(waiting))),
        mp_context=context,
        initializer=_start_worker,
        initargs=(frames_done, stop),
    )
    try:
        # Longest first, so that all end at about the same time.
        waiting.sort(key=lambda task: -len(task.recording))
        # Ctrl-C reaches the workers too, but this process is to stop them.
        with signals_held_back([signal.SIGINT]):
            futures: list[Future[str | None]] = [
                pool.submit(_write, task, place) for place, task in enumerate(waiting)
            ]
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.2)
            for future in finished:
                future.result()
            progress(min(done + sum(frames_done), total), total)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    return [fault for future in futures if (fault := future.result())]


_frames_done: Any = None  # of each recording
_stop: Flag | None = None


def _start_worker(frames_done: Any, stop: Flag) -> None:
    """Share the counts of finished frames and the wish to stop; end this worker with its parent."""
    global _frames_done, _stop
    _frames_done, _stop = frames_done, stop
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _write(task: _Task, place: int = 0) -> str | None:
    """Write one recording, the one in that place; returns what is wrong with it, if anything."""
    parent, name = task.folder.parent, task.folder.name
    parent.mkdir(parents=True, exist_ok=True)
    for left_over in parent.glob(f".{escape(name)}.{32 * '[0-9a-f]'}{UNFINISHED}"):
        shutil.rmtree(left_over, ignore_errors=True)
    unfinished = parent / f".{name}.{uuid.uuid4().hex}{UNFINISHED}"
    unfinished.mkdir()
    try:
        task.recording.prepare()
        batches = _batches(task.recording, place)
        if task.layout == "rvt":
            write_rvt(unfinished, task.recording, task.frames, batches)
        else:
            settings = {**asdict(task.frames), **asdict(task.labels)}
            write_sparse(unfinished, task.recording, settings, batches)
        (unfinished / COUNTS).write_text(_as_json(_counts(task.recording)))
        move_into_place(unfinished, task.folder)
    except UserError as error:
        return str(error)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return None


def _batches(recording: Recording, place: int) -> Iterator[NDArray[Any]]:
    """All frames of a recording, some at a time."""
    for start in range(0, len(recording), _BATCH):
        if _stop is not None and _stop.is_set():
            raise KeyboardInterrupt
        frames = recording.frames(start, min(start + _BATCH, len(recording)))
        yield frames
        if _frames_done is not None:
            _frames_done[place] += len(frames)


def _counts(recording: Recording) -> dict[str, int]:
    return {
        "frames": len(recording),
        "labelled frames": int(np.count_nonzero(recording.labelled)),
        "boxes": len(recording.label_boxes),
        "boxes without events": recording.labels_without_events,
        **{f"events: {name}": number for name, number in recording.events.items()},
        **{f"dropped {reason}": number for reason, number in recording.dropped.items()},
    }


def _write_manifest(output: Path, settings: dict[str, Any], writer: str) -> dict[str, Any]:
    """Write the manifest; anew if another shard has finished more meanwhile, and maybe said so."""
    while True:
        manifest = _manifest(output, settings)
        write_text(output / MANIFEST, _as_json(manifest), writer)
        if _manifest(output, settings) == manifest:
            return manifest


def _manifest(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, and the counts of what is finished, by whichever run and shard."""
    recordings = {
        path.parent.relative_to(output).as_posix(): json.loads(path.read_text())
        for path in sorted(output.glob(f"*/*/{COUNTS}"))
        if not path.parent.name.startswith(".")
    }
    totals = Counter({"recordings": len(recordings)})
    for counts in recordings.values():
        totals.update(counts)
    return {"settings": settings, "totals": dict(totals), "recordings": recordings}


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
