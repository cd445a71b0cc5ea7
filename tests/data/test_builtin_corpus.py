"""The builtin corpus: it is what its writer writes, its labels are right, and only structure gives them away."""

from __future__ import annotations

import gzip
import re

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef

from tools.grammar import CORPUS_FILE, LEXICONS, WRITERS, Judgement, corpus_csv, generate
from tools.grammar.english import FUNCTION_WORDS
from tools.grammar.sampling import Draw


def tokens(sentence: str) -> list[str]:
    return re.findall(r"[a-z']+", sentence.lower())


@pytest.fixture(scope="module")
def train() -> tuple[Judgement, ...]:
    return generate("train")


@pytest.fixture(scope="module")
def heldout() -> tuple[Judgement, ...]:
    return generate("heldout")


def test_packaged_file_is_what_the_writer_writes():
    # Unpacked, since another version of zlib may pack the same content otherwise.
    packed = CORPUS_FILE.read_bytes()
    assert gzip.decompress(packed) == corpus_csv()
    assert packed[4:8] == bytes(4)  # no time, which would change the file without a change of content


def test_pairs_have_both_labels_and_sentences_are_unique(train, heldout):
    for part in (train, heldout):
        labels: dict[int, list[int]] = {}
        for judgement in part:
            labels.setdefault(judgement.pair, []).append(judgement.label)
        assert all(sorted(pair) == [0, 1] for pair in labels.values())
    assert len({judgement.sentence for judgement in train + heldout}) == len(train) + len(heldout) == 7590


def test_sentences_look_like_sentences(train, heldout):
    for judgement in train + heldout:
        assert re.fullmatch(r"[A-Z][A-Za-z' ,]*[a-zI][.?]", judgement.sentence), judgement.sentence
        assert not re.search(r"  | ,|\b(\w+) \1\b", judgement.sentence), judgement.sentence


def test_parts_share_no_content_word(train, heldout):
    words = [{token for judgement in part for token in tokens(judgement.sentence)} for part in (train, heldout)]
    assert words[0] & words[1] <= FUNCTION_WORDS


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_no_phenomenon_contradicts_another(name):
    # generate() drops repeated sentences; here they are kept, of many more draws, to find one with two labels.
    good, bad = set(), set()
    for writer in WRITERS:
        draw = Draw(LEXICONS[name], f"contradictions {writer.__name__}")
        for _ in range(1000):
            acceptable, unacceptable = writer(draw)
            good.add(acceptable)
            bad.add(unacceptable)
    assert not good & bad


def test_bag_of_words_does_not_solve_it(train, heldout):
    vectorizer = CountVectorizer(token_pattern=r"[a-z']+", lowercase=True)
    model = LogisticRegression(max_iter=1000)
    model.fit(
        vectorizer.fit_transform([judgement.sentence for judgement in train]), [judgement.label for judgement in train]
    )
    predicted = model.predict(vectorizer.transform([judgement.sentence for judgement in heldout]))
    assert abs(matthews_corrcoef([judgement.label for judgement in heldout], predicted)) < 0.25
