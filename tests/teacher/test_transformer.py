import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

from checksummed import with_new_checksums
from moved import moved
from potstill.config import LoRAConfig, PotstillConfig, RuntimeConfig, TransformerConfig
from potstill.data import Corpus, Examples
from potstill.data.tokenised import tokenise
from potstill.errors import ArtifactError, ConfigError
from potstill.experiment.record import TrainingRecord
from potstill.experiment.saved import find_teacher, load_teacher
from potstill.lora import adapters, merged
from potstill.predict.directory import ADAPTER_CONFIG, TRAINED_FILE, TRAINING_FILE
from potstill.predict.directory import TEACHER_MANIFEST as MANIFEST
from potstill.teacher import transformer as module
from potstill.teacher.ensemble import average_logits
from potstill.teacher.transformer import TransformerTeacher, share_base_weights

CPU = RuntimeConfig(device="cpu", precision="32-true")
EXAMPLES = Examples(("w1 w2 w3", "w4", "", "w5 w6 w7 w8 w9"), np.array([0, 1, 0, 1]))
CORPUS = Corpus("tiny", "made up", ("bad", "good"), EXAMPLES, EXAMPLES, EXAMPLES)


def make(name, *, seed=0, max_length=16, runtime=CPU, long_texts="head", **options):
    config = TransformerConfig(backbone=str(name), **{"lora": LoRAConfig(rank=2)} | options)
    teacher = TransformerTeacher.create(config, runtime, CORPUS, max_length, seed, long_texts)
    moved(teacher.classifier)
    return teacher


def test_every_family_answers_as_before_when_loaded(family, model_directory, tmp_path):
    teacher = make(model_directory(family), seed=3)
    logits = teacher.logits(EXAMPLES)
    assert logits.shape == (4, 2)
    assert logits.dtype == np.float32
    teacher.save(tmp_path)

    torch.manual_seed(99)
    loaded = TransformerTeacher.load(tmp_path, CPU)
    assert loaded.key == teacher.key  # before the first text and after
    assert np.array_equal(loaded.logits(EXAMPLES), logits)
    assert loaded.manifest == teacher.manifest
    assert loaded.parameters == teacher.parameters


def memory(teachers, *, trained):
    parameters = [p for teacher in teachers for p in teacher.classifier.parameters() if p.requires_grad == trained]
    return {p.data_ptr() for p in parameters}


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("bf16-mixed", 0.1)])
def test_teachers_that_share_a_base_answer_as_before(precision, tolerance, base):
    runtime = RuntimeConfig(device="cpu", precision=precision)
    teachers = [make(base, seed=seed, runtime=runtime) for seed in range(3)]
    apart = [teacher.logits(EXAMPLES) for teacher in teachers]
    share_base_weights(teachers)
    assert len(memory(teachers, trained=False)) == len(memory(teachers[:1], trained=False))
    assert len(memory(teachers, trained=True)) == 3 * len(memory(teachers[:1], trained=True))
    with merged(teachers[0].classifier):  # which leaves the others alone
        together = [teacher.logits(EXAMPLES) for teacher in teachers]
    assert all(map(np.array_equal, apart[1:], together[1:]))
    np.testing.assert_allclose(together[0], apart[0], rtol=tolerance, atol=tolerance)
    assert all(map(np.array_equal, apart, (teacher.logits(EXAMPLES) for teacher in teachers)))


