"""Adapters of `peft` as teachers, and saved teachers whose base has moved: what their files don't tell can be told."""

import json
import shutil
from itertools import permutations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from commandline import potstill
from moved import moved
from potstill.config import LoRAConfig, PotstillConfig, RuntimeConfig, TransformerConfig
from potstill.data import Corpus, Examples
from potstill.errors import ArtifactError, ConfigError, SourceError
from potstill.experiment.labelled import label
from potstill.experiment.saved import load_teacher
from potstill.teacher.base import Teacher
from potstill.teacher.transformer import TransformerTeacher
from tiny_words import IDS, VOCABULARY, tiny_tokenizer

CPU = {"device": "cpu", "precision": "32-true"}
LONG = (" ".join(f"w{number % 60}" for number in range(200)), "w1 w2", " ".join(["w9"] * 150))
EXAMPLES = Examples(LONG, np.array([0, 1, 2]))
MENTIONS = ("w1 @USER w2", "w1 w2 w3 w4 w5 w6", "@USER")
NAMES = ("bad", "good", "neutral")
CORPUS = Corpus("tiny", "made up", NAMES, EXAMPLES, EXAMPLES, EXAMPLES)


@pytest.fixture
def base(tmp_path):
    """A backbone with room for longer texts than students read by default."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model("llama", **sizes, **IDS, vocab_size=len(VOCABULARY), max_position_embeddings=300)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).base_model.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base, tmp_path):
    """What `peft` trained, where it saved it, and its logits of the long texts."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model.config.pad_token_id = IDS["pad_token_id"]
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear")).eval()
    moved(adapted).save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        logits = adapted(**tiny_tokenizer()(list(LONG), padding=True, return_tensors="pt")).logits
    return tmp_path / "adapter", logits.numpy()


def runtime(**settings):
    return RuntimeConfig(**CPU, **settings)


def settings_of(**more):
    return PotstillConfig.build({"runtime": {**CPU, **more}})


def test_adapter_of_peft_reads_whole_texts(adapter):
    directory, expected = adapter
    teacher = TransformerTeacher.load(directory, runtime())
    assert teacher.manifest.max_length == teacher.classifier.max_length == 300
    assert teacher.manifest.label_names == ("0", "1", "2")
    np.testing.assert_allclose(teacher.logits(EXAMPLES), expected, rtol=1e-4, atol=1e-5)


