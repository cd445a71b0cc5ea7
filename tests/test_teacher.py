import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from moved import moved
from potstill import teacher as module
from potstill.config import LoRAConfig, PotstillConfig, RuntimeConfig, TeacherConfig
from potstill.data import Corpus, Examples
from potstill.errors import ArtifactError, ConfigError, SourceError
from potstill.lora import adapters
from potstill.lora.quantised import QuantisedLinear
from potstill.models import TrainingRecord, find_teacher, load_teachers
from potstill.runtime.directory import ADAPTER_CONFIG, TRAINED_FILE, TRAINING_FILE
from potstill.runtime.directory import TEACHER_MANIFEST as MANIFEST
from potstill.teacher import Teacher, put_on_one_base, teacher_bytes
from potstill.teacher_manifest import TeacherManifest
from resealed import reseal

CPU = RuntimeConfig(device="cpu", precision="32-true")
EXAMPLES = Examples(("w1 w2 w3", "w4", "", "w5 w6 w7 w8 w9"), np.array([0, 1, 0, 1]))
CORPUS = Corpus("tiny", "made up", ("bad", "good"), EXAMPLES, EXAMPLES, EXAMPLES)


def make(name, *, seed=0, max_tokens=16, runtime=CPU, **options):
    config = TeacherConfig(backbone=str(name), **{"lora": LoRAConfig(rank=2)} | options)
    teacher = Teacher.create(config, runtime, CORPUS, max_tokens, seed)
    moved(teacher.classifier)
    return teacher


@pytest.mark.parametrize("random_init", [False, True])
def test_a_saved_teacher_judges_as_before(family, model_directory, tmp_path, random_init):
    teacher = make(model_directory(family), random_init=random_init, seed=3)
    logits = teacher.logits(EXAMPLES)
    assert logits.shape == (4, 2)
    assert logits.dtype == torch.float32
    teacher.save(tmp_path)

    torch.manual_seed(99)
    loaded = Teacher.load(tmp_path, CPU)
    assert loaded.key() == teacher.key()  # before the first text and after
    assert torch.equal(loaded.logits(EXAMPLES), logits)
    assert loaded.manifest == teacher.manifest
    assert loaded.parameters == teacher.parameters


def memory(teachers, *, trained):
    parameters = [p for teacher in teachers for p in teacher.classifier.parameters() if p.requires_grad == trained]
    return {p.data_ptr() for p in parameters}


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("bf16-mixed", 0.1)])
def test_teachers_on_one_base_judge_as_before(precision, tolerance, base):
    runtime = RuntimeConfig(device="cpu", precision=precision)
    teachers = [make(base, seed=seed, runtime=runtime) for seed in range(3)]
    apart = [teacher.logits(EXAMPLES) for teacher in teachers]
    put_on_one_base(teachers)
    assert len(memory(teachers, trained=False)) == len(memory(teachers[:1], trained=False))
    assert len(memory(teachers, trained=True)) == 3 * len(memory(teachers[:1], trained=True))
    with teachers[0].merged():  # which leaves the others alone
        together = [teacher.logits(EXAMPLES) for teacher in teachers]
    assert all(map(torch.equal, apart[1:], together[1:]))
    torch.testing.assert_close(together[0], apart[0], rtol=tolerance, atol=tolerance)
    assert all(map(torch.equal, apart, (teacher.logits(EXAMPLES) for teacher in teachers)))


def test_what_differs_in_the_base_stays_apart(base):
    options = {"lora": LoRAConfig(rank=2, init="pissa", targets=("*c_attn",))}
    teachers = [make(base, seed=0), make(base, seed=1, **options)]
    apart = [teacher.logits(EXAMPLES) for teacher in teachers]
    put_on_one_base(teachers)
    assert len(memory(teachers[:1], trained=False)) < len(memory(teachers, trained=False))
    assert all(map(torch.equal, apart, (teacher.logits(EXAMPLES) for teacher in teachers)))


