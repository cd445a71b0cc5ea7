"""The commands as a user calls them: what they print, write and refuse."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click
import numpy as np
import pytest
import yaml

from checksummed import with_new_checksums
from commandline import SMALL, potstill, train_small
from potstill.cli import _COMMANDS, _GROUPS
from potstill.cli import potstill as potstill_group
from potstill.cli.options import this_command
from potstill.config import PotstillConfig
from potstill.data import load_corpus, piped
from potstill.errors import ConfigError
from potstill.predict import Classifier

pytestmark = pytest.mark.usefixtures("no_plots")

COMMANDS = list(_COMMANDS)

TINY = """
data: {{source: builtin, max_train_examples: 120}}
teacher: {{backbone: {backbone}, training: {{epochs: 1}}}}
student: {{embedding_size: 8, hidden_size: 8, vocab_size: 300, training: {{epochs: 1}}, seeds: [0]}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_backbone):
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(TINY.format(backbone=tiny_backbone))
    return file


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run's directory, and what was printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as told:
        assert potstill("run", "--config", tiny, "--out", out) == 0
    return out, printed.getvalue(), told.getvalue()


@pytest.fixture(scope="module")
def run_directory(run):
    return run[0]


def run_python(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_fast(command):
    """It imports nothing heavy; a time would only measure the machine."""
    heavy = ["torch", "transformers"] + ([] if command else ["numpy", "pydantic", "rich", "onnxruntime"])
    code = (
        "import sys\nfrom potstill.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    printed = run_python(code, *filter(None, [command]), "--help").stdout
    assert f"Usage: potstill {command or '[OPTIONS]'}" in printed
    assert printed.rstrip().endswith("[]")
    assert r"\b" not in printed  # click's mark for text that keeps its lines


def test_commands_are_listed_in_groups(capsys):
    assert potstill("--help") == 0
    printed = capsys.readouterr().out
    assert all(f"{group}:\n  {next(iter(commands))} " in printed for group, commands in _GROUPS.items())


def test_python_can_run_the_package():
    run = subprocess.run([sys.executable, "-m", "potstill", "--help"], check=True, capture_output=True, text=True)
    assert run.stdout.startswith("Usage: potstill")


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_of_a_command_differ(command):
    options = potstill_group.get_command(click.Context(potstill_group), command).params
    flags = Counter(flag for option in options for flag in (*option.opts, *option.secondary_opts))
    assert [flag for flag, count in flags.items() if count > 1] == []


def test_help_shows_common_settings_and_help_all_every_one(capsys):
    assert potstill("run", "--help") == 0
    common = capsys.readouterr().out
    assert potstill("run", "--help-all") == 0
    every = capsys.readouterr().out
    assert len(re.findall(r"^  -", common, re.MULTILINE)) <= 14
    assert "--unlabelled FILE,…" in common
    assert "--student-epochs INT " not in common
    assert "--student-epochs INT " in every
    assert "--teacher-warmup" not in common
    assert "\nTeacher training:\n" in every
    for flag in ("--pooling last|mean|max", "--teacher-max-grad-norm FLOAT|none", "--workers INT|none"):
        assert flag in every


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "x.csv", "--lr", "1"), "Did you mean --learning-rate?"),
        (("run", "x.csv", "--seeds", "1"), "Did you mean --teacher-seeds or --student-seeds?"),
        (("train", "x.csv", "--student-epochs", "1"), "Did you mean --epochs?"),
        (("train", "x.csv", "--hiden-size", "1"), "Did you mean --hidden-size"),
        (("predict", ".", "--thread", "1"), "Did you mean --threads"),
        (("evaluate", ".", "--max-length", "9"), "No such option: --max-length"),  # saved models have their own
        (("train", "--data", "x.csv"), "Give the data as the argument: potstill train tickets.csv"),
        (("train",), "name the data, as in `potstill train tickets.csv`"),
    ],
)
def test_unknown_options_are_answered_with_a_suggestion(arguments, expected, capsys):
    assert potstill(*arguments) == 2
    assert expected in capsys.readouterr().err


