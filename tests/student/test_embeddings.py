import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModel, PreTrainedTokenizerFast

from potstill.errors import ConfigError
from potstill.student.embeddings import principal_components, teacher_embeddings, teacher_pieces
from potstill.student.student import PADDING_TOKEN, train_vocabulary
from potstill.teacher.backbone.sources import load_tokenizer
from tiny_words import VOCABULARY, tiny_tokenizer

TEXTS = ["the cat sat on the mat", "a catalogue of cats", "naïve 漢字 🙂", "unbelievable, the unkind cat said"]


def byte_level_teacher(*, prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer like GPT-2's, of few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat the mat a cat said on", "able kind"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def embeddings(width: int = 6, tokens: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)) + 3.0


def test_every_token_is_spelt_in_the_teachers_tokens():
    teacher, student = byte_level_teacher(), train_vocabulary(TEXTS, 400)
    pieces, names = teacher_pieces(student, teacher), {n: token for token, n in teacher.get_vocab().items()}
    padding = student.token_to_id(PADDING_TOKEN)
    for token, token_id in student.get_vocab().items():
        if token_id != padding:
            assert "".join(names[piece] for piece in pieces[token_id]) == token
    assert padding not in pieces


@pytest.mark.parametrize("prefix_space", [False, True])  # some tokenizers put a space before whatever they cut
def test_a_token_that_the_teacher_has_is_one_piece_and_its_leading_space_counts(prefix_space):
    teacher, student = byte_level_teacher(prefix_space=prefix_space), train_vocabulary(TEXTS, 400)
    pieces, theirs = teacher_pieces(student, teacher), teacher.backend_tokenizer.get_vocab()
    assert pieces[student.token_to_id("Ġcat")] == [theirs["Ġcat"]]
    assert pieces[student.token_to_id("at")] == [theirs["at"]]
    assert "Ġcats" not in theirs
    assert pieces[student.token_to_id("Ġcats")] == [theirs["Ġcat"], theirs["s"]]


def test_a_part_of_a_character_is_spelt_byte_by_byte():
    student = train_vocabulary(["漢字", "漢字"] * 9, 262)
    halves = [token for token in student.get_vocab() if len(token) > 1 and not _is_text(student, token)]
    assert halves  # some token is no whole UTF-8, else this test shows nothing
    pieces, theirs = teacher_pieces(student, byte_level_teacher()), byte_level_teacher().backend_tokenizer.get_vocab()
    for token in halves:
        assert pieces[student.token_to_id(token)] == [theirs[byte] for byte in token]


def _is_text(tokenizer: Tokenizer, token: str) -> bool:
    return "\N{REPLACEMENT CHARACTER}" not in tokenizer.decode([tokenizer.token_to_id(token)])


def test_unknown_pieces_are_left_out_and_special_tokens_are_found_by_name():
    student = Tokenizer(models.WordLevel({"w1": 0, "never seen": 1, "w1 zzz w2": 2, "</s>": 3, "<mask>": 4}, "w1"))
    student.add_special_tokens([AddedToken("</s>"), AddedToken("<mask>")])
    pieces = teacher_pieces(student, tiny_tokenizer())
    assert pieces == {
        0: [VOCABULARY["w1"]],
        1: [],
        2: [VOCABULARY["w1"], VOCABULARY["w2"]],
        3: [VOCABULARY["</s>"]],
    }


@pytest.mark.parametrize(("token", "piece"), [("▁cat", "Ġcat"), ("##at", "at")])
def test_other_ways_to_write_a_space_are_understood(token, piece):
    student, teacher = Tokenizer(models.WordLevel({token: 0, "x": 1}, "x")), byte_level_teacher()
    assert teacher_pieces(student, teacher)[0] == [teacher.backend_tokenizer.token_to_id(piece)]


def test_with_the_teachers_tokenizer_every_token_is_its_own_piece():
    teacher = byte_level_teacher()
    assert teacher_pieces(teacher.backend_tokenizer, teacher) == {i: [i] for i in range(len(teacher))}


def make(backbone, tokenizer, counts, size, pad_token_id=VOCABULARY["<pad>"], **names):
    names = {"backbone": str(backbone), "teacher_tokenizer": str(backbone)} | names
    return teacher_embeddings(tokenizer, counts, size, pad_token_id, **names)


def test_with_the_teachers_tokenizer_distances_keep_their_proportions(tiny_backbone):
    tokenizer = load_tokenizer(str(tiny_backbone)).backend_tokenizer
    counts = np.arange(len(VOCABULARY))
    found = make(tiny_backbone, tokenizer, counts, size=16)
    table = AutoModel.from_pretrained(tiny_backbone).get_input_embeddings().weight.detach()
    others = [i for i in range(len(VOCABULARY)) if i != 1]
    ratio = torch.pdist(found[others]) / torch.pdist(table[others])
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=0.0)
    assert not found[1].any()


