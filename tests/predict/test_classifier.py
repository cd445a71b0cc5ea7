import base64
import copy
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import onnx
import pandas
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from checksummed import with_new_checksums
from potstill.errors import ArtifactError
from potstill.predict import Classifier, tokens
from potstill.predict.abstention import ValidationAnswers
from potstill.predict.decision import predict_class
from potstill.predict.directory import Manifest, StudentFiles, find_student, own_columns, student_roles
from potstill.store.atomic import read_json, write_json
from potstill.store.checksums import write_checksums
from potstill.student.ngram import NgramClassifier, NgramSpec
from potstill.student.recurrence import RNNSpec
from potstill.student.rnn import DistilRNN

SPEC = {"vocab_size": 80, "num_classes": 3, "pad_token_id": 0}
LABELS = ("good", "bad", "so-so")
MAX_TOKENS = 12
SENTENCE = "the cat sat on a mat and saw another dog run through wet grass while birds sang"
WORDS = SENTENCE.split()
# Shuffled lengths, one far over MAX_TOKENS, one empty, one of characters that the tokenizer drops.
TEXTS = [
    *(" ".join(random.Random(n).choices(WORDS, k=n * 7 % 23)) for n in range(1, 40)),
    " ".join(WORDS * 9),
    "",
    "漢字",
]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())  # without an unknown token: what it does not know, it drops
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<pad>", "<sep>"], show_progress=False)
    tokenizer.train_from_iterator([SENTENCE], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A <sep> $B", special_tokens=[("<sep>", 1)]
    )
    tokenizer.enable_truncation(3, direction="left")  # what a foreign file may bring, and the runtime must override
    tokenizer.enable_padding(length=9)
    return tokenizer


@pytest.fixture(scope="module")
def student() -> DistilRNN:
    torch.manual_seed(0)
    spec = RNNSpec(
        cell="lstm",
        vocab_size=make_tokenizer().get_vocab_size(),
        embedding_size=6,
        hidden_size=5,
        num_layers=1,
        bidirectional=True,
        pooling="max",
        dropout=0.2,
        num_classes=len(LABELS),
        pad_token_id=0,
    )
    student = DistilRNN(spec)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_()
        mean = torch_logits(student.eval(), TEXTS).mean(axis=0)  # (classes,)
        student.head.bias -= torch.from_numpy(mean)  # so that every class is predicted
    return student


@pytest.fixture
def directory(student, tmp_path):
    files = StudentFiles(tmp_path)
    Manifest(asdict(student.spec), LABELS, MAX_TOKENS).save(files.manifest)
    files.model.write_bytes(student.to_onnx())
    make_tokenizer().save(str(files.tokenizer))
    return with_new_checksums(tmp_path)


@pytest.fixture
def classifier(directory) -> Classifier:
    return Classifier.load(directory, batch_size=4, threads=1)


@pytest.fixture
def pair_classifier(student, directory) -> Classifier:
    Manifest(asdict(student.spec), LABELS, MAX_TOKENS, in_pairs=True).save(StudentFiles(directory).manifest)
    return Classifier.load(with_new_checksums(directory), batch_size=4, threads=1)


def torch_logits(student, texts, seconds=None):
    ids, _ = tokens.encode_marked(make_tokenizer(), texts, seconds, MAX_TOKENS, empty_id=0)
    with torch.inference_mode():
        return torch.cat([student(torch.tensor([row]), torch.ones(1, len(row))) for row in ids]).numpy()


def test_predictions_are_torchs_in_the_order_of_the_texts(student, classifier):
    expected = torch_logits(student, TEXTS)
    np.testing.assert_allclose(classifier.logits(TEXTS), expected, atol=1e-5)
    found = classifier.answer(TEXTS)[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.from_numpy(expected).softmax(dim=1), atol=1e-5)
    assert classifier.label_names == LABELS
    assert classifier.classes_.tolist() == sorted(LABELS)  # as scikit-learn's
    columns = [LABELS.index(name) for name in classifier.classes_]
    np.testing.assert_array_equal(classifier.predict_proba(TEXTS), found[:, columns])
    assert classifier.predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, len(LABELS))
    assert classifier.predict(TEXTS).tolist() == [LABELS[place] for place in expected.argmax(axis=1)]
    assert len(set(classifier.predict(TEXTS))) == len(LABELS)  # the comparison says something


