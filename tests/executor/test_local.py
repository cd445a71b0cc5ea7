"""Starting a process takes seconds: tests that end none share a pool with their neighbours."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from potstill.console import console, silence
from potstill.errors import ConfigError, DataError, TrainingError
from potstill.executor import InOrder, make_executor

ERRORS = [ConfigError(["one", "two"]), DataError("expected a text", file="a.csv", line=3, remedy="mend it")]


def executor(workers):
    return make_executor("local", workers)


def squared(number):
    import torch

    return number**2, os.getpid(), torch.get_num_threads()


def is_quiet(_number):
    return console.quiet


def fail(number):
    raise ERRORS[number]


def kill_itself(_number):
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_after_the_first(directory, number):
    (directory / str(number)).write_text(str(os.getpid()))
    if number > 0:
        time.sleep(600.0)
    return number


def trained_weights(seed):
    import torch

    from tiny_students import random_set, tiny_student  # here, since each process imports this module

    student, data = tiny_student(seed, dropout=0.3), random_set(12, seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    for indices in ([0, 3, 4], [1, 2, 5]):
        batch = data.batch(indices)
        torch.nn.functional.cross_entropy(student(*batch.inputs), batch.labels).backward()
        optimizer.step()
    return {name: tensor.numpy().tobytes() for name, tensor in student.state_dict().items()}


def test_an_unknown_executor_is_refused_and_one_worker_needs_no_process():
    with pytest.raises(ConfigError, match=r"runtime\.executor: expected one of none, local, found 'moon'"):
        make_executor("moon", 2)
    assert isinstance(make_executor("local", 1), InOrder)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_items_order_from_processes_of_one_thread(workers):
    results = list(executor(workers).map(squared, range(20)))
    assert [result for result, _, _ in results] == [number**2 for number in range(20)]
    processes = {process for _, process, _ in results}
    if workers == 1:
        assert processes == {os.getpid()}
    else:
        assert os.getpid() not in processes
        assert len(processes) <= workers
        assert {threads for _, _, threads in results} == {1}


@pytest.mark.usefixtures("one_thread")
def test_one_and_two_workers_train_equal_weights():
    assert list(executor(1).map(trained_weights, range(4))) == list(executor(2).map(trained_weights, range(4)))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors_are_raised_here_with_all_they_hold(workers, number):
    with pytest.raises(type(ERRORS[number])) as caught:
        list(executor(workers).map(fail, [number]))
    assert str(caught.value) == str(ERRORS[number])
    assert vars(caught.value) == vars(ERRORS[number])


def test_items_are_read_only_a_few_ahead():
    taken = []
    results = executor(2).map(squared, (taken.append(number) or number for number in range(20)))
    for _ in range(5):
        next(results)
    assert len(taken) <= 5 + 2 * 2
    assert len(list(results)) == 15


def test_a_killed_worker_is_explained_and_the_next_map_works():
    with pytest.raises(TrainingError, match=r"a worker was killed \(out of memory\?\)\n.*--workers 1"):
        list(executor(2).map(kill_itself, range(4)))
    assert next(executor(2).map(squared, [3]))[0] == 9


def wait_for(*paths):
    deadline = time.monotonic() + 60
    while not all(path.is_file() and path.read_text() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_the_end_of(process):
    deadline = time.monotonic() + 30
    while is_running(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_are_killed_when_the_caller_stops_early(tmp_path):
    results = executor(2).map(partial(sleep_after_the_first, tmp_path), range(4))
    assert next(results) == 0
    wait_for(tmp_path / "1")
    results.close()
    wait_for_the_end_of(int((tmp_path / "1").read_text()))


def test_silence_holds_in_the_processes_too():
    with silence():
        assert list(executor(2).map(is_quiet, range(2))) == [True, True]


def test_workers_are_killed_when_the_caller_is_interrupted_at_the_last_item(tmp_path):
    results = executor(2).map(partial(sleep_after_the_first, tmp_path), range(2))
    with silence():  # as in the test before
        assert next(results) == 0
    wait_for(tmp_path / "1")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.alarm(1)
        with pytest.raises(KeyboardInterrupt):
            next(results)
    finally:
        signal.signal(signal.SIGALRM, before)
    wait_for_the_end_of(int((tmp_path / "1").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_workers_die_with_their_parent(tmp_path):
    code = f"""
import os, pathlib, time
from potstill.executor import make_executor

def slow(number):
    pathlib.Path({str(tmp_path)!r}, str(number)).write_text(str(os.getpid()))
    time.sleep(600.0)

list(make_executor("local", 2).map(slow, range(2)))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    wait_for(*(tmp_path / str(number) for number in range(2)))
    parent.kill()
    assert parent.communicate(timeout=60) == (b"", None)  # which ends when no process can write there any more
