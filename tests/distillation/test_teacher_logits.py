from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from potstill.data import Examples
from potstill.distillation.teacher_logits import averaged, judgement, teacher_logits


@dataclass
class CountingTeacher:
    """Judges a text by its length and remembers what it was asked."""

    name: str = "first"
    bias: float = 0.0
    asked: list[str] = field(default_factory=list)
    manifest: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(label_names=("no", "yes")))

    def key(self):
        return self.name

    def logits(self, examples, on_batch):
        self.asked += examples.texts
        on_batch(len(examples))
        pairs = examples.pairs or [""] * len(examples)
        scores = [[len(text) + self.bias, len(pair)] for text, pair in zip(examples.texts, pairs, strict=True)]
        return torch.tensor(scores, dtype=torch.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_examples(*texts: str, pairs: tuple[str, ...] | None = None) -> Examples:
    return Examples(texts, np.zeros(len(texts), dtype=np.int64), pairs)


def test_every_text_is_judged_once_and_answers_stand_in_order():
    teacher = CountingTeacher()
    first = teacher_logits(teacher, make_examples("aa", "b", "aa", "cccc"))
    assert first[:, 0].tolist() == [2, 1, 2, 4]
    assert first.dtype == torch.float32
    assert teacher.asked == ["aa", "b", "cccc"]
    second = teacher_logits(teacher, make_examples("b", "ddd", "cccc"))
    assert second[:, 0].tolist() == [1, 3, 4]
    assert teacher.asked == ["aa", "b", "cccc", "ddd"]


def test_another_process_finds_the_answers():
    examples = make_examples("aa", "b")
    expected = teacher_logits(CountingTeacher(), examples)
    later = CountingTeacher()
    assert torch.equal(teacher_logits(later, examples), expected)
    assert later.asked == []


def test_an_interruption_loses_no_more_than_the_texts_that_are_judged_together(monkeypatch):
    monkeypatch.setattr("potstill.distillation.teacher_logits._CHUNK", 2)

    class Interrupted(CountingTeacher):
        def logits(self, examples, on_batch):
            if self.asked:
                raise KeyboardInterrupt
            return super().logits(examples, on_batch)

    examples = make_examples("a", "bb", "ccc", "a", "dddd", "eeeee")
    with pytest.raises(KeyboardInterrupt):
        teacher_logits(Interrupted(), examples)
    later = CountingTeacher()
    assert teacher_logits(later, examples)[:, 0].tolist() == [1, 2, 3, 1, 4, 5]
    assert later.asked == ["ccc", "dddd", "eeeee"]


def test_two_processes_that_ask_at_once_keep_each_others_answers():
    class Overtaken(CountingTeacher):
        def logits(self, examples, on_batch):
            teacher_logits(CountingTeacher(), make_examples("ccc", "dddd"))  # as another process
            return super().logits(examples, on_batch)

    teacher_logits(Overtaken(), make_examples("a", "bb"))
    later = CountingTeacher()
    assert teacher_logits(later, make_examples("a", "bb", "ccc", "dddd"))[:, 0].tolist() == [1, 2, 3, 4]
    assert later.asked == []


def test_a_changed_teacher_never_gets_the_old_ones_answers():
    examples = make_examples("aa", "b")
    teacher_logits(CountingTeacher(), examples)
    changed = CountingTeacher(name="second", bias=10)
    assert teacher_logits(changed, examples)[:, 0].tolist() == [12, 11]


@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: b"", lambda content: content[::-1]])
def test_a_damaged_cache_is_made_again(cache, damage):
    examples = make_examples("aa", "b")
    expected = teacher_logits(CountingTeacher(), examples)
    file = cache / "logits" / CountingTeacher().key()
    file.write_bytes(damage(file.read_bytes()))
    for asked in (["aa", "b"], []):
        teacher = CountingTeacher()
        assert torch.equal(teacher_logits(teacher, examples), expected)
        assert teacher.asked == asked


def test_several_teachers_judge_by_the_mean_of_their_probabilities():
    sure, unsure = torch.tensor([[9.0, -9.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.5], [4.0, 0.0]])
    expected = (sure.softmax(dim=1) + unsure.softmax(dim=1)) / 2
    torch.testing.assert_close(averaged([sure, unsure]).softmax(dim=1), expected)
    torch.testing.assert_close(averaged([sure, sure]), sure)  # for the squared distance, which sees a common summand
    teachers, examples = [CountingTeacher(), CountingTeacher("second", bias=3.0)], make_examples("aa", "b")
    assert torch.equal(judgement(teachers[:1], examples), teacher_logits(teachers[0], examples))
    both = averaged([teacher_logits(teacher, examples) for teacher in teachers])
    assert torch.equal(judgement(teachers, examples), both)


@pytest.mark.parametrize("judges", [1, 2])
def test_fewer_judges_than_teachers_share_the_texts_and_a_text_keeps_its_own(judges):
    teachers = [CountingTeacher(str(number), bias=100.0 * number) for number in range(3)]
    texts = [f"text {number}" for number in range(300)]
    said = judgement(teachers, make_examples(*texts), judges)
    assert all(70 * judges < len(teacher.asked) < 130 * judges for teacher in teachers)
    assert Counter(text for teacher in teachers for text in teacher.asked) == dict.fromkeys(texts, judges)
    for text, logits in zip(texts, said, strict=True):
        asked = [teacher_logits(teacher, make_examples(text))[0] for teacher in teachers if text in teacher.asked]
        torch.testing.assert_close(logits, averaged([one.unsqueeze(0) for one in asked])[0])
    counts = [len(teacher.asked) for teacher in teachers]
    assert torch.equal(judgement(teachers, make_examples(*texts[::-7]), judges), said.flip(0)[::7])
    assert [len(teacher.asked) for teacher in teachers] == counts


def test_fewer_texts_than_teachers_can_be_shared_and_more_judges_are_all():
    teachers = [CountingTeacher(str(number), bias=100.0 * number) for number in range(3)]
    assert judgement(teachers, make_examples("a"), 1).shape == (1, 2)
    assert sorted(len(teacher.asked) for teacher in teachers) == [0, 0, 1]
    assert torch.equal(judgement(teachers, make_examples("b"), 4), judgement(teachers, make_examples("b")))


def test_pairs_and_texts_do_not_run_into_each_other():
    teacher = CountingTeacher()
    paired = make_examples("a", "a", "a\0b", "\ud800", pairs=("b\0c", "", "c", "x"))
    assert teacher_logits(teacher, paired).tolist() == [[1, 3], [1, 0], [3, 1], [1, 1]]
    assert teacher_logits(teacher, make_examples("a")).tolist() == [[1, 0]]
    assert len(teacher.asked) == 5