def test_control_characters_are_escaped_in_every_encoding(tmp_path, monkeypatch, capsys):
    file = tmp_path / "odd.csv"
    label, text = "[neg]\x1b[31m", "caf\u00e9\x9b2J\u202e \u2192 "
    file.write_text("text,label\n" + "".join(f"{text}{i},{label if i % 2 else 'pos'}\n" for i in range(40)))
    for encoding in ("cp1252", "utf-8"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
            assert potstill("data", file) == 0
            sys.stdout.flush()
            shown = sys.stdout.buffer.getvalue().decode(encoding)
        assert r"[neg]\u001b[31m" in shown  # no markup either
        assert rb"caf\u00e9".decode("unicode_escape") + r"\u009b2J\u202e " in shown
        assert (r"\u2192" in shown) == (encoding == "cp1252")
        assert not set("\x1b\x9b\u202e") & set(shown)
    assert potstill("train", file, "--label-column", label) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_flags_override_the_file(tiny, tmp_path):
    out = tmp_path / "baseline"
    assert potstill("train", "--config", tiny, "--cell", "gru", "--seeds", "4", "--no-bidirectional", "--out", out) == 0
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["student"]["cell"] == "gru"
    assert saved["student"]["seeds"] == [4]
    assert saved["student"]["bidirectional"] is False
    assert saved["student"]["hidden_size"] == 8  # from the file
    assert json.loads((out / "training.json").read_text())["role"] == "baseline"


def test_flag_changes_one_of_two_stages_that_share_a_yaml_alias(tmp_path, tiny_backbone, monkeypatch):
    """Although a YAML alias makes the two stages share one mapping."""
    file, seen = tmp_path / "alias.yaml", []
    file.write_text(
        f"data: {{source: builtin}}\nteacher: {{backbone: {tiny_backbone}, training: &training {{epochs: 1}}}}\n"
        "student: {training: *training}\n"
    )

    def run(config, *_, **__):
        seen.append(config)
        raise ConfigError(["seen"])

    monkeypatch.setattr("potstill.experiment.run.run", run)
    assert potstill("run", "--config", file, "--teacher-epochs", "2") == 1
    assert (seen[0].teacher.training.epochs, seen[0].student.training.epochs) == (2, 1)


def test_finetune_then_distill(tiny, tmp_path, capsys):
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert potstill("finetune", "--config", tiny, "--epochs", "1", "--out", teacher) == 0
    told = capsys.readouterr().err
    assert re.search(r"teacher 0: MCC -?\d\.\d{3}, accuracy \d+\.\d% on the validation split, after epoch 1", told)
    assert f"next: potstill distill --config {tiny} --teacher {teacher}\n" in told
    assert potstill("distill", "--config", tiny, "--teacher", teacher, "--alpha", "0.3", "--out", student) == 0
    assert "distilled 0: MCC" in capsys.readouterr().err
    assert yaml.safe_load((student / "config.yaml").read_text())["distillation"]["alpha"] == 0.3
    record = json.loads((student / "history.jsonl").read_text().splitlines()[0])
    assert record["train_loss"] == pytest.approx(0.3 * record["train_ce"] + 0.7 * record["train_kl"], rel=1e-4)


def test_run_prints_table_steps_and_next_command(run):
    directory, printed, told = run
    assert "MCC" in printed
    assert "Linear SVM" in printed
    assert re.search(r"^Did it pay\? .*the distilled student .*\nreport:", printed, re.MULTILINE)
    assert re.search(r"it will train 1 teacher on [\d,]+ labelled texts; let the teacher label these; ", told)
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["linear"]["parameters"] > 0
    assert list(summary["against_linear"]) == ["0"]
    assert ",linear\n" in (directory / "predictions.csv").read_text().replace("\r", "")
    assert "epoch 1/1" in told
    assert "step 1 of 4: teacher 0" in told
    assert re.search(r"that takes about \d+ minutes? on this machine\n", told)
    assert re.search(r"step 4 of 4: baseline 0, about \d+ minutes? left", told)
    assert f"next: potstill predict {directory} FILE" in told


def test_predict_needs_no_extra(run_directory):
    """With everything blocked that `pip install .` does not bring; the answer is one of the task's."""
    code = """
import sys
from potstill.cli import _EXTRAS, main

class Blocked:
    def find_spec(self, name, path=None, target=None):
        # tokenizers brings both; a local model needs nothing of theirs, yaml is looked for all the same
        if name.partition(".")[0] in (set(_EXTRAS["train"]) - {"yaml"}) | {"huggingface_hub"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
main(["predict", sys.argv[1], "--text", "The cat sat."])
"""
    result = run_python(code, run_directory)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["text"] == "The cat sat."
    assert answer["label"] in {"acceptable", "unacceptable"}
    assert 0.5 <= answer["probability"] <= 1


def test_model_of_an_interrupted_training_can_be_used(run_directory, tmp_path, capsys):
    """`training.json` is written when a training ends; a model without it is usable all the same."""
    copy = shutil.copytree(run_directory, tmp_path / "run")
    (copy / "distilled" / "seed-0" / "training.json").unlink()
    with_new_checksums(copy / "distilled" / "seed-0")
    assert potstill("predict", copy, "--text", "The cat sat.") == 0
    assert potstill("evaluate", copy / "distilled" / "seed-0", "--data", "builtin") == 0
    assert "the test split of builtin" in capsys.readouterr().out


def test_model_of_pairs(tmp_path, capsys):
    rows = [f"word {i},other {i % 5},{'yes' if i % 2 else 'no'}" for i in range(40)]
    model = train_small(tmp_path, ["text,second,label", *rows], "--pair-column", "second")
    capsys.readouterr()
    assert potstill("predict", model, "--text", "word 1\tother 2") == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(printed).items() >= {"text": "word 1", "pair": "other 2"}.items()
    assert potstill("predict", model, "--text", "word 1") == 1
    assert "two texts with a tab between" in capsys.readouterr().err
    assert (
        potstill("evaluate", model, "--data", tmp_path / "data.csv") == 0
    )  # by the columns of the model's own settings
    assert "40 texts, all of" in capsys.readouterr().out


def test_predict_with_a_teacher_caches_nothing(run_directory, capsys, isolated_cache):
    """A stream may have any number of texts."""
    before = sorted(isolated_cache.rglob("*"))
    teacher = run_directory / "teacher" / "seed-0"
    settings = ("--device", "cpu", "--precision", "32-true")
    assert potstill("predict", teacher, *settings, "--text", "A text not seen before.") == 0
    assert json.loads(capsys.readouterr().out)["label"] in {"acceptable", "unacceptable"}
    assert sorted(isolated_cache.rglob("*")) == before
    assert potstill("predict", teacher, "--device", "abacus", "--text", "The cat sat.") == 1
    assert "runtime.device" in capsys.readouterr().err


@pytest.mark.parametrize("data", [(), ("--data", "builtin")], ids=["what no model has seen", "named"])
def test_evaluate_scores_every_model_of_a_run(data, run_directory, capsys):
    assert potstill("evaluate", run_directory, *data, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["models"]
    assert {row["role"] for row in rows} == {"teacher", "distilled", "baseline"}
    summary = json.loads((run_directory / "summary.json").read_text())
    reported = {(m["role"], m["seed"]): m["metrics"]["mcc"] for m in summary["models"]}
    assert {(row["role"], row["seed"]): row["metrics"]["mcc"] for row in rows} == pytest.approx(reported)
    costs = {(m["role"], m["seed"]): (m["parameters"], m["bytes_on_disk"]) for m in summary["models"]}
    assert {(row["role"], row["seed"]): (row["parameters"], row["bytes_on_disk"]) for row in rows} == costs
    calibrated = {(m["role"], m["seed"]): m["calibration"]["nll"] for m in summary["models"]}
    assert {(row["role"], row["seed"]): row["calibration"]["nll"] for row in rows} == pytest.approx(calibrated)
    test = next(test for test in found["comparisons"] if test["model"] == str(run_directory / "distilled" / "seed-0"))
    assert test["compared_with"] == str(run_directory / "baseline" / "seed-0")
    assert test["mcnemar"] == summary["comparisons"]["0"]


def test_evaluate_scores_the_answers_of_students_that_abstain(run_directory, capsys):
    assert potstill("evaluate", run_directory, "--coverage", "0.7", "--json") == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["role"] for model in models if "selective" not in model] == ["teacher"]
    examples = load_corpus(PotstillConfig.load(run_directory / "config.yaml").data).test
    for model in models:
        if (found := model.get("selective")) is None:
            continue
        classifier = Classifier.load(model["model"], coverage=0.7)
        answers = classifier.predict(examples.texts)
        given = np.array([answer is not None for answer in answers])
        right = answers == np.array(classifier.label_names)[examples.labels]
        assert found["min_confidence"] == classifier.min_confidence
        assert found["coverage"] == pytest.approx(given.mean())
        assert found["accuracy"] == pytest.approx(right[given].mean())
    assert potstill("evaluate", run_directory, "--coverage", "0.7") == 0
    assert capsys.readouterr().out.count("% of the texts (those of which it is at least ") == len(models) - 1


def test_students_that_can_not_promise_an_error_end_no_evaluation(run_directory, capsys):
    assert potstill("evaluate", run_directory, "--max-error", "0.001", "--json") == 0
    printed = capsys.readouterr()
    assert "can promise" in printed.err
    assert "it answers all texts here" in printed.err
    assert not any("selective" in model for model in json.loads(printed.out)["models"])
    assert potstill("evaluate", run_directory / "baseline" / "seed-0", "--max-error", "0.001") == 1


def test_evaluate_compares_models_over_their_seeds(run_directory, tmp_path, capsys):
    runs = [shutil.copytree(run_directory / role, tmp_path / role) for role in ("baseline", "distilled")]
    for run in runs:
        shutil.copytree(run / "seed-0", run / "seed-1")
    (runs[1] / "seed-1" / "training.json").unlink()
    with_new_checksums(runs[1] / "seed-1")
    assert potstill("evaluate", *runs, "--data", "builtin") == 0
    printed = capsys.readouterr()
    assert re.search(r"\(2 seeds\) +± 0\.000 +± 0\.0", printed.out)
    assert "not finished: " in printed.err
    assert "distilled/seed-1" in printed.err


def test_evaluate_warns_of_training_texts(run_directory, tiny, capsys, tmp_path):
    assert potstill("data", "--config", tiny, "--write", tmp_path / "parts") == 0
    student = run_directory / "baseline" / "seed-0"
    for part, told in (("train", "trained these models"), ("validation", "chose these models' epochs"), ("test", None)):
        file = tmp_path / "parts" / f"{part}.jsonl"
        count = len(file.read_text().splitlines())
        capsys.readouterr()
        assert potstill("evaluate", student, "--data", file) == 0
        errors = " ".join(capsys.readouterr().err.split())
        assert f"{count:,} of these {count:,} texts {told}" in errors if told else "of these" not in errors


def test_evaluate_refuses_data_that_has_changed(run_directory, tmp_path, capsys):
    run = shutil.copytree(run_directory, tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    for source, found in (("gone.csv", "gone.csv"), ("builtin", "expected the data that it was trained on")):
        settings["data"] |= {"source": source, "max_train_examples": 100}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        assert potstill("evaluate", run / "baseline" / "seed-0") == 1
        assert found in capsys.readouterr().err


def test_evaluate_reads_any_labelled_file(run_directory, capsys, tmp_path):
    file = tmp_path / "scored.tsv"
    file.write_text("sentence\tverdict\nThe cat sat.\tacceptable\nSat cat the.\tunacceptable\n", encoding="utf-8")
    student = run_directory / "distilled" / "seed-0"
    columns = ("--text-column", "sentence", "--label-column", "verdict")
    assert potstill("evaluate", student, "--data", file, *columns) == 0
    out = capsys.readouterr().out
    assert "2 texts" in out
    assert "macro-F1" in out
    assert potstill("evaluate", student, "--data", file, *columns, "--positive-class", "unacceptable") == 0
    assert "F1 of" in capsys.readouterr().out
    assert potstill("evaluate", student, "--data", file, *columns, "--positive-class", "fine", "--json") == 1
    assert "there is no class 'fine'" in capsys.readouterr().err


def test_distill_warns_of_a_teacher_of_another_split(run_directory, tiny, capsys, tmp_path):
    """They have read what the students are measured on."""
    flags = ("distill", "--config", tiny, "--teacher", run_directory, "--out")
    for split, is_other in ((0, False), (1, True)):
        assert potstill(*flags, tmp_path / str(split), "--split-seed", split) == 0
        assert ("was tuned with other data or another split" in capsys.readouterr().err) == is_other


def test_evaluate_warns_of_training_texts_of_every_model(tiny, capsys, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(80)))
    for split in (0, 1):
        flags = ("--config", tiny, data, "--max-train-examples", "none", "--split-seed", split)
        assert potstill("train", *flags, "--out", tmp_path / str(split)) == 0
    for models, is_known in (((tmp_path / "0",), False), ((tmp_path / "0", tmp_path / "1"), True)):
        assert potstill("evaluate", *models) == 0
        assert ("texts trained these models" in " ".join(capsys.readouterr().err.split())) == is_known


def test_refused_command_leaves_no_run(run_directory, capsys, tmp_path):
    data = tmp_path / "other.csv"
    data.write_text("text,label\n" + "".join(f"text {n},{'abc'[n % 3]}\n" for n in range(60)))
    assert potstill("distill", data, "--teacher", run_directory, "--out", tmp_path / "out") == 1
    assert "tune a teacher on this data first" in capsys.readouterr().err
    assert not (tmp_path / "out" / "state.json").exists()


def test_evaluate_refuses_to_read_its_own_data_in_another_way(run_directory, capsys):
    assert potstill("evaluate", run_directory, "--max-train-examples", "100") == 1
    assert "is read in another way\n  what to do: name data with --data" in capsys.readouterr().err


def test_rows_from_standard_input_are_kept(tmp_path, monkeypatch, capsys):
    rows = "".join(f"text {number} of {'good' * (number % 2)},{number % 2}\n" for number in range(40))

    def train():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"text,label\n{rows}".encode())))
        piped._piped.cache_clear()
        assert potstill("train", "-", *SMALL, "--out", tmp_path / "model") == 0
        return capsys.readouterr()

    train()
    copy = tmp_path / "model" / "standard-input.csv"
    assert copy.read_text() == f"text,label\n{rows}"
    assert PotstillConfig.load(tmp_path / "model" / "config.yaml").data.source == str(copy)
    assert this_command(tmp_path / "model", ["train", "-"]) == f"potstill train {copy} --out {tmp_path / 'model'}"
    assert "finished before" in train().err
    assert potstill("evaluate", tmp_path / "model") == 0


