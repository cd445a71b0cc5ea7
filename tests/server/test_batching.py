"""The worker: batches, bounds, cancellation, failure, batches broken off."""

import asyncio
import ctypes

import numpy as np
import pytest

from potstill.server.batching import ModelError, QueueFullError, Worker, WorkerError
from potstill.server.limits import Limits
from potstill.server.metrics import Metrics

pytestmark = pytest.mark.anyio


@pytest.fixture
async def make_worker(rule):
    """A worker of `rule`; it is stopped at the end, whatever the test left waiting."""
    started = []

    def make(**limits):
        worker = Worker(rule.served(), Limits(**limits), Metrics())
        worker.start()
        started.append(worker)
        return worker

    yield make
    rule.gate.set()
    for worker in started:
        await asyncio.to_thread(worker.stop)


async def hold(rule, worker):
    """Let the worker begin with a first text, and stop there."""
    rule.gate.clear()
    first = worker.submit(["first"])
    await asyncio.to_thread(rule.entered.acquire)
    return first


async def test_what_waits_is_computed_together_and_everyone_gets_their_own(rule, make_worker):
    worker = make_worker()
    first = await hold(rule, worker)
    jobs = [worker.submit(["good"] * size + ["other"]) for size in (1, 2, 3)]
    assert worker.waiting == 9
    rule.gate.set()
    answers = await asyncio.gather(*jobs)
    assert rule.batches == [1, 9]
    for size, answer in zip((1, 2, 3), answers, strict=True):
        np.testing.assert_allclose(answer.probabilities[:, 1], [0.9] * size + [0.2], atol=1e-6)
        assert answer.seconds > 0
    assert (await first).probabilities.shape == (1, 2)
    assert worker.waiting == 0


async def test_batches_are_bounded_but_no_request_is_split(rule, make_worker):
    worker = make_worker(batch_texts=4)
    await hold(rule, worker)
    jobs = [worker.submit(["text"] * size) for size in (3, 1, 1, 9, 2)]
    rule.gate.set()
    await asyncio.gather(*jobs)
    assert rule.batches == [1, 4, 1, 9, 2]


async def test_a_batch_waits_for_more(rule, make_worker):
    """For up to a second: two submissions right after each other must meet."""
    worker = make_worker(batch_wait=1.0, batch_texts=2)
    await asyncio.gather(worker.submit(["one"]), worker.submit(["two"]))
    assert rule.batches == [2]


async def test_a_full_queue_refuses_and_takes_again_when_there_is_room(rule, make_worker):
    worker = make_worker(max_queue=10, max_texts=10)
    await hold(rule, worker)
    taken = worker.submit(["text"] * 9)
    with pytest.raises(QueueFullError) as error:
        worker.submit(["text"] * 2)
    assert (error.value.waiting, error.value.limit) == (9, 10)
    last = worker.submit(["text"])
    rule.gate.set()
    await asyncio.gather(taken, last)
    await worker.submit(["text"] * 10)


async def test_cancelled_texts_are_not_computed(rule, make_worker):
    worker = make_worker()
    await hold(rule, worker)
    gone, stays = worker.submit(["text"] * 5), worker.submit(["text"] * 2)
    gone.cancel()
    rule.gate.set()
    await stays
    assert rule.batches == [1, 2]


async def test_cancelled_texts_leave_their_places_at_once(rule, make_worker):
    """Though the worker is busy: else whoever asks and goes would shut out all others."""
    worker = make_worker(max_queue=300, max_texts=256)
    await hold(rule, worker)
    for _ in range(3):
        worker.submit(["text"] * 256).cancel()
        await asyncio.sleep(0)
        assert worker.waiting == 0
    stays = worker.submit(["text"])
    rule.gate.set()
    await stays
    assert rule.batches == [1, 1]


