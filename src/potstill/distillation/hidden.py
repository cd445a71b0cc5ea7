"""Matching the teacher's hidden states, word by word.

The student and the teacher cut a text into different tokens, but both have read a word when they have read its last
token. There the student's state, through a linear projection that is thrown away afterwards, is drawn to the teacher's
last hidden state (Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550, section 2.2):

    L + weight · mean over words and components of (W s + b - h)²

with h standardised per component, so that the weight means the same for every teacher: a student that knows nothing
pays 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from potstill.artifacts import digest, mapped_array
from potstill.console import counted
from potstill.data import Examples
from potstill.data.tokenised import Batch, HiddenStates, TrainingSet
from potstill.distillation.loss import Objective
from potstill.distillation.words import WordEnds
from potstill.errors import ArtifactError
from potstill.files import cache_directory
from potstill.student.model import Student
from potstill.student.network import DistilRNN
from potstill.teacher import Teacher
from potstill.training.inference import without_gradients
from potstill.training.loop import Record


def with_hidden_states(train_set: TrainingSet, student: Student, teacher: Teacher, texts: Examples) -> TrainingSet:
    """Give a student's training set the teacher's hidden states at the words' ends.

    Args:
        train_set: The student's tokens of `texts`.
        student: Whose tokens they are.
        teacher: Whose states they are to match.
        texts: Single texts.

    Returns:
        The set with `hidden`.

    Raises:
        ArtifactError: The states would take too much of the disk's free space: see `mapped_array`.
    """
    states = teacher_states(teacher, texts)
    own = WordEnds.find(student.tokenizer, texts.texts, student.max_tokens)
    own = own.first(np.minimum(own.counts, states.ends.counts))  # one of them may cut earlier
    firsts = states.ends.offsets[:-1]
    return replace(train_set, hidden=HiddenStates(states.values, firsts, own.places, own.offsets, states.key))


@dataclass(frozen=True)
class TeacherStates:
    """What a teacher makes of every word of many texts.

    Attributes:
        values: Its last hidden states at the words' ends, standardised, (words, hidden), float16; memory-mapped.
        ends: The words.
        key: Digest of all that decides them.
    """

    values: NDArray[np.float16]
    ends: WordEnds
    key: str


def teacher_states(teacher: Teacher, texts: Examples) -> TeacherStates:
    """Return the teacher's states, from the cache or computed; arguments and errors as for `with_hidden_states`."""
    ends = WordEnds.find(teacher.tokenizer, texts.texts, teacher.manifest.max_tokens)
    key = digest([teacher.key(), *texts.texts, ends.places.tobytes(), ends.offsets.tobytes()])
    shape = (len(ends.places), teacher.classifier.state_size)
    # Half precision: standardised states lie between -10 and 10, and the student is far from matching three digits.
    place, kind = cache_directory() / "hidden", np.dtype(np.float16)
    states = mapped_array(place / key, shape, kind, lambda values: _fill(values, teacher, texts, ends))
    if states is None:
        raise ArtifactError(
            f"{place}: expected room for the teacher's hidden states, {kind.itemsize * math.prod(shape) / 1e9:.2g} GB "
            f"in no more than half of the disk's free space, found less\n"
            f"  what to do: make room, or set POTSTILL_CACHE to a directory of a larger disk, or set "
            f"distillation.hidden_weight to 0"
        )
    return TeacherStates(states, ends, key)


def _fill(values: NDArray[np.float16], teacher: Teacher, texts: Examples, ends: WordEnds) -> None:
    data = teacher.training_set(texts, cached=False)
    echo, lengths = teacher.classifier.echo, data.tokens.lengths
    total, squares = torch.zeros(values.shape[1]).double(), torch.zeros(values.shape[1]).double()
    centre: Tensor | None = None  # near the mean: half precision would lose what differs little from a large one
    passing = without_gradients(teacher.classifier, data, teacher.fabric)
    with counted("teacher's hidden states", len(data)) as advance, teacher.merged(), passing as batches:
        for indices, batch in batches:
            with teacher.fabric.autocast():
                states = teacher.classifier.states(batch.input_ids, batch.attention_mask).float().cpu()
            for row, index in enumerate(indices):
                words = slice(*ends.offsets[[index, index + 1]])
                shift = 0 if echo is None else echo.shift(int(lengths[index]))  # the second reading counts
                found = states[row, shift + ends.places[words].astype(np.int64)]
                if centre is None and len(found):
                    centre = found.mean(dim=0)
                found = found if centre is None else found - centre
                values[words] = found.numpy()
                total += found.double().sum(dim=0)
                squares += found.double().square().sum(dim=0)
            advance(len(indices))
    count = max(1, len(values))
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    for start in range(0, len(values), 1 << 16):
        part = values[start : start + (1 << 16)]
        part[:] = (part.astype(np.float32) - mean.float().numpy()) / deviation.float().numpy()


class Matching(nn.Module):
    """A student with the projection of its states to the teacher's.

    Attributes:
        network: The student's.
        projection: W and b.
    """

    def __init__(self, network: DistilRNN, hidden_size: int) -> None:
        super().__init__()
        self.network = network
        self.projection = nn.Linear(network.spec.state_size, hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits, (batch, classes), and in training the states too, (batch, length, state)."""
        reading = self.network.read(input_ids, attention_mask)
        logits = self.network.classify(reading, attention_mask)
        return (logits, reading.states) if self.training else logits


@dataclass(frozen=True)
class MatchingObjective:
    """An objective plus the distance of the hidden states.

    Attributes:
        objective: What the logits are fitted to.
        weight: Of the distance.
        projection: From the student's states to the teacher's.
    """

    objective: Objective
    weight: float
    projection: nn.Linear

    def __call__(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` and its parts; `hidden` is the mean squared distance."""
        logits, states = outputs
        parts = self.objective(logits, batch)
        if batch.hidden is None or batch.hidden_places is None:
            return parts
        found = self.projection(states.flatten(0, 1)[batch.hidden_places])  # (words, hidden)
        distance = (found - batch.hidden).square().sum() / max(1, found.numel())  # there may be no word's end at all
        return {**parts, "loss": parts["loss"] + self.weight * distance, "hidden": distance}

    def score(self, logits: Tensor, data: TrainingSet) -> Record:
        """Score a split by its logits."""
        return self.objective.score(logits, data)
