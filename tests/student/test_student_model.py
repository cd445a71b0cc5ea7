import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from potstill.config import RuntimeConfig, StudentConfig
from potstill.data import Corpus, Examples
from potstill.errors import ArtifactError, ConfigError
from potstill.runtime import Classifier
from potstill.runtime.decision import decide, softmax
from potstill.runtime.directory import Manifest, StudentFiles
from potstill.runtime.seal import SEAL
from potstill.student import model as student_model
from potstill.student.embeddings import teacher_embeddings
from potstill.student.model import PADDING_TOKEN, Student, student_bytes, train_vocabulary
from potstill.student.network import StudentSpec
from potstill.training.compute import make_fabric
from potstill.training.inference import predict_logits

TEXTS = ("the cat sat", "a dog ran away", "birds sing", "", "naïve 漢字 🙂", "<pad> half a pair \ud800")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))


def make_corpus(pairs: tuple[str, ...] | None = None) -> Corpus:
    texts = (*TEXTS[:-1], "wet grass")  # what is learnt from is well-formed
    train = Examples(texts, np.array([0, 1, 0, 1, 0, 1]), pairs)
    return Corpus("toy", "made up", ("no", "yes"), train, train, train)


def make_student(
    seed: int = 0, pairs: tuple[str, ...] | None = None, more_texts=(), teacher="teacher's", backbone=None, **settings
) -> Student:
    config = StudentConfig(**{"embedding_size": 6, "hidden_size": 5, "vocab_size": 300} | settings)
    return Student.create(config, make_corpus(pairs), 16, teacher, seed=seed, more_texts=more_texts, backbone=backbone)


def logits(student: Student, examples: Examples) -> np.ndarray:
    fabric = make_fabric(RuntimeConfig(device="cpu", precision="32-true"))
    return predict_logits(student.network, student.training_set(examples), fabric).numpy()


@pytest.mark.parametrize("tokenizer", ["bpe", "teacher"])
def test_where_the_first_of_two_texts_ends_is_seen(tmp_path, tokenizer):
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "a": 2, "b": 3, "c": 4}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>").save_pretrained(
        tmp_path / "t"
    )
    student = make_student(pairs=("the end",) * len(TEXTS), tokenizer=tokenizer, teacher=str(tmp_path / "t"))
    examples = Examples(("a b", "a"), np.zeros(2, dtype=np.int64), ("c", "b c"))
    first, second = (ids.tolist() for ids in student.training_set(examples).tokens)
    assert sorted(first) == sorted(second)
    assert first != second


