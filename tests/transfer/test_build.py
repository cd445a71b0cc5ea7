"""Whole transfer sets, with a tiny backbone: what goes in, what stays out, and going on after an interruption."""

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import potstill
from commandline import potstill as command
from potstill import pipeline
from potstill.config import DistillationConfig, PotstillConfig
from potstill.data import Corpus, Examples
from potstill.distillation.teacher_logits import judgement
from potstill.errors import ArtifactError, ConfigError, DataError, MemoryUsedUpError, PotstillError
from potstill.evaluation import compute_metrics
from potstill.models import load_teachers
from potstill.runtime.directory import TRANSFER_FILE
from potstill.teacher import Teacher
from potstill.training.workers import workers
from potstill.transfer import build
from potstill.transfer.build import build_transfer_set
from potstill.transfer.sets import TransferSet

TRAIN = tuple(f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(1, 33))
HELD_OUT = ("w40 w41 w42 w43 w44 w45 w46 w47 w48 w49", "w50 w51")


@pytest.fixture
def corpus():
    labels = np.arange(len(TRAIN)) % 2
    selection, evaluation = (Examples((text,), np.array([0])) for text in HELD_OUT)
    return Corpus("tiny", "here", ("w1", "w2"), Examples(TRAIN, labels), selection, evaluation)


@pytest.fixture
def settings(model_directory, monkeypatch):
    monkeypatch.setattr(build, "BATCH", 8)

    def build_settings(**transfer):
        return PotstillConfig.build(
            {
                "teacher": {"backbone": str(model_directory("gpt2"))},
                "transfer": {"training": {"epochs": 1}} | transfer,
                "runtime": {"device": "cpu", "precision": "32-true"},
            }
        )

    return build_settings


def test_files_are_read_and_what_is_held_out_or_known_is_left_out(corpus, settings, tmp_path):
    plain, table = tmp_path / "more.txt", tmp_path / "more.csv"
    near = HELD_OUT[0].replace("w49", "w59")
    plain.write_text("\n".join(["something new", TRAIN[3], HELD_OUT[1].upper(), near, "", "something new"]))
    table.write_text('text,label\n"a text, with a comma",whatever\n')
    tabbed = tmp_path / "more.TSV"
    tabbed.write_text('text\tother\na "quoted" text\tx\n')
    config = settings(files=[str(plain), str(table), str(tabbed)])
    built = build_transfer_set(config, corpus, tmp_path / "set")
    assert dict(zip(built.texts, built.sources, strict=True)) == {
        "something new": "file:more.txt",
        "a text, with a comma": "file:more.csv",
        'a "quoted" text': "file:more.TSV",
    }
    assert built.dropped == {"held-out": 2, "repeated": 2}
    assert {path.name for path in (tmp_path / "set").iterdir()} == {TRANSFER_FILE}


def test_how_like_a_held_out_text_may_be_is_a_setting(corpus, settings, tmp_path):
    file = tmp_path / "more.txt"
    file.write_text("w40 w41 w42 w43 w44 w45 w46 w47 other words\nsomething new")
    for similarity, expected in ((0.7, 1), (0.9, 2)):
        config = settings(files=[str(file)], similarity=similarity)
        assert len(build_transfer_set(config, corpus, tmp_path / str(similarity))) == expected


def test_a_set_of_which_nothing_is_left_is_refused(corpus, settings, tmp_path):
    file = tmp_path / "more.txt"
    file.write_text(f"{TRAIN[0]}\n{HELD_OUT[0]}\n")
    config = settings(files=[str(file)])
    with pytest.raises(ConfigError, match=r"found none, only 1 that were there already and 1 like a text"):
        build_transfer_set(config, corpus, tmp_path / "set")
    file.write_text("something new\n")
    assert len(build_transfer_set(config, corpus, tmp_path / "set")) == 1


