"""Every setting of Potstill: one frozen model per stage, documented where it is defined, its default with its reason.

The docstring under a field is its documentation everywhere: the command line shows it in `--help`, and the errors name
the field. A configuration file may hold any part of this; what it leaves out takes the default, what it misspells is
refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from potstill.artifacts import write_text
from potstill.errors import ConfigError


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a seed named twice: its second model would take the first one's directory."""
    if len(set(seeds)) < len(seeds):
        raise ValueError("every seed may stand there only once")
    return seeds


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Method = Literal["lora", "full", "head"]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_different)]


class Settings(BaseModel):
    """Base of all stages: frozen, strict about unknown names, documented by attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class DataConfig(Settings):
    """Which labelled text to learn from, and how it is split."""

    source: str = "auto"
    """`cola`, `embedded`, `auto` (CoLA where it is found on this machine, else embedded), a file or directory (CSV,
    TSV, JSONL, Parquet, or CoLA's own TSV files), or a hub data set `owner/name[:configuration]`."""
    evaluation: str | None = None
    """File with the held-out part. Without it: the `test`, `dev` or `validation` part of the directory or hub data
    set, or else a tenth of the data is held out."""
    text_column: str = "text"
    """Column with the text. (CoLA's columns are known.)"""
    pair_column: str | None = None
    """Column with the second text, for sentence-pair tasks."""
    label_column: str = "label"
    """Column with the label (any string or whole number)."""
    selection_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training data kept apart to choose epochs and settings: a tenth is enough to rank them (855
    sentences of CoLA) and costs little training data."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split. Apart from the models' seeds, so that all of them see the same split."""
    limit: Annotated[int, Field(ge=16)] | None = None
    """Use only this many training examples (stratified): for trials and the demo."""
    max_tokens: Annotated[int, Field(ge=4, le=4096)] = 128
    """Longer texts are cut to this many tokens. CoLA's longest sentence has under 60."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        """Refuse one column in two roles: a label read as text would be learnt at once."""
        columns = {name: getattr(self, name) for name in ("text_column", "pair_column", "label_column")}
        for (one, first), (other, second) in combinations(columns.items(), 2):
            if first == second:
                raise ValueError(f"{one} and {other} must be different columns")
        return self


class LoRAConfig(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank r of the update B·A. 8 is the paper's choice for RoBERTa on GLUE (appendix D)."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """The update is scaled by alpha / rank. Twice the rank is a common rule of thumb; with Adam it acts much like a
    higher learning rate (paper, section 4.1)."""
    rank_stabilised: bool = False
    """Scale the update by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732). Off: it is meant
    for ranks far above 8, and one alpha means another scale with it."""
    dora: bool = False
    """Train each output's magnitude apart from its direction (DoRA, Liu et al. 2024, arXiv 2402.09353). Off: a step
    costs more."""
    init: Literal["kaiming", "pissa"] = "kaiming"
    """Start of A and B: `kaiming` (A random, B zero: the model starts as the pretrained one), or `pissa`, the largest
    singular components of the pretrained weight (Meng et al. 2024, arXiv 2404.02948), whose start costs a singular
    value decomposition of every adapted matrix."""
    learning_rate_ratio: Annotated[float, Field(ge=1.0)] = 1.0
    """Learning rate of B over that of A (LoRA+, Hayou et al. 2024, arXiv 2402.12354); biases and other vectors take
    B's, as in the authors' code. 1: one rate for all; the paper's 16 wants a lower `learning_rate`."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Ranks of single modules, by patterns like those of `targets`, e.g. `*.q_proj=4,*.v_proj=8`; the first one that
    matches decides. None: one rank for all, as in the paper."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    """Alphas of single modules, likewise."""
    dropout: Fraction = 0.0
    """Dropout on the adapter's input. 0: drawing its masks slows a CPU down, and few parameters are trained anyway."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Modules that get an adapter: `all-linear` (every linear map inside the backbone's blocks, found by structure) or
    patterns matched against the module's dotted name, e.g. `*.q_proj,*.v_proj` (in YAML a list)."""
    last_blocks: Annotated[int, Field(ge=1)] | None = None
    """Only the last so many blocks get adapters: nothing goes backward through the others, and what they compute is
    computed once. None: all, since adapters on every block can learn more."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases to train: none as in the paper, all of the backbone's, or those of the adapted modules."""
    train_layernorm: bool = False
    """Train the backbone's normalisation layers too. Off, as in the paper."""

    @model_validator(mode="after")
    def _variants_agree(self) -> Self:
        """Refuse what no paper defines: both begin by taking the pretrained weight apart, each in its own way."""
        if self.dora and self.init == "pissa":
            raise ValueError("dora and init: pissa exclude each other; choose one")
        return self


