"""Properties of configurations, manifests, checksums, adapters and the cache of tokens, for any input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from potstill.config import PotstillConfig
from potstill.data import Examples
from potstill.data.tokenised import tokenise
from potstill.errors import ArtifactError, ConfigError
from potstill.lora import LoRALinear
from potstill.predict.directory import Manifest
from potstill.store.checksums import CHECKSUMS_FILE, verify
from potstill.teacher.manifest import TeacherManifest
from tiny_words import tiny_tokenizer

PATH = Path("somewhere")

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
names = st.text(max_size=8)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=8
)

SPEC = {"vocab_size": 9, "num_classes": 2, "pad_token_id": 0}
STUDENT = {
    **{"format": 2, "kind": "rnn", "spec": SPEC, "label_names": ["a", "b"], "max_length": 5, "in_pairs": False},
    **{"temperature": 1.5, "threshold": None},
}
TEACHER = {
    **{"format": 8, "backbone": "b", "tokenizer": "t", "add_bos": True, "seed": 0},
    **{"method": "lora", "lora": {"rank": 2}, "base": "", "label_names": ["a", "b"]},
    **{"max_length": 9, "in_pairs": False, "echo": False, "num_layers": None},
}


@pytest.mark.parametrize(("parse", "values"), [(Manifest.parse, STUDENT), (TeacherManifest.parse, TEACHER)])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_manifest_is_read_or_refused_by_name(parse, values, data):
    assert parse(json.dumps(values).encode(), PATH)
    changed = dict(values)
    for name in data.draw(st.lists(st.sampled_from([*values, "surplus"]), min_size=1, max_size=3)):
        changed[name] = data.draw(anything)
    try:
        parse(json.dumps(changed).encode(), PATH)
    except ArtifactError as error:
        assert str(PATH) in str(error)  # noqa: PT017 — it may be read, too


def test_manifests_from_before_some_fields_mean_what_they_meant():
    student, teacher = (
        parse(json.dumps(values).encode(), PATH)
        for parse, values in ((Manifest.parse, STUDENT), (TeacherManifest.parse, TEACHER))
    )
    assert (student.long_texts, student.min_confidence, student.validation) == ("head", None, None)
    assert (teacher.long_texts, teacher.threshold, teacher.label_type) == ("head", None, "str")


def test_pairs_are_not_cut_to_almost_nothing():
    short = {"in_pairs": True, "max_length": 3}
    with pytest.raises(ArtifactError, match="expected a whole number from 4 to 65,536 as max_length, found 3"):
        Manifest.parse(json.dumps(STUDENT | short).encode(), PATH)
    with pytest.raises(ArtifactError, match="a max_length of at least 4 for pairs, found 3"):
        TeacherManifest.parse(json.dumps(TEACHER | short).encode(), PATH)


@settings(max_examples=150)
@given(content=anything | st.fixed_dictionaries({"format": st.just(1), "files": anything}))
def test_any_checksums_file_is_read_or_refused(content, tmp_path_factory):
    directory = tmp_path_factory.mktemp("listed")
    (directory / CHECKSUMS_FILE).write_text(json.dumps(content))
    try:
        names = verify(directory)
    except ArtifactError as error:
        assert str(directory) in str(error)  # noqa: PT017
    else:
        assert names == ()  # nothing is there that could fit


@pytest.mark.parametrize(
    "text",
    ["[" * 20_000, "{a: " * 20_000, "2001-13-45", "a: 2001-13-45", "- " * 5000, "1" * 5000, "!!python/name:os.system"],
    ids=lambda text: text[:20],
)
def test_yaml_that_breaks_its_reader_is_refused(text, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        PotstillConfig.load(path)


def test_errors_about_yaml_aliases_are_short(tmp_path):
    """Nine times nine times … : written out, a gigabyte."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines) + "\nteacher: *a8\nstudent: {seeds: *a8}\n")
    with pytest.raises(ConfigError) as caught:
        PotstillConfig.load(path)
    assert len(str(caught.value)) < 50_000


@settings(max_examples=25)
@given(
    texts=st.lists(st.text(max_size=20), min_size=1, max_size=6),
    pairs=st.booleans(),
    max_length=st.integers(3, 12),
    place=st.integers(0, 10_000),
)
def test_damaged_token_cache_gives_what_encoding_gives(texts, pairs, max_length, place, tmp_path_factory):
    examples = Examples(tuple(texts), np.zeros(len(texts), np.int64), tuple(reversed(texts)) if pairs else None)
    tokenizer = tiny_tokenizer().backend_tokenizer
    expected = tokenise(examples, tokenizer, max_length, empty_id=1, cached=False)
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_CACHE", str(cache))
        for number in range(3):
            found = tokenise(examples, tokenizer, max_length, empty_id=1)
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.offsets, expected.offsets)
            (file,) = cache.glob("tokens/*")
            content = bytearray(file.read_bytes())
            content[place % len(content)] ^= 1 + number
            file.write_bytes(content)


@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)),
    use_rslora=st.booleans(),
    alpha=st.floats(0.1, 30),
    seed=st.integers(0, 999),
)
def test_merging_changes_no_output_and_unmerging_restores_the_weight(sizes, use_rslora, alpha, seed):
    inputs, outputs, rank = sizes
    torch.manual_seed(seed)
    base = nn.Linear(inputs, outputs)
    layer = LoRALinear(base, rank, alpha, use_rslora=use_rslora)
    nn.init.normal_(layer.lora_B)
    x, weight = torch.randn(3, inputs), base.weight.detach().clone()
    expected = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    layer.unmerge()
    assert torch.equal(base.weight, weight)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
