"""What a run found out, as plain data: `Summary` is the content of `summary.json` and all that a report needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, TypeVar

import numpy as np
import pydantic_core
from pydantic import TypeAdapter, ValidationError

from potstill.data.encoded import always, majority_share, most_frequent
from potstill.data.examples import Corpus
from potstill.errors import ArtifactError
from potstill.evaluation.calibration import Calibration
from potstill.evaluation.metrics import Intervals, Metrics, compute_metrics
from potstill.evaluation.significance import SIGNIFICANCE, McNemar, PairedTest, majority_verdict, paired_test
from potstill.predict.decision import Threshold
from potstill.predict.directory import RECOMMENDED, ROLES, Role

Headline = Literal["accuracy", "micro_f1"]
T = TypeVar("T")


@dataclass(frozen=True)
class DataSummary:
    """The task: its name, where it came from, its classes and the sizes of its splits.

    Where `multi_label`, a text may have any number of the classes.

    `majority` is what always answering `majority_label`, the most frequent class of the test split, scores there;
    `positive` is the index of the class whose F1 is reported; None: the mean of all. `labels_by_teacher`: no human gave
    a label, so that all scores are agreement with the teacher.
    """

    name: str
    source: str
    label_names: tuple[str, ...]
    train: int
    validation: int
    test: int
    majority_label: str
    majority: Metrics
    validation_majority_accuracy: float
    positive: int | None = None
    labels_by_teacher: bool = False
    multi_label: bool = False

    @property
    def headline(self) -> Headline:
        """The score that comes first: right answers where a text has one label, else the F1 of all labels."""
        return "micro_f1" if self.multi_label else "accuracy"

    @classmethod
    def of(cls, corpus: Corpus) -> DataSummary:
        """Describe `corpus`."""
        labels = corpus.test.labels
        majority = most_frequent(labels)
        return cls(
            name=corpus.name,
            source=corpus.source,
            label_names=corpus.label_names,
            train=len(corpus.train),
            validation=len(corpus.validation),
            test=len(corpus.test),
            majority_label=corpus.label_names[majority],
            majority=compute_metrics(labels, always(majority, labels), corpus.num_classes),
            validation_majority_accuracy=majority_share(corpus.validation.labels),
            positive=corpus.positive,
            labels_by_teacher=corpus.labels_by_teacher,
            multi_label=corpus.is_multi_label,
        )


@dataclass(frozen=True)
class ModelResult:
    """One model, measured on the test split.

    Attributes:
        description: What it is, in one phrase.
        parameters: All parameters, frozen ones included; 0 where it has none, as a file of probabilities.
        bytes_on_disk: Size of what has to be kept to predict with it.
        texts_per_second: Speed of prediction, end to end, from strings; 0: not known, since its answers are looked up.
        intervals: 95 % interval of each score in `metrics`.
        validation_mcc: MCC on the validation split at `best_epoch`, the epoch that was kept, counted from 1; 0 where
            nothing was trained.
        epochs: Epochs that were run; `history` has a record of each, as in `history.jsonl`.
        threshold: What the second class's probability has to exceed to be the answer; None: the most probable class is.
            Where a text may have any number of classes, what each class's probability has to exceed.
        latency_ms: Milliseconds from one text to its answer, the median; None in summaries from before it was measured.
    """

    role: Role
    seed: int
    description: str
    parameters: int
    trainable_parameters: int
    bytes_on_disk: int
    train_seconds: float
    texts_per_second: float
    metrics: Metrics
    intervals: Intervals
    validation_mcc: float
    best_epoch: int
    epochs: int
    history: tuple[dict[str, Any], ...]
    calibration: Calibration
    threshold: Threshold = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class EnsembleResult:
    """Several teachers as one, their probabilities averaged; the fields are those of `ModelResult`."""

    metrics: Metrics
    intervals: Intervals
    calibration: Calibration


@dataclass(frozen=True)
class LinearResult:
    """The linear model beside the networks; the fields are those of `ModelResult`. It has no probabilities."""

    metrics: Metrics
    intervals: Intervals
    parameters: int
    bytes_on_disk: int
    train_seconds: float
    texts_per_second: float


@dataclass(frozen=True)
class TimeLimit:
    """A run's time limit.

    Attributes:
        seconds: The limit.
        used: Seconds that the run took, up to its report; pauses between interruption and resumption left out.
        changes: What was left out to keep to it, in words.
    """

    seconds: float
    used: float
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """A score over seeds: its mean, its sample standard deviation (0 for one seed) and the score of each seed."""

    mean: float
    std: float
    seeds: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise the scores of one or more seeds."""
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return cls(float(np.mean(values)), std, tuple(values))


