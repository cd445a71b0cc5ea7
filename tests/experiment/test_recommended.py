"""A student's n-grams as a student of their own, and the choice of the student to use."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import potstill
from potstill.config import PotstillConfig
from potstill.evaluation import Summary
from potstill.experiment.record import Trained
from potstill.experiment.stages import ngram_students
from potstill.predict import Classifier
from potstill.predict.directory import find_student, student_roles
from potstill.report import findings
from potstill.student.saved import load_network

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["The cat sat on the mat.", "", "Whatever did she say to whom about it?"]


@pytest.fixture(scope="module")
def config(tiny_backbone):
    quick = {"epochs": 2}
    small = {"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "ngram_size": 4, "ngram_buckets": 2**10}
    return PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 120},
            "teacher": {"backbone": str(tiny_backbone), "training": quick},
            "student": {**small, "training": quick, "seeds": [0, 1], "max_size": 100},  # so that both kinds are saved
        }
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    return potstill.run(config, tmp_path_factory.mktemp("choice") / "run")


def test_ngram_student_computes_what_its_parent_adds_to_the_recurrent_network(finished):
    _, directory = finished
    for seed in ("seed-0", "seed-1"):
        parent = load_network(directory / "distilled" / seed)
        alone = load_network(directory / "ngram" / seed)
        weights = {name: weight.numpy() for name, weight in alone.state_dict().items()}
        assert weights
        for name, weight in parent.state_dict().items():
            if name.startswith("ngrams."):
                np.testing.assert_array_equal(weights.pop(name), weight.numpy())
        assert not weights
        both = [Classifier.load(directory / role / seed).logits(TEXTS) for role in ("distilled", "ngram")]
        assert all(logits.shape == (3, 2) for logits in both)
        assert not np.allclose(*both)


def test_report_has_a_row_for_the_ngram_student(finished):
    summary, directory = finished
    assert summary.roles == ("teacher", "distilled", "ngram", "baseline")
    alone, whole = summary.of("ngram"), summary.of("distilled")
    assert [one.seed for one in alone] == [0, 1]
    assert alone[0].bytes_on_disk < whole[0].bytes_on_disk
    assert all(one.latency_ms > 0 for one in summary.models)
    report = (directory / "report.md").read_text()
    assert "| N-gram student (2 seeds) |" in report
    assert "**Student to use:** the " in report
    assert "ngram 0" in (directory / "predictions.csv").read_text().splitlines()[0]
    assert Summary.from_json((directory / "summary.json").read_text()) == summary


def test_without_ngrams_there_is_no_such_student(config, tmp_path):
    student = config.student.model_copy(update={"ngram_size": 0, "seeds": (0,)})
    summary, directory = potstill.run(config.model_copy(update={"student": student}), tmp_path / "run")
    assert summary.roles == ("teacher", "distilled", "baseline")
    assert not (directory / "ngram").exists()


def test_ngrams_are_saved_where_they_are_no_worse_or_a_limit_may_need_them(config, finished, tmp_path):
    students = [Trained.find(finished[1] / "distilled" / seed) for seed in ("seed-0", "seed-1")]
    corpus = potstill.load_corpus(config.data)
    free = config.model_copy(update={"student": config.student.model_copy(update={"max_size": None})})
    for number, (given, mcc, count) in enumerate(((free, 2.0, 0), (free, -2.0, 2), (config, 2.0, 2))):
        moved = []
        for one in students:
            place = tmp_path / str(number) / "distilled" / one.directory.name
            shutil.copytree(one.directory, place)
            moved.append(replace(one, directory=place, fit=replace(one.fit, best=one.fit.best | {"mcc": mcc})))
        assert len(ngram_students(given, corpus, moved)) == count
        assert (tmp_path / str(number) / "ngram").exists() == bool(count)


def scored(summary, **scores):
    """Give each role's models a score on the validation split."""
    models = [replace(one, validation_mcc=scores.get(one.role, one.validation_mcc)) for one in summary.models]
    return replace(summary, models=tuple(models), comparisons={})


def with_limits(summary, **limits):
    return replace(summary, config=summary.config | {"student": summary.config["student"] | limits})


def test_student_to_use_is_the_best_on_the_validation_split(finished):
    summary, _ = finished
    assert scored(summary, distilled=0.5, ngram=0.4, baseline=0.9).recommended_role == "distilled"
    better = scored(summary, distilled=0.4, ngram=0.5, baseline=0.9)
    assert better.recommended_role == "ngram"
    assert better.recommended in better.of("ngram")
    assert json.loads(better.to_json())["recommended"] == "ngram"
    assert scored(summary, distilled=0.5, ngram=0.5).recommended_role == "ngram"  # of equals the smaller one
    untaught = scored(replace(summary, models=summary.of("ngram") + summary.of("baseline")), ngram=0.1, baseline=0.2)
    assert untaught.recommended_role == "baseline"


def test_limits_leave_out_students_that_are_too_large_or_too_slow(finished):
    summary, _ = finished
    models = [replace(one, latency_ms=0.1 if one.role == "ngram" else 0.4) for one in summary.models]
    ahead = scored(replace(summary, models=tuple(models)), distilled=0.5, ngram=0.4)
    between = (ahead.of("ngram")[0].bytes_on_disk + ahead.of("distilled")[0].bytes_on_disk) / 2e6
    for limits in ({"max_size": between}, {"max_latency": 0.2}):
        limited = with_limits(ahead, **limits)
        assert limited.recommended_role == "ngram"
        assert any("the distilled student (0.500)" in line and "above" in line for line in findings(limited))
    assert with_limits(ahead, max_size=100.0, max_latency=100.0).recommended_role == "distilled"
    nothing = with_limits(ahead, max_latency=0.01)
    assert nothing.recommended_role == "ngram"
    (problem,) = [line for line in findings(nothing) if "no student is within the limits" in line]
    assert "0.1 ms, above 0.01 ms" in problem


def test_summary_decides_which_student_of_a_run_is_used(finished):
    summary, directory = finished
    assert student_roles(directory)[0] == summary.recommended_role
    assert find_student(directory).parent.name == summary.recommended_role
