"""How long a run takes, which plan fits a time limit, and how much of that is used."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from potstill.config import PotstillConfig, RNNConfig, TrainingConfig, TransformerConfig, with_settings
from potstill.config.presets import PRESETS
from potstill.data import Corpus
from potstill.errors import ArtifactError
from potstill.experiment.probe import Speed
from potstill.experiment.run_directory import BUDGET_FILE
from potstill.experiment.students import roles_of, workers_for
from potstill.predict.wording import numbered
from potstill.store.atomic import read_json, write_json
from potstill.training.deadline import SCORING

_STUDENT_SECONDS: Final = 4.0
"""Around a student's epochs, of an idle processor: its process starts, its embeddings are reduced, its graph is
proved."""
_REPORT_SECONDS: Final = 5.0
"""The same for plots and report."""
_LINEAR_MODELS: Final = 7
"""Linear models on all texts that the report fits: five on four fifths of them, and those of the learning curve. Of
texts with several labels it fits none."""
_NGRAM_SHARE: Final = 0.25
"""Time that an n-gram student takes against the recurrent student beside it."""
_LANGUAGE_MODELLING: Final = 2.0
"""Work of a student's epoch of language modelling against one of classification."""
_FAST_STEPS: Final = int(PRESETS["fast"]["teacher"]["training"]["min_steps"])
"""Steps of a teacher's training that are given up last."""
_FEWEST_STEPS: Final = 50
"""With fewer it is left out. (Of customer reviews, 34 steps were enough for 87 % of 60 validation texts.)"""
_FEWER: Final = 3 / 4
"""Share of the teacher's epochs that the next smaller plan keeps, if that is less than one epoch fewer."""
_LABELS: Final = {
    "augment.sampled": "sampled texts",
    "augment.perturbed": "perturbed texts",
    "augment.words": "words",
    "augment.spans": "spans",
    "teacher.seeds": "teachers",
    "student.seeds": "student seeds",
    "teacher.training.epochs": "teacher epochs",
}
"""What a plan may reduce, and what it is called."""
_BEAT_SECONDS: Final = 2.0
"""How often the time used is written down: a run that is killed loses count of no more."""


