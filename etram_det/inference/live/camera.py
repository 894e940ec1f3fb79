"""Cameras of Prophesee and iniVation, through the package ``neuromorphic-drivers``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

from etram_det.data.evt import Columns
from etram_det.data.recording import Note
from etram_det.errors import UserError
from etram_det.inference.live.windows import NO_EVENTS, Slice

_POLL_S = 0.1  # for which the driver waits for a packet
_LATE_S = 1.0  # a packet that waited longer is behind a machine that cannot even read the events


class Camera:
    """The events of a camera, by its own clock.

    Args:
        device: an open device of the driver that waits for packets for a limited time; it is
            closed with this.
    """

    name = "camera"
    dtypes = tuple(column.dtype for column in NO_EVENTS)
    may_reset = True

    def __init__(self, device: Any) -> None:
        self._device = device
        properties, name = device.properties(), device.name()
        self.sensor_size = int(properties.height), int(properties.width)
        self.description = f"{getattr(name, 'value', name)}, serial {device.serial()}"
        self.notes: list[Note] = []

    def slices(self) -> Iterator[Slice]:
        """The events from now on: what has waited in the driver's buffer is left out.

        Raises:
            UserError: the camera does not answer any more.
        """
        is_behind_loss = False
        try:
            self._device.clear_backlog(until=0)
            for status, packet in self._device:
                delay_s = 0.0 if status.ring is None else float(status.delay())
                if delay_s > _LATE_S:
                    self._device.clear_backlog(until=0)
                    is_behind_loss = True
                    continue
                now_us = None if status.ring is None else int(status.ring.current_t)
                arrived_s, parts = time.monotonic() - delay_s, _parts(packet)
                for i, (columns, lost) in enumerate(parts, start=1):
                    known_us = now_us if i == len(parts) else None
                    yield Slice(columns, arrived_s, known_us, is_behind_loss or lost)
                    is_behind_loss = False
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"camera: must stay connected, got {_reason(error)}: plug it in and start again",
                exit_code=1,
            ) from error

    def close(self) -> None:
        """Release the camera."""
        device, self._device = self._device, None
        if device is not None:
            with suppress(RuntimeError):  # it is gone, and with it what was to be released
                device.close()


def _parts(packet: Any) -> list[tuple[Columns, bool]]:
    """Columns of a packet's events between losses, and whether each part is behind one."""
    events = getattr(packet, "polarity_events", None)
    losses = getattr(packet, "polarity_events_overflow_indices", None)
    losses = [] if losses is None else [int(each) for each in losses]
    if events is None:
        return [(NO_EVENTS, bool(losses))]
    x, y, t, p = events["x"], events["y"], events["t"].astype("i8"), events["on"].view("u1")
    bounds = [0, *losses, len(t)]
    return [
        (tuple(column[start:stop] for column in (x, y, t, p)), i > 0)
        for i, (start, stop) in enumerate(pairwise(bounds))
        if i > 0 or stop > 0 or not losses
    ]


def open_camera(serial: str | None) -> Camera:
    """The first camera that is connected, or the one with this serial number.

    Raises:
        UserError: the driver is not installed, or there is no such camera.
    """
    try:
        import neuromorphic_drivers as driver
    except ImportError as error:
        raise UserError(
            "camera: must have its driver, got no package neuromorphic-drivers: use pip install "
            "neuromorphic-drivers, of the extra [camera], or --replay FILE for a recording"
        ) from error
    try:
        return Camera(driver.open(serial=serial, iterator_timeout=_POLL_S))
    except (RuntimeError, OSError, ValueError) as error:
        which = "that can be opened" if serial is None else f"with serial number {serial}"
        raise UserError(
            f"camera: must be connected, got none {which} ({_reason(error)}): plug it in, run "
            "neuromorphic-drivers-install-udev-rules once after installing the driver, or use "
            "--replay FILE",
            exit_code=1,
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