def test_other_tokens_begin_as_the_mean_of_their_pieces(tiny_backbone):
    words = {"w1": 0, "<pad>": 1, "w2": 2, "w1 w2": 3, "???": 4, **{f"w{n}": n for n in range(5, 40)}}
    tokenizer = Tokenizer(models.WordLevel(words, "???"))
    counts = np.ones(40, np.int64)
    found = make(tiny_backbone, tokenizer, counts, size=8)
    torch.testing.assert_close(found[3], (found[0] + found[2]) / 2)
    assert not found[1].any()
    assert not found[4].any()  # what the teacher can't read is an average token
    counts[4] = 1000  # which moves no other
    torch.testing.assert_close(make(tiny_backbone, tokenizer, counts, size=8), found)


def test_tokens_that_are_read_have_the_scale_of_a_random_start(tiny_backbone):
    tokenizer = load_tokenizer(str(tiny_backbone)).backend_tokenizer
    counts = np.random.default_rng(0).integers(0, 50, len(VOCABULARY))
    counts[1] = 0
    found = make(tiny_backbone, tokenizer, counts, size=5)
    shares = torch.from_numpy(counts / counts.sum()).float()
    squares = shares @ found.square()  # (components,)
    assert float(squares.mean()) == pytest.approx(1.0, rel=1e-5)
    assert squares.tolist() == sorted(squares.tolist(), reverse=True)
    torch.testing.assert_close(shares @ found, torch.zeros(5), rtol=0.0, atol=1e-5)


def test_a_tokenizer_with_tokens_that_the_backbone_lacks_is_refused(tiny_backbone, tmp_path):
    byte_level_teacher().save_pretrained(tmp_path)
    tokenizer = train_vocabulary(TEXTS, 300)
    counts = np.ones(tokenizer.get_vocab_size(), np.int64)
    with pytest.raises(ConfigError, match=rf"the tokenizer has 279 tokens, .* knows {len(VOCABULARY)}; remove"):
        make(tiny_backbone, tokenizer, counts, size=4, teacher_tokenizer=str(tmp_path))


def test_the_components_are_those_of_a_weighted_singular_value_decomposition():
    rows, weights = embeddings().numpy().astype(np.float64), np.random.default_rng(1).integers(0, 9, 40)
    found = principal_components(embeddings(), torch.from_numpy(weights), 3).numpy()
    centred = rows - np.average(rows, axis=0, weights=weights)
    u, s, _ = np.linalg.svd(np.sqrt(weights)[:, None] * centred, full_matrices=False)
    expected = u[:, :3] * s[:3] / np.sqrt(np.square(s[:3]).sum() / (3 * weights.sum()))
    np.testing.assert_allclose(np.abs(np.sqrt(weights)[:, None] * found), np.abs(expected), rtol=1e-4, atol=1e-5)


def test_columns_beyond_the_dimensions_of_few_tokens_begin_at_zero(capsys):
    flat = embeddings(width=6)
    flat[:, 4:] = flat[:, :2] @ torch.tensor([[1.0, 2.0], [-0.5, 3.0]])
    weights = torch.ones(40)
    whole, wider = principal_components(flat, weights, 4), principal_components(flat, weights, 5)
    assert "of 40 tokens have 4 dimensions: the other 1 of the student's begin at 0" in capsys.readouterr().err
    assert not wider[:, 4].any()
    torch.testing.assert_close(torch.pdist(wider) / torch.pdist(whole), torch.full((780,), (5 / 4) ** 0.5))
    assert float(wider.square().mean()) == pytest.approx(1.0, rel=1e-5)
    nothing = principal_components(flat, torch.zeros(40), 2)  # the teacher can read nothing of what is read
    assert nothing.tolist() == [[0.0, 0.0]] * 40
