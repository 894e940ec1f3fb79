"""``python -m etram_det detect``: run a trained detector on recordings, and look."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from etram_det.cli.flags import in_own_keys
from etram_det.cli.resume import named_checkpoint, shipped_checkpoint
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from etram_det.inference.engine import Precision, Runtime
from etram_det.inference.exported_file import ExportedDetector, Thresholds
from etram_det.inference.placement import Resize
from etram_det.inference.streaming_detector import (
    StreamingDetector,
    TrainedDetector,
    open_detector,
)
from etram_det.tools.detect.memory import return_large_blocks
from etram_det.tools.detect.run import Run, VideoSettings, found_recordings

_log = logging.getLogger(__name__)


def detect_command(
    files: Sequence[str],
    ckpt_path: Path | None = None,
    output: Path = Path("detections"),
    score: float | None = None,
    nms: float | None = None,
    class_agnostic_nms: bool | None = None,
    window_ms: int | None = None,
    input_size: tuple[int, int] | None = None,
    resize: Resize = "stretch",
    downsample: Literal["sum", "nearest"] | None = None,
    sensor_size: tuple[int, int] | None = None,
    clock: Literal["recording", "camera"] = "recording",
    time_unit: Literal["us", "ms", "ns", "s"] | None = None,
    video: bool = True,
    slow_motion: float = 1.0,
    labels: bool | Path = False,
    side_by_side: bool = False,
    track: bool = False,
    precision: Precision = "float32",
    device: str = "auto",
    runtime: Runtime = "auto",
) -> None:
    """Detect in recordings: a video, box files and a summary of each.

    Frames are made as in the checkpoint's training, unless a setting says otherwise.

    Args:
        files: recordings: RAW (EVT2, EVT3), DAT, AEDAT4 or HDF5 files of events, folders that
            ``preprocess`` or RVT made of one, or folders of any of these; ``-`` for RAW bytes
            from a pipe, which are detected in as they come.
        ckpt_path: the detector's checkpoint (.ckpt), or what ``export`` made of it (.onnx);
            ``last``, ``best``: the checkpoint of the newest run. Unset: the package's own, which
            knows simulated traffic only.
        output: folder for the video and the box files (NumPy, COCO, CSV) of each recording.
        score: least score of a detection, objectness times class confidence, in [0, 1]; as exported
            unless set, and 0.3 of a checkpoint.
        nms: IoU above which the lower-scored of two boxes of a class is dropped; as exported unless
            set, and 0.45 of a checkpoint.
        class_agnostic_nms: drop such a box whatever its class; in videos alone unless set, where
            one box of an object reads best.
        window_ms: length of a window in ms.
        input_size: height and width of the network's frames in pixels.
        resize: ``stretch`` fills the frame with the sensor's picture, each side by a factor of its
            own; ``letterbox`` scales both sides by one factor and leaves the rest empty.
        downsample: ``sum`` adds up the sensor's pixels that share a pixel of the frame,
            ``nearest`` keeps one of them, as RVT does.
        sensor_size: height and width of the sensor in pixels, for recordings that do not state
            them, or state ones that their events contradict.
        clock: of RAW files: ``recording`` takes off the camera's time at their start, as the
            readers of Metavision and OpenEB do, so that boxes made with these fit; ``camera``
            keeps it.
        time_unit: unit of the timestamps in HDF5 files, microseconds unless set.
        video: whether to write videos.
        slow_motion: how many times slower than in reality videos run.
        labels: draw labels, dashed, into the videos: those beside each recording, or of this box
            file (``_bbox.npy``), or of this folder of them.
        side_by_side: whether videos show the events alone beside those with boxes.
        track: whether to number the objects (needs ``pip install 'etram-det[track]'``).
        precision: of the network's computation.
        device: ``auto`` takes a CUDA device where there is one and the runtime can use it; or
            ``cpu``, ``cuda:1`` and so on; with ONNX Runtime also ``tensorrt``, with OpenVINO
            ``gpu`` and ``npu`` of Intel.
        runtime: ``auto`` takes PyTorch for a checkpoint, and for an exported file OpenVINO or ONNX
            Runtime, by what is installed.

    Raises:
        UserError: a setting or file does not fit. What was done until then is kept.
    """
    return_large_blocks()
    Thresholds().changed(score, nms)  # are they in range? before a recording is decoded
    paths, failures = found_recordings(files)  # before anything is read for them
    trained, frame_settings = trained_detector(
        ckpt_path,
        # Of these recordings, not of those of the training.
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
        class_agnostic_nms=bool(class_agnostic_nms),
        precision=precision,
        device=device,
        runtime=runtime,
    )
    rate = _video_rate(frame_settings.window_ms, slow_motion)
    shown = None
    if video:
        labels = labels.expanduser() if isinstance(labels, Path) else labels
        shown = VideoSettings(rate, side_by_side, labels, class_agnostic_nms is False)
    run = Run(
        trained,
        frame_settings,
        make_detector,
        resize,
        output.expanduser(),
        shown,
        track,
        partial(in_own_keys, function=detect_command),
    )
    run.detect_and_report(paths, failures)


def trained_detector(
    ckpt_path: Path | None, of_recordings: Mapping[str, Any], of_frames: Mapping[str, Any]
) -> tuple[TrainedDetector | ExportedDetector, FrameSettings]:
    """What a command's checkpoint holds, and how events become frames.

    Args:
        ckpt_path: the checkpoint, or the name of one of the newest run; None for the package's own.
        of_recordings: fields of the frame settings that replace those of the training.
        of_frames: fields of the frame settings that do so unless they are None.

    Raises:
        UserError: there is no checkpoint, or a setting does not fit it.
    """
    if ckpt_path is None:
        path = shipped_checkpoint(is_asked_for=False)
    else:
        path = Path(named_checkpoint(ckpt_path, "ckpt_path")).expanduser()
    trained = open_detector(path)
    if isinstance(trained, TrainedDetector):
        from etram_det.models.arithmetic import use_tensor_float_32

        use_tensor_float_32()
    return trained, replace(_frame_settings(trained, of_frames), **of_recordings)


def _video_rate(window_ms: int, slow_motion: float) -> float:
    """Frames in a second of the videos."""
    rate = 1000 / window_ms / slow_motion if slow_motion > 0 else 0
    if not 0.01 <= rate <= 1000:
        raise UserError(
            f"slow_motion: must be above 0 and give videos of 0.01 to 1000 frames a second, got "
            f"{slow_motion:g} with windows of {window_ms} ms: set 1 for real time"
        )
    return rate


def _frame_settings(
    trained: TrainedDetector | ExportedDetector, given: Mapping[str, Any]
) -> FrameSettings:
    """The checkpoint's, with those settings that are given; guesses and deviations are logged."""
    own = trained.frame_settings
    changes = {name: value for name, value in given.items() if value is not None}
    settings = replace(own, **changes)
    if trained.knows_frames:
        for name in changes:
            if getattr(settings, name) != getattr(own, name):
                _log.warning(
                    f"{name}: {getattr(settings, name)} as given, the checkpoint was trained with "
                    f"{getattr(own, name)}: expect misses and false alarms"
                )
    else:
        size = settings.input_size or "half of the sensor's"
        _log.info(
            "ckpt_path: holds no frame settings: using input_size "
            f"{size}, window_ms {settings.window_ms}, downsample {settings.downsample}"
        )
    return settings
