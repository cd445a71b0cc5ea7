"""Every setting of Potstill: one frozen model per stage, documented where it is defined, its default with its reason.

The docstring under a field is its documentation everywhere: the command line shows it in `--help`, and the errors name
the field. A configuration file may hold any part of this; what it leaves out takes the default, what it misspells is
refused.
"""

from __future__ import annotations

import difflib
import math
import reprlib
import types
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeGuard, Union, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from potstill.errors import ConfigError
from potstill.files import write_text


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a seed named twice: its second model would take the first one's directory."""
    if len(set(seeds)) < len(seeds):
        raise ValueError("every seed may stand there only once")
    return seeds


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted(set(values)))


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Method = Literal["lora", "full", "head"]
Cell = Literal["rnn", "gru", "lstm"]
Pooling = Literal["last", "mean", "max", "attention"]
Imitation = Literal["kl", "mse", "hard"]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_different)]


def _is_section(annotation: Any) -> TypeGuard[type[Settings]]:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


class Settings(BaseModel):
    """Base of all stages: frozen, strict about unknown names, documented by attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _sections_begin_with_their_own_defaults(cls, values: Any) -> Any:
        """Give a section its defaults here, which need not be those of its class, for whatever is not set in it.

        It is left out where nothing stands below its name, or all of it is commented out.
        """
        if not isinstance(values, dict):
            return values
        given = dict(values)
        for name, field in cls.model_fields.items():
            if _is_section(field.annotation):
                if isinstance(section := given.get(name), dict):  # no default sets a section within a section
                    given[name] = field.get_default().model_dump(exclude_unset=True) | section
                elif section is None:
                    given.pop(name, None)
        return given


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
    """Dropout on the adapter's input. 0: drawing its masks slows a CPU down, and few parameters are trained anyway. For
    the best teacher 0.1 is worth a trial: on CoLA it lowers the loss on unseen text (configs/cola.yaml)."""
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
    """Batches whose gradients are summed into one optimiser step. 1: batches of short texts fit any memory."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """AdamW decays weights apart from the gradient (Loshchilov and Hutter 2019); without `weight_decay` the two are the
    same."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    """Peak learning rate. 5e-4 is what LoRA's paper takes for RoBERTa-base on much of GLUE (appendix D)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay, on matrices only. 0: few epochs, or the best of many, already limit the fit."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up: to 0 by the last step, or constant. `linear` is what LoRA's paper
    has for GLUE (appendix D)."""
    warmup: Fraction = 0.06
    """Share of the steps over which the learning rate rises; 0.06 is RoBERTa's choice for GLUE."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Largest norm of the gradient; larger ones are scaled down. 1.0 is the field's habit."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many epochs without a better `metric`; none: run all epochs, so that `schedule` comes to its
    end."""
    metric: Literal["mcc", "accuracy", "f1", "loss", "last"] = "mcc"
    """What decides which epoch is kept, on the selection split. MCC is 0 for a model that always says the same. `last`
    asks no score and keeps the last epoch, which `patience` then never ends early: of hundreds of texts a score tells
    epochs apart only roughly, and where `schedule` brings the learning rate to 0 the last one has settled."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weigh the labels' loss by class: `balanced` lets every class count the same, however rare. None: a model that
    knows how frequent a class is has better probabilities, and a threshold can be chosen afterwards."""


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
    """Build the architecture from its configuration alone, with random weights. Off: what a teacher knows comes from
    its pretraining."""
    method: Method = "lora"
    """What is trained: `lora` (adapters and head: as good as all weights in LoRA's paper, table 2, in far less memory),
    or its comparators `full` (every weight) and `head` (the head alone, on frozen features)."""
    base_bits: Literal[4, 8] | None = None
    """Keep the frozen matrices of the blocks in so many bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314): 4 as
    NormalFloat, 8 in even steps. None: a small backbone fits as it is, and unpacking costs time in every step."""
    first_blocks: Annotated[int, Field(ge=1)] | None = None
    """Keep only the first so many blocks of the backbone: its top blocks are those that a classifier misses least
    (Sajjad et al. 2023, arXiv 2004.03844). None: all, since how many can go depends on backbone and task."""
    echo: bool = False
    """Let a decoder read each text twice, and classify it by the mean of the second reading's states, which have all
    seen the whole text (echo embeddings, Springer et al. 2024, arXiv 2402.15449). Off: it takes twice the work, and
    `transformers` and `peft` don't read so, so that such a teacher is Potstill's alone."""
    lora: LoRAConfig = LoRAConfig()
    training: TrainingConfig = TrainingConfig()
    seeds: Seeds = (0,)
    """One teacher per seed; see `distillation.teachers`."""

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer comes from."""
        return self.tokenizer or self.backbone

    @model_validator(mode="after")
    def _bits_suit(self) -> Self:
        """Refuse to pack what is trained, and a base that is no longer the one on disk."""
        if self.base_bits is not None and self.method == "full":
            raise ValueError("base_bits packs what is frozen, and method: full freezes nothing; choose one")
        if self.base_bits is not None and self.method == "lora" and self.lora.init == "pissa":
            raise ValueError("base_bits and lora.init: pissa exclude each other: the residual it leaves is not saved")
        return self