@pytest.fixture
def tuned(student, tmp_path) -> Classifier:
    """The same network cut down to two classes, with a temperature and a threshold."""
    two = DistilRNN(RNNSpec(**(asdict(student.spec) | {"num_classes": 2})))
    two.load_state_dict(student.state_dict() | {name: tensor[:2] for name, tensor in head_of(student).items()})
    files = StudentFiles(tmp_path)
    Manifest(asdict(two.spec), LABELS[:2], MAX_TOKENS, temperature=2.5, threshold=0.3).save(files.manifest)
    files.model.write_bytes(two.to_onnx())
    make_tokenizer().save(str(files.tokenizer))
    return Classifier.load(with_new_checksums(tmp_path), batch_size=4, threads=1)


def head_of(student):
    return {name: tensor for name, tensor in student.state_dict().items() if name.startswith("head.")}


def test_temperature_and_threshold_are_applied(student, tuned):
    expected = torch.from_numpy(torch_logits(student, TEXTS)[:, :2])
    probabilities = tuned.answer(TEXTS)[0]
    np.testing.assert_allclose(tuned.logits(TEXTS), expected, atol=1e-5)  # the graph's own
    np.testing.assert_allclose(probabilities, (expected / 2.5).softmax(dim=1), atol=1e-5)
    found = tuned.predict(TEXTS).tolist()
    assert found == [LABELS[int(share > 0.3)] for share in probabilities[:, 1]]
    assert found != [LABELS[place] for place in probabilities.argmax(axis=1)]  # the comparison says something


@pytest.mark.parametrize(
    ("names", "kind", "labels"),
    [
        (("2", "10", "-1"), "int", [-1, 2, 10]),
        (("2.0", "10.5", "-1.0"), "float", [-1.0, 2.0, 10.5]),
        (("2", "10", "-1"), "str", ["-1", "10", "2"]),
        (("2", "10", "b"), "int", ["10", "2", "b"]),  # of a manifest that was edited
    ],
)
def test_labels_have_the_type_of_the_training_data(student, directory, names, kind, labels):
    Manifest(asdict(student.spec), names, MAX_TOKENS, label_type=kind).save(StudentFiles(directory).manifest)
    classifier = Classifier.load(with_new_checksums(directory), threads=1)
    assert classifier.classes_.tolist() == labels
    best = classifier.answer(TEXTS)[0].argmax(axis=1)
    assert (classifier.predict(TEXTS) == classifier._labels[best]).all()
    assert (classifier.predict(TEXTS) == classifier.classes_[classifier.predict_proba(TEXTS).argmax(axis=1)]).all()


def test_truth_values_stay_truth_values(student, tuned, tmp_path):
    files = StudentFiles(tmp_path)
    replace(Manifest.load(files.manifest), label_names=("True", "False"), label_type="bool").save(files.manifest)
    assert Classifier.load(with_new_checksums(tmp_path), threads=1).classes_.tolist() == [False, True]


@pytest.fixture
def validated(classifier, directory) -> ValidationAnswers:
    """The student's own answers to all texts, every third of them counted as wrong, in its manifest."""
    probabilities = classifier.answer(TEXTS)[0]
    answers = predict_class(probabilities)
    labels = np.where(np.arange(len(TEXTS)) % 3 == 0, (answers + 1) % len(LABELS), answers)
    noted = ValidationAnswers.of(probabilities, answers, labels)
    path = StudentFiles(directory).manifest
    replace(Manifest.load(path), validation=noted).save(path)
    with_new_checksums(directory)
    return noted


def test_texts_of_which_the_student_is_the_least_sure_have_no_label(classifier, directory, validated):
    plain = classifier.predict(TEXTS)
    abstaining = Classifier.load(directory, batch_size=4, threads=1, coverage=0.6)
    found = abstaining.predict(TEXTS)
    assert (plain.dtype.kind, found.dtype) == ("U", object)
    given = np.array([label is not None for label in found])
    assert given.sum() == np.ceil(0.6 * len(TEXTS))
    assert found[given].tolist() == plain[given].tolist()
    sure = classifier.answer(TEXTS)[0].max(axis=1)
    assert sure[given].min() >= abstaining.min_confidence > sure[~given].max()
    np.testing.assert_array_equal(abstaining.predict_proba(TEXTS), classifier.predict_proba(TEXTS))
    assert pickle.loads(pickle.dumps(abstaining)).predict(TEXTS).tolist() == found.tolist()
    assert abstaining.predict([]).shape == (0,)


def test_a_student_that_was_saved_to_abstain_can_be_told_otherwise(directory, validated):
    path = StudentFiles(directory).manifest
    replace(Manifest.load(path), min_confidence=1.0).save(path)
    with_new_checksums(directory)
    assert Classifier.load(directory).predict(TEXTS).tolist() == [None] * len(TEXTS)
    assert Classifier.load(directory, coverage=0.9).predict(TEXTS).tolist().count(None) <= 0.1 * len(TEXTS)
    everything = Classifier.load(directory, coverage=1).predict(TEXTS)
    assert everything.dtype.kind == "U"


