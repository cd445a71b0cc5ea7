"""What a run's numbers mean, in plain words that claim no more than the tests support.

The comparison with the linear model comes first, then what failed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Final

from potstill.config.training import FEW_VALIDATION_TEXTS
from potstill.evaluation import McNemar, Role, Summary
from potstill.evaluation.details import Details
from potstill.evaluation.significance import SIGNIFICANCE
from potstill.predict.wording import numbered
from potstill.report.tables import HEADLINES, ROLE_NAMES, duration, interval, magnitude, percent, probability, score

NO_LABELS: Final = (
    "**No human label was seen:** the teacher gave all labels, those of the validation and test texts too. Every score "
    "says how often a model agrees with the teacher, not how often it is right; label some test texts to find that out."
)
FEW_STEPS: Final = 100
"""Fewer optimiser steps hardly move a network from where it started."""
RARE: Final = 0.5
"""A class is rare if it has less than this share of the texts that it would have among equally frequent classes."""
POOR_RECALL: Final = 0.5
"""With a lower recall, most texts of the class are missed."""
_COVERAGE: Final = 0.9
"""Share of the texts that are answered in the example of abstention."""
_FEWEST_OTHERS: Final = 5
"""With fewer test texts outside the most frequent class, a bootstrap interval of the MCC often reaches down to 0."""


def findings(summary: Summary) -> list[str]:
    """Say whether it paid, what went wrong, whether each model learnt the task, and what the student saves."""
    answer = paid(summary)
    found = [
        *([] if answer is None else [answer]),
        *_problems(summary),
        *(_learnt(summary, role) for role in summary.roles),
        *_choice(summary),
        *_distillation(summary),
        *_savings(summary),
        *_time_limit(summary),
    ]
    return [f"{NO_LABELS} {found[0]}", *found[1:]] if summary.data.labels_by_teacher else found


def abstention(details: Details, run_dir: Path) -> str:
    """Say what the student of a run gains by leaving a tenth of the test texts without an answer, and how."""
    coverage, error = min(details.coverage, key=lambda point: abs(point[0] - _COVERAGE))
    run = shlex.quote(str(run_dir))
    return (
        "The student can abstain on the texts of which it is the least sure, and leave them to a person. If it answers "
        f"{percent(coverage)} of the test texts, {percent(error)} of its answers are wrong; if it answers all, "
        f"{percent(details.coverage[-1][1])}: `potstill predict {run} FILE --coverage {_COVERAGE:g}`. `--max-error "
        "0.05` asks for at most 5 % errors, if the validation split can promise that."
    )


def paid(summary: Summary, *, with_advice: bool = True) -> str | None:
    """Compare the students handed out with the linear model, which takes seconds, and with all others.

    `with_advice` says, where they are not better, what to try. None where there is nothing to compare.
    """
    linear, comparisons, role = summary.linear, summary.against_linear.values(), summary.recommended_role
    if linear is None or not comparisons or role is None:
        return None
    name = ROLE_NAMES[role].lower()
    score_of, is_several = summary.data.headline, summary.data.multi_label
    student, bar = summary.spread(role, score_of), getattr(linear.metrics, score_of)
    learnt = summary.spread(role, "mcc").mean > linear.metrics.mcc and not any(
        summary.verdict(model) for model in summary.of(role)
    )  # always answering the majority class can be right more often
    ahead = learnt and all(test.first_only > test.second_only and test.p_value < SIGNIFICANCE for test in comparisons)
    behind = all(test.first_only < test.second_only and test.p_value < SIGNIFICANCE for test in comparisons)
    if ahead:
        answer = f"Yes, the {name} is better than the linear model"
    elif student.mean > bar and learnt:
        answer = f"Not clearly: the {name} is ahead of the linear model, but the difference can be chance"
    else:
        answer = f"No: the {name} is {'worse' if behind else 'not better'} than the linear model"
    values = sorted(test.p_value for test in comparisons)
    p_value, seeds = probability(values[-1]), ""
    if len(values) > 1 and values[-1] < SIGNIFICANCE:
        seeds = f" or less for each of {len(values)} seeds"
    elif len(values) > 1:
        p_value, seeds = probability(values[0]), f" to {values[-1]:.3f} over {len(values)} seeds"
    compared = (
        f"The micro-F1 of the student's answers is {percent(student.mean)}, that of the linear model's {percent(bar)}"
        if is_several
        else f"{percent(student.mean)} of the student's answers are right, {percent(bar)} of the linear model's"
    )
    sentence = (
        f"**Did it pay?** {answer}. {compared} ({100 * (student.mean - bar):+.1f} points; {test_name(is_several)}, "
        f"{p_value}{seeds})."
    )
    others = [
        f"the {ROLE_NAMES[other].lower()} {percent(summary.spread(other, score_of).mean)}"
        for other in reversed(summary.roles)
        if other != role
    ]
    if others:
        sentence += f" For comparison: {', '.join(others)}."
    if (closed := summary.gap_closed) is not None and 0 <= closed <= 1:
        sentence += f" The student closes {100 * closed:.0f} % of the gap between linear model and teacher."
    if with_advice and not ahead:
        time = "a longer `--time-limit`, for a teacher; " if not summary.of("distilled") and summary.time_limit else ""
        is_tuned = summary.config["teacher"]["kind"] == "transformer"
        teacher = "more teacher epochs (`--teacher-epochs`)" if is_tuned else "another teacher"
        sentence += (
            f" What to try: {time}your own unlabelled texts (`--unlabelled FILE`); more labelled texts; {teacher}, if "
            "the teacher is hardly better than the linear model. If the student stays behind, use a linear model "
            "(scikit-learn's TfidfVectorizer and LinearSVC)."
        )
    return sentence


def _problems(summary: Summary) -> Iterator[str]:
    """Say what makes the run's models useless or its numbers doubtful, and what to change."""
    majority = f'always answering "{summary.data.majority_label}"'
    taught, baselines = summary.ensemble or summary.teacher, summary.of("baseline")
    yield from _rare(summary)
    others = round(summary.data.test * (1 - summary.data.majority.accuracy))  # test texts of the other classes
    if summary.models and all(summary.verdict(model) for model in summary.models) and others < _FEWEST_OTHERS:
        yield (
            f"**Problem: too few test texts of other classes.** All but {others:,} of the {summary.data.test:,} are "
            f'"{summary.data.majority_label}", so that the scores can\'t tell what was learnt. Add labelled texts of '
            "the other classes, or give a test split with more of them (`--test-data`)."
        )
    elif summary.models and all(summary.verdict(model) for model in summary.models):
        yield (
            f"**Problem: nothing was learnt.** No model is better than {majority}. Check that the labels belong to the "
            "texts; then try more epochs, another learning rate or more labelled texts."
        )
    elif any(model.intervals["mcc"][1] < 0 for model in summary.models):
        yield (
            "**Problem: answers are the wrong way round.** An MCC below 0 says that a model confuses the classes: "
            "check the order of its labels (`id2label` in a model that was tuned elsewhere)."
        )
    elif summary.teacher is not None and summary.verdict(summary.teacher):
        yield (
            f"**Problem: the teacher learnt nothing.** It is no better than {majority}, so it has nothing to teach. "
            f"{_better_teacher(summary)}."
        )
    elif taught is not None and baselines and taught.metrics.mcc < (untaught := summary.spread("baseline", "mcc").mean):
        yield (
            f"**Problem: the teacher is worse than the baseline** (MCC {score(taught.metrics.mcc)} and "
            f"{score(untaught)}). Such a teacher is not worth its cost. "
            f"{_better_teacher(summary)}, or use the baseline student."
        )
    if summary.distillation_harmed:
        yield (
            "**Problem: distillation did harm.** `predict`, `serve` and `export` do not take the distilled student. To "
            "mend it: a better teacher, a higher `distillation.alpha`, or unlabelled texts (`augment`)."
        )
    steps = {
        role: max((model.history[-1].get("steps", FEW_STEPS) for model in summary.of(role) if model.history), default=0)
        for role in summary.roles
    }
    few = [f"{ROLE_NAMES[role].lower()} {count}" for role, count in steps.items() if 0 < count < FEW_STEPS]
    if few:
        yield (
            f"**Problem: very few training steps** ({', '.join(few)}). Raise `training.min_steps` to some "
            f"hundred; fewer than {FEW_STEPS} hardly change a network."
        )
    if summary.data.validation < FEW_VALIDATION_TEXTS:
        yield (
            f"**Problem: only {numbered(summary.data.validation, 'validation text')}.** A choice of settings or "
            "thresholds by so few is mostly luck. Label more texts, or raise `data.validation_fraction`."
        )