async def test_cancelled_texts_do_not_part_a_batch(rule, make_worker, monkeypatch):
    worker = make_worker(batch_texts=8)
    monkeypatch.setattr(worker, "_drop", lambda _: None)  # it comes late
    await hold(rule, worker)
    jobs = []
    for _ in range(3):
        jobs.append(worker.submit(["text"]))
        worker.submit(["text"] * 8).cancel()
    rule.gate.set()
    await asyncio.gather(*jobs)
    assert rule.batches == [1, 3]
    assert worker.waiting == 0


async def test_cancelling_what_is_being_computed_harms_nobody(rule, make_worker):
    worker = make_worker()
    first = await hold(rule, worker)
    first.cancel()
    rule.gate.set()
    assert (await worker.submit(["good"])).probabilities.shape == (1, 2)


async def test_a_failure_is_told_to_whom_it_concerns_alone(rule, make_worker):
    worker = make_worker()
    rule.error = ValueError("odd text")
    await hold(rule, worker)
    jobs = [worker.submit([text]) for text in ("good", "poison", "other")]
    rule.gate.set()
    good, poison, other = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(poison, ModelError)
    np.testing.assert_allclose([good.probabilities[0, 1], other.probabilities[0, 1]], [0.9, 0.2], atol=1e-6)
    assert worker.is_alive


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt()])
async def test_what_breaks_a_batch_off_is_told_to_it_alone(rule, make_worker, error, caplog):
    worker = make_worker()
    rule.error = error
    await hold(rule, worker)
    broken, waiting = worker.submit(["poison"]), worker.submit(["text"] * 300)
    rule.gate.set()
    found = await asyncio.gather(broken, waiting, return_exceptions=True)
    assert isinstance(found[0], WorkerError)
    assert len(found[1].probabilities) == 300
    assert (worker.is_alive, worker.waiting) == (True, 0)
    assert f"{type(error).__name__}" in caplog.text
    assert (await worker.submit(["good"])).probabilities.shape == (1, 2)


async def test_a_batch_that_is_answered_wrongly_is_told_and_the_next_is_answered(rule, make_worker, monkeypatch):
    worker = make_worker()
    with monkeypatch.context() as patch:
        patch.setattr(np, "split", lambda *_: 1 / 0)
        with pytest.raises(WorkerError):
            await worker.submit(["good"])
    assert (await worker.submit(["good"])).probabilities.shape == (1, 2)


async def test_a_thread_that_can_not_go_on_leaves_nobody_waiting(rule, make_worker, monkeypatch):
    worker = make_worker()
    monkeypatch.setattr(Metrics, "broken_off", lambda *_: 1 / 0)
    rule.error = SystemExit()
    await hold(rule, worker)
    dying, waiting = worker.submit(["poison"]), worker.submit(["text"] * 300)
    rule.gate.set()
    found = await asyncio.gather(dying, waiting, return_exceptions=True)
    assert [type(one) for one in found] == [WorkerError, WorkerError]
    await asyncio.to_thread(worker._thread.join)
    assert not worker.is_alive
    with pytest.raises(WorkerError):
        worker.submit(["text"])


async def test_a_thread_that_something_outside_interrupts_goes_on(rule, make_worker):
    worker = make_worker()
    first = await hold(rule, worker)
    waiting = worker.submit(["text"])
    killed = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(worker._thread.ident), ctypes.py_object(SystemExit)
    )
    assert killed == 1
    rule.gate.set()
    found = await asyncio.gather(first, waiting, return_exceptions=True)
    assert isinstance(found[0], WorkerError)
    assert found[1].probabilities.shape == (1, 2)
    assert worker.is_alive


async def test_stopping_answers_what_was_accepted(rule, make_worker):
    worker = make_worker()
    first = await hold(rule, worker)
    second = worker.submit(["good"])
    stopping = asyncio.create_task(asyncio.to_thread(worker.stop))
    while worker.is_alive:
        await asyncio.sleep(0)
    with pytest.raises(WorkerError):
        worker.submit(["late"])
    rule.gate.set()
    await stopping
    assert (await first).probabilities.shape == (await second).probabilities.shape == (1, 2)