def test_an_error_that_can_not_be_promised_is_refused(directory, validated):
    with pytest.raises(ArtifactError, match=r"found 0.01; .*\n  what to do: raise --max-error"):
        Classifier.load(directory, max_error=0.01)
    with pytest.raises(ValueError, match="found both"):
        Classifier.load(directory, max_error=0.5, coverage=0.5)


def test_prediction_sets_hold_the_labels_that_can_not_be_ruled_out(classifier, directory, validated):
    validated_classifier = Classifier.load(directory, threads=1)
    sets = validated_classifier.prediction_sets(TEXTS, error=0.2)
    least = validated.min_set_probability(0.2)
    for found, row in zip(sets, classifier.answer(TEXTS)[0], strict=True):
        assert set(found) == {name for name, share in zip(LABELS, row, strict=True) if share >= least}
        assert found == sorted(found, key=lambda name: -row[LABELS.index(name)])
    assert len({len(found) for found in sets}) > 1  # the comparison says something


def test_students_of_earlier_versions_answer_everything_and_say_so(classifier, directory):
    path = StudentFiles(directory).manifest
    old = {name: value for name, value in read_json(path).items() if name not in ("validation", "min_confidence")}
    write_json(path, old)
    with_new_checksums(directory)
    assert Classifier.load(directory, coverage=1).predict(TEXTS).tolist() == classifier.predict(TEXTS).tolist()
    for asked in ({"coverage": 0.9}, {"max_error": 0.1}):
        with pytest.raises(ArtifactError, match="an earlier version saved this student\n  what to do: train it again"):
            Classifier.load(directory, **asked)
    with pytest.raises(ArtifactError, match="what to do: train it again"):
        classifier.prediction_sets(TEXTS)


def test_pairs_are_read_together(student, pair_classifier):
    firsts, seconds = zip(*PAIRS, strict=True)
    found = pair_classifier.logits(PAIRS)
    np.testing.assert_allclose(found, torch_logits(student, firsts, seconds), atol=1e-5)
    assert not np.allclose(found, torch_logits(student, firsts))
    with pytest.raises(TypeError, match="item 0: expected a pair of texts"):
        pair_classifier.logits(firsts)


def save_ngrams(directory, max_length, *, in_pairs=False, **sizes):
    """Put a student of n-grams in the place of the other one."""
    spec, files = NgramSpec(**SPEC, **sizes, dropout=0.0), StudentFiles(directory)
    Manifest(asdict(spec), LABELS, max_length, in_pairs=in_pairs, kind="ngram").save(files.manifest)
    files.model.write_bytes(NgramClassifier(spec).to_onnx())
    with_new_checksums(directory)


def test_many_long_texts_take_little_memory(directory):
    """All of a call's n-grams at once, and batches of 64 of the longest texts, took 1.1 GB of 10 MB."""
    save_ngrams(directory, 512, ngram_buckets=1024, ngram_size=64)
    program = """
import sys
from pathlib import Path
from potstill import Classifier
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
classifier = Classifier.load(sys.argv[1], threads=1)
texts = [f"{number} " + "the cat sat " * 700 for number in range(200)]
classifier.predict(texts[:1])
before = peak()
classifier.predict(texts)
assert peak() - before < 150_000, f"{peak() - before} kB"
"""
    command = [sys.executable, "-c", program, str(directory)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_either_text_of_a_pair_can_be_too_long_for_its_ngrams(directory):
    save_ngrams(directory, MAX_TOKENS, in_pairs=True, ngram_buckets=64, ngram_size=2)
    long = "cat " * 100
    pairs = [("a", "b"), (long, "b"), ("a", long)]
    assert Classifier.load(directory).answer(pairs)[1] == [False, True, True]


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_changes_nothing(directory, classifier, batch_size):
    with pytest.raises(ValueError, match="batch_size: expected a positive number, found 0"):
        Classifier.load(directory, batch_size=0)
    other = Classifier.load(directory, batch_size=batch_size)
    np.testing.assert_allclose(other.logits(TEXTS), classifier.logits(TEXTS), atol=1e-5)


def test_any_iterable_of_texts_is_accepted(classifier):
    expected = classifier.predict(TEXTS).tolist()
    assert classifier.predict(iter(TEXTS)).tolist() == expected
    assert classifier.predict(np.array(TEXTS)).tolist() == expected
    assert classifier.predict(pandas.Series(TEXTS)).tolist() == expected


def test_half_a_surrogate_pair_is_read_as_the_replacement_character(classifier):
    np.testing.assert_array_equal(classifier.logits(["the \ud83d cat"]), classifier.logits(["the \ufffd cat"]))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "put a single text in a list"),
        (b"bytes", "found bytes"),
        (3, "found int 3"),
        ({"text": ["a"]}, "found a dict; give one of its columns"),
        (pandas.DataFrame({"text": ["a"]}), "found a DataFrame; give one of its columns"),
        (["fine", None], "item 1: expected a text .* found NoneType None"),
        ([b"bytes"], "item 0: expected a text"),
        (["ab", ("a", "b")], "item 1: expected a text"),
        ([("a", "b")], "item 0: expected a text"),
        ([("a", "b", "c")], "item 0: expected a text"),
        ([("a", 1)], "item 0: expected a text"),
    ],
)
def test_other_inputs_are_refused(classifier, texts, message):
    with pytest.raises(TypeError, match=message):
        classifier.predict(texts)


