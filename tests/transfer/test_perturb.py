from collections import Counter
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from potstill.transfer.perturb import ENDS, KINDS, MARKS, perturb

WORDS = ["the", "The", "dog", "dogs", "John", "I", "is", "are", "barks,", '"wow"', "(", "don't", "7", "ß", "ıx", "Él"]
SENTENCES = st.builds(
    lambda words, end: " ".join(words) + end,
    st.lists(st.sampled_from(WORDS), max_size=6),
    st.sampled_from(["", ".", "!?", ' ."', "  \n"]),
)
TEXTS = st.lists(st.one_of(SENTENCES, st.text(max_size=12)), max_size=6)
COUNTS = st.integers(-1, 60)
SEEDS = st.integers(0, 2**70)

SAMPLE = [
    "The boy sees the dogs.",
    "The dog sees a boy in the garden.",
    "Peter says that he is hungry.",
    "Yesterday, the boys were singing loudly!",
    "Has the singer seen himself?",
    "John admires these gardens of the singers.",
]


def _words_and_end(text):
    """Take a text apart, and make nothing of case."""
    text = " ".join(text.split())
    body = text.rstrip(ENDS)
    return body.casefold().split(), text[len(body) :]


def _without(words, at):
    return words[:at] + words[at + 1 :]


def _differing(one, other):
    return [at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]


def _core(word):
    return word.strip(MARKS)


def _is_swap(new, old):
    if len(new) != len(old) or sorted(new) != sorted(old):
        return False
    places = _differing(new, old)
    return len(places) == 2 and places[0] + 1 == places[1]


def _is_drop(new, old):
    return any(_without(old, at) == new for at in range(len(old)))


def _is_replacement(new, old):
    if len(new) != len(old) or len(_differing(new, old)) != 1:
        return False
    [at] = _differing(new, old)
    if not _core(old[at]):
        return False
    before, _, after = old[at].partition(_core(old[at]))
    return new[at].startswith(before) and new[at].endswith(after) and _core(new[at]) != _core(old[at])


def _check(kind, text, texts):
    """Find an original, or two for a join, from which the text comes by what its kind says."""
    new, end = _words_and_end(text)
    originals = [_words_and_end(original) for original in texts]
    if kind == "join":
        heads = [at for at in range(1, len(new)) if any(new[:at] == old[:at] and at < len(old) for old, _ in originals)]
        tails = [
            at
            for at in range(1, len(new))
            if any(new[at:] == old[at - len(new) :] and len(new) - at < len(old) and end == of for old, of in originals)
        ]
        return bool(set(heads) & set(tails))
    test = {
        "swap": _is_swap,
        "drop": _is_drop,
        "insert": lambda new, old: _is_drop(old, new),
        "replace": _is_replacement,
        "agreement": _is_replacement,
    }[kind]
    return any(end == of and test(new, old) for old, of in originals)


def _all(texts, kind):
    """List all that a kind makes of the texts."""
    return {text for text, _ in perturb(texts, 10_000, seed=0, kinds=[kind])}


@given(texts=TEXTS, count=COUNTS, seed=SEEDS)
@example(texts=["is ( ."], count=60, seed=0)
@example(texts=["ı, x", "The the is"], count=60, seed=0)
def test_texts_are_new_and_different_and_as_many_as_asked_for_at_most(texts, count, seed):
    made = list(perturb(texts, count, seed))
    assert len(made) <= max(count, 0)
    new = [text for text, _ in made]
    assert len(set(new)) == len(new)
    assert not set(new) & {" ".join(text.split()) for text in texts}
    assert all(text == " ".join(text.split()) and text for text in new)
    assert list(perturb(texts, count, seed)) == made


@given(texts=TEXTS, seed=SEEDS)
@example(texts=["dog the The"], seed=0)
def test_each_kind_does_what_it_says(texts, seed):
    for text, kind in perturb(texts, 40, seed):
        assert _check(kind, text, texts), (kind, text)


@given(texts=TEXTS, seed=SEEDS)
def test_inserted_words_come_from_the_texts(texts, seed):
    known = {_core(word) for text in texts for word in text.casefold().split()}
    for text, kind in perturb(texts, 40, seed):
        if kind in ("insert", "replace"):
            assert {_core(word) for word in text.casefold().split()} <= known


def test_kinds_have_equal_shares():
    made = list(perturb(SAMPLE, 62, seed=1))
    shares = Counter(kind for _, kind in made)
    assert len(made) == 62
    assert set(shares) == set(KINDS)
    assert max(shares.values()) - min(shares.values()) == 1


def test_where_a_kind_has_no_more_the_others_go_on():
    made = Counter(kind for _, kind in perturb(["the dog barks", "nobody saw"], 40, seed=0))
    assert made.total() == 40
    assert made["swap"] == 3
    assert made["agreement"] == 0
    assert made["insert"] > made["replace"] > 5