def _better_teacher(summary: Summary) -> str:
    if summary.config["teacher"]["kind"] == "transformer":
        return "Train it longer, with another learning rate or from another backbone"
    return "Use another teacher, or leave out `--teacher` to tune one"


def _rare(summary: Summary) -> Iterator[str]:
    if (role := summary.recommended_role) is None:
        return
    models, names = [model.metrics for model in summary.of(role)], summary.data.label_names
    shares = [one.count / summary.data.test for one in models[0].per_class]
    recalls = [fmean(one.per_class[index].recall for one in models) for index in range(len(names))]
    found = [i for i in range(len(names)) if 0 < shares[i] < RARE / len(names) and recalls[i] < POOR_RECALL]
    if not found:
        return
    worst = sorted(found, key=lambda index: recalls[index])[:3]
    listed = ", ".join(f'"{names[i]}" ({percent(shares[i])} of the texts, recall {percent(recalls[i])})' for i in worst)
    more = f" and {len(found) - len(worst)} more" if len(found) > len(worst) else ""
    who = f"the {ROLE_NAMES[role].lower()} hardly finds {'a rare class' if len(found) == 1 else 'rare classes'}"
    is_balanced = summary.config["student"]["training"]["class_weights"] == "balanced"
    remedy = "Label more texts of it." if is_balanced else "Set `class_weights: balanced` (`--student-class-weights`)."
    yield f"**Problem: {who}:** {listed}{more}. {remedy}"