def test_params_prints_the_reference_counts(capsys):
    assert potstill("params", "--backbone", "gpt2", "--random-init", "--rank", "4", "--train-layernorm") == 0
    printed = capsys.readouterr().out
    assert "total 125.03M, trainable 0.63M, reduction 99.5 %" in printed
    assert re.search(r"transformer\.h\.0–11\.attn\.c_attn +768 × 2304 +4 +21,408,768 +147,456\b", printed)
    assert "weights 500.1 MB, gradients and AdamW 7.6 MB" in printed


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--target-modules", "*.1.*", "--rank", "2"), r"layers\.0\.self_attn\.q_proj +16 × 16 +256 +0\s"),
        (("--num-layers", "1"), r"layers\.0\.self_attn\.q_proj "),
        (("--method", "head"), "tiny, head: 2 classes"),
        (("--method", "full"), r"reduction 0\.0 %"),
    ],
)
def test_params_follows_the_settings(flags, expected, tiny_backbone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_backbone, "tiny")
    assert potstill("params", "--backbone", "tiny", *flags) == 0
    assert re.search(expected, capsys.readouterr().out)


def test_merge_writes_a_plain_model_of_the_best_teacher(run_directory, tmp_path, capsys):
    out = tmp_path / "plain"
    assert potstill("merge", run_directory, "--out", out) == 0
    printed = capsys.readouterr().out
    written = {file.name for file in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= written
    assert all(str(out / name) in printed for name in written)
    assert potstill("merge", run_directory, "--out", out) == 1
    assert "not empty" in capsys.readouterr().err
    assert potstill("merge", run_directory / "baseline" / "seed-0", "--out", tmp_path / "student") == 1
    assert "expected a tuned teacher, found students" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["full", "head"])
