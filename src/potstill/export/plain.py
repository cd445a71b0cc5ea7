"""A tokenizer for `transformers`, which pads on the right and cuts where its caller asks for it."""

from __future__ import annotations

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast


def plain_tokenizer(
    backend: Tokenizer, pad_token_id: int, max_length: int, *, with_types: bool = False, **special: str
) -> PreTrainedTokenizerFast:
    """Wrap a copy of a tokenizer for `AutoTokenizer`.

    Args:
        backend: The tokenizer.
        pad_token_id: Its padding.
        max_length: Where it cuts.
        with_types: Whether the model reads the number of each token's text in its pair.
        special: Names of further tokens, such as `eos_token`.
    """
    backend = Tokenizer.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        **special,
        pad_token=backend.id_to_token(pad_token_id),
        model_max_length=max_length,
        padding_side="right",
        truncation_side="right",
        split_special_tokens=True,  # a text that spells a special token is text
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", *["token_type_ids"] * with_types, "attention_mask"],
    )
