"""The cache of logits, and ensembles."""

import numpy as np
import pytest
from scipy.special import softmax

from potstill.data import Examples
from potstill.store.cache import read_arrays
from potstill.teacher import cache as module
from potstill.teacher.base import Teacher
from potstill.teacher.cache import CachedTeacher
from potstill.teacher.ensemble import Ensemble, average_logits, together


class CountingTeacher(Teacher):
    """Answers with the lengths of a text and its pair, and keeps what it was asked."""

    label_names = ("no", "yes")

    def __init__(self, name="first", bias=0.0):
        self.name, self.bias, self.asked = name, bias, []

    @property
    def key(self):
        return self.name

    def logits(self, examples, *, cached=True, on_batch=lambda _: None):
        self.asked += examples.texts
        on_batch(len(examples))
        pairs = examples.pairs or [""] * len(examples)
        lengths = [[len(text) + self.bias, len(pair)] for text, pair in zip(examples.texts, pairs, strict=True)]
        return np.array(lengths, dtype=np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def examples_of(*texts, pairs=None):
    return Examples(texts, np.zeros(len(texts), dtype=np.int64), pairs)


def test_each_text_is_asked_once_and_answers_are_in_order():
    teacher = CountingTeacher()
    first = CachedTeacher(teacher).logits(examples_of("aa", "b", "aa", "cccc"))
    assert first[:, 0].tolist() == [2, 1, 2, 4]
    assert first.dtype == np.float32
    assert teacher.asked == ["aa", "b", "cccc"]
    later = CountingTeacher()  # as in another process
    assert CachedTeacher(later).logits(examples_of("b", "ddd", "cccc"))[:, 0].tolist() == [1, 3, 4]
    assert later.asked == ["ddd"]


def test_uncached_texts_are_not_written(cache):
    teacher = CountingTeacher()
    for _ in range(2):
        assert CachedTeacher(teacher).logits(examples_of("aa"), cached=False)[:, 0].tolist() == [2]
    assert teacher.asked == ["aa", "aa"]
    assert not (cache / "logits").exists()


def test_interruption_loses_at_most_one_chunk(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2)

    class Interrupted(CountingTeacher):
        def logits(self, examples, **named):
            if self.asked:
                raise KeyboardInterrupt
            return super().logits(examples, **named)

    examples = examples_of("a", "bb", "ccc", "a", "dddd", "eeeee")
    with pytest.raises(KeyboardInterrupt):
        CachedTeacher(Interrupted()).logits(examples)
    later = CountingTeacher()
    assert CachedTeacher(later).logits(examples)[:, 0].tolist() == [1, 2, 3, 1, 4, 5]
    assert later.asked == ["ccc", "dddd", "eeeee"]


def test_shards_are_written_once_and_a_damaged_one_alone_is_made_anew(cache, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2)
    examples = examples_of("a", "bb", "ccc", "dddd", "eeeee")
    expected = CachedTeacher(CountingTeacher()).logits(examples)
    files = {file: file.stat().st_mtime_ns for file in (cache / "logits").iterdir()}
    assert len(files) == 3
    CachedTeacher(CountingTeacher()).logits(examples_of("ffffff", "a"))
    assert len([*(cache / "logits").iterdir()]) == 4
    damaged = next(file for file in files if len(read_arrays(file)["keys"]) == 1)
    damaged.write_bytes(b"")
    teacher = CountingTeacher()
    assert np.array_equal(CachedTeacher(teacher).logits(examples), expected)
    assert teacher.asked == ["eeeee"]
    assert all(file.stat().st_mtime_ns == written for file, written in files.items() if file != damaged)


def test_two_processes_keep_each_others_answers():
    class Overtaken(CountingTeacher):
        def logits(self, examples, **named):
            CachedTeacher(CountingTeacher()).logits(examples_of("ccc", "dddd"))  # as another process
            return super().logits(examples, **named)

    CachedTeacher(Overtaken()).logits(examples_of("a", "bb"))
    later = CountingTeacher()
    assert CachedTeacher(later).logits(examples_of("a", "bb", "ccc", "dddd"))[:, 0].tolist() == [1, 2, 3, 4]
    assert later.asked == []


def test_changed_teacher_does_not_get_older_answers():
    CachedTeacher(CountingTeacher()).logits(examples_of("aa", "b"))
    changed = CachedTeacher(CountingTeacher("second", bias=10))
    assert changed.logits(examples_of("aa", "b"))[:, 0].tolist() == [12, 11]


@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: b"", lambda content: content[::-1]])
def test_damaged_cache_is_made_anew(cache, damage):
    examples = examples_of("aa", "b")
    expected = CachedTeacher(CountingTeacher()).logits(examples)
    (file,) = (cache / "logits").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    for asked in (["aa", "b"], []):
        teacher = CountingTeacher()
        assert np.array_equal(CachedTeacher(teacher).logits(examples), expected)
        assert teacher.asked == asked


def test_pairs_and_texts_are_kept_apart():
    teacher = CountingTeacher()
    paired = examples_of("a", "a", "a\0b", "\ud800", pairs=("b\0c", "", "c", "x"))
    assert CachedTeacher(teacher).logits(paired).tolist() == [[1, 3], [1, 0], [3, 1], [1, 1]]
    assert CachedTeacher(teacher).logits(examples_of("a")).tolist() == [[1, 0]]
    assert len(teacher.asked) == 5


def test_average_logits_give_the_mean_probability():
    sure, unsure = np.float32([[9, -9], [0, 1]]), np.float32([[0, 0.5], [4, 0]])
    expected = (softmax(sure, axis=1) + softmax(unsure, axis=1)) / 2
    found = average_logits([sure, unsure])
    assert found.dtype == np.float32
    np.testing.assert_allclose(softmax(found, axis=1), expected, rtol=1e-5)
    np.testing.assert_allclose(average_logits([sure, sure]), sure, rtol=1e-5)  # squared distances see a constant


def test_ensemble_averages_cached_teachers():
    first, second = CountingTeacher(), CountingTeacher("second", bias=3.0)
    ensemble, examples = together([first, second]), examples_of("aa", "b", "aa")
    expected = average_logits([teacher.logits(examples) for teacher in (first, second)])
    for _ in range(2):
        np.testing.assert_array_equal(ensemble.logits(examples), expected)
    assert first.asked == second.asked == ["aa", "b", "aa", "aa", "b"]
    assert isinstance(ensemble, Ensemble)
    assert ensemble.label_names == ("no", "yes")
    assert isinstance(together([first]), CachedTeacher)
    assert len({ensemble.key, together([second, first]).key, first.key, second.key}) == 4