def test_every_method_from_finetune_to_predict(method, tiny, tmp_path, capsys):
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert potstill("finetune", "--config", tiny, "--method", method, "--out", teacher) == 0
    assert potstill("distill", "--config", tiny, "--teacher", teacher, "--out", student) == 0
    assert yaml.safe_load((student / "config.yaml").read_text())["teacher"]["method"] == method
    capsys.readouterr()
    assert potstill("evaluate", teacher, "--data", "builtin", "--json") == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["role"] == "teacher"
    assert potstill("predict", teacher, "--text", "The cat sat.") == 0
    assert json.loads(capsys.readouterr().out)["label"] in {"acceptable", "unacceptable"}


def test_data_writes_the_parts(tmp_path, capsys):
    assert potstill("data", "builtin", "--max-train-examples", "200", "--write", tmp_path / "parts") == 0
    printed = capsys.readouterr().out
    assert "test" in printed
    first = json.loads((tmp_path / "parts" / "train.jsonl").read_text().splitlines()[0])
    assert set(first) == {"text", "label"}
    assert potstill("data", tmp_path / "parts") == 0
    counts = Counter(
        json.loads(line)["label"] for line in (tmp_path / "parts" / "train.jsonl").read_text().splitlines()
    )
    for name, count in counts.items():
        assert f"\n{name}: {count} train" in printed


