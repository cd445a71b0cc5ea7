import itertools
import os
import signal
import sys
import time

import pytest
import torch

from potstill.errors import TrainingError
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
    assert len(taken) <= 5 + 2


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

    with workers(refuse, count) as work:
        results = work(range(5))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="not this one"):
            next(results)


def test_a_killed_worker_is_told_with_what_to_do():
    fallen = workers(lambda number: os.kill(os.getpid(), signal.SIGKILL), 2)
    with pytest.raises(TrainingError, match=r"ended from outside[\s\S]*OMP_NUM_THREADS"), fallen as work:
        list(work(range(4)))


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


def test_as_many_as_threads_and_only_where_the_processor_computes():
    threads = torch.get_num_threads()
    assert available_workers(torch.device("cpu")) == threads
    assert available_workers(torch.device("cuda")) == 1
    torch.set_num_threads(1)
    try:
        assert available_workers(torch.device("cpu")) == 1
    finally:
        torch.set_num_threads(threads)
