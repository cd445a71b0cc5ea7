"""The commands as a user calls them: what they print, write and refuse."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import yaml

from commandline import potstill
from resealed import reseal

COMMANDS = (
    "run",
    "adapt",
    "finetune",
    "transfer",
    "distill",
    "search",
    "train",
    "evaluate",
    "predict",
    "serve",
    "export",
    "merge",
    "params",
    "data",
)

TINY = """
data: {{source: embedded, limit: 120}}
teacher: {{backbone: {backbone}, training: {{epochs: 1}}}}
student: {{embedding_size: 8, hidden_size: 8, vocab_size: 300, training: {{epochs: 1}}, seeds: [0]}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_backbone):
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(TINY.format(backbone=tiny_backbone))
    return file


@pytest.fixture(scope="module")
def run_directory(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert potstill("run", "--config", tiny, "--out", out) == 0
    return out


def test_the_package_is_a_program():
    run = subprocess.run([sys.executable, "-m", "potstill", "--help"], check=True, capture_output=True, text=True)
    assert run.stdout.startswith("Usage: potstill")


def test_help_imports_nothing_heavy():
    """What makes `--help` fast; a time would only measure the machine."""
    heavy = ("torch", "transformers", "numpy", "pydantic", "rich", "onnxruntime")
    code = (
        "import sys\nfrom potstill.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "The whole experiment" in result.stdout
    assert result.stdout.rstrip().endswith("[]")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_without_torch(command):
    code = (
        "import sys\nfrom potstill.cli import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"Usage: potstill {command}" in result.stdout
    assert r"\b" not in result.stdout  # click's mark for text that keeps its lines
    assert result.stdout.rstrip().endswith("False")


def test_flags_go_over_the_file(tiny, tmp_path):
    out = tmp_path / "baseline"
    assert potstill("train", "--config", tiny, "--cell", "gru", "--seeds", "4", "--no-bidirectional", "--out", out) == 0
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["student"]["cell"] == "gru"
    assert saved["student"]["seeds"] == [4]
    assert saved["student"]["bidirectional"] is False
    assert saved["student"]["hidden_size"] == 8  # from the file
    assert json.loads((out / "training.json").read_text())["role"] == "baseline"


def test_a_flag_for_the_teacher_leaves_the_student_alone(tmp_path, tiny_backbone):
    """Although a YAML alias makes the two stages share one mapping."""
    file = tmp_path / "alias.yaml"
    file.write_text(
        "data: {source: embedded, limit: 40}\n"
        f"teacher: {{backbone: {tiny_backbone}, training: &training {{epochs: 1}}}}\n"
        "student: {embedding_size: 4, hidden_size: 4, vocab_size: 300, training: *training, seeds: [0]}\n"
    )
    assert potstill("run", "--config", file, "--teacher-epochs", "2", "--out", tmp_path / "run") == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["teacher"]["training"]["epochs"] == 2
    assert saved["student"]["training"]["epochs"] == 1


def test_finetune_then_distill(tiny, tmp_path):
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert potstill("finetune", "--config", tiny, "--epochs", "1", "--out", teacher) == 0
    assert potstill("distill", "--config", tiny, "--teacher", teacher, "--alpha", "0.3", "--out", student) == 0
    assert yaml.safe_load((student / "config.yaml").read_text())["distillation"]["alpha"] == 0.3
    record = json.loads((student / "history.jsonl").read_text().splitlines()[0])
    assert record["train_loss"] == pytest.approx(0.3 * record["train_ce"] + 0.7 * record["train_kl"], rel=1e-4)


def test_the_saved_settings_name_the_data_that_was_found(tiny, tmp_path, monkeypatch):
    """Else a student's card would tell of other data where these are not at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POTSTILL_DATA", raising=False)
    assert potstill("train", "--config", tiny, "--data", "auto", "--out", tmp_path / "baseline") == 0
    assert yaml.safe_load((tmp_path / "baseline" / "config.yaml").read_text())["data"]["source"] == "embedded"


def test_run_prints_the_table(tiny, tmp_path, capsys):
    assert potstill("run", "--config", tiny, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr()
    assert "MCC" in printed.out
    assert "report:" in printed.out
    assert "epoch 1/1" in printed.err


def test_predict_with_the_best_student(run_directory, capsys, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("The cat sat.\n\nSat cat the.\n", encoding="utf-8")
    assert potstill("predict", run_directory, file) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == ["The cat sat.", "Sat cat the."]
    assert {answer["label"] for answer in answers} <= {"acceptable", "unacceptable"}
    assert all(0.5 <= answer["probability"] <= 1 for answer in answers)


def test_predict_leaves_out_the_byte_order_mark(run_directory, capsys, tmp_path):
    file = tmp_path / "windows.txt"
    file.write_bytes("\ufeffThe cat sat.\r\n".encode())
    assert potstill("predict", run_directory, file) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "The cat sat."


def test_predict_from_the_base_install(run_directory):
    """With everything blocked that `pip install potstill` does not bring."""
    code = """
import sys
from potstill.cli import _TRAIN_PACKAGES, main

class Blocked:
    def find_spec(self, name, path=None, target=None):
        # tokenizers brings these two; nothing of theirs is needed all the same
        if name.partition(".")[0] in _TRAIN_PACKAGES - {"huggingface_hub", "yaml"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
main(["predict", sys.argv[1], "--text", "The cat sat."])
"""
    result = subprocess.run([sys.executable, "-c", code, run_directory], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["text"] == "The cat sat."


def test_an_interrupted_run_can_be_used(run_directory, tmp_path):
    """`training.json` is written when a training ends; a model without it is usable all the same."""
    copy = shutil.copytree(run_directory, tmp_path / "run")
    (copy / "distilled" / "seed-0" / "training.json").unlink()
    reseal(copy / "distilled" / "seed-0")
    assert potstill("predict", copy, "--text", "The cat sat.") == 0
    assert potstill("evaluate", copy / "distilled" / "seed-0", "--data", "embedded") == 0


def test_a_model_of_pairs_takes_pairs(tmp_path, capsys):
    data = tmp_path / "pairs.csv"
    rows = [f"word {i},other {i % 5},{'yes' if i % 2 else 'no'}" for i in range(40)]
    data.write_text("\n".join(["text,second,label", *rows]))
    small = ("--embedding-size", "4", "--hidden-size", "4", "--vocab-size", "300", "--epochs", "1", "--seeds", "0")
    source = ("--data", data, "--pair-column", "second")
    assert potstill("train", *source, *small, "--out", tmp_path / "model") == 0
    assert potstill("predict", tmp_path / "model", "--text", "word 1\tother 2") == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(printed).items() >= {"text": "word 1", "pair": "other 2"}.items()
    assert potstill("predict", tmp_path / "model", "--text", "word 1") == 1
    assert "two texts with a tab between" in capsys.readouterr().err
    assert potstill("evaluate", tmp_path / "model", "--data", data) == 1
    assert "--pair-column" in capsys.readouterr().err


def test_names_are_never_read_as_markup(tmp_path, capsys):
    file = tmp_path / "odd.csv"
    file.write_text("text,label\n" + "".join(f"word {i},{'[/pos]' if i % 2 else '[neg]'}\n" for i in range(40)))
    assert potstill("data", "--data", file) == 0
    assert "[/pos]" in (printed := capsys.readouterr().out)
    assert "[neg]" in printed


def test_predict_with_the_teacher_caches_nothing(run_directory, capsys, isolated_cache):
    """A stream's texts may be any number, and each is seen once."""
    before = sorted(isolated_cache.rglob("*"))
    assert potstill("predict", run_directory / "teacher" / "seed-0", "--text", "A text not seen before.") == 0
    assert json.loads(capsys.readouterr().out)["label"] in {"acceptable", "unacceptable"}
    assert sorted(isolated_cache.rglob("*")) == before


def test_predict_takes_the_teachers_settings_from_file_and_flags(run_directory, tiny, capsys):
    teacher = run_directory / "teacher" / "seed-0"
    settings = ("--config", tiny, "--device", "cpu", "--precision", "32-true")
    assert potstill("predict", teacher, *settings, "--text", "The cat sat.") == 0
    assert json.loads(capsys.readouterr().out)["text"] == "The cat sat."
    assert potstill("predict", teacher, "--device", "abacus", "--text", "The cat sat.") == 1
    assert "runtime.device" in capsys.readouterr().err


@pytest.mark.parametrize("data", [(), ("--data", "embedded")], ids=["what no model has seen", "named"])
def test_evaluate_scores_every_model_of_a_run(data, run_directory, capsys):
    assert potstill("evaluate", run_directory, *data, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert {row["role"] for row in rows} == {"teacher", "distilled", "baseline"}
    summary = json.loads((run_directory / "summary.json").read_text())
    reported = {(m["role"], m["seed"]): m["metrics"]["mcc"] for m in summary["models"]}
    assert {(row["role"], row["seed"]): row["metrics"]["mcc"] for row in rows} == pytest.approx(reported)
    costs = {(m["role"], m["seed"]): (m["parameters"], m["bytes_on_disk"]) for m in summary["models"]}
    assert {(row["role"], row["seed"]): (row["parameters"], row["bytes_on_disk"]) for row in rows} == costs
    calibrated = {(m["role"], m["seed"]): m["calibration"]["nll"] for m in summary["models"]}
    assert {(row["role"], row["seed"]): row["calibration"]["nll"] for row in rows} == pytest.approx(calibrated)
    distilled = next(row for row in rows if row["role"] == "distilled")
    assert distilled["compared_with"] == str(run_directory / "baseline" / "seed-0")
    assert distilled["mcnemar"] == summary["comparisons"]["0"]
    assert distilled["intervals"]["mcc"][0] <= distilled["metrics"]["mcc"] <= distilled["intervals"]["mcc"][1]


def test_evaluate_compares_recipes_over_their_seeds(run_directory, tmp_path, capsys):
    runs = [shutil.copytree(run_directory / role, tmp_path / role) for role in ("baseline", "distilled")]
    for run in runs:
        shutil.copytree(run / "seed-0", run / "seed-1")
    (runs[1] / "seed-1" / "training.json").unlink()
    reseal(runs[1] / "seed-1")
    assert potstill("evaluate", *runs, "--data", "embedded", "--json") == 0
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)["over_seeds"]
    assert (row["directory"], row["seeds"], row["mcc"]["std"]) == (str(runs[0]), [0, 1], 0.0)
    assert "not finished: " in printed.err
    assert "distilled/seed-1" in printed.err


def test_evaluate_says_what_was_scored(run_directory, capsys):
    assert potstill("evaluate", run_directory, "--data", "embedded") == 0
    printed = capsys.readouterr().out
    assert "the held-out part of embedded" in printed
    assert "always" in printed


def test_evaluate_warns_of_texts_that_were_learnt_from(run_directory, tiny, capsys, tmp_path):
    assert potstill("data", "--config", tiny, "--write", tmp_path / "parts") == 0
    student = run_directory / "baseline" / "seed-0"
    for part, told in (("train", "trained these models"), ("selection", "chose these models' epochs"), ("test", None)):
        file = tmp_path / "parts" / f"{part}.jsonl"
        count = len(file.read_text().splitlines())
        capsys.readouterr()
        assert potstill("evaluate", student, "--data", file) == 0
        errors = " ".join(capsys.readouterr().err.split())
        assert f"{count:,} of these {count:,} texts {told}" in errors if told else "of these" not in errors


def test_evaluate_takes_no_other_data_for_the_models_own(run_directory, tmp_path, capsys):
    run = shutil.copytree(run_directory, tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    for source, found in (("gone.csv", "gone.csv"), ("embedded", "has changed since")):
        settings["data"] |= {"source": source, "limit": 100}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        assert potstill("evaluate", run / "baseline" / "seed-0") == 1
        error = capsys.readouterr().err
        assert "expected the data that it was trained on" in error
        assert found in error


def test_evaluate_reads_any_labelled_file(run_directory, capsys, tmp_path):
    file = tmp_path / "judged.tsv"
    file.write_text("sentence\tverdict\nThe cat sat.\tacceptable\nSat cat the.\tunacceptable\n", encoding="utf-8")
    student = run_directory / "distilled" / "seed-0"
    columns = ("--text-column", "sentence", "--label-column", "verdict")
    assert potstill("evaluate", student, "--data", file, *columns) == 0
    assert "2 texts" in capsys.readouterr().out


def test_teachers_of_another_split_are_told_of(run_directory, tiny, capsys, tmp_path):
    """They have read what the students are measured on."""
    flags = ("distill", "--config", tiny, "--teacher", run_directory, "--out")
    for split, is_other in ((0, False), (1, True)):
        assert potstill(*flags, tmp_path / str(split), "--split-seed", split) == 0
        assert ("was tuned with other data or another split" in capsys.readouterr().err) == is_other


def test_evaluate_warns_of_what_any_of_the_models_has_learnt(tiny, capsys, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(80)))
    for split in (0, 1):
        flags = ("--config", tiny, "--data", data, "--limit", "none", "--split-seed", split)
        assert potstill("train", *flags, "--out", tmp_path / str(split)) == 0
    for models, is_known in (((tmp_path / "0",), False), ((tmp_path / "0", tmp_path / "1"), True)):
        assert potstill("evaluate", *models) == 0
        assert ("texts trained these models" in " ".join(capsys.readouterr().err.split())) == is_known


def test_a_command_that_was_refused_occupies_nothing(run_directory, capsys, tmp_path):
    data = tmp_path / "other.csv"
    data.write_text("text,label\n" + "".join(f"text {n},{'abc'[n % 3]}\n" for n in range(60)))
    assert potstill("distill", "--data", data, "--teacher", run_directory, "--out", tmp_path / "out") == 1
    assert "tune a teacher on this data first" in capsys.readouterr().err
    assert not (tmp_path / "out" / "begun.json").exists()


def test_evaluate_wants_the_data_whose_reading_is_set(run_directory, capsys):
    assert potstill("evaluate", run_directory, "--text-column", "sentence", "--limit", "100") == 2
    assert "--text-column, --limit: expected the data" in capsys.readouterr().err


def test_only_what_a_command_uses_is_a_flag(capsys):
    compiled = set()
    for name in COMMANDS:
        assert potstill(name, "--help") == 0
        if "--compile" in capsys.readouterr().out:
            compiled.add(name)
    assert compiled == {"run", "finetune"}


def test_params_prints_the_reference_counts(capsys):
    assert potstill("params", "--backbone", "gpt2", "--random-init", "--rank", "4", "--train-layernorm") == 0
    printed = capsys.readouterr().out
    assert "total 125.03M, trainable 0.63M, reduction 99.5 %" in printed
    assert re.search(r"transformer\.h\.0–11\.attn\.c_attn +768 × 2304 +4 +21,408,768 +147,456\b", printed)
    assert "weights 500.1 MB, gradients and AdamW 7.6 MB" in printed


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--last-blocks", "1", "--rank", "2"), r"layers\.0\.self_attn\.q_proj +16 × 16 +256 +0\s"),
        (("--first-blocks", "1"), r"layers\.0\.self_attn\.q_proj "),
        (("--method", "head"), "tiny, head: 2 classes"),
        (("--method", "full"), r"reduction 0\.0 %"),
        (("--base-bits", "4"), r"layers\.0–1\.mlp\.up_proj +16 × 32 +8 "),
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


@pytest.mark.parametrize("method", [("--method", "full"), ("--method", "head", "--base-bits", "8")], ids=str)
def test_every_method_goes_the_whole_way(method, tiny, tmp_path, capsys):
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert potstill("finetune", "--config", tiny, *method, "--out", teacher) == 0
    assert potstill("distill", "--config", tiny, "--teacher", teacher, "--out", student) == 0
    assert yaml.safe_load((student / "config.yaml").read_text())["teacher"]["method"] == method[1]
    capsys.readouterr()
    assert potstill("evaluate", teacher, "--data", "embedded", "--json") == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["role"] == "teacher"
    assert potstill("predict", teacher, "--text", "The cat sat.") == 0
    assert json.loads(capsys.readouterr().out)["label"] in {"acceptable", "unacceptable"}


def test_data_writes_the_parts(tmp_path, capsys):
    assert potstill("data", "--data", "embedded", "--limit", "200", "--write", tmp_path / "parts") == 0
    printed = capsys.readouterr().out
    assert "evaluation" in printed
    first = json.loads((tmp_path / "parts" / "train.jsonl").read_text().splitlines()[0])
    assert set(first) == {"text", "label"}
    assert potstill("data", "--data", tmp_path / "parts") == 0
    counts = Counter(
        json.loads(line)["label"] for line in (tmp_path / "parts" / "train.jsonl").read_text().splitlines()
    )
    for name, count in counts.items():
        assert f"\n{name}: {count} to train" in printed


def test_data_says_what_is_missing_or_stands_there_twice(tmp_path, capsys):
    file = tmp_path / "few.csv"
    rows = [f"w{number},{'ab'[number % 2]}" for number in range(40)]
    file.write_text("\n".join(["text,label", *rows, "only once,c"]))
    assert potstill("data", "--data", file) == 0
    told = capsys.readouterr()
    assert "not in the selection part, too few examples: c" in told.out
    assert "not in the evaluation part, too few examples: c" in told.out
    assert not told.err
    file.write_text("\n".join(["text,label", *rows * 3, *(f"w{number},b" for number in range(0, 40, 2))]))
    assert potstill("data", "--data", file) == 0
    warnings = capsys.readouterr().err
    assert re.search(r"\d+ of 14 evaluation texts are training texts too", warnings)
    assert re.search(r"\d+ of \d+ training texts have several labels", warnings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--data", "missing.csv"), "missing.csv"),
        (("run", "--rank", "0"), "teacher.lora.rank"),
        (("train", "--epochs", "many"), "student.training.epochs"),
        (("finetune", "--data", "embedded", "--backbone", "./nowhere"), "no such file or directory"),
    ],
)
def test_mistakes_are_told_without_a_traceback(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert potstill(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["run", "finetune"])
def test_an_encoder_that_is_to_read_twice_is_refused_before_anything_is_written(
    command, model_directory, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert potstill(command, "--data", "embedded", "--backbone", model_directory("bert"), "--echo") == 1
    assert "teacher.echo: expected a decoder, found 'bert'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_all_mistakes_of_a_configuration_are_told_at_once(tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    file.write_text("teacher: {lora: {rank: 0, dropout: 2}}\nstudent: {cell: transformer, sise: 3}\n")
    assert potstill("run", "--config", file) == 1
    error = capsys.readouterr().err
    for name in ("teacher.lora.rank", "teacher.lora.dropout", "student.cell", "student.sise"):
        assert name in error


def test_missing_extra_names_the_install_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pydantic", None)
    monkeypatch.delitem(sys.modules, "potstill.cli.training", raising=False)
    monkeypatch.delitem(sys.modules, "potstill.cli.settings", raising=False)
    monkeypatch.delitem(sys.modules, "potstill.config", raising=False)
    assert potstill("run") == 1
    assert "pip install 'potstill[train]'" in capsys.readouterr().err