def test_different_base_weights_are_not_shared(base):
    teachers = [make(base, seed=0), make(base, seed=1)]
    _, adapter = next(adapters(teachers[1].classifier))
    adapter.base.weight.data[0, 0] += 1.0
    apart = [teacher.logits(EXAMPLES) for teacher in teachers]
    share_base_weights(teachers)
    assert len(memory(teachers[:1], trained=False)) < len(memory(teachers, trained=False))
    assert all(map(np.array_equal, apart, (teacher.logits(EXAMPLES) for teacher in teachers)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "options",
    [
        *({"method": "full"}, {"method": "head"}, {"lora": LoRAConfig(rank=2, use_rslora=True, train_layernorm=True)}),
        *({"method": method, "echo": True} for method in ("lora", "full", "head")),
        *({"method": method, "num_layers": 1} for method in ("lora", "full", "head")),
    ],
    ids=str,
)
def test_loaded_teacher_answers_as_before(options, precision, model_directory, tmp_path):
    runtime = RuntimeConfig(device="cpu", precision=precision)
    for family in ("gpt2",) if "echo" in options else ("gpt2", "bert"):
        teacher = make(model_directory(family), runtime=runtime, **options)
        logits = teacher.logits(EXAMPLES)
        teacher.save(tmp_path / family)
        loaded = TransformerTeacher.load(tmp_path / family, runtime)
        assert np.array_equal(loaded.logits(EXAMPLES), logits)
        assert loaded.key == teacher.key
        assert loaded.parameters == teacher.parameters
        assert all(p.dtype == torch.float32 for p in loaded.classifier.parameters() if p.requires_grad)
        known = loaded.known_settings(TransformerConfig())
        assert {name: getattr(known, name) for name in options if name != "lora"} == {
            name: value for name, value in options.items() if name != "lora"
        }


@pytest.mark.parametrize("option", [{"echo": True}, {"num_layers": 1}], ids=str)
def test_echo_and_num_layers_change_logits_and_key(option, base):
    plain, other = make(base), make(base, **option)
    assert other.key != plain.key
    assert not np.allclose(other.logits(EXAMPLES), plain.logits(EXAMPLES), atol=1e-2)


def test_echo_halves_the_longest_text(base):
    assert make(base, max_length=100).manifest.max_length == 40
    teacher = make(base, max_length=100, echo=True)
    longest = Examples((" ".join(["w1"] * 50), ""), np.zeros(2, np.int64))
    once = make(base, max_length=teacher.manifest.max_length).featurise(longest).tokens
    separator = teacher.classifier.echo.separator
    twice = teacher.featurise(longest).tokens
    assert [ids.tolist() for ids in twice] == [[*ids[:-1], *separator, *ids[1:]] for ids in map(list, once)]
    assert 39 <= twice.lengths[0] <= 40
    assert np.isfinite(teacher.logits(longest)).all()


def test_the_end_of_long_texts_is_read_where_it_is_asked_for(base, tmp_path):
    teacher, head = make(base, max_length=8, long_texts="head-tail"), make(base, max_length=8)
    assert teacher.key != head.key
    ends = [f"{'w1 ' * 20}{middle}{'w2 ' * 20}{end}" for middle in ("w3 ", "") for end in ("w4", "w5")]
    examples = Examples(tuple(ends), np.zeros(4, np.int64))
    logits = teacher.logits(examples)
    assert np.array_equal(logits[:2], logits[2:])
    assert not np.allclose(logits[0], logits[1])
    assert np.ptp(head.logits(examples), axis=0).max() == 0
    teacher.save(tmp_path)
    loaded = TransformerTeacher.load(tmp_path, CPU)
    assert loaded.key == teacher.key
    assert np.array_equal(loaded.logits(examples), logits)


@pytest.mark.parametrize("echo", [True, False])
def test_share_that_is_not_read_is_that_of_a_single_reading(base, echo, capsys):
    texts = Examples((" ".join(["w1"] * 58), "w2"), np.zeros(2, np.int64))  # of 60 and 3 tokens
    make(base, max_length=9, echo=echo).warn_of_cut(texts)
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 of 2 texts are cut to 9 tokens, {100 * 51 / 63:.1f} % of all tokens are not read; --max-length" in said


@pytest.mark.parametrize("echo", [True, False])
def test_answer_tokenises_texts_once(base, echo, monkeypatch):
    teacher, read = make(base, max_length=9, echo=echo), []

    def count(examples, *settings, **more):
        read.extend(examples.texts)
        return tokenise(examples, *settings, **more)

    monkeypatch.setattr(module, "tokenise", count)
    texts = (" ".join(["w1"] * 58), "w2")
    probabilities, is_cut = teacher.answer(texts)
    assert tuple(read) == texts
    assert list(is_cut) == [True, False]
    np.testing.assert_array_equal(probabilities, teacher.probabilities(texts))


def test_padding_and_truncation_of_a_tokenizers_file_are_ignored(base, tmp_path):
    plain = make(base, echo=True)
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(1)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    teacher = make(tmp_path, echo=True)
    assert teacher.classifier.echo == plain.classifier.echo
    assert teacher.key == plain.key
    assert np.array_equal(teacher.logits(EXAMPLES), plain.logits(EXAMPLES))


def test_echo_is_refused_for_encoders(model_directory):
    with pytest.raises(ConfigError, match=r"teacher\.echo: expected a decoder, found 'bert'"):
        make(model_directory("bert"), echo=True)


@pytest.mark.parametrize("options", [{"echo": True}, {"num_layers": 1}], ids=str)
def test_peft_refuses_teachers_that_it_would_compute_differently(options, base, tmp_path):
    make(base, **options).save(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(base)
    with pytest.raises(KeyError, match="POTSTILL"):
        PeftModel.from_pretrained(plain, tmp_path)


def test_parameters_that_each_method_trains(model_directory):
    trained = {
        method: {
            name
            for name, p in make(model_directory("bert"), method=method).classifier.named_parameters()
            if p.requires_grad
        }
        for method in ("full", "head")
    }
    assert {name.removeprefix("model.").rpartition(".")[0] for name in trained["head"]} == {
        "classifier",
        "bert.pooler.dense",
    }
    assert len(trained["full"]) == len(list(make(model_directory("bert"), method="full").classifier.parameters()))


@pytest.fixture
def base(model_directory, tmp_path):
    return shutil.copytree(model_directory("gpt2"), tmp_path / "base")


@pytest.fixture
def saved(base, tmp_path):
    make(base).save(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.mark.parametrize("method", ["lora", "full", "head"])
def test_changed_base_is_refused(method, base, tmp_path):
    saved = tmp_path / "teacher"
    make(base, method=method).save(saved)
    tensors = load_file(base / "model.safetensors")
    tensors["h.0.mlp.c_fc.weight"][0, 0] += 1e-3
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"is not the one .*\(expected weights \w+, found \w+\)"):
        TransformerTeacher.load(saved, CPU)


def test_incomplete_or_foreign_manifest_is_refused(saved):
    manifest = json.loads((saved / MANIFEST).read_text())
    others = (
        *({"format": 99}, {"surplus": 1}, {"method": "prompt"}, {"seed": 1 << 70}, {"pairs": "no"}),
        *({"label_names": "ab"}, {"label_names": []}, {"max_length": 0}, {"backbone": 3}, {"lora": {"rank": "many"}}),
    )
    for damaged in (*(manifest | other for other in others), {"format": manifest["format"]}):
        (saved / MANIFEST).write_text(json.dumps(damaged))
        with pytest.raises(ArtifactError, match=f"{MANIFEST} was (altered|cut short)"):
            TransformerTeacher.load(saved, CPU)
        with pytest.raises(ArtifactError, match=rf"{MANIFEST}(:| is damaged)"):
            TransformerTeacher.load(with_new_checksums(saved), CPU)
    (saved / MANIFEST).unlink()  # which makes it no adapter of peft
    with pytest.raises(ArtifactError, match=f"{MANIFEST}, found none"):
        TransformerTeacher.load(saved, CPU)


@pytest.mark.parametrize("method", ["full", "head"])
def test_damaged_trained_weights_are_refused(method, base, tmp_path):
    make(base, method=method).save(tmp_path)
    path = tmp_path / TRAINED_FILE
    whole, tensors = path.read_bytes(), load_file(path)
    assert ("transformer.h.0.mlp.c_fc.weight" in tensors) is (method == "full")

    def refused(message):
        with pytest.raises(ArtifactError, match=message):
            TransformerTeacher.load(with_new_checksums(tmp_path), CPU)

    headless = {name: tensor for name, tensor in tensors.items() if name != "score.weight"}
    save_file(headless, path)
    refused(r"1 tensors are missing: score\.weight")
    save_file(tensors | {"surplus": torch.zeros(1)}, path)
    refused("1 tensors are not of this model: surplus")
    save_file(tensors | {"score.weight": torch.zeros(3, 16)}, path)
    refused(r"score\.weight \(expected \(2, 16\), found \(3, 16\)\)")
    path.write_bytes(whole[:-8])
    refused("expected safetensors")
    path.unlink()
    refused(f"expected {TRAINED_FILE} among the listed files")


def test_files_of_two_saves_are_refused(base, saved, tmp_path):
    make(base, seed=1).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "adapter_model.safetensors", saved)
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors was altered, or is of another save"):
        TransformerTeacher.load(saved, CPU)


def test_key_depends_on_all_trained_weights(saved):
    teacher = TransformerTeacher.load(saved, CPU)
    keys = {teacher.key}
    trained = [parameter for parameter in teacher.classifier.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data.view(-1)[0] += 1.0
        keys.add(teacher.key)
    assert len(keys) == 1 + len(trained)


def test_key_depends_on_scale_length_padding_and_precision(base):
    teacher = make(base, max_length=6)
    keys = {make(base, max_length=5).key, teacher.key}
    teacher.classifier.pad_token_id += 1
    keys.add(teacher.key)
    rescaled = make(base, max_length=6)
    for _, adapter in adapters(rescaled.classifier):
        adapter.scaling *= 2
    keys.add(rescaled.key)
    mixed = RuntimeConfig(device="cpu", precision="bf16-mixed")
    assert len(keys | {make(base, max_length=6, runtime=mixed).key}) == 5


def test_max_length_is_limited_by_the_backbones_positions(model_directory):
    teacher = make(model_directory("roberta"), max_length=128)
    assert teacher.manifest.max_length == 38
    long = Examples(("w1 " * 200,), np.array([0]))
    assert np.isfinite(teacher.logits(long)).all()


def test_padding_token_falls_back_to_the_end_of_text(base):
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config))
    assert make(base).classifier.pad_token_id == 2


