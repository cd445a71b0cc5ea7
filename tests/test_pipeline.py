"""The whole experiment with a tiny model on a tiny corpus, through the same code as the real one."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch

import potstill
from potstill import pipeline
from potstill.backbone import TextClassifier
from potstill.config import PotstillConfig
from potstill.errors import ArtifactError, SourceError
from potstill.evaluation import Calibration, Summary, compute_metrics
from potstill.evaluation.calibration import fit_temperature, fit_threshold
from potstill.models import StudentModel
from potstill.runtime import Classifier
from potstill.search import with_settings
from potstill.student.model import Student, train_vocabulary
from potstill.teacher import Teacher
from potstill.training.loop import FitResult
from potstill.transfer.sets import TransferSet


@pytest.fixture(scope="module")
def config(tiny_backbone):
    return PotstillConfig.build(
        {
            "data": {"source": "embedded", "limit": 120},
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


class Recorded(Exception):  # noqa: N818 — it ends what has shown enough
    """What a training was to be fitted with."""

    def __init__(self, model, train, selection, loss, _config, **named):
        self.model, self.train, self.selection, self.loss, self.named = model, train, selection, loss, named


@pytest.fixture
def fitted(monkeypatch):
    """Return a function that says what a training hands to `fit`."""

    def record(*arguments, **named):
        raise Recorded(*arguments, **named)

    def handed(train, *arguments, **named):
        with pytest.raises(Recorded) as caught:
            train(*arguments, **named)
        return caught.value

    monkeypatch.setattr(pipeline, "fit", record)
    return handed


def test_run_directory_holds_everything(finished):
    _, directory = finished
    names = {path.name for path in directory.iterdir()}
    assert {"config.yaml", "environment.json", "summary.json", "report.md", "predictions.csv", "plots"} <= names
    assert len(list((directory / "plots").glob("*.png"))) == 11
    for model in [*directory.glob("teacher/*"), *directory.glob("distilled/*"), *directory.glob("baseline/*")]:
        records = [json.loads(line) for line in (model / "history.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in records] == [1, 2]


def test_resolved_config_repeats_the_run(finished, config):
    _, directory = finished
    assert PotstillConfig.load(directory / "config.yaml") == config


def test_a_student_is_fitted_to_what_was_asked_for(finished, config, fitted, tmp_path):
    corpus = potstill.load_corpus(config.data)
    teacher = Teacher.load(finished[1] / "teacher" / "seed-0", config.runtime)
    more = TransferSet(("a brandnewword here", "and another one"), None, ("perturbed:swap", "file:more.txt"), {}, "")
    settings = {
        "distillation.alpha": 0.3,
        "distillation.temperature": 3.0,
        "distillation.source_weights": {"perturbed:*": 0.5},
        "student.vocab_size": 5000,  # more than these texts fill
    }
    asked = with_settings(config, settings)
    handed = fitted(potstill.distill, asked, corpus, teacher, tmp_path, transfer=more)
    assert (handed.loss.alpha, handed.loss.temperature, handed.loss.imitation) == (0.3, 3.0, "kl")
    texts = corpus.train.joined(more.examples)
    torch.testing.assert_close(handed.train.teacher_logits, teacher.logits(texts))
    assert handed.train.labels.tolist() == texts.labels.tolist()
    torch.testing.assert_close(handed.selection.teacher_logits, teacher.logits(corpus.selection))
    weights = handed.train.weights
    assert float(weights.mean()) == pytest.approx(1.0)
    assert (weights / weights[0]).tolist() == pytest.approx([1.0] * len(corpus.train) + [0.5, 1.0])
    words = train_vocabulary((*corpus.train.texts, *more.texts), 5000)
    assert handed.model.spec.vocab_size == words.get_vocab_size()
    alone = fitted(potstill.train, asked, corpus, tmp_path)
    assert not alone.loss.needs_teacher
    assert alone.train.teacher_logits is alone.train.weights is None
    assert alone.model.spec.vocab_size < words.get_vocab_size()


def test_weights_that_weigh_no_text_are_told_of(finished, config, capsys):
    corpus = potstill.load_corpus(config.data)
    teacher = Teacher.load(finished[1] / "teacher" / "seed-0", config.runtime)
    more = TransferSet(("a text", "another"), None, ("perturbed:swap", "file:more.txt"), {})
    asked = with_settings(config, {"distillation.source_weights": {"perturbed:*": 0.5, "file:mroe*": 2.0}})
    for transfer, told in (
        (more, 'source_weights: no text is weighed by "file:mroe*"; its sources are "file:more.txt", "perturbed:swap"'),
        (None, 'source_weights: no text is weighed by "perturbed:*", "file:mroe*"; there is no transfer set'),
    ):
        pipeline.have_judged(asked, corpus, [teacher], transfer)
        assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("role", ["teacher", "distilled", "baseline"])
def test_classes_count_the_same_where_that_is_asked_for(finished, config, fitted, tmp_path, role):
    corpus = potstill.load_corpus(config.data)
    chosen = [np.flatnonzero(corpus.train.labels == label)[:count] for label, count in ((0, 12), (1, 4))]
    corpus = dataclasses.replace(corpus, train=corpus.train.take(np.concatenate(chosen).tolist()))
    section = "teacher" if role == "teacher" else "student"
    asked = with_settings(config, {f"{section}.training.class_weights": "balanced"})
    if role == "distilled":
        teacher = Teacher.load(finished[1] / "teacher" / "seed-0", config.runtime)
        handed = fitted(potstill.distill, asked, corpus, teacher, tmp_path)
    else:
        handed = fitted(potstill.finetune if role == "teacher" else potstill.train, asked, corpus, tmp_path)
    assert handed.loss.class_weights.tolist() == pytest.approx([16 / 24, 16 / 8])
    other = "student" if role == "teacher" else "teacher"
    assert getattr(config, other).training.class_weights == "none"


def test_hidden_states_weigh_what_was_asked_for(finished, config, fitted, tmp_path):
    asked = with_settings(config, {"distillation.hidden_weight": 0.25})
    teacher = Teacher.load(finished[1] / "teacher" / "seed-0", config.runtime)
    assert fitted(potstill.distill, asked, potstill.load_corpus(config.data), teacher, tmp_path).loss.weight == 0.25


def test_a_teachers_matrix_b_gets_the_rate_that_was_asked_for(config, fitted, tmp_path):
    asked = with_settings(config, {"teacher.lora.learning_rate_ratio": 4.0})
    assert fitted(potstill.finetune, asked, potstill.load_corpus(config.data), tmp_path).named["b_ratio"] == 4.0


def test_the_best_teacher_alone_teaches(finished, config, tmp_path):
    summary, directory = finished
    assert config.distillation.teachers == "best"
    assert summary.ensemble is None
    corpus = potstill.load_corpus(config.data)
    teacher = Teacher.load(directory / "teacher" / f"seed-{summary.teacher_seed}", config.runtime)
    potstill.distill(config, corpus, teacher, tmp_path)
    weights = (directory / "distilled" / "seed-0" / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_the_time_of_language_modelling_counts(finished, config, tmp_path, monkeypatch):
    asked = with_settings(config, {"student.pretraining.epochs": 1})
    fit = pipeline.fit
    monkeypatch.setattr("potstill.student.pretraining.fit", lambda *_, **__: FitResult((), {}, 1000.0))
    monkeypatch.setattr(pipeline, "fit", lambda *given, **named: dataclasses.replace(fit(*given, **named), seconds=5.0))
    teacher = Teacher.load(finished[1] / "teacher" / "seed-0", config.runtime)
    trained = potstill.distill(asked, potstill.load_corpus(config.data), teacher, tmp_path)
    assert trained.record.train_seconds == trained.fit.seconds == 1005.0


def test_a_teacher_never_reads_more_tokens_at_once_than_it_may(config, tmp_path, monkeypatch):
    read = []
    forward = TextClassifier.forward

    def record(self, input_ids, *others):
        if self.training:
            read.append(input_ids.numel())
        return forward(self, input_ids, *others)

    monkeypatch.setattr(TextClassifier, "forward", record)
    monkeypatch.setattr(pipeline, "tokens_at_once", lambda _fabric: 64)
    pipeline.finetune(config, potstill.load_corpus(config.data), tmp_path)
    assert 32 < max(read) <= 64


def test_summary_tells_every_model(finished):
    summary, directory = finished
    assert [(m.role, m.seed) for m in summary.models] == [
        ("teacher", 0),
        ("teacher", 1),
        ("distilled", 0),
        ("baseline", 0),
        ("distilled", 1),
        ("baseline", 1),
    ]
    best = max(summary.of("teacher"), key=lambda model: model.selection_mcc)
    assert summary.teacher_seed == best.seed
    assert Summary.from_json((directory / "summary.json").read_text()) == summary


def test_the_epoch_that_was_kept_is_told(finished, config):
    trained = pipeline.Trained.find(finished[1] / "distilled" / "seed-0")
    history = ({"epoch": 1, "mcc": 0.4}, {"epoch": 2, "mcc": 0.1})
    trained = dataclasses.replace(trained, fit=FitResult(history, history[0], 1.0))
    model, corpus = StudentModel(Classifier.load(trained.directory)), potstill.load_corpus(config.data)
    found = trained.result(potstill.measure(model, corpus.evaluation))
    assert (found.selection_mcc, found.best_epoch, found.epochs) == (0.4, 1, 2)


def test_predictions_agree_with_the_reported_scores(finished):
    summary, directory = finished
    with (directory / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary.data.evaluation
    for model in summary.models:
        right = sum(row["label"] == row[f"{model.role} {model.seed}"] for row in rows)
        assert right / len(rows) == pytest.approx(model.metrics.accuracy)


def test_saved_student_predicts_what_was_reported(finished):
    _, directory = finished
    classifier = Classifier.load(directory / "distilled" / "seed-0")
    with (directory / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert classifier.predict([row["text"] for row in rows]).tolist() == [row["distilled 0"] for row in rows]


def test_a_training_whose_graph_is_not_proved_has_not_ended(config, tmp_path, monkeypatch):
    def refuse(student, directory):
        raise ArtifactError(f"{directory} computes something else")

    monkeypatch.setattr(Student, "prove", refuse)
    with pytest.raises(ArtifactError, match="computes something else"):
        potstill.train(config, potstill.load_corpus(config.data), tmp_path)
    assert pipeline.Trained.find(tmp_path) is None


def test_students_are_calibrated_on_the_selection_split(finished, config):
    """The saved temperature is the best one for the saved network's own logits there; the epoch kept is the best."""
    summary, directory = finished
    corpus = potstill.load_corpus(config.data)
    for model in (*summary.of("distilled"), *summary.of("baseline")):
        classifier = Classifier.load(directory / model.role / f"seed-{model.seed}")
        logits = classifier.logits(corpus.selection.texts)
        assert classifier.temperature == pytest.approx(fit_temperature(logits, corpus.selection.labels), rel=1e-2)
        assert classifier.threshold is None
        evaluated = classifier.logits(corpus.evaluation.texts)
        assert model.calibration == Calibration.of(evaluated, corpus.evaluation.labels, classifier.temperature)


