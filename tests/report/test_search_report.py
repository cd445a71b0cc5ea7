"""The report of a search: the table of trials, and what the text says of them."""

import dataclasses
from pathlib import Path

from potstill.report.search import SearchResult, Trial, best_first, search_text, settings_words, write_search

ALPHA, TEMPERATURE = "distillation.alpha", "distillation.temperature"
SPACE = {
    ALPHA: {"low": 0.0, "high": 1.0},
    TEMPERATURE: {"low": 1.0, "high": 8.0, "log": True},
    "student.hidden_size": {"low": 64, "high": 256, "step": 64},
    "student.cell": {"choices": ["gru", "lstm"]},
    "student.dropout": 0.2,
}


def trial(number, alpha, temperature, mcc, *, hidden_size=64, cell="gru"):
    tried = {ALPHA: alpha, TEMPERATURE: temperature, "student.cell": cell, "student.hidden_size": hidden_size}
    outcome = "stopped" if mcc is None else "finished"
    return Trial(number, outcome, tried | {"student.dropout": 0.2}, mcc, 1_234_567, 3, 61.0)


TRIALS = (
    trial(1, 0.5, 2.0, 0.2),
    trial(2, 0.1, 7.5, None),
    trial(3, 0.8, 3.1, 0.31, hidden_size=128, cell="lstm"),
    trial(4, 0.3, 1.2, 0.31),
)
RESULT = SearchResult("rated", 855, 0, SPACE, TRIALS, "potstill search --out s")


def test_best_is_the_first_of_equal_finished_trials():
    assert [one.number for one in best_first(TRIALS)] == [3, 4, 1]
    assert RESULT.best.number == 3
    assert dataclasses.replace(RESULT, trials=(TRIALS[1],)).best is None


def test_table_and_report_are_written(tmp_path):
    write_search(RESULT, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"trials.csv", "search.md"}
    head, first, second, *_ = (tmp_path / "trials.csv").read_text(encoding="utf-8").splitlines()
    assert head.startswith("trial,outcome,mcc,parameters,epochs,seconds,distillation.alpha,")
    assert first.startswith("1,finished,0.2,1234567,3,61.0,0.5,2.0,")
    assert second.startswith("2,stopped,,1234567,3,61.0,0.1,7.5,")


def test_report_says_what_was_searched_and_found():
    result = dataclasses.replace(RESULT, unlabelled=1200)
    text = search_text(result, result.best, Path("runs/search/best.yaml"))
    assert "4 trials (3 finished, 1 stopped)" in text
    assert "1,200 texts of an unlabelled set" in text
    assert "the 855 texts of the validation split" in text
    assert "Trial 3 has MCC 0.310 and 1.2M parameters." in text
    assert "| `student.hidden_size` | 128 | 64 to 256 in steps of 64 |" in text
    assert "| `distillation.temperature` | 3.1 | 1 to 8, by order of magnitude |" in text
    assert "| `student.cell` | lstm | gru, lstm |" in text
    assert "| `student.dropout` | 0.2 | fixed |" in text
    assert "| 3 | 0.310 | 1.2M | 0.8 | 3.1 | lstm | 128 | 1 min 01 s |" in text
    assert "\n| 2 |" not in text  # it was stopped
    assert "potstill distill --config runs/search/best.yaml --teacher DIR --unlabelled-set PATH" in text
    assert "potstill search --out s" in text


def test_settings_are_named_shortly_where_that_is_clear():
    assert settings_words({ALPHA: 0.123456, "student.bidirectional": True}) == "alpha 0.123, bidirectional true"
    names = {"student.training.learning_rate": 1e-3, "student.pretraining.learning_rate": None}
    expected = "student.training.learning_rate 0.001, student.pretraining.learning_rate none"
    assert settings_words(names) == expected
