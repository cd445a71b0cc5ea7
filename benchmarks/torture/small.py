"""A small real run, made on the spot: every kind of file that Potstill writes, in seconds and without a download."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from potstill.config import PotstillConfig
from potstill.console import console
from potstill.data import load_corpus
from potstill.pipeline import run

SENTENCES = 120
"""Of the embedded corpus; enough for every split to hold both classes."""

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def make_run(work: Path) -> tuple[PotstillConfig, Path]:
    """Do a whole small run, with all caches used, below `work`; returns its settings and its directory."""
    os.environ["POTSTILL_CACHE"] = str(work / "cache")
    console.quiet = True
    settings = configuration(make_backbone(work / "backbone"))
    _, directory = run(settings, work / "run")
    return settings, directory


def configuration(backbone: Path) -> PotstillConfig:
    """Return settings under which teacher, transfer set, hidden states and both kinds of student are small."""
    training = {"epochs": 2, "learning_rate": 0.01}
    return PotstillConfig.build(
        {
            "data": {"source": "embedded", "limit": SENTENCES, "max_tokens": 24},
            "teacher": {
                "backbone": str(backbone),
                "lora": {"rank": 2, "last_blocks": 1},  # the other block's states are kept on disk
                "training": training,
                "seeds": [0, 1],
            },
            "student": {
                **{"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "seeds": [0, 1], "training": training},
                "pretraining": {"epochs": 1},
            },
            "transfer": {"perturbed": 40},
            "distillation": {"hidden_weight": 0.1},
            "runtime": {"device": "cpu", "precision": "32-true"},
        }
    )


def make_backbone(directory: Path) -> Path:
    """Save a decoder of two narrow blocks with random weights, and a tokenizer that was learnt from the corpus."""
    transformers.logging.disable_progress_bar()
    corpus = load_corpus(PotstillConfig.build({"data": {"source": "embedded", "limit": SENTENCES}}).data)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106 — a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(corpus.train.texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    config = AutoConfig.for_model(
        "llama",
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
        **{"max_position_embeddings": 64, "vocab_size": tokenizer.get_vocab_size()},
        **{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
    )
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).base_model.save_pretrained(directory)
    return directory