def test_only_the_kinds_asked_for_are_made():
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
def test_it_ends_where_there_is_nothing_more_to_make(texts, kinds):
    made = list(islice(perturb(texts, 10**9, seed=0), 1000))
    assert {kind for _, kind in made} == kinds
    assert len(made) < 20


def test_swaps_are_all_of_two_neighbours():
    assert _all(["the red dog barks."], "swap") == {"red the dog barks.", "the dog red barks.", "the red barks dog."}


def test_first_word_is_written_as_the_texts_write_it_within_a_sentence():
    texts = ["The dog barks.", "I see the red dog with Mary.", "Mary barks."]
    swaps = _all(texts, "swap")
    assert "Dog the barks." in swaps
    assert "See I the red dog with Mary." in swaps
    assert "Barks Mary." in swaps


def test_a_sentence_without_a_capital_gets_none():
    assert _all(["the red dog"], "swap") == {"red the dog", "the dog red"}
    assert _all(["the red dog"], "drop") == {"red dog", "the dog", "the red"}


def test_marks_at_the_end_stay_there_and_meet_no_others():
    assert _all(["Well, dogs bark, cats do !"], "drop") == {
        "Dogs bark, cats do !",
        "Well, bark, cats do !",
        "Well, dogs cats do !",
        "Well, dogs bark, do !",
        "Well, dogs bark, cats !",
    }
    assert _all(["dogs bark, cats."], "drop") == {"bark, cats.", "dogs cats."}  # not "dogs bark,."


def test_a_word_unlike_all_others_is_replaced_by_any():
    assert _all(["the window"], "replace") == {"window window", "the the"}


def test_words_are_replaced_by_their_like():
    """Each word has one like it: short, -ing, -ly, name, number, other."""
    texts = ["in singing loudly John 12 garden", "on barking badly Mary 15 window"]
    likes = [set(pair) for pair in zip(*(text.split() for text in texts), strict=True)]
    made = _all(texts, "replace")
    assert len(made) == 2 * len(likes)
    for text in made:
        assert all(word in like for word, like in zip(text.split(), likes, strict=True))


def test_frequent_words_are_inserted_more_often():
    texts = [f"w{number} often" for number in range(300)]
    made = [text.split() for text, kind in perturb(texts, 1200, seed=0) if kind == "insert"]
    assert 0.4 < sum(words.count("often") == 2 for words in made) / len(made) < 0.6


def _each(sentence, words):
    return {sentence.format(word) for word in words.split()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He is here.", {"They is here.", "He are here."}),
        (
            "They hurt themselves, again.",
            _each("{} hurt themselves, again.", "He She It") | _each("They hurt {}, again.", "himself herself itself"),
        ),
        ("These men haven't left.", {"This men haven't left.", "These man haven't left.", "These men hasn't left."}),
        ("What does Mary say?", {"What do Mary say?"}),
        ('"I cries," you cry.', {'"I cry," you cry.', '"I cries," you cries.'}),
        ("Her hers news new Johns John.", set()),
    ],
)
def test_agreement_changes_the_number_of_one_word(text, expected):
    assert _all([text], "agreement") == expected


def test_number_is_changed_only_where_both_forms_are_known():
    assert _all(["the dog barks", "dogs run"], "agreement") == {"the dogs barks", "dog run"}


def test_texts_of_any_size_and_script_will_do():
    texts = ["word " * 20_000, "Ü" * 50_000, "猫が好きです。", "कुत्ता भौंकता है।", "\ud800 \x00 \u200b", "…", "a\u2028b"]
    made = list(perturb(texts, 120, seed=0))
    assert len(made) == 120
    assert {kind for _, kind in made} == set(KINDS) - {"agreement"}


def test_draws_are_the_same_everywhere():
    """Pinned: other draws would change everyone's transfer sets. Hashes of strings differ between processes."""
    assert list(perturb(SAMPLE, 6, seed=0)) == [
        ("John admires these gardens the of singers.", "swap"),
        ("Peter that he is hungry.", "drop"),
        ("Yesterday, the gardens were singing loudly!", "replace"),
        ("The dog sees a boys boy in the garden.", "insert"),
        ("John admires is hungry.", "join"),
        ("Yesterday, the boy were singing loudly!", "agreement"),
    ]
    assert list(perturb(SAMPLE, 6, seed=1)) != list(perturb(SAMPLE, 6, seed=0))


def test_nothing_is_made_before_it_is_asked_for():
    """A hundred thousand texts need not be in memory to get one."""
    assert next(perturb(SAMPLE, 10**12, seed=0))[1] == "swap"
