import random
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from potstill.predict.tokens import encode_marked, intern_tokenizer, portions

VOCABULARY = {"<pad>": 0, "<cls>": 1, "a": 2, "b": 3, "c": 4}


def encode(*given, **named):
    return encode_marked(*given, **named)[0]


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<none>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def test_own_padding_and_truncation_are_overridden(tokenizer):
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(1, direction="left")
    assert encode(tokenizer, ["a", "a b c"], None, 4, empty_id=0) == [[2], [2, 3, 4]]


def test_a_text_without_tokens_becomes_the_empty_id(tokenizer):
    assert encode(tokenizer, ["", "  ", "b"], None, 4, empty_id=0) == [[0], [0], [3]]
    assert encode(tokenizer, [""], [""], 4, empty_id=4) == [[4]]


def test_texts_and_pairs_must_match(tokenizer):
    with pytest.raises(ValueError, match="expected as many second texts"):
        encode(tokenizer, ["a", "b"], ["b"], 3, empty_id=0)


def test_more_texts_than_one_chunk_keep_their_order(tokenizer):
    texts = ["a", "b", "c"] * 1000
    assert encode(tokenizer, texts, None, 4, empty_id=0) == [[VOCABULARY[text]] for text in texts]


def test_equal_tokenizers_are_interned(tokenizer):
    same, other = (Tokenizer.from_str(tokenizer.to_str()) for _ in range(2))
    first = intern_tokenizer(tokenizer, 4)
    assert intern_tokenizer(same, 4) is first
    assert intern_tokenizer(other, 3) is not first
    assert encode(first, ["a b c a b"], None, 4, empty_id=0) == [[2, 3, 4, 2]]
    for number in range(20):  # the oldest are forgotten
        intern_tokenizer(Tokenizer(models.WordLevel({f"{number}": 0}, unk_token="<none>")), 4)
    assert intern_tokenizer(Tokenizer.from_str(tokenizer.to_str()), 4) is not first


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("most", [4, 5, 8, 16])
def test_pairs_are_cut_as_tokenizers_does_and_marked(most, special):
    """Which cuts the longer one first, and keeps all that it cuts off in all combinations."""
    tokenizer = Tokenizer(
        models.WordLevel({"[CLS]": 0, "[SEP]": 1} | {f"w{n}": n + 2 for n in range(30)}, unk_token="w0")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
        )
    draw = random.Random(0)
    first, second = (
        [" ".join(f"w{draw.randrange(30)}" for _ in range(draw.randrange(25))) for _ in range(300)] for _ in "ab"
    )
    for pairs in (second, None):
        ids, cut = encode_marked(tokenizer, first, pairs, most, empty_id=None)
        inputs = first if pairs is None else list(zip(first, pairs, strict=True))
        assert ids == [encoding.ids for encoding in tokenizer.encode_batch(inputs)]
        whole = Tokenizer.from_str(tokenizer.to_str())
        whole.no_truncation()
        assert cut == [len(encoding.ids) > most for encoding in whole.encode_batch(inputs)]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("count", "length"), [(1, 1_000_000), (300, 20_000)])