def test_adapter_for_a_base_without_positions_is_not_cut(model_directory, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(model_directory("bloom"), num_labels=3)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear")).save_pretrained(tmp_path)
    teacher = TransformerTeacher.load(tmp_path, runtime())
    assert teacher.featurise(EXAMPLES).tokens.lengths.tolist() == [202, 4, 152]
    endless = " ".join(["w3"] * 5000)
    assert teacher.featurise(Examples((endless,), LABELS[:1])).tokens.lengths.tolist() == [4096]
    assert [bool(cut) for cut in teacher.answer((endless, "w1"))[1]] == [True, False]
    teacher.save(tmp_path / "saved")
    assert TransformerTeacher.load(tmp_path / "saved", runtime()).key == teacher.key


def test_what_a_saved_teacher_does_not_read_is_said(adapter, capsys):
    texts = Examples((*LONG, " ".join(["w3"] * 598)), np.array([0, 1, 2, 0]))
    corpus = Corpus("tiny", "made up", NAMES, texts, texts, texts)
    load_teacher(adapter[0], settings_of(), corpus)
    said = " ".join(capsys.readouterr().err.split())
    share = 100 * 300 / (202 + 4 + 152 + 600)
    assert f"teacher: 1 of 4 texts are cut to 300 tokens, {share:.1f} % of all tokens are not read; a saved" in said
    load_teacher(adapter[0], settings_of(), CORPUS)
    assert capsys.readouterr().err == ""  # nor is it called interrupted


def test_incomplete_adapter_is_refused(adapter):
    directory, _ = adapter
    weights, settings = directory / "adapter_model.safetensors", directory / "adapter_config.json"
    whole = load_file(weights)
    save_file({name: tensor for name, tensor in whole.items() if "score" not in name}, weights)
    with pytest.raises(ArtifactError, match="expected the classification head"):
        TransformerTeacher.load(directory, runtime())
    weights.write_bytes(b"")
    with pytest.raises(ArtifactError, match="expected safetensors"):
        TransformerTeacher.load(directory, runtime())
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(ArtifactError, match="base_model_name_or_path"):
        TransformerTeacher.load(directory, runtime())


@pytest.mark.parametrize("order", [("neutral", "bad", "good"), ("good", "neutral", "bad"), NAMES])
def test_classes_of_an_adapter_can_be_named(adapter, order):
    directory, expected = adapter
    config = settings_of(teacher_classes=order)
    alone = TransformerTeacher.load(directory, config.runtime)
    assert alone.label_names == order
    np.testing.assert_allclose(alone.logits(EXAMPLES), expected, rtol=1e-4, atol=1e-5)
    teacher, _ = load_teacher(directory, config, CORPUS)
    assert teacher.label_names == NAMES
    found = teacher.logits(EXAMPLES, cached=False)
    np.testing.assert_allclose(found, expected[:, [order.index(name) for name in NAMES]], rtol=1e-4, atol=1e-5)
    assert (teacher.key == load_teacher(directory, settings_of(), CORPUS)[0].key) == (order == NAMES)


@pytest.mark.parametrize("order", [("neutral", "bad", "good"), NAMES])
def test_adapters_are_scored_in_the_order_of_the_data(adapter, order, tmp_path, capsys):
    data, (directory, expected) = tmp_path / "data", adapter
    data.mkdir()
    rows = [f"{text},{order[scores.argmax()]}" for text, scores in zip(LONG, expected, strict=True)]
    every = [f"w{number},{name}" for number, name in enumerate(NAMES)]
    for part, lines in {"train": every, "validation": every, "test": rows}.items():
        (data / f"{part}.csv").write_text("\n".join(["text,label", *lines]))
    second = shutil.copytree(directory, tmp_path / "second")
    told = ("--teacher-classes", ",".join(order), "--json")
    assert potstill("evaluate", directory, second, "--data", data, *told) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["label_names"] == list(NAMES)
    assert [row["metrics"]["accuracy"] for row in found["models"]] == [1.0, 1.0]


@pytest.mark.parametrize("names", [("bad", "good"), ("bad", "good", "good"), ("a", "b", "c", "d")])
def test_another_number_of_classes_is_refused(adapter, names):
    with pytest.raises(ArtifactError, match=r"must name 3 classes, in the order of its logits; found '(a|bad)', '"):
        TransformerTeacher.load(adapter[0], runtime(teacher_classes=names))


def test_teacher_that_names_its_classes_takes_no_others(base, tmp_path):
    config = TransformerConfig(backbone=str(base), lora=LoRAConfig(rank=2))
    TransformerTeacher.create(config, runtime(), CORPUS, 16, 0).save(tmp_path / "teacher")
    TransformerTeacher.load(tmp_path / "teacher", runtime(teacher_classes=NAMES[::-1]))
    with pytest.raises(ArtifactError, match="must name these classes: 'bad', 'good', 'neutral'; found 'bad'"):
        TransformerTeacher.load(tmp_path / "teacher", runtime(teacher_classes=("bad", "good", "other")))


@pytest.fixture
def resized(base, tmp_path):
    """What `peft` trained of a base with two more tokens, in both ways in which it saves them, and its logits."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["@USER"])

    def make(family=base, **settings):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(family, num_labels=3)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.config.pad_token_id = tokenizer.pad_token_id
        adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", **settings))
        moved(adapted.eval()).save_pretrained(tmp_path / "resized")
        tokenizer.save_pretrained(tmp_path / "resized")
        with torch.no_grad():
            batch = tokenizer(list(MENTIONS), padding=True, return_tensors="pt")
            return tmp_path / "resized", adapted(**batch).logits.numpy()

    return make


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["embed_tokens"]}], ids=["saved", "trained"])
def test_resized_embeddings_come_with_the_adapter(resized, settings, tmp_path, capsys):
    directory, expected = resized(**settings)
    teacher = TransformerTeacher.load(directory, runtime())
    examples = Examples(MENTIONS, np.array([0, 1, 2]))
    np.testing.assert_allclose(teacher.logits(examples), expected, rtol=1e-4, atol=1e-5)
    assert teacher.classifier.pad_token_id == len(VOCABULARY)
    teacher.save(tmp_path / "saved")
    again = TransformerTeacher.load(tmp_path / "saved", runtime())
    assert again.key == teacher.key
    np.testing.assert_allclose(again.logits(examples), expected, rtol=1e-4, atol=1e-5)
    assert potstill("merge", directory, "--out", tmp_path / "merged") == 0
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        batch = AutoTokenizer.from_pretrained(tmp_path / "merged")(list(MENTIONS), padding=True, return_tensors="pt")
        np.testing.assert_allclose(merged(**batch).logits.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_token_beyond_the_saved_embeddings_is_refused(resized):
    directory, _ = resized()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["@URL"])
    tokenizer.save_pretrained(directory)
    with pytest.raises(ConfigError, match=rf"knows {len(VOCABULARY) + 2}; .*without an embedding: '@URL'"):
        TransformerTeacher.load(directory, runtime())


@pytest.mark.parametrize(("flags", "length"), [((), 300), (("--max-length", "16"), 16), (("--max-length", "999"), 300)])
def test_length_of_an_adapter_can_be_set(adapter, flags, length, tmp_path, capsys, monkeypatch):
    rows = [f"{text} w{number} x{len(flags)}{length},{number % 3}" for number in range(30) for text in LONG[:2]]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows]))
    found = []

    def logits(teacher, texts, **_):
        found.append(teacher)
        return np.random.default_rng(0).normal(size=(len(texts), 3)).astype(np.float32)

    monkeypatch.setattr(TransformerTeacher, "logits", logits)
    small = ("--epochs", "1", "--seeds", "0", "--hidden-size", "4", "--embedding-size", "4")
    done = ("distill", tmp_path / "data.csv", "--teacher", adapter[0], "--out", tmp_path / "student", *small, *flags)
    assert potstill(*done) == 0
    assert {teacher.manifest.max_length for teacher in found} == {length}
    assert ("teacher: 24 of" in " ".join(capsys.readouterr().err.split())) == (length == 16)


def test_length_of_an_own_teacher_can_not_be_set(base, tmp_path):
    config = TransformerConfig(backbone=str(base), lora=LoRAConfig(rank=2))
    teacher = TransformerTeacher.create(config, runtime(), CORPUS, 200, 0)
    teacher.limit_length(16)
    assert teacher.manifest.max_length == 200


def test_added_padding_of_an_adapter_is_refused_by_name(adapter):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(adapter[0])
    with pytest.raises(ConfigError, match=r"adapter of peft, save the merged model.*: '\[PAD\]' \(id 64\)"):
        TransformerTeacher.load(adapter[0], runtime())


def test_base_that_has_moved_can_be_told(base, adapter, tmp_path, capsys):
    directory, expected = adapter
    config = TransformerConfig(backbone=str(base), lora=LoRAConfig(rank=2))
    teacher = TransformerTeacher.create(config, runtime(), CORPUS, 16, 0)
    teacher.save(tmp_path / "own")
    place = base.rename(tmp_path / "elsewhere")
    for saved in (directory, tmp_path / "own"):
        with pytest.raises(SourceError, match="if the pretrained model was moved, name its place with --teacher-base"):
            TransformerTeacher.load(saved, runtime())
    broken = shutil.copytree(place, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="incomplete or damaged") as caught:
        TransformerTeacher.load(directory, runtime(teacher_base=str(broken)))
    assert "--teacher-base" not in str(caught.value)
    found = TransformerTeacher.load(directory, runtime(teacher_base=str(place)))
    np.testing.assert_allclose(found.logits(EXAMPLES), expected, rtol=1e-4, atol=1e-5)
    assert TransformerTeacher.load(tmp_path / "own", runtime(teacher_base=str(place))).key == teacher.key

    told = ("--teacher-base", place)
    assert potstill("predict", tmp_path / "own", "--text", "w1 w2", *told) == 0
    assert json.loads(capsys.readouterr().out)["label"] in NAMES
    assert potstill("predict", directory, "--text", "w1 w2", *told, "--teacher-classes", "x,y,z") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("x", "y", "z")
    assert potstill("merge", tmp_path / "own", "--out", tmp_path / "merged", *told) == 0


class Answers(Teacher):
    """Answers what it was given, whatever the texts are."""

    key = "answers"

    def __init__(self, answers, classes=3):
        self.answers, self.label_names = answers, tuple(map(str, range(classes)))

    def logits(self, examples, **_):
        return np.eye(len(self.label_names), dtype=np.float32)[self.answers]


LABELS = np.arange(60) % 3


@pytest.mark.parametrize(
    ("answers", "order"),
    [
        ((LABELS + 1) % 3, "neutral,bad,good"),
        (np.array([1, 0, 2])[LABELS], "good,bad,neutral"),
        (LABELS, None),
        (np.random.default_rng(0).integers(0, 3, 60), None),
        (np.zeros(60, np.int64), None),
    ],
    ids=["none right", "two exchanged", "right", "by chance", "always the same"],
)
def test_exchanged_classes_are_said_before_anything_is_distilled(answers, order, capsys):
    texts = Examples(tuple(map(str, range(60))), LABELS)
    train = Examples((), LABELS[:0])
    label(PotstillConfig(), Corpus("tiny", "made up", NAMES, train, texts, texts), Answers(answers))
    said = capsys.readouterr().err
    assert ("WARNING" in said) == (order is not None)
    if order is not None:
        assert f"--teacher-classes {order}\n" in said
        assert "it would be for 100.0%" in said


@pytest.mark.parametrize("true", list(permutations(NAMES)), ids="-".join)
@pytest.mark.parametrize("named", [None, ("0", "1", "2"), *permutations(NAMES)], ids=str)
def test_advised_order_is_right_whatever_order_was_named(true, named, capsys):
    """The answers are right if `true` is named, and come as `load_teacher` has sorted them after `named`."""
    own = np.array([true.index(NAMES[label]) for label in LABELS])
    given = named if named is not None and named[0] in NAMES else NAMES
    texts = Examples(tuple(map(str, range(60))), LABELS)
    corpus = Corpus("tiny", "made up", NAMES, Examples((), LABELS[:0]), texts, texts)
    label(settings_of(teacher_classes=named), corpus, Answers(np.array([NAMES.index(given[one]) for one in own])))
    said = capsys.readouterr().err
    assert (f"--teacher-classes {','.join(true)}\n" in said) == ("WARNING" in said) == (given != true)


@pytest.mark.parametrize("seed", range(5))
def test_random_answers_of_many_classes_are_no_exchanged_classes(seed, capsys):
    """Of all orders of 150 classes, the best one for 855 texts is right for a fifth of random answers."""
    random, names = np.random.default_rng(seed), tuple(f"class{number:03d}" for number in range(150))
    labels, answers = np.arange(855) % 150, random.integers(0, 150, 855)
    texts, train = Examples(tuple(map(str, range(855))), labels), Examples((), labels[:0])
    label(PotstillConfig(), Corpus("tiny", "made up", names, train, texts, texts), Answers(answers, 150))
    assert "WARNING" not in capsys.readouterr().err
    exchanged = random.permutation(150)[labels]
    label(PotstillConfig(), Corpus("tiny", "made up", names, train, texts, texts), Answers(exchanged, 150))
    assert "it would be for 100.0%" in capsys.readouterr().err
