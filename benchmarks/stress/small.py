"""A small real run, made on the spot: every kind of file that Potstill writes, in seconds and without a download."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from potstill.config import PotstillConfig
from potstill.console import console
from potstill.data import load_corpus
from potstill.experiment.run import run

DATA = {"source": "builtin", "max_train_examples": 120, "max_length": 24}
"""Enough of the builtin corpus for every split to hold both classes."""

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def make_run(work: Path) -> tuple[PotstillConfig, Path]:
    """Do a whole small run, with all caches used, below `work`; returns its settings and its directory."""
    os.environ["POTSTILL_CACHE"] = str(work / "cache")
    console.quiet = True
    settings = configuration(make_backbone(work / "backbone"))
    _, directory = run(settings, work / "run")
    return settings, directory


def configuration(backbone: Path) -> PotstillConfig:
    """Return settings under which two teachers, the unlabelled set and two students of each kind are small."""
    training = {"epochs": 2, "learning_rate": 0.01, "batch_size": 16}
    return PotstillConfig.build(
        {
            "data": DATA,
            "teacher": {
                **{"backbone": str(backbone), "training": training, "seeds": [0, 1]},
                "lora": {"rank": 2, "dropout": 0.1},
            },
            "student": {
                **{"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "seeds": [0, 1], "training": training},
                "pretraining": {"epochs": 1},
            },
            "augment": {"sampled": 10, "perturbed": 40, "training": training | {"epochs": 1, "metric": "loss"}},
            "distillation": {"teachers": "average"},
            "runtime": {"device": "cpu", "precision": "32-true"},
        }
    )


def make_backbone(directory: Path) -> Path:
    """Save a decoder of two narrow blocks with random weights, and a tokenizer that was learnt from the corpus."""
    transformers.logging.disable_progress_bar()
    corpus = load_corpus(PotstillConfig.build({"data": DATA}).data)
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
        **{"max_position_embeddings": 64, "vocab_size": tokenizer.get_vocab_size(), "tie_word_embeddings": True},
        **{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory
