import dataclasses
import random

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from potstill.config import RNNConfig
from potstill.data import Corpus, Examples
from potstill.errors import ConfigError
from potstill.predict import Classifier
from potstill.predict.decision import predict_class, softmax
from potstill.predict.directory import StudentFiles
from potstill.store.checksums import CHECKSUMS_FILE
from potstill.student import student as student_module
from potstill.student.embeddings import teacher_embeddings
from potstill.student.saved import load_network
from potstill.student.student import PADDING_TOKEN, Student, readable_part, student_bytes, train_vocabulary
from potstill.training.compute import EXACT, make_fabric
from potstill.training.inference import predict_logits

TEXTS = ("the cat sat", "a dog ran away", "birds sing", "", "naïve 漢字 🙂", "<pad> half a pair \ud800")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path_factory.mktemp("cache")))


def make_corpus(pairs: tuple[str, ...] | None = None) -> Corpus:
    texts = (*TEXTS[:-1], "wet grass")  # what is learnt from is well-formed
    train = Examples(texts, np.array([0, 1, 0, 1, 0, 1]), pairs)
    return Corpus("toy", "made up", ("no", "yes"), train, train, train)


def make_student(seed=0, pairs=None, more_texts=(), teacher="teacher's", backbone=None, **settings) -> Student:
    config = RNNConfig(**{"embedding_size": 6, "hidden_size": 5, "vocab_size": 300} | settings)
    corpus = make_corpus(pairs)
    texts = (*corpus.train.all_texts, *more_texts)
    return Student.create(config, corpus, 16, seed, texts=texts, teacher_tokenizer=teacher, backbone=backbone)


def logits(student: Student, examples: Examples) -> np.ndarray:
    return predict_logits(student.network, student.featurise(examples), make_fabric(EXACT)).numpy()


@pytest.mark.parametrize("tokenizer", ["bpe", "teacher"])
def test_two_texts_of_a_pair_are_separated(tmp_path, tokenizer):
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "a": 2, "b": 3, "c": 4}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>").save_pretrained(
        tmp_path / "t"
    )
    student = make_student(pairs=("the end",) * len(TEXTS), tokenizer=tokenizer, teacher=str(tmp_path / "t"))
    examples = Examples(("a b", "a"), np.zeros(2, dtype=np.int64), ("c", "b c"))
    first, second = (ids.tolist() for ids in student.featurise(examples).tokens)
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("pairs", [None, tuple(reversed(TEXTS))])
def test_a_saved_student_predicts_as_the_trained_one(tmp_path, pairs):
    student = make_student(cell="gru", num_layers=2, pairs=pairs and ("the end",) * len(TEXTS))
    student.save(tmp_path / "student")
    examples = Examples(TEXTS, np.zeros(len(TEXTS), dtype=np.int64), pairs)
    inputs = TEXTS if pairs is None else list(zip(TEXTS, pairs, strict=True))
    found = Classifier.load(tmp_path / "student").logits(inputs)
    np.testing.assert_allclose(found, logits(student, examples), atol=1e-5)


def test_calibration_reaches_prediction(tmp_path):
    student, corpus = make_student(), make_corpus()
    own = logits(student, corpus.train)
    margins = np.where(corpus.train.labels == 0, 3.0, 2.0).astype(np.float32)  # class 1 is never the more probable
    one_sided = np.stack([own[:, 0], own[:, 0] - margins], axis=1)
    plain, tuned = (student.calibrated(one_sided, corpus.train.labels, tune_threshold=tune) for tune in (False, True))
    assert plain.temperature == tuned.temperature != 1.0
    assert plain.threshold is None
    assert 0 < tuned.threshold < 0.5
    answers = predict_class(softmax(one_sided, tuned.temperature), tuned.threshold)
    assert answers.tolist() == corpus.train.labels.tolist()
    tuned.save(tmp_path)
    classifier = Classifier.load(tmp_path)
    assert (classifier.temperature, classifier.threshold) == (tuned.temperature, tuned.threshold)
    np.testing.assert_allclose(classifier.logits(corpus.train.texts), own, atol=1e-5)


def test_more_than_two_classes_have_no_threshold():
    student = dataclasses.replace(make_student(), label_names=("a", "b", "c"))
    calibrated = student.calibrated(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), tune_threshold=True)
    assert calibrated.threshold is None
    assert calibrated.temperature != 1.0


def test_size_on_disk_counts_only_files_for_prediction(tmp_path):
    make_student().save(tmp_path)
    files = StudentFiles(tmp_path)
    everything = sum(file.stat().st_size for file in tmp_path.iterdir())
    apart = files.weights.stat().st_size + (tmp_path / CHECKSUMS_FILE).stat().st_size
    assert student_bytes(tmp_path) == everything - apart