def test_white_space_around_a_text_makes_no_difference(finished, config):
    """Lines of a file end with some; no text that was learnt from did."""
    classifier = Classifier.load(finished[1] / "distilled" / "seed-0")
    texts = potstill.load_corpus(config.data).evaluation.texts[:20]
    lines = [f" {text}\r\n" for text in texts]
    np.testing.assert_array_equal(classifier.logits(lines), classifier.logits(texts))


def test_few_texts_are_read_several_times_for_their_speed(finished, config, monkeypatch):
    model = StudentModel(Classifier.load(finished[1] / "distilled" / "seed-0"))
    few = potstill.load_corpus(config.data).evaluation.take(range(3))
    read, classify, seconds = [], StudentModel.logits, 1 / 32  # each time
    monkeypatch.setattr(StudentModel, "logits", lambda self, part: read.append(len(part)) or classify(self, part))
    monkeypatch.setattr("potstill.models.time.perf_counter", lambda: seconds * len(read))
    measured = potstill.measure(model, few)
    assert measured.metrics.count == 3
    assert len(read) == 1 + 4  # the first is no part of the measured time
    assert measured.sentences_per_second == 3 / seconds


def test_a_run_is_no_single_model(finished, config):
    with pytest.raises(ArtifactError, match=r"expected one model, found \d+\n.*seed-0"):
        potstill.open_model(finished[1], config.runtime)


