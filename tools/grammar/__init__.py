"""A grammar of English that writes the builtin corpus: acceptability judgements for machines that can't reach CoLA.

`python -m tools.grammar`, in the root of the repository, writes `src/potstill/data/builtin.csv.gz`, which is all that
the package holds of it; `tests/data/test_builtin_corpus.py` checks that the file is up to date.

Each phenomenon writes minimal pairs: an acceptable sentence and an unacceptable one that differs as little as the
phenomenon allows. The two parts share the phenomena and the function words but no open-class word, so that what is
learnt on one part and holds on the other is structure.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.grammar import agreement, arguments, structure
from tools.grammar.lexicon import HELDOUT, TRAIN
from tools.grammar.sampling import Draw, Pair

Part = Literal["train", "heldout"]

LEXICONS = {"train": TRAIN, "heldout": HELDOUT}
PAIRS_PER_PHENOMENON = {"train": 100, "heldout": 15}

WRITERS: tuple[Callable[[Draw], Pair], ...] = (
    agreement.subject_verb,
    agreement.distant_subject_verb,
    agreement.reflexive_agreement,
    agreement.reflexive_locality,
    agreement.determiner_noun,
    agreement.mass_count,
    agreement.pronoun_case,
    agreement.relative_pronoun,
    agreement.tag_question,
    agreement.negative_polarity,
    arguments.transitivity,
    arguments.ditransitive,
    arguments.passive,
    arguments.raising_control,
    arguments.gerund_infinitive,
    arguments.auxiliary_form,
    arguments.irregular_form,
    arguments.comparison,
    arguments.existential,
    arguments.quantifier,
    arguments.that_clause,
    structure.wh_island,
    structure.complex_np_island,
    structure.adjunct_island,
    structure.coordinate_island,
    structure.filled_gap,
    structure.inversion,
    structure.inversion_across_clause,
    structure.adjective_position,
    structure.adverb_position,
    structure.verb_phrase_ellipsis,
    structure.so_neither,
    structure.gapping,
)
PHENOMENA: tuple[str, ...] = tuple(writer.__name__ for writer in WRITERS)


CORPUS_FILE = Path(__file__).parents[2] / "src/potstill/data/builtin.csv.gz"


@dataclass(frozen=True)
class Judgement:
    """A sentence and whether it is acceptable English.

    Attributes:
        sentence: The sentence, with capital and final punctuation.
        label: 1 if acceptable, 0 if not.
        phenomenon: Which of `PHENOMENA` it shows.
        pair: Number of its minimal pair; exactly one other sentence of the part has the same.
    """

    sentence: str
    label: int
    phenomenon: str
    pair: int


def generate(part: Part, seed: int = 0) -> tuple[Judgement, ...]:
    """Write one part of the corpus.

    Args:
        part: "train" or "heldout"; each has its own open-class words.
        seed: Another seed gives another sample of the same grammar.

    Returns:
        All judgements in an order that depends on `part` and `seed` alone. No sentence occurs twice.
    """
    judgements: list[Judgement] = []
    used: set[str] = set()
    for writer in WRITERS:
        # Each phenomenon has its own stream, so that a change to one leaves the others' sentences alone.
        draw = Draw(LEXICONS[part], f"{part} {writer.__name__} {seed}")
        for good, bad in _fresh_pairs(writer, draw, PAIRS_PER_PHENOMENON[part], used):
            number = len(judgements) // 2
            judgements.append(Judgement(good, 1, writer.__name__, number))
            judgements.append(Judgement(bad, 0, writer.__name__, number))
    return tuple(Draw(LEXICONS[part], f"{part} order {seed}").shuffled(judgements))


def corpus_csv() -> bytes:
    """Write both parts as a CSV file: part, number of the minimal pair, label, sentence."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("part", "pair", "label", "text"))
    parts: dict[str, Part] = {"train": "train", "test": "heldout"}
    for name, part in parts.items():
        writer.writerows((name, judged.pair, judged.label, judged.sentence) for judged in generate(part))
    return file.getvalue().encode()


def _fresh_pairs(writer: Callable[[Draw], Pair], draw: Draw, count: int, used: set[str]) -> list[Pair]:
    """Draw pairs until `count` of them have no sentence in `used`, which grows by what is returned."""
    pairs: list[Pair] = []
    while len(pairs) < count:
        pair = writer(draw)
        if used.isdisjoint(pair):
            used.update(pair)
            pairs.append(pair)
    return pairs
