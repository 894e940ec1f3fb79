"""What ``detect`` reads, window by window: a recording, or bytes from a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from etram_det.data.recording import Note, Recording
from etram_det.data.representation import FrameSettings
from etram_det.inference.live.frame_maker import Counted, FrameMaker
from etram_det.inference.live.sources import RawPipe, standard_input
from etram_det.inference.live.windows import WindowCutter
from etram_det.inference.placement import Placement, Resize, open_placed

PIPE = "-"  # in the place of a file: bytes from standard input


class Stream(Protocol):
    """Frames that follow each other.

    Attributes:
        name: of the results.
        path: for messages.
        placement: where the sensor's picture lies in the frames.
        num_windows: of all of it; None where that is not known.
        recording: what is read; None of a pipe.
        notes: what was assumed, or is doubtful.
        counted: events that were dropped and repaired.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def placement(self) -> Placement: ...  # noqa: D102
    @property
    def num_windows(self) -> int | None: ...  # noqa: D102
    @property
    def recording(self) -> Recording | None: ...  # noqa: D102
    @property
    def notes(self) -> list[Note]: ...  # noqa: D102
    @property
    def counted(self) -> Counted: ...  # noqa: D102

    def prepare(self) -> None:
        """Read through it once, where frames need that."""
        ...

    def frames(self, interrupt: Callable[[], None]) -> Iterator[tuple[int, NDArray[Any]]]:
        """End in microseconds and frame ``[C, H, W]`` of each window.

        Args:
            interrupt: is called while events are waited for.

        Raises:
            UserError: it cannot be read on.
        """
        ...


class RecordedStream:
    """A recording that ``open_recording`` opens; errors are those of ``open_placed``."""

    def __init__(self, path: Path, settings: FrameSettings, resize: Resize) -> None:
        recording, self.placement = open_placed(path, settings, resize)
        self.recording: Recording = recording
        self.counted, self.notes = self.recording, self.recording.notes
        self.name, self.path = self.recording.name, str(self.recording.path)
        self.num_windows = len(self.recording)

    def prepare(self) -> None:  # noqa: D102
        self.recording.prepare()

    def frames(self, interrupt: Callable[[], None]) -> Iterator[tuple[int, NDArray[Any]]]:  # noqa: D102
        for i, end_us in enumerate(self.recording.frame_end_us.tolist()):
            yield end_us, self.placement.place(self.recording.frames(i, i + 1))[0]


class PipedStream:
    """RAW bytes from standard input: all windows of them, each as soon as it is over."""

    num_windows = None
    recording = None

    def __init__(self, settings: FrameSettings, resize: Resize) -> None:
        self._pipe = RawPipe(standard_input(), settings.clock, settings.sensor_size)
        self.name, self.path, self.notes = self._pipe.name, self._pipe.description, self._pipe.notes
        self._cutter = WindowCutter(settings.window_ms * 1000)
        self._maker = FrameMaker(self._pipe.sensor_size, settings, resize)
        self.placement = self._maker.placement

    @property
    def counted(self) -> Counted:  # noqa: D102
        self._maker.count_repaired(self._cutter)
        return self._maker

    def prepare(self) -> None:  # noqa: D102
        pass

    def frames(self, interrupt: Callable[[], None]) -> Iterator[tuple[int, NDArray[Any]]]:  # noqa: D102
        for events in self._pipe.slices():
            interrupt()
            for window in self._cutter.add(events):
                yield window.end_us, self._maker.frame(window)
        for window in self._cutter.finish():
            yield window.end_us, self._maker.frame(window)
