"""The distillation set: texts with the teacher's logits, which are all that a student learns of its teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from potstill.augment.build import held_out_key
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig, TransformerConfig
from potstill.console import print_line, warn
from potstill.data import Corpus, Examples
from potstill.data.columns import listed
from potstill.data.encoded import class_counts
from potstill.errors import ArtifactError, ConfigError, DataError
from potstill.evaluation import Metrics, compute_metrics
from potstill.evaluation.measure import require_same_kind, require_same_task
from potstill.predict.decision import predict_class, probabilities_of
from potstill.predict.wording import numbered
from potstill.teacher.base import Teacher
from potstill.teacher.registry import teacher_class
from potstill.training.deadline import seconds_left

Logits = NDArray[np.float32]

_FIRST: Final = 256
"""Texts that are labelled before the speed is known."""
_FEWEST: Final = 32
"""Texts for which a teacher is asked once more."""
_SHOWN: Final = 8
"""Classes whose texts are counted in a line."""
_SHARE: Final = 0.5
"""Share of the time left that the next texts may take: their speed may be another."""


@dataclass(frozen=True)
class DistillationSet:
    """The labelled training texts, then the unlabelled ones, with a teacher's logits.

    Attributes:
        logits: The teacher's of these, (texts, classes), NaN where it has not answered; None where the loss does not
            ask for them.
        validation_logits: The teacher's of the validation split, likewise.
        backbone: Name of a pretrained model whose embeddings a student may begin with; None: the teacher has none.
        tokenizer_name: Name of that model's tokenizer.
    """

    texts: Examples
    logits: Logits | None
    validation_logits: Logits | None
    backbone: str | None
    tokenizer_name: str | None

    @property
    def unanswered(self) -> int:
        """Count the texts that the teacher has not answered; they teach by their labels alone."""
        return 0 if self.logits is None else int(np.isnan(self.logits).any(axis=1).sum())

    def with_unlabelled(self, unlabelled: UnlabelledSet, teacher: Teacher) -> DistillationSet:
        """Add an unlabelled set, which `teacher` labels unless it has done so."""
        if self.logits is not None and unlabelled.teacher != teacher.key:
            unlabelled = unlabelled.labelled(teacher.logits(unlabelled.examples), teacher.key)
        unlabelled, logits = unlabelled.answered(), self.logits
        if logits is not None:
            logits = np.concatenate([logits, unlabelled.logits])
        return replace(self, texts=self.texts.joined(unlabelled.examples), logits=logits)


def label(
    config: PotstillConfig, corpus: Corpus, teacher: Teacher, unlabelled: UnlabelledSet | None = None
) -> DistillationSet:
    """Ask a teacher for the logits of all texts that a student learns from.

    With alpha 1 the teacher is not asked.

    Raises:
        ArtifactError: The teacher knows other classes, or reads pairs of texts where the corpus has single ones; or the
            unlabelled set was built for other data.
        ConfigError: See `check_distillation`.
    """
    check_teacher(corpus, teacher, unlabelled)
    check_distillation(config, with_unlabelled=unlabelled is not None)
    texts, logits, validation_logits = corpus.train, None, None
    if config.distillation.alpha != 1.0:
        both, known = corpus.train.joined(corpus.validation), len(corpus.train)
        asked, answers = label_in_time(teacher, both, required=range(known, len(both)))
        given = np.full((len(both), answers.shape[1]), np.nan, np.float32)
        given[asked] = answers
        logits, validation_logits = given[:known], given[known:]
        _warn_of_order(corpus, validation_logits, config.runtime.teacher_classes)
    labelled = DistillationSet(texts, logits, validation_logits, teacher.backbone, teacher.tokenizer_name)
    return labelled if unlabelled is None else labelled.with_unlabelled(unlabelled, teacher)


def label_corpus(config: PotstillConfig, corpus: Corpus, directory: Path) -> Corpus:
    """Give texts without labels the teacher's answers as labels; those that it does not answer are left out.

    `directory` is where a teacher that needs one is saved.

    Raises:
        DataError: It gives no label to a part, or none of a class to the training split.
        PotstillError: It can't be asked.
    """
    teacher, _ = teacher_class(config.teacher.kind).obtain(config, corpus, directory, config.teacher.seeds[0])
    parts, before, names = [], len(corpus.everything), corpus.label_names
    for part in (corpus.train, corpus.validation, corpus.test):
        logits = teacher.logits(part)
        known = np.flatnonzero(np.isfinite(logits).all(axis=1))
        answers = predict_class(probabilities_of(logits[known], threshold=teacher.threshold), teacher.threshold)
        parts.append(replace(part.take(known), labels=answers.astype(part.labels.dtype)))
    train, validation, test = parts
    labelled = replace(corpus, train=train, validation=validation, test=test)
    counts = class_counts(train.labels, len(names))
    if not (counts.all() and len(validation) and len(test)):
        missing = listed(name for name, count in zip(names, counts, strict=True) if not count)
        found = f"none of the training texts as {missing}" if missing else "no validation text, or no test text"
        raise DataError(
            f"the teacher labels {len(labelled.everything):,} of {numbered(before, 'text')}, and {found}",
            file=corpus.source,
            remedy="leave these classes out of --classes, describe them (teacher.descriptions), or add texts",
        )
    shown = [f"{name} {count:,}" for name, count in zip(names[:_SHOWN], counts, strict=False)]
    print_line(
        f"the teacher gives all labels; no human label was seen ({', '.join(shown)}{' …' * bool(names[_SHOWN:])})"
    )
    if left_out := before - len(labelled.everything):
        print_line(f"{numbered(left_out, 'text')} without an answer left out")
    return labelled


def label_in_time(
    teacher: Teacher, examples: Examples, required: Sequence[int] = ()
) -> tuple[NDArray[np.int64], Logits]:
    """Ask a teacher for the logits of as many texts as there is time for (`training.deadline.until`).

    Args:
        teacher: Is asked for many texts at once, and keeps its answers.
        examples: The texts.
        required: Indices of texts that are labelled in any case, and first; the others follow in random order.

    Returns:
        The indices of the texts that are labelled, in ascending order, and their logits, (texts, classes).
    """
    if seconds_left() is None:
        return np.arange(len(examples)), teacher.logits(examples)
    others = np.setdiff1d(np.arange(len(examples)), np.asarray(required, dtype=np.int64))
    order = np.concatenate([np.asarray(required, dtype=np.int64), np.random.default_rng(0).permutation(others)])
    done, count, answers, started = 0, max(_FIRST, len(required)), [], time.time()
    while done < len(order) and count > 0:
        answers.append(teacher.logits(examples.take(order[done : done + count])))
        done += len(answers[-1])
        speed = done / max(1e-3, time.time() - started)
        left = seconds_left() or 0.0
        fitting = int(speed * left * _SHARE)
        count = fitting if fitting >= _FEWEST else 0
    places = order[:done].argsort()
    return order[:done][places], np.concatenate(answers)[places]


def _warn_of_order(corpus: Corpus, logits: Logits, named: tuple[str, ...] | None) -> None:
    """Warn where a teacher would answer the validation split far better with its classes in another order.

    `named` are its classes in the order of its own logits, where the user has named them; `logits` are in the corpus's.
    """
    if corpus.is_multi_label:  # its teachers are Potstill's own, which name their classes
        return
    answered = np.isfinite(logits).all(axis=1)
    labels, answers = corpus.validation.labels[answered], logits[answered].argmax(axis=1)
    classes = corpus.label_names
    if not len(labels):
        return

    def reordered(fitted: NDArray[np.int64], scored: NDArray[np.int64]) -> tuple[NDArray[np.int64], Metrics, Metrics]:
        counts = np.zeros((len(classes),) * 2, dtype=np.int64)
        np.add.at(counts, (answers[fitted], labels[fitted]), 1)
        _, order = linear_sum_assignment(counts, maximize=True)
        found = (answers[scored], order[answers[scored]])
        given, best = (compute_metrics(labels[scored], each, len(classes)) for each in found)
        return order, given, best

    # The best of many orders fits noise too: one half finds it, the other compares. Each has its share of every class.
    texts = labels.argsort(kind="stable")
    _, given, best = reordered(texts[1::2], texts[::2])
    margin = 2 / math.sqrt(len(texts[::2]))  # at least four standard deviations of an accuracy
    if best.mcc > given.mcc and best.accuracy - given.accuracy > margin:
        order, given, best = reordered(texts, texts)
        own = named if named is not None and set(named) == set(classes) else classes
        names = [classes[order[classes.index(name)]] for name in own]
        warn(
            f"the teacher is right for {given.accuracy:.1%} of the validation texts (MCC {given.mcc:.3f}); with its "
            f"classes in the order {listed(names)} it would be for {best.accuracy:.1%}. Students learn its mistakes. "
            f"If peft wrote it, name its classes in their order: --teacher-classes {','.join(names)}"
        )


def check_teacher(corpus: Corpus, teacher: Teacher, unlabelled: UnlabelledSet | None = None) -> None:
    """Refuse a teacher and texts that don't belong together. Errors as for `label`."""
    if not corpus.has_classes(teacher.label_names):
        raise ArtifactError(
            f"expected a teacher of the classes {list(corpus.label_names)}, found one of {list(teacher.label_names)}\n"
            f"  what to do: tune a teacher on this data first"
        )
    require_same_kind(corpus.train, in_pairs=teacher.in_pairs)
    require_same_task(corpus.train, teacher.threshold)
    if unlabelled is not None:
        require_same_kind(unlabelled.examples, in_pairs=corpus.in_pairs)
        if unlabelled.held_out not in (None, held_out_key(corpus)):
            raise ArtifactError(
                "expected an unlabelled set without texts that resemble this data's validation and test texts, found "
                "one that was decontaminated against other texts\n"
                "  what to do: build it from the same data and the same split"
            )


def check_distillation(config: PotstillConfig, *, with_unlabelled: bool) -> None:
    """Refuse, with a ConfigError, settings that contradict each other."""
    problems = []
    if config.data.classes and isinstance(config.teacher, TransformerConfig):
        problems.append("data.classes: without labels no teacher can be tuned; name one with --teacher FILE|URL")
    if with_unlabelled and config.distillation.alpha == 1.0:
        problems.append("distillation.alpha: 1 ignores the teacher, and an unlabelled set has no labels; lower it")
    if problems:
        raise ConfigError(problems)