def _learnt(summary: Summary, role: Role) -> str:
    """Compare the models of one role with the answer that needs no model."""
    models = summary.of(role)
    verdicts = [verdict for model in models if (verdict := summary.verdict(model))]
    headline, data = summary.data.headline, summary.data
    mcc, reached = summary.spread(role, "mcc"), summary.spread(role, headline).mean
    if len(models) > 1:
        numbers = f"MCC {score(mcc.mean)} ± {score(mcc.std)} over {len(models)} seeds"
        conclusion = "every seed learnt something about the task"
        if verdicts:
            conclusion = f"{len(verdicts)} of {len(models)} seeds {'is' if len(verdicts) == 1 else 'are'} {verdicts[0]}"
    else:
        numbers = f"MCC {score(mcc.mean)}, 95 % interval {interval(models[0].intervals['mcc'], score)}"
        conclusion = f"it is {verdicts[0]}" if verdicts else "it learnt something about the task"
    sentence = f"**{ROLE_NAMES[role]}:** {conclusion} ({numbers})."
    if role == "teacher" and summary.ensemble is not None:
        together = summary.ensemble
        sentence += (
            f" Together, their probabilities averaged, they reach {score(together.metrics.mcc)} "
            f"({interval(together.intervals['mcc'], score)}): from that the students learnt."
        )
    majority = getattr(data.majority, headline)
    if len(verdicts) < len(models) and reached <= majority:
        # Not a contradiction: MCC weighs the classes alike, accuracy favours the frequent one.
        name = HEADLINES[headline]
        sentence += f" Its {name}, {percent(reached)}, is not above the {percent(majority)} of the majority class."
    return sentence


def _choice(summary: Summary) -> Iterator[str]:
    if (role := summary.recommended_role) is None:
        return
    name = f"the {ROLE_NAMES[role].lower()}"
    if over := summary.over_limits(role):
        yield (
            f"**Problem: no student is within the limits.** The smallest is {name}: {'; '.join(over)}. Raise "
            "`--max-size` or `--max-latency`, or train smaller students (`--hidden-size`, `--ngram-buckets`)."
        )
    kinds: tuple[Role, ...] = ("distilled", "ngram") if summary.of("distilled") else ("ngram", "baseline")
    others = [other for other in kinds if other != role and summary.of(other)]
    if not others:
        return
    mcc, size, speed = (
        {one: fmean(getattr(model, field) for model in summary.of(one)) for one in (role, *others)}
        for field in ("validation_mcc", "bytes_on_disk", "texts_per_second")
    )
    sentence = f"**Student to use:** {name} ({score(mcc[role])} MCC on the validation split)"
    for other in others:
        limits = ", ".join(summary.over_limits(other))
        sentence += (
            f"; the {ROLE_NAMES[other].lower()} ({score(mcc[other])}) is {_times(size[other] / size[role])} times as "
            f"large and {_times(speed[other] / speed[role])} times as fast{limits and f' ({limits})'}"
        )
    yield f"{sentence}. `predict`, `serve` and `export` use {name}; `--max-size` and `--max-latency` set limits."


