"""How long a run takes, and what of it fits into a time; the speed is made up."""

import dataclasses

import pytest

from potstill.config import PotstillConfig
from potstill.data import load_corpus
from potstill.experiment.plan import Estimate, plan_within, resumed
from potstill.experiment.probe import Speed, measure_speed
from potstill.teacher.base import Teacher
from potstill.teacher.registry import TEACHERS

SPEED = Speed(*(1.0, 0.0002, 0.0001), opening=2.0, tuning=0.02, reading=0.005, lengths=(1.0, 2.0, 0.3), sampling=0.01)
SMALL = {"embedding_size": 8, "hidden_size": 8, "vocab_size": 300}


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(PotstillConfig.build({"data": {"source": "builtin", "max_train_examples": 2000}}).data)


def config(preset="balanced", **more):
    return PotstillConfig.build({"preset": preset, "runtime": {"executor": "none"}} | more)


def test_estimate_adds_up_the_work(corpus):
    found = Estimate.of(config(), corpus, SPEED)
    texts, validation, test = (len(part) for part in (corpus.train, corpus.validation, corpus.test))
    epochs = 4  # 200 steps, of 57 an epoch
    assert found.tuning == pytest.approx(2.0 + epochs * (texts * 0.02 + validation * 0.005))
    assert found.scoring == pytest.approx(test * 2 * 0.005)
    assert found.labelling == pytest.approx((texts + validation + 0.3 * 40_000) * 0.005)
    assert found.sampling == 0
    longer = found.distilled - found.baseline
    assert longer == pytest.approx(1.0 + 8 * 40_000 * 0.0001)
    assert 0 < found.ngram < found.distilled
    assert found.students == pytest.approx(3 * (found.distilled + found.ngram + found.baseline))
    assert found.total == pytest.approx(found.tuning + found.scoring + found.after_teachers)


@pytest.mark.parametrize(
    ("changes", "which"),
    [
        ({"teacher": {"seeds": [0, 1]}}, ("teachers",)),
        ({"teacher": {"training": {"epochs": 9}}}, ("tuning",)),
        ({"augment": {"words": 40_000}}, ("labelling", "distilled", "ngram")),
        ({"augment": {"sampled": 500}}, ("sampling", "labelling", "distilled", "ngram")),
        ({"student": {"training": {"epochs": 20}}}, ("distilled", "ngram", "baseline")),
        ({"student": {"pretraining": {"epochs": 2}}}, ("distilled", "ngram")),
        ({"baseline": {"epochs": 30}}, ("baseline",)),
        ({"teacher": {"seeds": [0, 1]}, "distillation": {"teachers": "average"}}, ("teachers", "labelling")),
    ],
)
def test_more_work_takes_longer(corpus, changes, which):
    before, after = (Estimate.of(one, corpus, SPEED) for one in (config(), config(**changes)))
    assert {name for name, value in vars(after).items() if value > getattr(before, name)} == set(which)
    assert after.total > before.total


def test_file_of_texts_counts_by_its_size(corpus, tmp_path):
    file = tmp_path / "more.txt"
    file.write_text("\n".join(corpus.train.texts[:300]))
    few, more = (Estimate.of(config(augment=one), corpus, SPEED) for one in ({}, {"files": [str(file)]}))
    assert more.labelling - few.labelling == pytest.approx(300 * 0.005, rel=0.1)


def test_all_is_kept_where_it_fits(corpus):
    whole = Estimate.of(config(), corpus, SPEED)
    plan = plan_within(config(), corpus, SPEED, whole.total)
    assert (plan.config, plan.changes, plan.settings, plan.with_teacher) == (config(), (), {}, True)


