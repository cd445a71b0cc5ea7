"""Labelled text: found, read, checked and split."""

from potstill.data.encoded import UNLABELLED
from potstill.data.examples import Corpus, Examples
from potstill.data.readers import read_examples
from potstill.data.sources import load_corpus

__all__ = ["UNLABELLED", "Corpus", "Examples", "load_corpus", "read_examples"]