def test_the_vocabulary_is_deterministic_and_covers_every_text():
    first, second = (train_vocabulary(make_corpus().train.all_texts, 300) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() <= 300
    for text in ("unseen words", "ßþ漢字", "🙂\t\n"):
        assert first.decode(first.encode(text).ids).strip() == text.strip()


def test_a_vocabulary_is_learnt_once_for_all_seeds(monkeypatch):
    learnt, learn = [], student_module.train_vocabulary
    monkeypatch.setattr(
        student_module, "train_vocabulary", lambda *given, **named: learnt.append(given) or learn(*given, **named)
    )
    first, second = (make_student(seed=seed).tokenizer.to_str() for seed in (0, 1))
    assert first == second
    assert len(learnt) == 1
    make_student(more_texts=("other words",))
    make_student(vocab_size=310)
    assert len(learnt) == 3


@pytest.mark.parametrize("letters", ["ACGT", "0123456789", "我们到酒店", "+/=-", " \t\n"])
def test_no_token_is_learnt_from_more_of_a_word_than_a_word_has(letters):
    """The trainer's time is quadratic in the length of a word: none may reach it whole."""
    choose = random.Random(0)
    long = "".join(choose.choices(letters, k=2_000))
    tokenizer = train_vocabulary([long], 300)
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(readable_part(long, None))
    assert max(len(word) for word, _ in pieces) <= 3 * 65  # bytes of 64 characters, and the space before
    assert tokenizer.decode(tokenizer.encode(long).ids).strip() == long.strip() or letters.isspace()


def test_words_behind_max_length_are_not_learnt_from():
    text = " ".join(["seen"] * 8 + ["unseen"] * 8)
    tokens = train_vocabulary([text] * 9, 300, max_length=8).get_vocab()
    assert "Ġseen" in tokens
    assert not any("un" in token for token in tokens)
    assert "Ġunseen" in train_vocabulary([text] * 9, 300).get_vocab()


def test_usual_texts_are_learnt_from_as_they_are():
    text = "A  text\twith gaps,\n\nand a-rather-long-word: " + "x" * 64
    assert readable_part(text, None) == readable_part(text, 99) == text


def test_the_smallest_allowed_vocabulary_is_bytes_and_padding():
    tokenizer = train_vocabulary(make_corpus().train.all_texts, 257)
    assert tokenizer.get_vocab_size() == 257
    assert tokenizer.token_to_id(PADDING_TOKEN) is not None


def test_second_and_further_texts_count_for_the_vocabulary():
    kinds = ({}, {"pairs": ("zyzzyva zyzzyva",) * 6}, {"more_texts": ["zyzzyva"] * 6})
    plain, *others = (len(make_student(**kind).tokenizer.encode("zyzzyva").ids) for kind in kinds)
    assert all(other < plain for other in others)


@pytest.mark.parametrize("tokenizer", ["bpe", "teacher"])
def test_embeddings_may_begin_as_the_teachers(tiny_backbone, tmp_path, tokenizer):
    words = ["the", "cat", "sat", "a", "dog", "ran", "away", "birds", "sing", "wet", "grass"]
    vocabulary = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["<unk>", *words])}, "<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=vocabulary, unk_token="<unk>", pad_token="<unk>").save_pretrained(tmp_path)
    names = {"backbone": str(tiny_backbone), "teacher": str(tmp_path)}
    more = ("the dog sat", "birds ran") * 5
    fresh, started = (
        make_student(more_texts=more, vocab_size=400, embedding_init=start, tokenizer=tokenizer, **names)
        for start in ("random", "teacher")
    )
    texts = (*make_corpus().train.texts, *more)
    spec = started.network.spec
    read = started.featurise(Examples(texts, np.zeros(len(texts), np.int64))).tokens.ids
    expected = teacher_embeddings(
        started.tokenizer,
        np.bincount(read, minlength=spec.vocab_size),
        spec.embedding_size,
        spec.pad_token_id,
        backbone=names["backbone"],
        teacher_tokenizer=names["teacher"],
    )
    assert torch.equal(started.network.embedding.weight, expected)
    assert started.network.embedding.weight.requires_grad
    for name, tensor in fresh.network.state_dict().items():
        assert torch.equal(tensor, started.network.state_dict()[name]) == (name != "embedding.weight")


def test_embeddings_of_a_teacher_that_has_none_are_refused():
    with pytest.raises(ConfigError, match="embedding_init: this teacher has no embeddings; choose `random`"):
        make_student(embedding_init="teacher")


def test_the_tokenizer_of_a_teacher_that_has_none_is_refused():
    with pytest.raises(ConfigError, match=r"student\.tokenizer: this teacher has no tokenizer; choose `bpe`"):
        make_student(tokenizer="teacher", teacher=None)


def test_a_saved_network_is_read_back(tmp_path):
    student = make_student(pooling="mean", surprisal_size=3)
    student.save(tmp_path)
    network = load_network(tmp_path)
    assert network.spec == student.network.spec
    assert not network.training
    for name, tensor in student.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    student.prove(tmp_path)


class LoadedTokenizer:
    """What a pretrained tokenizer offers, with a gap in its ids and no padding token."""

    pad_token_id = None
    eos_token_id = 3

    def __init__(self):
        self.backend_tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 9, "<eos>": 3, "<unk>": 1}, "<unk>"))
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        self.backend_tokenizer.add_special_tokens([AddedToken("<eos>")])


def test_tokenizer_of_the_teacher(monkeypatch):
    asked = []
    monkeypatch.setattr(student_module, "load_tokenizer", lambda name: asked.append(name) or LoadedTokenizer())
    student = make_student(tokenizer="teacher")
    assert asked == ["teacher's"]
    assert student.network.spec.pad_token_id == 3
    assert student.network.spec.vocab_size == 10  # the largest id counts, not the number of tokens
    assert np.isfinite(logits(student, make_corpus().train)).all()
