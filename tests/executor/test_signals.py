import signal
from contextlib import suppress

import pytest

from potstill.executor.signals import Stopped, defer_signals, handle_signals


def send(*numbers):
    for number in numbers:
        signal.raise_signal(number)
    return "it went on"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_work_at_once(number, status):
    with pytest.raises(Stopped) as caught, handle_signals(), suppress(Exception):
        pytest.fail(send(number))
    assert caught.value.status == status
    assert isinstance(caught.value, KeyboardInterrupt)


def test_the_previous_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with handle_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_deferred_signal_waits_until_it_is_asked_for():
    with handle_signals(), suppress(Stopped), defer_signals() as request:
        assert request() is None
        assert send(signal.SIGTERM) == "it went on"
        assert request().number == signal.SIGTERM


def test_a_deferred_signal_that_is_not_asked_for_ends_the_block():
    reached = []

    def never_asks():
        with defer_signals():
            reached.append(send(signal.SIGINT))
        reached.append("behind")

    with pytest.raises(Stopped), handle_signals():
        never_asks()
    assert reached == ["it went on"]


def test_a_second_signal_does_not_wait():
    with pytest.raises(Stopped) as caught, handle_signals(), defer_signals():
        pytest.fail(send(signal.SIGINT, signal.SIGTERM))
    assert caught.value.number == signal.SIGTERM


def test_after_defer_signals_a_signal_ends_the_work_at_once_again():
    with handle_signals():
        with defer_signals():
            pass
        with pytest.raises(Stopped):
            send(signal.SIGINT)


def test_an_error_is_not_hidden_by_a_deferred_signal():
    with pytest.raises(ZeroDivisionError), handle_signals(), defer_signals():
        len(send(signal.SIGINT)) / 0


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handle_signals():
            send(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            with pytest.raises(Stopped):
                send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_handle_signals_nothing_is_deferred():
    before = signal.getsignal(signal.SIGINT)
    with defer_signals() as request:
        assert request() is None
        assert signal.getsignal(signal.SIGINT) is before
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
