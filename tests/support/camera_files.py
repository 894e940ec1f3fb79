"""Camera files with given events, encoded here."""

import numpy as np


def evt2(events, header=b"% evt 2.0\n% geometry 64x48\n"):
    """EVT 2.0: 32-bit words; the upper 28 bits of the time in words of their own."""
    words, high = [], None
    for x, y, t, p in zip(*(events[name].tolist() for name in "xytp"), strict=True):
        if t >> 6 != high:
            high = t >> 6
            words.append(8 << 28 | high & 0xFFFFFFF)  # 34 bits in all, then it starts anew
        words.append(p << 28 | (t & 63) << 22 | x << 11 | y)
    return header + np.array(words, "<u4").tobytes()


def evt3(events, header=b"% format EVT3;height=48;width=64\n% end\n"):
    """EVT 3.0: 16-bit words, for the upper and lower part of the time, y, and x with polarity."""
    words = []
    for x, y, t, p in zip(*(events[name].tolist() for name in "xytp"), strict=True):
        words += [0x8 << 12 | t >> 12 & 0xFFF, 0x6 << 12 | t & 0xFFF]
        words += [0x0 << 12 | y, 0x2 << 12 | p << 11 | x]
    return header + np.array(words, "<u2").tobytes()


def dat(events, header=b"% Version 2\n% Height 48\n% Width 64\n"):
    """DAT: 32 bits of time, 14 of x, 14 of y, polarity."""
    words = np.empty((len(events["t"]), 2), "<u4")
    words[:, 0] = events["t"]
    words[:, 1] = (
        events["x"] | events["y"].astype(np.uint32) << 14 | events["p"].astype(np.uint32) << 28
    )
    return header + bytes([0x0C, 8]) + words.tobytes()


ENCODERS = {"evt2.raw": evt2, "evt3.raw": evt3, "cd.dat": dat}
