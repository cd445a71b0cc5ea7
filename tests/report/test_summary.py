"""`potstill.evaluation.results`; here because it shares the made-up runs with the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from potstill.data import Corpus, Examples
from potstill.errors import ArtifactError
from potstill.evaluation import DataSummary, Summary

MakeSummary = Callable[..., Summary]


def test_summary_json_holds_every_role_over_its_seeds(make_summary: MakeSummary) -> None:
    summary = make_summary(seeds=(0, 1, 2))
    values = [model.metrics.mcc for model in summary.of("distilled")]

    aggregate = json.loads(summary.to_json())["aggregate"]

    assert list(aggregate) == ["teacher", "distilled", "baseline", "majority"]
    assert aggregate["distilled"]["mcc"] == {"mean": np.mean(values), "std": np.std(values, ddof=1), "seeds": values}
    assert aggregate["teacher"]["accuracy"]["std"] == 0.0
    assert aggregate["teacher"]["trainable_parameters"] < aggregate["teacher"]["parameters"]
    assert aggregate["majority"]["mcc"] == {"mean": 0.0, "std": 0.0, "seeds": [0.0]}
    assert aggregate["majority"]["accuracy"]["mean"] == 365 / 527
    assert aggregate["majority"]["parameters"] == 0
    errors = [model.calibration.ece for model in summary.of("distilled")]
    assert aggregate["distilled"]["ece"] == {"mean": np.mean(errors), "std": np.std(errors, ddof=1), "seeds": errors}
    assert aggregate["majority"]["ece"] is None


def test_summary_json_holds_verdicts_and_paired_test(make_summary: MakeSummary) -> None:
    content = json.loads(make_summary((0.2, 0.3, 1), seeds=(0, 1)).to_json())

    verdicts = {(item["role"], item["seed"]): item["verdict"] for item in content["verdicts"]}
    assert verdicts["baseline", 10] == 'no better than always answering "acceptable"'
    assert verdicts["teacher", 0] is None
    assert content["paired_test"]["seeds"] == 2


def test_data_summary_counts_each_split() -> None:
    parts = ([0, 0, 0, 1, 0, 0], [0, 0, 0, 1], [1, 1, 0])
    train, validation, test = (Examples(tuple("abcdef"[: len(part)]), np.array(part)) for part in parts)

    found = DataSummary.of(Corpus("toy", "made up", ("no", "yes"), train, validation, test))

    assert (found.train, found.validation, found.test) == (6, 4, 3)
    assert found.majority_label == "yes"
    assert found.majority.accuracy == pytest.approx(2 / 3)
    assert found.validation_majority_accuracy == 0.75


def test_paired_test_uses_common_seeds(make_summary: MakeSummary) -> None:
    summary = make_summary(seeds=(0, 1, 2))
    models = tuple(model for model in summary.models if (model.role, model.seed) != ("baseline", 11))

    found = replace(summary, models=models).paired_test

    assert found is not None
    assert found.seeds == 2


@pytest.mark.parametrize("text", ["", "{}", '{"data": 3}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="no summary"):
        Summary.from_json(text)
