import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from potstill.config import RuntimeConfig, StudentConfig
from potstill.data import Corpus, Examples
from potstill.runtime import Classifier
from potstill.runtime.directory import StudentFiles
from potstill.student import model as student_model
from potstill.student.model import PADDING_TOKEN, Student, student_bytes, train_vocabulary
from potstill.training import make_fabric, predict_logits

TEXTS = ("the cat sat", "a dog ran away", "birds sing", "", "naïve 漢字 🙂", "<pad> half a pair \ud800")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))


def make_corpus(pairs: tuple[str, ...] | None = None) -> Corpus:
    texts = (*TEXTS[:-1], "wet grass")  # what is learnt from is well-formed
    train = Examples(texts, np.array([0, 1, 0, 1, 0, 1]), pairs)
    return Corpus("toy", "made up", ("no", "yes"), train, train, train)


def make_student(seed: int = 0, pairs: tuple[str, ...] | None = None, **settings) -> Student:
    config = StudentConfig(**{"embedding_size": 6, "hidden_size": 5, "vocab_size": 300} | settings)
    return Student.create(config, make_corpus(pairs), max_tokens=16, teacher_tokenizer="teacher's", seed=seed)


def logits(student: Student, examples: Examples) -> np.ndarray:
    fabric = make_fabric(RuntimeConfig(device="cpu"), large=False)
    return predict_logits(student.network, student.training_set(examples), fabric).numpy()


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


def test_size_on_disk_leaves_out_what_prediction_does_not_need(tmp_path):
    make_student().save(tmp_path)
    files = StudentFiles(tmp_path)
    everything = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert student_bytes(tmp_path) == everything - files.weights.stat().st_size


def test_teacher_logits_travel_with_the_texts():
    student, corpus = make_student(), make_corpus()
    judged = torch.arange(12.0).reshape(6, 2)
    batch = student.training_set(corpus.train, judged).batch([4, 1])
    assert batch.teacher_logits.tolist() == [[8.0, 9.0], [2.0, 3.0]]
    assert batch.labels.tolist() == [0, 1]


def test_the_vocabulary_is_deterministic_and_knows_every_text():
    first, second = (train_vocabulary(make_corpus().train, 300) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() <= 300
    for text in ("unseen words", "ßþ漢字", "🙂\t\n"):
        assert first.decode(first.encode(text).ids).strip() == text.strip()


def test_the_smallest_allowed_vocabulary_is_bytes_and_padding():
    tokenizer = train_vocabulary(make_corpus().train, 257)
    assert tokenizer.get_vocab_size() == 257
    assert tokenizer.token_to_id(PADDING_TOKEN) is not None


def test_second_texts_count_for_the_vocabulary():
    pairs = ("zyzzyva zyzzyva",) * 6
    tokens = [train_vocabulary(make_corpus(p).train, 300).encode("zyzzyva").tokens for p in (None, pairs)]
    assert len(tokens[1]) < len(tokens[0])


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
