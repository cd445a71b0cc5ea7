from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from potstill.config import PotstillConfig
from potstill.evaluation import EnsembleResult, McNemar, Summary
from potstill.report import write_report
from potstill.report.findings import findings
from potstill.report.markdown import report_text
from potstill.report.plots import draw_plots, reliability, training_loss
from potstill.report.tables import ROLE_NAMES, percent, seed_table

MakeSummary = Callable[..., Summary]

NO_BETTER = 'no better than always answering "acceptable"'
PLOTS = {"comparison.png", "reliability.png"} | {
    f"{role}_{kind}.png"
    for role in ("teacher", "distilled", "baseline")
    for kind in ("training_loss", "validation_loss", "accuracy")
}


def test_a_report_is_complete_and_its_links_lead_somewhere(make_summary: MakeSummary, tmp_path: Path) -> None:
    summary = make_summary(seeds=(0, 1, 2))

    write_report(summary, tmp_path)

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert {Path(link).name for link in links} == PLOTS
    assert all((tmp_path / link).is_file() for link in links)
    assert Summary.from_json((tmp_path / "summary.json").read_text(encoding="utf-8")) == summary
    for words in (summary.command, "69.3 %", "134.5M", "2.4M (1.8 %)", "McNemar", "paired t-test", "torch: 2.8.0"):
        assert words in text


@pytest.mark.parametrize(("seeds", "epochs"), [((0,), 1), ((0, 1, 2), 4)])
def test_eleven_plots_are_drawn(make_summary: MakeSummary, tmp_path: Path, seeds: tuple[int, ...], epochs: int) -> None:
    files = draw_plots(make_summary(seeds=seeds, epochs=epochs), tmp_path)

    assert {file.name for file in files} == PLOTS
    for file in files:
        assert imread(file)[..., :3].std() > 0.01  # an image, and not an empty one


def test_seeds_may_stop_at_different_epochs(make_summary: MakeSummary, tmp_path: Path) -> None:
    summary = make_summary(seeds=(0, 1), epochs=4)
    models = tuple(replace(m, history=m.history[: 2 + m.seed % 2], best_epoch=2) for m in summary.models)

    assert len(draw_plots(replace(summary, models=models), tmp_path)) == len(PLOTS)


@pytest.mark.parametrize(
    ("objective", "manner", "term"),
    [
        ("kl", "temperature 2", "KL to the teacher"),
        ("mse", "by half the squared distance of the logits", "squared distance to the teacher's logits"),
        ("hard", "with the teacher's answers as labels", "cross-entropy to the teacher's answers"),
    ],
)
def test_how_the_student_was_drawn_to_the_teacher_is_told(
    make_summary: MakeSummary, objective: str, manner: str, term: str
) -> None:
    summary = make_summary(seeds=(0, 1))

    def told(record: dict[str, Any]) -> dict[str, Any]:
        return {f"train_{objective}" if name == "train_kl" else name: value for name, value in record.items()}

    models = tuple(replace(model, history=tuple(map(told, model.history))) for model in summary.models)
    config = summary.config | {"distillation": summary.config["distillation"] | {"objective": objective}}
    summary = replace(summary, models=models, config=config)

    assert f"(weight of the labels 0.5, {manner})" in report_text(summary, "plots")
    (axes,) = training_loss(summary.of("distilled")).axes
    assert term in [text.get_text() for text in axes.get_legend().get_texts()]
    (axes,) = training_loss(summary.of("baseline")).axes
    assert not any("teacher" in text.get_text() for text in axes.get_legend().get_texts())


def test_a_students_size_and_speed_are_told_against_its_teachers(make_summary: MakeSummary) -> None:
    summary = make_summary()
    assert "73.7 times fewer parameters than the teacher, is 60.0 times as fast" in report_text(summary, "plots")
    models = tuple(
        replace(model, parameters=1000 if model.role == "teacher" else 2500, trainable_parameters=1000)
        for model in summary.models
    )
    assert "has 2.5 times as many parameters as the teacher" in report_text(replace(summary, models=models), "plots")


