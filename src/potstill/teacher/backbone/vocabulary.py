"""Whether a tokenizer and a backbone fit: each token that a text or a batch may get needs a row in the embeddings."""

from __future__ import annotations

from collections.abc import Collection
from operator import itemgetter
from typing import Final

from transformers import PreTrainedTokenizerBase

from potstill.errors import ConfigError
from potstill.teacher.backbone.sources import pad_token_id

_MEND: Final = (
    "remove the tokens without an embedding from the tokenizer's files, or give the backbone rows for them and save "
    "it (in transformers: model.resize_token_embeddings(len(tokenizer)); with an adapter of peft, save the merged "
    "model and name it as the backbone)"
)
_SHOWN: Final = 5
"""Tokens that a message lists at most."""


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, rows: int, backbone: str, *, needed: Collection[int] = ()
) -> None:
    """Refuse a tokenizer with a token that has no row in the backbone's embeddings, before any weight is read.

    A special token may lack one where no text and no padding gets it: texts that spell special tokens are text.

    Needed are what its post-processor adds, the padding, and the tokens `needed`; the embeddings have so many `rows`.

    Raises:
        ConfigError: Names the tokens.
    """
    rules = tokenizer.backend_tokenizer
    special = {token_id for token_id, token in rules.get_added_tokens_decoder().items() if token.special}
    used = {pad_token_id(tokenizer), tokenizer.unk_token_id, *rules.encode("a").ids, *rules.encode("a", "a").ids}
    vocabulary = rules.get_vocab(with_added_tokens=True)
    without = [
        f"{token!r} (id {token_id})"
        for token, token_id in sorted(vocabulary.items(), key=itemgetter(1))
        if token_id >= rows and (token_id not in special or token_id in {*used, *needed})
    ]
    if without:
        shown = ", ".join(without[:_SHOWN]) + (", …" if len(without) > _SHOWN else "")
        found = f"the tokenizer has {1 + max(vocabulary.values())} tokens, {backbone!r} knows {rows}"
        raise ConfigError([f"teacher.backbone: {found}; {_MEND}; without an embedding: {shown}"])
