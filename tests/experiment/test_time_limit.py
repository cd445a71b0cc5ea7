"""`run` with a time limit: what is kept, what is left out, and what a resumed run remembers."""

import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest

import potstill
from commandline import potstill as command
from potstill.config import PotstillConfig
from potstill.data import UNLABELLED, Examples
from potstill.errors import ArtifactError, ConfigError
from potstill.evaluation import Summary
from potstill.experiment import run as module
from potstill.experiment.labelled import label, label_in_time
from potstill.experiment.plan import Budget, Estimate, Plan
from potstill.experiment.probe import Speed
from potstill.experiment.students import StudentTask, train_students
from potstill.predict.directory import find_student
from potstill.student.rnn import DistilRNN
from potstill.teacher.base import Teacher
from potstill.training.deadline import seconds_left, until

pytestmark = pytest.mark.usefixtures("one_thread", "no_plots")

FAST = Speed(0.1, 1e-5, 1e-5, opening=0.1, tuning=1e-4, reading=1e-4)
SLOW = Speed(0.1, 1e-5, 1e-5, opening=1e3, tuning=10.0, reading=10.0)
LONG = 3600.0
"""Seconds that no test takes."""


@pytest.fixture(scope="module")
def config(tiny_backbone):
    quick = {"epochs": 2}
    return PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 120},
            "teacher": {"backbone": str(tiny_backbone), "training": quick},
            "augment": {"words": 20, "spans": 20},
            "student": {"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "training": quick, "seeds": [0, 1]},
        }
    )


@pytest.fixture(scope="module")
def corpus(config):
    return potstill.load_corpus(config.data)


def weights(directory):
    patterns = ("*/seed-*/*.safetensors", "*/seed-*/model.onnx", "predictions.csv")
    return {path.relative_to(directory): path.read_bytes() for name in patterns for path in directory.glob(name)}


def test_limit_that_is_never_reached_changes_no_model(config, tmp_path, capsys):
    free, place = potstill.run(config, tmp_path / "free")
    assert free.time_limit is None
    error = capsys.readouterr().err
    assert "\nin all, that takes about" in error
    assert "step 1 of 6: teacher 0, about " in error
    assert not (place / "budget.json").exists()
    summary, limited = potstill.run(config, tmp_path / "limited", time_limit=LONG)
    assert weights(limited) == weights(place)
    assert (summary.time_limit.seconds, summary.time_limit.changes) == (LONG, ())
    assert 0 < summary.time_limit.used < LONG
    assert "**Time limit:** 1 h 00 min, of which " in (limited / "report.md").read_text()
    assert Summary.from_json((limited / "summary.json").read_text()) == summary


def test_without_time_for_a_teacher_students_learn_from_the_labels(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "measure_speed", lambda *_: SLOW)
    summary, directory = potstill.run(config, tmp_path / "run", time_limit=LONG)
    assert summary.roles == ("baseline",)
    assert summary.teacher_seed is None
    assert summary.time_limit.changes[0].startswith("no teacher: 50 steps")
    assert set(summary.against_linear) == {0, 1}
    assert json.loads((directory / "summary.json").read_text())["recommended"] == "baseline"
    assert find_student(directory).parent == directory / "baseline"
    report = (directory / "report.md").read_text()
    assert "Teacher that taught the students: none." in report
    assert re.search(
        r"\*\*Did it pay\?\*\* .* the baseline student is .*a longer `--time-limit`, for a teacher", report
    )
    assert "without a teacher" in capsys.readouterr().err
    assert {path.name for path in directory.iterdir() if path.is_dir()} == {"baseline"}


def test_probe_is_repeated_before_a_teacher_is_given_up(config, tmp_path, monkeypatch):
    speeds = iter([SLOW, FAST])
    monkeypatch.setattr(module, "measure_speed", lambda *_: next(speeds))
    monkeypatch.setattr(module, "find_or_finetune", interrupt)
    with pytest.raises(KeyboardInterrupt):
        potstill.run(config, tmp_path / "run", time_limit=LONG)
    assert json.loads((tmp_path / "run" / "budget.json").read_text())["plan"]["with_teacher"]


