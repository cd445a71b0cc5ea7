import threading

from potstill.training import memory
from potstill.training.memory import kept_memory


def test_the_settings_hold_until_the_last_one_leaves(monkeypatch):
    told = []
    monkeypatch.setattr(memory, "_limit", told.append)
    monkeypatch.setattr(memory, "_give_back", lambda: told.append("given back"))
    entered, leave = threading.Event(), threading.Event()

    def other():
        with kept_memory():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with kept_memory():
        thread.start()
        entered.wait()
        with kept_memory():
            pass
    until_now = list(told)
    leave.set()
    thread.join()
    assert until_now == [memory._KEPT]
    assert told == [memory._KEPT, 2 * memory._LARGEST_MMAP_THRESHOLD, "given back"]


def test_they_are_left_after_an_error(monkeypatch):
    told = []
    monkeypatch.setattr(memory, "_limit", told.append)
    try:
        with kept_memory():
            raise ValueError
    except ValueError:
        pass
    assert len(told) == 2


def test_without_glibc_nothing_is_asked_of_it(monkeypatch):
    monkeypatch.setattr(memory, "_has_glibc", lambda: False)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    with kept_memory():
        pass