class PretrainingConfig(Settings):
    """Language modelling before classification: each direction learns to predict the token that it reads next.

    On sentences that the teacher's language model wrote, this is distillation of its next-token distributions by
    samples from them (Kim and Rush 2016, "Sequence-Level Knowledge Distillation", arXiv 1606.07947).
    """

    epochs: Annotated[int, Field(ge=0)] = 0
    """Passes over the training and transfer texts. 0: without a transfer set there is little to learn from."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Texts per step: twice the classifier's, since there are more texts and each tells many times as much."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    """Peak learning rate. The networks are small and start from nothing, so it is twice the classifier's."""


class StudentConfig(Settings):
    """The small recurrent network."""

    cell: Cell = "lstm"
    """Kind of recurrence; `rnn` is the reference experiment's (Elman, tanh). `lstm` remembers the longest."""
    embedding_size: Annotated[int, Field(ge=1)] = 128
    """Width of the token embeddings, which hold about half of a student's parameters: 128 keeps theirs below a
    million."""
    hidden_size: Annotated[int, Field(ge=1)] = 256
    """Width of the hidden state, per direction. 256 is more than short texts fill."""
    num_layers: Annotated[int, Field(ge=1)] = 1
    """Recurrent layers on top of each other. 1: a second one doubles the time of every prediction."""
    bidirectional: bool = True
    """Read the text in both directions: the whole text is there before it is classified."""
    pooling: Pooling = "max"
    """How the hidden states become one vector: the last one (the reference's), their mean, their maximum, or a mean
    with learnt weights (Yang et al. 2016, section 2.2). `max`: a text's class often hangs on one place in it."""
    dropout: Fraction = 0.2
    """Dropout on embeddings, between layers and before the last linear map. 0.2: between none and the 0.5 of large
    networks."""
    word_dropout: Fraction = 0.0
    """Share of tokens whose embedding is blanked in training (Iyyer et al. 2015, "Deep Unordered Composition Rivals
    Syntactic Methods", section 2.2); what stays is not scaled. 0: a blanked word can make an acceptable sentence
    unacceptable."""
    surprisal_size: Annotated[int, Field(ge=0)] = 0
    """Width of the features that compare each token with what the directions expected in its place, in networks of one
    layer; the most conspicuous tokens then speak beside the pooled state (`student.network.Surprisal`). 0: expecting
    is learnt in `pretraining`, from more text than people label."""
    embedding_init: Literal["random", "teacher"] = "random"
    """Start of the embeddings: `teacher` takes the backbone's, reduced to `embedding_size` by a singular value
    decomposition; a token that the teacher does not have begins as the mean of its pieces. `random` needs no
    teacher, and the baseline has none."""
    pretraining: PretrainingConfig = PretrainingConfig()
    """What the student learns before it learns to classify."""
    tokenizer: str = "bpe"
    """`bpe` (own subwords, trained on the training and transfer texts), `teacher` (the teacher's), or a hub name or
    directory."""
    vocab_size: Annotated[int, Field(ge=257)] = 6000
    """Size of the own vocabulary (256 bytes and the padding at least); ten thousand short texts do not fill a larger
    one."""
    training: TrainingConfig = TrainingConfig(epochs=10, learning_rate=1e-3, patience=3)
    """How the student is fitted. It starts from nothing: a higher rate and more epochs than a teacher's, ended when
    three in a row bring nothing."""
    threshold: Literal["argmax", "tuned"] = "argmax"
    """How two classes are told apart: the more probable one, or the second where its probability is above a threshold
    from which, by the selection split, the best MCC is to be expected. With more classes the most probable one is
    always the answer. `argmax`: hundreds of texts tell a threshold only roughly."""
    seeds: Seeds = (0, 1, 2, 3, 4)
    """One distilled student and one baseline per seed; five give the spread that a claim needs."""

    @model_validator(mode="after")
    def _expects_before_it_reads(self) -> Self:
        """Refuse to ask an upper layer what it expects: the layer below has told it what comes."""
        if self.surprisal_size and self.num_layers > 1:
            raise ValueError("surprisal_size needs num_layers: 1; choose one of them")
        return self