@dataclass(frozen=True)
class Estimate:
    """What the steps of a run take, in seconds.

    Attributes:
        distilled: To train one distilled student; 0 where no teacher is tuned.
        baseline: To train one baseline.
        ngram: To train one n-gram student; 0 where there is none.
        seeds: How many students of each kind are trained.
        workers: How many of them at once.
        finish: To fit the report's linear models, draw its plots and write it.
        tuning: To tune one teacher; its validation is part of that.
        scoring: To score one teacher on the test split.
        sampling: To sample texts, the language model's tuning included.
        labelling: To label all texts with all teachers that teach.
        teachers: How many teachers are tuned.
    """

    distilled: float
    baseline: float
    seeds: int
    workers: int
    finish: float
    tuning: float = 0.0
    scoring: float = 0.0
    sampling: float = 0.0
    labelling: float = 0.0
    teachers: int = 0
    ngram: float = 0.0

    @classmethod
    def of(cls, config: PotstillConfig, corpus: Corpus, speed: Speed, *, with_teacher: bool = True) -> Estimate:
        """Estimate the run of `config` at the speed that was measured."""
        augment, training, student = config.augment, config.student.training, config.student
        texts = len(corpus.train)
        made = 0 if corpus.in_pairs else augment.words + augment.spans
        more = augment.sampled + augment.perturbed + _texts_of_files(config, corpus)
        longer: float = _epochs(training, texts + more + made)
        if isinstance(student, RNNConfig):
            longer += _LANGUAGE_MODELLING * student.pretraining.epochs
        epochs = _epochs(training.model_copy(update={"epochs": config.baseline.epochs or training.epochs}), texts)
        linear = 0 if corpus.is_multi_label else _LINEAR_MODELS
        roles = roles_of(config, with_teacher=with_teacher)
        around = _STUDENT_SECONDS * speed.load + SCORING * len(corpus.test) * speed.text
        estimate = cls(
            distilled=around + speed.start + longer * ((texts + more) * speed.text + made * speed.snippet),
            baseline=around + epochs * texts * speed.text,
            seeds=len(student.seeds),
            workers=workers_for(config, len(roles) * len(student.seeds), 2 * texts + more + made),
            finish=_REPORT_SECONDS * speed.load + linear * speed.linear,
        )
        share = _NGRAM_SHARE if "ngram" in roles else 0.0
        if not with_teacher:
            return replace(estimate, distilled=0.0, ngram=share * estimate.baseline)
        estimate = replace(estimate, ngram=share * estimate.distilled)
        if not isinstance(config.teacher, TransformerConfig):
            return replace(estimate, teachers=len(config.teacher.seeds))
        validation, test, snippet = speed.lengths
        validation *= len(corpus.validation) * speed.reading
        asked = len(config.teacher.seeds) if config.distillation.teachers == "average" else 1
        labelling = asked * ((texts + more + made * snippet) * speed.reading + validation)
        writing = speed.opening + augment.training.epochs * texts * speed.tuning + augment.sampled * speed.sampling
        return replace(
            estimate,
            tuning=speed.opening + _epochs(config.teacher.training, texts) * (texts * speed.tuning + validation),
            scoring=len(corpus.test) * test * speed.reading,
            sampling=writing if augment.sampled else 0.0,
            labelling=0.0 if config.distillation.alpha == 1 else labelling,
            teachers=len(config.teacher.seeds),
        )

    @property
    def students(self) -> float:
        """All students, several at once."""
        longest = max(self.distilled, self.baseline)
        return max(longest, self.seeds * (self.distilled + self.ngram + self.baseline) / self.workers)

    @property
    def after_teachers(self) -> float:
        """All that follows the teachers."""
        return self.sampling + self.labelling + self.students + self.finish

    @property
    def total(self) -> float:
        """The whole run."""
        return self.teachers * (self.tuning + self.scoring) + self.after_teachers


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        config: The settings that fit.
        estimate: How long that takes.
        settings: What differs from the settings asked for, by dotted name.
        with_teacher: Whether there is time for a teacher.
        changes: What was left out, in words.
    """

    config: PotstillConfig
    estimate: Estimate
    settings: dict[str, Any] = field(default_factory=dict)
    with_teacher: bool = True
    changes: tuple[str, ...] = ()


def plan_within(config: PotstillConfig, corpus: Corpus, speed: Speed, seconds: float) -> Plan:
    """Return the richest plan that fits the time; the smallest one where none does.

    In this order it leaves out: sampled texts, further teachers, words and spans, student seeds, teacher epochs, the
    rest of the words and spans, of the teacher's first epoch what does not fit, the teacher.
    """
    for settings in _reductions(config, corpus):
        plan = _plan(config, corpus, speed, settings)
        if plan.estimate.total <= seconds:
            return plan
    estimate, teacher = plan.estimate, plan.config.teacher
    if not isinstance(teacher, TransformerConfig):
        return plan  # leaving it out would save no time
    left, texts = seconds - (estimate.total - estimate.tuning), len(corpus.train)
    planned = _epochs(teacher.training, texts) * _steps(teacher.training, texts)
    taken = int(left / estimate.tuning * planned)
    if taken >= _FEWEST_STEPS:
        cut = f"about {taken:,} instead of {planned:,} steps of the teacher"
        return replace(plan, estimate=replace(estimate, tuning=left), changes=(*plan.changes, cut))
    for count in range(len(config.student.seeds), 0, -1):
        fewer = count < len(config.student.seeds)
        settings = {"student.seeds": config.student.seeds[:count]} if fewer else {}
        plan = _plan(config, corpus, speed, settings, with_teacher=False)
        if plan.estimate.total <= seconds:
            break
    return plan


def resumed(config: PotstillConfig, corpus: Corpus, speed: Speed, seconds: float, kept: dict[str, Any]) -> Plan:
    """Return the plan that an earlier call has made and kept; of a single teacher's tuning what fits."""
    smaller, with_teacher = with_settings(config, kept["settings"]), kept["with_teacher"]
    estimate = Estimate.of(smaller, corpus, speed, with_teacher=with_teacher)
    left = seconds - (estimate.total - estimate.tuning)
    if estimate.teachers == 1 and 0 < left < estimate.tuning:
        estimate = replace(estimate, tuning=left)
    return Plan(smaller, estimate, kept["settings"], with_teacher, tuple(kept["changes"]))


def _plan(
    config: PotstillConfig, corpus: Corpus, speed: Speed, settings: dict[str, Any], *, with_teacher: bool = True
) -> Plan:
    smaller = with_settings(config, settings)
    estimate = Estimate.of(smaller, corpus, speed, with_teacher=with_teacher)
    changes = [
        f"{_number(value)} instead of {_asked(config, corpus, name)} {_LABELS[name]}"
        for name, value in settings.items()
        if name in _LABELS
    ]
    if not with_teacher:
        changes.insert(0, f"no teacher: {_FEWEST_STEPS} steps of its training do not fit")
    return Plan(smaller, estimate, settings, with_teacher, tuple(changes))