def test_a_teachers_calibration_is_that_of_its_logits(finished, config):
    summary, directory = finished
    corpus = potstill.load_corpus(config.data)
    teacher = potstill.open_model(directory / "teacher" / "seed-0", config.runtime)
    expected = Calibration.of(teacher.logits(corpus.evaluation), corpus.evaluation.labels)
    assert summary.of("teacher")[0].calibration == expected


def test_a_tuned_threshold_is_saved_and_measured(config, tmp_path):
    corpus = potstill.load_corpus(config.data)
    trained = potstill.train(with_settings(config, {"student.threshold": "tuned"}), corpus, tmp_path)
    classifier = Classifier.load(tmp_path)
    selection = corpus.selection
    shares = classifier.predict_proba(selection.texts)[:, 1]
    logits = StudentModel(classifier).logits(selection)
    assert classifier.threshold == fit_threshold(logits, selection.labels, classifier.temperature)
    plain = compute_metrics(selection.labels, (shares > 0.5).astype(int), 2).mcc
    assert plain == pytest.approx(trained.record.best["mcc"])
    classifier.temperature = 4.0  # thresholds are for probabilities, and these depend on it
    forced = classifier.threshold = float(np.median(classifier.predict_proba(corpus.evaluation.texts)[:, 1]))
    measured = potstill.measure(StudentModel(classifier), corpus.evaluation)
    expected = classifier.predict_proba(corpus.evaluation.texts)[:, 1] > forced
    assert measured.predictions.tolist() == expected.astype(int).tolist()
    assert len(set(measured.predictions)) == 2
    assert measured.threshold == forced
    more_probable = classifier.predict_proba(corpus.evaluation.texts).argmax(axis=1)
    assert measured.argmax_metrics == compute_metrics(corpus.evaluation.labels, more_probable, 2)
    told = trained.result(measured)
    assert (told.threshold, told.argmax_metrics) == (forced, measured.argmax_metrics)


