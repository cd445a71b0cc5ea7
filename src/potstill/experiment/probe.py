"""How fast this machine is: a few steps of each kind of work that a run consists of, timed before it begins."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from potstill.augment.language_model import SEPARATOR, LanguageModel
from potstill.augment.sampling import BATCH
from potstill.augment.snippets import spans
from potstill.config import PotstillConfig, TrainingConfig, TransformerConfig
from potstill.console import silence
from potstill.data import Corpus, Examples
from potstill.data.tokenised import TrainingSet
from potstill.distillation import CrossEntropy
from potstill.lora import merged
from potstill.student.student import Student
from potstill.task import task_of
from potstill.teacher.transformer import TransformerTeacher
from potstill.training.base import FitContext, Splits
from potstill.training.compute import make_fabric
from potstill.training.fit import fit
from potstill.training.inference import predict_logits, tokens_at_once

_TOKENS: Final = 400
"""Tokens of a step of the teacher that is timed: about a second on two cores, and nearly as efficient as more."""
_BATCHES: Final = 8
"""Batches of a student's epoch that is timed: a tenth of a second."""
_SNIPPETS: Final = 256
"""Spans whose tokens are counted, and that a student is timed with."""
_SAMPLED_TOKENS: Final = 4
"""Tokens of each text that the language model is timed with."""


@dataclass(frozen=True)
class Speed:
    """What the work of a run takes on this machine, in seconds. Those of a teacher that is no transformer are 0.

    Attributes:
        start: To make a student and its vocabulary.
        text: A student's, for each training text and epoch.
        snippet: The same for each word or span.
        load: How many times as long work takes as on an idle processor, because others use it too.
        opening: To load the teacher.
        tuning: The teacher's, to learn from a training text.
        reading: To label one.
        lengths: Tokens of a validation text, a test text, and a word or span, against those of a training text.
        sampling: To sample a text; 0 where none is wanted.
        linear: To fit a linear model, which the caller has measured.
    """

    start: float
    text: float
    snippet: float
    load: float = 1.0
    opening: float = 0.0
    tuning: float = 0.0
    reading: float = 0.0
    lengths: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sampling: float = 0.0
    linear: float = 0.0


def measure_speed(config: PotstillConfig, corpus: Corpus) -> Speed:
    """Time a few steps of teacher and student, on texts of this data, in some seconds. Errors as for the whole run."""
    with silence(), _timed() as passed:
        worked, snippets = time.thread_time(), _snippets(corpus)
        speed = _student(config, corpus, snippets)
        if isinstance(config.teacher, TransformerConfig):
            speed = replace(speed, **_teacher(config, config.teacher, corpus, snippets))
            gc.collect()  # the probe's backbone makes room for the teacher's
        worked = time.thread_time() - worked
    return replace(speed, load=max(1.0, passed[0] / worked))


def _teacher(config: PotstillConfig, settings: TransformerConfig, corpus: Corpus, snippets: Examples) -> dict[str, Any]:
    with _timed() as opening:
        teacher = TransformerTeacher.create(
            settings, config.runtime, corpus, config.data.max_length, 0, config.data.long_texts
        )
    lengths, at_once = teacher.featurise(corpus.train).tokens.lengths, tokens_at_once(teacher.fabric)
    step, block = (
        teacher.featurise(corpus.train.take(_typical(lengths, tokens)), cached=False) for tokens in (_TOKENS, at_once)
    )
    loss = CrossEntropy(task=task_of(corpus))
    tuning = _epoch_seconds(teacher.classifier, step, settings.training, loss, teacher.fabric, at_once)
    with merged(teacher.classifier), _timed() as reading:
        predict_logits(teacher.classifier, block, teacher.fabric)
    mean = float(lengths.mean())
    others = [teacher.featurise(part).tokens.lengths.mean() for part in (corpus.validation, corpus.test, snippets)]
    return {
        "opening": opening[0],
        "tuning": mean * tuning / len(step.tokens.ids),
        "reading": mean * reading[0] / len(block.tokens.ids),
        "lengths": tuple(float(other) / mean for other in others),
        "sampling": mean * _sampling(config, corpus) if config.augment.sampled else 0.0,
    }


def _sampling(config: PotstillConfig, corpus: Corpus) -> float:
    """Return the seconds of a token that the language model samples; untuned, it is as fast."""
    model, name = LanguageModel.load(config), corpus.label_names[0]
    prompt = 1 + len(model.tokenizer.encode(name + SEPARATOR, add_special_tokens=False).ids)
    brief = replace(model, max_length=prompt + _SAMPLED_TOKENS)
    with _timed() as seconds:
        deque(brief.sample(name, BATCH, temperature=1.0, top_p=1.0, seed=0), maxlen=0)
    return seconds[0] / (BATCH * _SAMPLED_TOKENS)


def _student(config: PotstillConfig, corpus: Corpus, snippets: Examples) -> Speed:
    settings, texts = config.student.without_teacher(), corpus.train
    few = texts.take(range(0, len(texts), -(-len(texts) // (_BATCHES * settings.training.batch_size))))
    with _timed() as start:
        student = Student.create(
            settings, corpus, config.data.max_length, 0, long_texts=config.data.long_texts, texts=texts.all_texts,
            teacher_tokenizer=getattr(config.teacher, "backbone", None),
        )  # fmt: skip
    fabric, loss = make_fabric(config.runtime), CrossEntropy(task=task_of(corpus))
    long, short = (
        _epoch_seconds(student.network, student.featurise(some), settings.training, loss, fabric) / len(some)
        for some in (few, snippets)
    )
    return Speed(start[0], long, short)


def _epoch_seconds(
    model: nn.Module,
    data: TrainingSet,
    training: TrainingConfig,
    loss: CrossEntropy,
    fabric: Fabric,
    at_once: int | None = None,
) -> float:
    """Train two epochs on a few texts, and return the seconds of the faster one: the first warms up."""
    quick = training.model_copy(update={"epochs": 2, "min_steps": 0})
    context = FitContext(quick, fabric, 0, "the probe", max_microbatch_tokens=at_once)
    return float(min(record["seconds"] for record in fit(model, Splits(data, data), loss, context).history))


def _snippets(corpus: Corpus) -> Examples:
    """Draw some spans, with a label, which a student is timed with; of pairs of texts, or words alone, some texts."""
    found = () if corpus.in_pairs else tuple(spans(corpus.train.texts, _SNIPPETS, seed=0))
    if not found:
        return corpus.train.take(range(min(_SNIPPETS, len(corpus.train))))
    return Examples(found, corpus.train.labels[:1].repeat(len(found), axis=0))


def _typical(lengths: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """Choose texts of about the mean length, as many as hold about so many tokens; their indices."""
    count = max(2, round(tokens / lengths.mean()))
    order = lengths.argsort(kind="stable")
    middle = int(np.searchsorted(lengths[order], lengths.mean()))
    first = max(0, min(middle - count // 2, len(order) - count))
    return order[first : first + count]


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Yield a list that gets the seconds which the block takes."""
    seconds: list[float] = []
    started = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - started)
