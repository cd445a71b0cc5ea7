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

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from potstill.config import DataConfig, PotstillConfig
from potstill.data.readers import label_names_of, read_rows, to_examples
from potstill.errors import PotstillError
from potstill.files import parse_json
from potstill.lora.peft_format import read_peft_settings
from potstill.runtime import stream
from potstill.runtime.classifier import _load_tokenizer
from potstill.runtime.directory import Manifest
from potstill.runtime.seal import SEAL, verify
from potstill.server.limits import Limits
from potstill.server.models import ServedModel
from potstill.server.problems import Refusal
from potstill.server.query import parse
from potstill.teacher_manifest import TeacherManifest
from potstill.transfer.sets import TransferSet

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
            examples = to_examples(rows, names, path)
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


def _seal(data: bytes) -> None:
    (_directory() / SEAL).write_bytes(data)
    verify(_directory())


@functools.cache
def _model() -> PreTrainedModel:
    sizes = {"n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 8, "vocab_size": 8}
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("gpt2", **sizes))
    return model


def _adapter(data: bytes) -> None:
    values = _json_object(data)
    if not any(_is_pattern(values.get(name)) for name in values):  # whose matching is the user's to bound
        read_peft_settings(_model(), values, _PATH)


def _json_object(data: bytes) -> dict[str, object]:
    return parse_json(data, _PATH)


def _is_pattern(value: object) -> bool:
    return isinstance(value, str) and sum(value.count(sign) for sign in "*+{") > 1


def _stream(data: bytes, layout: stream.Layout) -> None:
    for _ in stream.read(io.BytesIO(data), layout, "fuzzed"):
        pass


@functools.cache
def _served() -> dict[str, ServedModel]:
    def never(texts: object) -> None:
        raise AssertionError("nothing is asked here")

    single = ServedModel("one", "student", ("a", "b"), False, never)
    return {"one": single, "two": ServedModel("two", "student", ("a", "b"), True, never)}


def _query(data: bytes) -> None:
    try:
        query = parse(data, _served(), Limits())
    except Refusal:
        return
    if not query.texts or not query.models:
        raise AssertionError("a query without texts or models")


def _tokenizer(data: bytes) -> None:
    _load_tokenizer(data, _PATH, 300, 16)


def _transfer(data: bytes) -> None:
    path = _directory() / "transfer.parquet"
    path.write_bytes(data)
    TransferSet.load(path)


TARGETS: dict[str, Target] = {
    **{suffix[1:]: functools.partial(_rows, suffix=suffix) for suffix in (".csv", ".tsv", ".jsonl", ".parquet")},
    "config": _config,
    "student": lambda data: Manifest.parse(data, _PATH),
    "teacher": lambda data: TeacherManifest.parse(data, _PATH),
    "checksums": _seal,
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
    "tokenizer": _tokenizer,
    "transfer": _transfer,
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
    if name in ("parquet", "transfer"):
        return [_parquet(table), _transfer_bytes()]
    if name == "tokenizer":
        return [Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")).to_str().encode()]  # noqa: S106
    return [text.encode() for text in _TEXTS[name]]


def _parquet(table: dict[str, list[str]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer)
    return buffer.getvalue()


def _transfer_bytes() -> bytes:
    path = _directory() / "seed.parquet"
    TransferSet(("a", "b"), None, ("file:a", "perturbed:x"), {"held-out": 1}).save(path)
    return path.read_bytes()


_SPEC = {"vocab_size": 9, "num_classes": 2, "padding_id": 0}
_ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["c_attn"], "rank_pattern": {"c_attn": 3}}
_TEACHER = {
    **{"format": 4, "backbone": "b", "tokenizer": "t", "add_bos": True, "random_init": False, "seed": 0},
    **{"method": "lora", "base_bits": None, "lora": {"rank": 2}, "base": "", "label_names": ["a", "b"]},
    **{"max_tokens": 9, "pairs": False, "echo": False, "first_blocks": None},
}
_STUDENT = {"format": 1, "spec": _SPEC, "label_names": ["a", "b"], "max_tokens": 5, "pairs": False, "temperature": 1.5}
_SEALED = {"format": 1, "files": {"weights": {"bytes": 1, "sha256": "0" * 64}}}
_TEXTS = {
    "csv": ['text,label,pair\none,a,x\n"two, ""2""\nlines",b,y\n'],
    "tsv": ["text\tlabel\tpair\none\ta\tx\ntwo\tb\ty\n"],
    "jsonl": ['{"text": "one", "label": 1, "pair": "x"}\n{"text": "two", "label": "b", "pair": "\\u00e9"}\n'],
    "config": [
        "teacher: {lora: {rank: 4, targets: ['*.q_proj']}, seeds: [0, 1]}\nstudent:\n  training: &t {epochs: 2}\n",
        "data: {source: a.csv}\ndistillation: {alpha: 0.5}\nsearch: {trials: 3}\n",
    ],
    "student": [json.dumps(_STUDENT), json.dumps(_STUDENT | {"threshold": 0.4})],
    "teacher": [json.dumps(_TEACHER)],
    "checksums": [json.dumps(_SEALED)],
    "adapter": [json.dumps(_ADAPTER), json.dumps(_ADAPTER | {"modules_to_save": ["score"], "bias": "all"})],
    "stream-text": ["one\ttwo\nthree\tfour\n\n\ufefffive\n"],
    "stream-csv": ['text,pair\none,x\n"two ""2""",y\n'],
    "stream-tsv": ["other\ttext\na\tone\n"],
    "stream-jsonl": ['{"text": "one"}\n{"text": "\\ud83d\\ude00"}\n'],
    "query": ['{"texts": ["a", "b"], "model": "one"}', '{"text": ["a", "b"], "model": ["two"]}'],
}
