"""A camera as the package ``neuromorphic-drivers`` gives it, made of given events."""

import time
from types import SimpleNamespace

import numpy as np

DTYPE = np.dtype([("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")])


def packet_of(events, overflows=None):
    """A packet of the driver from columns x, y, t and p."""
    array = np.zeros(len(events["t"]), DTYPE)
    for name, column in {"t": "t", "x": "x", "y": "y", "on": "p"}.items():
        array[name] = events[column]
    indices = None if overflows is None else np.array(overflows)
    return SimpleNamespace(
        polarity_events=array if len(array) else None, polarity_events_overflow_indices=indices
    )


class FakeDevice:
    """A device that gives packets in turn, then fails like one that is unplugged.

    Args:
        packets: what each iteration gives: a packet; a time to wait in seconds, for which there is
            none; a function to call, in the place of one; or an error to raise. Behind the last one
            the camera is silent for ever.
        size: height and width.
        delays_s: how long each packet has waited in the driver's buffer; 0 unless given.
    """

    def __init__(self, packets, size=(48, 64), delays_s=None):
        self.packets, self.size = list(packets), size
        self.delays_s = delays_s or {}
        self.place, self.num_cleared, self.is_closed, self.current_t = 0, 0, False, 0

    def name(self):
        return SimpleNamespace(value="Prophesee EVK4")

    def serial(self):
        return "00050423"

    def properties(self):
        return SimpleNamespace(height=self.size[0], width=self.size[1])

    def clear_backlog(self, until):
        assert until == 0
        self.num_cleared += 1

    def close(self):
        self.is_closed = True

    def __iter__(self):
        return self

    def __next__(self):
        assert not self.is_closed
        place, self.place = self.place, self.place + 1
        given = self.packets[place] if place < len(self.packets) else 0.01
        if isinstance(given, Exception):
            raise given
        if isinstance(given, float) or callable(given):
            given() if callable(given) else time.sleep(given)
            return SimpleNamespace(ring=None, delay=lambda: None), None
        if given.polarity_events is not None:
            self.current_t = int(given.polarity_events["t"][-1])
        ring = SimpleNamespace(current_t=self.current_t)
        delay_s = self.delays_s.get(place, 0.0)
        return SimpleNamespace(ring=ring, delay=lambda: delay_s), given
