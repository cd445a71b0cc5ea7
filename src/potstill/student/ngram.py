"""N-grams for students: a table of hashed words and pieces of words, summed over a text, and a linear map.

Alone they are a linear model like fastText (Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification",
arXiv 1607.01759). Beside a recurrent network they remember what single words and phrases mean (Cheng et al. 2016, "Wide
& Deep Learning for Recommender Systems", arXiv 1606.07792).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from potstill.config import RNNConfig, StudentConfig
from potstill.config.base import Fraction, PowerOfTwo
from potstill.lora.dropout import Dropout
from potstill.predict.session import LOGITS
from potstill.student.base import Network, NetworkSpec
from potstill.student.onnx import Graph, add_ngrams

_SCALE = 0.02
"""Standard deviation of the table's random start: small, as the vectors of a text's n-grams add up."""


class NgramBag(nn.Module):
    """The weighted sum of the vectors of a text's n-grams, (ngram_buckets, size), and a linear map to the classes."""

    def __init__(self, buckets: int, size: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(buckets, size)
        nn.init.normal_(self.table.weight, std=_SCALE)
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(size, num_classes)

    def forward(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Map the n-grams of texts, rows and weights, (batch, ngrams), to logits, (batch, classes)."""
        weights = weights.to(self.table.weight.dtype)  # mixed precision gives bfloat16
        bag = embedding_bag(rows, self.table.weight, per_sample_weights=weights, mode="sum")
        logits: Tensor = self.head(self.dropout(bag))
        return logits


class NgramConfig(StudentConfig):
    """A bag of n-grams: the fastest student."""

    embedding_init: Literal["random"] = "random"
    """It has no token embeddings that could begin as the teacher's."""
    vocab_size: Annotated[int, Field(ge=257)] = 257
    """Number of tokens of its tokenizer, which it does not use: as few as there can be."""
    ngram_buckets: PowerOfTwo = 2**17
    """Rows of the table, a power of two. More rows let fewer n-grams share one, and make the student larger."""
    ngram_size: Annotated[int, Field(ge=1)] = 16
    """Width of the table."""
    dropout: Fraction = 0.2
    """Dropout before the linear map."""

    @classmethod
    def beside(cls, settings: StudentConfig) -> NgramConfig | None:
        """Return the settings of the n-gram student that `run` trains beside a recurrent one that has n-grams too."""
        if not isinstance(settings, RNNConfig) or not settings.ngram_size:
            return None
        shared = ("ngram_buckets", "ngram_size", "dropout", "training", "threshold")
        return cls(kind="ngram", **{name: getattr(settings, name) for name in shared})


@dataclass(frozen=True, kw_only=True)
class NgramSpec(NetworkSpec):
    """What decides the shape of an n-gram classifier; `NgramConfig` explains the fields."""

    dropout: float


class NgramClassifier(Network):
    """A bag of n-grams alone. It does not look at its token ids."""

    settings, spec_class, reads_tokens = NgramConfig, NgramSpec, False
    spec: NgramSpec

    def __init__(self, spec: NgramSpec) -> None:
        super().__init__(spec)
        self.ngrams = NgramBag(spec.ngram_buckets, spec.ngram_size, spec.num_classes, spec.dropout)

    @property
    def bias(self) -> nn.Parameter:
        """See `Network.bias`."""
        return self.ngrams.head.bias

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *ngrams: Tensor) -> Tensor:
        """See `Network.forward`."""
        logits: Tensor = self.ngrams(*ngrams)
        return logits

    def to_onnx(self) -> bytes:
        """See `Network.to_onnx`; the graph has the n-grams' inputs alone."""
        graph = Graph()
        add_ngrams(graph, self.ngrams, LOGITS)
        return graph.serialise(self.spec.num_classes)

    def describe(self, settings: StudentConfig) -> str:
        """Say what it is."""
        return f"a bag of n-grams of words and characters ({self.spec.ngram_buckets:,} rows of {self.spec.ngram_size})"
