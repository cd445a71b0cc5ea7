"""Students of every kind with random weights, and texts that other programs read differently; see benchmarks/web.py."""

import random
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from potstill.config import RNNConfig
from potstill.data import Corpus, Examples
from potstill.predict import Classifier
from potstill.student.ngram import NgramConfig
from potstill.student.student import Student

LABELS = ('<no> & "none"', "maybe, so", "yes")
WORDS = (
    *("the", "cat", "sat", "on", "a", "mat", "where", "is", "my", "card", "it", "doesn't", "work", "they'll", "pay"),
    *("100", "francs", "tomorrow"),
)
PIECES = (
    *WORDS,
    *("THE", "Ünïcödé", "ﬁ", "e\u0301", "Å", "İ", "ΟΔΟΣ", "ß", "漢字", "かな", "한국어", "עברית", "नमस्ते", "🙂", "🇨🇭"),
    *(
        "👩\u200d👧",
        "½",
        "٣",
        "²",
        "x" * 40,
        "<pad>",
        "<sep>",
        "'s",
        "''",
        "--",
        "…",
        "\u200b",
        "\ufeff",
        "\x00",
        "\x1f",
    ),
    *("\x85", "\x1c", "\ud800", "\udfff", "\u2028", "\u3000", "\u00a0", "\t", "\n", "  ", "\U0001d49c", "\u0378"),
)
RNN = {"embedding_size": 12, "hidden_size": 10, "vocab_size": 400}
KINDS = {
    "ngram": NgramConfig(kind="ngram", ngram_buckets=2**10, ngram_size=5),
    "elman, last state, one direction": RNNConfig(**RNN, cell="rnn", pooling="last", bidirectional=False),
    "lstm, maximum": RNNConfig(**RNN),
    "lstm, last state, two layers": RNNConfig(**RNN, pooling="last", num_layers=2),
    "gru, mean, three layers": RNNConfig(**RNN, cell="gru", pooling="mean", num_layers=3),
    "elman, mean": RNNConfig(**RNN, cell="rnn", pooling="mean"),
    "gru, last state": RNNConfig(**RNN, cell="gru", pooling="last"),
    "surprisal": RNNConfig(**RNN, surprisal_size=7),
    "surprisal, one direction": RNNConfig(**RNN, cell="gru", surprisal_size=7, bidirectional=False, pooling="mean"),
    "beside n-grams": RNNConfig(**RNN, ngram_size=6, ngram_buckets=2**12),
}


def varied(count, seed=0):
    """Texts of any length, of words and of what other programs read differently."""
    generator = random.Random(seed)
    texts = ["", " ", "\x1c\x85a\ufeff", "word " * 200, "z" * 5000, "漢字" * 2000, "a b\n" * 600]
    while len(texts) < count:
        size = generator.choice((1, 2, 5, 12, 40, 90))
        parts = [chr(generator.randrange(0x3000)) if generator.random() < 0.05 else generator.choice(PIECES)
                 for _ in range(size)]  # fmt: skip
        texts.append(generator.choice(("", " ", " ")).join(parts))
    # Two halves that meet are one character in JavaScript, two in Python.
    return [text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass") for text in texts]


@cache
def items_of(in_pairs, count=500):
    texts = varied(count)
    return [list(pair) for pair in zip(texts, varied(count, 1), strict=True)] if in_pairs else texts


def save_student(directory, config, *, in_pairs=False, labels=LABELS, threshold=None, max_length=32, scale=0.6):
    """Save a student with random weights and a temperature at which its answers differ."""
    generator = random.Random(1)
    texts = tuple(" ".join(generator.choices(WORDS, k=8)) for _ in range(60))
    examples = Examples(texts, np.arange(60) % len(labels), texts[::-1] if in_pairs else None)
    corpus = Corpus("words", "words", labels, examples, examples, examples)
    student = Student.create(config, corpus, max_length, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    student.save(directory)
    spread = Classifier.load(directory).logits(items_of(in_pairs, 100)).std(axis=0).max()
    replace(student, temperature=float(spread), threshold=threshold).save(directory)
    return directory