def test_bytes_on_disk_count_the_base(base, saved, tmp_path):
    head = make(base, method="head")
    head.save(tmp_path / "head")
    assert (
        head.bytes_on_disk(tmp_path / "head") == 4 * head.parameters[0] + (tmp_path / "head" / MANIFEST).stat().st_size
    )
    teacher = TransformerTeacher.load(saved, CPU)
    total, trained = teacher.parameters
    assert 0 < trained < total
    assert (
        teacher.bytes_on_disk(saved)
        == 4 * total + (saved / MANIFEST).stat().st_size + (saved / ADAPTER_CONFIG).stat().st_size
    )


def test_decoder_texts_begin_with_bos(tmp_path, model_directory):
    """Where the tokenizer has the token and does not add it; never twice, and never for an encoder."""
    directory = shutil.copytree(model_directory("llama"), tmp_path / "plain")
    content = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))

    def first_ids(name, **options):
        return make(name, **options).featurise(EXAMPLES).tokens[0][:2].tolist()

    plain = first_ids(directory, add_bos=False)
    assert first_ids(directory) == [0, plain[0]]
    assert first_ids(model_directory("llama"))[0] == 0
    assert first_ids(model_directory("llama"))[1] == plain[0]

    pairs = Examples(("w1",), np.array([0]), ("w2",))
    first, second = make(directory, add_bos=False).featurise(pairs).tokens[0].tolist()
    assert make(directory).featurise(pairs).tokens[0].tolist() == [0, first, 0, second]

    settings = directory / "tokenizer_config.json"
    known = json.loads(settings.read_text())
    del known["bos_token"]
    settings.write_text(json.dumps(known))
    assert make(directory).featurise(pairs).tokens[0].tolist() == [first, 2, second]  # the end-of-text token

    encoder = shutil.copytree(model_directory("bert"), tmp_path / "encoder")
    shutil.copy(directory / "tokenizer.json", encoder / "tokenizer.json")
    assert first_ids(encoder) == plain


