import signal
from contextlib import suppress

import pytest

from potstill.interruption import Stopped, postponed, stoppable


def send(*numbers):
    for number in numbers:
        signal.raise_signal(number)
    return "it went on"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_at_once_what_keeps_nothing(number, status):
    with pytest.raises(Stopped) as caught, stoppable():
        pytest.fail(send(number))
    assert caught.value.status == status


def test_it_passes_by_whoever_catches_errors():
    with pytest.raises(KeyboardInterrupt), stoppable(), suppress(Exception):
        send(signal.SIGTERM)


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stoppable():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_postponed_it_waits_to_be_asked_for():
    with stoppable(), suppress(Stopped), postponed() as request:
        assert request() is None
        assert send(signal.SIGTERM) == "it went on"
        assert request().number == signal.SIGTERM


def test_who_never_asks_is_ended_afterwards():
    reached = []

    def never_asks():
        with postponed():
            reached.append(send(signal.SIGINT))
        reached.append("behind")

    with pytest.raises(Stopped), stoppable():
        never_asks()
    assert reached == ["it went on"]


def test_the_second_one_does_not_wait():
    with pytest.raises(Stopped) as caught, stoppable(), postponed():
        pytest.fail(send(signal.SIGINT, signal.SIGTERM))
    assert caught.value.number == signal.SIGTERM


def test_behind_what_was_postponed_a_signal_ends_at_once_again():
    with stoppable():
        with postponed():
            pass
        with pytest.raises(Stopped):
            send(signal.SIGINT)


def test_an_error_is_not_hidden_by_a_request():
    with pytest.raises(ZeroDivisionError), stoppable(), postponed():
        len(send(signal.SIGINT)) / 0


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            send(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            with pytest.raises(Stopped):
                send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_a_handler_nothing_is_postponed():
    before = signal.getsignal(signal.SIGINT)
    with postponed() as request:
        assert request() is None
        assert signal.getsignal(signal.SIGINT) is before
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
