import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from etram_det.data.held_signals import signals_held_back

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows cannot hold signals back")


def interrupt_within(done):
    with signals_held_back([signal.SIGINT]):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        done.append(True)


@pytest.fixture(autouse=True)
def _interrupts():
    """Ctrl-C raises KeyboardInterrupt here, whatever a test before has left in its place."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_within(done)
    assert done == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interrupt_that_another_thread_receives_waits_too():
    end, done = threading.Event(), []
    other = threading.Thread(target=end.wait)  # does not block what is sent to the process
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt_within(done)
    finally:
        end.set()
        other.join()
    assert done == [True]


def test_each_signal_has_its_own_handler_back_once():
    seen = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: seen.append(number))
        with signals_held_back(list(handlers)):
            signal.raise_signal(signal.SIGUSR2)
            assert seen == []
        assert seen == [signal.SIGUSR2]
        signal.raise_signal(signal.SIGUSR1)
        assert seen == [signal.SIGUSR2, signal.SIGUSR1]
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_processes_that_start_meanwhile_do_not_see_them():
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with signals_held_back([signal.SIGINT]):
        printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed == "True\n"


def test_in_another_thread_nothing_is_held_back():
    def run():
        with signals_held_back([signal.SIGINT]):
            blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    blocked = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert blocked == [set()]
