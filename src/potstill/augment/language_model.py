"""The backbone as a language model of the task's text: tuned with LoRA, then sampled from.

Tang et al. 2019, "Natural Language Generation for Effective Knowledge Distillation", samples the unlabelled set from a
language model that was tuned on the task's text. Here every text begins with its class, as a prompt, so that the share
of each class in a sample can be chosen.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from lightning_fabric import Fabric
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, DynamicCache, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.config import PotstillConfig, TransformerConfig
from potstill.data import Corpus, Examples
from potstill.data.tokenised import TrainingSet, tokenise
from potstill.errors import ConfigError
from potstill.lora.blocks import head_modules
from potstill.lora.inject import find_targets, inject
from potstill.teacher.backbone.sources import (
    check_language_model,
    load_config,
    load_language_model,
    load_tokenizer,
    outline,
    pad_token_id,
)
from potstill.teacher.backbone.vocabulary import check_vocabulary
from potstill.teacher.transformer import transformer_settings
from potstill.training.base import FitContext, Splits
from potstill.training.callbacks import standard_callbacks
from potstill.training.compute import compress_frozen_matrices, is_mixed, make_fabric
from potstill.training.fit import fit, trained_parameters
from potstill.training.inference import tokens_at_once
from potstill.training.language_modelling import LanguageModelLoss, sum_per_text

SEPARATOR = "\n"
"""Between class, text and second text, which are put on one line first."""

_SECTION: Final = "augment.lora"
_ROWS: Final = 32
"""Texts whose next token is drawn at once on a CPU: the probabilities of a whole vocabulary for more of them take so
much memory that allocating it costs more than the drawing."""
_GPU_ROWS: Final = 1024
"""The same on a GPU: a gigabyte for a vocabulary of 50,000."""


class NextTokenLoss(nn.Module):
    """A causal language model that returns the negative log-likelihood of each text."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Add up the negative log-likelihoods of all tokens but the first, of texts (batch, length).

        Returns:
            For each text the sum, in nats, and the number of tokens it goes over, (batch, 2), float32.
        """
        outputs = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        real = attention_mask[:, 1:].bool()
        logits = _next_token_logits(self.model, outputs.last_hidden_state[:, :-1][real])  # none for the padding
        nll = cross_entropy(logits, input_ids[:, 1:][real], reduction="none")  # (tokens,)
        return sum_per_text(nll, real)


@dataclass(frozen=True)
class LanguageModel:
    """A backbone that writes texts like those it was tuned on; its tokenizer adds `bos_id` and `eos_id` around a text.

    `max_length` is that of a text with its prompt.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    fabric: Fabric
    bos_id: int
    eos_id: int
    pad_token_id: int
    max_length: int

    @classmethod
    def load(cls, config: PotstillConfig) -> LanguageModel:
        """Load the teacher's backbone as a language model, with fresh adapters. Errors as for `check_writer`."""
        teacher = transformer_settings(config)
        settings, tokenizer = _find_writer(teacher)
        torch.manual_seed(config.augment.seed)
        model = load_language_model(teacher.backbone, settings)
        inject(model, config.augment.lora, frozen=tuple(head_modules(model)), section=_SECTION)
        fabric = make_fabric(config.runtime)
        if is_mixed(fabric):
            # The output layer gets a copy of the embeddings, which stay float32, and with them the residual stream.
            head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
            head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
            compress_frozen_matrices(model)
        fabric.to_device(model)
        begin = tokenizer.bos_token or tokenizer.eos_token
        vocabulary = tokenizer.get_vocab()
        ends = {token: vocabulary[token] for token in (begin, tokenizer.eos_token)}
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A {tokenizer.eos_token}", special_tokens=list(ends.items())
        )
        return cls(
            model=model,
            tokenizer=tokenizer.backend_tokenizer,
            fabric=fabric,
            bos_id=ends[begin],
            eos_id=ends[tokenizer.eos_token],
            pad_token_id=pad_token_id(tokenizer),
            max_length=min(config.data.max_length, getattr(settings, "max_position_embeddings", sys.maxsize)),
        )

    def tune(self, config: PotstillConfig, corpus: Corpus, directory: Path) -> None:
        """Learn to write the corpus's training texts, each after the name of its class.

        `directory` gets the history and the checkpoint, which the caller removes once it has saved `trained`.
        """
        settings = config.augment.training.model_copy(update={"metric": "loss"})  # it classifies nothing
        context = FitContext(
            settings,
            self.fabric,
            config.augment.seed,
            "language model",
            standard_callbacks(settings, config.runtime, directory, (config.augment.lora,)),
            max_microbatch_tokens=tokens_at_once(self.fabric),
        )
        splits = (self.training_set(part, corpus.label_names) for part in (corpus.train, corpus.validation))
        fit(NextTokenLoss(self.model), Splits(*splits), LanguageModelLoss(), context)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that `tune` trains, by dotted name."""
        return trained_parameters(self.model)

    def training_set(self, examples: Examples, label_names: Sequence[str]) -> TrainingSet:
        """Tokenise labelled texts for `tune`: each on a line of its own, after a line with the name of its class."""
        pairs = examples.pairs or ("",) * len(examples)
        texts = tuple(
            SEPARATOR.join([label_names[label], *(" ".join(part.split()) for part in parts if part)])
            for label, *parts in zip(examples.labels, examples.texts, pairs, strict=True)
        )
        tokens = tokenise(Examples(texts, examples.labels), self.tokenizer, self.max_length + 1, empty_id=self.eos_id)
        tokens = tokens.first(self.max_length)  # where a text has been cut it has no end to learn
        return TrainingSet(tokens, torch.from_numpy(examples.labels), self.pad_token_id)

    @torch.inference_mode()
    def sample(self, prompt: str, count: int, *, temperature: float, top_p: float, seed: int) -> Iterator[str]:
        """Write `count` texts at once after a class's name; those that do not end within `max_length` are left out.

        `temperature` divides the logits; see `draw` for `top_p`. Both texts of a pair are joined by `SEPARATOR`.
        """
        self.model.train(False)
        device = self.fabric.device
        generator = torch.Generator(device).manual_seed(seed)
        start = [self.bos_id, *self.tokenizer.encode(prompt + SEPARATOR, add_special_tokens=False).ids]
        inputs = torch.tensor([start], device=device).repeat(count, 1)
        cache = DynamicCache(config=self.model.config)
        known = {_cache_argument(self.model): cache}
        written = inputs[:, :0]
        rows = _ROWS if device.type == "cpu" else _GPU_ROWS
        for _ in range(self.max_length - len(start)):
            with self.fabric.autocast():
                outputs = self.model.base_model(input_ids=inputs, use_cache=True, **known)
                parts = outputs.last_hidden_state[:, -1].split(rows)
                logits = (_next_token_logits(self.model, part) / temperature for part in parts)
                chosen = torch.cat([draw(part, top_p, generator) for part in logits])
            ended = chosen == self.eos_id
            if ended.any():
                yield from self.tokenizer.decode_batch(written[ended].tolist())
                unfinished = (~ended).nonzero()[:, 0]
                if len(unfinished) == 0:
                    return
                cache.batch_select_indices(unfinished)
                chosen, written = chosen[unfinished], written[unfinished]
            inputs = chosen[:, None]
            written = torch.cat([written, inputs], dim=1)


def check_writer(config: PotstillConfig) -> None:
    """Refuse a language model that can't be loaded or adapted, before any weight is read.

    Raises:
        SourceError: The backbone can't be found or reached, or is no decoder.
        ConfigError: Its tokenizer has no token that ends a text, or more tokens than the backbone, or the adapters'
            targets don't exist.
    """
    settings, _ = _find_writer(transformer_settings(config))
    find_targets(outline(settings, AutoModelForCausalLM), config.augment.lora, _SECTION)


def _find_writer(config: TransformerConfig) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    settings = load_config(config.backbone)
    check_language_model(config.backbone, settings)
    tokenizer = load_tokenizer(config.backbone)
    if tokenizer.eos_token is None:
        raise ConfigError(
            [f"teacher.backbone: expected a tokenizer with a token that ends a text; {config.backbone!r} has none"]
        )
    check_vocabulary(
        tokenizer,
        settings.get_text_config().vocab_size,
        config.backbone,
        needed=(tokenizer.bos_token_id, tokenizer.eos_token_id),
    )
    return settings, tokenizer


def _next_token_logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Map last hidden states, (..., hidden), to logits over the vocabulary, float32."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    logits: Tensor = head(states).float()
    # Gemma 2 (arXiv 2408.00118, section 2) keeps them within bounds; no other family that is let in maps them further.
    bound = getattr(model.config, "final_logit_softcapping", None)
    return logits if bound is None else bound * (logits / bound).tanh()


def _cache_argument(model: PreTrainedModel) -> str:
    """Return the name of the argument for cached keys and values, which `transformers` 5 has renamed."""
    parameters = inspect.signature(model.base_model.forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def draw(logits: Tensor, top_p: float, generator: torch.Generator) -> Tensor:
    """Draw a token from each row's nucleus (Holtzman et al. 2020, arXiv 1904.09751, section 3.1).

    The nucleus is the smallest set of most probable tokens that together have at least the probability `top_p`. A token
    belongs to it if all more probable tokens together have less. So nothing needs to be sorted: a token is drawn from
    the whole distribution, and drawn again in the rare case that it is outside.

    Returns:
        Token ids, (batch,), for logits (batch, vocabulary), float32.
    """
    probabilities = logits.softmax(dim=1)
    tokens = logits.new_empty(len(logits), dtype=torch.long)
    rows = torch.arange(len(logits), device=logits.device)  # without a token so far
    while len(rows) > 0:
        reached = probabilities.cumsum(dim=1)
        points = torch.rand(len(rows), 1, generator=generator, device=logits.device) * reached[:, -1:]
        chosen = torch.searchsorted(reached, points, right=True).clamp_(max=logits.shape[1] - 1)  # (rows, 1)
        tokens[rows] = chosen[:, 0]
        more_probable = probabilities.where(probabilities > probabilities.gather(1, chosen), 0.0).sum(dim=1)
        outside = more_probable >= top_p
        rows, probabilities = rows[outside], probabilities[outside]
    return tokens