class BaselineConfig(Settings):
    """The student without a teacher that `potstill run` trains beside the distilled one."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs of the baseline in `run`; `train` takes those of `student.training`. None: so does `run`. Where the
    distilled student has a transfer set, its epochs are longer, and as many of the labels alone may leave the baseline
    half trained."""


class DistillationConfig(Settings):
    """Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531)."""

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Weight of the labels: alpha * CE + (1 - alpha) * T^2 * KL. 1 ignores the teacher, 0 the labels; 0.5 is the
    reference experiment's."""
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    """Softens both distributions; 2 is the reference experiment's."""
    objective: Imitation = "kl"
    """How the student is drawn to the teacher: `kl` as above; `mse`, half the squared distance of the logits (Ba and
    Caruana 2014, arXiv 1312.6184); `hard`, the teacher's answers taken as labels. Texts without a label learn from this
    alone. `kl` is the distillation of the paper."""
    hidden_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of matching the teacher's last hidden state at the end of every word, through a linear projection of the
    student's (Romero et al. 2015, "FitNets", arXiv 1412.6550); of several teachers, the first one's. 0: they take
    gigabytes on disk."""
    source_weights: dict[str, Annotated[float, Field(ge=0.0)]] = {}
    """Weights of transfer texts by patterns of their source, e.g. `perturbed:*=0.5`; the first one that matches
    decides. They weigh the teacher's judgement; vocabulary, `pretraining` and hidden states take each text as it is.
    None: each text counts as much as a labelled one."""
    teachers: Literal["best", "average"] = "best"
    """Who teaches where there are several seeds: the teacher that is best on the selection split, or all of them, their
    probabilities averaged (Hinton et al. 2015, section 5), at the price of asking each."""
    judges: Annotated[int | None, Field(ge=1)] = None
    """How many of several teachers, with `teachers: average`, judge each text of the transfer set; the text decides
    which, and all get about equal shares. Give `transfer` and `distill` the same number, or the set is judged anew.
    None: all of them, as averaging is meant; that fewer judges of more texts teach more is not shown."""

    @property
    def manner(self) -> str:
        """Say for reports how the student is drawn to the teacher."""
        return {
            "kl": f"temperature {self.temperature:g}",
            "mse": "by half the squared distance of the logits",
            "hard": "with the teacher's answers as labels",
        }[self.objective]


class TransferConfig(Settings):
    """More text for the student, judged by the teacher: the transfer set. Without these settings there is none."""

    files: tuple[str, ...] = ()
    """Files of unlabelled text: `.csv`, `.tsv` or `.jsonl` with the columns of `data`, anything else with a text per
    line. Other columns are ignored."""
    sampled: Annotated[int, Field(ge=0)] = 0
    """Texts to sample from the teacher's backbone as a language model that was tuned on the training texts (Tang et al.
    2019, "Natural Language Generation for Effective Knowledge Distillation")."""
    perturbed: Annotated[int, Field(ge=0)] = 0
    """Texts to make from the training texts and those above by swapping, dropping, replacing and inserting words, by
    joining two texts and by breaking agreement."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Divides the language model's logits. 1: what it learnt."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Sample from the most probable tokens that have this probability together (nucleus sampling, Holtzman et al. 2020,
    arXiv 1904.09751; they find 0.95 to be like human text)."""
    similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Texts this much like one of the selection or the evaluation split are dropped: 1 is equal but for case, spaces
    and punctuation, 0.9 about one word in ten replaced (normalised indel similarity; see `transfer.overlap`)."""
    lora: LoRAConfig = LoRAConfig(rank=16, alpha=32)
    """The language model's adapters, of a higher rank than the teacher's: it has to learn what texts are about."""
    training: TrainingConfig = TrainingConfig(epochs=2, metric="loss")
    """How the language model is tuned; what it learns in more epochs is to repeat its training texts. The epoch with
    the lowest loss is kept: it classifies nothing, so that `metric` and `class_weights` mean nothing here."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides the language model and all that is drawn: with a batch's number it makes a seed of 64 bits."""

    @property
    def wanted(self) -> bool:
        """Whether there is to be a transfer set at all."""
        return bool(self.files or self.sampled or self.perturbed)