def test_same_seed_same_student():
    weights = [make_student(seed).network.head.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("pairs", [None, tuple(reversed(TEXTS))])
def test_the_runtime_answers_as_the_trained_student_does(tmp_path, pairs):
    student = make_student(cell="gru", num_layers=2, pairs=pairs and ("the end",) * len(TEXTS))
    student.save(tmp_path / "student")
    examples = Examples(TEXTS, np.zeros(len(TEXTS), dtype=np.int64), pairs)
    inputs = TEXTS if pairs is None else list(zip(TEXTS, pairs, strict=True))
    found = Classifier.load(tmp_path / "student").logits(inputs)
    np.testing.assert_allclose(found, logits(student, examples), atol=1e-5)


def test_calibration_reaches_the_runtime(tmp_path):
    student, corpus = make_student(), make_corpus()
    own = logits(student, corpus.train)
    margins = np.where(corpus.train.labels == 0, 3.0, 2.0).astype(np.float32)  # class 1 is never the more probable
    one_sided = np.stack([own[:, 0], own[:, 0] - margins], axis=1)
    plain, tuned = (student.calibrated(one_sided, corpus.train.labels, tune_threshold=tune) for tune in (False, True))
    assert plain.temperature == tuned.temperature != 1.0
    assert plain.threshold is None
    assert 0 < tuned.threshold < 0.5
    answers = decide(softmax(one_sided, tuned.temperature), tuned.threshold)
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


def test_size_on_disk_leaves_out_what_prediction_does_not_need(tmp_path):
    make_student().save(tmp_path)
    files = StudentFiles(tmp_path)
    everything = sum(file.stat().st_size for file in tmp_path.iterdir())
    apart = files.weights.stat().st_size + (tmp_path / SEAL).stat().st_size  # the seal grows when the training ends
    assert student_bytes(tmp_path) == everything - apart


def test_teacher_logits_travel_with_the_texts():
    student, corpus = make_student(), make_corpus()
    judged = torch.arange(12.0).reshape(6, 2)
    batch = student.training_set(corpus.train, judged).batch([4, 1])
    assert batch.teacher_logits.tolist() == [[8.0, 9.0], [2.0, 3.0]]
    assert batch.labels.tolist() == [0, 1]


def test_the_vocabulary_is_deterministic_and_knows_every_text():
    first, second = (train_vocabulary(make_corpus().train.all_texts, 300) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() <= 300
    for text in ("unseen words", "ßþ漢字", "🙂\t\n"):
        assert first.decode(first.encode(text).ids).strip() == text.strip()


def test_the_smallest_allowed_vocabulary_is_bytes_and_padding():
    tokenizer = train_vocabulary(make_corpus().train.all_texts, 257)
    assert tokenizer.get_vocab_size() == 257
    assert tokenizer.token_to_id(PADDING_TOKEN) is not None


def test_second_texts_count_for_the_vocabulary():
    pairs = ("zyzzyva zyzzyva",) * 6
    tokens = [train_vocabulary(make_corpus(p).train.all_texts, 300).encode("zyzzyva").tokens for p in (None, pairs)]
    assert len(tokens[1]) < len(tokens[0])


def test_more_texts_count_for_the_vocabulary_and_none_change_nothing():
    plain, alike, more = (make_student(more_texts=texts).tokenizer for texts in ((), [], ["zyzzyva"] * 6))
    assert plain.get_vocab() == alike.get_vocab() == train_vocabulary(make_corpus().train.texts, 300).get_vocab()
    assert len(more.encode("zyzzyva").ids) < len(plain.encode("zyzzyva").ids)


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
    read = started.training_set(Examples(texts, np.zeros(len(texts), np.int64))).tokens.ids
    expected = teacher_embeddings(
        started.tokenizer,
        np.bincount(read, minlength=spec.vocab_size),
        spec.embedding_size,
        spec.padding_id,
        backbone=names["backbone"],
        teacher_tokenizer=names["teacher"],
    )
    assert torch.equal(started.network.embedding.weight, expected)
    assert started.network.embedding.weight.requires_grad
    for name, tensor in fresh.network.state_dict().items():
        assert torch.equal(tensor, started.network.state_dict()[name]) == (name != "embedding.weight")


def test_a_random_start_asks_for_no_backbone_and_the_teachers_does(monkeypatch):
    monkeypatch.setattr(student_model, "teacher_embeddings", None)  # calling it would fail
    make_student()
    with pytest.raises(ConfigError, match="embedding_init: `teacher` needs a teacher, found none; choose `random`"):
        make_student(embedding_init="teacher")


def test_the_pooling_and_the_word_dropout_reach_the_network_and_the_manifest(tmp_path):
    student = make_student(pooling="attention", word_dropout=0.3)
    student.save(tmp_path)
    spec = StudentSpec(**Manifest.load(StudentFiles(tmp_path).manifest).spec)
    assert spec == student.network.spec
    assert (spec.pooling, spec.word_dropout) == ("attention", 0.3)
    student.prove(tmp_path)


def test_the_proof_refuses_the_graph_of_another_student(tmp_path):
    make_student(0).save(tmp_path)
    with pytest.raises(ArtifactError, match="differs from the student"):
        make_student(1).prove(tmp_path)


class LoadedTokenizer:
    """What a pretrained tokenizer offers, with a gap in its ids and no padding token."""

    pad_token_id = None
    eos_token_id = 3

    def __init__(self):
        self.backend_tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 9, "<eos>": 3, "<unk>": 1}, "<unk>"))
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        self.backend_tokenizer.add_special_tokens([AddedToken("<eos>")])


@pytest.mark.parametrize(("setting", "name"), [("teacher", "teacher's"), ("gpt2", "gpt2")])
def test_another_models_tokenizer(monkeypatch, setting, name):
    asked = []
    monkeypatch.setattr(student_model, "load_tokenizer", lambda name: asked.append(name) or LoadedTokenizer())
    student = make_student(tokenizer=setting)
    assert asked == [name]
    assert student.network.spec.padding_id == 3
    assert student.network.spec.vocab_size == 10  # the largest id counts, not the number of tokens
    assert np.isfinite(logits(student, make_corpus().train)).all()
