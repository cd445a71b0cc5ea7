"""Perturbed texts: new, of the kind that they name, repeatable."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from potstill.augment.perturb import KINDS, MARKS, perturb

WORDS = ["the", "The", "dog", "dogs", "John", "I", "is", "are", "barks,", '"wow"', "(", "don't", "7", "ß", "ıx", "Él"]
SENTENCES = st.builds(
    lambda words, end: " ".join(words) + end,
    st.lists(st.sampled_from(WORDS), max_size=6),
    st.sampled_from(["", ".", "!?", ' ."', "  \n"]),
)
TEXTS = st.lists(st.one_of(SENTENCES, st.text(max_size=12)), max_size=6)

SAMPLE = [
    "The boy sees the dogs.",
    "The dog sees a boy in the garden.",
    "Peter says that he is hungry.",
    "Yesterday, the boys were singing loudly!",
    "Has the singer seen himself?",
    "John admires these gardens of the singers.",
]


def made_by(kind, *texts):
    """Return all that a kind makes of the texts."""
    return {text for text, _ in perturb(texts, 10_000, seed=0, kinds=[kind])}


@given(texts=TEXTS, count=st.integers(-1, 60), seed=st.integers(0, 2**70))
@example(texts=["is ( ."], count=60, seed=0)
@example(texts=["ı, x", "The the is"], count=60, seed=0)
def test_made_texts_are_new_distinct_and_repeatable(texts, count, seed):
    made = list(perturb(texts, count, seed))
    assert len(made) <= max(count, 0)
    new = [text for text, _ in made]
    assert len(set(new)) == len(new)
    assert not set(new) & {" ".join(text.split()) for text in texts}
    assert all(text == " ".join(text.split()) and text for text in new)
    assert list(perturb(texts, count, seed)) == made
    known = {word.strip(MARKS) for text in texts for word in text.casefold().split()}
    assert {word.strip(MARKS) for text in new for word in text.casefold().split()} <= known


def test_kinds_have_equal_shares():
    shares = Counter(kind for _, kind in perturb(SAMPLE, 62, seed=1))
    assert shares.total() == 62
    assert set(shares) == set(KINDS)
    assert max(shares.values()) - min(shares.values()) == 1


def test_other_kinds_go_on_when_one_is_exhausted():
    made = Counter(kind for _, kind in perturb(["the dog barks", "nobody saw"], 40, seed=0))
    assert made.total() == 40
    assert made["swap"] == 3
    assert made["insert"] > made["replace"] > 5


def test_only_the_chosen_kinds_are_made():
    assert Counter(kind for _, kind in perturb(SAMPLE, 20, seed=0, kinds=["drop", "join"])) == {"drop": 10, "join": 10}
    assert list(perturb(SAMPLE, 20, seed=0, kinds=[])) == []


@pytest.mark.parametrize(
    ("texts", "kinds"),
    [
        ([], set()),
        (["", " ", "?!"], set()),
        (["dog"], {"insert"}),  # "dog dog"; there is no other word to replace it by
        (["dog", "cat"], {"insert"}),  # "dog" and "cat" are known
        (["a dog"], {"swap", "drop", "insert", "replace"}),
    ],
)
def test_ends_when_nothing_new_is_left(texts, kinds):
    made = list(islice(perturb(texts, 10**9, seed=0), 1000))
    assert {kind for _, kind in made} == kinds
    assert len(made) < 20


@pytest.mark.parametrize(
    ("kind", "texts", "expected"),
    [
        ("swap", ["the red dog barks."], {"red the dog barks.", "the dog red barks.", "the red barks dog."}),
        ("swap", ["the red dog"], {"red the dog", "the dog red"}),  # no capital
        ("drop", ["the red dog"], {"red dog", "the dog", "the red"}),
        ("drop", ["dogs bark, cats."], {"bark, cats.", "dogs cats."}),  # not "dogs bark,."
        ("insert", ["dog!", "cat!"], {"dog dog!", "dog cat!", "cat dog!", "cat cat!"}),
        ("replace", ["the window"], {"window window", "the the"}),  # no other word of its kind
        ("replace", ['"the window"', "a door"], {'"a window"', '"the door"', "the door", "a window"}),
        ("join", ["a dog barks.", "The cat!"], {"a cat!", "a dog cat!", "The barks.", "The dog barks."}),
    ],
)
def test_all_texts_of_a_kind(kind, texts, expected):
    assert made_by(kind, *texts) == expected


def test_first_word_is_written_as_the_texts_write_it_within_a_sentence():
    swaps = made_by("swap", "The dog barks.", "I see the red dog with Mary.", "Mary barks.")
    assert {"Dog the barks.", "See I the red dog with Mary.", "Barks Mary."} <= swaps


def test_words_are_replaced_by_words_of_their_kind():
    """Each word has one other of its kind: short, -ing, -ly, name, number, other."""
    texts = ["in singing loudly John 12 garden", "on barking badly Mary 15 window"]
    kinds = [set(pair) for pair in zip(*(text.split() for text in texts), strict=True)]
    made = made_by("replace", *texts)
    assert len(made) == 2 * len(kinds)
    for text in made:
        assert all(word in kind for word, kind in zip(text.split(), kinds, strict=True))


def test_frequent_words_are_inserted_more_often():
    texts = [f"w{number} often" for number in range(300)]
    made = [text.split() for text, kind in perturb(texts, 1200, seed=0) if kind == "insert"]
    assert 0.4 < sum(words.count("often") == 2 for words in made) / len(made) < 0.6


def test_texts_of_any_size_and_script():
    texts = ["word " * 20_000, "Ü" * 50_000, "猫が好きです。", "कुत्ता भौंकता है।", "\ud800 \x00 \u200b", "…", "a\u2028b"]
    made = list(perturb(texts, 120, seed=0))
    assert len(made) == 120
    assert {kind for _, kind in made} == set(KINDS)


def test_draws_are_the_same_everywhere():
    """Pinned: hashes of strings differ between processes, these draws must not."""
    made = list(perturb(SAMPLE, 5, seed=0))
    assert [kind for _, kind in made] == ["swap", "drop", "join", "replace", "insert"]
    assert made[0] == ("John admires these gardens the of singers.", "swap")
    assert list(perturb(SAMPLE, 6, seed=1)) != list(perturb(SAMPLE, 6, seed=0))


def test_texts_are_made_lazily():
    assert next(perturb(SAMPLE, 10**12, seed=0))[1] == "swap"