class RuntimeConfig(Settings):
    """Where it is computed."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes a CUDA GPU where there is one, else the CPU; Apple's, which is slow with small models, only by its
    name `mps`."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """`auto` takes bfloat16 for the frozen weights and the matrix products where the hardware multiplies it natively
    and faster than float32 (on a CPU a short measurement tells), else float32. Adapters, heads, students and optimiser
    are always float32."""
    compile: bool = False
    """Compile the teacher's trained blocks with `torch.compile` (needs a C++ compiler), which joins small operations.
    Off: a training on a few thousand sentences gains hardly what compiling takes (benchmarks/finetune_speed.py)."""
    checkpoint_seconds: Annotated[float, Field(ge=0.0)] | None = 60.0
    """Time between two checkpoints of a training, from which it goes on after an interruption. 60: a minute's work is
    little to lose, and writing a state once a minute costs next to nothing; where writing takes long, checkpoints are
    rarer, so that it never takes more than a fiftieth of the time. 0: after every step. None: no checkpoints."""


class Candidates(Settings):
    """What a search may set one setting to: a number from `low` to `high`, both included, or one of `choices`.

    A value alone stands for itself as the only choice: it fixes the setting.
    """

    low: float | None = None
    """Smallest number."""
    high: float | None = None
    """Largest number."""
    log: bool = False
    """Draw evenly by order of magnitude, not by size: what suits learning rates."""
    step: Annotated[float, Field(gt=0.0)] | None = None
    """Draw `low`, `low` + `step` and so on; none: any number, or any whole one where the setting takes these."""
    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """Values without an order."""

    @model_validator(mode="before")
    @classmethod
    def _value_alone(cls, given: Any) -> Any:
        if isinstance(given, list):  # [128, 256] could mean either
            raise ValueError("expected {low: …, high: …}, {choices: […]} or a single value")
        return given if isinstance(given, dict | Candidates) else {"choices": (given,)}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what is neither numbers between two ends nor choices."""
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("choices stand alone: they have no low, high, log or step")
        elif self.low is None or self.high is None:
            raise ValueError("expected low and high, or choices")
        else:
            _check_range(self.low, self.high, log=self.log, step=self.step)
        return self

    @model_serializer
    def _said(self) -> Any:
        """Leave out what was left out: a saved space reads as it was written."""
        if self.choices is not None and self.fixed:
            return self.choices[0]
        return {name: value for name, value in self if value is not None and value is not False}

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return self.choices is not None and len(self.choices) == 1

    def has(self, value: Any) -> bool:
        """Say whether `value` is one of these candidates."""
        if self.choices is not None or self.low is None or self.high is None:
            return value in (self.choices or ())
        steps = 0.0 if self.step is None or value is None else (value - self.low) / self.step
        return value is not None and self.low <= value <= self.high and math.isclose(steps, round(steps), abs_tol=1e-9)

    def within(self, setting: FieldInfo) -> Self:
        """Return these candidates as values of `setting`.

        Raises:
            ValidationError: One of them is no value of it, or there are two ends and it takes no numbers.
        """
        takes: TypeAdapter[Any] = TypeAdapter(setting.rebuild_annotation())
        if self.choices is not None:
            choices = _checked({("choices", place): (takes, choice) for place, choice in enumerate(self.choices)})
            if len(set(choices.values())) < len(choices):
                raise _refusal(self, "every choice may stand there only once")
            return self.model_copy(update={"choices": tuple(choices.values())})
        kinds = _kinds(setting.annotation)
        if not kinds & {int, float}:
            raise _refusal(self, "expected {choices: […]}: this setting takes no numbers between two ends")
        ends: dict[Place, tuple[TypeAdapter[Any], Any]] = {("low",): (takes, self.low), ("high",): (takes, self.high)}
        if self.step is not None:
            ends["step",] = (TypeAdapter(int if int in kinds else float), self.step)
        return self.model_copy(update={str(place[0]): number for place, number in _checked(ends).items()})