@dataclass(frozen=True)
class Summary:
    """Everything a run found out. What follows from the fields is computed, never stored twice.

    Attributes:
        models: Every trained model, in the order of its seeds.
        teacher_seed: Seed of the teacher that taught, the best one on the validation split (of those that taught
            together); None: there was none.
        comparisons: Distilled student against the baseline of the same seed, by seed.
        config: All settings, as `PotstillConfig.model_dump(mode="json")` gives them.
        environment: Versions and hardware, by name.
        unlabelled: Number of texts of the unlabelled set by kind of source, and of those left out by reason
            (`left out: …`); None where there was no unlabelled set.
        ensemble: The teachers as one, where several taught together.
        linear: The linear model; None in summaries from before there was one.
        against_linear: Student to use of each seed against the linear model, by seed.
        time_limit: The limit that the run had to keep to; None: there was none.
    """

    data: DataSummary
    models: tuple[ModelResult, ...]
    teacher_seed: int | None
    comparisons: dict[int, McNemar]
    command: str
    config: dict[str, Any]
    environment: dict[str, Any]
    unlabelled: dict[str, int] | None = None
    ensemble: EnsembleResult | None = None
    linear: LinearResult | None = None
    against_linear: dict[int, McNemar] = field(default_factory=dict)
    time_limit: TimeLimit | None = None

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that were trained, in their usual order."""
        return tuple(role for role in ROLES if self.of(role))

    def of(self, role: Role) -> tuple[ModelResult, ...]:
        """Return the models of one role."""
        return tuple(model for model in self.models if model.role == role)

    def spread(self, role: Role, score: str) -> Spread:
        """Return a role's "accuracy", "mcc", "f1" or "micro_f1" over its seeds."""
        return Spread.of([getattr(model.metrics, score) for model in self.of(role)])

    @property
    def teacher(self) -> ModelResult | None:
        """The teacher that taught."""
        return next((model for model in self.of("teacher") if model.seed == self.teacher_seed), None)

    @property
    def paired_test(self) -> PairedTest | None:
        """MCC of the distilled students against the baselines, over the seeds that both have."""
        distilled = {model.seed: model.metrics.mcc for model in self.of("distilled")}
        baseline = {model.seed: model.metrics.mcc for model in self.of("baseline")}
        return paired_test(distilled, baseline)

    @property
    def distillation_gain(self) -> tuple[float, float | None] | None:
        """How far the distilled students are ahead in MCC, and the p-value; 0 where the tests contradict."""
        over_seeds = self.paired_test
        if over_seeds is None or not self.comparisons:
            return None
        if over_seeds.seeds > 1:
            return over_seeds.mean_difference, over_seeds.p_value
        only = next(iter(self.comparisons.values()))
        # McNemar's test counts right answers, which always saying the majority class collects too: without MCC on the
        # same side it is no sign of learning.
        agree = (only.first_only - only.second_only) * over_seeds.mean_difference > 0
        return over_seeds.mean_difference if agree else 0.0, only.p_value

    @property
    def distillation_harmed(self) -> bool:
        """Whether the baselines learnt something, and the distilled students clearly less."""
        found = self.distillation_gain
        if found is None or all(self.verdict(model) for model in self.of("baseline")):
            return False
        direction, p_value = found
        return direction < 0 and p_value is not None and p_value < SIGNIFICANCE

    @property
    def recommended(self) -> ModelResult | None:
        """The student that `predict`, `serve` and `export` use: `find_student` (`predict/directory.py`) finds it."""
        students = () if (role := self.recommended_role) is None else self.of(role)
        return max(
            sorted(students, key=lambda one: f"seed-{one.seed}"), key=lambda one: one.validation_mcc, default=None
        )

    @property
    def recommended_role(self) -> Role | None:
        """The kind of student to use: the best on the validation split, by its mean MCC, of those within the limits.

        The baseline is one to choose from where distillation did harm, and the distilled student is not, or where there
        is no distilled student. Where no student is within the limits, it is the smallest.
        """
        left_out = "distilled" if self.distillation_harmed or not self.of("distilled") else "baseline"
        students = [role for role in self.roles if role not in ("teacher", left_out)]
        sizes = {role: fmean(model.bytes_on_disk for model in self.of(role)) for role in students}
        within = [role for role in students if not self.over_limits(role)]
        if not within:
            return min(students, key=sizes.__getitem__, default=None)
        return max(within, key=lambda role: (fmean(one.validation_mcc for one in self.of(role)), -sizes[role]))

    def over_limits(self, role: Role) -> list[str]:
        """Say which of the limits `student.max_size` and `student.max_latency` the models of a role are above."""
        limits, models = self.config.get("student", {}), self.of(role)
        size, latency = fmean(one.bytes_on_disk for one in models), fmean(one.latency_ms or 0.0 for one in models)
        found = {"max_size": (size / 1e6, "MB"), "max_latency": (latency, "ms")}
        return [
            f"{value:.3g} {unit}, above {limit:g} {unit}"
            for name, (value, unit) in found.items()
            if (limit := limits.get(name)) is not None and value > limit
        ]

    @property
    def gap_closed(self) -> float | None:
        """Share of the way from the linear model's headline score to the teacher's that the students to use go.

        None where there is no such way: the linear model is as good as the teacher, or one of them is missing.
        """
        if self.linear is None or self.teacher is None or (role := self.recommended_role) is None:
            return None
        score = self.data.headline
        start = getattr(self.linear.metrics, score)
        way = getattr((self.ensemble or self.teacher).metrics, score) - start
        return (self.spread(role, score).mean - start) / way if way > 0 else None

    def verdict(self, model: ModelResult) -> str | None:
        """Say so when `model` is no better than always answering the majority class."""
        return majority_verdict(model.intervals, self.data.majority_label)

    def to_json(self) -> str:
        """Write all fields and what follows from them (for readers of the file; `from_json` computes it anew)."""
        answers = {name: Spread.of([score]) for name, score in self.data.majority.of_answers.items()}
        majority = answers | {"parameters": 0, "trainable_parameters": 0, "ece": None, "nll": None}
        derived = {
            "aggregate": {role: self._aggregate(role) for role in self.roles} | {"majority": majority},
            "paired_test": self.paired_test,
            "gap_closed": self.gap_closed,
            RECOMMENDED: self.recommended_role,
            "verdicts": [{"role": m.role, "seed": m.seed, "verdict": self.verdict(m)} for m in self.models],
        }
        return pydantic_core.to_json(vars(self) | derived, indent=2, inf_nan_mode="null").decode() + "\n"

    def _aggregate(self, role: Role) -> dict[str, Any]:
        models = self.of(role)
        return {name: self.spread(role, name) for name in models[0].metrics.of_answers} | {
            "parameters": models[0].parameters,
            "trainable_parameters": models[0].trainable_parameters,
            "ece": Spread.of([model.calibration.ece for model in models]),
            "nll": Spread.of([model.calibration.nll for model in models]),
        }

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: The text is no summary.
        """
        return parse_as(cls, text, "this is no summary of a run; write it again with the report.")


def parse_as(kind: type[T], text: str | bytes, refusal: str) -> T:
    """Read JSON as a dataclass; an ArtifactError begins with the `refusal` where it is none."""
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{refusal}\n{error}") from None