@pytest.mark.parametrize("merging", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_what_texts_share_is_computed_once_and_judged_as_before(family, merging, model_directory, monkeypatch):
    words = [" ".join(f"w{1 + (n * k) % 9}" for k in range(1 + n % 7)) for n in range(40)]
    examples = Examples((*EXAMPLES.texts, *words), np.zeros(44, np.int64))
    teacher = make(model_directory(family))
    teacher.classifier.takes_trees, takes_trees = False, teacher.classifier.takes_trees
    expected = teacher.logits(examples)
    if merging:
        monkeypatch.setattr(module, "_FEW_TOKENS", 1)
    teacher.classifier.takes_trees = takes_trees
    assert takes_trees == (family != "bert")
    torch.testing.assert_close(teacher.logits(examples), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "full"},
        {"method": "head"},
        {"base_bits": 4},
        {"base_bits": 8, "lora": LoRAConfig(rank=2, dora=True, bias="all")},
        {"base_bits": 8, "method": "head"},
        {"lora": LoRAConfig(rank=2, rank_stabilised=True, train_layernorm=True)},
    ],
    ids=str,
)
def test_so_it_does_by_every_method(options, precision, model_directory, tmp_path):
    runtime = RuntimeConfig(device="cpu", precision=precision)
    for family in ("gpt2", "bert"):
        teacher = make(model_directory(family), runtime=runtime, **options)
        logits = teacher.logits(EXAMPLES)
        teacher.save(tmp_path / family)
        loaded = Teacher.load(tmp_path / family, runtime)
        assert loaded.key() == teacher.key()
        assert torch.equal(loaded.logits(EXAMPLES), logits)
        assert loaded.parameters == teacher.parameters
        assert all(p.dtype == torch.float32 for p in loaded.classifier.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", ["lora", "full", "head"])
def test_a_teacher_that_reads_twice_judges_as_before_when_it_is_loaded(method, base, tmp_path):
    teacher = make(base, method=method, echo=True)
    logits = teacher.logits(EXAMPLES)
    teacher.save(tmp_path)
    loaded = Teacher.load(tmp_path, CPU)
    assert loaded.key() == teacher.key() != make(base, method=method).key()
    assert torch.equal(loaded.logits(EXAMPLES), logits)
    assert loaded.describe(TeacherConfig()).echo
    assert not torch.allclose(make(base, method=method).logits(EXAMPLES), logits, atol=1e-2)


@pytest.mark.parametrize("method", ["lora", "full", "head"])
def test_a_teacher_of_the_first_blocks_judges_as_before_when_it_is_loaded(method, base, tmp_path):
    teacher = make(base, method=method, first_blocks=1)
    logits = teacher.logits(EXAMPLES)
    teacher.save(tmp_path)
    loaded = Teacher.load(tmp_path, CPU)
    assert loaded.key() == teacher.key() != make(base, method=method).key()
    assert torch.equal(loaded.logits(EXAMPLES), logits)
    assert loaded.describe(TeacherConfig()).first_blocks == 1
    assert loaded.parameters[0] < make(base, method=method).parameters[0]


def test_reading_twice_takes_half_as_many_tokens(base):
    assert make(base, max_tokens=100).manifest.max_tokens == 40
    teacher = make(base, max_tokens=100, echo=True)
    longest = Examples((" ".join(["w1"] * 50), ""), np.zeros(2, np.int64))
    once = make(base, max_tokens=teacher.manifest.max_tokens).training_set(longest).tokens
    separator = teacher.classifier.echo.separator
    twice = teacher.training_set(longest).tokens
    assert [ids.tolist() for ids in twice] == [[*ids[:-1], *separator, *ids[1:]] for ids in map(list, once)]
    assert 39 <= twice.lengths[0] <= 40
    assert teacher.logits(longest).isfinite().all()


def test_what_a_tokenizers_file_says_of_padding_is_no_part_of_a_text(base, tmp_path):
    plain = make(base, echo=True)
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(1)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    teacher = make(tmp_path, echo=True)
    assert teacher.classifier.echo == plain.classifier.echo
    assert teacher.key() == plain.key()
    assert torch.equal(teacher.logits(EXAMPLES), plain.logits(EXAMPLES))


def test_who_sees_the_whole_text_need_not_read_twice(model_directory):
    with pytest.raises(ConfigError, match=r"teacher\.echo: expected a decoder, found 'bert'"):
        make(model_directory("bert"), echo=True)


@pytest.mark.parametrize("options", [{"echo": True}, {"first_blocks": 1}], ids=str)
def test_peft_refuses_what_it_would_compute_otherwise(options, base, tmp_path):
    make(base, **options).save(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(base)
    with pytest.raises(KeyError, match="POTSTILL"):
        PeftModel.from_pretrained(plain, tmp_path)


def test_what_each_method_trains(model_directory):
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


def test_a_base_of_few_bits_counts_all_its_weights_and_can_be_had_unpacked(base, tmp_path):
    plain, packed = make(base), make(base, base_bits=4)
    assert packed.parameters == plain.parameters
    assert packed.manifest.base == plain.manifest.base
    assert packed.manifest.base_bits == 4
    packed.save(tmp_path / "packed")
    unpacked = Teacher.load(tmp_path / "packed", CPU, pack=False)
    assert not any(isinstance(module, QuantisedLinear) for module in unpacked.classifier.modules())
    torch.testing.assert_close(unpacked.logits(EXAMPLES), packed.logits(EXAMPLES), atol=1e-5, rtol=1e-5)


def test_a_configuration_follows_what_was_loaded(base, tmp_path):
    make(base, method="head", base_bits=8).save(tmp_path / "teacher")
    described = Teacher.load(tmp_path / "teacher", CPU).describe(TeacherConfig())
    assert (described.backbone, described.method, described.base_bits) == (str(base), "head", 8)


@pytest.mark.parametrize("teacher", [{"method": "full"}, {"lora": {"init": "pissa"}}], ids=str)
def test_bits_for_what_is_trained_or_moved_are_refused(teacher):
    with pytest.raises(ConfigError, match="base_bits"):
        PotstillConfig.build({"teacher": teacher | {"base_bits": 4}})


@pytest.fixture
def base(model_directory, tmp_path):
    return shutil.copytree(model_directory("gpt2"), tmp_path / "base")


@pytest.fixture
def saved(base, tmp_path):
    make(base).save(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.mark.parametrize("method", ["lora", "full", "head"])
def test_another_base_is_refused(method, base, tmp_path):
    saved = tmp_path / "teacher"
    make(base, method=method).save(saved)
    tensors = load_file(base / "model.safetensors")
    tensors["h.0.mlp.c_fc.weight"][0, 0] += 1e-3
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"is not the one .*\(expected weights \w+, found \w+\)"):
        Teacher.load(saved, CPU)


def test_a_base_that_is_gone_is_refused(base, saved):
    shutil.rmtree(base)
    with pytest.raises(SourceError, match="no such file or directory"):
        Teacher.load(saved, CPU)


def test_an_incomplete_or_foreign_manifest_is_refused(saved):
    manifest = json.loads((saved / MANIFEST).read_text())
    others = (
        *({"format": 99}, {"surplus": 1}, {"method": "prompt"}, {"base_bits": 3}, {"seed": 1 << 70}, {"pairs": "no"}),
        *({"label_names": "ab"}, {"label_names": []}, {"max_tokens": 0}, {"backbone": 3}, {"lora": {"rank": "many"}}),
    )
    for damaged in (*(manifest | other for other in others), {"format": manifest["format"]}):
        (saved / MANIFEST).write_text(json.dumps(damaged))
        with pytest.raises(ArtifactError, match=f"{MANIFEST} was (altered|cut short)"):
            Teacher.load(saved, CPU)
        with pytest.raises(ArtifactError, match=rf"{MANIFEST}(:| is damaged)"):
            Teacher.load(reseal(saved), CPU)
    (saved / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=MANIFEST):
        Teacher.load(saved, CPU)


@pytest.mark.parametrize("method", ["full", "head"])
def test_a_damaged_file_of_trained_weights_is_refused(method, base, tmp_path):
    make(base, method=method).save(tmp_path)
    path = tmp_path / TRAINED_FILE
    whole, tensors = path.read_bytes(), load_file(path)
    assert ("transformer.h.0.mlp.c_fc.weight" in tensors) is (method == "full")

    def refused(message):
        with pytest.raises(ArtifactError, match=message):
            Teacher.load(reseal(tmp_path), CPU)

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
    refused(f"expected {TRAINED_FILE} among the sealed files")


def test_files_of_two_teachers_do_not_belong_together(base, saved, tmp_path):
    make(base, seed=1).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "adapter_model.safetensors", saved)
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors was altered, or is of another save"):
        Teacher.load(saved, CPU)


def test_a_sealed_teacher_without_its_manifest_is_no_adapter_of_peft(saved):
    (saved / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=f"{MANIFEST}, found none"):
        Teacher.load(saved, CPU)


def test_the_key_follows_everything_that_is_trained(saved):
    teacher = Teacher.load(saved, CPU)
    keys = {teacher.key()}
    trained = [parameter for parameter in teacher.classifier.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data.view(-1)[0] += 1.0
        keys.add(teacher.key())
    assert len(keys) == 1 + len(trained)


def test_the_key_follows_scale_start_length_padding_and_precision(base):
    teacher = make(base, max_tokens=6)
    keys = {make(base, max_tokens=5).key(), teacher.key()}
    keys.add(replace(teacher, lora=teacher.lora.model_copy(update={"init": "pissa"})).key())
    teacher.classifier.padding_id += 1
    keys.add(teacher.key())
    rescaled = make(base, max_tokens=6)
    for _, adapter in adapters(rescaled.classifier):
        adapter.scaling *= 2
    keys |= {rescaled.key(), make(base, max_tokens=6, base_bits=4).key(), make(base, max_tokens=6, base_bits=8).key()}
    mixed = RuntimeConfig(device="cpu", precision="bf16-mixed")
    assert len(keys | {make(base, max_tokens=6, runtime=mixed).key()}) == 8


def test_texts_are_cut_to_the_backbones_positions(model_directory):
    teacher = make(model_directory("roberta"), max_tokens=128)
    assert teacher.manifest.max_tokens == 38
    long = Examples(("w1 " * 200,), np.array([0]))
    assert torch.isfinite(teacher.logits(long)).all()


def test_the_padding_token_falls_back_to_the_end_of_text(base):
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config))
    assert make(base).classifier.padding_id == 2


