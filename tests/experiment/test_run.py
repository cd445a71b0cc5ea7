"""The whole experiment with a tiny model on a tiny corpus, through the same code as the real one."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest

import potstill
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig, with_settings
from potstill.errors import ArtifactError
from potstill.evaluation import Calibration, Summary, compute_metrics
from potstill.evaluation.calibration import fit_temperature, fit_threshold
from potstill.evaluation.details import Details
from potstill.experiment import run as module
from potstill.experiment.labelled import label
from potstill.experiment.probe import Speed
from potstill.experiment.record import Trained
from potstill.experiment.saved import StudentModel
from potstill.experiment.stages import find_or_finetune
from potstill.predict import Classifier
from potstill.predict.directory import find_student
from potstill.store.checksums import verify
from potstill.student.student import Student
from potstill.teacher import transformer
from potstill.teacher.backbone.classifier import TextClassifier
from potstill.teacher.base import Teacher
from potstill.teacher.registry import TEACHERS
from potstill.teacher.transformer import TransformerTeacher
from potstill.training import checkpoint
from potstill.training.base import Callback, FitResult


@pytest.fixture(scope="module")
def config(tiny_backbone):
    return PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 120},
            "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 2}, "seeds": [0, 1]},
            "student": {
                "embedding_size": 8,
                "hidden_size": 8,
                "vocab_size": 300,
                "training": {"epochs": 2},
                "seeds": [0, 1],
            },
        }
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    return potstill.run(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def corpus(config):
    return potstill.load_corpus(config.data)


@pytest.fixture
def teacher(finished, config):
    return TransformerTeacher.load(finished[1] / "teacher" / "seed-0", config.runtime)


def test_run_directory_holds_everything(finished):
    _, directory = finished
    names = {path.name for path in directory.iterdir()}
    assert {"config.yaml", "environment.json", "summary.json", "report.md", "predictions.csv", "plots"} <= names
    assert {"report.html", "details.json"} <= names & set(verify(directory))
    assert len(list((directory / "plots").glob("*.png"))) == 11
    for model in [*directory.glob("teacher/*"), *directory.glob("distilled/*"), *directory.glob("baseline/*")]:
        records = [json.loads(line) for line in (model / "history.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in records] == [1, 2]


def test_saved_config_repeats_the_run(finished, config):
    _, directory = finished
    assert PotstillConfig.load(directory / "config.yaml") == config


def results_of(directory):
    """Read what a run leaves but for times: models, predictions, scores."""
    patterns = ("*/seed-*/*.safetensors", "*/seed-*/model.onnx", "*/seed-*/tokenizer.json", "predictions.csv")
    files = {path.relative_to(directory): path.read_bytes() for name in patterns for path in directory.glob(name)}
    summary = Summary.from_json((directory / "summary.json").read_text())
    return files, [(model.role, model.seed, model.metrics, model.calibration) for model in summary.models]


def test_run_interrupted_anywhere_ends_with_the_same_bytes(finished, config, tmp_path, monkeypatch):
    """After each stage, and in the midst of a teacher's and of a student's training."""
    monkeypatch.setattr("potstill.report.draw_plots", lambda *_: None)
    monkeypatch.setattr(module, "measure_speed", lambda *_: Speed(0.1, 1e-5, 1e-5))
    eager = config.model_copy(update={"runtime": config.runtime.model_copy(update={"checkpoint_seconds": 0.0})})

    def interrupt_after(patch, place, name, calls=1):
        original, made = getattr(place, name), []

        def call(*given, **named):
            result = original(*given, **named)
            made.append(None)
            if len(made) == calls:
                raise KeyboardInterrupt
            return result

        patch.setattr(place, name, call)

    places = [
        *((checkpoint, "save_tensors", 5), (module, "find_or_finetune", 1), (module, "find_or_finetune", 2)),
        *((module, "label", 1), (checkpoint, "save_tensors", 7), (module, "train_students", 1)),
        (module, "write_csv", 1),
    ]
    for place, name, calls in places:
        with monkeypatch.context() as patch:
            interrupt_after(patch, place, name, calls)
            with pytest.raises(KeyboardInterrupt):
                potstill.run(eager, tmp_path / "run")
    potstill.run(eager, tmp_path / "run")
    assert results_of(tmp_path / "run") == results_of(finished[1])
    assert not list((tmp_path / "run").rglob("*checkpoint*"))


class Seen(Callback):
    """Keeps the data that a training is given."""

    def on_fit_begin(self, trainer):
        self.data = trainer.data


def test_student_learns_from_all_texts_and_the_teachers_logits(config, corpus, teacher, tmp_path):
    texts = ("a brandnewword here", "and another one")
    more = UnlabelledSet(texts, None, ("perturbed:swap", "file:more.txt"), {})
    seen = Seen()
    roomy = with_settings(config, {"student.vocab_size": 5000})  # more than these texts fill
    potstill.distill(roomy, corpus, teacher, tmp_path / "a", unlabelled=more, callbacks=[seen])
    both = corpus.train.joined(more.examples)
    np.testing.assert_allclose(seen.data.train.teacher_logits, teacher.logits(both), rtol=1e-4, atol=1e-5)
    assert seen.data.train.labels.tolist() == both.labels.tolist()
    expected = teacher.logits(corpus.validation)
    np.testing.assert_allclose(seen.data.validation.teacher_logits, expected, rtol=1e-4, atol=1e-5)
    assert "brandnewword" in (tmp_path / "a" / "tokenizer.json").read_text()


def test_distillation_settings_decide_the_loss(config, corpus, teacher, tmp_path):
    labelled = label(config, corpus, teacher)
    losses = {}
    for number, settings in enumerate(({}, {"alpha": 0.1}, {"temperature": 5.0}, {"loss": "mse"})):
        changed = with_settings(config, {f"distillation.{name}": value for name, value in settings.items()})
        fitted = potstill.distill(changed, corpus, labelled, tmp_path / str(number)).fit
        losses[str(settings)] = fitted.history[0]["train_loss"]
    assert len(set(losses.values())) == 4


@pytest.mark.parametrize(("kind", "seed", "said"), [("rnn", 0, 1), ("rnn", 7, 1), ("rnn", 1, 0), ("ngram", 0, 0)])
def test_what_students_do_not_read_is_said_once(config, corpus, teacher, tmp_path, capsys, kind, seed, said):
    """Of the labelled texts; bags of n-grams read no tokens."""
    sizes = config.student.model_dump() if kind == "rnn" else {"kind": kind, "training": {"epochs": 1}}
    student = {**sizes, "seeds": [0, 1]}
    asked = PotstillConfig.build(config.model_dump() | {"student": student, "data": {"max_length": 4}})
    more = UnlabelledSet(("a b c d e f g h i j",) * 50, None, ("file:more.txt",) * 50, {})
    potstill.train(asked, corpus, tmp_path / "baseline", seed)
    potstill.distill(asked, corpus, teacher, tmp_path / "distilled", seed, unlabelled=more)
    words = " ".join(capsys.readouterr().err.split())
    for role in ("baseline", "distilled"):
        found = re.findall(rf"{role} student: (\d+) of (\d+) texts are cut to 4 tokens", words)
        assert [int(texts) for _, texts in found] == [len(corpus.train)] * said


@pytest.mark.parametrize("role", ["teacher", "distilled", "baseline"])
def test_class_weights_reach_every_loss(config, corpus, teacher, tmp_path, role):
    chosen = [np.flatnonzero(corpus.train.labels == label)[:count] for label, count in ((0, 12), (1, 4))]
    corpus = dataclasses.replace(corpus, train=corpus.train.take(np.concatenate(chosen).tolist()))
    section = "teacher" if role == "teacher" else "student"
    losses = []
    for weights in ("none", "balanced"):
        asked = with_settings(config, {f"{section}.training.class_weights": weights})
        if role == "teacher":
            trained = potstill.finetune(asked, corpus, tmp_path / weights)[1]
        elif role == "distilled":
            trained = potstill.distill(asked, corpus, teacher, tmp_path / weights)
        else:
            trained = potstill.train(asked, corpus, tmp_path / weights)
        losses.append(trained.fit.history[0]["train_loss"])
    assert losses[0] != losses[1]


def test_best_teacher_labels_alone(finished, config, corpus, tmp_path):
    summary, directory = finished
    assert config.distillation.teachers == "best"
    assert summary.ensemble is None
    teacher = TransformerTeacher.load(directory / "teacher" / f"seed-{summary.teacher_seed}", config.runtime)
    potstill.distill(config, corpus, teacher, tmp_path)
    weights = (directory / "distilled" / "seed-0" / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_training_time_includes_language_modelling(config, corpus, teacher, tmp_path):
    asked = with_settings(config, {"student.pretraining.epochs": 1})
    trained = potstill.distill(asked, corpus, teacher, tmp_path)
    files = [(tmp_path / name).read_text() for name in ("history.jsonl", "pretraining.jsonl")]
    epochs = [json.loads(line) for text in files for line in text.splitlines()]
    assert len(epochs) == 3
    assert trained.record.train_seconds == trained.fit.seconds >= sum(epoch["seconds"] for epoch in epochs)


def test_teacher_reads_no_more_tokens_at_once_than_allowed(config, corpus, tmp_path, monkeypatch):
    read = []
    forward = TextClassifier.forward

    def record(self, input_ids, attention_mask):
        if self.training:
            read.append(input_ids.numel())
        return forward(self, input_ids, attention_mask)

    monkeypatch.setattr(TextClassifier, "forward", record)
    monkeypatch.setattr(transformer, "tokens_at_once", lambda _fabric: 64)
    potstill.finetune(config, corpus, tmp_path)
    assert 32 < max(read) <= 64


def test_summary_holds_every_model(finished):
    summary, directory = finished
    assert [(m.role, m.seed) for m in summary.models] == [
        ("teacher", 0),
        ("teacher", 1),
        ("distilled", 0),
        ("baseline", 0),
        ("distilled", 1),
        ("baseline", 1),
    ]
    best = max(summary.of("teacher"), key=lambda model: model.validation_mcc)
    assert summary.teacher_seed == best.seed
    assert Summary.from_json((directory / "summary.json").read_text()) == summary


def test_result_names_the_kept_epoch(finished, corpus):
    trained = Trained.find(finished[1] / "distilled" / "seed-0")
    history = ({"epoch": 1, "mcc": 0.4}, {"epoch": 2, "mcc": 0.1})
    trained = dataclasses.replace(trained, fit=FitResult(history, history[0], 1.0))
    model = StudentModel(Classifier.load(trained.directory))
    found = trained.result(potstill.measure(model, corpus.test))
    assert (found.validation_mcc, found.best_epoch, found.epochs) == (0.4, 1, 2)


def test_predictions_agree_with_the_reported_scores(finished):
    summary, directory = finished
    with (directory / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary.data.test
    for model in summary.models:
        right = sum(row["label"] == row[f"{model.role} {model.seed}"] for row in rows)
        assert right / len(rows) == pytest.approx(model.metrics.accuracy)
    details = Details.from_json((directory / "details.json").read_text())
    assert find_student(directory) == directory / details.role / f"seed-{details.seed}"
    by_text = {row["text"]: row for row in rows}
    answers = f"{details.role} {details.seed}"
    wrong = sum(row["label"] != row[answers] for row in rows)
    assert wrong == sum(texts for label, answer, texts in details.confusion if label != answer)
    assert details.coverage[-1] == (1.0, pytest.approx(wrong / len(rows)))
    assert len(details.mistakes) == min(wrong, 20)
    for case in details.mistakes:
        row = by_text[case.text]
        assert (case.label, case.answer) == (row["label"], row[answers])
        assert case.teacher == row[f"teacher {summary.teacher_seed}"]
    sure = [case.answer_probability for case in details.mistakes]
    assert sure == sorted(sure, reverse=True)
    classifier = Classifier.load(directory / "distilled" / "seed-0")
    assert classifier.predict([row["text"] for row in rows]).tolist() == [row["distilled 0"] for row in rows]


def test_training_without_a_proved_graph_has_not_ended(config, tmp_path, monkeypatch):
    def refuse(student, directory):
        raise ArtifactError(f"{directory} computes something else")

    monkeypatch.setattr(Student, "prove", refuse)
    with pytest.raises(ArtifactError, match="computes something else"):
        potstill.train(config, potstill.load_corpus(config.data), tmp_path)
    assert Trained.find(tmp_path) is None


def test_students_are_calibrated_on_the_validation_split(finished, config, corpus):
    """The saved temperature is the best one for the saved network's own logits there; the epoch kept is the best."""
    summary, directory = finished
    for model in (*summary.of("distilled"), *summary.of("baseline")):
        classifier = Classifier.load(directory / model.role / f"seed-{model.seed}")
        logits = classifier.logits(corpus.validation.texts)
        assert classifier.temperature == pytest.approx(fit_temperature(logits, corpus.validation.labels), rel=1e-2)
        assert classifier.threshold is None
        evaluated = classifier.logits(corpus.test.texts)
        assert model.calibration == Calibration.of(evaluated, corpus.test.labels, classifier.temperature)