def test_eight_threads_get_the_same_answers(tuned):
    inputs = [TEXTS, TEXTS[:3]] * 40
    expected = [(tuned.logits(texts), tuned.predict(texts)) for texts in inputs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda texts: (tuned.logits(texts), tuned.predict(texts)), inputs))
    for one, many in zip(expected, found, strict=True):
        np.testing.assert_array_equal(many[0], one[0])
        assert many[1].tolist() == one[1].tolist()


def test_copies_and_pickles_answer_alike(tuned):
    pytest.importorskip("sklearn")
    from sklearn.base import clone

    for copied in (pickle.loads(pickle.dumps(tuned)), copy.deepcopy(tuned), copy.copy(tuned), clone(tuned)):
        np.testing.assert_array_equal(copied.logits(TEXTS), tuned.logits(TEXTS))
        assert copied.predict(TEXTS).tolist() == tuned.predict(TEXTS).tolist()
    assert repr(tuned) == "<Classifier of texts, 2 classes: 'good', 'bad'>"


def test_a_run_is_loaded_as_its_best_distilled_student(student, directory, tmp_path_factory, classifier):
    run = tmp_path_factory.mktemp("run")
    for seed, mcc in (("seed-0", 0.9), ("seed-1", 0.1)):
        place = shutil.copytree(directory, run / "distilled" / seed)
        (place / "training.json").write_text(json.dumps({"best": {"mcc": mcc}}))
        with_new_checksums(place)
    (run / "distilled" / "seed-1" / "model.onnx").unlink()
    np.testing.assert_array_equal(Classifier.load(run).logits(TEXTS), Classifier.load(directory).logits(TEXTS))


def write_summary(run, recommended):
    (run / "summary.json").write_text(json.dumps({"recommended": recommended}))
    write_checksums(run, ["summary.json"])


@pytest.fixture
def run(directory, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    for role in ("distilled", "baseline"):
        shutil.copytree(directory, run / role / "seed-0")
    return run


def test_of_a_run_the_recommended_student_is_loaded_where_there_is_one(run):
    assert find_student(run) == run / "distilled" / "seed-0"
    for recommended in ("baseline", "distilled"):
        write_summary(run, recommended)
        assert find_student(run) == run / recommended / "seed-0"
        assert student_roles(run)[0] == recommended
    write_summary(run, "baseline")
    shutil.rmtree(run / "baseline")
    assert find_student(run) == run / "distilled" / "seed-0"


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_text("{}")])
def test_a_damaged_summary_recommends_nothing(run, damage):
    write_summary(run, "baseline")
    damage(run / "summary.json")
    with pytest.raises(ArtifactError, match=r"summary\.json"):
        find_student(run)


