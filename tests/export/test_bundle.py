"""What `potstill export` hands on: it answers as the student does, alone, and says what it is."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

from commandline import potstill
from potstill.errors import ArtifactError
from potstill.evaluation import EnsembleResult, Summary
from potstill.export import bundle, int8
from potstill.models import TrainingRecord
from potstill.runtime import Classifier
from potstill.runtime.directory import Manifest, StudentFiles
from potstill.runtime.seal import read, sealing, verify
from potstill.student import saved
from potstill.student.saved import load_network
from potstill.tokens import encode
from resealed import reseal

TINY = """
data: {{source: {data}}}
teacher: {{backbone: {backbone}, training: {{epochs: 1}}}}
student: {{embedding_size: 64, hidden_size: 64, vocab_size: 300, training: {{epochs: 1}}, seeds: [0, 1]}}
"""
WORDS = ["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9", "w10"]
ROWS = [f"{WORDS[n % 10]} {WORDS[n % 7]} {WORDS[n % 3]},{'yes' if n % 2 else 'no'}" for n in range(120)]
TEXTS = [*(row.partition(",")[0] for row in ROWS[:30]), "", "naïve 漢字 🙂", " ".join(WORDS * 30)]


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory, tiny_backbone):
    place = tmp_path_factory.mktemp("run")
    (place / "reviews.csv").write_text("\n".join(["text,label", *ROWS]))
    (place / "tiny.yaml").write_text(TINY.format(backbone=tiny_backbone, data=place / "reviews.csv"))
    assert potstill("run", "--config", place / "tiny.yaml", "--out", place / "run") == 0
    return place / "run"


@pytest.fixture
def student(run_directory):
    """The distilled student that is best in selection."""
    seeds = sorted((run_directory / "distilled").iterdir())
    return max(seeds, key=lambda seed: TrainingRecord.load(seed).best["mcc"])


@pytest.fixture(autouse=True)
def equally_fast(monkeypatch):
    """No outcome may depend on how busy this machine is."""
    monkeypatch.setattr(int8, "_seconds", lambda *_: 1.0)


def exported(source, out, *flags):
    assert potstill("export", source, "--out", out, *flags) == 0
    return out


def names(directory):
    return sorted(file.name for file in directory.iterdir())


def test_a_run_is_exported_as_its_best_student_with_nothing_of_its_training(run_directory, student, tmp_path, capsys):
    model = exported(run_directory, tmp_path / "model")
    assert names(model) == [
        *("card.md", "checksums.json", "labels.json", "model.int8.onnx", "model.onnx", "student.json"),
        "tokenizer.json",
    ]
    np.testing.assert_array_equal(Classifier.load(model).logits(TEXTS), Classifier.load(student).logits(TEXTS))
    assert json.loads((model / "labels.json").read_text()) == list(Classifier.load(student).labels)
    assert set(verify(model)) == set(names(model)) - {"card.md", "checksums.json"}
    printed = capsys.readouterr().out
    assert str(student) in printed
    assert "MB against" in printed
    data = Summary.from_json((run_directory / "summary.json").read_text()).data
    assert data.selection != data.evaluation
    assert f"of the {data.selection} texts of the selection split" in printed


def test_the_commands_take_it_for_a_student(run_directory, tmp_path, capsys):
    model = exported(run_directory, tmp_path / "model")
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *ROWS[:20]]))
    capsys.readouterr()
    assert potstill("evaluate", model, "--data", tmp_path / "texts.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["metrics"]["count"] == 20
    for flags in ((), ("--int8",)):
        assert potstill("predict", model, "--text", "w1 w2", *flags) == 0
        answer = json.loads(capsys.readouterr().out)
        expected = Classifier.load(model, int8=bool(flags)).predict_proba(["w1 w2"]).max()
        assert answer["probability"] == pytest.approx(expected, abs=1e-4)


def test_the_card_tells_what_the_run_found(run_directory, student, tmp_path, tiny_backbone):
    model = exported(run_directory, tmp_path / "model")
    card = (model / "card.md").read_text()
    summary = Summary.from_json((run_directory / "summary.json").read_text())
    record = TrainingRecord.load(student)
    result = next(one for one in summary.of("distilled") if one.seed == record.seed)
    low, high = result.intervals["mcc"]
    assert f"| this model | {100 * result.metrics.accuracy:.1f} % [" in card
    assert f"{result.metrics.mcc:.3f} [{low:.3f}, {high:.3f}]" in card
    assert "| with 8 bits |" in card
    assert f"| its teacher | {100 * summary.teacher.metrics.accuracy:.1f} %" in card
    assert f"Data: reviews. {summary.data.train:,} texts to learn from" in card
    assert f"Teacher: `{tiny_backbone.name}`, tuned with LoRA of rank 8" in card
    assert "its licence is not known to Potstill" in card
    assert "The data's licence is not known to Potstill" in card
    assert str(run_directory.parent) not in card  # whoever reads it is on another machine
    assert str(tiny_backbone) not in card
    for name in set(names(model)) - {"card.md"}:
        assert f"`{name}`" in card


def test_the_card_tells_of_teachers_that_taught_together(run_directory, tmp_path):
    run = shutil.copytree(run_directory, tmp_path / "run")
    summary = Summary.from_json((run / "summary.json").read_text())
    one = summary.of("teacher")[0]
    both = (one, replace(one, seed=1))
    together = EnsembleResult(one.metrics, one.intervals, one.calibration)
    summary = replace(summary, models=(*both, *summary.of("distilled"), *summary.of("baseline")), ensemble=together)
    (run / "summary.json").write_text(summary.to_json())
    reseal(run)
    card = (exported(run, tmp_path / "model") / "card.md").read_text()
    assert "2 of them with their probabilities averaged" in card
    assert "| its teachers, averaged |" in card


def test_a_baseline_has_no_teacher_to_tell_of(run_directory, tmp_path):
    card = (exported(run_directory / "baseline" / "seed-1", tmp_path / "model") / "card.md").read_text()
    assert "Teacher: none" in card
    assert "its teacher" not in card
    assert "seed 1" in card


def test_the_card_may_be_written_on(run_directory, tmp_path):
    model = exported(run_directory, tmp_path / "model")
    (model / "card.md").write_text("ours")
    Classifier.load(model)


def test_without_its_data_it_is_exported_as_the_run_measured_it(run_directory, tmp_path, capsys):
    moved = shutil.copytree(run_directory, tmp_path / "run")
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["data"]["source"] = str(tmp_path / "gone.csv")
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    model = exported(moved, tmp_path / "model")
    assert "model.int8.onnx" not in names(model)
    assert "no 8-bit variant: its data can't be read" in capsys.readouterr().out
    card = (model / "card.md").read_text()
    assert "| this model |" in card
    assert "not tried; its data can't be read" in card


def test_data_that_has_changed_is_not_measured_on(run_directory, tmp_path):
    """Split anew, it may hold texts out that the student has learnt from."""
    place = shutil.copytree(run_directory.parent, tmp_path / "place")
    run, data = place / "run", tmp_path / "place" / "reviews.csv"
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(run_directory.parent / "reviews.csv"), str(data)))
    reseal(run)
    assert "that neither training nor any choice has seen" in (exported(run, tmp_path / "same") / "card.md").read_text()
    data.write_text("\n".join(["text,label", *sorted(ROWS)]))
    card = (exported(run, tmp_path / "changed") / "card.md").read_text()
    assert "its data has changed since it was trained" in card


def test_alone_it_says_that_nothing_is_known(student, tmp_path):
    alone = shutil.copytree(student, tmp_path / "alone")
    card = (exported(alone, tmp_path / "model") / "card.md").read_text()
    assert "None on text that decided nothing: there are no settings beside the student" in card
    assert "potstill evaluate" in card
    assert "Data and teacher: not known" in card


@pytest.mark.parametrize("layout", ["torch", "huggingface"])
def test_the_weights_compute_the_same(layout, run_directory, student, tmp_path):
    model = exported(run_directory, tmp_path / "model", "--format", layout)
    assert "model.onnx" not in names(model)
    assert "training.json" not in names(model)
    manifest = Manifest.load(StudentFiles(model).manifest)
    classifier = Classifier.load(student)
    ids = encode(classifier._encoder.tokenizer, TEXTS, None, manifest.max_tokens, empty_id=manifest.spec["padding_id"])
    network = load_network(model)
    assert not network.training
    for sequence, expected in zip(ids, classifier.logits(TEXTS), strict=True):
        found = network(torch.tensor([sequence]), torch.ones(1, len(sequence), dtype=torch.bool))
        np.testing.assert_allclose(found[0].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("layout", ["torch", "huggingface"])
def test_weights_alone_are_not_taken_for_damaged(layout, run_directory, tmp_path, capsys):
    model = exported(run_directory, tmp_path / "model", "--format", layout)
    assert potstill("predict", model, "--text", "Is it so?") == 1
    assert "exported to train on: expected model.onnx to predict with" in capsys.readouterr().err


def test_the_hub_layout_holds_what_transformers_reads(run_directory, student, tmp_path):
    model = exported(run_directory, tmp_path / "model", "--format", "huggingface")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= {
        *names(model)
    }
    classifier = Classifier.load(student)
    manifest = Manifest.load(StudentFiles(model).manifest)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    texts = [text for text in TEXTS if text]
    found = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    expected = encode(classifier._encoder.tokenizer, texts, None, manifest.max_tokens, empty_id=0)
    assert [
        row[mask.bool()].tolist() for row, mask in zip(found.input_ids, found.attention_mask, strict=True)
    ] == expected
    assert max(map(len, expected)) == manifest.max_tokens
    logits = load_network(model)(found.input_ids, found.attention_mask.bool()).detach().numpy()
    np.testing.assert_allclose(logits, classifier.logits(texts), atol=1e-5)
    config = json.loads((model / "config.json").read_text())
    assert list(config["id2label"].values()) == list(classifier.labels)
    _, front_matter, _ = (model / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front_matter)["pipeline_tag"] == "text-classification"


def test_the_code_on_the_card_runs(run_directory, tmp_path):
    for layout, card in (("onnx", "card.md"), ("torch", "card.md"), ("huggingface", "README.md")):
        model = exported(run_directory, tmp_path / layout, "--format", layout)
        code = (model / card).read_text().split("```python\n")[1].split("```")[0]
        exec(compile(code.replace('"DIRECTORY', f'"{model}'), card, "exec"), {})


def test_pairs(tmp_path):
    rows = [f"{WORDS[n % 10]},{WORDS[n % 7]},{'yes' if n % 2 else 'no'}" for n in range(40)]
    (tmp_path / "data.csv").write_text("\n".join(["text,second,label", *rows]))
    small = ("--embedding-size", "4", "--hidden-size", "4", "--vocab-size", "300", "--epochs", "1", "--seeds", "0")
    train = ("train", "--data", tmp_path / "data.csv", "--pair-column", "second", *small)
    assert potstill(*train, "--out", tmp_path / "student") == 0
    model = exported(tmp_path / "student", tmp_path / "model")
    pairs = [("w1 w2", "w3"), ("w4", "w5 w6")]
    np.testing.assert_array_equal(
        Classifier.load(model).logits(pairs), Classifier.load(tmp_path / "student").logits(pairs)
    )
    assert "a classifier of pairs of texts" in (model / "card.md").read_text()


def test_nothing_is_overwritten(run_directory, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    assert potstill("export", run_directory, "--out", tmp_path / "model") == 1
    assert "not empty" in capsys.readouterr().err
    assert names(tmp_path / "model") == ["mine.txt"]


def test_an_empty_directory_is_filled(run_directory, tmp_path):
    (tmp_path / "model").mkdir()
    Classifier.load(exported(run_directory, tmp_path / "model"))


def test_a_graph_of_other_weights_is_refused_and_leaves_nothing(run_directory, tmp_path, capsys):
    mixed = shutil.copytree(run_directory / "distilled" / "seed-0", tmp_path / "mixed")
    shutil.copy(run_directory / "distilled" / "seed-1" / "model.onnx", mixed)
    reseal(mixed)
    for layout in ("onnx", "torch"):
        assert potstill("export", mixed, "--out", tmp_path / "model", "--format", layout) == 1
        assert "differs from the student" in capsys.readouterr().err
    assert names(tmp_path) == ["mixed"]


def test_a_teacher_is_sent_to_merge(run_directory, tmp_path, capsys):
    assert potstill("export", run_directory / "teacher" / "seed-0", "--out", tmp_path / "model") == 1
    assert "potstill merge" in capsys.readouterr().err


def test_a_teacher_has_no_8_bit_variant(run_directory, capsys):
    assert potstill("predict", run_directory / "teacher" / "seed-0", "--text", "w1", "--int8") == 2
    assert "--int8 goes with students" in capsys.readouterr().err


def test_without_int8_none_is_tried(run_directory, tmp_path):
    model = exported(run_directory, tmp_path / "model", "--no-int8")
    assert "model.int8.onnx" not in names(model)
    assert "8 bits" not in (model / "card.md").read_text()
    with pytest.raises(ArtifactError, match="holds no 8-bit variant"):
        Classifier.load(model, int8=True)


def test_altered_weights_are_refused_by_name(run_directory, tmp_path):
    model = exported(run_directory, tmp_path / "model", "--format", "torch")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(ArtifactError, match=r"model\.safetensors was altered"):
        load_network(model)


def test_what_was_compared_is_what_is_loaded(run_directory, tmp_path, monkeypatch):
    model = exported(run_directory, tmp_path / "model", "--format", "torch")

    def altered_then(*arguments):
        found = read(*arguments)
        (model / "model.safetensors").write_bytes(b"")
        return found

    monkeypatch.setattr(saved, "read", altered_then)
    assert load_network(model).spec.hidden_size == 64


def test_a_manifest_of_another_shape_is_refused(run_directory, tmp_path):
    model = exported(run_directory, tmp_path / "model", "--format", "torch")
    manifest = json.loads((model / "student.json").read_text())
    for change, message in (({"hidden_size": 65}, "wrong shape"), ({"cell": "abacus"}, "expected a student's shape")):
        content = manifest | {"spec": manifest["spec"] | change}
        (model / "student.json").write_text(json.dumps(content))
        reseal(model)
        with pytest.raises(ArtifactError, match=message):
            load_network(model)


def test_a_summary_that_was_altered_is_not_told_of(run_directory, tmp_path, capsys):
    altered = shutil.copytree(run_directory, tmp_path / "run")
    summary = altered / "summary.json"
    summary.write_text(summary.read_text().replace('"mcc": ', '"mcc": 0', 1))
    assert potstill("export", altered, "--out", tmp_path / "model") == 1
    assert "summary.json was altered" in capsys.readouterr().err


def test_the_working_directory_can_not_be_written_as_a_whole(student, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert potstill("export", student, "--out", ".") == 1
    assert "name a new directory with --out, such as model" in capsys.readouterr().err


def test_a_student_that_is_saved_again_meanwhile_is_not_mixed(student, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(student, tmp_path / "student")

    def saved_again(directory):
        if directory == copy:
            with sealing(copy) as staged:
                (staged / "more").touch()
        return load_network(directory)

    monkeypatch.setattr(bundle, "load_network", saved_again)
    assert potstill("export", copy, "--out", tmp_path / "model") == 1
    assert "was saved again while it was read" in capsys.readouterr().err
    assert names(tmp_path) == ["student"]
