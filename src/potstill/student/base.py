"""What a kind of student is: a network over token ids that can be trained, exported and described."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from potstill.config import RuntimeConfig, StudentConfig
from potstill.training.base import FitResult, Splits


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What decides a network's shape; saved with its weights. Kinds add the settings that they need.

    Its table of n-grams has `ngram_buckets` rows, a power of two, of `ngram_size`; 0: it reads no n-grams.
    """

    vocab_size: int
    num_classes: int
    pad_token_id: int
    ngram_buckets: int = 0
    ngram_size: int = 0


class Network(nn.Module):
    """The part of a student that differs from kind to kind.

    A new kind subclasses this in a file of its own and is registered in `student.registry`. Tokenizer, training, export
    and reports work with any network that has these members.

    Attributes:
        settings: Its section of the configuration.
        spec_class: What its spec is: a `NetworkSpec` whose further fields are called like settings.
        spec: The shape of this one.
        embedding: The token embeddings, where they may begin as the teacher's.
        reads_tokens: Whether it looks at the token ids.
    """

    settings: ClassVar[type[StudentConfig]] = StudentConfig
    spec_class: ClassVar[type[NetworkSpec]] = NetworkSpec
    reads_tokens: ClassVar[bool] = True

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec

    @classmethod
    def build(cls, settings: StudentConfig, **known: Any) -> Self:
        """Build a network with random weights from its settings and the other fields of its spec."""
        # A field with a default need not be a setting of every kind.
        names = {field.name for field in fields(cls.spec_class) if hasattr(settings, field.name)} - known.keys()
        return cls(cls.spec_class(**known, **{name: getattr(settings, name) for name in names}))

    @property
    def bias(self) -> nn.Parameter | None:
        """What is added to the logits of all texts, (classes,); None: there is no such parameter."""
        return None

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *ngrams: Tensor) -> Tensor:
        """Classify a batch of token sequences.

        Args:
            input_ids: Token ids, (batch, length); ids in padded places must make no difference.
            attention_mask: True or 1 at real tokens, (batch, length); the padding is on the right.
            ngrams: Where the spec has an `ngram_size`, rows and weights of the texts' n-grams, (batch, ngrams).

        Returns:
            Logits, (batch, classes).
        """
        raise NotImplementedError

    def to_onnx(self) -> bytes:
        """Write the network as a serialised ONNX model.

        Inputs: `input_ids`, int64 (batch, length), padded on the right with any valid id, and `lengths`, int32
        (batch,), the number of real tokens of each text (1 or more); for n-grams `ngram_rows`, int64, and
        `ngram_weights`, float32, (batch, ngrams). A graph has the inputs that it reads. Output: `logits`, float32
        (batch, classes).
        """
        raise NotImplementedError

    def describe(self, settings: StudentConfig) -> str:
        """Say in one phrase for reports and cards what it is, and how it was trained beside the loss."""
        return "a small network"

    def pretrain(
        self, data: Splits, settings: StudentConfig, runtime: RuntimeConfig, directory: Path, seed: int
    ) -> FitResult | None:
        """Learn from the texts alone, before classification; None: there is no such step."""
        return None