def test_the_size_on_disk_counts_the_base(base, saved, tmp_path):
    head = make(base, method="head")
    head.save(tmp_path / "head")
    assert teacher_bytes(tmp_path / "head", 10) == 40 + (tmp_path / "head" / MANIFEST).stat().st_size
    teacher = Teacher.load(saved, CPU)
    total, trained = teacher.parameters
    assert 0 < trained < total
    size = teacher_bytes(saved, total)
    assert size == 4 * total + (saved / MANIFEST).stat().st_size + (saved / ADAPTER_CONFIG).stat().st_size


def test_a_decoders_texts_begin_with_its_beginning_of_text_token(tmp_path, model_directory):
    """Where the tokenizer has the token and does not add it; never twice, and never for an encoder."""
    directory = shutil.copytree(model_directory("llama"), tmp_path / "plain")
    content = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))

    def first_ids(name, **options):
        return make(name, **options).training_set(EXAMPLES).tokens[0][:2].tolist()

    plain = first_ids(directory, add_bos=False)
    assert first_ids(directory) == [0, plain[0]]
    assert first_ids(model_directory("llama"))[0] == 0
    assert first_ids(model_directory("llama"))[1] == plain[0]

    pairs = Examples(("w1",), np.array([0]), ("w2",))
    first, second = make(directory, add_bos=False).training_set(pairs).tokens[0].tolist()
    assert make(directory).training_set(pairs).tokens[0].tolist() == [0, first, 0, second]

    settings = directory / "tokenizer_config.json"
    known = json.loads(settings.read_text())
    del known["bos_token"]
    settings.write_text(json.dumps(known))
    assert make(directory).training_set(pairs).tokens[0].tolist() == [first, 2, second]  # the end-of-text token

    encoder = shutil.copytree(model_directory("bert"), tmp_path / "encoder")
    shutil.copy(directory / "tokenizer.json", encoder / "tokenizer.json")
    assert first_ids(encoder) == plain