def test_data_reports_missing_classes_and_duplicates(tmp_path, capsys):
    file = tmp_path / "few.csv"
    rows = [f"w{number},{'ab'[number % 2]}" for number in range(40)]
    file.write_text("\n".join(["text,label", *rows, "only once,c"]))
    assert potstill("data", file) == 0
    told = capsys.readouterr()
    assert "not in the validation split, too few examples: c" in told.out
    assert "not in the test split, too few examples: c" in told.out
    assert told.err == f"next: potstill run {file}\n"
    parts = tmp_path / "parts"
    parts.mkdir()
    contradictions = [f"w{number},b" for number in range(0, 40, 2)]
    (parts / "train.csv").write_text("\n".join(["text,label", *rows * 3, *contradictions]))
    (parts / "test.csv").write_text("\n".join(["text,label", *rows[:14]]))
    assert potstill("data", parts) == 0
    warnings = capsys.readouterr().err
    assert re.search(r"\d+ of 14 test texts are training texts too", warnings)
    assert re.search(r"\d+ of \d+ training texts are repeated with other labels", warnings)


UNTIDY = [
    *("id,text,label", "1,one good thing here,a", "2,One  good thing here,a", "3,of two minds,a", "4,of two minds,b"),
    *("5,,a", "6,no label,", "7,known already,b", "8,ещё один текст,b", "9,one good thing there,b"),
    *(f"{n},word{n} word{n * n} {'good' if n % 2 else 'bad'},{'ab'[n % 2]}" for n in range(10, 50)),
]