def _reductions(config: PotstillConfig, corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Yield settings to change, none at first, then more and more."""
    changes: dict[str, Any] = {}
    yield changes

    def shares(names: tuple[str, ...], *kept: float) -> Iterator[dict[str, Any]]:
        asked = {name: count for name in names if (count := getattr(config.augment, name))}
        for share in kept if asked else ():
            changes.update({f"augment.{name}": int(share * count) for name, count in asked.items()})
            yield changes

    def seeds(section: str, asked: tuple[int, ...]) -> Iterator[dict[str, Any]]:
        for count in range(len(asked) - 1, 0, -1):
            changes[f"{section}.seeds"] = asked[:count]
            yield changes

    made = ("perturbed",) if corpus.in_pairs else ("words", "spans", "perturbed")
    yield from shares(("sampled",), 1 / 2, 1 / 4, 0)
    yield from seeds("teacher", config.teacher.seeds)
    yield from shares(made, 1 / 2, 1 / 4)
    yield from seeds("student", config.student.seeds)
    if isinstance(config.teacher, TransformerConfig):
        training, texts = config.teacher.training, len(corpus.train)
        least = _epochs(training.model_copy(update={"epochs": 1, "min_steps": _FAST_STEPS}), texts)
        epochs = _epochs(training, texts)
        changes |= {} if epochs <= least else {"teacher.training.min_steps": 0}
        while epochs > least:
            epochs = max(least, min(epochs - 1, round(_FEWER * epochs)))
            changes["teacher.training.epochs"] = epochs
            yield changes
    yield from shares(made, 1 / 8, 0)


def _number(value: Any) -> str:
    return f"{len(value)}" if isinstance(value, tuple) else f"{value:,}"


def _asked(config: PotstillConfig, corpus: Corpus, name: str) -> str:
    if name == "teacher.training.epochs" and isinstance(config.teacher, TransformerConfig):
        return _number(_epochs(config.teacher.training, len(corpus.train)))
    return _number(attrgetter(name)(config))


def _steps(training: TrainingConfig, texts: int) -> int:
    """Count the optimiser steps of an epoch."""
    return math.ceil(texts / (training.batch_size * training.gradient_accumulation_steps))


def _epochs(training: TrainingConfig, texts: int) -> int:
    """Count the epochs, as `fit` does."""
    return max(training.epochs, math.ceil(training.min_steps / _steps(training, texts)))


def _texts_of_files(config: PotstillConfig, corpus: Corpus) -> int:
    """Estimate the number of unlabelled texts in files by their sizes."""
    size = sum(len(text.encode("utf-8")) for text in corpus.train.all_texts) / len(corpus.train)
    return round(sum(Path(name).stat().st_size for name in config.augment.files) / size)


def described(plan: Plan, corpus: Corpus) -> str:
    """Say what the run is going to do."""
    config, seeds = plan.config, len(plan.config.student.seeds)
    augment, teachers = config.augment, len(config.teacher.seeds)
    more = augment.most_made(in_pairs=corpus.in_pairs)
    unlabelled = [f"{more:,} more texts at most"] * (more > 0) + [f"the texts of {name}" for name in augment.files]
    is_tuned = isinstance(config.teacher, TransformerConfig)
    roles = roles_of(config, with_teacher=plan.with_teacher)
    ngrams = f" and {numbered(seeds, 'n-gram student')}" if "ngram" in roles else ""
    students = f"{numbered(seeds, 'student')}{ngrams}"
    taught = (
        f"train {numbered(teachers, 'teacher')} on {len(corpus.train):,} labelled texts"
        if is_tuned
        else f"take {config.teacher.describe()} as the teacher",
        f"let the teacher label {'these' if is_tuned else f'{len(corpus.train):,} texts'}"
        f"{''.join(f', {one}' for one in unlabelled)}",
        f"train {students} on labels and answers, and {numbered(seeds, 'baseline')} on labels alone",
    )
    alone = (f"train {students} on {len(corpus.train):,} labelled texts, without a teacher",)
    scored = f"score all, and a linear model, on {numbered(len(corpus.test), 'test text')}"
    return f"it will {'; '.join((*(taught if plan.with_teacher else alone), scored))}"


class Budget:
    """The time that a run may take. It is written to `budget.json`, so that a resumed run counts the time used before.

    Attributes:
        limit: Seconds from the run's begin to its end, pauses between interruption and resumption left out; None: there
            is no limit.
        kept: The plan that an earlier call has made; None: there is none.
    """

    def __init__(self, directory: Path, limit: float | None, started: float) -> None:
        self.limit, self._path, self._started = limit, directory / BUDGET_FILE, started
        self._before, self.kept = 0.0, None
        if limit is not None and self._path.is_file():
            found = read_json(self._path)
            self._before, self.kept = float(found["used"]), found["plan"]

    @property
    def used(self) -> float:
        """Seconds used, those before an interruption included."""
        return self._before + time.time() - self._started

    def keep(self, plan: Plan) -> None:
        """Write down the plan, for a resumed run."""
        self.kept = {name: getattr(plan, name) for name in ("settings", "with_teacher", "changes")}
        self._write()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Write down the time used, now and then and at the end."""
        if self.limit is None:
            yield
            return
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_SECONDS):
                with suppress(ArtifactError):  # the work itself will say what is wrong with the disk
                    self._write()

        self._write()
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with suppress(ArtifactError):
                self._write()

    def ends(self, part: float, rest: float) -> float | None:
        """Return by when a step has to end, as `time.time` counts; None: there is no limit for it.

        Args:
            part: Seconds that the step takes by estimate; 0: they are not known, or there are none.
            rest: The same for this step and all that follow, which share what is left in proportion.
        """
        if self.limit is None or part == 0:
            return None
        return time.time() + max(0.0, self.limit - self.used) * part / rest

    def _write(self) -> None:
        content: dict[str, Any] = {"limit": self.limit, "used": self.used, "plan": self.kept}
        write_json(self._path, content)