@pytest.fixture
def foreign(model_directory, tmp_path):
    """An adapter that `peft` trained and saved, and the model that it saved."""
    base = model_directory("llama")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model.config.pad_token_id = 1
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear")).eval()
    moved(adapted).save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign", adapted


def test_an_adapter_of_peft_is_a_teacher_with_numbered_classes(foreign, model_directory):
    directory, adapted = foreign
    teacher = Teacher.load(directory, CPU)
    assert teacher.manifest.label_names == ("0", "1", "2")
    assert teacher.manifest.max_tokens == teacher.classifier.max_tokens
    tokenizer = AutoTokenizer.from_pretrained(model_directory("llama"))
    texts = [text for text in EXAMPLES.texts if text]
    with torch.no_grad():
        expected = adapted(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    found = teacher.logits(Examples(tuple(texts), np.zeros(len(texts), np.int64)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_peft_did_not_save_is_missed(foreign):
    directory, _ = foreign
    weights = directory / "adapter_model.safetensors"
    whole = load_file(weights)
    save_file({name: tensor for name, tensor in whole.items() if "score" not in name}, weights)
    with pytest.raises(ArtifactError, match="expected the classification head"):
        Teacher.load(directory, CPU)
    weights.write_bytes(b"")
    with pytest.raises(ArtifactError, match="expected safetensors"):
        Teacher.load(directory, CPU)
    settings = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(ArtifactError, match="base_model_name_or_path"):
        Teacher.load(directory, CPU)


def test_a_configuration_tells_how_the_adapters_were_asked_for(base, tmp_path):
    asked = LoRAConfig(rank=2, init="pissa", learning_rate_ratio=4, last_blocks=1)
    teacher = Teacher.create(TeacherConfig(backbone=str(base), lora=asked), CPU, CORPUS, 16, 0)
    teacher.save(tmp_path / "teacher")
    loaded = Teacher.load(tmp_path / "teacher", CPU)
    assert loaded.describe(TeacherConfig()).lora == asked
    assert loaded.lora.rank == 4  # PiSSA's as plain LoRA


def test_the_key_follows_the_bases_settings(base, saved):
    before = Teacher.load(saved, CPU).key()
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"layer_norm_epsilon": 1e-3}))
    assert Teacher.load(saved, CPU).key() != before