def test_a_cleaned_copy_of_parquet_keeps_all_columns(tmp_path, capsys):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"id": range(30), "text": [f"text {n}" for n in range(30)], "label": ["a", "b"] * 15}
    parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), tmp_path / "x.parquet")
    assert potstill("data", tmp_path / "x.parquet", "--fix", tmp_path / "copy.csv") == 0
    assert (tmp_path / "copy.csv").read_text().splitlines()[:2] == ["id,text,label", "0,text 0,a"]


def test_data_is_cleaned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("untidy.csv").write_text("\n".join(UNTIDY), encoding="utf-8")
    Path("test.csv").write_text("id,text,label\n1,Known already,b\n2,new,a\n")
    command = ("data", "untidy.csv", "--test-data", "test.csv", "--show", "0")
    assert potstill(*command) == 1  # shown, and refused as by run
    shown = capsys.readouterr()
    for check in (
        r"lengths: median 3, 95 % up to 4, longest 4 words and signs.* 0 texts have more than max_length 128",
        r"scripts: Latin 98\.0%, Cyrillic 2\.0%",
        r"repeated texts: 3 of 49, such as 'One  good thing here'",
        r"repeated texts with other labels: 1 of 49, such as 'of two minds'",
        r"test texts that are training or validation texts: 1 of 2, such as 'Known already'",
        r"different texts that are nearly alike: \d+ of 46, such as",
        r"classes with fewer than 10 texts: none",
        r"labels that a linear model would not give: \d+ of 46",
    ):
        assert re.search(check, shown.out), (check, shown.out)
    assert "2 rows can't be read\n  line 6: column 'text' holds an empty text" in shown.err
    assert "next: potstill data untidy.csv --test-data test.csv --fix cleaned.csv" in shown.err
    assert {path.name for path in tmp_path.iterdir()} == {"untidy.csv", "test.csv"}

    assert potstill(*command, "--fix", "copy.csv") == 0
    shown = capsys.readouterr()
    left_out = "2 empty or broken, 1 repeated, 2 contradictory, 1 also in the test split"
    assert f"copy.csv: 43 rows kept; left out: {left_out}" in shown.out
    assert "repeated texts: none" in shown.out
    assert shown.err == "next: potstill run copy.csv --test-data test.csv\n"
    kept = Path("copy.csv").read_text(encoding="utf-8").splitlines()
    assert kept[:3] == [UNTIDY[0], UNTIDY[1], UNTIDY[8]]  # all columns
    for refused in ("copy.csv", "untidy.csv", "copy.xlsx"):
        assert potstill(*command, "--fix", refused) == 1
        assert f"expected a new file that ends in .csv or .jsonl, found '{refused}'" in capsys.readouterr().err
    assert Path("untidy.csv").read_text(encoding="utf-8") == "\n".join(UNTIDY)


