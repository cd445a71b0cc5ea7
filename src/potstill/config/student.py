"""Settings of students, their distillation and their baseline."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import Fraction, PowerOfTwo, Seeds, Settings
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
    """Epochs of language modelling on all texts, before classification. 0, since without an unlabelled set there is
    little text to learn from."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Texts per batch of language modelling."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    """Peak learning rate of language modelling. It is high, since the network is small and has random weights at
    first."""


class StudentConfig(Settings):
    """What every kind of student has."""

    kind: str = "rnn"
    """Kind of student: `rnn` (a recurrent network), `ngram` (hashed words and pieces of words alone: the fastest), or a
    kind that you registered."""
    embedding_init: Literal["random", "teacher"] = "random"
    """Initial embeddings: `random`, or the `teacher`'s. A singular value decomposition reduces the teacher's to
    `embedding_size`; a token that the teacher does not have gets the mean embedding of its pieces."""
    tokenizer: Literal["bpe", "teacher"] = "bpe"
    """The student's tokenizer: `bpe` (byte pair encoding, learnt from the texts), or the `teacher`'s."""
    vocab_size: Annotated[int, Field(ge=257)] = 6000
    """Number of tokens that `bpe` learns, with the 256 bytes and the padding. Ten thousand short texts do not have
    enough different words for more than 6,000."""
    training: TrainingConfig = TrainingConfig(epochs=10, learning_rate=1e-3, patience=3)
    """How the student is trained. It is not pretrained, so it needs a higher learning rate and more epochs than a
    teacher."""
    threshold: Literal["argmax", "tuned"] = "argmax"
    """Answer for two classes: the more probable class (`argmax`), or the second class if its probability is above a
    threshold that is `tuned` on the validation split for the best MCC. With more than two classes there is none.
    `argmax`, since hundreds of texts determine a threshold only roughly."""
    max_size: Annotated[float, Field(gt=0.0)] | None = None
    """Largest size in MB of the student that the report recommends. `run` trains the same students either way. None: no
    limit."""
    max_latency: Annotated[float, Field(gt=0.0)] | None = None
    """Longest time in milliseconds that the recommended student may take for one text on this machine (median). None:
    no limit."""
    seeds: Seeds = (0, 1, 2, 3, 4)
    """Seeds; one student is trained for each. One seed is enough for a first try, five show the spread."""

    def without_teacher(self) -> Self:
        """Return the settings of the same student without anything that comes from a teacher."""
        return self.model_copy(update={"embedding_init": "random"})


class RNNConfig(StudentConfig):
    """A small recurrent network."""

    cell: Cell = "lstm"
    """Kind of recurrence. `rnn` is that of the reference experiment (Elman, tanh); `lstm` remembers best over long
    texts."""
    embedding_size: Annotated[int, Field(ge=1)] = 128
    """Width of the token embeddings. With the default sizes and no n-grams they hold half of a student's parameters."""
    hidden_size: Annotated[int, Field(ge=1)] = 256
    """Width of the hidden state, per direction; smaller is faster. 256 is more than enough for short texts."""
    num_layers: Annotated[int, Field(ge=1)] = 1
    """Number of recurrent layers. 1, since a second layer doubles the time of every prediction."""
    bidirectional: bool = True
    """Read the text in both directions."""
    pooling: Pooling = "max"
    """How the hidden states become one vector: the last one, their mean or their maximum. `max`, since a text's class
    often depends on one place in it."""
    dropout: Fraction = 0.2
    """Dropout on embeddings, between layers and before the last linear map."""
    surprisal_size: Annotated[int, Field(ge=0)] = 0
    """Number of features that compare each token with the student's own prediction for its place; 0: none. Only for
    networks of one layer; useful with `pretraining`, which learns the prediction (see `student.rnn.Surprisal`)."""
    ngram_size: Annotated[int, Field(ge=0)] = 0
    """Width of a table of n-grams (words, pairs of words, pieces of 2 to 5 characters) beside the recurrent network; 0:
    none. It remembers single words and phrases as a linear model does."""
    ngram_buckets: PowerOfTwo = 2**16
    """Rows of that table, a power of two. More rows let fewer n-grams share one, and make the student larger."""
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
    """Epochs of the baseline in `run`. None: as many as the distilled student has. With an unlabelled set, the
    distilled student's epochs have more texts, and the same number of epochs may be too few for the baseline."""


class DistillationConfig(Settings):
    """Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531)."""

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Weight of the labels against the teacher: 1 ignores the teacher, 0 the labels. The loss is
    alpha * CE + (1 - alpha) * T^2 * KL; 0.5 is the reference experiment's."""
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    """Softens the probabilities of teacher and student; a higher temperature shows more of the improbable classes. 2 is
    the reference experiment's."""
    loss: SoftLoss = "kl"
    """Distance from the teacher: `kl` of the probabilities, `mse` of the logits, or `hard` (its answers as labels).
    `kl` is the paper's; `mse` is half the squared distance (Ba and Caruana 2014, arXiv 1312.6184). For texts without a
    label this is the whole loss."""
    teachers: Literal["best", "average"] = "best"
    """Use of several teachers: only the one with the best validation MCC (`best`), or the `average` of all
    probabilities. (Hinton et al. 2015, section 5.)"""

    def describe(self) -> str:
        """Say for reports how labels and teacher count."""
        how = {
            "kl": f"temperature {self.temperature:g}",
            "mse": "by half the squared distance of the logits",
            "hard": "with the teacher's answers as labels",
        }[self.loss]
        return f"weight of the labels {self.alpha:g}, {how}"
