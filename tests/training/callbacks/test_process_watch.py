"""A process that waits for a dead one in vain ends with a line of its own."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from etram_det.training.callbacks.process_watch import ProcessWatch, _dead_child, _dead_parent


def python(code, **settings):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings)


CHILD = """
    import os, sys, signal, time
    {end}
"""
WAITING = """
    import subprocess, sys, threading, time
    from etram_det.training.callbacks.process_watch import _dead_child, _wait_and_end
    child = subprocess.Popen([sys.executable, "-c", {child!r}])
    watch = lambda: _wait_and_end(lambda: _dead_child([child]), 0.2)
    threading.Thread(target=watch, daemon=True).start()
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "process 1 of the run was killed by SIGKILL"),
        ("sys.exit(3)", "process 1 of the run has ended with exit code 3"),
    ],
)
def test_one_that_hangs_on_a_dead_child_is_ended(end, told):
    child = textwrap.dedent(CHILD.format(end=end))
    waiting = python(WAITING.format(child=child))
    _, error = waiting.communicate(timeout=50)
    assert waiting.returncode == 1
    assert error.strip() == f"etram_det: error: {told}, so this process ends too"


def test_children_that_work_or_are_done_are_no_fault():
    with python("import time; time.sleep(30)") as at_work, python("pass") as done:
        done.wait()
        assert _dead_child([at_work, done]) is None
        at_work.kill()
        at_work.wait()
        assert _dead_child([done, at_work]) == "process 2 of the run was killed by SIGKILL"


def test_parent_is_known_by_its_number():
    assert _dead_parent(os.getppid()) is None
    assert _dead_parent(os.getpid()) == "the first process of the run is gone"


def test_takes_over_from_what_would_kill_without_a_word():
    with python("pass") as child:
        child.wait()
        seen_by_lightning = [child]
        launcher = SimpleNamespace(procs=seen_by_lightning)
        strategy = SimpleNamespace(launcher=launcher)
        watch = ProcessWatch()
        watch.setup(SimpleNamespace(strategy=strategy), None, "fit")
        watch.setup(SimpleNamespace(strategy=strategy), None, "validate")
        assert seen_by_lightning == []
        assert launcher.procs == [child]  # for the signals that Lightning hands on
