"""Unlabelled sets built with a tiny backbone: what is kept, what is left out, and resumption."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import potstill
from commandline import potstill as command
from potstill.augment import sampling
from potstill.augment.build import build_unlabelled_set
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig
from potstill.data import Corpus, Examples
from potstill.errors import ArtifactError, ConfigError, DataError, MemoryUsedUpError, PotstillError
from potstill.evaluation import compute_metrics
from potstill.experiment.labelled import check_teacher, label
from potstill.experiment.saved import load_teacher
from potstill.predict.directory import UNLABELLED_FILE
from potstill.teacher.transformer import TransformerTeacher

pytestmark = pytest.mark.usefixtures("no_plots")

TRAIN = tuple(f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(1, 33))
HELD_OUT = ("w40 w41 w42 w43 w44 w45 w46 w47 w48 w49", "w50 w51")
SMALL = {"embedding_size": 4, "hidden_size": 4, "vocab_size": 300, "training": {"epochs": 1}, "seeds": [0]}


@pytest.fixture
def corpus():
    labels = np.arange(len(TRAIN)) % 2
    validation, test = (Examples((text,), np.array([0])) for text in HELD_OUT)
    return Corpus("tiny", "here", ("w1", "w2"), Examples(TRAIN, labels), validation, test)


@pytest.fixture
def settings(model_directory):
    def build_settings(**augment):
        return PotstillConfig.build(
            {
                "teacher": {"backbone": str(model_directory("gpt2"))},
                "augment": {"training": {"epochs": 1}} | augment,
                "runtime": {"device": "cpu", "precision": "32-true", "workers": 2},
            }
        )

    return build_settings


def written(monkeypatch, write):
    """Replace what the language model writes: a function of prompt, count and seed."""
    monkeypatch.setattr(
        sampling.LanguageModel, "sample", lambda _, prompt, count, *, seed, **__: iter(write(prompt, count, seed))
    )


def test_files_are_read_and_held_out_or_known_texts_left_out(corpus, settings, tmp_path):
    plain, table, tabbed = tmp_path / "more.txt", tmp_path / "more.csv", tmp_path / "more.TSV"
    near = HELD_OUT[0].replace("w49", "w59")
    plain.write_text("\n".join(["something new", TRAIN[3], HELD_OUT[1].upper(), near, "", "something new"]))
    table.write_text('text,label\n"a text, with a comma",whatever\n')
    tabbed.write_text('text\tother\na "quoted" text\tx\n')
    config = settings(files=[str(plain), str(table), str(tabbed)])
    built = build_unlabelled_set(config, corpus, tmp_path / "set")
    assert dict(zip(built.texts, built.sources, strict=True)) == {
        "something new": "file:more.txt",
        "a text, with a comma": "file:more.csv",
        'a "quoted" text': "file:more.TSV",
    }
    assert built.dropped == {"held-out": 2, "repeated": 2}
    assert {path.name for path in (tmp_path / "set").iterdir()} == {UNLABELLED_FILE}


def test_similarity_to_held_out_texts_is_a_setting(corpus, settings, tmp_path):
    file = tmp_path / "more.txt"
    file.write_text("w40 w41 w42 w43 w44 w45 w46 w47 other words\nsomething new")
    for similarity, expected in ((0.7, 1), (0.9, 2)):
        config = settings(files=[str(file)], similarity=similarity)
        assert len(build_unlabelled_set(config, corpus, tmp_path / str(similarity))) == expected


def test_empty_set_is_refused(corpus, settings, tmp_path):
    file = tmp_path / "more.txt"
    file.write_text(f"{TRAIN[0]}\n{HELD_OUT[0]}\n")
    config = settings(files=[str(file)])
    with pytest.raises(
        ConfigError, match=r"found none \(left out: 1 similar to a validation or test text, 1 duplicates\)"
    ):
        build_unlabelled_set(config, corpus, tmp_path / "set")
    file.write_text("something new\n")
    assert len(build_unlabelled_set(config, corpus, tmp_path / "set")) == 1


def test_set_for_other_data_and_teacher_of_other_classes_are_refused(corpus, settings, tmp_path):
    config = settings(perturbed=3)
    built = build_unlabelled_set(config, corpus, tmp_path / "set")
    teacher = TransformerTeacher.create(config.teacher, config.runtime, corpus, 32, 0)
    check_teacher(corpus, teacher, built)
    with pytest.raises(ArtifactError, match="decontaminated against other texts"):
        check_teacher(replace(corpus, validation=corpus.train), teacher, built)
    with pytest.raises(ArtifactError, match="expected a teacher of the classes"):
        potstill.unlabelled_set(config, replace(corpus, label_names=("a", "b")), teacher, tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_broken_file_is_named_with_its_line(corpus, settings, tmp_path):
    broken = tmp_path / "more.jsonl"
    broken.write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(DataError, match=r"more\.jsonl:2"):
        build_unlabelled_set(settings(files=[str(broken)]), corpus, tmp_path / "set")
    with pytest.raises(DataError, match="nowhere"):
        build_unlabelled_set(settings(files=[str(tmp_path / "nowhere.txt")]), corpus, tmp_path / "set")


def perturbed_texts(built):
    return tuple(t for t, source in zip(built.texts, built.sources, strict=True) if source.startswith("perturbed:"))


def test_sampled_and_perturbed_texts_are_new_and_distinct(corpus, settings, tmp_path):
    built = build_unlabelled_set(settings(sampled=20, perturbed=12), corpus, tmp_path / "set")
    assert built.counts["perturbed"] == 12
    assert 0 < built.counts["sampled"] <= 20
    assert {source for source in built.sources if source.startswith("sampled")} == {"sampled:w1", "sampled:w2"}
    assert not set(built.texts) & {*TRAIN, *HELD_OUT}
    assert len(set(built.texts)) == len(built)
    other = build_unlabelled_set(settings(perturbed=12, seed=1), corpus, tmp_path / "other")
    assert other.texts != perturbed_texts(built)


def test_held_out_texts_are_not_perturbed(corpus, settings, tmp_path):
    file = tmp_path / "more.txt"
    file.write_text("\n".join([HELD_OUT[0], "w55 w56 w57 w58"]))
    built = build_unlabelled_set(settings(files=[str(file)], perturbed=300), corpus, tmp_path / "set")
    words = {word for text in perturbed_texts(built) for word in text.split()}
    assert built.counts == {"file": 1, "perturbed": 300}
    assert "w55" in words
    assert not words & set(HELD_OUT[0].split())


def test_interrupted_sampling_is_resumed(corpus, settings, tmp_path, monkeypatch):
    """Saved batches are not drawn again, the model is not tuned again, and the set is the same."""
    monkeypatch.setattr(sampling, "BATCH", 8)
    config = settings(sampled=30)
    whole = build_unlabelled_set(config, corpus, tmp_path / "whole")
    write, paths = sampling.write_arrays, []

    def interrupted(path, arrays):
        if len(paths) == 3:  # the language model and two batches
            raise KeyboardInterrupt
        paths.append(path)
        write(path, arrays)

    monkeypatch.setattr(sampling, "write_arrays", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_unlabelled_set(config, corpus, tmp_path / "set")
    monkeypatch.setattr(sampling, "write_arrays", write)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "set" / "sampled").iterdir()}
    assert len(kept) == 2
    seen = []
    monkeypatch.setattr(sampling.LanguageModel, "tune", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr(
        "potstill.augment.build.clear_samples", lambda _: seen.extend({p: p.stat().st_mtime_ns for p in kept}.items())
    )
    assert build_unlabelled_set(config, corpus, tmp_path / "set") == whole
    assert dict(seen) == kept


@pytest.mark.parametrize("damaged", ["language-model", "sampled/000000"])
def test_damaged_samples_are_made_again(corpus, settings, tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(sampling, "BATCH", 8)
    config = settings(sampled=30)
    whole = build_unlabelled_set(config, corpus, tmp_path / "whole")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("potstill.augment.build.near_duplicates", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_unlabelled_set(config, corpus, tmp_path / "set")
    path = tmp_path / "set" / damaged
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert build_unlabelled_set(config, corpus, tmp_path / "set") == whole


def test_two_workers_sample_the_same_texts_as_one(corpus, settings, tmp_path, monkeypatch):
    config = settings(sampled=30)
    alone = build_unlabelled_set(config, corpus, tmp_path / "alone")
    monkeypatch.setattr(sampling, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(sampling.LanguageModel, "sample", None)  # the workers have their own
    assert build_unlabelled_set(config, corpus, tmp_path / "shared") == alone


def test_settings_and_class_in_turn_reach_the_language_model(corpus, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "BATCH", 8)
    asked, seeds = [], []

    def write(self, prompt, count, *, temperature, top_p, seed):
        asked.append((prompt, temperature, top_p))
        seeds.append(seed)
        return iter([f"{prompt} {len(asked)} {number}" for number in range(count)])

    monkeypatch.setattr(sampling.LanguageModel, "sample", write)
    for seed in (0, 1):
        config = settings(sampled=24, temperature=0.7, top_p=0.8, seed=seed)
        built = build_unlabelled_set(config, corpus, tmp_path / str(seed))
    assert asked[:3] == [("w1", 0.7, 0.8), ("w2", 0.7, 0.8), ("w1", 0.7, 0.8)]
    assert len(set(seeds)) == len(seeds)
    assert {(text.split()[0], source) for text, source in zip(built.texts, built.sources, strict=True)} == {
        ("w1", "sampled:w1"),
        ("w2", "sampled:w2"),
    }


@pytest.mark.parametrize(("classes", "wanted"), [(2, 301), (2, 20), (5, 3), (40, 200)])
def test_all_classes_get_equally_many_sampled_texts(classes, wanted, corpus, settings, tmp_path, monkeypatch, capsys):
    """Though fewer texts of some classes end in time, and training texts are repeated."""
    monkeypatch.setattr(sampling, "BATCH", 64)
    asked = []

    def write(prompt, count, seed):
        asked.append(count)
        finished = count if prompt == "c0" else count // 3
        return [TRAIN[0], *(f"{prompt} {len(asked)} {number}" for number in range(finished))]

    written(monkeypatch, write)
    corpus = replace(corpus, label_names=tuple(f"c{number}" for number in range(classes)))
    built = build_unlabelled_set(settings(sampled=wanted), corpus, tmp_path / "set")
    shares = Counter(built.sources)
    assert shares.total() == wanted
    assert set(shares.values()) <= {wanted // classes, -(-wanted // classes)}
    assert sum(asked) <= 4 * max(wanted, 32 * len(shares))
    assert "hardly writes" not in capsys.readouterr().err


def test_class_without_new_texts_leaves_the_others_their_share(corpus, settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "BATCH", 8)
    written(
        monkeypatch,
        lambda prompt, count, seed: [f"{prompt} {seed if prompt == 'w1' else ''} {n}" for n in range(count)],
    )
    built = build_unlabelled_set(settings(sampled=50), corpus, tmp_path / "set")
    assert Counter(built.sources) == {"sampled:w1": 25, "sampled:w2": 8}  # one batch's
    assert "33 of 50 texts sampled" in capsys.readouterr().err


def test_used_up_memory_is_explained(corpus, settings, tmp_path, monkeypatch):
    def used_up(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    written(monkeypatch, used_up)
    with pytest.raises(MemoryUsedUpError, match=r"while 32 texts of up to \d+ tokens are sampled at once .*\n.*lower"):
        build_unlabelled_set(settings(sampled=50), corpus, tmp_path / "set")


def test_pairs_can_be_sampled_but_not_perturbed(corpus, settings, tmp_path, monkeypatch):
    train, validation = (Examples(part.texts, part.labels, part.texts) for part in (corpus.train, corpus.validation))
    corpus = Corpus("tiny", "here", ("w1", "w2"), train, validation, validation)
    written(monkeypatch, lambda *_: ["a\nb", "only one", "a\nb\nc", " \nb", "c\n d "])
    built = build_unlabelled_set(settings(sampled=2), corpus, tmp_path / "set")
    assert list(zip(built.texts, built.pairs, strict=True)) == [("a", "b"), ("c", "d")]
    with pytest.raises(ConfigError, match=r"augment\.perturbed"):
        build_unlabelled_set(settings(perturbed=2), corpus, tmp_path / "other")


def test_augment_command_labels_and_distill_uses_the_set(tiny_backbone, tmp_path, capsys):
    data = ("builtin", "--max-train-examples", "60")
    assert command("finetune", *data, "--backbone", tiny_backbone, "--epochs", "1", "--out", tmp_path / "t") == 0
    build_it = ("augment", *data, "--perturbed", "25", "--teacher", tmp_path / "t", "--out", tmp_path / "set")
    assert command(*build_it) == 0
    assert UnlabelledSet.load(tmp_path / "set").logits.shape == (25, 2)
    assert command(*build_it) == 0  # nothing is left to do
    capsys.readouterr()
    assert command(*build_it, "--perturbed", "26") == 1
    assert "begun with other settings" in capsys.readouterr().err
    small = ("--embedding-size", "4", "--hidden-size", "4", "--vocab-size", "300", "--epochs", "1", "--seeds", "0")
    models = ("--teacher", tmp_path / "t", "--unlabelled-set", tmp_path / "set", "--out", tmp_path / "s")
    assert command("distill", *data, *small, *models) == 0
    assert command("predict", tmp_path / "s", "--text", "The cat sat.") == 0


def test_run_with_every_source_of_knowledge(tiny_backbone, tmp_path):
    student = {"pooling": "mean", "pretraining": {"epochs": 1}, "threshold": "tuned"}
    config = PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 60},
            "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}, "seeds": [0, 1]},
            "augment": {"perturbed": 30, "words": 12, "spans": 6},
            "student": SMALL | student | {"training": {"epochs": 1, "class_weights": "balanced"}},
            "distillation": {"teachers": "average", "loss": "mse"},
            "baseline": {"epochs": 2},
        }
    )
    summary, directory = potstill.run(config, tmp_path / "run")
    assert summary.unlabelled["perturbed"] == 30
    kept = UnlabelledSet.load(directory / "unlabelled")
    assert kept.logits.shape == (len(kept), 2)
    assert summary.unlabelled["words"] == kept.sources.count("words:") > 0
    assert summary.unlabelled["spans"] == kept.sources.count("spans:") > 0
    report = (directory / "report.md").read_text()
    assert "single words" in report
    assert "spans of the training texts" in report
    (epoch,) = summary.of("distilled")[0].history
    assert {"train_ce", "train_mse", "validation_mse"} <= epoch.keys()
    assert (directory / "distilled" / "seed-0" / "pretraining.jsonl").is_file()
    assert not (directory / "baseline" / "seed-0" / "pretraining.jsonl").exists()
    corpus = potstill.load_corpus(config.data)
    averaged = load_teacher(directory, config)[0].logits(corpus.test).argmax(axis=1)
    assert summary.ensemble.metrics == compute_metrics(corpus.test.labels, averaged, corpus.num_classes)


def test_pairs_of_texts_get_no_words_and_spans(tiny_backbone, tmp_path):
    rows = [f"the {noun} was {word},so {word},{word}" for noun in "abcdefgh" for word in ("fine", "bad")]
    (tmp_path / "data.csv").write_text("\n".join(["text,second,label", *rows * 2]))
    config = PotstillConfig.build(
        {
            "data": {"source": str(tmp_path / "data.csv"), "pair_column": "second"},
            "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}},
            "augment": {"words": 12, "spans": 6},
            "student": SMALL,
        }
    )
    summary, directory = potstill.run(config, tmp_path / "run")
    assert summary.unlabelled is None
    assert not (directory / "unlabelled").exists()


def test_logits_in_the_set_are_used_if_they_are_the_teachers(tiny_backbone, tmp_path, monkeypatch):
    values = {"data": {"source": "builtin", "max_train_examples": 60}, "teacher": {"backbone": str(tiny_backbone)}}
    config = PotstillConfig.build(values | {"augment": {"perturbed": 10}})
    corpus = potstill.load_corpus(config.data)
    first, second = (TransformerTeacher.create(config.teacher, config.runtime, corpus, 128, seed) for seed in (0, 1))
    built = potstill.unlabelled_set(config, corpus, first, tmp_path / "set")
    marked = built.labelled(built.logits + 1, first.key)
    assert np.array_equal(label(config, corpus, first, marked).logits[-10:], marked.logits)
    np.testing.assert_allclose(label(config, corpus, second, marked).logits[-10:], second.logits(built.examples))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"augment": {"files": ["nowhere.txt"]}}, "expected a file of texts"),
        ({"augment": {"files": ["here.parquet"]}}, r"it can.t be read as Parquet"),
        ({"augment": {"files": ["here.csv"]}}, "expected one column 'text', found"),
        ({"augment": {"perturbed": 5}, "distillation": {"alpha": 1.0}}, "ignores the teacher"),
        ({"student": {"embedding_init": "teacher", "embedding_size": 99}}, "embedding_size: expected at most 16,"),
        ({"augment": {"sampled": 5}, "teacher": {"backbone": "bert"}}, "expected a decoder"),
        (
            {"augment": {"sampled": 5, "lora": {"target_modules": ["nowhere"]}}},
            r"augment\.lora\.target_modules: 'nowhere' matches",
        ),
    ],
)
def test_run_refuses_before_anything_is_tuned(settings, complaint, model_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.parquet").touch()
    (tmp_path / "here.csv").write_text("sentence\nA cat sat.\n")
    teacher = settings.get("teacher", {})
    teacher = teacher | {"backbone": str(model_directory(teacher.get("backbone", "gpt2")))}
    data = {"source": "builtin", "max_train_examples": 60}
    config = PotstillConfig.build({"data": data} | settings | {"teacher": teacher})
    with pytest.raises(PotstillError, match=complaint):
        potstill.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