def _distillation(summary: Summary) -> Iterator[str]:
    over_seeds, found = summary.paired_test, summary.distillation_gain
    if over_seeds is None or found is None:
        return
    direction, p_value = found
    if summary.distillation_harmed:
        answer = "Nothing: in this run distillation did harm."
    elif all(summary.verdict(model) for model in summary.of("distilled")):
        answer = f"It can't be said: the distilled student is {summary.verdict(summary.of('distilled')[0])}."
    elif p_value is None:
        answer = "It can't be said: the seeds leave no test."
    elif p_value >= SIGNIFICANCE:
        answer = "Not shown: the difference can be chance."
    elif direction == 0:
        answer = "It can't be said: accuracy and MCC don't point the same way."
    elif direction > 0:
        answer = "It helped in this run."
    else:
        answer = "It can't be said: the baseline learnt nothing to compare with."
    if over_seeds.seeds == 1:
        only = next(iter(summary.comparisons.values()))
        told_apart = examples_told_apart(only, multi_label=summary.data.multi_label)
        yield f"**What the teacher added:** {answer} {told_apart[0].upper()}{told_apart[1:]}."
        yield "One seed shows one case: another seed may turn out differently. A claim needs several seeds."
        return
    differs = f"MCC differs from the baseline's by {over_seeds.mean_difference:+.3f}"
    how = f"in each of the {over_seeds.seeds} seeds"
    if over_seeds.p_value is not None:
        how = f"on average over {over_seeds.seeds} seeds (paired t-test, {probability(over_seeds.p_value)})"
    yield f"**What the teacher added:** {answer} {differs} {how}."


def examples_told_apart(
    test: McNemar, first: str = "the distilled student", second: str = "the baseline", *, multi_label: bool = False
) -> str:
    """Report the test on examples of a single pair of models."""
    better = "has the better labels for" if multi_label else "alone is right on"
    other = "" if multi_label else "alone on "
    return (
        f"{first} {better} {numbered(test.first_only, 'example')}, {second} {other}{test.second_only} "
        f"({test_name(multi_label)}, {probability(test.p_value)})"
    )


def test_name(multi_label: bool) -> str:
    """Name the test that compares two models by their answers, see `evaluation.significance.mcnemar`."""
    return "sign test over the texts" if multi_label else "McNemar's test"


def _savings(summary: Summary) -> Iterator[str]:
    teacher, role = summary.teacher, summary.recommended_role
    if teacher is None:
        return
    if teacher.trainable_parameters < teacher.parameters:
        share = teacher.trainable_parameters / teacher.parameters
        yield (
            f"**Tuning** trains {magnitude(teacher.trainable_parameters)} of the teacher's "
            f"{magnitude(teacher.parameters)} parameters ({percent(share)}): {percent(1 - share)} fewer."
        )
    if role is None or role == "baseline":
        return
    students, parts = summary.of(role), []
    if teacher.texts_per_second:
        faster = fmean(model.texts_per_second for model in students) / teacher.texts_per_second
        parts.append(f"is {_times(faster)} times as fast as the teacher")
    if teacher.parameters and students[0].parameters:
        fewer = teacher.parameters / students[0].parameters
        size = f"{_times(fewer)} times fewer" if fewer >= 1 else f"{_times(1 / fewer)} times as many"
        parts.insert(0, f"has {size} parameters")
    # A share of the teacher's score is praise, which only a teacher that is better than its students allows.
    if summary.verdict(teacher) is None and any(summary.verdict(student) is None for student in students):
        kept = summary.spread(role, "mcc").mean / summary.spread("teacher", "mcc").mean
        whose = "teacher's MCC" if len(summary.of("teacher")) == 1 else "teachers' mean MCC"
        if kept <= 1:
            parts.append(f"reaches {percent(kept)} of the {whose}")
    if parts:
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
        yield f"**The {ROLE_NAMES[role].lower()}** {listed}."


def _time_limit(summary: Summary) -> Iterator[str]:
    if (limit := summary.time_limit) is not None:
        left_out = f"To keep to it: {'; '.join(limit.changes)}." if limit.changes else "Nothing was left out."
        yield f"**Time limit:** {duration(limit.seconds)}, of which {duration(limit.used)} are used. {left_out}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
