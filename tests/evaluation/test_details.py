import numpy as np
import pytest

from potstill.data import Examples
from potstill.errors import ArtifactError
from potstill.evaluation import McNemar
from potstill.evaluation.details import SHOWN_CASES, Details, LearningCurve, cases, confusion, risk_coverage


def test_risk_coverage_counts_errors_among_the_surest():
    confidences, right = np.array([0.6, 0.9, 0.7, 0.9, 0.5]), np.array([False, True, True, False, True])
    # 0.9 twice with one error: no threshold separates them.
    assert risk_coverage(confidences, right) == ((0.4, 1 / 2), (0.6, 1 / 3), (0.8, 2 / 4), (1.0, 2 / 5))
    assert risk_coverage(np.full(3, 0.5), np.array([True, False, True])) == ((1.0, pytest.approx(1 / 3)),)


def test_risk_coverage_of_many_texts_is_short_and_ends_with_all():
    generator = np.random.default_rng(0)
    right = generator.random(5000) < 0.9
    points = risk_coverage(generator.random(5000), right)
    assert len(points) <= 200
    assert points[-1] == (1.0, pytest.approx(1 - right.mean()))
    assert [share for share, _ in points] == sorted({share for share, _ in points})


def test_confusion_counts_what_occurs():
    assert confusion(np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0]), 3) == (
        *((0, 0, 1), (0, 1, 1)),
        *((2, 0, 1), (2, 2, 2)),
    )


def test_cases_hold_beginnings_without_control_characters():
    texts = ("a" * 100_000, "ring\x07 \u202eback \ud800", *(str(number) for number in range(40)))
    examples = Examples(texts, np.zeros(len(texts), dtype=np.int64), ("second\x00",) * len(texts))
    probabilities = np.tile([0.25, 0.75], (len(texts), 1))
    answers = np.ones(len(texts), dtype=np.int64)
    found = cases(examples, range(len(texts)), ("no", "yes"), probabilities, answers, answers)
    assert len(found) == SHOWN_CASES
    assert len(found[0].text) < 1000
    assert found[1].text == "ring\\u0007 \\u202eback \\ud800"
    assert found[1].pair == "second\\u0000"
    assert (found[2].label, found[2].answer, found[2].teacher) == ("no", "yes", "yes")
    assert (found[2].label_probability, found[2].answer_probability) == (0.25, 0.75)
    details = Details("distilled", 0, True, ((0, 1, 42),), ((1.0, 1.0),), found, found, "", None)
    assert Details.from_json(details.to_json()) == details


def test_details_are_read_as_written():
    curve = LearningCurve(((10, 0.5), (20, 0.75)), McNemar(3, 1, 0.625))
    details = Details("baseline", 3, False, (), ((1.0, 0.0),), (), (), "none", curve)
    assert Details.from_json(details.to_json()) == details
    with pytest.raises(ArtifactError, match="no details of a run"):
        Details.from_json('{"role": "baseline"}')
