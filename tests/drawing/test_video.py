"""Videos: decoded again, they hold what was drawn."""

import os
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from etram_det.boxes import BOX_DTYPE
from etram_det.drawing import video
from etram_det.drawing.ffmpeg import NoEncoder
from etram_det.drawing.frames import BRIGHTER, DARKER, frame_image
from etram_det.drawing.video import DetectionPainter, DetectionVideo, VideoWriter
from etram_det.errors import UserError

NAMES = ("pedestrian", "car")


def decode(path):
    """Frames, RGB [F, H, W, 3], and frames in a second."""
    reader = cv2.VideoCapture(str(path))
    assert reader.isOpened()
    frames = []
    while (found := reader.read())[0]:
        frames.append(cv2.cvtColor(found[1], cv2.COLOR_BGR2RGB))
    return np.array(frames), reader.get(cv2.CAP_PROP_FPS)


def rows_at(*boxes, track_id=0):
    rows = np.zeros(len(boxes), BOX_DTYPE)
    for row, (x, y, w, h) in zip(rows, boxes, strict=True):
        row["x"], row["y"], row["w"], row["h"] = x, y, w, h
    rows["class_id"], rows["class_confidence"], rows["track_id"] = 1, 0.87, track_id
    return rows


def traffic(num_frames, size=(360, 640), seed=0):
    """Frames of about as many events as a street has: blobs that move, and noise."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((num_frames, 20, *size), np.uint8)
    for i, frame in enumerate(frames):
        for channel in frame:
            noise = rng.integers(0, size[0] * size[1], 200)
            channel.flat[noise] += 1
            for k in range(6):
                y = (40 * k + rng.integers(0, 25, 100)) % size[0]
                x = (90 * k + 3 * i + rng.integers(0, 50, 100)) % size[1]
                channel[y, x] += 1
    return frames


@pytest.mark.parametrize(
    "rate", [20.0, 2.0, 1000 / 33, 1000 / 15, 1000 / 7, 1000 / 3, 200 / 3, 66.667, 0.01, 999.97]
)
def test_frames_size_and_rate_come_back(tmp_path, rate):
    writer = VideoWriter(tmp_path / "new" / "a.mp4", (64, 96), rate)
    images = [np.full((64, 96, 3), (10 * i, 100, 250 - 10 * i), np.uint8) for i in range(12)]
    for image in images:
        writer.add(image)
    assert not (tmp_path / "new" / "a.mp4").exists()
    writer.finish()
    frames, found_rate = decode(tmp_path / "new" / "a.mp4")
    assert frames.shape == (12, 64, 96, 3)
    assert found_rate == pytest.approx(rate, rel=1e-3)
    assert np.abs(frames.astype(int) - np.array(images)).mean() < 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("without_ffmpeg", [False, True])
def test_a_name_may_hold_the_time_of_day(tmp_path, monkeypatch, without_ffmpeg):
    monkeypatch.chdir(tmp_path)
    if without_ffmpeg:
        monkeypatch.setattr(video, "encoding_ffmpeg", Mock(side_effect=NoEncoder("none")))
    writer = VideoWriter(Path("2024-05-01T12:30:00.mp4"), (64, 96), 20.0)
    writer.add(np.zeros((64, 96, 3), np.uint8))
    writer.finish()
    assert decode(Path("2024-05-01T12:30:00.mp4").absolute())[0].shape == (1, 64, 96, 3)


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")
def test_other_programs_play_it(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", (64, 96), 20)
    for _ in range(7):
        writer.add(np.zeros((64, 96, 3), np.uint8))
    writer.finish()
    entries = "stream=codec_type,width,height,nb_frames,r_frame_rate"
    command = ["ffprobe", "-v", "error", "-show_entries", entries, "-of", "csv=p=0"]
    done = subprocess.run([*command, str(tmp_path / "a.mp4")], capture_output=True, text=True)
    assert done.stdout.split() == ["video,96,64,20/1,7"]
    assert done.stderr == ""


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a.mp4: cannot be written"):
        VideoWriter(tmp_path / "file" / "a.mp4", (64, 96), 20)


def test_an_incomplete_video_is_an_error(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", (64, 96), 20)
    writer.add(np.zeros((64, 96, 3), np.uint8))
    writer.num_frames += 1  # as if the disk had taken only one of two
    with pytest.raises(UserError, match="could not be completed"):
        writer.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sensor", "content", "size"),
    [
        ((720, 1280), (360, 640), (360, 640)),
        ((720, 1280), (180, 320), (360, 640)),  # enlarged
        ((720, 1280), (720, 1280), (720, 1280)),
        ((480, 640), (180, 320), (360, 480)),  # as wide as the sensor, however the frame is
        ((260, 346), (361, 481), (362, 480)),  # even
    ],
)
def test_the_video_has_the_shape_of_the_sensor(tmp_path, sensor, content, size):
    pictures = DetectionVideo(
        tmp_path / "a.mp4",
        sensor_size=sensor,
        content_size=content,
        class_names=NAMES,
        rate=20,
    )
    frame = np.zeros((20, content[0] + 3, content[1] + 5), np.uint8)  # padded
    assert pictures.picture(frame, 0, rows_at()).shape == (*size, 3)
    pictures.finish()
    assert not list(tmp_path.iterdir())  # no frame, no video


def test_it_shows_events_boxes_and_the_time(tmp_path):
    frame = np.zeros((20, 360, 640), np.uint8)
    frame[0, 200:220, 100:120] = 9  # darker
    frame[19, 200:220, 300:320] = 9  # brighter
    pictures = DetectionVideo(
        tmp_path / "a.mp4",
        sensor_size=(720, 1280),
        content_size=(360, 640),
        class_names=NAMES,
        rate=20,
    )
    plain = pictures.picture(frame, 12_350_000, rows_at())
    assert plain[210, 110].tolist() == list(DARKER)
    assert plain[210, 310].tolist() == list(BRIGHTER)
    assert plain[:18, :80].any()  # the time
    assert not plain[25:190].any()
    boxed = pictures.picture(frame, 12_350_000, rows_at((200, 400, 40, 40)))
    changed = np.argwhere((boxed != plain).any(axis=2))
    assert changed.max(axis=0).tolist()[0] == 220  # the box's lower edge, on half the sensor's rows
    assert changed.min(axis=0).tolist()[1] == 100
    tracked = pictures.picture(frame, 12_350_000, rows_at((200, 400, 40, 40), track_id=3))
    assert (tracked != boxed).any()
    pictures.add(pictures.picture(frame, 12_350_000, rows_at((200, 400, 40, 40))))
    pictures.finish()
    frames, _ = decode(tmp_path / "a.mp4")
    assert np.abs(frames[0].astype(int) - boxed).mean() < 3


def _cpu_s():
    """Of this process, and of the encoders that have ended."""
    return sum(os.times()[:4])


@pytest.mark.slow
def test_it_is_no_bottleneck(tmp_path):
    """Drawing and encoding take less than half of the time that the video lasts, on one core."""
    frames, num_threads = traffic(50), cv2.getNumThreads()
    rows = rows_at(*((60 * k, 50 * k, 80, 60) for k in range(10)))
    cv2.setNumThreads(1)
    try:
        pictures = DetectionVideo(
            tmp_path / "a.mp4",
            sensor_size=(720, 1280),
            content_size=(360, 640),
            class_names=NAMES,
            rate=20,
        )
        pictures.add(pictures.picture(frames[0], 0, rows))  # compiled
        started_s = _cpu_s()
        for i in range(200):
            pictures.add(pictures.picture(frames[i % 50], 50_000 * i, rows))
        pictures.finish()
        elapsed_s = _cpu_s() - started_s
    finally:
        cv2.setNumThreads(num_threads)
    print(f"\ndrawn and encoded on one core: {200 / elapsed_s:.0f} frames of 640x360 a second")
    assert elapsed_s < 0.5 * 200 / 20


def test_events_stand_alone_beside_those_with_boxes_and_labels():
    frame = np.random.default_rng(0).poisson(0.01, (20, 360, 640)).astype(np.uint8)
    settings = {"sensor_size": (720, 1280), "content_size": (360, 640), "class_names": NAMES}
    one, two = (DetectionPainter(**settings, side_by_side=x) for x in (False, True))
    assert (one.size, two.size) == ((360, 640), (360, 1280))
    rows, labels = rows_at((200, 400, 80, 80)), rows_at((210, 404, 80, 80))
    boxed = one.picture(frame, 50_000, rows, labels)
    both = two.picture(frame, 50_000, rows, labels)
    assert (both[:, 640:] == boxed).all()
    assert (both[:, :638] == frame_image(frame)[:, :638]).all()
    # The label's left edge, dashed and white, within the detection's box.
    edge = one.picture(np.zeros_like(frame), 50_000, rows, labels)[202:242, 105]
    assert 0.4 < (edge == 255).all(axis=1).mean() < 0.6
    unlabelled = one.picture(np.zeros_like(frame), 50_000, rows)[202:238, 105]
    assert not unlabelled.any()


def test_the_time_hides_no_box():
    painter = DetectionPainter((360, 640), (360, 640), NAMES)
    frame = np.zeros((20, 360, 640), np.uint8)
    boxes = [(2, 0, 40, 14), (300, 200, 40, 14)]  # of one class, the first where the time stands
    image = painter.picture(frame, 15_400_000, rows_at(*boxes))
    [colour] = np.unique(image[200, 310:330], axis=0)
    for x, y, width, height in boxes:
        for line in (image[y, x : x + width], image[y : y + height, x]):
            assert (line == colour).all()