def test_known_settings_hold_the_lora_settings_as_given(base, tmp_path):
    asked = LoRAConfig(rank=2, target_modules=("*.1.*c_attn",))
    teacher = TransformerTeacher.create(TransformerConfig(backbone=str(base), lora=asked), CPU, CORPUS, 16, 0)
    teacher.save(tmp_path / "teacher")
    loaded = TransformerTeacher.load(tmp_path / "teacher", CPU)
    assert loaded.known_settings(TransformerConfig()).lora == asked
    assert loaded.lora.target_modules == ("transformer.h.1.attn.c_attn",)  # PEFT's file names the modules


def test_key_depends_on_the_bases_settings(base, saved):
    before = TransformerTeacher.load(saved, CPU).key
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"layer_norm_epsilon": 1e-3}))
    assert TransformerTeacher.load(saved, CPU).key != before


def finish(directory, seed=0, mcc=0.1):
    record = {"description": "", "parameters": 2, "trainable_parameters": 1, "bytes_on_disk": 3, "train_seconds": 1.0}
    TrainingRecord(role="teacher", seed=seed, best={"mcc": mcc}, **record).save(directory)


def settings(teachers):
    return PotstillConfig.build({"distillation": {"teachers": teachers}, "runtime": CPU.model_dump()})


@pytest.mark.parametrize("lost", [MANIFEST, TRAINING_FILE])
def test_incomplete_best_teacher_is_refused(tiny_backbone, tmp_path, lost):
    for seed in (0, 1):
        make(tiny_backbone, seed=seed).save(tmp_path / f"seed-{seed}")
        finish(tmp_path / f"seed-{seed}", seed, mcc=0.1 + seed)
    assert find_teacher(tmp_path) == tmp_path / "seed-1"
    (tmp_path / "seed-1" / lost).unlink()
    with pytest.raises(ArtifactError, match=lost):
        load_teacher(tmp_path, settings("best"))