def test_the_reliability_diagram_shows_error_points_and_counts(make_summary: MakeSummary) -> None:
    summary = make_summary(seeds=(0, 1, 2))

    figure = reliability(summary)

    *diagrams, _, _, baseline_texts = figure.axes
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in diagrams] == [
        f"{ROLE_NAMES[role]}: ECE {percent(summary.aggregate[role].ece.mean)}" for role in summary.roles
    ]
    diagonal, *seeds, pooled = diagrams[2].lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [100, 100]]
    for line, model in zip(seeds, summary.of("baseline"), strict=True):
        expected = [[100 * item.confidence, 100 * item.accuracy] for item in model.calibration.bins]
        assert line.get_xydata().tolist() == expected
    assert len(pooled.get_xdata()) == len(baseline_texts.patches)
    assert sum(bar.get_height() for bar in baseline_texts.patches) == pytest.approx(100)


@pytest.mark.parametrize(
    ("threshold", "labels", "told"), [("tuned", 2, True), ("tuned", 3, False), ("argmax", 2, False)]
)
def test_a_tuned_threshold_is_told(make_summary: MakeSummary, threshold: str, labels: int, told: bool) -> None:
    summary = make_summary()
    config = PotstillConfig.build({"student": {"threshold": threshold}}).model_dump(mode="json")
    data = replace(summary.data, label_names=("a", "b", "c")[:labels])

    text = report_text(replace(summary, config=config, data=data), "plots")

    assert ("above the student's threshold" in text) is told


@pytest.mark.parametrize(
    ("teacher", "student", "told"),
    [
        ("mcc", "loss", "chose the best epoch of each, and"),
        ("f1", "last", "chose the best epoch of each teacher (of the others the last one is kept), and"),
        ("last", "mcc", "chose the best epoch of each student (of the others the last one is kept), and"),
        ("last", "last", "chose no classifier's epoch (the last one is kept), and"),
    ],
)
def test_what_the_selection_split_chose_is_told(
    make_summary: MakeSummary, teacher: str, student: str, told: str
) -> None:
    settings = {"teacher": {"training": {"metric": teacher}}, "student": {"training": {"metric": student}}}
    config = PotstillConfig.build(settings).model_dump(mode="json")
    assert told in report_text(replace(make_summary(), config=config), "plots")


def test_what_thresholds_do_is_told_of_the_models_that_have_them(make_summary: MakeSummary) -> None:
    summary = make_summary(seeds=(0, 1))
    assert not any("threshold" in line for line in findings(summary))
    plain = replace(summary.data.majority, accuracy=0.75, mcc=0.25)
    models = tuple(
        replace(model, threshold=0.4 + 0.1 * (model.seed % 2), argmax_metrics=plain)
        if model.role == "distilled"
        else model
        for model in summary.models
    )

    (line,) = [line for line in findings(replace(summary, models=models)) if "threshold" in line]

    kept = summary.aggregate["distilled"]
    assert f"at 0.40 to 0.50, it gives accuracy {percent(kept.accuracy.mean)} and MCC {kept.mcc.mean:.3f}; " in line
    assert line.endswith("would give 75.0 % and 0.250.")


def test_names_are_no_formulas(make_summary: MakeSummary, tmp_path: Path) -> None:
    summary = make_summary()
    data = replace(summary.data, name=r"$\nothing$", majority_label="$^$")

    assert len(draw_plots(replace(summary, data=data), tmp_path)) == len(PLOTS)


def test_findings_of_a_run_in_which_distillation_helped(make_summary: MakeSummary) -> None:
    text = "\n".join(findings(make_summary((0.15, 0.2, 0.4), seeds=(0, 1, 2, 3, 4))))

    assert "Yes, in this run." in text
    assert "paired t-test, p < 0.001" in text
    assert "more often right in 5 of 5 seeds" in text
    assert NO_BETTER not in text


def test_findings_of_a_run_in_which_distillation_did_harm(make_summary: MakeSummary) -> None:
    assert "did harm" in "\n".join(findings(make_summary((0.15, 0.4, 0.2), seeds=(0, 1, 2))))


@pytest.mark.parametrize(("p_value", "chance"), [(0.06, True), (0.04, False)])
def test_findings_do_not_claim_what_can_be_chance(make_summary: MakeSummary, p_value: float, chance: bool) -> None:
    summary = make_summary((0.15, 0.2, 0.4))
    test = replace(summary.comparisons[10], first_only=9, second_only=2, p_value=p_value)

    text = "\n".join(findings(replace(summary, comparisons={10: test})))

    assert ("the difference can be chance" in text) is chance
    assert ("Yes, in this run." in text) is not chance
    assert "One seed shows one case" in text