Place = tuple[str | int, ...]


def _checked(values: dict[Place, tuple[TypeAdapter[Any], Any]]) -> dict[Place, Any]:
    """Validate each value by its adapter.

    Raises:
        ValidationError: With every problem that was found.
    """
    found: dict[Place, Any] = {}
    problems: list[InitErrorDetails] = []
    for place, (adapter, given) in values.items():
        try:
            found[place] = adapter.validate_python(given)
        except ValidationError as error:
            problems += _details(error, place)
    if problems:
        raise ValidationError.from_exception_data("candidates", problems)
    return found


def _fields(stage: type[Settings], section: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """List all sections and settings with their paths."""
    for name, field in stage.model_fields.items():
        yield (*section, name), field
        if _is_section(field.annotation):
            yield from _fields(field.annotation, (*section, name))


def _kinds(annotation: Any) -> set[Any]:
    """Return the kinds that a setting's value may be of: types, and `Literal` for words."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return {kind for option in get_args(annotation) for kind in _kinds(option)}
    return _kinds(get_args(annotation)[0]) if origin is Annotated else {origin or annotation}


def _details(error: ValidationError, place: Place) -> list[InitErrorDetails]:
    """Return the problems of `error` as those of what stands at `place`."""
    return [
        InitErrorDetails(
            type=PydanticCustomError("search", "{message}", {"message": _message(item)}),
            loc=(*place, *item["loc"]),
            input=item["input"],
        )
        for item in error.errors()
    ]


def _refusal(given: Candidates, message: str) -> ValidationError:
    problem = PydanticCustomError("search", "{message}", {"message": message})
    return ValidationError.from_exception_data("candidates", [InitErrorDetails(type=problem, input=given.model_dump())])


def _check_range(low: float, high: float, *, log: bool, step: float | None) -> None:
    if low >= high:
        raise ValueError("low must be below high; a single value fixes a setting")
    if log and low <= 0.0:
        raise ValueError("log: true needs a low above 0")
    if log and step is not None:
        raise ValueError("log and step exclude each other; choose one")
    if step is not None and not math.isclose(steps := (high - low) / step, round(steps)):
        raise ValueError("step must lead from low to high")


def searchable() -> dict[str, FieldInfo]:
    """Return the settings of student and distillation that a search can try values of, by dotted name."""
    kinds = {int, float, bool, type(None), Literal}
    return {
        name: field
        for stage, section in ((StudentConfig, "student"), (DistillationConfig, "distillation"))
        for path, field in _fields(stage, (section,))
        if (name := ".".join(path)) not in _NOT_TRIED and _kinds(field.annotation) <= kinds
    }


_NOT_TRIED: Final = {
    "distillation.teachers": "who teaches is settled before the first trial",
    "distillation.judges": "who judges is settled before the first trial",
    "student.threshold": "a threshold is chosen after the MCC that a trial is judged by",
}
"""What no trial can choose, and why."""

_SPACE: Final = {
    "distillation.alpha": Candidates(low=0.0, high=1.0),
    "distillation.temperature": Candidates(low=1.0, high=8.0, log=True),
    "student.dropout": Candidates(low=0.0, high=0.5),
    "student.embedding_size": Candidates(low=32, high=256, step=32),
    "student.hidden_size": Candidates(low=64, high=512, step=64),
    "student.training.learning_rate": Candidates(low=3e-4, high=1e-2, log=True),
}
"""What is searched where nothing else is said."""


def _unknown(name: str, given: Candidates) -> ValidationError:
    """Refuse what can't be tried: say what it was meant to be, or why a setting that there is can't be searched."""
    if name in {".".join(path) for path, _ in _fields(PotstillConfig)}:
        others = "a search tries the numbers, switches and choices of student and distillation alone"
        return _refusal(given, _NOT_TRIED.get(name, others))
    like = difflib.get_close_matches(name, searchable(), n=1)
    like = like or [other for other in searchable() if other.endswith(f".{name.rpartition('.')[2]}")]
    return _refusal(given, "there is no such setting" + (f" (did you mean {like[0]}?)" if like else ""))


class SearchConfig(Settings):
    """How `potstill search` looks for settings of student and distillation; they are chosen on the selection split."""

    trials: Annotated[int, Field(ge=1)] = 40
    """How many settings to try. The first trial has those that are configured, nine are drawn at random, and what these
    taught decides the others: of forty, three quarters. An ended search goes on when it is given more."""
    space: Annotated[dict[str, Candidates], Field(validate_default=True)] = {}
    """What to try, by the dotted name of any number, switch or choice of `student` or `distillation`: `{low: 0, high:
    1}`, also with `log: true` or `step: 0.1`; `{choices: [rnn, lstm]}`; or a value, which fixes the setting. Without
    a word here, alpha is searched over its whole range, the temperature from 1 (nothing softened) to 8 (where the loss
    comes close to its limit), and dropout, learning rate and the two sizes around their defaults."""
    seeds_per_trial: Annotated[int, Field(ge=1)] = 1
    """Students per trial, with the first of `student.seeds`; their mean MCC counts. 1: for the same time, more settings
    tell more than the same settings again. What is found is compared on the other seeds of `student.seeds` anyway."""
    max_parameters: Annotated[int, Field(ge=1)] | None = None
    """Largest student, in parameters. Larger ones are not trained, and not counted as trials. None: any that the space
    allows."""
    pruning: Literal["median", "none"] = "median"
    """`median` stops a training whose best MCC so far is below the median of the others at that epoch (after Golovin et
    al. 2017, "Google Vizier", section 3.2.2), which leaves time for better settings; `none` trains all to the end."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides what is drawn."""
    grid: bool = False
    """Try all of `alphas` with all of `temperatures` instead, each to its end and with nothing else changed: a map
    without gaps. Off: a few sizes and learning rates matter more."""
    alphas: Annotated[
        tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...], Field(min_length=1), AfterValidator(_ascending)
    ] = (0.0, 0.25, 0.5, 0.75, 0.9)
    """The grid's. Without 1, which looks at no teacher and is the same for each temperature."""
    temperatures: Annotated[
        tuple[Annotated[float, Field(gt=0.0)], ...], Field(min_length=1), AfterValidator(_ascending)
    ] = (1.0, 2.0, 4.0, 8.0)
    """The grid's. Powers of two, since a temperature acts as a factor."""

    @field_validator("space")
    @classmethod
    def _names_settings(cls, given: dict[str, Candidates]) -> dict[str, Candidates]:
        """Check names and values against the settings themselves, and add what is searched by default.

        In the order of the names: what is drawn depends on it.
        """
        settings = searchable()
        found: dict[str, Candidates] = {}
        problems: list[InitErrorDetails] = []
        for name, candidates in sorted((_SPACE | given).items()):
            try:
                if name not in settings:
                    raise _unknown(name, candidates)
                found[name] = candidates.within(settings[name])
            except ValidationError as error:
                problems += _details(error, (name,))
        if problems:
            raise ValidationError.from_exception_data("space", problems)
        return found

    @model_validator(mode="after")
    def _grid_is_free(self) -> Self:
        """Refuse a grid over what is fixed."""
        for name, axis in (("distillation.alpha", "alphas"), ("distillation.temperature", "temperatures")):
            if self.grid and self.space[name].fixed:
                raise ValueError(f"the grid varies {name}, which is fixed; give the one value as {axis} instead")
        return self


