from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from potstill.evaluation import EnsembleResult, ModelResult, Summary
from potstill.evaluation.metrics import ClassScores
from potstill.report import is_reported, write_report
from potstill.report.findings import findings
from potstill.report.markdown import report_text
from potstill.report.plots import comparison, draw_plots, loss_curves, reliability
from potstill.report.tables import ROLE_NAMES, model_table, percent, seed_table

MakeSummary = Callable[..., Summary]

NO_BETTER = 'no better than always answering "acceptable"'
CURVES = {
    role: {f"{role}_{kind}.png" for kind in ("training_loss", "validation_loss", "accuracy")}
    for role in ("teacher", "distilled", "baseline")
}
PLOTS = {"comparison.png", "reliability.png"}.union(*CURVES.values())


def with_models(summary: Summary, role: str, **fields: Any) -> Summary:
    """Change fields of a role's models."""
    models = (replace(model, **fields) if model.role == role else model for model in summary.models)
    return replace(summary, models=tuple(models))


def said(summary: Summary) -> str:
    return "\n".join(findings(summary))


def problems(summary: Summary) -> list[str]:
    """Return what the findings call problems, which have to come first."""
    lines = [line.startswith("**Problem") for line in findings(summary)]
    assert lines == sorted(lines, reverse=True)
    return findings(summary)[: sum(lines)]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_report_is_complete_and_its_links_lead_somewhere(make_summary: MakeSummary, tmp_path: Path) -> None:
    summary = make_summary(seeds=(0, 1, 2), epochs=4, linear=0.3)
    models = (replace(model, history=model.history[: 4 - model.seed % 2]) for model in summary.models)
    summary = replace(summary, models=tuple(models))  # seeds stop at different epochs
    assert not is_reported(tmp_path)

    write_report(summary, tmp_path)

    assert is_reported(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert {Path(link).name for link in links} == PLOTS
    for link in links:
        assert imread(tmp_path / link)[..., :3].std() > 0.01  # an image, and not an empty one
    assert Summary.from_json((tmp_path / "summary.json").read_text(encoding="utf-8")) == summary
    for words in (summary.command, "69.3 %", "134.5M", "2.4M (1.8 %)", "McNemar", "paired t-test", "torch: 2.8.0"):
        assert words in text
    for model in summary.models:
        assert f"**{ROLE_NAMES[model.role]}:** {model.description}" in text


def test_plots_of_one_epoch_are_drawn_and_names_are_not_read_as_formulas(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    summary = make_summary(epochs=1)
    data = replace(summary.data, name=r"$\nothing$", majority_label="$^$")

    files = draw_plots(replace(summary, data=data), tmp_path)

    assert {file.name for file in files} == PLOTS
    for file in files:
        assert imread(file)[..., :3].std() > 0.01


def test_comparison_has_a_row_for_the_linear_model(make_summary: MakeSummary) -> None:
    for linear, names in ((0.35, ["Linear SVM"]), (None, [])):
        figure = comparison(make_summary(seeds=(0, 1), linear=linear))
        rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert rows == ["Teacher", "Distilled student", "Baseline student", *names]
        sizes = [text.get_text() for text in figure.axes[2].texts]
        assert ("50.0k" in sizes) == (linear is not None)


def test_report_of_a_teacher_without_training(make_summary: MakeSummary, tmp_path: Path) -> None:
    untrained = {"parameters": 0, "trainable_parameters": 0, "bytes_on_disk": 0, "train_seconds": 0.0}
    summary = with_models(make_summary(), "teacher", history=(), epochs=0, best_epoch=0, **untrained)

    write_report(summary, tmp_path)

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert {file.name for file in (tmp_path / "plots").iterdir()} == PLOTS - CURVES["teacher"]
    assert "teacher_accuracy" not in text
    assert "| Teacher | 0 | – | 0 bytes |" in text
    assert "**Tuning**" not in text
    assert "fewer parameters" not in text
    assert "is 60 times as fast as the teacher" in text
    alone = report_text(replace(summary, models=summary.of("teacher"), comparisons={}), "plots")
    assert "distillation help" not in alone


@pytest.mark.parametrize(
    ("loss", "how", "term"),
    [
        ("kl", "temperature 2", "KL to the teacher"),
        ("mse", "by half the squared distance of the logits", "squared distance to the teacher's logits"),
        ("hard", "with the teacher's answers as labels", "cross-entropy to the teacher's answers"),
    ],
)
def test_distillation_loss_is_named(make_summary: MakeSummary, loss: str, how: str, term: str) -> None:
    summary = make_summary(seeds=(0, 1))

    def renamed(model: ModelResult) -> ModelResult:
        records = ({(f"train_{loss}" if k == "train_kl" else k): v for k, v in r.items()} for r in model.history)
        return replace(model, history=tuple(records))

    config = summary.config | {"distillation": summary.config["distillation"] | {"loss": loss}}
    summary = replace(summary, models=tuple(map(renamed, summary.models)), config=config)

    assert f"(weight of the labels 0.5, {how})" in report_text(summary, "plots")
    assert term in legend(loss_curves(summary.of("distilled"), "training"))
    assert not any("teacher" in text for text in legend(loss_curves(summary.of("baseline"), "training")))


def test_size_and_speed_against_the_teacher(make_summary: MakeSummary) -> None:
    summary = make_summary()
    assert "has 74 times fewer parameters, is 60 times as fast as the teacher and reaches" in said(summary)
    summary = with_models(summary, "teacher", parameters=1000, trainable_parameters=1000)
    assert "has 1,824 times as many parameters" in said(summary)


def test_reliability_diagram_shows_error_points_and_counts(make_summary: MakeSummary) -> None:
    summary = make_summary(seeds=(0, 1, 2))

    figure = reliability(summary)

    *diagrams, _, _, baseline_texts = figure.axes
    assert len(figure.axes) == 6
    for axes, role in zip(diagrams, summary.roles, strict=True):
        errors = [model.calibration.ece for model in summary.of(role)]
        assert axes.get_title() == f"{ROLE_NAMES[role]}: ECE {percent(sum(errors) / len(errors))}"
    diagonal, *seeds, pooled = diagrams[2].lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [100, 100]]
    for line, model in zip(seeds, summary.of("baseline"), strict=True):
        expected = [[100 * item.confidence, 100 * item.accuracy] for item in model.calibration.bins]
        assert line.get_xydata().tolist() == expected
    assert len(pooled.get_xdata()) == len(baseline_texts.patches)
    assert sum(bar.get_height() for bar in baseline_texts.patches) == pytest.approx(100)


def test_thresholds_are_explained_where_models_have_them(make_summary: MakeSummary) -> None:
    summary = make_summary(seeds=(0, 1))
    assert "above the student's threshold" not in report_text(summary, "plots")
    models = tuple(replace(model, threshold=0.4) for model in summary.models)
    assert "above the student's threshold" in report_text(replace(summary, models=models), "plots")


def test_names_are_escaped_for_markdown(make_summary: MakeSummary) -> None:
    summary = make_summary()
    data = replace(summary.data, name="my *data*", label_names=("<b>no</b>", "a|b\nc"), majority_label="a|b\nc")
    text = report_text(replace(summary, data=data), "plots")

    assert text.startswith("# Potstill: my \\*data\\*\n")
    assert 'classes "\\<b>no\\</b>", "a|b c" of the data set **my \\*data\\*** ' in text
    assert '| always "a\\|b c" |' in text


def test_later_environments_are_listed(make_summary: MakeSummary) -> None:
    summary = make_summary()
    environment = summary.environment | {"gpu": None, "later": [{"gpu": None, "threads": 4}, {"threads": 2}]}
    text = report_text(replace(summary, environment=environment), "plots")

    assert "\n- gpu: none\n- later with gpu: none, threads: 4\n- later with threads: 2\n" in text


def test_findings_where_distillation_helped(make_summary: MakeSummary) -> None:
    summary = make_summary((0.15, 0.2, 0.4), seeds=(0, 1, 2, 3, 4))

    assert not problems(summary)
    for words in ("It helped in this run.", "paired t-test, p < 0.001"):
        assert words in said(summary)
    assert NO_BETTER not in said(summary)


def test_findings_where_distillation_did_harm(make_summary: MakeSummary) -> None:
    harmed = make_summary((0.15, 0.4, 0.2), seeds=(0, 1, 2))
    (problem,) = problems(harmed)
    assert "did harm" in problem
    assert json.loads(harmed.to_json())["recommended"] == "baseline"
    assert json.loads(make_summary().to_json())["recommended"] == "distilled"
    assert "do not take the distilled student" in problem
    nothing = make_summary((0.15, 1, 0.2), seeds=(0, 1, 2))  # all answers are the majority class
    assert "Nothing: in this run distillation did harm." in said(nothing)


def test_findings_where_nothing_was_learnt(make_summary: MakeSummary) -> None:
    single, several = make_summary((1, 1, 1)), make_summary((1, 1, 1), seeds=(0, 1, 2))

    for summary in (single, several):
        (problem,) = problems(summary)
        assert problem.startswith("**Problem: nothing was learnt.**")
        assert "of the teacher's MCC" not in said(summary)
    assert said(single).count(NO_BETTER) == 4  # each model, and the question whether distillation helped
    assert f"3 of 3 seeds are {NO_BETTER}" in said(several)


@pytest.mark.parametrize(
    ("error_rates", "words"),
    [
        ((1, 0.3, 0.4), "the teacher learnt nothing"),
        ((0.4, 0.2, 0.3), "the teacher is worse than the baseline"),
        ((0.9, 0.8, 0.3), "answers are the wrong way round"),
    ],
)
def test_findings_name_a_bad_teacher_first(
    make_summary: MakeSummary, error_rates: tuple[float, ...], words: str
) -> None:
    summary = make_summary(error_rates, seeds=(0, 1, 2))

    assert words in problems(summary)[0]
    assert "of the teacher's MCC" not in said(summary)


def test_findings_name_few_steps_and_few_validation_texts(make_summary: MakeSummary) -> None:
    summary = make_summary()
    summary = replace(summary, data=replace(summary.data, validation=24))
    summary = with_models(summary, "teacher", history=({**summary.models[0].history[0], "steps": 21},))

    steps, validation = problems(summary)

    assert "very few training steps** (teacher 21)" in steps
    assert "only 24 validation texts" in validation


@pytest.mark.parametrize(("p_value", "chance"), [(0.06, True), (0.04, False)])
def test_findings_do_not_claim_what_can_be_chance(make_summary: MakeSummary, p_value: float, chance: bool) -> None:
    summary = make_summary((0.15, 0.2, 0.4))
    test = replace(summary.comparisons[10], first_only=9, second_only=2, p_value=p_value)

    text = said(replace(summary, comparisons={10: test}))

    assert ("the difference can be chance" in text) is chance
    assert ("It helped in this run." in text) is not chance
    assert "One seed shows one case" in text


def test_more_right_answers_with_a_lower_mcc_are_no_gain(make_summary: MakeSummary) -> None:
    """A baseline that always says the majority class is more often right than a distilled student that learnt."""
    summary = make_summary((0.15, 0.43, 1))
    assert summary.verdict(summary.of("distilled")[0]) is None

    assert "accuracy and MCC don't point the same way" in said(summary)
    assert "is not above the 69.3 % of the majority class" in said(summary)


def test_students_are_compared_with_the_teachers_mean(make_summary: MakeSummary) -> None:
    one, other = make_summary((0.2, 0.25, 0.4)), make_summary((0.1, 0.25, 0.4))
    together = replace(one, models=(*one.models, replace(other.of("teacher")[0], seed=1)))
    share = one.spread("distilled", "mcc").mean / together.spread("teacher", "mcc").mean

    assert f"reaches {percent(share)} of the teachers' mean MCC" in said(together)


@pytest.mark.parametrize(
    ("student", "linear", "answer"),
    [
        (0.2, 0.4, "Yes, the distilled student is better than the linear model"),
        (0.27, 0.3, "ahead of the linear model, but the difference can be chance"),
        (0.3, 0.27, "No: the distilled student is not better than the linear model"),
        (0.4, 0.2, "No: the distilled student is worse than the linear model"),
    ],
)
def test_report_first_says_whether_the_student_beats_the_linear_model(
    make_summary: MakeSummary, student: float, linear: float, answer: str
) -> None:
    summary = make_summary((0.1, student, 0.4), seeds=(0, 1, 2), linear=linear)

    sentence = report_text(summary, "plots").splitlines()[4]

    assert sentence.startswith("**Did it pay?** ")
    assert answer in sentence
    assert ("What to try" in sentence) is (student > 0.2)
    closed = summary.gap_closed
    assert closed is not None
    assert (f"closes {100 * closed:.0f} % of the gap" in sentence) is (closed >= 0)


def test_no_student_pays_by_always_answering_the_majority_class(make_summary: MakeSummary) -> None:
    summary = make_summary((0.1, 1, 0.4), seeds=(0, 1, 2), linear=0.4)  # 69.3 % against about 60 %
    assert summary.spread("distilled", "accuracy").mean > summary.linear.metrics.accuracy

    assert "**Did it pay?** No" in findings(summary)[0]


def test_linear_model_has_a_row_without_probabilities(make_summary: MakeSummary) -> None:
    row = next(row for row in model_table(make_summary(linear=0.3)).rows if row[0].value == "Linear SVM")
    assert [cell.value for cell in row[1:4]] == ["50.0k", "50.0k", "200.0 kB"]
    assert [cell.value for cell in row[-3:]] == ["1.5 s", "9,000", "–"]


def test_gap_is_none_where_the_linear_model_is_as_good_as_the_teacher(make_summary: MakeSummary) -> None:
    assert make_summary((0.3, 0.2, 0.4), linear=0.1).gap_closed is None
    assert make_summary().gap_closed is None


def test_ensemble_of_teachers_has_a_row_and_a_sentence(make_summary: MakeSummary) -> None:
    summary = make_summary()
    one = summary.of("teacher")[0]
    summary = replace(summary, ensemble=EnsembleResult(one.metrics, one.intervals, one.calibration))
    assert "Together, their probabilities averaged" in findings(summary)[0]
    of_one, together = seed_table(summary).rows[:2]
    assert together[1].value == "all, averaged"
    assert together[2:-2] == of_one[2:-2]


def test_a_rare_class_that_is_not_found_is_named_with_the_remedy(make_summary: MakeSummary) -> None:
    summary = make_summary()
    assert "hardly find" not in said(summary)  # a third of the texts is not rare
    rare = ClassScores(0.0, 0.1, 0.0, 20)
    per_class = (rare, replace(rare, recall=0.99, count=summary.data.test - 20))
    metrics = replace(summary.of("distilled")[0].metrics, per_class=per_class)
    summary = with_models(summary, "distilled", metrics=metrics)
    (found,) = [one for one in problems(summary) if "rare" in one]
    assert '"unacceptable" (3.8 % of the texts, recall 10.0 %)' in found
    assert "`class_weights: balanced` (`--student-class-weights`)" in found
    config = summary.config | {"student": {"training": {"class_weights": "balanced", "keep": "best"}}}
    assert "Label more texts of it." in said(replace(summary, config=config))


def test_scores_of_each_class(make_summary: MakeSummary) -> None:
    summary = make_summary()
    of = {role: summary.of(role)[0].metrics.per_class[1] for role in ("distilled", "baseline")}
    numbers = " | ".join(f"{n:.3f}" for one in of.values() for n in (one.precision, one.recall, one.f1))
    assert f"| acceptable | 365 | {numbers} |" in report_text(summary, "plots")
    assert "| model | parameters | trainable | on disk | macro-F1 | accuracy |" in report_text(summary, "plots")
    positive = replace(summary, data=replace(summary.data, positive=0))
    text = report_text(positive, "plots")
    assert '| F1 of "unacceptable" | accuracy |' in text
    f1 = summary.of("distilled")[0].metrics.per_class[0].f1
    assert re.search(rf"\| Distilled student \|.*\| {f1:.3f} \| ", text)