def test_prediction_needs_three_packages_and_leaves_home_empty(directory, classifier, tmp_path_factory):
    """onnxruntime's telemetry would write to ~/.cache, and ask for its collector's address."""
    program = """
import importlib.metadata, json, socket, sys

at_start = set(sys.modules)
socket.socket = socket.getaddrinfo = None
from potstill import Classifier, __version__
print(json.dumps(Classifier.load(sys.argv[1]).predict(json.loads(sys.argv[2])).tolist()))
packages = importlib.metadata.packages_distributions()
loaded = set(sys.modules) - at_start
print(json.dumps(sorted({name for module in loaded for name in packages.get(module.partition(".")[0], ())})))
assert __version__ == importlib.metadata.version("potstill")
"""
    home = tmp_path_factory.mktemp("home")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_"))}
    command = [sys.executable, "-c", program, str(directory), json.dumps(TEXTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment | {"HOME": str(home)})
    assert result.returncode == 0, result.stderr
    predicted, packages = map(json.loads, result.stdout.splitlines())
    assert predicted == classifier.predict(TEXTS).tolist()
    assert set(packages) <= {"potstill", "numpy", "onnxruntime", "tokenizers"}
    assert list(home.rglob("*")) == []


BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def in_turn(steps, name="normalizers"):
    return {"type": "Sequence", name: steps}


def replacement(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def charsmap(text):
    """A trie of SentencePiece without any character, and one text to which none leads."""
    return base64.b64encode(b"\x00\x04\x00\x00" + bytes(1024) + text.encode() + b"\0").decode()


def precompiled(text):
    return {"type": "Precompiled", "precompiled_charsmap": charsmap(text)}


def metaspace(sign):
    return {"type": "Metaspace", "replacement": sign}


def template(names, pad_id, texts="A", pair="AB"):
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    single, pairs = ([{"Sequence": {"id": name, "type_id": 0}} for name in place] for place in (texts, pair))
    tokens = {"<pad>": {"id": "<pad>", "ids": [pad_id], "tokens": ["<pad>"]}}
    return {"type": "TemplateProcessing", "single": [*special, *single], "pair": pairs, "special_tokens": tokens}


DOUBLED, NFKC = replacement("a", "aa"), {"type": "NFKC"}
WORD_LEVEL = {"type": "WordLevel", "vocab": {"a": 4 * 10**9}, "unk_token": "a"}
WORD_PIECE = {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "continuing_subword_prefix": "##"}
WORD_PIECE |= {"max_input_chars_per_word": 10**9}


def onnx_varint(number):
    """A number as in protocol buffers: 7 bits a byte, the lowest first."""
    return (bytes([number & 127 | 128]) + onnx_varint(number >> 7)) if number > 127 else bytes([number])


METASPACE = pre_tokenizers.Metaspace()
ISOLATED_AND_BYTES = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+"), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
)
XLNET = normalizers.Sequence(
    [
        normalizers.Replace("``", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Precompiled(base64.b64decode(charsmap("صلى الله عليه وسلم"))),
        normalizers.Replace(Regex(" {2,}"), "▁"),
    ]
)
OTHERS = pre_tokenizers.CharDelimiterSplit("-"), pre_tokenizers.FixedLength(5), pre_tokenizers.UnicodeScripts()
KNOWN = {
    "BERT": (normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()),
    "GPT-2": (None, pre_tokenizers.ByteLevel()),
    "ModernBERT": (normalizers.NFC(), pre_tokenizers.ByteLevel()),
    "Llama 2": (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
    "Llama 3, Qwen": (normalizers.NFC(), ISOLATED_AND_BYTES),
    "SmolLM2": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel()])),
    "XLNet": (XLNET, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), METASPACE])),
    "DeBERTa": (XLNET, pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), METASPACE])),
    "bytes": (normalizers.ByteLevel(), ISOLATED_AND_BYTES),
    "others": (
        normalizers.Sequence([normalizers.Nmt(), normalizers.NFD(), normalizers.Strip()]),
        pre_tokenizers.Sequence([*OTHERS, pre_tokenizers.Whitespace()]),
    ),
}


