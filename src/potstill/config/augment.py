"""Settings of the unlabelled set."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from potstill.config.base import Settings
from potstill.config.teacher import LoRAConfig
from potstill.config.training import TrainingConfig


class AugmentConfig(Settings):
    """The unlabelled set: more text for the student, labelled by the teacher. By default there is none."""

    files: tuple[str, ...] = ()
    """Files of unlabelled texts like yours, in any format of the data and with its columns, or text files with one text
    a line. Other columns are ignored."""
    words: Annotated[int, Field(ge=0)] = 0
    """Single words to add: those of the training texts, then frequent ones of the backbone's vocabulary. The teacher
    knows what words mean that no training text holds. Not for pairs of texts."""
    spans: Annotated[int, Field(ge=0)] = 0
    """Spans of 2 to 8 words of the training texts to add. (Labelled phrases: Socher et al. 2013.) Not for pairs of
    texts."""
    sampled: Annotated[int, Field(ge=0)] = 0
    """Number of texts to sample from the backbone, which is first tuned as a language model on the training texts.
    (Tang et al. 2019, "Natural Language Generation for Effective Knowledge Distillation".)"""
    perturbed: Annotated[int, Field(ge=0)] = 0
    """Number of texts to make from the other texts by swapping, dropping, replacing and inserting words, and by joining
    two texts."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Divides the language model's logits when it samples. 1 leaves its probabilities as they are."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Sample only from the most probable tokens whose probabilities add up to this value. (Nucleus sampling, Holtzman
    et al. 2020, arXiv 1904.09751; they find that 0.95 gives text like that of people.)"""
    similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Drop texts whose similarity to a validation or test text is at least this value. 1 means equal except for case,
    spaces and punctuation; 0.9 means that about one word in ten is replaced (normalised indel similarity; see
    `augment.overlap`)."""
    lora: LoRAConfig = LoRAConfig(rank=16, alpha=32)
    """The language model's adapters. Their rank is higher than the teacher's, since the model has to learn what texts
    are about."""
    training: TrainingConfig = TrainingConfig(epochs=2, metric="loss")
    """How the language model is tuned. With more epochs it would only repeat the training texts. `class_weights` and
    metrics other than `loss` have no meaning here, since the model does not classify."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the language model, of sampling and of perturbing."""

    def most_made(self, *, in_pairs: bool) -> int:
        """Return how many texts are made at most, for pairs of texts or single ones; those of files are not counted."""
        return self.sampled + self.perturbed + (0 if in_pairs else self.words + self.spans)

    def wanted(self, *, in_pairs: bool) -> bool:
        """Say whether there is to be an unlabelled set at all, for pairs of texts or for single ones."""
        return bool(self.files or self.most_made(in_pairs=in_pairs))
