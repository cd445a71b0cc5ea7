"""The backbone as a language model of the task's text: tuned with LoRA, then sampled from.

Tang et al. 2019, "Natural Language Generation for Effective Knowledge Distillation", samples the transfer set from a
language model that was tuned on the task's text. Here every text begins with its class, as a prompt, so that one can
ask for each class in turn: the mix of a sample is then chosen, not left to chance.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
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

from potstill.backbone import (
    check_language_model,
    check_vocabulary,
    head_modules,
    load_config,
    load_language_model,
    load_tokenizer,
    outline,
    padding_id,
)
from potstill.config import PotstillConfig, TeacherConfig
from potstill.data import Corpus, Examples
from potstill.data.tokenised import TrainingSet, tokenise
from potstill.errors import ConfigError
from potstill.lora.inject import absorb_adapters, find_adapted, inject
from potstill.training.checkpoint import CHECKPOINT_FILE, Checkpointing
from potstill.training.compute import compress_frozen_matrices, is_mixed, make_fabric
from potstill.training.inference import tokens_at_once
from potstill.training.language_modelling import LanguageModelLoss, sum_per_text
from potstill.training.loop import fit, trained_parameters

SEPARATOR = "\n"
"""Between class, text and second text: texts are put on one line first."""

_SECTION: Final = "transfer.lora"
_ROWS: Final = 32
"""Texts whose next token is drawn at once on a CPU: for all of them, the probabilities of a whole vocabulary take so
much memory that the C library would fetch it from the system, page by page, and give it back every time."""
_GPU_ROWS: Final = 1024
"""The same on a GPU, which keeps the memory: few calls, and a gigabyte for a vocabulary of 50,000."""


class NextTokenLoss(nn.Module):
    """A causal language model that returns how surprised it is by each text.

    Attributes:
        model: The language model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Add up the negative log-likelihoods of all tokens but the first.

        Args:
            input_ids: Token ids, (batch, length), padded on the right.
            attention_mask: 1 at real tokens, (batch, length).

        Returns:
            For each text the sum, in nats, and the number of tokens it goes over, (batch, 2), float32.
        """
        outputs = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        real = attention_mask[:, 1:].bool()
        logits = next_token_logits(self.model, outputs.last_hidden_state[:, :-1][real])  # none for the padding
        nll = cross_entropy(logits, input_ids[:, 1:][real], reduction="none")  # (tokens,)
        return sum_per_text(nll, real)


@dataclass(frozen=True)
class LanguageModel:
    """A backbone that writes texts like those it was tuned on.

    Attributes:
        model: The causal language model.
        tokenizer: Its tokenizer; adds the beginning and the end of a text.
        fabric: Device and precision.
        bos_id: Begins a text.
        eos_id: Ends it.
        padding_id: Fills short ones up.
        max_tokens: Longest text, with its prompt.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    fabric: Fabric
    bos_id: int
    eos_id: int
    padding_id: int
    max_tokens: int

    @classmethod
    def load(cls, config: PotstillConfig) -> LanguageModel:
        """Load the teacher's backbone as a language model, with fresh adapters.

        Args:
            config: `teacher`, `transfer`, `data.max_tokens` and `runtime` are used.

        Raises:
            SourceError: The backbone can't be found or reached, or writes no text.
            ConfigError: Its tokenizer has no token that ends a text.
        """
        settings, tokenizer = find_writer(config.teacher)
        torch.manual_seed(config.transfer.seed)
        model = load_language_model(config.teacher.backbone, settings, random_init=config.teacher.random_init)
        inject(model, config.transfer.lora, frozen=tuple(head_modules(model)), section=_SECTION)
        fabric = make_fabric(config.runtime)
        if is_mixed(fabric):
            _untie(model)  # the embeddings stay float32, and with them the residual stream
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
            padding_id=padding_id(tokenizer),
            max_tokens=min(config.data.max_tokens, getattr(settings, "max_position_embeddings", sys.maxsize)),
        )

    def tune(self, config: PotstillConfig, corpus: Corpus, history_file: Path, *, after_classes: bool = True) -> None:
        """Learn to write the corpus's training texts, each after the name of its class.

        Args:
            config: `transfer` and `runtime` are used.
            corpus: The task.
            history_file: Gets one JSON record per epoch. Beside it the state is kept, `CHECKPOINT_FILE`; the result
                stays there until the caller, who has kept it elsewhere, removes it.
            after_classes: Without it, the texts alone.
        """
        label_names = corpus.label_names if after_classes else None
        fit(
            NextTokenLoss(self.model),
            self._training_set(corpus.train, label_names),
            self._training_set(corpus.selection, label_names),
            LanguageModelLoss(),
            config.transfer.training.model_copy(update={"metric": "loss"}),  # it answers nothing that could be right
            fabric=self.fabric,
            seed=config.transfer.seed,
            history_file=history_file,
            save=lambda: None,
            title="language model",
            b_ratio=config.transfer.lora.learning_rate_ratio,
            most_tokens=tokens_at_once(self.fabric),
            checkpointing=Checkpointing.of(
                config.runtime, history_file.with_name(CHECKPOINT_FILE), config.transfer.lora
            ),
        )

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What `tune` trains, by dotted name."""
        return trained_parameters(self.model)

    @torch.no_grad()
    def restore(self, trained: Mapping[str, Tensor]) -> None:
        """Take over what one of the same settings has learnt: its `trained`."""
        for name, weight in self.trained.items():
            weight.copy_(trained[name])

    def merge(self) -> None:
        """Put the adapters into the weights: before sampling, where each token costs a pass over all of them."""
        absorb_adapters(self.model)

    def _training_set(self, examples: Examples, label_names: Sequence[str] | None) -> TrainingSet:
        pairs = examples.pairs or ("",) * len(examples)
        prompts = [() if label_names is None else (label_names[label],) for label in examples.labels]
        texts = tuple(
            SEPARATOR.join([*prompt, *(" ".join(part.split()) for part in parts if part)])
            for prompt, *parts in zip(prompts, examples.texts, pairs, strict=True)
        )
        tokens = tokenise(Examples(texts, examples.labels), self.tokenizer, self.max_tokens + 1, empty_id=self.eos_id)
        tokens = tokens.first(self.max_tokens)  # where a text has been cut it has no end to learn
        return TrainingSet(tokens, torch.from_numpy(examples.labels), self.padding_id)

    @torch.inference_mode()
    def sample(self, prompt: str, count: int, *, temperature: float, top_p: float, seed: int) -> Iterator[str]:
        """Write texts that follow `prompt`.

        Args:
            prompt: A class's name.
            count: How many at once. Those that are not finished in time are left out.
            temperature: Divides the logits.
            top_p: See `draw`.
            seed: Decides what is drawn.

        Yields:
            Finished texts; with a pair, both joined by `SEPARATOR`.
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
        for _ in range(self.max_tokens - len(start)):
            with self.fabric.autocast():
                outputs = self.model.base_model(input_ids=inputs, use_cache=True, **known)
                parts = outputs.last_hidden_state[:, -1].split(rows)
                logits = (next_token_logits(self.model, part) / temperature for part in parts)
                chosen = torch.cat([draw(part, top_p, generator) for part in logits])
            ended = chosen == self.eos_id
            if ended.any():
                yield from self.tokenizer.decode_batch(written[ended].tolist())
                going_on = (~ended).nonzero()[:, 0]
                if len(going_on) == 0:
                    return
                cache.batch_select_indices(going_on)
                chosen, written = chosen[going_on], written[going_on]
            inputs = chosen[:, None]
            written = torch.cat([written, inputs], dim=1)


