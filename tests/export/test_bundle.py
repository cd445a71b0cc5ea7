"""What `potstill export` writes: it answers as the student does, alone, and its card says what it is."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

from checksummed import with_new_checksums
from commandline import potstill, train_small
from potstill.errors import ArtifactError
from potstill.evaluation import EnsembleResult, Summary
from potstill.experiment.record import TrainingRecord
from potstill.export import bundle
from potstill.predict import Classifier
from potstill.predict.directory import Manifest, StudentFiles
from potstill.store.checksums import atomic_save, verify
from potstill.student.saved import load_network

pytestmark = pytest.mark.usefixtures("no_plots")

TINY = """
data: {{source: {data}}}
teacher: {{backbone: {backbone}, training: {{epochs: 1}}}}
student: {{embedding_size: 8, hidden_size: 8, vocab_size: 300, training: {{epochs: 1}}, seeds: [0, 1]}}
"""
WORDS = ["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9", "w10"]
ROWS = [f"{WORDS[n % 10]} {WORDS[n % 7]} {WORDS[n % 3]},{'yes' if n % 2 else 'no'}" for n in range(120)]
TEXTS = [*(row.partition(",")[0] for row in ROWS[:30]), "", "naïve 漢字 🙂", "a <pad> b", " ".join(WORDS * 30)]


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory, tiny_backbone):
    place = tmp_path_factory.mktemp("run")
    (place / "reviews.csv").write_text("\n".join(["text,label", *ROWS]))
    (place / "tiny.yaml").write_text(TINY.format(backbone=tiny_backbone, data=place / "reviews.csv"))
    assert potstill("run", "--config", place / "tiny.yaml", "--out", place / "run") == 0
    return place / "run"


@pytest.fixture
def student(run_directory):
    """The distilled student that is best in validation."""
    seeds = sorted((run_directory / "distilled").iterdir())
    return max(seeds, key=lambda seed: TrainingRecord.load(seed).best["mcc"])


def exported(source, out, *flags):
    assert potstill("export", source, "--out", out, *flags) == 0
    return out


def card_of(source, out):
    return (exported(source, out) / "card.md").read_text()


def names(directory):
    return sorted(file.name for file in directory.iterdir())


def test_a_run_is_exported_as_its_best_student_without_training_files(run_directory, student, tmp_path, capsys):
    model = exported(run_directory, tmp_path / "model")
    assert names(model) == ["card.md", "checksums.json", "labels.json", "model.onnx", "student.json", "tokenizer.json"]
    np.testing.assert_array_equal(Classifier.load(model).logits(TEXTS), Classifier.load(student).logits(TEXTS))
    assert json.loads((model / "labels.json").read_text()) == list(Classifier.load(student).label_names)
    assert set(verify(model)) == set(names(model)) - {"card.md", "checksums.json"}
    assert str(student) in capsys.readouterr().out
    (model / "card.md").write_text("its reader's own words")
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *ROWS[:20]]))
    assert potstill("evaluate", model, "--data", tmp_path / "texts.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["metrics"]["count"] == 20
    assert potstill("predict", model, "--text", "w1 w2") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("no", "yes")


def test_an_export_with_a_coverage_abstains_wherever_it_is_used(run_directory, student, tmp_path):
    model = exported(run_directory, tmp_path / "model", "--coverage", "0.5")
    least = Classifier.load(student, coverage=0.5).min_confidence
    assert Manifest.load(StudentFiles(model).manifest).min_confidence == least
    card = (model / "card.md").read_text()
    assert f"There is no answer where its probability is below {least:.5g}" in card
    assert "It always answers" not in card
    expected = Classifier.load(student, coverage=0.5).predict(TEXTS).tolist()
    assert Classifier.load(model).predict(TEXTS).tolist() == expected
    assert None in expected
    assert None not in Classifier.load(model, coverage=1).predict(TEXTS).tolist()


def test_the_card_shows_the_runs_results(run_directory, student, tmp_path, tiny_backbone):
    model = exported(run_directory, tmp_path / "model")
    card = (model / "card.md").read_text()
    summary = Summary.from_json((run_directory / "summary.json").read_text())
    record = TrainingRecord.load(student)
    result = next(one for one in summary.of("distilled") if one.seed == record.seed)
    low, high = result.intervals["mcc"]
    assert re.search(rf"\| this model \| {result.metrics.f1:.3f} \[.*\| {100 * result.metrics.accuracy:.1f} % \[", card)
    assert f"{result.metrics.mcc:.3f} [{low:.3f}, {high:.3f}]" in card
    assert f"| its teacher | {summary.teacher.metrics.f1:.3f}" in card
    assert f"Data: reviews. {summary.data.train:,} texts to learn from" in card
    assert f"Teacher: the language model `{tiny_backbone.name}`" in card
    assert f"Network: {record.description}" in card
    assert "its licence is not known to Potstill" in card
    assert "The data's licence is not known to Potstill" in card
    assert "**Did it pay?**" in card
    assert "What to try" not in card  # advice for the one who trains
    assert "| baseline student, 2 seeds |" in card
    assert f"| linear SVM | {summary.linear.metrics.f1:.3f} [" in card
    assert f'| always "{summary.data.majority_label}" |' in card
    assert "Class by class:" in card
    assert "`potstill predict DIRECTORY FILE --coverage 0.9`" in card
    assert "- To repeat it: `potstill" in card
    assert str(run_directory.parent) not in card  # its readers are on other machines
    assert str(tiny_backbone) not in card


def test_the_card_counts_averaged_teachers(run_directory, tmp_path):
    run = shutil.copytree(run_directory, tmp_path / "run")
    summary = Summary.from_json((run / "summary.json").read_text())
    one = summary.of("teacher")[0]
    together = EnsembleResult(one.metrics, one.intervals, one.calibration)
    models = (one, replace(one, seed=1), *summary.of("distilled"), *summary.of("baseline"))
    (run / "summary.json").write_text(replace(summary, models=models, ensemble=together).to_json())
    card = card_of(with_new_checksums(run), tmp_path / "model")
    assert "2 of them with their probabilities averaged" in card
    assert "| its teachers, averaged |" in card


def test_the_card_of_a_baseline_names_no_teacher(run_directory, tmp_path):
    card = card_of(run_directory / "baseline" / "seed-1", tmp_path / "model")
    assert "Teacher: none" in card
    assert "its teacher" not in card
    assert "seed 1" in card


def test_without_its_data_the_card_has_the_runs_scores(run_directory, tmp_path):
    moved = shutil.copytree(run_directory, tmp_path / "run")
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["data"]["source"] = str(tmp_path / "gone.csv")
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    assert "| this model |" in card_of(moved, tmp_path / "model")


def test_changed_data_is_not_scored_on(run_directory, tmp_path):
    """Split anew, its test split may hold texts that the student was trained on."""
    alone = shutil.copytree(run_directory, tmp_path / "run")
    data = tmp_path / "reviews.csv"
    data.write_text((run_directory.parent / "reviews.csv").read_text())
    config = (alone / "config.yaml").read_text()
    (alone / "config.yaml").write_text(config.replace(str(run_directory.parent / "reviews.csv"), str(data)))
    (alone / "summary.json").unlink()
    with_new_checksums(alone)
    assert "| this model |" in card_of(alone, tmp_path / "same")
    data.write_text("\n".join(["text,label", *sorted(ROWS)]))
    card = card_of(alone, tmp_path / "changed")
    assert "None on held-out text: its data has changed since it was trained" in card


def test_the_card_of_a_student_alone_says_that_nothing_is_known(student, tmp_path):
    card = card_of(shutil.copytree(student, tmp_path / "alone"), tmp_path / "model")
    assert "None on held-out text: there are no settings beside the student" in card
    assert "potstill evaluate" in card
    assert "Data and teacher: not known" in card


def test_an_exported_model_is_scored_on_named_data_alone(run_directory, tmp_path, capsys):
    model = exported(run_directory, tmp_path / "model")
    assert potstill("evaluate", model) == 1
    assert "name labelled texts with --data" in capsys.readouterr().err


def test_pairs(tmp_path):
    rows = [f"{WORDS[n % 10]},{WORDS[n % 7]},{'yes' if n % 2 else 'no'}" for n in range(40)]
    student = train_small(tmp_path, ["text,second,label", *rows], "--pair-column", "second", name="student")
    model = exported(student, tmp_path / "model")
    pairs = [("w1 w2", "w3"), ("w4", "w5 w6")]
    np.testing.assert_array_equal(Classifier.load(model).logits(pairs), Classifier.load(student).logits(pairs))
    assert "a classifier of pairs of texts" in (model / "card.md").read_text()


def run_code_of(card):
    text = card.read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(compile(code.replace('"DIRECTORY', f'"{card.parent}'), card.name, "exec"), {})
    return text


def test_the_code_on_the_card_runs(run_directory, tmp_path):
    run_code_of(exported(run_directory, tmp_path / "model") / "card.md")


@pytest.mark.parametrize("flags", [(), ("--pair-column", "second")])
def test_the_code_on_the_card_of_a_student_with_ngrams_runs(tmp_path, flags):
    rows = [f"{WORDS[n % 10]},{WORDS[n % 7]},{'yes' if n % 2 else 'no'}" for n in range(40)]
    ngrams = ("--ngram-size", "4", "--ngram-buckets", "64")
    student = train_small(tmp_path, ["text,second,label", *rows], *flags, *ngrams, name="student")
    assert "hash_ngrams" in run_code_of(exported(student, tmp_path / "model") / "card.md")


def test_nothing_is_overwritten_and_an_empty_directory_is_filled(student, tmp_path, monkeypatch, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    assert potstill("export", student, "--out", tmp_path / "model") == 1
    assert "not empty" in capsys.readouterr().err
    assert names(tmp_path / "model") == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    Classifier.load(exported(student, tmp_path / "empty"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert potstill("export", student, "--out", ".") == 1
    assert "name a new directory with --out, such as model" in capsys.readouterr().err


def test_a_graph_of_other_weights_is_refused_and_leaves_nothing(run_directory, tmp_path, capsys):
    mixed = shutil.copytree(run_directory / "distilled" / "seed-0", tmp_path / "mixed")
    shutil.copy(run_directory / "distilled" / "seed-1" / "model.onnx", mixed)
    with_new_checksums(mixed)
    assert potstill("export", mixed, "--out", tmp_path / "model") == 1
    assert "differs from the student" in capsys.readouterr().err
    assert names(tmp_path) == ["mixed"]


def test_a_teacher_is_refused_with_the_right_command(run_directory, tmp_path, capsys):
    assert potstill("export", run_directory / "teacher" / "seed-0", "--out", tmp_path / "model") == 1
    assert "potstill merge" in capsys.readouterr().err


def test_damaged_weights_and_manifests_are_refused_by_name(student, tmp_path):
    model = shutil.copytree(student, tmp_path / "model")
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"model\.safetensors was altered"):
        load_network(model)
    (model / "model.safetensors").write_bytes(weights)
    manifest = json.loads((model / "student.json").read_text())
    for change, message in (({"hidden_size": 9}, "wrong shape"), ({"cell": "abacus"}, "expected a kind of student")):
        content = manifest | {"spec": manifest["spec"] | change}
        (model / "student.json").write_text(json.dumps(content))
        with_new_checksums(model)
        with pytest.raises(ArtifactError, match=message):
            load_network(model)


def test_an_altered_summary_is_refused(run_directory, tmp_path, capsys):
    altered = shutil.copytree(run_directory, tmp_path / "run")
    summary = altered / "summary.json"
    summary.write_text(summary.read_text().replace('"mcc": ', '"mcc": 0', 1))
    assert potstill("export", altered, "--out", tmp_path / "model") == 1
    assert "summary.json was altered" in capsys.readouterr().err


def test_a_student_that_is_saved_again_meanwhile_is_refused(student, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(student, tmp_path / "student")

    def saved_again(directory):
        if directory == copy:
            with atomic_save(copy) as staged:
                (staged / "more").touch()
        return load_network(directory)

    monkeypatch.setattr(bundle, "load_network", saved_again)
    assert potstill("export", copy, "--out", tmp_path / "model") == 1
    assert "was saved again while it was read" in capsys.readouterr().err
    assert names(tmp_path) == ["student"]
