"""Ratios of speed that hold on a machine with other load."""

import time


def best_seconds(*functions, repeats=20):
    """The shortest of several runs of each function, after one that compiles and fills caches.

    They take turns, so that what else the machine does meets them all. The processor's time is
    taken, which depends less on that than the clock on the wall.
    """
    seconds = []
    for _ in range(repeats + 1):
        seconds.append([])
        for function in functions:
            started = time.process_time()
            function()
            seconds[-1].append(time.process_time() - started)
    return [min(each) for each in zip(*seconds[1:], strict=True)]
