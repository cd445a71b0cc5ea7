"""What a run's numbers mean, in plain words that claim no more than the tests support."""

from __future__ import annotations

from statistics import fmean

from potstill.evaluation import McNemar, PairedTest, Role, Summary
from potstill.report.tables import ROLE_NAMES, interval, magnitude, percent, probability, score
from potstill.wording import numbered

SIGNIFICANCE = 0.05
"""The usual bound: with a p-value from here on, chance explains the difference well enough."""


def findings(summary: Summary) -> list[str]:
    """Say of each model whether it learnt the task, then whether distillation helped and what it saved."""
    learnt = [_learnt(summary, role) for role in summary.roles]
    return learnt + _thresholds(summary) + _distillation(summary) + _savings(summary)


def _learnt(summary: Summary, role: Role) -> str:
    """Compare the models of one role with the answer that needs no model."""
    models = summary.of(role)
    verdicts = [verdict for model in models if (verdict := summary.verdict(model)) is not None]
    overall = summary.aggregate[role]
    if len(models) > 1:
        numbers = f"MCC {score(overall.mcc.mean)} ± {score(overall.mcc.std)} over {len(models)} seeds"
        if verdicts:
            judgement = f"{len(verdicts)} of {len(models)} seeds {'is' if len(verdicts) == 1 else 'are'} {verdicts[0]}"
        else:
            judgement = "every seed learnt something about the task"
    else:
        numbers = f"MCC {score(overall.mcc.mean)}, 95 % interval {interval(models[0].intervals['mcc'], score)}"
        judgement = f"it is {verdicts[0]}" if verdicts else "it learnt something about the task"

    sentence = f"**{ROLE_NAMES[role]}:** {judgement} ({numbers})."
    if role == "teacher" and summary.ensemble is not None:
        together = summary.ensemble
        learnt = "from that the students learnt"
        if summary.judges is not None:
            learnt += f", except on the transfer set, where {summary.judges} of them judged each text"
        sentence += (
            f" Together, their probabilities averaged, they reach {score(together.metrics.mcc)} "
            f"({interval(together.intervals['mcc'], score)}): {learnt}."
        )
    majority = summary.data.majority.accuracy
    if len(verdicts) < len(models) and overall.accuracy.mean <= majority:
        # Not a contradiction: MCC weighs the classes alike, accuracy favours the frequent one.
        mean = percent(overall.accuracy.mean)
        sentence += f" Its accuracy, {mean}, is still not above the {percent(majority)} of the majority class."
    return sentence


def _thresholds(summary: Summary) -> list[str]:
    """Tell what the more probable class would score as the answer, where thresholds decide."""
    lines = []
    for role in summary.roles:
        models = summary.of(role)
        thresholds = [model.threshold for model in models if model.threshold is not None]
        if not thresholds:
            continue
        plain = [model.argmax_metrics for model in models if model.argmax_metrics is not None]
        ends = dict.fromkeys(f"{end:.2f}" for end in (min(thresholds), max(thresholds)))
        decided, accuracy = summary.aggregate[role], fmean(metrics.accuracy for metrics in plain)
        lines.append(
            f"**{ROLE_NAMES[role]}, threshold:** chosen for the MCC, at {' to '.join(ends)}, it gives accuracy "
            f"{percent(decided.accuracy.mean)} and MCC {score(decided.mcc.mean)}; the more probable class as the "
            f"answer would give {percent(accuracy)} and {score(fmean(metrics.mcc for metrics in plain))}."
        )
    return lines