class PotstillConfig(Settings):
    """A whole run."""

    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    transfer: TransferConfig = TransferConfig()
    student: StudentConfig = StudentConfig()
    distillation: DistillationConfig = DistillationConfig()
    baseline: BaselineConfig = BaselineConfig()
    search: SearchConfig = SearchConfig()
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


class _Loader(yaml.SafeLoader):
    """Refuses a setting that stands there twice, of which YAML would keep the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping, whose keys differ."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"{key.value!r} is set twice", key.start_mark)
                seen.add(key.value)
        return node


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping through the safe loader.

    Raises:
        ConfigError: The file can't be read or is no mapping.
    """
    try:
        values = _Loader(Path(path).read_text(encoding="utf-8")).get_single_data()
    # Of values: what is no UTF-8, or no date, or a number of too many digits. Recursion: a thousand brackets.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError([f"it can't be read as YAML: {error}"], str(path)) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"expected a mapping of settings, found {type(values).__name__}"], str(path))
    return values


_shown: Final = reprlib.Repr()
"""Shows the beginning of a value: YAML's aliases can write a gigabyte in a line."""
_shown.maxlevel, _shown.maxlist, _shown.maxtuple, _shown.maxdict = 2, 12, 12, 12
_shown.maxstring = _shown.maxother = _shown.maxlong = 200


