"""The parsers that are fuzzed: each takes any bytes, and may succeed or refuse with an error of ours, nothing else.

`tests/test_fuzz_inputs.py` gives every input that was once a finding to these functions again.
"""

from __future__ import annotations

import atexit
import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import DataConfig, PotstillConfig
from potstill.data.labels import label_names_of
from potstill.data.readers import read_rows, to_examples
from potstill.errors import PotstillError
from potstill.lora.state import read_peft_settings
from potstill.predict import stream
from potstill.predict.classifier import _load_tokenizer
from potstill.predict.directory import Manifest
from potstill.serve.limits import Limits
from potstill.serve.models import ServedModel
from potstill.serve.problems import Refusal
from potstill.serve.question import Questions
from potstill.store.atomic import parse_json
from potstill.store.checksums import CHECKSUMS_FILE, verify
from potstill.teacher.manifest import TeacherManifest

Target = Callable[[bytes], object]

_PATH = Path("fuzzed")


@functools.cache
def _directory() -> Path:
    """Return a place for files; it stays until the process ends."""
    directory = tempfile.mkdtemp(prefix="potstill-fuzz-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def _rows(data: bytes, suffix: str) -> None:
    """Read a labelled file of pairs; what is read has to be what was promised: texts that are UTF-8, labels."""
    path = _directory() / f"data{suffix}"
    path.write_bytes(data)
    refusal = None
    for config in (DataConfig(), DataConfig(pair_column="pair")):
        try:
            rows = read_rows(path, config)
            names = label_names_of(rows, path)
            examples = to_examples(rows, names, path, config)
        except PotstillError as error:
            refusal = error
            continue
        if not all(text.strip() == text and text.encode("utf-8") for text in examples.all_texts):
            raise AssertionError("a text is empty, or has white space around it")
    if refusal is not None:
        raise refusal


def _config(data: bytes) -> None:
    path = _directory() / "config.yaml"
    path.write_bytes(data)
    config = PotstillConfig.load(path)
    config.save(path)
    if PotstillConfig.load(path) != config:
        raise AssertionError("a configuration does not come back as it was saved")


def _checksums(data: bytes) -> None:
    (_directory() / CHECKSUMS_FILE).write_bytes(data)
    verify(_directory())


@functools.cache
def _model() -> PreTrainedModel:
    sizes = {"n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 8, "vocab_size": 8}
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("gpt2", **sizes))
    return model


def _adapter(data: bytes) -> None:
    values = parse_json(data, _PATH)
    read_peft_settings(_model(), values, {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": (2, 4)}, _PATH)


def _stream(data: bytes, layout: stream.Layout) -> None:
    for _ in stream.read(io.BytesIO(data), layout, "fuzzed"):
        pass


@functools.cache
def _questions() -> Questions:
    def never(texts: object) -> NoReturn:
        raise AssertionError("nothing is asked here")

    single = ServedModel("one", "student", ("a", "b"), False, never)
    return Questions({"one": single, "two": ServedModel("two", "student", ("a", "b"), True, never)}, Limits())


def _query(data: bytes) -> None:
    try:
        query = _questions().parse(data)
    except Refusal:
        return
    if not query.texts or not query.models:
        raise AssertionError("a query without texts or models")


def _unlabelled(data: bytes) -> None:
    path = _directory() / "unlabelled.parquet"
    path.write_bytes(data)
    UnlabelledSet.load(path)


TARGETS: dict[str, Target] = {
    **{suffix[1:]: functools.partial(_rows, suffix=suffix) for suffix in (".csv", ".tsv", ".jsonl", ".parquet")},
    "config": _config,
    "student": lambda data: Manifest.parse(data, _PATH),
    "teacher": lambda data: TeacherManifest.parse(data, _PATH),
    "checksums": _checksums,
    "adapter": _adapter,
    **{
        f"stream-{layout.format}": functools.partial(_stream, layout=layout)
        for layout in (
            stream.Layout("text", in_pairs=True),
            stream.Layout("csv", in_pairs=True, columns=("text", "pair")),
            stream.Layout("tsv"),
            stream.Layout("jsonl"),
        )
    },
    "query": _query,
    "tokenizer": lambda data: _load_tokenizer(data, _PATH, 300, 16),
    "augment": _unlabelled,
}
"""By name."""


def attempt(name: str, data: bytes) -> bool:
    """Give bytes to a target; returns whether they were accepted. Raises what is not to be raised."""
    try:
        TARGETS[name](data)
    except PotstillError as error:
        if len(str(error)) > _LONGEST_MESSAGE + 8 * len(data):
            raise AssertionError(f"an error of {len(str(error))} characters about {len(data)} bytes") from error
        return False
    return True


_LONGEST_MESSAGE = 20_000
"""Characters: a configuration's mistakes are told all at once."""


def seeds(name: str) -> list[bytes]:
    """Return inputs that a target accepts, or nearly, for the fuzzer to begin with."""
    table = {"text": ["one two", "three"], "label": ["a", "b"], "pair": ["x", "y"]}
    if name in ("parquet", "augment"):
        rows, unlabelled = _directory() / "rows.parquet", _directory() / "seed.parquet"
        pq.write_table(pa.table(table), rows)
        UnlabelledSet(("a", "b"), None, ("file:a", "perturbed:x"), {"held-out": 1}).save(unlabelled)
        return [rows.read_bytes(), unlabelled.read_bytes()]
    if name == "tokenizer":
        return [Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")).to_str().encode()]  # noqa: S106
    return [text.encode() for text in _TEXTS[name]]


_SPEC = {"vocab_size": 9, "num_classes": 2, "pad_token_id": 0}
_ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["c_attn"]}
_TEACHER = {
    **{"format": 8, "backbone": "b", "tokenizer": "t", "add_bos": True, "seed": 0},
    **{"method": "lora", "lora": {"rank": 2}, "base": "", "label_names": ["a", "b"]},
    **{"max_length": 9, "in_pairs": False, "echo": False, "num_layers": None},
}
_STUDENT = {
    **{"format": 2, "kind": "rnn", "spec": _SPEC, "label_names": ["a", "b"]},
    **{"max_length": 5, "in_pairs": False, "temperature": 1.5},
}
_CHECKSUMS = {"format": 1, "files": {"weights": {"bytes": 1, "sha256": "0" * 64}}}
_TEXTS = {
    "csv": ['text,label,pair\none,a,x\n"two, ""2""\nlines",b,y\n'],
    "tsv": ["text\tlabel\tpair\none\ta\tx\ntwo\tb\ty\n"],
    "jsonl": ['{"text": "one", "label": 1, "pair": "x"}\n{"text": "two", "label": "b", "pair": "\\u00e9"}\n'],
    "config": [
        "teacher: {lora: {target_modules: ['*.q_proj']}, seeds: [0, 1]}\nstudent:\n  training: &t {epochs: 2}\n",
        "data: {source: a.csv}\ndistillation: {alpha: 0.5}\nsearch: {trials: 3}\n",
    ],
    "student": [json.dumps(_STUDENT), json.dumps(_STUDENT | {"threshold": 0.4})],
    "teacher": [json.dumps(_TEACHER)],
    "checksums": [json.dumps(_CHECKSUMS)],
    "adapter": [json.dumps(_ADAPTER), json.dumps(_ADAPTER | {"modules_to_save": ["score"], "use_dora": True})],
    "stream-text": ["one\ttwo\nthree\tfour\n\n\ufefffive\n"],
    "stream-csv": ['text,pair\none,x\n"two ""2""",y\n'],
    "stream-tsv": ["other\ttext\na\tone\n"],
    "stream-jsonl": ['{"text": "one"}\n{"text": "\\ud83d\\ude00"}\n'],
    "query": ['{"texts": ["a", "b"], "model": "one"}', '{"text": ["a", "b"], "model": ["two"]}'],
}