def _distillation(summary: Summary) -> list[str]:
    """Compare the distilled students with the baselines, over seeds where there are several."""
    over_seeds = summary.paired_test
    if over_seeds is None or not summary.comparisons:
        return []
    if over_seeds.seeds > 1:
        p_value, evidence = over_seeds.p_value, _evidence_over_seeds(over_seeds)
        direction = over_seeds.mean_difference
    else:
        only = next(iter(summary.comparisons.values()))
        told_apart = examples_told_apart(only)
        p_value, evidence = only.p_value, f"{told_apart[0].upper()}{told_apart[1:]}."
        # McNemar's test counts right answers, which always saying the majority class collects too: without MCC on the
        # same side it is no sign of learning.
        more_often_right = only.first_only - only.second_only
        direction = over_seeds.mean_difference if more_often_right * over_seeds.mean_difference > 0 else 0.0

    lines = [f"**Did distillation help?** {_conclusion(summary, p_value, direction)} {evidence}"]
    if over_seeds.seeds > 1:
        lines.append(_examples_over_seeds(list(summary.comparisons.values())))
    else:
        lines.append("One seed shows one case: another seed may turn out differently. A claim needs several seeds.")
    if summary.teacher is not None and summary.verdict(summary.teacher) is not None:
        lines.append(
            "The teacher that taught learnt nothing that could be told from chance, so it had nothing to pass on."
        )
    return lines


def _conclusion(summary: Summary, p_value: float | None, direction: float) -> str:
    """Answer in one sentence; `direction` is above 0 where the distilled students are ahead."""
    if all(summary.verdict(model) is not None for model in summary.of("distilled")):
        return f"It can't be said: the distilled student is {summary.verdict(summary.of('distilled')[0])}."
    if p_value is None:
        return "It can't be said: the seeds leave no test."
    if p_value >= SIGNIFICANCE:
        return "Not shown: the difference can be chance."
    if direction == 0:
        return "It can't be said: accuracy and MCC don't point the same way."
    return "Yes, in this run." if direction > 0 else "No: in this run it did harm."


def _evidence_over_seeds(test: PairedTest) -> str:
    """Report the test over seeds."""
    differs = f"MCC differs from the baseline's by {test.mean_difference:+.3f}"
    if test.p_value is None:
        return f"{differs} in each of the {test.seeds} seeds."
    return f"{differs} on average over {test.seeds} seeds (paired t-test, {probability(test.p_value)})."


def examples_told_apart(test: McNemar) -> str:
    """Report the test on examples of a single pair of models."""
    return (
        f"the distilled student alone is right on {numbered(test.first_only, 'example')}, the baseline alone on "
        f"{test.second_only} (McNemar's test, {probability(test.p_value)})"
    )


def _examples_over_seeds(tests: list[McNemar]) -> str:
    """Count the seeds in which the test on examples finds one model more often right."""
    clear = [test for test in tests if test.p_value < SIGNIFICANCE]
    ahead = sum(test.first_only > test.second_only for test in clear)
    return (
        f"Seed by seed, McNemar's test finds the distilled student more often right in {ahead} of {len(tests)} seeds, "
        f"the baseline in {len(clear) - ahead}, and no clear difference in {len(tests) - len(clear)} "
        f"(p < {SIGNIFICANCE}, not corrected for the number of seeds)."
    )


def _savings(summary: Summary) -> list[str]:
    """Say what the tuning and the small student save."""
    teacher, students = summary.teacher, summary.of("distilled")
    lines = []
    if teacher is not None and teacher.trainable_parameters < teacher.parameters:
        share = teacher.trainable_parameters / teacher.parameters
        lines.append(
            f"**Tuning** trains {magnitude(teacher.trainable_parameters)} of the teacher's "
            f"{magnitude(teacher.parameters)} parameters ({percent(share)}): {percent(1 - share)} fewer."
        )
    if teacher is not None and students:
        fewer = teacher.parameters / students[0].parameters
        faster = fmean(model.sentences_per_second for model in students) / teacher.sentences_per_second
        size = (
            f"{fewer:,.1f} times fewer parameters than"
            if fewer >= 1
            else f"{1 / fewer:,.1f} times as many parameters as"
        )
        line = f"**The student** has {size} the teacher, is {faster:,.1f} times as fast"
        if summary.verdict(teacher) is None and any(summary.verdict(student) is None for student in students):
            kept = summary.aggregate["distilled"].mcc.mean / summary.aggregate["teacher"].mcc.mean
            whose = "teacher's MCC" if len(summary.of("teacher")) == 1 else "teachers' MCC, in the mean"
            line += f" and, distilled, reaches {percent(kept)} of the {whose}"
        lines.append(f"{line}.")
    return lines
