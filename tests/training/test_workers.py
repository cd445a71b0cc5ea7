import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

from potstill.errors import ConfigError, DataError, MissingExtraError, TrainingError
from potstill.interruption import Stopped, stoppable
from potstill.training import workers as module
from potstill.training.workers import available_workers, workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")


def squared(number):
    return number**2, os.getpid(), torch.get_num_threads()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_the_items_order(count):
    with workers(squared, count) as square:
        results = list(square(range(20)))
    assert [result for result, _, _ in results] == [number**2 for number in range(20)]
    processes = {process for _, process, _ in results}
    if count == 1:
        assert processes == {os.getpid()}
    else:
        assert os.getpid() not in processes
        assert len(processes) <= count
        assert {threads for _, _, threads in results} == {1}


def test_no_more_items_are_taken_than_keep_the_workers_busy():
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield number

    with workers(squared, 2) as square:
        results = square(endless())
        for _ in range(5):
            next(results)
    assert len(taken) <= 5 + 2 * 2


def test_they_know_what_was_known_when_the_work_began():
    weight = torch.zeros(3)
    with workers(lambda factor: (weight * factor).tolist(), 2) as scaled:
        weight += 1.0
        assert list(scaled([2.0, 3.0])) == [[2.0] * 3, [3.0] * 3]


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_reaches_who_waits_for_the_result(count):
    def refuse(number):
        if number == 2:
            raise ValueError("not this one")
        return number

    with workers(refuse, count) as work, pytest.raises(ValueError, match="not this one"):
        list(work(range(5)))


def test_a_killed_worker_is_told_with_what_to_do():
    fallen = workers(lambda number: os.kill(os.getpid(), signal.SIGKILL), 2)
    with pytest.raises(TrainingError, match=r"ended from outside[\s\S]*OMP_NUM_THREADS"), fallen as work:
        list(work(range(4)))


def test_our_errors_come_as_they_were():
    errors = [
        ConfigError(["the one", "the other"]),
        DataError("expected a text", file="a.csv", line=3, remedy="mend it"),
        MissingExtraError("a", "b"),
    ]

    def refuse(number):
        raise errors[number]

    for number, error in enumerate(errors):
        with pytest.raises(type(error)) as caught, workers(refuse, 2) as work:
            list(work([number]))
        assert str(caught.value) == str(error)
        assert vars(caught.value) == vars(error)


@pytest.mark.parametrize("idle", [False, True])
def test_work_that_is_kept_ends_when_asked_and_nothing_new_is_begun(tmp_path, idle):
    def slow(number):
        if number == 0:
            return number
        (tmp_path / f"begun-{number}").touch()
        time.sleep(0.2)  # asked to end meanwhile, it hears of it as soon as it listens
        with suppress(Stopped), stoppable(is_worker=True):
            time.sleep(600.0)
        (tmp_path / f"kept-{number}").touch()
        return None

    def until_all_are_begun():
        with workers(slow, 2, keeps_unfinished=True) as work:
            assert next(work(range(2) if idle else range(9))) == 0
            while not (tmp_path / "begun-1").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        until_all_are_begun()
    begun = {path.name.partition("-")[2] for path in tmp_path.glob("begun-*")}
    assert {path.name.partition("-")[2] for path in tmp_path.glob("kept-*")} == begun
    assert len(begun) <= 2


@pytest.mark.parametrize("deaf", [False, True])
def test_work_that_has_hardly_begun_ends_when_asked(tmp_path, monkeypatch, deaf):
    """Before the new process has come to itself, too, and where who asks ignores the signal."""
    serve = module._serve

    def slow(_number):
        with suppress(Stopped), stoppable(is_worker=True):
            time.sleep(20.0)
            pytest.fail("it has heard nothing")
        (tmp_path / "kept").touch()

    def asked_at_once():
        with workers(slow, 2, keeps_unfinished=True) as work:
            list(work(range(1)))

    monkeypatch.setattr(module, "_serve", lambda *arguments: time.sleep(0.3) or serve(*arguments))
    monkeypatch.setattr(module._Crew, "_awaited", lambda _: 1 / 0)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else signal.SIG_DFL)
    try:
        with pytest.raises(ZeroDivisionError):
            asked_at_once()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "kept").exists()


def test_who_asks_twice_does_not_wait():
    asked = []

    def deaf(_number):
        os.kill(os.getppid(), signal.SIGALRM)
        time.sleep(600.0)

    def again(*_):
        asked.append("to end")
        signal.setitimer(signal.ITIMER_REAL, 0.5)  # once more, while the worker is asked to end
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, again)
    try:
        with pytest.raises(KeyboardInterrupt), workers(deaf, 2, keeps_unfinished=True) as work:
            list(work(range(1)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert len(asked) == 2


def test_nobody_waits_for_work_that_is_not_wanted_any_more(tmp_path):
    def slow(number):
        (tmp_path / str(number)).write_text(str(os.getpid()))
        if number > 0:
            time.sleep(600.0)
        return number

    with workers(slow, 2) as work:
        assert next(work(range(4))) == 0
        while not (tmp_path / "1").is_file():
            time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "1").read_text()), 0)


def test_they_end_with_the_process_that_began_them(tmp_path):
    orphaned = f"""
import pathlib, time
from potstill.training.workers import workers

def slow(number):
    pathlib.Path({str(tmp_path)!r}, str(number)).touch()
    time.sleep(600.0)

with workers(slow, 2) as work:
    list(work(range(2)))
"""
    parent = subprocess.Popen([sys.executable, "-c", orphaned], stdout=subprocess.PIPE)
    while not all((tmp_path / str(number)).exists() for number in range(2)):
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    assert parent.communicate(timeout=60) == (b"", None)  # it ends with the last who could write there


def test_as_many_as_threads_and_only_where_the_processor_computes():
    threads = torch.get_num_threads()
    assert available_workers(torch.device("cpu")) == threads
    assert available_workers(torch.device("cuda")) == 1
    torch.set_num_threads(1)
    try:
        assert available_workers(torch.device("cpu")) == 1
    finally:
        torch.set_num_threads(threads)
