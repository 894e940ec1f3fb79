"""H.264 by ffmpeg, a program of its own that takes raw pictures through a pipe."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from etram_det.drawing.frames import Image

ENCODER = "libx264"
_INSTALL = "pip install imageio-ffmpeg, of the extra [video]"
_TIMEOUT_S = 30  # to encode one picture
_TRIAL = (64, 64)  # of which height and width, in pixels
# Noise of single pixels costs most: slower presets take twice the time for a fifth of the size.
# One thread leaves the other cores to the network.
_ENCODING = ("-preset", "superfast", "-crf", "23", "-threads", "1")
# What every browser plays. RGB is converted by the matrix that is stated, at any size.
_FORM = (
    *("-pix_fmt", "yuv420p", "-color_range", "tv", "-colorspace", "smpte170m"),
    *("-movflags", "+faststart", "-f", "mp4"),
)


class NoEncoder(Exception):
    """There is no ffmpeg that encodes H.264: what was found, and the remedy."""


@cache
def encoding_ffmpeg() -> str:
    """The ffmpeg on the path, or that of imageio-ffmpeg, whichever first has the encoder.

    Raises:
        NoEncoder: there is none.
    """
    lacking = []
    for program in filter(None, (shutil.which("ffmpeg"), _of_imageio())):
        if _encodes(program):
            return program
        lacking.append(program)
    if lacking:
        raise NoEncoder(
            f"{' and '.join(lacking)} cannot encode H.264: use an ffmpeg with {ENCODER}, or "
            f"{_INSTALL}"
        )
    raise NoEncoder(f"there is no ffmpeg here to encode H.264: install it, or use {_INSTALL}")


def _of_imageio() -> str | None:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed, or without a program for this platform
        return None


def _encodes(program: str) -> bool:
    """Whether it encodes one black picture: an encoder that it lists may lack its library."""
    height, width = _TRIAL
    command = [program, "-hide_banner", *_raw_pictures(_TRIAL, 1), "-c:v", ENCODER]
    try:
        done = subprocess.run([*command, *_ENCODING, "-f", "null", "-"], capture_output=True,
                              input=bytes(3 * height * width), timeout=_TIMEOUT_S,
                              check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _raw_pictures(size: tuple[int, int], rate: float) -> list[str]:
    """Arguments that let ffmpeg read RGB pictures of a size from its input."""
    height, width = size
    form = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"]
    return [*form, "-framerate", f"{rate:.6g}", "-i", "pipe:0"]


class FfmpegEncoder:
    """Encodes one video.

    Args:
        program: an ffmpeg with the encoder.
        path: the file.
        size: height and width in pixels, both even.
        rate: frames in a second.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(self, program: str, path: Path, size: tuple[int, int], rate: float) -> None:
        self._messages = tempfile.TemporaryFile()
        command = [program, "-hide_banner", "-loglevel", "error", "-y"]
        command += [*_raw_pictures(size, rate), "-c:v", ENCODER]
        self._process = subprocess.Popen(
            [*command, *_ENCODING, *_FORM, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._messages,
            start_new_session=True,  # Ctrl-C is for this program, which ends the video
        )

    def write(self, image: Image) -> None:
        """Encode the next picture, RGB ``[H, W, 3]``; :meth:`close` says if it could not be."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(image.tobytes())
        except BrokenPipeError:
            pass

    def close(self) -> str | None:
        """Wait for the end of the file, and return what went wrong in it, if anything did."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        code = self._process.wait()
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").splitlines()
        self._messages.close()
        return None if code == 0 else (lines[-1].strip() if lines else f"exit code {code}")
