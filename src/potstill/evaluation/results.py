"""What a run found out, as plain data: `Summary` is the content of `summary.json` and all that a report needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pydantic_core
from pydantic import TypeAdapter, ValidationError

from potstill.data.examples import Corpus
from potstill.errors import ArtifactError
from potstill.evaluation.calibration import Calibration
from potstill.evaluation.comparison import McNemar, PairedTest, majority_verdict, paired_test
from potstill.evaluation.intervals import Intervals
from potstill.evaluation.metrics import Metrics, compute_metrics

Role = Literal["teacher", "distilled", "baseline"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class DataSummary:
    """The task and the sizes of its parts.

    Attributes:
        name: What the data is called.
        source: Where it came from.
        label_names: Name of each class.
        train: Examples that gradients are computed from.
        selection: Examples that choose epochs and the teacher.
        evaluation: Examples that the reported numbers come from.
        majority_label: The most frequent class of the evaluation split.
        majority: What always answering `majority_label` scores on the evaluation split.
        selection_majority_accuracy: Share of the selection split's most frequent class.
    """

    name: str
    source: str
    label_names: tuple[str, ...]
    train: int
    selection: int
    evaluation: int
    majority_label: str
    majority: Metrics
    selection_majority_accuracy: float

    @classmethod
    def of(cls, corpus: Corpus) -> DataSummary:
        """Describe `corpus`."""
        labels = corpus.evaluation.labels
        majority = int(np.bincount(labels).argmax())
        return cls(
            name=corpus.name,
            source=corpus.source,
            label_names=corpus.label_names,
            train=len(corpus.train),
            selection=len(corpus.selection),
            evaluation=len(corpus.evaluation),
            majority_label=corpus.label_names[majority],
            majority=compute_metrics(labels, np.full_like(labels, majority), corpus.num_classes),
            selection_majority_accuracy=float(np.bincount(corpus.selection.labels).max() / len(corpus.selection)),
        )


@dataclass(frozen=True)
class ModelResult:
    """One trained model, measured on the evaluation split.

    Attributes:
        role: Which of the three models.
        seed: The seed it was trained with.
        parameters: All parameters, frozen ones included.
        trainable_parameters: Those that training changes.
        bytes_on_disk: Size of what has to be kept to predict with it.
        train_seconds: Time that training took.
        sentences_per_second: Speed of prediction.
        metrics: Scores on the evaluation split.
        intervals: 95 % interval of each score.
        selection_mcc: MCC on the selection split at the epoch that was kept.
        best_epoch: The epoch that was kept, counted from 1.
        epochs: Epochs that were run.
        history: One record per epoch, as in `history.jsonl`.
        calibration: How good its probabilities are on the evaluation split.
        threshold: What the second class's probability has to exceed to be the answer; None: the most probable class is.
        argmax_metrics: Scores of the most probable class as the answer, where a threshold decides; else None.
    """

    role: Role
    seed: int
    parameters: int
    trainable_parameters: int
    bytes_on_disk: int
    train_seconds: float
    sentences_per_second: float
    metrics: Metrics
    intervals: Intervals
    selection_mcc: float
    best_epoch: int
    epochs: int
    history: tuple[dict[str, Any], ...]
    calibration: Calibration
    threshold: float | None = None
    argmax_metrics: Metrics | None = None


@dataclass(frozen=True)
class EnsembleResult:
    """Several teachers that judge as one, their probabilities averaged, measured on the evaluation split.

    Attributes: As those of `ModelResult`.
    """

    metrics: Metrics
    intervals: Intervals
    calibration: Calibration


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
class Aggregate:
    """One role over its seeds; `ece` and `nll` are those of `Calibration`, None where there are no probabilities."""

    accuracy: Spread
    mcc: Spread
    f1: Spread
    parameters: int
    trainable_parameters: int
    ece: Spread | None = None
    nll: Spread | None = None

    @classmethod
    def of(
        cls,
        metrics: Sequence[Metrics],
        parameters: int,
        trainable_parameters: int,
        calibrations: Sequence[Calibration] = (),
    ) -> Aggregate:
        """Summarise the scores of one or more seeds."""
        return cls(
            accuracy=Spread.of([m.accuracy for m in metrics]),
            mcc=Spread.of([m.mcc for m in metrics]),
            f1=Spread.of([m.f1 for m in metrics]),
            parameters=parameters,
            trainable_parameters=trainable_parameters,
            ece=Spread.of([calibration.ece for calibration in calibrations]) if calibrations else None,
            nll=Spread.of([calibration.nll for calibration in calibrations]) if calibrations else None,
        )


@dataclass(frozen=True)
class Summary:
    """Everything a run found out. What follows from the fields is computed, never stored twice.

    Attributes:
        data: The task.
        models: Every trained model, in the order of its seeds.
        teacher_seed: Seed of the teacher that taught, the best one on the selection split; with
            `distillation.teachers: average`, of the best one of those that taught together.
        comparisons: Distilled student against the baseline of the same seed, by seed.
        command: Command line that repeats the run.
        config: All settings, as `PotstillConfig.model_dump(mode="json")` gives them.
        environment: Versions and hardware, by name.
        transfer: Number of texts of the transfer set by kind of source, and of those left out by reason
            (`left out: …`); None where there was no transfer set.
        ensemble: The teachers as one, where several taught together.
    """

    data: DataSummary
    models: tuple[ModelResult, ...]
    teacher_seed: int
    comparisons: dict[int, McNemar]
    command: str
    config: dict[str, Any]
    environment: dict[str, Any]
    transfer: dict[str, int] | None = None
    ensemble: EnsembleResult | None = None

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that were trained, in their usual order."""
        return tuple(role for role in ROLES if self.of(role))

    def of(self, role: Role) -> tuple[ModelResult, ...]:
        """Return the models of one role."""
        return tuple(model for model in self.models if model.role == role)

    @property
    def teacher(self) -> ModelResult | None:
        """The teacher that taught."""
        return next((model for model in self.of("teacher") if model.seed == self.teacher_seed), None)

    @property
    def aggregate(self) -> dict[str, Aggregate]:
        """Each role over its seeds, and the answer that needs no model under "majority"."""
        roles: dict[str, Aggregate] = {}
        for role in self.roles:
            models = self.of(role)
            roles[role] = Aggregate.of(
                [model.metrics for model in models],
                models[0].parameters,
                models[0].trainable_parameters,
                [model.calibration for model in models],
            )
        return roles | {"majority": Aggregate.of([self.data.majority], 0, 0)}

    @property
    def judges(self) -> int | None:
        """How many of the teachers that taught together judged each text of the transfer set; None: all, or no one."""
        judges: int | None = self.config["distillation"].get("judges")  # older runs know no such setting
        shared = judges is not None and judges < len(self.of("teacher"))
        return judges if shared and self.ensemble is not None and self.transfer is not None else None

    @property
    def paired_test(self) -> PairedTest | None:
        """MCC of the distilled students against the baselines, over the seeds that both have."""
        distilled = {model.seed: model.metrics.mcc for model in self.of("distilled")}
        baseline = {model.seed: model.metrics.mcc for model in self.of("baseline")}
        return paired_test(distilled, baseline)

    def verdict(self, model: ModelResult) -> str | None:
        """Say so when `model` is no better than always answering the majority class."""
        return majority_verdict(model.intervals, self.data.majority_label)

    def to_json(self) -> str:
        """Write all fields and what follows from them (for readers of the file; `from_json` computes it anew)."""
        derived = {
            "aggregate": self.aggregate,
            "paired_test": self.paired_test,
            "verdicts": [{"role": m.role, "seed": m.seed, "verdict": self.verdict(m)} for m in self.models],
        }
        return pydantic_core.to_json(vars(self) | derived, indent=2, inf_nan_mode="null").decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: The text is no summary.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise ArtifactError(f"this is no summary of a run; write it again with the report.\n{error}") from None
