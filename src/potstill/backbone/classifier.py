"""A pretrained model as a classifier of whole texts: pooling and head for any decoder or encoder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.backbone.blocks import block_names, keep_first_blocks
from potstill.backbone.echo import Echo
from potstill.backbone.sources import check_vocabulary, load_config, load_model

if TYPE_CHECKING:
    from potstill.backbone.prefix import FrozenPrefix
    from potstill.backbone.top import TopBlock


class TextClassifier(nn.Module):
    """A `transformers` sequence classification model that pools by the attention mask.

    Decoders (GPT-2, Llama, OPT, GPT-NeoX …) classify the state of the last real token with their linear map `score`.
    `transformers` looks for that token by comparing ids with the padding id, which goes wrong when the padding id is
    also the end-of-text id; here the mask alone decides. With an `echo` a decoder is given every text twice, and the
    mean of the second reading's states is classified. Encoders keep their own head and pooling.

    Attributes:
        model: The wrapped model.
        padding_id: What fills short sequences up; never looked at here.
        echo: How it is given every text twice; None: it reads once.
        prefix: The leading blocks that are not trained, where their output is to be recalled. They stay in evaluation
            mode, so that what they hand on is the same every time.
        top: The last block, where parts of it need not be computed for tokens that are not classified.
        takes_trees: Whether `forward` may be given trees of tokens; somebody must have tried, see `reads_trees`.
    """

    def __init__(self, model: PreTrainedModel, padding_id: int) -> None:
        super().__init__()
        self.model = model
        self.padding_id = padding_id
        self.echo: Echo | None = None
        self.prefix: FrozenPrefix | None = None
        self.top: TopBlock | None = None
        self.takes_trees = False

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode."""
        super().train(mode)
        if mode and self.prefix is not None:
            self.model.base_model.eval()
            for module in self.prefix.trained:
                module.train()
        return self

    def compile_blocks(self) -> None:
        """Compile the trained blocks, one by one: they are alike, so that little more than one is compiled.

        The first training step of each kind of batch then takes its time.
        """
        skipped = 0 if self.prefix is None else len(self.prefix.blocks)
        for name in block_names(self.model)[skipped:]:
            self.model.get_submodule(name).compile(dynamic=True)

    @property
    def is_decoder(self) -> bool:
        """Whether the model reads left to right, so that only the last token has seen the whole text."""
        return hasattr(self.model, "score")

    @property
    def max_tokens(self) -> int:
        """The longest text that the model has positions for, once or twice."""
        config = self.model.config
        positions: int = getattr(config, "max_position_embeddings", None) or sys.maxsize
        # RoBERTa and its kin number their positions from the padding id on.
        table = getattr(getattr(self.model.base_model, "embeddings", None), "position_embeddings", None)
        skipped = getattr(table, "padding_idx", None)
        available = positions if skipped is None else positions - skipped - 1
        return available if self.echo is None else self.echo.longest(available)

    @property
    def state_size(self) -> int:
        """Width of the last hidden states. A decoder's head says it: those of OPT-350m are narrower than its blocks."""
        if self.is_decoder:
            return self.model.get_submodule("score").get_parameter("weight").shape[1]
        return int(self.model.config.hidden_size)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        states: Tensor | None = None,
        positions: Tensor | None = None,
        ends: Tensor | None = None,
    ) -> Tensor:
        """Classify a batch of texts, or of trees of tokens, in which texts share their beginnings (`data.trees`).

        Args:
            input_ids: Token ids, (batch, length); of trees, (trees, nodes).
            attention_mask: 1 at real tokens, (batch, length); padding may be on either side. Of trees, which nodes each
                attends to, (trees, 1, nodes, nodes), bool.
            states: What the `prefix` hands on, (batch, length, hidden), instead of computing it; the padding is on the
                right then.
            positions: Of trees: the place of each node in its texts, (trees, nodes).
            ends: Of trees: tree and node of each text's last token, (2, batch).

        Returns:
            Logits in float32, (batch, classes).
        """
        if positions is not None and ends is not None:
            return self._classify_trees(input_ids, attention_mask, positions, ends)
        with contextlib.ExitStack() as stack:
            if self.prefix is not None and states is not None:
                stack.enter_context(self.prefix.recall(states))
            return self._classify(*pad_right(input_ids, attention_mask))

    def tree_states(self, input_ids: Tensor, attended: Tensor, positions: Tensor) -> Tensor:
        """Return the last hidden state of every node, (trees, nodes, hidden); the arguments are those of `forward`."""
        mask = torch.zeros(attended.shape, device=attended.device)
        mask.masked_fill_(~attended, torch.finfo(mask.dtype).min)
        states: Tensor = self.model.base_model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return states

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the last hidden state of every token, (batch, length, hidden); the padding is on the right."""
        # Without padding no mask is passed: attention then takes its fastest causal kernel.
        mask = None if bool(attention_mask.all()) else attention_mask
        options = {"use_cache": False} if self.is_decoder else {}
        states: Tensor = self.model.base_model(input_ids=input_ids, attention_mask=mask, **options).last_hidden_state
        return states

    def _classify(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if not self.is_decoder:
            encoded: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return encoded.float()
        texts, length = input_ids.shape
        lengths = attention_mask.sum(dim=1)
        if self.echo is None:
            rows = torch.arange(texts, device=lengths.device) * length + lengths - 1
        else:
            second = self.echo.second_reading(lengths, length)
            rows = second.flatten().nonzero().squeeze(1)
        with self._reading(rows):
            states = self.states(input_ids, attention_mask)
        pooled = states.flatten(0, 1)[rows] if self.echo is None else self.echo.mean(states, second)
        return self._score(pooled)

    def _classify_trees(self, input_ids: Tensor, attended: Tensor, positions: Tensor, ends: Tensor) -> Tensor:
        last = ends[0] * input_ids.shape[1] + ends[1]
        with self._reading(last):
            states = self.tree_states(input_ids, attended, positions)
        return self._score(states.flatten(0, 1)[last])

    def _reading(self, rows: Tensor) -> contextlib.AbstractContextManager[None]:
        """Leave undone what no one reads but for these of the tokens, indices into (batch · length)."""
        return contextlib.nullcontext() if self.top is None else self.top.only(rows)

    def _score(self, pooled: Tensor) -> Tensor:
        """Map a decoder's states, (batch, hidden), to logits, (batch, classes)."""
        logits: Tensor = self.model.get_submodule("score")(pooled)
        return logits.float()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keep a model in evaluation mode for a while, whichever it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def pad_right(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move every row's real tokens to its front, in their order; both tensors are (batch, length).

    Then the positions that each family counts by itself are right, and an encoder finds its first token where it looks.
    """
    order = attention_mask.argsort(dim=1, descending=True, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def build_classifier(
    name: str,
    num_classes: int,
    padding_id: int | None = None,
    *,
    random_init: bool = False,
    vocab_size: int | None = None,
    first_blocks: int | None = None,
) -> TextClassifier:
    """Load or build a backbone with a new head, in evaluation mode; draws from torch's generator, so seed it first.

    Args:
        name: The embedded backbone, a directory, a `.gguf` file, a hub name or, with `random_init`, an architecture.
        num_classes: Outputs of the head.
        padding_id: The tokenizer's padding id; None: the model's own, else 0.
        random_init: Draw all weights at random.
        vocab_size: Tokens that the tokenizer knows; with `random_init` the embedding table gets this size, else it
            must be large enough. None: the table's own size.
        first_blocks: How many blocks are kept; None: all.

    Raises:
        SourceError: The backbone can't be found, reached or used.
        ConfigError: The tokenizer has tokens that the backbone doesn't know, or there are fewer blocks.
    """
    config = load_config(name, random_init=random_init)
    config.num_labels = num_classes
    own_padding = getattr(config, "pad_token_id", None)
    if padding_id is None:
        padding_id = own_padding or 0
    if vocab_size is not None:
        if random_init:
            config.vocab_size = vocab_size
            if own_padding is not None and own_padding >= vocab_size:
                config.pad_token_id = padding_id  # else it stays: RoBERTa counts its positions from it
        else:
            check_vocabulary(vocab_size, config.vocab_size, name)
    model = load_model(name, config, random_init=random_init)
    if first_blocks is not None:
        keep_first_blocks(model, first_blocks)
    return TextClassifier(model, padding_id).eval()