def _describe(item: Any) -> str:
    """Say in one line which setting is wrong, what was expected and what was found."""
    # Where a setting may be of several kinds, pydantic adds the kind tried ("tuple[str, ...]") to its path.
    names = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        location = [*(name for name in names[:-1] if "[" not in name), names[-1]]  # the last is what the user wrote
        nearest = _nearest(location)
        path = ".".join(location)
        return f"{path}: there is no such setting" + (f"; did you mean {nearest}?" if nearest else "")
    path = ".".join(name for name in names if "[" not in name)
    return f"{path}: {_message(item)}; found {_shown.repr(item['input'])}"


def _message(item: Any) -> str:
    """Return the words of our own checks without pydantic's prefix, and pydantic's where it checked."""
    if item["type"] == "tuple_type":
        return "expected a list, such as [a, b]"
    return str(item.get("ctx", {}).get("error", item["msg"]))


def _nearest(location: Sequence[str]) -> str | None:
    """Find the setting that a name stands for: a like name in the same section, else the same name in another."""
    *section, name = location
    settings = [path for path, _ in _fields(PotstillConfig)]
    siblings = {path[-1]: path for path in settings if list(path[:-1]) == section}
    if like := difflib.get_close_matches(name, siblings, n=1):
        return ".".join(siblings[like[0]])
    return next((".".join(path) for path in settings if path[-1] == name), None)
