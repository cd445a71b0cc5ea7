"""A tokenizer as `transformers` has it, which cuts when it is told to and pads on the right."""

from __future__ import annotations

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast


def plain_tokenizer(backend: Tokenizer, padding_id: int, max_tokens: int, **special: str) -> PreTrainedTokenizerFast:
    """Wrap a tokenizer for whoever loads it with `AutoTokenizer`.

    Args:
        backend: What tokenises; a copy is taken, which neither cuts nor pads by itself.
        padding_id: The token that fills up a batch.
        max_tokens: The longest text that the model knows.
        special: What a tokenizer's user may ask it for beside the padding token, such as `eos_token`.
    """
    backend = Tokenizer.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        **special,
        pad_token=backend.id_to_token(padding_id),
        model_max_length=max_tokens,
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],  # no model here ever saw token types
    )