@pytest.mark.parametrize("lost", [MANIFEST, TRAINING_FILE])
def test_the_best_teacher_is_refused_where_it_is_incomplete(tiny_backbone, tmp_path, lost):
    """Another seed would judge in its place without a word."""
    for seed in (0, 1):
        teacher = make(tiny_backbone, seed=seed)
        teacher.save(tmp_path / f"seed-{seed}")
        finish(tmp_path / f"seed-{seed}", seed, mcc=0.1 + seed)
    assert find_teacher(tmp_path) == tmp_path / "seed-1"
    (tmp_path / "seed-1" / lost).unlink()
    with pytest.raises(ArtifactError, match=lost):
        load_teachers(tmp_path, CPU, "best")


def finish(directory, seed=0, mcc=0.1):
    record = {"parameters": 2, "trainable_parameters": 1, "bytes_on_disk": 3, "train_seconds": 1.0}
    TrainingRecord(role="teacher", seed=seed, best={"mcc": mcc}, **record).save(directory)


def test_only_finished_teachers_are_averaged_and_those_left_out_are_named(tiny_backbone, tmp_path, capsys):
    for seed in (0, 1, 2):
        make(tiny_backbone, seed=seed).save(tmp_path / f"seed-{seed}")
    with pytest.raises(ArtifactError, match="expected a teacher whose training has ended, found 3 interrupted"):
        load_teachers(tmp_path, CPU, "average")
    for seed in (0, 2):
        finish(tmp_path / f"seed-{seed}", seed)
    teachers = load_teachers(tmp_path, CPU, "average")
    assert [teacher.manifest.seed for teacher in teachers] == [0, 2]
    assert len(memory(teachers, trained=False)) == len(memory(teachers[:1], trained=False))  # one base
    assert f"WARNING: not asked, since their training was interrupted: {tmp_path / 'seed-1'}\n" in "".join(
        capsys.readouterr()
    )


@pytest.mark.parametrize("which", ["best", "average"])
def test_a_single_interrupted_teacher_judges_with_a_warning(tiny_backbone, tmp_path, capsys, which):
    make(tiny_backbone).save(tmp_path)
    assert len(load_teachers(tmp_path, CPU, which)) == 1
    assert f"WARNING: the training of the teacher in {tmp_path} was interrupted" in "".join(capsys.readouterr())
    finish(tmp_path)
    load_teachers(tmp_path, CPU, which)
    assert "WARNING" not in "".join(capsys.readouterr())


def test_an_adapter_of_peft_is_no_interrupted_one(foreign, capsys):
    load_teachers(foreign[0], CPU, "average")
    assert "WARNING" not in "".join(capsys.readouterr())


def test_a_teacher_is_found_in_a_first_save_that_was_killed(tiny_backbone, tmp_path):
    make(tiny_backbone).save(tmp_path / "made")
    finish(tmp_path / "made")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "made").rename(tmp_path / "teacher" / ".saving-x")
    copy = shutil.copytree(tmp_path / "teacher", tmp_path / "copy")
    assert TrainingRecord.find(copy) is not None
    TeacherManifest.load(shutil.copytree(tmp_path / "teacher", tmp_path / "another"))
    Teacher.load(tmp_path / "teacher", CPU)


def test_a_teacher_that_is_saved_again_while_it_is_read_is_refused(tiny_backbone, tmp_path, monkeypatch):
    """What was compared is not what was read then."""
    make(tiny_backbone).save(tmp_path / "teacher")
    later, load = make(tiny_backbone, seed=1), module.load_adapter
    monkeypatch.setattr(module, "load_adapter", lambda *arguments: later.save(tmp_path / "teacher") or load(*arguments))
    with pytest.raises(ArtifactError, match="was saved again while it was read"):
        Teacher.load(tmp_path / "teacher", CPU)