def test_white_space_around_a_text_is_ignored(finished, config):
    """Lines of a file end with some; no text that was learnt from did."""
    classifier = Classifier.load(finished[1] / "distilled" / "seed-0")
    texts = potstill.load_corpus(config.data).test.texts[:20]
    lines = [f" {text}\r\n" for text in texts]
    np.testing.assert_array_equal(classifier.logits(lines), classifier.logits(texts))


def test_run_directory_is_refused_as_a_single_model(finished, config):
    with pytest.raises(ArtifactError, match=r"expected one model, found \d+\n.*seed-0"):
        potstill.open_model(finished[1], config.runtime)


def test_saved_teacher_scores_as_reported(finished, config, corpus):
    summary, directory = finished
    teacher = potstill.open_model(directory / "teacher" / "seed-0", config.runtime)
    expected = Calibration.of(teacher.logits(corpus.test), corpus.test.labels)
    assert summary.of("teacher")[0].calibration == expected
    assert summary.of("teacher")[0].metrics == potstill.measure(teacher, corpus.test).metrics


def test_tuned_threshold_is_saved_and_measured(config, corpus, tmp_path):
    trained = potstill.train(with_settings(config, {"student.threshold": "tuned"}), corpus, tmp_path)
    classifier = Classifier.load(tmp_path)
    validation = corpus.validation
    shares = classifier.answer(validation.texts)[0][:, 1]
    logits = StudentModel(classifier).logits(validation)
    assert classifier.threshold == fit_threshold(logits, validation.labels, classifier.temperature)
    plain = compute_metrics(validation.labels, (shares > 0.5).astype(int), 2).mcc
    assert plain == pytest.approx(trained.record.best["mcc"])
    classifier.temperature = 4.0  # thresholds are for probabilities, and these depend on it
    forced = classifier.threshold = float(np.median(classifier.answer(corpus.test.texts)[0][:, 1]))
    measured = potstill.measure(StudentModel(classifier), corpus.test)
    expected = classifier.answer(corpus.test.texts)[0][:, 1] > forced
    assert measured.predictions.tolist() == expected.astype(int).tolist()
    assert len(set(measured.predictions)) == 2
    assert measured.threshold == forced
    assert trained.result(measured).threshold == forced