def test_a_set_for_other_data_is_refused(corpus, settings, tmp_path):
    file = tmp_path / "more.txt"
    file.write_text("something new\n")
    config = settings(files=[str(file)])
    built = build_transfer_set(config, corpus, tmp_path / "set")
    assert TransferSet.load(tmp_path / "set").held_out == built.held_out
    teacher = Teacher.create(config.teacher, config.runtime, corpus, 32, 0)
    pipeline.check_teachers(corpus, [teacher], built)
    other = replace(corpus, selection=corpus.train)
    with pytest.raises(ArtifactError, match="freed of other texts"):
        pipeline.check_teachers(other, [teacher], built)
    stranger = replace(corpus, label_names=("good", "bad"))
    with pytest.raises(ArtifactError, match="expected a teacher of the classes"):
        pipeline.transfer_set(config, stranger, teacher, tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_a_broken_file_is_named(corpus, settings, tmp_path):
    broken = tmp_path / "more.jsonl"
    broken.write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(DataError, match=r"more\.jsonl:2"):
        build_transfer_set(settings(files=[str(broken)]), corpus, tmp_path / "set")
    with pytest.raises(DataError, match="nowhere"):
        build_transfer_set(settings(files=[str(tmp_path / "nowhere.txt")]), corpus, tmp_path / "set")


def test_all_kinds_together(corpus, settings, tmp_path):
    built = build_transfer_set(settings(sampled=20, perturbed=12), corpus, tmp_path / "set")
    assert built.counts["perturbed"] == 12
    assert 0 < built.counts["sampled"] <= 20
    assert {source for source in built.sources if source.startswith("sampled")} == {"sampled:w1", "sampled:w2"}
    assert not set(built.texts) & {*TRAIN, *HELD_OUT}
    assert len(set(built.texts)) == len(built)


def test_the_seed_decides_what_is_perturbed(corpus, settings, tmp_path):
    one, other = (
        build_transfer_set(settings(perturbed=12, seed=seed), corpus, tmp_path / str(seed)) for seed in (0, 1)
    )
    assert one.texts != other.texts


def test_an_interrupted_sampling_is_resumed(corpus, settings, tmp_path, monkeypatch):
    """The batches that are there are not drawn again, and the set is that of an undisturbed run."""
    config = settings(sampled=30)
    whole = build_transfer_set(config, corpus, tmp_path / "whole")
    write, written = build.write_arrays, []

    def interrupted(path, arrays):
        if len(written) == 3:  # the language model and two batches
            raise KeyboardInterrupt
        written.append(path)
        write(path, arrays)

    monkeypatch.setattr(build, "write_arrays", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_transfer_set(config, corpus, tmp_path / "set")
    monkeypatch.setattr(build, "write_arrays", write)
    assert len(list((tmp_path / "set" / "sampled").iterdir())) == 2
    tuned = []
    monkeypatch.setattr(build.LanguageModel, "tune", lambda *arguments: tuned.append(arguments))
    assert build_transfer_set(config, corpus, tmp_path / "set") == whole
    assert not tuned, "the language model was tuned again"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
def test_several_processes_sample_what_one_samples(corpus, settings, tmp_path, monkeypatch):
    config = settings(sampled=30)
    alone = build_transfer_set(config, corpus, tmp_path / "alone")
    monkeypatch.setattr(build, "_WORTH_FORKING", 0)
    monkeypatch.setattr(build, "available_workers", lambda _device: 3)
    processes = []
    monkeypatch.setattr(build, "workers", lambda work, count: processes.append(count) or workers(work, count))
    assert build_transfer_set(config, corpus, tmp_path / "shared") == alone
    assert processes == [3]


@pytest.mark.parametrize("damaged", ["language-model", "sampled/000000"])
def test_what_an_interruption_left_damaged_is_made_again(corpus, settings, tmp_path, monkeypatch, damaged):
    config = settings(sampled=30)
    whole = build_transfer_set(config, corpus, tmp_path / "whole")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(build, "near", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_transfer_set(config, corpus, tmp_path / "set")
    path = tmp_path / "set" / damaged
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if damaged == "language-model":  # which is asked for where a batch is missing
        (tmp_path / "set" / "sampled" / "000001").unlink()
    assert build_transfer_set(config, corpus, tmp_path / "set") == whole


def test_each_class_is_asked_for_in_turn_by_the_settings(corpus, settings, tmp_path, monkeypatch):
    asked, seeds = [], []

    def write(self, prompt, count, *, temperature, top_p, seed):
        asked.append((prompt, temperature, top_p))
        seeds.append(seed)
        return iter([f"{prompt} {len(asked)} {number}" for number in range(count)])

    monkeypatch.setattr(build.LanguageModel, "sample", write)
    for seed in (0, 1):
        config = settings(sampled=24, temperature=0.7, top_p=0.8, seed=seed)
        built = build_transfer_set(config, corpus, tmp_path / str(seed))
    assert asked[:3] == [("w1", 0.7, 0.8), ("w2", 0.7, 0.8), ("w1", 0.7, 0.8)]
    assert len(set(seeds)) == len(seeds)
    assert {(text.split()[0], source) for text, source in zip(built.texts, built.sources, strict=True)} == {
        ("w1", "sampled:w1"),
        ("w2", "sampled:w2"),
    }


@pytest.mark.parametrize(("classes", "wanted"), [(2, 301), (2, 20), (5, 3), (40, 200)])
def test_all_classes_get_equally_many_of_the_sampled_texts(
    classes, wanted, corpus, settings, tmp_path, monkeypatch, capsys
):
    """Though of some fewer are finished, a batch would do for several of them, and training texts are repeated."""
    monkeypatch.setattr(build, "BATCH", 64)
    asked = []

    def write(self, prompt, count, **named):
        asked.append(count)
        finished = count if prompt == "c0" else count // 3
        return iter([TRAIN[0], *(f"{prompt} {len(asked)} {number}" for number in range(finished))])

    monkeypatch.setattr(build.LanguageModel, "sample", write)
    corpus = replace(corpus, label_names=tuple(f"c{number}" for number in range(classes)))
    built = build_transfer_set(settings(sampled=wanted), corpus, tmp_path / "set")
    shares = Counter(built.sources)
    assert shares.total() == wanted
    assert set(shares.values()) <= {wanted // classes, -(-wanted // classes)}
    assert sum(asked) <= 4 * max(wanted, 32 * len(shares))
    assert "hardly writes" not in capsys.readouterr().err


def test_a_class_of_which_nothing_new_comes_leaves_the_others_their_share(
    corpus, settings, tmp_path, monkeypatch, capsys
):
    def write(self, prompt, count, *, seed, **named):
        return iter([f"{prompt} {seed if prompt == 'w1' else ''} {number}" for number in range(count)])

    monkeypatch.setattr(build.LanguageModel, "sample", write)
    built = build_transfer_set(settings(sampled=50), corpus, tmp_path / "set")
    assert Counter(built.sources) == {"sampled:w1": 25, "sampled:w2": 8}  # one batch's
    assert "33 of 50 texts sampled" in capsys.readouterr().err


def test_what_is_like_a_held_out_text_is_not_perturbed(corpus, settings, tmp_path):
    file = tmp_path / "more.txt"
    file.write_text("\n".join([HELD_OUT[0], "w55 w56 w57 w58"]))
    built = build_transfer_set(settings(files=[str(file)], perturbed=300), corpus, tmp_path / "set")
    words = {word for text in built.only(["perturbed:*"]).texts for word in text.split()}
    assert built.counts == {"file": 1, "perturbed": 300}
    assert "w55" in words
    assert not words & set(HELD_OUT[0].split())


def test_a_model_that_repeats_itself_ends_the_sampling(corpus, settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build.LanguageModel, "sample", lambda *_, **__: iter(["w60 w61"] * 6))
    built = build_transfer_set(settings(sampled=50), corpus, tmp_path / "set")
    assert built.texts == ("w60 w61",)
    assert "hardly writes anything new any more: 1 of 50 texts sampled; of 24 begun 18 ended" in capsys.readouterr().err


def test_memory_that_sampling_uses_up_is_explained(corpus, settings, tmp_path, monkeypatch):
    def used_up(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(build.LanguageModel, "sample", used_up)
    with pytest.raises(MemoryUsedUpError, match=r"while 8 texts of up to \d+ tokens are sampled at once .*\n.*lower"):
        build_transfer_set(settings(sampled=50), corpus, tmp_path / "set")


def test_pairs_can_be_sampled_but_not_perturbed(corpus, settings, tmp_path, monkeypatch):
    paired = [Examples(part.texts, part.labels, part.texts) for part in (corpus.train, corpus.selection)]
    corpus = Corpus("tiny", "here", ("w1", "w2"), paired[0], paired[1], paired[1])
    lines = ["a\nb", "only one", "a\nb\nc", " \nb", "c\n d "]
    monkeypatch.setattr(build.LanguageModel, "sample", lambda *_, **__: iter(lines))
    built = build_transfer_set(settings(sampled=2), corpus, tmp_path / "set")
    assert list(zip(built.texts, built.pairs, strict=True)) == [("a", "b"), ("c", "d")]
    with pytest.raises(ConfigError, match=r"transfer\.perturbed"):
        build_transfer_set(settings(perturbed=2), corpus, tmp_path / "other")


def test_the_command_the_judgement_and_the_student(tiny_backbone, tmp_path, capsys):
    """`finetune`, `transfer`, `distill`: the set is judged once, by the teacher that is named."""
    data = ("--data", "embedded", "--limit", "60")
    assert command("finetune", *data, "--backbone", tiny_backbone, "--epochs", "1", "--out", tmp_path / "t") == 0
    build_it = ("transfer", *data, "--perturbed", "25", "--teacher", tmp_path / "t", "--out", tmp_path / "set")
    assert command(*build_it) == 0
    judged = TransferSet.load(tmp_path / "set")
    assert judged.logits.shape == (25, 2)
    capsys.readouterr()
    assert command(*build_it) == 0  # nothing is left to do
    assert "teacher's judgement" not in capsys.readouterr().err
    assert command(*build_it, "--perturbed", "26") == 1
    assert "begun with other settings" in capsys.readouterr().err
    small = ("--embedding-size", "4", "--hidden-size", "4", "--vocab-size", "300", "--epochs", "1", "--seeds", "0")
    models = ("--teacher", tmp_path / "t", "--transfer", tmp_path / "set", "--out", tmp_path / "s")
    assert command("distill", *data, *small, *models) == 0
    assert command("predict", tmp_path / "s", "--text", "The cat sat.") == 0


def test_a_run_with_all_there_is_to_learn_from(tiny_backbone, tmp_path):
    config = PotstillConfig.build(
        {
            "data": {"source": "embedded", "limit": 60},
            "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}, "seeds": [0, 1]},
            "transfer": {"perturbed": 30},
            "student": {
                "embedding_size": 4,
                "hidden_size": 4,
                "vocab_size": 300,
                "training": {"epochs": 1, "class_weights": "balanced"},
                "pooling": "attention",
                "word_dropout": 0.1,
                "pretraining": {"epochs": 1},
                "threshold": "tuned",
                "seeds": [0],
            },
            "distillation": {
                "teachers": "average",
                "judges": 1,
                "source_weights": {"perturbed:*": 0.5},
                "objective": "mse",
                "hidden_weight": 0.5,
            },
            "baseline": {"epochs": 2},
        }
    )
    summary, directory = potstill.run(config, tmp_path / "run")
    assert summary.transfer["perturbed"] == 30
    assert TransferSet.load(directory / "transfer").teacher is not None
    (epoch,) = summary.of("distilled")[0].history
    assert {"train_ce", "train_mse", "train_hidden", "selection_mse"} <= epoch.keys()
    assert (directory / "distilled" / "seed-0" / "pretraining.jsonl").is_file()
    assert not (directory / "baseline" / "seed-0" / "pretraining.jsonl").exists()
    report = (directory / "report.md").read_text()
    assert "30 made by perturbing training texts. Each was judged by 1 of the 2 teachers. " in report
    assert "from that the students learnt, except on the transfer set, where 1 of them judged each text." in report
    assert "all, their probabilities averaged; of the transfer set each text by 1 of them." in report
    assert "up to 1 epoch of 84 texts, the baselines for up to 2 of 54." in report
    assert "| Teacher | all, averaged |" in report
    assert "language modelling first (epochs: 1); it matches the teacher's last hidden states too" in report
    corpus = potstill.load_corpus(config.data)
    together = judgement(load_teachers(directory, config.runtime, "average"), corpus.evaluation).argmax(dim=1)
    assert summary.ensemble.metrics == compute_metrics(corpus.evaluation.labels, together.numpy(), corpus.num_classes)


def test_the_sets_own_judgement_is_used_where_it_is_the_teachers(tiny_backbone, tmp_path, monkeypatch):
    config = PotstillConfig.build(
        {
            "data": {"source": "embedded", "limit": 60},
            "teacher": {"backbone": str(tiny_backbone)},
            "transfer": {"perturbed": 10},
            "student": {"embedding_size": 4, "hidden_size": 4, "training": {"epochs": 1}},
        }
    )
    corpus = potstill.load_corpus(config.data)
    teachers = [Teacher.create(config.teacher, config.runtime, corpus, 128, seed) for seed in (0, 1)]
    judged = pipeline.transfer_set(config, corpus, teachers[0], tmp_path / "set")
    asked, judgement = [], pipeline.judgement
    monkeypatch.setattr(
        pipeline, "judgement", lambda who, part, *judges: asked.append(part.texts) or judgement(who, part, *judges)
    )
    for teacher, others in zip(teachers, ([], [judged.texts]), strict=True):
        potstill.distill(config, corpus, teacher, tmp_path / teacher.key(), transfer=judged)
        assert asked == [corpus.train.texts + corpus.selection.texts, *others]
        asked.clear()


def test_a_set_that_fewer_judge_is_kept_for_as_many_and_others_are_told(tiny_backbone, tmp_path, capsys):
    config = PotstillConfig.build(
        {
            "data": {"source": "embedded", "limit": 60},
            "teacher": {"backbone": str(tiny_backbone)},
            "transfer": {"perturbed": 20},
            "distillation": {"judges": 1},
        }
    )
    corpus = potstill.load_corpus(config.data)
    teachers = [Teacher.create(config.teacher, config.runtime, corpus, 128, seed) for seed in (0, 1)]
    judged = pipeline.transfer_set(config, corpus, teachers, tmp_path / "set")
    single = np.stack([teacher.logits(judged.examples).numpy() for teacher in teachers])
    chosen = np.abs(single - judged.logits).max(axis=2).argmin(axis=0)  # per text, who has said this
    np.testing.assert_allclose(single[chosen, range(len(judged))], judged.logits, atol=1e-5)
    assert set(chosen) == {0, 1}
    for judges, is_told in ((1, False), (None, True)):
        wanted = config.model_copy(update={"distillation": DistillationConfig(judges=judges)})
        pipeline.have_judged(wanted, corpus, teachers, judged)
        assert ("another number of --judges" in capsys.readouterr().err) == is_told


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"transfer": {"files": ["nowhere.txt"]}}, "expected a file of texts"),
        ({"transfer": {"files": ["here.parquet"]}}, r"expected lines of text, .* found \.parquet"),
        ({"transfer": {"files": ["here.csv"]}}, "expected one column 'text', found"),
        ({"transfer": {"perturbed": 5}, "distillation": {"alpha": 1.0}}, "looks at no teacher"),
        ({"student": {"embedding_init": "teacher", "embedding_size": 99}}, "embedding_size: expected at most 16,"),
        ({"transfer": {"sampled": 5}, "teacher": {"backbone": "bert"}}, "expected a decoder"),
        ({"transfer": {"sampled": 5, "lora": {"targets": ["nowhere"]}}}, r"transfer\.lora\.targets: 'nowhere' matches"),
        ({"transfer": {"sampled": 5, "lora": {"last_blocks": 9}}}, r"transfer\.lora\.last_blocks: the model has 2"),
    ],
)
def test_a_run_refuses_before_anything_is_tuned(settings, complaint, model_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.parquet").touch()
    (tmp_path / "here.csv").write_text("sentence\nA cat sat.\n")
    family = settings.get("teacher", {}).get("backbone", "gpt2")
    teacher = {"backbone": str(model_directory(family))}
    config = PotstillConfig.build({"data": {"source": "embedded", "limit": 60}} | settings | {"teacher": teacher})
    with pytest.raises(PotstillError, match=complaint):
        potstill.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