class TrainingConfig(Settings):
    """How one model is fitted. The same loop serves teacher, distilled student and baseline."""

    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training data at most. On thousands of sentences a teacher's loss on unseen ones soon rises."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Sentences per optimiser step, before accumulation. 32 is the larger of BERT's two choices for fine-tuning."""
    batch_by: Literal["sentences", "tokens"] = "sentences"
    """Give every batch as many sentences, or as many tokens as `batch_size` sentences have on average, each sentence
    counting the same. `tokens` keeps a machine evenly busy; `sentences` is what other programs do."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients are summed into one optimiser step."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """AdamW decays weights apart from the gradient (Loshchilov and Hutter 2019)."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    """Peak learning rate. 5e-4 is what LoRA's paper takes for RoBERTa-base on much of GLUE (appendix D)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay, on matrices only. 0: keeping the best epoch already limits the fit."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up: to 0 by the last step, or constant."""
    warmup: Fraction = 0.06
    """Share of the steps over which the learning rate rises; 0.06 is RoBERTa's choice for GLUE."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Largest norm of the gradient; larger ones are scaled down. 1.0 is the field's habit."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many epochs without a better `metric`; none: run all epochs (the best one is kept anyway)."""
    metric: Literal["mcc", "accuracy", "f1", "loss"] = "mcc"
    """What decides the best epoch, on the selection split. MCC is 0 for a model that always says the same."""


class TeacherConfig(Settings):
    """The pretrained model that is tuned."""

    backbone: str = "smollm2-135m"
    """`smollm2-135m` (embedded: from a package, needs no hub), a hub name (`gpt2`), a directory or a `.gguf` file."""
    tokenizer: str | None = None
    """Tokenizer by the same kinds of names; none: the backbone's own."""
    add_bos: bool = True
    """Begin each text with the tokenizer's beginning-of-text token, for decoders whose tokenizer has one and does not
    add it. Decoders park attention on the first position (Xiao et al. 2023, arXiv 2309.17453); without the token that
    is the text's first word."""
    random_init: bool = False
    """Build the architecture from its configuration alone, with random weights."""
    method: Method = "lora"
    """What is trained: `lora` (adapters and head: as good as all weights in LoRA's paper, table 2, in far less memory),
    or its comparators `full` (every weight) and `head` (the head alone, on frozen features)."""
    base_bits: Literal[4, 8] | None = None
    """Keep the frozen matrices of the blocks in so many bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314): 4 as
    NormalFloat, 8 in even steps. None: a small backbone fits as it is, and unpacking costs time in every step."""
    lora: LoRAConfig = LoRAConfig()
    training: TrainingConfig = TrainingConfig()
    seeds: Seeds = (0,)
    """One teacher per seed; the one that is best on the selection split teaches."""

    @model_validator(mode="after")
    def _bits_suit(self) -> Self:
        """Refuse to pack what is trained, and a base that is no longer the one on disk."""
        if self.base_bits is not None and self.method == "full":
            raise ValueError("base_bits packs what is frozen, and method: full freezes nothing; choose one")
        if self.base_bits is not None and self.method == "lora" and self.lora.init == "pissa":
            raise ValueError("base_bits and lora.init: pissa exclude each other: the residual it leaves is not saved")
        return self


