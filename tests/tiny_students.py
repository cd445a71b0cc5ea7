"""Students so small that every test can afford them, and texts without a meaning for them."""

import numpy as np
import torch

from potstill.data.tokenised import TokenisedTexts, TrainingSet
from potstill.student.recurrence import RNNSpec
from potstill.student.rnn import DistilRNN

VOCABULARY = 30
_SHAPE = {
    "cell": "lstm",
    "vocab_size": VOCABULARY,
    "embedding_size": 6,
    "hidden_size": 5,
    "num_layers": 1,
    "bidirectional": True,
    "pooling": "max",
    "dropout": 0.0,
    "num_classes": 2,
    "pad_token_id": 0,
}


def tiny_student(seed: int = 0, **changes) -> DistilRNN:
    torch.manual_seed(seed)
    return DistilRNN(RNNSpec(**(_SHAPE | changes)))


def random_set(texts: int, seed: int = 0, *, with_teacher: bool = False) -> TrainingSet:
    """Random sentences with random labels: nothing to generalise from, everything to memorise."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 12, size=texts)
    ids = generator.integers(1, VOCABULARY, size=lengths.sum()).astype(np.int32)
    labels = torch.from_numpy(generator.permutation(np.arange(texts) % 2))
    logits = torch.from_numpy(generator.normal(size=(texts, 2)).astype(np.float32)) if with_teacher else None
    return TrainingSet(TokenisedTexts(ids, np.cumsum([0, *lengths])), labels, pad_token_id=0, teacher_logits=logits)