def test_long_texts_take_little_memory(pairs, count, length):
    """`tokenizers` keeps what it cuts off, 70 bytes a character; of pairs in all combinations, 3 GB of 4,000 words."""
    program = f"""
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from potstill.predict.tokens import encode_marked
tokenizer = Tokenizer(models.WordLevel({{"w": 0, "x": 1}}, unk_token="w"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
texts = ["w x " * ({length} // 4)] * {count}
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
ids, cut = encode_marked(tokenizer, texts, texts if {pairs} else None, 4, empty_id=0)
assert ids == [[0, 1, 0, 1]] * {count}
assert cut == [True] * {count}
assert peak() - before < 60_000, "kB"
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def unigram():
    return Tokenizer(models.Unigram([(one, -2.0) for one in "<pad>s/cl"] + [("<pad>", 0.0), ("<cls>", 0.0)], unk_id=0))


def word_level():
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY | {"<unk>": 5}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def byte_pairs():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [""], trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["<pad>", "<cls>"])
    )
    return tokenizer


@pytest.mark.parametrize("make", [unigram, word_level, byte_pairs])
@pytest.mark.parametrize("text", ["<pad>", "a <cls> b", "a<pad>b<cls>"])
def test_special_tokens_in_texts_are_text(make, text):
    tokenizer = make()
    tokenizer.add_special_tokens(["<pad>", "<cls>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A", special_tokens=[("<cls>", tokenizer.token_to_id("<cls>"))]
    )
    special = {tokenizer.token_to_id(name) for name in ("<pad>", "<cls>")}
    ((first, *rest),) = encode(tokenizer, [text], None, 40, empty_id=None)
    assert first == tokenizer.token_to_id("<cls>")
    assert rest
    assert not special & {*rest}


def wide_characters():
    tokenizer = Tokenizer(models.Unigram([("<unk>", -9.0), ("漢字", -2.0), ("漢", -3.0), ("a", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def word_pieces():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2, "b": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize("make", [unigram, word_level, byte_pairs, wide_characters, word_pieces])
@pytest.mark.parametrize(
    "text",
    [
        "a b " * 5_000,
        "ab" * 5_000,
        "漢字漢" * 5_000,
        f"a{' ' * 20_000}b a",
        f"{'x' * 20_000} a b a",  # one token, or dropped: what is read lies far behind
        "b " + "a" * 20_000,
    ],
    ids=lambda text: text[:3],
)
def test_long_texts_give_the_ids_of_their_whole(make, text):
    tokenizer = make()
    whole = Tokenizer.from_str(tokenizer.to_str()).encode(text.strip()).ids
    for most in (4, 50):
        assert encode_marked(tokenizer, [text.strip()], None, most, empty_id=None) == (
            [whole[:most]],
            [len(whole) > most],
        )


@pytest.mark.parametrize("make", [unigram, word_level, byte_pairs, wide_characters, word_pieces])
@pytest.mark.parametrize(
    "text",
    ["a b " * 5_000 + "b b", "ab" * 5_000, "漢字漢" * 5_000, f"a{' ' * 20_000}b a", "b " + "a" * 20_000, "a b"],
    ids=lambda text: text[:3],
)
@pytest.mark.parametrize("special", [False, True])
def test_of_long_texts_beginning_and_end_are_read(make, text, special):
    tokenizer = make()
    whole = Tokenizer.from_str(tokenizer.to_str()).encode(text).ids
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="a $A b", special_tokens=[(name, tokenizer.token_to_id(name) or 0) for name in "ab"]
        )
    before, after = ([tokenizer.token_to_id(name) or 0] * special for name in "ab")
    for most in (4, 7, 50):
        room = most - 2 * special
        expected = whole if len(whole) <= room else whole[: room - room // 2] + whole[len(whole) - room // 2 :]
        assert encode_marked(tokenizer, [text, "b"], None, most, empty_id=None, long_texts="head-tail") == (
            [before + expected + after, before + encode(make(), ["b"], None, 4, empty_id=None)[0] + after],
            [len(whole) > room, False],
        )


def test_ends_of_long_texts_are_read_beside_others(tokenizer):
    texts = ["a b c a b c", "a", "c b a " * 2000]
    ids = encode(tokenizer, texts, None, 4, empty_id=0, long_texts="head-tail")
    assert ids == [[2, 3, 3, 4], [2], [4, 3, 3, 2]]
    assert encode(tokenizer, ["a b c"], ["a b c"], 4, empty_id=0, long_texts="head-tail") == [[2, 3, 2, 3]]


def test_portions_hold_at_most_so_many_and_so_much():
    assert [*portions([], 2, 10)] == []
    found = [[*range(9)][part] for part in portions([1, 1, 1, 20, 4, 6, 1, 0, 0], 2, 10)]
    assert found == [[0, 1], [2], [3], [4, 5], [6, 7], [8]]