def test_seeds_with_no_clear_difference_are_counted_apart(make_summary: MakeSummary) -> None:
    tests = {10: McNemar(9, 1, 0.02), 11: McNemar(1, 9, 0.02), 12: McNemar(5, 4, 1.0)}

    text = "\n".join(findings(replace(make_summary(seeds=(0, 1, 2)), comparisons=tests)))

    assert "more often right in 1 of 3 seeds, the baseline in 1, and no clear difference in 1" in text


def test_more_right_answers_alone_are_no_help(make_summary: MakeSummary) -> None:
    """A baseline that always says the majority class is more often right than a distilled student that learnt."""
    summary = make_summary((0.15, 0.43, 1))
    assert summary.verdict(summary.of("distilled")[0]) is None

    text = "\n".join(findings(summary))

    assert "accuracy and MCC don't point the same way" in text
    assert "is still not above the 69.3 % of the majority class" in text


def test_students_are_measured_against_the_teachers_mean(make_summary: MakeSummary) -> None:
    one, other = make_summary((0.2, 0.25, 0.4)), make_summary((0.1, 0.25, 0.4))
    second = replace(other.of("teacher")[0], seed=1)
    together = replace(one, models=(*one.models, second))
    student = one.of("distilled")[0].metrics.mcc
    mean = (one.of("teacher")[0].metrics.mcc + second.metrics.mcc) / 2

    assert f"reaches {100 * student / mean:.1f} % of the teachers' MCC, in the mean" in "\n".join(findings(together))


@pytest.mark.parametrize(
    ("part", "setting", "words"),
    [
        ("teacher", {"echo": True}, "it reads each text twice"),
        ("teacher", {"first_blocks": 5}, "of its blocks only the first 5 are kept"),
        ("student", {"surprisal_size": 8}, "how each token compares with what"),
    ],
)
def test_the_report_says_how_texts_are_read(
    make_summary: MakeSummary, part: str, setting: dict[str, object], words: str
) -> None:
    summary = make_summary()
    settings = summary.config | {part: summary.config[part] | setting}

    assert words not in report_text(summary, "plots")
    assert words in report_text(replace(summary, config=settings), "plots")


def test_teachers_that_taught_together_are_told_as_one(make_summary: MakeSummary) -> None:
    summary = make_summary()
    one = summary.of("teacher")[0]
    summary = replace(summary, ensemble=EnsembleResult(one.metrics, one.intervals, one.calibration))
    assert "Together, their probabilities averaged" in findings(summary)[0]
    of_one, together = seed_table(summary).rows[:2]
    assert together[1].value == "all, averaged"
    assert together[2:-2] == of_one[2:-2]


def test_findings_of_models_that_learnt_nothing(make_summary: MakeSummary) -> None:
    single = "\n".join(findings(make_summary((1, 1, 1))))
    several = "\n".join(findings(make_summary((1, 1, 1), seeds=(0, 1, 2))))

    assert single.count(NO_BETTER) == 4  # each model, and the question whether distillation helped
    assert "3 of 3 seeds are " + NO_BETTER in several
    for text in (single, several):
        assert "it had nothing to pass on" in text
        assert "of the teacher's MCC" not in text


def test_names_of_the_users_data_stand_in_the_report_as_they_are(make_summary: MakeSummary) -> None:
    summary = make_summary()
    data = replace(summary.data, name="my *data*", label_names=("<b>no</b>", "a|b\nc"), majority_label="a|b\nc")
    text = report_text(replace(summary, data=data), "plots")

    assert text.startswith("# Potstill: my \\*data\\*\n")
    assert 'classes "\\<b>no\\</b>", "a|b c" of the data set **my \\*data\\*** ' in text
    assert '| always "a\\|b c" |' in text


def test_the_report_tells_of_later_environments_in_words(make_summary: MakeSummary) -> None:
    summary = make_summary()
    environment = summary.environment | {"gpu": None, "later": [{"gpu": None, "threads": 4}, {"threads": 2}]}
    text = report_text(replace(summary, environment=environment), "plots")

    assert "\n- gpu: none\n- later with gpu: none, threads: 4\n- later with threads: 2\n" in text


def test_a_run_of_a_teacher_alone_can_be_reported(make_summary: MakeSummary, tmp_path: Path) -> None:
    summary = make_summary()

    write_report(replace(summary, models=summary.of("teacher"), comparisons={}), tmp_path)

    assert "distillation help" not in (tmp_path / "report.md").read_text(encoding="utf-8")
