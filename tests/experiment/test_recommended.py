"""The n-gram student beside the recurrent one, and the choice of the student to use."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import potstill
from potstill.config import PotstillConfig
from potstill.evaluation import Summary
from potstill.predict.directory import find_student, student_roles
from potstill.report import findings, read_summary
from potstill.store.checksums import verify
from potstill.student.ngram import NgramConfig
from potstill.student.saved import load_network

pytestmark = pytest.mark.usefixtures("one_thread", "no_plots")


@pytest.fixture(scope="module")
def config(tiny_backbone):
    quick = {"epochs": 2}
    small = {"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "ngram_size": 4, "ngram_buckets": 2**10}
    return PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 120},
            "teacher": {"backbone": str(tiny_backbone), "training": quick},
            "student": {**small, "training": quick, "seeds": [0, 1]},
        }
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    return potstill.run(config, tmp_path_factory.mktemp("choice") / "run")


def test_ngram_student_is_distilled_as_the_recurrent_one_is(config, finished, tmp_path):
    _, directory = finished
    corpus, teacher = (
        potstill.load_corpus(config.data),
        potstill.open_model(directory / "teacher" / "seed-0", config.runtime),
    )
    alone = config.model_copy(update={"student": NgramConfig.beside(config.student)})
    taught = potstill.distill(alone, corpus, teacher, tmp_path / "taught", 1)
    untaught = potstill.train(alone, corpus, tmp_path / "untaught", 1)
    found, same, other = (
        load_network(place).state_dict()
        for place in (directory / "ngram" / "seed-1", taught.directory, untaught.directory)
    )
    assert all(torch.equal(weight, same[name]) for name, weight in found.items())
    assert not all(torch.equal(weight, other[name]) for name, weight in found.items())


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


def test_another_limit_only_chooses_again(config, finished, tmp_path, capsys):
    summary, directory = finished
    run = shutil.copytree(directory, tmp_path / "run")
    between = (summary.of("ngram")[0].bytes_on_disk + summary.of("distilled")[0].bytes_on_disk) / 2e6
    limited = config.model_copy(update={"student": config.student.model_copy(update={"max_size": between})})
    capsys.readouterr()
    chosen, same = potstill.run(limited, run)
    printed = capsys.readouterr().err
    assert "with other limits, only the student to use is chosen again" in printed
    assert "epoch" not in printed
    assert (same, chosen.recommended_role, read_summary(run).recommended_role) == (run, "ngram", "ngram")
    potstill.run(limited, run)
    assert "finished before" in capsys.readouterr().err
    verify(run)
