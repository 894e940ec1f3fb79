"""Loading processes that are ended from outside."""

import gc
import multiprocessing
import os
import signal
import time
import weakref

import pytest
import torch
from torch.utils.data import Dataset

from etram_det.data.loader_processes import _Batches, _context, _Ends, batch_loader

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


class Numbers(Dataset):
    def __getitem__(self, request):
        return torch.full((3,), request)


def batches(num_workers=1):
    return iter(
        batch_loader(
            Numbers(),
            [[i] for i in range(20)],
            torch.stack,
            num_workers=num_workers,
            multiprocessing_context=None,
            pin_memory=False,
            persistent_workers=False,
        )
    )


def end_one():
    """End one loading process, and wait until it has ended."""
    process = multiprocessing.active_children()[0].pid
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_end_of_a_process_is_an_error_of_the_next_batch(num_workers):
    loaded = batches(num_workers)
    next(loaded)
    end_one()
    time.sleep(0.05)  # nothing is raised here, nor in what training does between two batches
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="DataLoader worker .* is killed by signal: Killed"):
        next(loaded)
    assert time.monotonic() - started < 1
    assert len(list(batches(num_workers))) == 20


def test_the_end_of_a_process_is_an_error_of_its_own_loader_whatever_was_loaded_in_between():
    loaded = batches()
    next(loaded)
    end_one()
    assert len(list(batches())) == 20  # a validation
    with pytest.raises(RuntimeError, match="is killed by signal"):
        next(loaded)


def test_it_is_noticed_at_once_after_others_have_reset_the_handler():
    next(batches())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # as Lightning does at the end of a run
    loaded = batches()
    next(loaded)
    end_one()
    with pytest.raises(RuntimeError, match="is killed by signal"):
        next(loaded)


def test_a_handler_of_others_is_left_alone():
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        own = signal.getsignal(signal.SIGCHLD)
        loaded = batches()
        next(loaded)
        assert signal.getsignal(signal.SIGCHLD) is own
        end_one()
        with pytest.raises(RuntimeError, match="exited unexpectedly"):
            list(loaded)  # PyTorch looks every few seconds
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_errors_of_other_handlers_are_theirs():
    def failing(*_):
        raise RuntimeError("mine")

    ends = _Ends()
    ends._handler = failing  # as PyTorch's, which calls the handler before it
    with pytest.raises(RuntimeError, match="mine"):
        ends._note(0, None)


def test_what_is_kept_of_an_end_holds_no_batch():
    def use(loaded):
        next(loaded)
        end_one()  # which interrupts this function, where the loader is known
        return weakref.ref(loaded._batches)

    seen = use(batches())
    gc.collect()
    assert seen() is None


def test_the_end_of_one_loaders_process_is_no_error_of_a_later_one():
    loaded = batches()
    next(loaded)
    end_one()
    del loaded
    assert len(list(batches())) == 20


def ask_for_ever(flag):
    while not flag.is_set():
        pass


def test_a_process_that_is_ended_takes_no_lock_along():
    flag = _context("fork").Event()
    for _ in range(20):  # with multiprocessing's own event every second one has its lock
        process = multiprocessing.get_context("fork").Process(target=ask_for_ever, args=(flag,))
        process.start()
        time.sleep(0.02)
        process.kill()
        process.join()
        assert not flag.is_set()
    flag.set()
    assert flag.is_set()


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_the_flag_reaches_processes_of_each_start_method(method):
    context = _context(method)
    assert context.get_start_method() == method
    flag = context.Event()
    process = context.Process(target=ask_for_ever, args=(flag,), daemon=True)
    process.start()
    flag.set()
    process.join(60)
    assert process.exitcode == 0


class Ending:
    """What PyTorch's loader gives when a batch ends in an error."""

    _workers = ()

    def __init__(self, error):
        self.error = error

    def __next__(self):
        raise self.error


def test_a_connection_whose_other_end_is_gone_means_a_process_that_is():
    for error in (ConnectionResetError("reset by peer"), EOFError()):
        with pytest.raises(RuntimeError, match="DataLoader worker exited unexpectedly"):
            next(_Batches(Ending(error)))
    of_the_data = ConnectionResetError("Caught ConnectionResetError in DataLoader worker process 0")
    with pytest.raises(ConnectionResetError):
        next(_Batches(Ending(of_the_data)))
