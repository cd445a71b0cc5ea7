"""Settings of students, their distillation and their baseline."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import Fraction, Seeds, Settings
from potstill.config.training import TrainingConfig

Cell = Literal["rnn", "gru", "lstm"]
Pooling = Literal["last", "mean", "max"]
SoftLoss = Literal["kl", "mse", "hard"]


class PretrainingConfig(Settings):
    """Language modelling before classification: each direction learns to predict the token that it reads next.

    On sentences that the teacher's language model wrote, this is distillation of its next-token distributions by
    samples from them (Kim and Rush 2016, "Sequence-Level Knowledge Distillation", arXiv 1606.07947).
    """

    epochs: Annotated[int, Field(ge=0)] = 0
    """Passes of language modelling over all texts, before classification. 0: without an unlabelled set there is little
    to learn from."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Texts per batch of language modelling."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    """Peak learning rate of language modelling. Twice the classifier's: the networks are small and start from
    nothing."""


class StudentConfig(Settings):
    """What every kind of student has."""

    kind: str = "rnn"
    """Which network the student is: `rnn` (recurrent), or a kind that you registered."""
    embedding_init: Literal["random", "teacher"] = "random"
    """Start of the embeddings: `random`, or the `teacher`'s. These are reduced to `embedding_size` by a singular value
    decomposition; a token that the teacher does not have begins as the mean of its pieces."""
    tokenizer: str = "bpe"
    """The student's tokenizer: `bpe` (learnt from the texts), `teacher` (the teacher's), a hub name or a directory."""
    vocab_size: Annotated[int, Field(ge=257)] = 6000
    """Size of the vocabulary that `bpe` learns (256 bytes and the padding at least). Ten thousand short texts do not
    fill a larger one."""
    training: TrainingConfig = TrainingConfig(epochs=10, learning_rate=1e-3, patience=3)
    """How the student is fitted: it starts from nothing, with a higher rate and more epochs than a teacher."""
    threshold: Literal["argmax", "tuned"] = "argmax"
    """Of two classes answer the more probable one, or the second above a threshold `tuned` on the validation part for
    the best MCC. More classes have no threshold. `argmax`: hundreds of texts tell a threshold only roughly."""
    seeds: Seeds = (0, 1, 2, 3, 4)
    """Seeds; a student is trained for each: one for a first try, five to see the spread."""

    def without_teacher(self) -> Self:
        """Return the settings of the same student without anything that comes from a teacher."""
        return self.model_copy(update={"embedding_init": "random"})


class RNNConfig(StudentConfig):
    """A small recurrent network."""

    cell: Cell = "lstm"
    """Kind of recurrence. `rnn` is the reference experiment's (Elman, tanh); `lstm` remembers the longest."""
    embedding_size: Annotated[int, Field(ge=1)] = 128
    """Width of the token embeddings, which hold about half of a student's parameters."""
    hidden_size: Annotated[int, Field(ge=1)] = 256
    """Width of the hidden state, per direction; smaller is faster. 256 is more than short texts fill."""
    num_layers: Annotated[int, Field(ge=1)] = 1
    """Recurrent layers on top of each other. 1: a second one doubles the time of every prediction."""
    bidirectional: bool = True
    """Read the text in both directions."""
    pooling: Pooling = "max"
    """How the hidden states become one vector: the last one, their mean or their maximum. `max`: a text's class often
    hangs on one place in it."""
    dropout: Fraction = 0.2
    """Dropout on embeddings, between layers and before the last linear map."""
    surprisal_size: Annotated[int, Field(ge=0)] = 0
    """Width of features that compare each token with the prediction for its place; 0: none. For networks of one layer
    that learnt to predict in `pretraining`; see `student.rnn.Surprisal`."""
    pretraining: PretrainingConfig = PretrainingConfig()
    """What the student learns before it learns to classify."""

    def without_teacher(self) -> Self:
        """See `StudentConfig.without_teacher`: language modelling is left out too."""
        return super().without_teacher().model_copy(update={"pretraining": PretrainingConfig()})

    @model_validator(mode="after")
    def _surprisal_needs_one_layer(self) -> Self:
        """Refuse surprisal in upper layers: the layer below has read the next token already."""
        if self.surprisal_size and self.num_layers > 1:
            raise ValueError("surprisal_size needs num_layers: 1; choose one of them")
        return self


class BaselineConfig(Settings):
    """The student without a teacher that `potstill run` trains beside the distilled one."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs of the baseline in `run`; none: as many as the distilled student. With an unlabelled set that one's epochs
    are longer, and as many of the labels alone may leave the baseline half trained."""


class DistillationConfig(Settings):
    """Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531)."""

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Weight of the labels against the teacher: 1 ignores the teacher, 0 the labels. The loss is
    alpha * CE + (1 - alpha) * T^2 * KL; 0.5 is the reference experiment's."""
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    """Softens the teacher's probabilities and the student's; a higher one shows more of the improbable classes. 2 is
    the reference experiment's."""
    loss: SoftLoss = "kl"
    """Distance from the teacher: `kl` of the probabilities, `mse` of the logits, or `hard` (its answers as labels).
    `kl` is the paper's; `mse` is half the squared distance (Ba and Caruana 2014, arXiv 1312.6184). Texts without a
    label learn from this alone."""
    teachers: Literal["best", "average"] = "best"
    """Of several teachers take the one that is best on the validation part, or the average of all probabilities.
    (Hinton et al. 2015, section 5.)"""

    def describe(self) -> str:
        """Say for reports how labels and teacher count."""
        manner = {
            "kl": f"temperature {self.temperature:g}",
            "mse": "by half the squared distance of the logits",
            "hard": "with the teacher's answers as labels",
        }[self.loss]
        return f"weight of the labels {self.alpha:g}, {manner}"
