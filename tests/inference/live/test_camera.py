"""Cameras through a device object with the driver's interface."""

import builtins
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from etram_det.errors import UserError
from etram_det.inference.live.camera import Camera, open_camera
from support.fake_camera import FakeDevice, packet_of
from support.raw_files import random_events


def test_packets_become_slices():
    events = random_events(100)
    none = {name: column[:0] for name, column in events.items()}
    camera = Camera(FakeDevice([packet_of(events), 0.01, packet_of(none)]))
    assert camera.description == "Prophesee EVK4, serial 00050423"
    assert camera.sensor_size == (48, 64)
    slices, before_s = camera.slices(), time.monotonic()
    first, silent, empty = (next(slices) for _ in range(3))
    for column, name in zip(first.columns, "xytp", strict=True):
        np.testing.assert_array_equal(column, events[name])
    assert [c.dtype for c in first.columns] == [*camera.dtypes] == ["u2", "u2", "i8", "u1"]
    assert first.now_us == empty.now_us == events["t"][-1]
    assert silent.now_us is None
    assert len(silent.columns[0]) == len(empty.columns[0]) == 0
    assert before_s <= first.arrived_s <= time.monotonic()
    assert not first.is_behind_loss


def test_what_waited_before_the_start_is_left_out():
    device = FakeDevice([packet_of(random_events(10))])
    next(Camera(device).slices())
    assert device.num_cleared == 1


def test_a_packet_has_arrived_when_the_driver_got_it():
    device = FakeDevice([packet_of(random_events(10))], delays_s={0: 0.25})
    waited_s = time.monotonic() - next(Camera(device).slices()).arrived_s
    assert waited_s == pytest.approx(0.25, abs=0.1)


def test_lost_events_are_known():
    events = random_events(100)
    packets = [packet_of(events), packet_of(events, [40, 60]), packet_of(events)]
    slices = Camera(FakeDevice(packets)).slices()
    found = [next(slices) for _ in range(5)]
    assert [s.is_behind_loss for s in found] == [False, False, True, True, False]
    # What came between losses is kept, and the clock is known behind the last one.
    parts = (slice(None), slice(40), slice(40, 60), slice(60, None), slice(None))
    for s, part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(s.columns[0], events["x"][part])
    assert [s.now_us is None for s in found] == [False, True, True, False, False]
    whole = next(Camera(FakeDevice([packet_of(events, [0])])).slices())
    assert (whole.is_behind_loss, len(whole.columns[0])) == (True, 100)
    # Those that were lost may be all that there were.
    none = {name: column[:0] for name, column in events.items()}
    only = next(Camera(FakeDevice([packet_of(none, [0])])).slices())
    assert (only.is_behind_loss, len(only.columns[0])) == (True, 0)


def test_a_backlog_is_given_up():
    """A machine that cannot even read the events does not fall behind without end."""
    events = random_events(10)
    device = FakeDevice([packet_of(events)] * 3, delays_s={1: 1.5})
    slices = Camera(device).slices()
    assert [next(slices).is_behind_loss for _ in range(2)] == [False, True]
    assert (device.num_cleared, device.place) == (2, 3)


def test_an_unplugged_camera():
    device = FakeDevice([packet_of(random_events(10)), RuntimeError("Usb(NoDevice)")])
    camera = Camera(device)
    slices = camera.slices()
    next(slices)
    message = r"^camera: must stay connected, got Usb\(NoDevice\): plug it in and start again$"
    with pytest.raises(UserError, match=message) as caught:
        next(slices)
    assert caught.value.exit_code == 1
    camera.close()
    camera.close()
    assert device.is_closed


def test_a_missing_driver_is_named(monkeypatch):
    real = builtins.__import__

    def without_driver(name, *rest):
        if name == "neuromorphic_drivers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_driver)
    message = r"use pip install neuromorphic-drivers, of the extra \[camera\], or --replay FILE"
    with pytest.raises(UserError, match=message):
        open_camera(None)


def test_no_camera(monkeypatch):
    def fail(serial, iterator_timeout):
        assert iterator_timeout > 0
        raise RuntimeError("no device found" if serial is None else "device not found")

    monkeypatch.setitem(sys.modules, "neuromorphic_drivers", SimpleNamespace(open=fail))
    message = r"^camera: must be connected, got none that can be opened \(no device found\): plug"
    with pytest.raises(UserError, match=message):
        open_camera(None)
    with pytest.raises(UserError, match=r"got none with serial number 7 \(device not found\)"):
        open_camera("7")


def test_the_driver_itself_says_that_there_is_no_such_camera():
    """Its own functions and classes are those that are used here."""
    driver = pytest.importorskip("neuromorphic_drivers")
    with pytest.raises(UserError, match="^camera: must be connected, got none with serial number"):
        open_camera("no such serial number")
    used = {"__iter__", "__next__", "clear_backlog", "close", "name", "serial", "properties"}
    assert used <= set(dir(driver.device.Device))
    fields = driver.status.RingStatus.__dataclass_fields__
    assert {"current_t", "system_time"} <= set(fields)
    status = driver.status.Status(10.5, driver.status.RingStatus(10.0, 0, 1, False, 7, 0))
    assert status.delay() == 0.5
    names = driver.packet.Evt3Packet.__annotations__
    assert {"polarity_events", "polarity_events_overflow_indices"} <= set(names)