class TestDamage:
    """Each damage is reported as an error that names the file and says what to do."""

    @pytest.mark.parametrize("name", ["student.json", "model.onnx", "tokenizer.json"])
    def test_missing(self, directory, name):
        (directory / name).unlink()
        self.refused(directory, f"expected a file {name}, found none")

    @pytest.mark.parametrize("name", ["student.json", "model.onnx", "tokenizer.json"])
    @pytest.mark.parametrize("keep", [0, 100])
    def test_cut_short(self, directory, name, keep):
        path = directory / name
        path.write_bytes(path.read_bytes()[:keep])
        self.refused(directory, rf"{name} was cut short: expected \d+ bytes, found {keep}")
        self.refused(with_new_checksums(directory), rf"{name}.*(expected|not readable)")  # by who parses it

    def test_altered(self, directory):
        for name in ("student.json", "model.onnx", "tokenizer.json"):
            path = directory / name
            whole = path.read_bytes()
            path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
            self.refused(directory, f"{name} was altered, or is of another save")
            path.write_bytes(whole)
        assert Classifier.load(directory).predict(TEXTS[:1]).shape == (1,)

    def test_a_model_that_names_other_files(self, directory, monkeypatch):
        """Its values would be read from wherever it says."""
        path = directory / "model.onnx"
        model = onnx.load(path)
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        (directory / "secret").write_bytes(weight.raw_data)
        onnx.external_data_helper.set_external_data(weight, "secret")
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        path.write_bytes(model.SerializeToString())
        monkeypatch.chdir(directory)
        with_new_checksums(directory)
        self.refused(
            directory, r"model\.onnx does not belong .* a model that is whole, found one that names other files"
        )

    def test_a_graph_that_can_run_without_end(self, directory):
        path = directory / "model.onnx"
        model = onnx.load(path)
        endless = onnx.parser.parse_graph("body (int64 i, bool on) => (bool again) { again = Identity (on) }")
        turns = onnx.helper.make_tensor("turns", onnx.TensorProto.INT64, [], [2**62])
        go_on = onnx.helper.make_tensor("go_on", onnx.TensorProto.BOOL, [], [True])
        model.graph.initializer.extend([turns, go_on])
        model.graph.node.append(onnx.helper.make_node("Loop", ["turns", "go_on"], [], body=endless))
        path.write_bytes(model.SerializeToString())
        self.refused(
            with_new_checksums(directory), r"model\.onnx does not belong .* without loops, found one with Loop"
        )

    def test_a_loop_whose_body_is_a_functions_default(self, directory):
        body = onnx.parser.parse_graph("body (int64 i, bool on) => (bool again) { again = Identity (on) }")
        loop = onnx.helper.make_node("Loop", ["turns", "go_on"], [])
        loop.attribute.add(name="body", type=onnx.AttributeProto.GRAPH, ref_attr_name="inside")
        model = onnx.load(directory / "model.onnx")
        imports, default = model.opset_import, [onnx.helper.make_attribute("inside", body)]
        model.functions.append(
            onnx.helper.make_function("own", "Run", ["turns", "go_on"], [], [loop], imports, [], default)
        )
        (directory / "model.onnx").write_bytes(model.SerializeToString())
        self.refused(with_new_checksums(directory), r"model\.onnx does not .* without loops, found one with Loop")

    def test_a_graph_of_millions_of_empty_nodes(self, directory):
        path, nodes = directory / "model.onnx", b"\x0a\x00" * 1_000_000
        path.write_bytes(path.read_bytes() + b"\x3a" + onnx_varint(len(nodes)) + nodes)
        self.refused(with_new_checksums(directory), r"model\.onnx can't be read: .* found more than 1,000,000 fields")

    @pytest.mark.parametrize(
        ("part", "value", "message"),
        [
            ("normalizer", in_turn([DOUBLED] * 40), "at most 100 characters of one, found 1.1e.12"),
            ("normalizer", in_turn([replacement("", "xx", "Regex")] * 9), "characters of one, found"),
            ("normalizer", in_turn([in_turn([NFKC] * 101)]), "characters of one, found inf"),
            ("normalizer", in_turn([in_turn([NFKC] * 99)] * 2), "characters of one, found inf"),
            ("normalizer", in_turn([{"type": "ByteLevel"}] * 60), "characters of one, found"),
            ("normalizer", in_turn([replacement("\u0644", "\ufdfa"), NFKC] * 9), "found 1.98e.11"),
            ("normalizer", in_turn([replacement(" ", "漢"), BERT] * 9), "found 1.97e.04"),
            ("normalizer", in_turn([precompiled(""), *[DOUBLED] * 40]), "characters of one, found 1.1e.12"),
            ("pre_tokenizer", in_turn([BYTES] * 60, "pretokenizers"), "characters of one, found"),
            ("pre_tokenizer", in_turn([metaspace("▁"), metaspace("a")] * 20, "pretokenizers"), "characters of one"),
            ("post_processor", template([], 0, texts="A" * 1000), "takes each text once, found"),
            ("post_processor", template([], 0, pair="AB" * 9), "takes each text once, found"),
            ("post_processor", in_turn([BYTES, *[template([], 0)] * 2], "processors"), "takes each text once, found"),
            ("normalizer", {"type": "Prepend", "prepend": "a" * 1000}, "characters of one, found"),
            ("normalizer", precompiled("x" * 1000), "found 1e.03"),
            ("post_processor", template(["<pad>"] * 100, 0), "special tokens that fit into 12"),
            ("post_processor", template(["<pad>"], 10**6), r"with ids below 58, found \[1000000\]"),
            ("model", WORD_PIECE, "max_input_chars_per_word of at most 1000, found 1000000000"),
            ("model", WORD_LEVEL, "at most 58 tokens, found 4000000001"),
        ],
    )
    def test_a_tokenizer_that_takes_endless_memory_or_time(self, directory, part, value, message):
        path = directory / "tokenizer.json"
        content = json.loads(path.read_text()) | {part: value}
        if part == "model":
            content["added_tokens"] = []
        elif part == "normalizer":  # reading the tokenizer applies it to the added tokens
            content["added_tokens"][0] |= {"content": "aé", "normalized": True, "special": False}
        path.write_text(json.dumps(content))
        self.refused(with_new_checksums(directory), rf"tokenizer\.json does not belong to this student: .*{message}")

    @pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
    def test_a_regular_expression_that_goes_back_without_end(self, directory, part, capfd):
        path, pattern = directory / "tokenizer.json", {"Regex": "(a+)+$"}
        content = json.loads(path.read_text())
        step = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        content[part] = step if part == "pre_tokenizer" else {"type": "Replace", "pattern": pattern, "content": "x"}
        path.write_text(json.dumps(content))
        classifier = Classifier.load(with_new_checksums(directory))
        with pytest.raises(ArtifactError, match=r"tokenizer, found: .*retry-limit-in-match over\n.*what to do"):
            classifier.predict(["a" * 1000 + "b"])
        assert classifier.predict(["b"]).shape == (1,)
        content["added_tokens"][0] |= {"content": "a" * 1000 + "b", "normalized": True, "special": False}
        path.write_text(json.dumps(content))
        if part == "normalizer":
            self.refused(with_new_checksums(directory), r"tokenizer\.json can't be read: .*retry-limit-in-match over")

    @pytest.mark.parametrize(("normalizer", "pre_tokenizer"), KNOWN.values(), ids=KNOWN)
    @pytest.mark.parametrize("adding", [[], [processors.RobertaProcessing(("<sep>", 1), ("<pad>", 0))]])
    def test_tokenizers_of_known_models(self, directory, normalizer, pre_tokenizer, adding):
        tokenizer = make_tokenizer()
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer or normalizers.Sequence([]), pre_tokenizer
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), *adding])
        tokenizer.enable_padding(length=100_000)  # which no check may make
        tokenizer.save(str(directory / "tokenizer.json"))
        assert Classifier.load(with_new_checksums(directory)).predict(TEXTS[:1]).shape == (1,)

    @pytest.mark.parametrize("name", ["student.json", "model.onnx", "tokenizer.json", "checksums.json"])
    def test_sparse_files(self, directory, name):
        """They claim a tebibyte and take no room; none of it is read."""
        os.truncate(directory / name, 1 << 40)
        listed = (
            json.loads((directory / "checksums.json").read_bytes().rstrip(b"\0")) if name != "checksums.json" else {}
        )
        if listed:
            listed["files"][name]["bytes"] = 1 << 40
            (directory / "checksums.json").write_text(json.dumps(listed))
        self.refused(directory, f"{name} is too large: expected at most .* bytes, found")

    def test_sparse_settings_are_not_read(self, directory):
        (directory / "config.yaml").write_text("data: {text_column: body}\n")
        assert own_columns(directory) == ("body", None)
        os.truncate(directory / "config.yaml", 1 << 40)
        assert own_columns(directory) == (None, None)

    def test_a_graph_that_fails_is_said(self, directory):
        path = directory / "model.onnx"
        model = onnx.load(path)
        (table,) = (one for one in model.graph.initializer if [*one.dims[:1]] == [make_tokenizer().get_vocab_size()])
        rows = onnx.numpy_helper.to_array(table)[:2]
        table.CopyFrom(onnx.numpy_helper.from_array(rows, table.name))
        path.write_bytes(model.SerializeToString())
        classifier = Classifier.load(with_new_checksums(directory))
        with pytest.raises(ArtifactError, match=r"(?s)expected logits .* out of data bounds.*what to do"):
            classifier.predict(TEXTS)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_graph_that_answers_nan_is_said(self, directory, student, value):
        other = copy.deepcopy(student)
        with torch.no_grad():
            other.head.bias[0] = value
        (directory / "model.onnx").write_bytes(other.to_onnx())
        classifier = Classifier.load(with_new_checksums(directory))
        with pytest.raises(ArtifactError, match=r"expected logits .* found NaN or infinity"):
            classifier.predict(TEXTS)

    def test_no_directory(self, tmp_path):
        self.refused(tmp_path / "nothing", "holds no saved student")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": 1}, "expected a student of format 2, found format 1"),
            ({"spec": None}, "expected a mapping as spec, found None"),
            (
                {"spec": {}},
                r"whole number .* as spec\.vocab_size, found None; .*spec\.num_classes.*; .*spec\.pad_token_id",
            ),
            ({"label_names": "good"}, "expected a list of 3 different names as label_names, found 'good'"),
            *(({"label_type": value}, "expected str, int, float or bool as label_type") for value in (None, "x", [])),
            ({"label_names": ["good", "bad"]}, "expected a list of 3 different names"),
            ({"label_names": ["good", "bad", "bad"]}, "expected a list of 3 different names"),
            ({"label_names": ["a", "b", "b"], "spec": SPEC | {"num_classes": 2}}, "a list of 2 different names"),
            ({"in_pairs": "no"}, "expected true or false as in_pairs, found 'no'"),
            ({"max_length": 0}, "expected a whole number from 1 to 65,536 as max_length, found 0"),
            ({"max_length": 10**12}, "to 65,536 as max_length, found 10{12}"),
            *(
                ({"spec": SPEC | changes}, message)
                for changes, message in (
                    ({"pad_token_id": 80}, r"below spec\.vocab_size as spec\.pad_token_id, found 80"),
                    ({"vocab_size": 10**12}, r"up to 2,147,483,648 as spec\.vocab_size, found 10{12}"),
                    ({"ngram_size": 4, "ngram_buckets": 1}, r"power of two from 2 .* as spec\.ngram_buckets, found 1"),
                    ({"ngram_size": 4, "ngram_buckets": 2**70}, r"spec\.ngram_buckets, found 1180591"),
                )
            ),
            *(
                ({"temperature": value}, rf"a number from 0\.001 to 1000 as temperature, found {value}")
                for value in (0, -1, 1e-300, 10**400, float("inf"), float("nan"), None, True)
            ),
            *(
                (
                    {"threshold": value},
                    f"null, or for two classes a number above 0 and below 1, as threshold, found {value!r}",
                )
                for value in (0, 1, float("nan"), "0_5")
            ),
            ({"threshold": 0.5}, r"expected null, or for two classes .* as threshold, found 0\.5"),
            ({"threshold": [0.5] * 3}, r"expected null, or for two classes .* as threshold, found \[0\.5"),
            ({"task": "regression"}, "expected single-label or multi-label as task, found 'regression'"),
            *(
                ({"task": "multi-label", "threshold": value}, "expected a list of 3 numbers above 0 and below 1")
                for value in (None, 0.5, [0.5] * 2, [0.5, 0.5, 1.0], [0.5, 0.5, "0.5"])
            ),
        ],
    )
    def test_wrong_fields_of_the_manifest(self, directory, changes, message):
        path = directory / "student.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        self.refused(with_new_checksums(directory), message)

    def test_tokenizer_of_another_student(self, directory):
        tokenizer = make_tokenizer()
        tokenizer.add_tokens(["one more"])
        tokenizer.save(str(directory / "tokenizer.json"))
        self.refused(
            with_new_checksums(directory),
            r"tokenizer\.json does not belong to this student: expected at most \d+ tokens",
        )

    def test_model_of_another_student(self, directory, student):
        other = DistilRNN(RNNSpec(**(asdict(student.spec) | {"num_classes": 2})))
        (directory / "model.onnx").write_bytes(other.to_onnx())
        self.refused(with_new_checksums(directory), r"model\.onnx does not belong to this student")

    @staticmethod
    def refused(directory, message):
        with pytest.raises(ArtifactError, match=rf"(?s){message}.*\n  what to do: "):
            Classifier.load(directory)


def test_the_manifest_is_read_back(tmp_path):
    spec = {"vocab_size": 9, "num_classes": 2, "pad_token_id": 0}
    plain = Manifest(spec, ("não", "sim"), 5)
    tuned = replace(plain, in_pairs=True, temperature=1 / 3, threshold=0.1 + 0.2)
    many = replace(plain, threshold=(0.25, 0.1 + 0.2))
    for manifest, task in ((plain, "single-label"), (tuned, "single-label"), (many, "multi-label")):
        manifest.save(tmp_path / "student.json")
        assert Manifest.load(with_new_checksums(tmp_path) / "student.json") == manifest
        assert manifest.task == json.loads((tmp_path / "student.json").read_text())["task"] == task


def test_a_manifest_of_before_there_were_tasks_is_read(tmp_path):
    plain = Manifest({"vocab_size": 9, "num_classes": 2, "pad_token_id": 0}, ("não", "sim"), 5, threshold=0.25)
    plain.save(tmp_path / "student.json")
    content = json.loads((tmp_path / "student.json").read_text())
    del content["task"]
    (tmp_path / "student.json").write_text(json.dumps(content))
    assert Manifest.load(with_new_checksums(tmp_path) / "student.json") == plain