def test_resumed_run_keeps_its_plan_and_counts_the_time_before(config, tmp_path, monkeypatch):
    """The machine is slow when the run begins, and fast when it goes on."""
    monkeypatch.setattr(module, "measure_speed", lambda *_: SLOW)
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_students", interrupt)
        with pytest.raises(KeyboardInterrupt):
            potstill.run(config, tmp_path / "run", time_limit=LONG)
    file = tmp_path / "run" / "budget.json"
    kept = json.loads(file.read_text())
    assert 0 < kept["used"] < LONG
    file.write_text(json.dumps(kept | {"used": 1000.0}))
    monkeypatch.setattr(module, "measure_speed", lambda *_: FAST)
    summary, _ = potstill.run(config, tmp_path / "run", time_limit=LONG)
    assert summary.roles == ("baseline",)
    assert 1000 < summary.time_limit.used < LONG


def interrupt(*_):
    raise KeyboardInterrupt


def test_another_limit_is_another_run(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure_speed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        potstill.run(config, tmp_path / "run", time_limit=LONG)
    for other in (None, 2 * LONG):
        with pytest.raises(ArtifactError, match=r"other settings or inputs: inputs\.time limit"):
            potstill.run(config, tmp_path / "run", time_limit=other)


def test_run_that_is_out_of_time_still_ends_with_a_student(config, tmp_path, monkeypatch):
    """All is cut as short as it can be, and the report says so."""
    monkeypatch.setattr(module, "measure_speed", lambda *_: FAST)
    monkeypatch.setattr(module, "plan_within", lambda *given: Plan(given[0], Estimate.of(*given[:3])))
    summary, directory = potstill.run(config, tmp_path / "run", time_limit=1e-3)
    steps = {(model.role, model.seed): model.history[-1]["steps"] for model in summary.models}
    assert steps["teacher", 0] == 1
    assert steps["distilled", 0] == steps["baseline", 0] == 1
    changes = " ".join(summary.time_limit.changes)
    assert "1 instead of 8 steps of teacher 0" in changes
    assert ("distilled", 1) not in steps
    assert "no distilled student 1; no baseline student 1" in (directory / "report.md").read_text()


@pytest.mark.parametrize(("executor", "apart"), [("none", True), ("local", False)])
def test_students_of_one_seed_share_the_time_where_one_follows_the_other(
    config, tmp_path, monkeypatch, executor, apart
):
    given = []
    monkeypatch.setattr(module, "measure_speed", lambda *_: replace(FAST, text=1e-3))
    monkeypatch.setattr(module, "train_students", lambda tasks, *_: given.extend(tasks) or interrupt())
    large = {"executor": executor, "workers": 2}
    longer = config.student.training.model_copy(update={"epochs": 200})
    student = config.student.model_copy(update={"training": longer, "seeds": (0,)})
    runtime = config.runtime.model_copy(update=large)
    with pytest.raises(KeyboardInterrupt):
        potstill.run(
            config.model_copy(update={"student": student, "runtime": runtime}), tmp_path / "run", time_limit=60
        )
    assert (given[0].ends < given[1].ends - 1) == apart


def test_budget_is_shared_by_what_is_left(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("potstill.experiment.plan.time.time", lambda: now[0])
    budget = Budget(tmp_path, 60.0, started=90.0)
    assert budget.used == 10
    assert budget.ends(10.0, 100.0) == 100 + 50 / 10
    assert budget.ends(100.0, 100.0) == 90 + 60
    now[0] = 200.0
    assert budget.ends(1.0, 2.0) == 200.0
    assert Budget(tmp_path, None, started=90.0).ends(1.0, 2.0) is None


def test_time_used_is_written_down_while_the_work_goes_on(tmp_path):
    budget = Budget(tmp_path, LONG, started=0.0)
    file = tmp_path / "budget.json"
    with budget.counted():
        first = json.loads(file.read_text())["used"]
    last = json.loads(file.read_text())["used"]
    assert last >= first > 0
    assert Budget(tmp_path, LONG, started=time.time() - 10).used >= last + 10


@pytest.mark.parametrize("limit", [0.0, -5.0])
def test_limit_has_to_be_above_zero(config, tmp_path, limit):
    with pytest.raises(ConfigError, match="time_limit: expected seconds above 0"):
        potstill.run(config, tmp_path / "run", time_limit=limit)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["30", "5", "m", "", "30 min", "1.5", "-3m", "0s", "ten"])
def test_time_without_a_unit_is_refused(given, capsys):
    assert command("run", "builtin", "--time-limit", given) == 2
    error = capsys.readouterr().err
    assert f"expected a time with its unit, such as 90s, 30m or 2h, found {given!r}" in error
    assert ("30m is 30 minutes" in error) == (given == "30")


@pytest.mark.parametrize(
    ("given", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5H", 5400)]
)
def test_times_with_units_are_read(given, seconds, monkeypatch):
    seen = {}

    def run(config, out, *, time_limit, **_):
        seen["limit"] = time_limit
        raise ConfigError(["seen"])

    monkeypatch.setattr(module, "run", run)
    assert command("run", "builtin", "--time-limit", given) == 1
    assert seen["limit"] == seconds


class Slow(Teacher):
    """Takes a second of the test's clock for each text."""

    label_names, key = ("unacceptable", "acceptable"), "slow"

    def __init__(self):
        self.now = 0.0

    def logits(self, examples, *, cached=True, on_batch=lambda _: None):
        self.now += len(examples)
        return np.float32([[len(text), 0] for text in examples.texts])


@pytest.fixture
def slow(monkeypatch):
    teacher = Slow()
    monkeypatch.setattr("potstill.training.deadline.time.time", lambda: teacher.now)
    return teacher


def examples(count):
    texts = tuple("x" * (1 + number % 97) for number in range(count))
    return Examples(texts, np.full(count, UNLABELLED))


@pytest.mark.parametrize("seconds", [300, 1000, 3000])
def test_labelling_stops_in_time_with_what_it_has(slow, seconds):
    texts = examples(5000)
    with until(seconds):
        asked, logits = label_in_time(slow, texts, required=range(4990, 5000))
    assert slow.now <= seconds
    assert len(asked) > seconds - 100
    assert (np.diff(asked) > 0).all()
    assert asked[-10:].tolist() == list(range(4990, 5000))
    assert logits[:, 0].tolist() == [len(texts.texts[index]) for index in asked]


def test_labelling_with_enough_time_labels_all(slow):
    with until(20_000):
        asked, _ = label_in_time(slow, examples(5000))
    assert asked.tolist() == list(range(5000))
    assert slow.now == 5000


def test_training_texts_without_an_answer_teach_by_their_labels(slow, config, corpus):
    many = examples(0).joined(corpus.train.take(list(range(len(corpus.train))) * 10))
    with until(500):
        found = label(config, replace(corpus, train=many), slow)
    assert len(found.texts) == len(found.logits) == len(many)  # the others teach by their labels alone
    assert 256 <= len(many) - found.unanswered < len(many)
    assert len(found.validation_logits) == len(corpus.validation)
    assert set(found.texts.labels) == {0, 1}


def test_language_modelling_takes_half_of_the_time_at_most(config, corpus, tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(DistilRNN, "pretrain", lambda *_: left.append(seconds_left()))
    with until(time.time() + LONG):
        potstill.distill(config, corpus, Slow(), tmp_path)
    assert 0 < left[0] <= LONG / 2


def test_student_is_left_out_where_its_time_is_over(config, corpus, tmp_path):
    tasks = [StudentTask("baseline", seed, tmp_path / str(seed), ends=0.0, seconds=float(seed)) for seed in (0, 1)]
    trained = train_students(tasks, config, corpus, None)
    assert [one.record.seed for one in trained] == [0]
