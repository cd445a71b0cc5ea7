"""Settings of teachers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from potstill.config.base import Fraction, Seeds, Settings
from potstill.config.training import TrainingConfig

Method = Literal["lora", "full", "head"]


class LoRAConfig(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the adapters' update B·A; a higher rank learns more if there is much data. 8 is the paper's choice for
    RoBERTa on GLUE (appendix D)."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """Scale the update by alpha / rank. Twice the rank is a common rule of thumb; with Adam a higher alpha acts much
    like a higher learning rate (paper, section 4.1)."""
    use_rslora: bool = False
    """Scale the update by alpha / sqrt(rank) instead of alpha / rank. (rsLoRA for high ranks, Kalajdzievski 2023, arXiv
    2312.03732.)"""
    dropout: Fraction = 0.0
    """Dropout on the adapter's input. 0, since dropout makes training on a CPU slower, and few parameters are trained
    anyway. For the best teacher try 0.1, which lowers the validation loss on CoLA (configs/cola.yaml)."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Modules that get an adapter: `all-linear`, or patterns of dotted names such as `*.q_proj,*.v_proj` (in YAML a
    list). `all-linear` is every linear map inside the backbone's blocks, found by structure. With `*.layers.2?.*` only
    the blocks from 20 on get some, and the backward pass skips those below."""
    train_layernorm: bool = False
    """Train the backbone's normalisation layers too. False, as in the paper."""


class TeacherConfig(Settings):
    """What every kind of teacher has."""

    kind: str = "transformer"
    """Kind of teacher: `transformer` (a pretrained language model that is tuned), `file` (a file of probabilities),
    `endpoint` (a language model behind an HTTP server), or a kind that you registered."""
    seeds: Seeds = (0,)
    """Seeds; one teacher is trained for each. `distillation.teachers` says how several teachers are used."""

    def describe(self) -> str:
        """Say in one phrase what teaches."""
        return f"a teacher of the kind `{self.kind}`"


class TransformerConfig(TeacherConfig):
    """A pretrained language model that is tuned."""

    backbone: str = "smollm2-135m"
    """Pretrained model to start from: `smollm2-135m`, a directory, a .gguf file or a hub name such as `gpt2`.
    `smollm2-135m` is builtin: it comes in a package and needs no hub."""
    add_bos: bool = True
    """Begin each text with the beginning-of-text token if a decoder's tokenizer has one and does not add it itself.
    Decoders attend strongly to the first position (Xiao et al. 2023, arXiv 2309.17453), which otherwise is the text's
    first word."""
    method: Method = "lora"
    """What is trained: `lora` (adapters and head), `full` (every weight) or `head` (the head alone, on frozen
    features). LoRA is as good as all weights in its paper, table 2, in far less memory."""
    num_layers: Annotated[int, Field(ge=1)] | None = None
    """Number of the backbone's blocks to keep, counted from the first. A classifier needs the top blocks least (Sajjad
    et al. 2023, arXiv 2004.03844). None: all, since the number of blocks that can be dropped depends on backbone and
    task."""
    echo: bool = False
    """Let a decoder read each text twice, and classify it by the mean of the second reading's states. These have all
    seen the whole text (echo embeddings, Springer et al. 2024, arXiv 2402.15449). False, since it takes twice the work,
    and `transformers` and `peft` can't do it."""
    lora: LoRAConfig = LoRAConfig()
    training: TrainingConfig = TrainingConfig()

    def describe(self) -> str:
        """Say in one phrase which model was tuned, and how."""
        tuned = {
            "full": "all of whose weights were tuned",
            "head": "frozen under a head that was trained",
            "lora": f"tuned with LoRA adapters of rank {self.lora.rank} while its own weights stay frozen",
        }[self.method]
        if self.num_layers is not None:
            tuned += f"; of its blocks only the first {self.num_layers} are kept"
        twice = "; it reads each text twice" if self.echo else ""
        return f"the language model `{self.backbone}`, pretrained, {tuned}{twice}"