def test_finished_teacher_is_loaded_as_it_was_trained(config, corpus, tmp_path):
    (first, trained), (second, again) = (find_or_finetune(config, corpus, tmp_path, 0) for _ in range(2))
    assert again == trained
    assert np.array_equal(first.logits(corpus.test), second.logits(corpus.test))
    assert first.key == second.key


def test_run_never_overwrites_another(finished, config):
    summary, directory = finished
    before = (directory / "summary.json").read_bytes()
    assert potstill.run(config, directory) == (summary, directory)
    with pytest.raises(ArtifactError, match="nothing is ever overwritten"):
        potstill.run(config, directory, restart=True)
    assert (directory / "summary.json").read_bytes() == before


def test_baseline_is_the_distilled_student_with_alpha_1(config, corpus, teacher, tmp_path, monkeypatch):
    """Bit for bit, and without a question to the teacher; a baseline takes nothing of it."""
    monkeypatch.setattr(TransformerTeacher, "logits", None)
    potstill.distill(with_settings(config, {"distillation.alpha": 1.0}), corpus, teacher, tmp_path / "distilled")
    with_teacher = with_settings(config, {"student.embedding_init": "teacher", "student.pretraining.epochs": 1})
    potstill.train(with_teacher, corpus, tmp_path / "baseline")
    for name in ("model.safetensors", "student.json"):
        distilled, baseline = ((tmp_path / role / name).read_bytes() for role in ("distilled", "baseline"))
        assert distilled == baseline


