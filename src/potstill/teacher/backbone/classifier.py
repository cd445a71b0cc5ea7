"""A pretrained model as a classifier of whole texts: pooling and head for any decoder or encoder."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from potstill.console import print_line
from potstill.data.columns import listed
from potstill.lora.blocks import head_modules, keep_first_layers
from potstill.teacher.backbone.echo import Echo
from potstill.teacher.backbone.sources import load_config, load_model, outline

_UNLIKELY: Final = 7919
"""A number of classes that is no width of a layer."""


class TextClassifier(nn.Module):
    """A `transformers` sequence classification model that pools by the attention mask.

    Decoders (GPT-2, Llama, OPT, GPT-NeoX …) classify the state of the last real token with their linear map `score`.
    `transformers` looks for that token by comparing ids with the padding id, which goes wrong when the padding id is
    also the end-of-text id; here the mask alone decides. With an `echo` a decoder is given every text twice, and the
    mean of the second reading's states is classified. Encoders keep their own head and pooling.

    `pad_token_id` and `with_types`, whether it is to be told which text of a pair a token is of, are for the callers
    that make batches; they are not used here.
    """

    def __init__(self, model: PreTrainedModel, pad_token_id: int) -> None:
        super().__init__()
        self.model = model
        self.pad_token_id = pad_token_id
        self.echo: Echo | None = None
        self.with_types = False

    @property
    def is_decoder(self) -> bool:
        """Whether the model reads left to right, so that only the last token has seen the whole text."""
        return hasattr(self.model, "score")

    @property
    def reads_types(self) -> bool:
        """Whether the model has an embedding for each text of a pair, as BERT, ALBERT and ELECTRA have."""
        accepted = "token_type_ids" in inspect.signature(self.model.forward).parameters
        return accepted and not self.is_decoder and getattr(self.model.config, "type_vocab_size", 2) > 1

    @property
    def max_length(self) -> int:
        """The longest text that the model has positions for, once or twice."""
        available: int = getattr(self.model.config, "max_position_embeddings", None) or sys.maxsize
        # RoBERTa and its kin number their positions from the padding id on.
        table = getattr(getattr(self.model.base_model, "embeddings", None), "position_embeddings", None)
        if (skipped := getattr(table, "padding_idx", None)) is not None:
            available -= skipped + 1
        return available if self.echo is None else self.echo.longest(available)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Classify a batch of texts.

        Args:
            input_ids: Token ids, (batch, length).
            attention_mask: 1 at real tokens, (batch, length); padding may be on either side.
            token_type_ids: The number of each token's text in its pair, (batch, length); for encoders that read it.

        Returns:
            Logits in float32, (batch, classes).
        """
        # Real tokens go to the front: positions are right then, and encoders find their first token where they look.
        order = attention_mask.argsort(dim=1, descending=True, stable=True)
        input_ids, attention_mask = input_ids.gather(1, order), attention_mask.gather(1, order)
        if not self.is_decoder:
            types = {} if token_type_ids is None else {"token_type_ids": token_type_ids.gather(1, order)}
            encoded: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits
            return encoded.float()
        # Without padding no mask is passed: attention then takes its fastest causal kernel.
        mask = None if bool(attention_mask.all()) else attention_mask
        outputs = self.model.base_model(input_ids=input_ids, attention_mask=mask, use_cache=False)
        states: Tensor = outputs.last_hidden_state  # (batch, length, hidden)
        lengths = attention_mask.sum(dim=1)
        if self.echo is not None:
            pooled = self.echo.pool(states, lengths)  # (batch, hidden)
        else:
            pooled = states[torch.arange(len(states), device=states.device), lengths - 1]
        logits: Tensor = self.model.get_submodule("score")(pooled)
        return logits.float()


def build_classifier(
    name: str,
    num_classes: int,
    pad_token_id: int | None = None,
    *,
    label_names: Sequence[str] | None = None,
    random_init: bool = False,
    num_layers: int | None = None,
) -> TextClassifier:
    """Load or build a backbone with a new head, in evaluation mode; draws from torch's generator, so seed it first.

    `name` is a backbone's or, with `random_init`, which draws all weights, an architecture's. `pad_token_id` is the
    tokenizer's; None: the model's own, else 0. `label_names` are the classes: a checkpoint's head that was tuned for
    them is kept, in their order; that of others is drawn anew. None: a head for as many classes is kept as it is.
    `num_layers` is how many blocks are kept; None: all.

    Raises:
        SourceError: The backbone can't be found, reached or used.
        ConfigError: There are fewer blocks.
    """
    config = load_config(name, random_init=random_init)
    found = class_names(config)
    config.num_labels = num_classes
    if pad_token_id is None:
        pad_token_id = getattr(config, "pad_token_id", None) or 0
    model, missing = load_model(name, config, random_init=random_init)
    if label_names is not None:
        adopt_head(model, found, label_names, missing, name)
    if num_layers is not None:
        keep_first_layers(model, num_layers)
    return TextClassifier(model, pad_token_id).eval()


def class_parameters(config: PretrainedConfig) -> tuple[str, ...]:
    """Name the parameters of a classification model that have a row for each class."""
    other = copy.deepcopy(config)
    other.num_labels = _UNLIKELY
    return tuple(
        f"{module}.{name}"
        for module, head in head_modules(outline(other)).items()
        for name, parameter in head.named_parameters()
        if parameter.shape[0] == _UNLIKELY
    )


def class_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Return the names of a checkpoint's classes, in the order of its logits."""
    return tuple(str(name) for _, name in sorted((config.id2label or {}).items()))


def reorder_classes(model: PreTrainedModel, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Put the rows of a head for the classes `found` into the order `wanted` of the same classes."""
    order = [found.index(name) for name in wanted]
    for name in class_parameters(model.config):
        rows = model.get_parameter(name)
        rows.data = rows.data[order]


def adopt_head(
    model: PreTrainedModel, found: Sequence[str], wanted: Sequence[str], missing: frozenset[str], backbone: str
) -> None:
    """Keep a fine-tuned checkpoint's head if it is for the `wanted` classes, else draw its last layer anew, and say so.

    `found` are the classes of the checkpoint of that `backbone`, see `class_names`; `missing` are the names of the
    parameters that it lacks.
    """
    rows = class_parameters(model.config)
    if not missing.isdisjoint(rows):
        return
    if sorted(found) == sorted(wanted):
        reorder_classes(model, found, wanted)
        return
    print_line(f"{backbone} classifies into {listed(found)}, not {listed(wanted)}: the last layer of its head is new")
    for parameter in map(model.get_parameter, rows):  # weights as in BERT and GPT, biases 0
        nn.init.normal_(parameter, std=getattr(model.config, "initializer_range", 0.02) * (parameter.dim() > 1))