@pytest.mark.parametrize("teachers", ["best", "average"])
def test_of_several_teachers_only_finished_ones_are_used(tiny_backbone, tmp_path, capsys, teachers):
    for seed in (0, 1, 2):
        make(tiny_backbone, seed=seed).save(tmp_path / f"seed-{seed}")
    with pytest.raises(ArtifactError, match="expected a teacher whose training has ended, found 3 interrupted"):
        load_teacher(tmp_path, settings(teachers))
    for seed in (0, 2):
        finish(tmp_path / f"seed-{seed}", seed)
    teacher, _ = load_teacher(tmp_path, settings(teachers))
    one_each = [TransformerTeacher.load(tmp_path / f"seed-{seed}", CPU).logits(EXAMPLES) for seed in (0, 2)]
    expected = average_logits(one_each) if teachers == "average" else one_each[0]
    np.testing.assert_allclose(teacher.logits(EXAMPLES), expected, rtol=1e-6)
    assert f"not used, since their training was interrupted: {tmp_path / 'seed-1'}\n" in capsys.readouterr().err


@pytest.mark.parametrize("teachers", ["best", "average"])
def test_single_interrupted_teacher_is_used_with_a_warning(tiny_backbone, tmp_path, capsys, teachers):
    make(tiny_backbone).save(tmp_path)
    load_teacher(tmp_path, settings(teachers))
    assert f"WARNING: the training of the teacher in {tmp_path} was interrupted" in capsys.readouterr().err
    finish(tmp_path)
    load_teacher(tmp_path, settings(teachers))
    assert "WARNING" not in capsys.readouterr().err


def test_save_that_was_killed_while_moving_its_files_is_found(tiny_backbone, tmp_path):
    make(tiny_backbone).save(tmp_path / "made")
    finish(tmp_path / "made")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "made").rename(tmp_path / "teacher" / ".saving-x")
    copy = shutil.copytree(tmp_path / "teacher", tmp_path / "copy")
    assert TrainingRecord.find(copy) is not None
    TransformerTeacher.load(tmp_path / "teacher", CPU)


def test_teacher_that_is_saved_again_while_it_is_read_is_refused(tiny_backbone, tmp_path, monkeypatch):
    make(tiny_backbone).save(tmp_path / "teacher")
    later, load = make(tiny_backbone, seed=1), module.load_adapter
    monkeypatch.setattr(module, "load_adapter", lambda *arguments: later.save(tmp_path / "teacher") or load(*arguments))
    with pytest.raises(ArtifactError, match="was saved again while it was read"):
        TransformerTeacher.load(tmp_path / "teacher", CPU)