def check_writer(config: PotstillConfig) -> None:
    """Refuse a language model that can't be loaded or adapted, before any weight is read.

    Raises:
        SourceError: The backbone can't be found or reached, or writes no text.
        ConfigError: Its tokenizer has no token that ends a text, or the adapters' targets don't exist.
    """
    settings, _ = find_writer(config.teacher)
    find_adapted(outline(settings, AutoModelForCausalLM), config.transfer.lora, _SECTION)


def find_writer(config: TeacherConfig) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Find the backbone's settings and its tokenizer, whose weights are not read yet.

    Raises:
        SourceError: The backbone can't be found or reached, or writes no text.
        ConfigError: Its tokenizer has no token that ends a text, or tokens that the backbone does not know.
    """
    settings = load_config(config.backbone, random_init=config.random_init)
    check_language_model(config.backbone, settings)
    tokenizer = load_tokenizer(config.tokenizer_name)
    if tokenizer.eos_token is None:
        raise ConfigError(
            [f"teacher.tokenizer: expected one with a token that ends a text; {config.tokenizer_name!r} has none"]
        )
    if config.random_init:
        settings.vocab_size = len(tokenizer)
    elif config.tokenizer_name != config.backbone:  # some know a token of their own that has no embedding
        check_vocabulary(len(tokenizer), settings.vocab_size, config.backbone)
    return settings, tokenizer


def next_token_logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Map last hidden states, (..., hidden), to logits over the vocabulary, float32."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    logits: Tensor = head(states).float()
    # Gemma 2 (arXiv 2408.00118, section 2) keeps them within bounds; no other family that is let in maps them further.
    bound = getattr(model.config, "final_logit_softcapping", None)
    return logits if bound is None else bound * (logits / bound).tanh()


def _cache_argument(model: PreTrainedModel) -> str:
    """Return what the model calls the keys and values that it knows already: `transformers` 5 has renamed it."""
    parameters = inspect.signature(model.base_model.forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def draw(logits: Tensor, top_p: float, generator: torch.Generator) -> Tensor:
    """Draw a token from each row's nucleus (Holtzman et al. 2020, arXiv 1904.09751, section 3.1).

    It is the smallest set of most probable tokens that together have at least the probability `top_p`: a token belongs
    to it where all that are more probable have less than that. So nothing needs to be sorted: one draws from the whole
    distribution and draws again where the token is outside, which is seldom.

    Args:
        logits: (batch, vocabulary), float32.
        top_p: Above 0, at most 1.
        generator: On the logits' device.

    Returns:
        Token ids, (batch,).
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


def _untie(model: PreTrainedModel) -> None:
    """Give the output layer a copy of the embeddings where it shares them."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
