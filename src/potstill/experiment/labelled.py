"""The distillation set: texts with the teacher's logits, which are all that a student learns of its teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from potstill.augment.build import held_out_key
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig
from potstill.console import warn
from potstill.data import Corpus, Examples
from potstill.data.columns import listed
from potstill.errors import ArtifactError, ConfigError
from potstill.evaluation import Metrics, compute_metrics
from potstill.evaluation.measure import require_same_kind
from potstill.teacher.base import Teacher

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class DistillationSet:
    """The labelled training texts, then the unlabelled ones, with a teacher's logits.

    Attributes:
        logits: The teacher's of these, (texts, classes); None where the loss does not ask for them.
        validation_logits: The teacher's of the validation split, likewise.
        backbone: Name of a pretrained model whose embeddings a student may begin with; None: the teacher has none.
        tokenizer_name: Name of that model's tokenizer.
    """

    texts: Examples
    logits: Logits | None
    validation_logits: Logits | None
    backbone: str | None
    tokenizer_name: str | None


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
    logits = validation_logits = None
    if config.distillation.alpha != 1.0:
        answers = teacher.logits(corpus.train.joined(corpus.validation))
        logits, validation_logits = answers[: len(corpus.train)], answers[len(corpus.train) :]
        _warn_of_order(corpus, validation_logits, config.runtime.teacher_classes)
        if unlabelled is not None:
            if unlabelled.teacher != teacher.key:
                unlabelled = unlabelled.labelled(teacher.logits(unlabelled.examples), teacher.key)
            logits = np.concatenate([logits, unlabelled.logits])
    texts = corpus.train if unlabelled is None else corpus.train.joined(unlabelled.examples)
    return DistillationSet(texts, logits, validation_logits, teacher.backbone, teacher.tokenizer_name)


def _warn_of_order(corpus: Corpus, logits: Logits, named: tuple[str, ...] | None) -> None:
    """Warn where a teacher would answer the validation split far better with its classes in another order.

    `named` are its classes in the order of its own logits, where the user has named them; `logits` are in the corpus's.
    """
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
    if with_unlabelled and config.distillation.alpha == 1.0:
        problems.append("distillation.alpha: 1 ignores the teacher, and an unlabelled set has no labels; lower it")
    if config.student.embedding_init == "teacher" and getattr(config.teacher, "random_init", False):
        problems.append("student.embedding_init: `teacher` takes pretrained embeddings, teacher.random_init has none")
    if problems:
        raise ConfigError(problems)
