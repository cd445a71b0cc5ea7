"""The vocabulary and the sizes of the tiny models."""

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # RoBERTa's order
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *(f"w{n}" for n in range(60))])}

IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
POSITIONS = 40

_COMMON = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": POSITIONS,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS},
    "llama": _COMMON,
    "qwen2": _COMMON | {"num_key_value_heads": 1},
    "gemma": _COMMON | {"num_key_value_heads": 1, "head_dim": 8},
    "opt": _COMMON | {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "gpt_neox": _COMMON,
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "bert": _COMMON,
    "roberta": _COMMON,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": POSITIONS},
    "modernbert": _COMMON,
    "mpnet": _COMMON,
    "albert": _COMMON | {"embedding_size": 8},
    "deberta-v2": _COMMON | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
