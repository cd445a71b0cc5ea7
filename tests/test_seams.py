"""A new kind of student and a new kind of teacher, each in under 40 lines, go the whole way without a change in src."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper
from torch import Tensor, nn

from commandline import potstill
from potstill.config import PotstillConfig, RuntimeConfig, StudentConfig, TeacherConfig
from potstill.data import Corpus, Examples, load_corpus
from potstill.errors import ArtifactError, ConfigError
from potstill.evaluation.measure import measure
from potstill.experiment.run import run
from potstill.experiment.saved import load_teacher, open_model
from potstill.predict import Classifier
from potstill.store.atomic import read_json, write_json
from potstill.store.checksums import atomic_save
from potstill.student.base import Network, NetworkSpec
from potstill.student.registry import STUDENTS
from potstill.teacher.base import Teacher
from potstill.teacher.registry import TEACHERS


class BagConfig(StudentConfig):
    embedding_size: int = 8


@dataclass(frozen=True, kw_only=True)
class BagSpec(NetworkSpec):
    embedding_size: int


class BagOfEmbeddings(Network):
    settings, spec_class = BagConfig, BagSpec

    def __init__(self, spec: BagSpec) -> None:
        super().__init__(spec)
        self.embedding = nn.Embedding(spec.vocab_size, spec.embedding_size)
        self.head = nn.Linear(spec.embedding_size, spec.num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head((self.embedding(input_ids) * attention_mask.unsqueeze(2)).sum(dim=1))

    def to_onnx(self) -> bytes:
        model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
            bag (int64[batch, length] input_ids, int32[batch] lengths) => (float[batch, classes] logits) {
                zero = Constant<value_int=0>()  one = Constant<value_int=1>()  last = Constant<value_ints=[-1]>()
                axis = Constant<value_ints=[1]>()  size = Shape(input_ids)  length = Gather(size, one)
                places = Range(zero, length, one)  ends = Cast<to=7>(lengths)  column = Unsqueeze(ends, last)
                real = Less(places, column)  mask = Cast<to=1>(real)  mask3 = Unsqueeze(mask, last)
                embedded = Gather(table, input_ids)  kept = Mul(embedded, mask3)
                summed = ReduceSum<keepdims=0>(kept, axis)  logits = Gemm<transB=1>(summed, weight, bias)
            }""")
        weights = {"table": self.embedding.weight, "weight": self.head.weight, "bias": self.head.bias}
        model.graph.initializer.extend(numpy_helper.from_array(w.detach().numpy(), n) for n, w in weights.items())
        return model.SerializeToString()

    def describe(self, settings: StudentConfig) -> str:
        return f"a sum of {self.spec.embedding_size} numbers a word"


class WordsConfig(TeacherConfig):
    words: dict[str, str]


class WordTeacher(Teacher):
    """Knows a class for some words."""

    settings = WordsConfig
    key = "words"

    def __init__(self, words: dict[str, str], label_names: tuple[str, ...]) -> None:
        self.words, self.label_names = words, label_names

    def logits(self, examples: Examples, **_) -> np.ndarray:
        classes = [[self.words.get(word) for word in text.split()] for text in examples.texts]
        return np.array([[found.count(name) for name in self.label_names] for found in classes], dtype=np.float32)

    def describe(self) -> str:
        return f"a dictionary of {len(self.words)} words"

    @classmethod
    def obtain(cls, config: PotstillConfig, corpus: Corpus, directory: Path, seed: int):
        with atomic_save(directory) as staged:
            saved = {"kind": "words", "words": config.teacher.words, "names": corpus.label_names}
            write_json(staged / "teacher.json", saved)
        return cls(config.teacher.words, corpus.label_names), None

    @classmethod
    def load(cls, directory: Path, runtime: RuntimeConfig):
        saved = read_json(directory / "teacher.json")
        return cls(saved["words"], tuple(saved["names"]))


@pytest.fixture
def kinds(monkeypatch) -> Iterator[None]:
    monkeypatch.setitem(STUDENTS, "bag", BagOfEmbeddings)
    monkeypatch.setitem(TEACHERS, "words", WordTeacher)


@pytest.fixture
def reviews(tmp_path) -> Path:
    good, bad = ("fine", "great", "lovely"), ("bad", "poor", "awful")
    rows = [
        f"the {noun} was {word} {count},{label}"
        for words, label in ((good, "good"), (bad, "bad"))
        for word in words
        for noun in ("food", "room", "staff", "view")
        for count in range(5)
    ]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    return tmp_path / "reviews.csv"


@pytest.mark.usefixtures("kinds", "no_plots")
def test_a_new_student_and_a_new_teacher_need_no_change_in_src(reviews, tmp_path):
    words = {"fine": "good", "great": "good", "bad": "bad", "poor": "bad"}
    config = PotstillConfig.build(
        {
            "data": {"source": str(reviews)},
            "teacher": {"kind": "words", "words": words},
            "student": {
                "kind": "bag",
                "embedding_size": 4,
                "vocab_size": 300,
                "seeds": [0],
                "training": {"epochs": 9, "learning_rate": 0.1},
            },
            "runtime": {"device": "cpu"},
        }
    )
    summary, directory = run(config, tmp_path / "run")
    assert {model.role: model.parameters > 0 for model in summary.models} == {
        "teacher": False,
        "distilled": True,
        "baseline": True,
    }
    report = (directory / "report.md").read_text()
    assert "a dictionary of 4 words" in report
    assert "a sum of 4 numbers a word" in report

    assert PotstillConfig.load(directory / "config.yaml") == config
    examples = load_corpus(config.data).test
    teacher = open_model(directory / "teacher" / "seed-0", config.runtime)
    assert measure(teacher, examples).metrics == summary.models[0].metrics
    assert load_teacher(directory, config)[0].label_names == ("bad", "good")
    (directory / "report.md").unlink()  # as if it had been interrupted before
    resumed, _ = run(config, directory)
    assert [model.metrics for model in resumed.models] == [model.metrics for model in summary.models]
    distilled = Classifier.load(directory / "distilled" / "seed-0")
    assert distilled.predict(["the food was great", "the view was poor"]).tolist() == ["good", "bad"]
    assert potstill("export", directory, "--out", tmp_path / "model") == 0
    texts = ["the food was great", "", "poor poor poor"]
    np.testing.assert_array_equal(
        Classifier.load(tmp_path / "model").predict_proba(texts), distilled.predict_proba(texts)
    )


@pytest.mark.parametrize(
    ("section", "name", "known"), [("teacher", "oracle", "transformer"), ("student", "forest", "rnn")]
)
def test_an_unknown_kind_names_the_known_ones(section, name, known):
    with pytest.raises(ConfigError, match=rf"{section}: expected one of the kinds {known}") as error:
        PotstillConfig.build({section: {"kind": name}})
    assert name in str(error.value)


def test_a_saved_teacher_of_an_unknown_kind_is_refused(tmp_path):
    with atomic_save(tmp_path) as staged:
        write_json(staged / "teacher.json", {"kind": "oracle"})
    with pytest.raises(
        ArtifactError, match=r"expected a teacher of a kind among transformer, file, endpoint, found 'oracle'"
    ):
        open_model(tmp_path, PotstillConfig().runtime)