def test_test_split_is_not_used_before_the_report(finished, config, corpus, tmp_path):
    """Teachers and students are the same with another test split."""
    other = dataclasses.replace(corpus, test=corpus.train.take([0, 1]))
    seed = finished[0].teacher_seed
    best, _ = potstill.finetune(config, other, tmp_path / "best", seed)
    potstill.distill(config, other, best, tmp_path / "distilled", 1)
    potstill.train(config, other, tmp_path / "baseline", 1)
    for place, role, number in (("best", "teacher", seed), ("distilled", "distilled", 1), ("baseline", "baseline", 1)):
        for path in (finished[1] / role / f"seed-{number}").glob("*.safetensors"):
            assert (tmp_path / place / path.name).read_bytes() == path.read_bytes()


def test_finished_model_is_not_overwritten_from_python(config, corpus, teacher, tmp_path):
    short = with_settings(config, {"student.training.epochs": 1, "teacher.training.epochs": 1})
    for train, *more in ((potstill.train,), (potstill.distill, teacher), (potstill.finetune,)):
        place = tmp_path / train.__name__
        train(short, corpus, *more, place)
        before = {file.name: file.read_bytes() for file in place.iterdir()}
        for again in (short, config):
            with pytest.raises(ArtifactError, match="found a finished one\n  what to do: name another directory"):
                train(again, corpus, *more, place)
        assert {file.name: file.read_bytes() for file in place.iterdir()} == before