def test_saved_teacher_predicts_what_was_reported(finished, config):
    summary, directory = finished
    corpus = potstill.load_corpus(config.data)
    measured = potstill.measure(
        potstill.open_model(directory / "teacher" / "seed-0", config.runtime), corpus.evaluation
    )
    assert measured.metrics == summary.of("teacher")[0].metrics


def test_a_run_judges_with_what_a_later_one_would_load(config, tmp_path):
    """PiSSA's adapters move the base, and back: the tuned model and the saved one differ in last bits."""
    pissa, corpus = with_settings(config, {"teacher.lora.init": "pissa"}), potstill.load_corpus(config.data)
    (first, trained), (second, again) = (pipeline._teacher(pissa, corpus, tmp_path, 0) for _ in range(2))
    assert again == trained
    assert torch.equal(first.logits(corpus.evaluation), second.logits(corpus.evaluation))
    assert first.key() == second.key()


def test_a_run_never_overwrites_another(finished, config):
    summary, directory = finished
    before = (directory / "summary.json").read_bytes()
    assert potstill.run(config, directory) == (summary, directory)
    with pytest.raises(ArtifactError, match="nothing is ever overwritten"):
        potstill.run(config, directory, fresh=True)
    assert (directory / "summary.json").read_bytes() == before


def test_alpha_1_gives_the_baseline_bit_for_bit(finished, config, tmp_path):
    """Through the whole pipeline; the teacher is not asked at all, and a baseline never begins with anything of it."""
    corpus = potstill.load_corpus(config.data)
    labels_alone = with_settings(config, {"distillation.alpha": 1.0})
    teacher = Teacher.load(finished[1] / "teacher" / "seed-0", config.runtime)
    potstill.distill(labels_alone, corpus, teacher, tmp_path / "distilled")
    begun = with_settings(config, {"student.embedding_init": "teacher", "student.pretraining.epochs": 1})
    potstill.train(begun, corpus, tmp_path / "baseline")
    for name in ("model.safetensors", "student.json"):
        distilled, baseline = ((tmp_path / role / name).read_bytes() for role in ("distilled", "baseline"))
        assert distilled == baseline


def test_the_saved_configuration_names_the_data_that_auto_found(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POTSTILL_DATA", raising=False)
    quick = {"epochs": 1}
    automatic = PotstillConfig.build(
        {
            "data": {"source": "auto", "limit": 40},
            "teacher": {"backbone": config.teacher.backbone, "training": quick},
            "student": {"embedding_size": 4, "hidden_size": 4, "vocab_size": 300, "training": quick, "seeds": [0]},
        }
    )
    _, directory = potstill.run(automatic)
    assert PotstillConfig.load(directory / "config.yaml").data.source == "embedded"


def test_an_unknown_student_tokenizer_is_refused_before_anything_is_written(tmp_path, config):
    with pytest.raises(SourceError, match="nowhere"):
        potstill.run(with_settings(config, {"student.tokenizer": "./nowhere"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_teacher_of_other_classes_is_refused(finished, config, tmp_path):
    _, directory = finished
    data = tmp_path / "train.csv"
    data.write_text("text,label\n" + "".join(f"word {i},{'abc'[i % 3]}\n" for i in range(60)))
    other = with_settings(config, {"data.source": str(data)})
    place = directory / "teacher" / "seed-0"
    with pytest.raises(ArtifactError, match="teacher of the classes"):
        potstill.distill(other, potstill.load_corpus(other.data), Teacher.load(place, config.runtime), tmp_path / "out")


def test_a_teacher_of_single_texts_is_refused_for_pairs(finished, config, tmp_path):
    data = tmp_path / "train.csv"
    rows = [f"word {i},other {i},{('unacceptable', 'acceptable')[i % 2]}" for i in range(60)]
    data.write_text("\n".join(["text,second,label", *rows]))
    source = {"source": str(data), "pair_column": "second"}
    corpus = potstill.load_corpus(config.data.model_copy(update=source))
    corpus = dataclasses.replace(corpus, label_names=("unacceptable", "acceptable"))
    teacher = Teacher.load(finished[1] / "teacher" / "seed-0", config.runtime)
    with pytest.raises(ArtifactError, match="the data holds pairs of texts"):
        potstill.distill(config, corpus, teacher, tmp_path / "out")
