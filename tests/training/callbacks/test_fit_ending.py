"""How a training ends: report, video and the lines that say what comes next."""

import re
from pathlib import Path

import cv2
import pytest

from etram_det.cli.commands import run
from etram_det.training.callbacks import fit_ending, results_writer
from etram_det.training.callbacks.fit_ending import next_steps
from support.tiny_runs import RUN, SETTINGS, run_to_its_end, said, steps, stop_after

TWO = [*SETTINGS, *steps(2, validation=2), "--results.video_s", "0.5", "--results.report", "true"]
BEST = RUN / "checkpoints" / "best.ckpt"


def frames_of(path):
    """Number of a video's frames, and their height and width."""
    reader = cv2.VideoCapture(str(path))
    number = 0
    while (found := reader.read())[0]:
        number, shape = number + 1, found[1].shape
    return number, *shape[:2]


def last_lines(number):
    return said().splitlines()[-number:]


def test_report_video_and_three_lines(tiny_folder):
    assert run_to_its_end(TWO) == 0, said()[-3000:]
    # Of two recordings, of 8 and 4 windows, the five of each with most labels, or all.
    assert frames_of(RUN / "validation.mp4") == (9, 360, 480)
    report = (RUN / "report.html").read_text()
    assert "pictures of misses and false alarms: none were made" not in report
    assert list((RUN / "gallery").glob("miss_*.png"))
    assert "AP of the validations over the training steps" in report  # of the last one, too
    assert "runtime: " not in said()
    assert last_lines(3) == [
        f"look:  {RUN / 'report.html'}, {RUN / 'validation.mp4'}",
        f"try:   python -m etram_det detect FILE --ckpt_path {BEST}",
        f"go on: python -m etram_det export --ckpt_path {BEST} --output detector.onnx  # runs "
        "without PyTorch",
    ]


def test_what_to_train_on_after_simulated_traffic():
    given = ["fit", "--config", "small_objects", "--config=my own.yaml", "--trainer.max_steps", "9"]
    assert next_steps([], Path("a b.ckpt"), given, has_own_data=False) == [
        "try:   python -m etram_det detect FILE --ckpt_path 'a b.ckpt'",
        "go on: python -m etram_det fit --config small_objects --config 'my own.yaml' --data.root "
        "FOLDER  # of your own recordings",
    ]
    # A newcomer has no recording yet, but those that were simulated.
    simulated = Path("my cache/val_day_0001_td.h5")
    first, _ = next_steps([], Path("a.ckpt"), given, False, simulated)
    expected = "try:   python -m etram_det detect 'my cache/val_day_0001_td.h5' --ckpt_path a.ckpt"
    assert first == expected


@pytest.mark.gate
def test_a_slow_network_has_a_short_video(tiny_folder):
    def in_no_time():
        fit_ending._MOST_S = 0

    assert run_to_its_end(TWO, in_no_time) == 0, said()[-3000:]
    assert frames_of(RUN / "validation.mp4")[0] == 2  # the first of each recording


def test_a_video_that_cannot_be_written_ends_no_training(tiny_folder):
    def without_codecs():
        def refuse(*_):
            raise OSError(28, "No space left on device")

        fit_ending.DetectionVideo.add = refuse

    assert run_to_its_end(TWO, without_codecs) == 0, said()[-3000:]
    assert not (RUN / "validation.mp4").exists()
    message = "results.video_s: no video of the validation ([Errno 28] No space left on device)"
    assert message in said()
    assert last_lines(3)[0] == f"look:  {RUN / 'report.html'}"


def test_nothing_that_comes_after_the_checkpoints_ends_a_training(tiny_folder):
    def breaking():
        def refuse(*_, **__):
            raise KeyError("boxes")

        results_writer.write_report = fit_ending.DetectionVideo.add = refuse

    assert run_to_its_end(TWO, breaking) == 0, said()[-3000:]
    assert BEST.is_file()
    lines = [line for line in said().splitlines() if line.strip()]  # a slow bar leaves an empty one
    assert lines[-4:-2] == [
        "results: no report of the training (KeyError: 'boxes')",
        "results.video_s: no video of the validation (KeyError: 'boxes')",
    ]
    assert lines[-2].startswith("try: ")
    assert not any(line.startswith("look: ") for line in lines)


@pytest.mark.gate
def test_no_video_or_no_end_at_all(tiny_folder):
    assert run_to_its_end([*TWO, "--results.video_s", "0"]) == 0
    assert not (RUN / "validation.mp4").exists()
    assert last_lines(3)[0] == f"look:  {RUN / 'report.html'}"
    Path("output.txt").unlink()
    neither = ["--results.video_s", "0", "--results.report", "false"]
    assert run_to_its_end([*TWO, *neither, "--trainer.logger.name", "neither"]) == 0
    assert not list(Path("runs/neither/version_0").glob("report.html"))
    assert "look: " not in said()
    Path("output.txt").unlink()
    assert run_to_its_end([*TWO, "--trainer.fast_dev_run", "true"]) == 0
    assert "look: " not in said()
    assert "try: " not in said()
    ending = ["--results.video_s", "0.5", "--results.report", "true"]
    stop_after(3, *ending, "--trainer.logger.name", "stopped")
    stopped = Path("runs/stopped/version_0")
    assert (stopped / "checkpoints/last.ckpt").is_file()
    assert not list(stopped.glob("report.html"))
    assert not list(stopped.glob("validation.mp4"))
    assert "try: " not in said()


def test_a_training_without_validation_has_nothing_to_look_at(tiny_folder):
    none = ["--trainer.limit_val_batches", "0"]
    assert run_to_its_end([*SETTINGS, "--trainer.max_steps", "2", *none]) == 0, said()[-3000:]
    assert not (RUN / "report.html").exists()
    assert re.fullmatch(r"try: .* --ckpt_path \S+last.ckpt", last_lines(2)[0])


def test_seconds_of_the_video_have_a_range(tiny_folder, capfd):
    assert run([*TWO, "--results.video_s", "-1"]) == 2
    assert "results.video_s: must be in [0, 3600], got -1.0: set 0 for no video" in (
        capfd.readouterr().err
    )