def test_teacher_of_other_classes_is_refused(config, teacher, tmp_path):
    data = tmp_path / "train.csv"
    data.write_text("text,label\n" + "".join(f"word {i},{'abc'[i % 3]}\n" for i in range(60)))
    other = with_settings(config, {"data.source": str(data)})
    with pytest.raises(ArtifactError, match="teacher of the classes"):
        potstill.distill(other, potstill.load_corpus(other.data), teacher, tmp_path / "out")


def test_teacher_of_single_texts_is_refused_for_pairs(config, teacher, tmp_path):
    data = tmp_path / "train.csv"
    rows = [f"word {i},other {i},{('unacceptable', 'acceptable')[i % 2]}" for i in range(60)]
    data.write_text("\n".join(["text,second,label", *rows]))
    pairs = potstill.load_corpus(config.data.model_copy(update={"source": str(data), "pair_column": "second"}))
    pairs = dataclasses.replace(pairs, label_names=("unacceptable", "acceptable"))
    with pytest.raises(ArtifactError, match="the data holds pairs of texts"):
        potstill.distill(config, pairs, teacher, tmp_path / "out")


class Rule(Teacher):
    """A teacher that needs no training."""

    label_names, key = ("unacceptable", "acceptable"), "rule"

    @classmethod
    def obtain(cls, config, corpus, directory, seed):
        return cls(), None

    @classmethod
    def load(cls, directory, runtime):
        return cls()

    def logits(self, examples, *, cached=True, on_batch=lambda _: None):
        return np.float32([[0, len(text) % 3 - 1] for text in examples.texts])


def test_teacher_without_training_is_scored_and_found_again(config, corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(TEACHERS, "transformer", Rule)
    (_, first), (_, again) = (find_or_finetune(config, corpus, tmp_path, 0) for _ in range(2))
    assert first == again
    assert first.fit.history == ()
    assert first.record.best["accuracy"] == potstill.measure(Rule(), corpus.validation).metrics.accuracy