class StudentConfig(Settings):
    """The small recurrent network."""

    cell: Literal["rnn", "gru", "lstm"] = "lstm"
    """Kind of recurrence; `rnn` is the reference experiment's (Elman, tanh)."""
    embedding_size: Annotated[int, Field(ge=1)] = 128
    """Width of the token embeddings. They hold most of a student's parameters: 128 keeps these near a million."""
    hidden_size: Annotated[int, Field(ge=1)] = 256
    """Width of the hidden state, per direction. 256 is more than short texts fill."""
    num_layers: Annotated[int, Field(ge=1)] = 1
    """Recurrent layers on top of each other."""
    bidirectional: bool = True
    """Read the text in both directions."""
    pooling: Literal["last", "mean", "max"] = "max"
    """How the hidden states become one vector: the last one (the reference's), their mean or their maximum."""
    dropout: Fraction = 0.2
    """Dropout on embeddings, between layers and before the last linear map."""
    tokenizer: str = "bpe"
    """`bpe` (own subwords, trained on the training texts), `teacher` (the teacher's), or a hub name or directory."""
    vocab_size: Annotated[int, Field(ge=257)] = 6000
    """Size of the own vocabulary (256 bytes and the padding at least); ten thousand short texts do not fill a larger
    one."""
    training: TrainingConfig = TrainingConfig(epochs=10, learning_rate=1e-3, patience=3)
    seeds: Seeds = (0, 1, 2, 3, 4)
    """One distilled student and one baseline per seed; five give the spread that a claim needs."""


class DistillationConfig(Settings):
    """Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531)."""

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Weight of the labels: alpha * CE + (1 - alpha) * T^2 * KL. 1 ignores the teacher, 0 the labels."""
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    """Softens both distributions; 2 is the reference experiment's."""


class RuntimeConfig(Settings):
    """Where it is computed."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes a GPU where there is one."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """`auto` takes bfloat16 for the frozen weights and the matrix products where the hardware multiplies it natively,
    which is faster, else float32. Adapters, heads, students and optimiser are always float32."""
    compile: bool = False
    """Compile the teacher's trained blocks with `torch.compile` (needs a C++ compiler), which joins small operations.
    Off: compiling takes longer than a training on a few thousand sentences gains by it (benchmarks/compile.py)."""


class PotstillConfig(Settings):
    """A whole run."""

    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    distillation: DistillationConfig = DistillationConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @classmethod
    def load(cls, path: Path | str) -> PotstillConfig:
        """Read a YAML file.

        Raises:
            ConfigError: The file can't be read, is no mapping, or holds unknown names or values out of range.
        """
        return cls.build(read_yaml(path), source=str(path))

    @classmethod
    def build(cls, values: dict[str, Any], source: str = "the configuration") -> PotstillConfig:
        """Validate nested `values`.

        Raises:
            ConfigError: With every problem that was found.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError([_describe(item) for item in error.errors()], source) from None

    def save(self, path: Path) -> None:
        """Write all settings, defaults included, as YAML that `load` reads back to an equal configuration."""
        write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping through the safe loader.

    Raises:
        ConfigError: The file can't be read or is no mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"it can't be read as YAML: {error}"], str(path)) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"expected a mapping of settings, found {type(values).__name__}"], str(path))
    return values


def _describe(item: Any) -> str:
    """Say in one line which setting is wrong, what was expected and what was found."""
    # Where a setting may be of several kinds, pydantic adds the kind tried ("tuple[str, ...]") to its path.
    location = [str(part) for part in item["loc"] if "[" not in str(part)]
    path = ".".join(location)
    if item["type"] == "extra_forbidden":
        nearest = _nearest(location)
        return f"{path}: there is no such setting" + (f"; did you mean {nearest}?" if nearest else "")
    message = str(item.get("ctx", {}).get("error", item["msg"]))  # our own checks' words, without pydantic's prefix
    return f"{path}: {message}; found {item['input']!r}"


def _nearest(location: Sequence[str]) -> str | None:
    """Find the setting that a name stands for: a like name in the same section, else the same name in another."""
    *section, name = location
    settings = list(_names(PotstillConfig))
    siblings = {path[-1]: path for path in settings if list(path[:-1]) == section}
    if like := difflib.get_close_matches(name, siblings, n=1):
        return ".".join(siblings[like[0]])
    return next((".".join(path) for path in settings if path[-1] == name), None)


def _names(stage: type[Settings], section: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """List the paths of all sections and settings."""
    for name, field in stage.model_fields.items():
        yield (*section, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from _names(field.annotation, (*section, name))