def test_the_training_part_of_a_directory_is_cleaned(tmp_path, capsys):
    parts, copy = tmp_path / "parts", tmp_path / "copy.jsonl"
    parts.mkdir()
    (parts / "train.csv").write_text("\n".join(UNTIDY), encoding="utf-8")
    (parts / "test.csv").write_text("id,text,label\n1,known already,b\n2,new,a\n")
    assert potstill("data", parts, "--fix", copy) == 0
    shown = capsys.readouterr()
    assert "1 also in the test split" in shown.out
    assert shown.err == f"next: potstill run {copy} --test-data {parts / 'test.csv'}\n"
    first = json.loads(copy.read_text(encoding="utf-8").splitlines()[0])
    assert first == {"id": "1", "text": "one good thing here", "label": "a"}
    assert potstill("data", "builtin", "--fix", tmp_path / "other.csv") == 1
    assert "expected a file or directory, found 'builtin'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.csv"), "missing.csv"),
        (("run", "builtin", "--rank", "0"), "teacher.lora.rank"),
        (("train", "builtin", "--epochs", "many"), "student.training.epochs"),
        (("finetune", "builtin", "--backbone", "./nowhere"), "no such file or directory"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert potstill(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["run", "finetune"])
def test_echo_with_an_encoder_is_refused_before_anything_is_written(
    command, model_directory, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert potstill(command, "builtin", "--backbone", model_directory("bert"), "--echo") == 1
    assert "teacher.echo: expected a decoder, found 'bert'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_all_mistakes_of_a_configuration_are_listed(tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    file.write_text("teacher: {lora: {rank: 0, dropout: 2}}\nstudent: {cell: transformer, sise: 3}\n")
    assert potstill("run", "--config", file) == 1
    error = capsys.readouterr().err
    for name in ("teacher.lora.rank", "teacher.lora.dropout", "student.cell", "student.sise"):
        assert name in error


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("pydantic", ["run", "builtin"], "train"),
        ("fastapi", ["serve", "."], "serve"),
        ("asgi_correlation_id", ["serve", "."], "serve"),
    ],
)
def test_missing_package_is_named_with_the_install_line(package, arguments, extra, tmp_path):
    code = f"import sys; sys.modules[{package!r}] = None; from potstill.cli import main; main()"
    result = run_python(code, *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert f"needs the package {package!r}" in result.stderr
    assert f"pip install '.[{extra}]' in a checkout" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_search_without_optuna_names_the_install_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("search", "study"):
        monkeypatch.delitem(sys.modules, f"potstill.experiment.{name}", raising=False)
    assert potstill("search", "builtin", "--teacher", tmp_path) == 1
    error = capsys.readouterr().err
    assert "needs the package 'optuna'" in error
    assert "pip install '.[search]' in a checkout" in error