def worth(plan):
    """What a plan holds: more is better, what comes first most."""
    augment, student = plan.config.augment, plan.config.student
    training = plan.config.teacher.training
    return (
        plan.with_teacher,
        max(training.epochs, -(-training.min_steps // 57)),
        len(student.seeds),
        augment.words + augment.spans,
        len(plan.config.teacher.seeds),
        augment.sampled,
    )


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_plan_fits_any_time_and_is_the_richer_the_more_there_is(corpus, preset):
    asked = config(preset)
    whole = Estimate.of(asked, corpus, SPEED).total
    plans = [plan_within(asked, corpus, SPEED, whole * (share / 40)) for share in range(1, 41)]
    for share, plan in enumerate(plans, start=1):
        smallest = not plan.with_teacher and len(plan.config.student.seeds) == 1
        assert plan.estimate.total <= whole * (share / 40) or smallest
        assert bool(plan.changes) == (share < 40)
    values = [worth(plan) for plan in plans]
    assert values == sorted(values)
    assert not plans[0].with_teacher
    assert len(set(values)) > 3


def test_what_is_left_out_is_said(corpus):
    whole = Estimate.of(config(), corpus, SPEED).total
    plan = plan_within(config(), corpus, SPEED, 0.9 * whole)
    assert plan.changes == ("10,000 instead of 20,000 words", "10,000 instead of 20,000 spans")
    plan = plan_within(config(), corpus, SPEED, 0.5 * whole)
    assert plan.changes[-2:] == ("1 instead of 3 student seeds", "3 instead of 4 teacher epochs")
    plan = plan_within(config(), corpus, SPEED, 45)
    assert plan.changes[0].startswith("no teacher: 50 steps of its training do not fit")


def test_part_of_an_epoch_is_better_than_no_teacher():
    """Of very many texts an epoch does not fit: some hundred steps do."""
    corpus = load_corpus(PotstillConfig.build({"data": {"source": "builtin"}}).data)
    many = dataclasses.replace(corpus, train=corpus.train.take(list(range(len(corpus.train))) * 5))
    slow = dataclasses.replace(SPEED, tuning=0.5, reading=0.001, text=0.00001)
    plan = plan_within(config(), many, slow, 3000)
    assert plan.with_teacher
    assert plan.estimate.total == pytest.approx(3000)
    assert plan.changes[-1].endswith("steps of the teacher")
    kept = {name: getattr(plan, name) for name in ("settings", "with_teacher", "changes")}
    assert resumed(config(), many, slow, 3000, kept) == plan


def test_pairs_have_no_words_and_spans_to_reduce(corpus):
    pairs = dataclasses.replace(
        corpus,
        **{
            part: dataclasses.replace(getattr(corpus, part), pairs=getattr(corpus, part).texts)
            for part in ("train", "validation", "test")
        },
    )
    whole = Estimate.of(config(), pairs, SPEED)
    plan = plan_within(config(), pairs, SPEED, 0.9 * whole.total)
    assert plan.changes == ("1 instead of 3 student seeds",)


@pytest.mark.parametrize("student", [SMALL | {"ngram_size": 4}, {"kind": "ngram", "ngram_buckets": 1024}])
def test_probe_measures_every_speed_without_a_word(tiny_backbone, capsys, student):
    small = PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 60},
            "teacher": {"backbone": str(tiny_backbone)},
            "student": student,
        }
    )
    speed = measure_speed(small, load_corpus(small.data))
    known = {name: value for name, value in vars(speed).items() if name not in ("sampling", "linear", "lengths")}
    assert min(*known.values(), *speed.lengths) > 0
    assert capsys.readouterr().err == ""


def test_probe_times_sampling_where_it_is_wanted(model_directory):
    asked = PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 60},
            "teacher": {"backbone": str(model_directory("gpt2"))},
            "augment": {"sampled": 10},
            "student": SMALL,
        }
    )
    assert measure_speed(asked, load_corpus(asked.data)).sampling > 0


class Other(Teacher):
    """A kind of its own, with no settings but a teacher's."""


def test_of_other_kinds_of_teachers_nothing_is_known_and_nothing_cut(corpus, monkeypatch):
    monkeypatch.setitem(TEACHERS, "other", Other)
    asked = PotstillConfig.build({"teacher": {"kind": "other"}, "student": SMALL})
    speed = measure_speed(asked, corpus)
    assert (speed.tuning, speed.reading) == (0, 0)
    assert speed.text > 0
    estimate = Estimate.of(asked, corpus, speed)
    assert (estimate.tuning, estimate.labelling, estimate.teachers) == (0, 0, 1)
    assert plan_within(asked, corpus, speed, 1e6).changes == ()
