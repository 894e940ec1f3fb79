"""H.264 by ffmpeg: found, lacking, and played in a browser."""

import json
import logging
import os
import stat
import subprocess
import sys
import time
from base64 import b64encode

import cv2
import numpy as np
import pytest

from etram_det.drawing import ffmpeg, video
from etram_det.drawing.ffmpeg import NoEncoder, encoding_ffmpeg
from etram_det.drawing.video import VideoWriter
from etram_det.errors import UserError

SIZE = 96, 160
INSTALL = "pip install imageio-ffmpeg, of the extra [video]"


@pytest.fixture(autouse=True)
def _looked_for_anew(monkeypatch):
    encoding_ffmpeg.cache_clear()
    video._log_once.cache_clear()
    yield
    monkeypatch.undo()
    encoding_ffmpeg.cache_clear()


def program(folder, body):
    """A program named ffmpeg that runs a few lines of Python."""
    folder.mkdir()
    path = folder / "ffmpeg"
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def bundled():
    pytest.importorskip("imageio_ffmpeg")
    return ffmpeg._of_imageio() or pytest.skip("imageio-ffmpeg has no program for this platform")


def write(path, num_frames=20, size=SIZE):
    writer = VideoWriter(path, size, 20)
    for i in range(num_frames):
        image = np.zeros((*size, 3), np.uint8)
        image[20:60, 2 * i : 2 * i + 40] = 204, 108, 0
        writer.add(image)
    writer.finish()


def codec_of(path):
    number = int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FOURCC))
    return number.to_bytes(4, "little").decode()


def has_opencvs_h264(tmp_path):
    return video._OpenCVEncoder.opened(tmp_path / "x.mp4", SIZE, 20).codec == "avc1"


def test_the_first_that_encodes_h264_is_taken(tmp_path, monkeypatch):
    theirs = bundled()
    monkeypatch.setenv("PATH", "")
    assert encoding_ffmpeg() == theirs
    lacking = program(tmp_path / "lacking", "sys.exit('Unknown encoder libx264')")
    whole = program(tmp_path / "whole", "sys.stdin.read()")
    for folder, expected in ((lacking.parent, theirs), (whole.parent, str(whole))):
        encoding_ffmpeg.cache_clear()
        monkeypatch.setenv("PATH", str(folder))
        assert encoding_ffmpeg() == expected


def test_what_is_lacking_is_reported_once_and_replaced(tmp_path, monkeypatch, caplog):
    if has_opencvs_h264(tmp_path):
        pytest.skip("OpenCV has H.264 here")
    monkeypatch.setattr(ffmpeg, "_of_imageio", lambda: None)
    lacking = program(tmp_path / "lacking", "sys.exit('Unknown encoder libx264')")
    # It lists the encoder, whose library is not there.
    lists = "print(' V....D libx264  H.264')" + " if '-encoders' in sys.argv else sys.exit(3)"
    broken = program(tmp_path / "broken", lists)
    none = tmp_path / "none"
    none.mkdir()
    start = "video: MPEG-4 part 2, which browsers do not play, as "
    for path, reason in {
        none: f"there is no ffmpeg here to encode H.264: install it, or use {INSTALL}",
        lacking: f"{lacking} cannot encode H.264: use an ffmpeg with libx264, or {INSTALL}",
        broken: f"{broken} cannot encode H.264: use an ffmpeg with libx264, or {INSTALL}",
    }.items():
        encoding_ffmpeg.cache_clear()
        caplog.clear()
        monkeypatch.setenv("PATH", str(path if path is none else path.parent))
        with caplog.at_level(logging.WARNING, "etram_det"):
            for name in ("a.mp4", "b.mp4"):
                write(tmp_path / name)
                assert codec_of(tmp_path / name) == "FMP4"
        assert caplog.messages == [start + reason]


def test_neither_ffmpeg_nor_a_codec_is_an_error(tmp_path, monkeypatch):
    def none():
        raise NoEncoder("there is none")

    monkeypatch.setattr(video, "encoding_ffmpeg", none)
    monkeypatch.setattr(video, "CODECS", ("WXYZ",))
    with pytest.raises(UserError, match="OpenCV has no codec for .mp4 here, tried WXYZ"):
        VideoWriter(tmp_path / "a.mp4", SIZE, 20)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_ends_early_is_an_error(tmp_path, monkeypatch):
    body = "'null' in sys.argv or sys.exit('out of luck')"  # but for the trial
    monkeypatch.setenv("PATH", str(program(tmp_path / "bin", body).parent))
    with pytest.raises(
        UserError, match=r"a.mp4: the video could not be completed \(out of luck\): make room"
    ):
        write(tmp_path / "a.mp4", num_frames=50)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_the_file_is_h264_in_the_form_that_everything_plays(tmp_path):
    bundled()
    write(tmp_path / "a.mp4")
    assert codec_of(tmp_path / "a.mp4") == "h264"
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # it starts to play while it loads
    command = [encoding_ffmpeg(), "-hide_banner", "-i", str(tmp_path / "a.mp4")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "yuv420p(tv, smpte170m" in said
    assert f"{SIZE[1]}x{SIZE[0]}" in said


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_in_a_terminal_does_not_reach_the_encoder(tmp_path):
    bundled()
    writer = VideoWriter(tmp_path / "a.mp4", SIZE, 20)
    writer.add(np.zeros((*SIZE, 3), np.uint8))
    assert os.getpgid(writer._encoder._process.pid) != os.getpgid(0)
    writer.finish()


def test_it_plays_in_a_browser(tmp_path, browser):
    bundled()
    write(tmp_path / "a.mp4", num_frames=100)
    source = b64encode((tmp_path / "a.mp4").read_bytes()).decode()  # whose pixels may be read
    page = f"<video src='data:video/mp4;base64,{source}' muted></video>"
    (tmp_path / "page.html").write_text(page)
    browser.get((tmp_path / "page.html").as_uri())
    browser.execute_script("document.querySelector('video').play()")
    state = """const v = document.querySelector('video'); return JSON.stringify({
        time: v.currentTime, size: [v.videoHeight, v.videoWidth], s: v.duration,
        error: v.error && v.error.message})"""
    for _ in range(300):
        found = json.loads(browser.execute_script(state))
        if found["time"] > 0.3 or found["error"]:
            break
        time.sleep(0.1)
    assert found["error"] is None
    assert found["time"] > 0.3
    assert found["size"] == [*SIZE]
    assert found["s"] == pytest.approx(5, abs=0.06)
    # Colours are those that were drawn, whatever the size.
    pixel = """const v = document.querySelector('video'), c = document.createElement('canvas');
        v.pause(); c.width = v.videoWidth; c.height = v.videoHeight;
        const d = c.getContext('2d'); d.drawImage(v, 0, 0);
        const x = Math.floor(2 * v.currentTime * 20) + 20;
        return [...d.getImageData(x, 40, 1, 1).data]"""
    colour = browser.execute_script(pixel)
    np.testing.assert_allclose(colour[:3], [204, 108, 0], atol=8)
