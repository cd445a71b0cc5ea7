"""Settings of the unlabelled set."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from potstill.config.base import Settings
from potstill.config.teacher import LoRAConfig
from potstill.config.training import TrainingConfig


class AugmentConfig(Settings):
    """More text for the student, labelled by the teacher: the unlabelled set. Without these settings there is none."""

    files: tuple[str, ...] = ()
    """Files of unlabelled text: .csv, .tsv or .jsonl with the columns of the data, or a text per line. Other columns
    are ignored."""
    sampled: Annotated[int, Field(ge=0)] = 0
    """Texts to sample from the backbone, first tuned as a language model on the training texts. (Tang et al. 2019,
    "Natural Language Generation for Effective Knowledge Distillation".)"""
    perturbed: Annotated[int, Field(ge=0)] = 0
    """Texts to make from the others by swapping, dropping, replacing and inserting words, and by joining two texts."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Divides the language model's logits. 1: what it learnt."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Sample from the most probable tokens that have this probability together. (Nucleus sampling, Holtzman et al.
    2020, arXiv 1904.09751; they find 0.95 to be like human text.)"""
    similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Texts this much like a validation or test text are dropped. 1 is equal but for case, spaces and punctuation, 0.9
    about one word in ten replaced (normalised indel similarity; see `augment.overlap`)."""
    lora: LoRAConfig = LoRAConfig(rank=16, alpha=32)
    """The language model's adapters, of a higher rank than the teacher's: it has to learn what texts are about."""
    training: TrainingConfig = TrainingConfig(epochs=2, metric="loss")
    """How the language model is tuned; more epochs only repeat the training texts. It classifies nothing, so that
    `class_weights` and other metrics mean nothing here."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the language model and of all that is drawn."""

    @property
    def wanted(self) -> bool:
        """Whether there is to be an unlabelled set at all."""
        return bool(self.files or self.sampled or self.perturbed)
