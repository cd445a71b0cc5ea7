"""The backbone, tuned as a language model on a task's text and written as a backbone of its own.

A teacher tuned from it starts from what texts of this kind are like: Howard and Ruder 2018, "Universal Language Model
Fine-tuning for Text Classification", section 3.2; Gururangan et al. 2020, "Don't Stop Pretraining" (arXiv 2004.10964),
section 4.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from potstill.backbone import load_tokenizer
from potstill.config import PotstillConfig, RuntimeConfig
from potstill.data import Corpus
from potstill.lora import absorb_adapters
from potstill.runtime.seal import is_sealed, sealing
from potstill.tensors import system_errors
from potstill.training.checkpoint import CHECKPOINT_FILE
from potstill.transfer.build import build_transfer_set
from potstill.transfer.language_model import LanguageModel

_FLOAT32 = RuntimeConfig(device="cpu", precision="32-true")


def adapt(config: PotstillConfig, corpus: Corpus, directory: Path) -> None:
    """Tune the backbone on the training texts and the files of `transfer.files`; nobody's labels are looked at.

    Args:
        config: `teacher` (the backbone), `transfer.files`, `.similarity`, `.lora`, `.training` and `.seed`, `data` and
            `runtime` are used.
        corpus: The task. Its selection texts choose the epoch; what is like one of them or of the evaluation texts is
            left out of the files.
        directory: Gets model and tokenizer, sealed, for `teacher.backbone`, and `history.jsonl`; with files, the texts
            that were read from them as a transfer set. The same tuning is gone on with there, if it was interrupted.

    Raises:
        PotstillError: See `LanguageModel.load`, `build_transfer_set` and `fit`.
    """
    if config.transfer.files:
        only_files = config.transfer.model_copy(update={"sampled": 0, "perturbed": 0})
        built = build_transfer_set(config.model_copy(update={"transfer": only_files}), corpus, directory)
        corpus = replace(corpus, train=corpus.train.joined(built.examples))
    tuned = LanguageModel.load(config)
    tuned.tune(config, corpus, directory / "history.jsonl", after_classes=False)
    # The base may have been rounded to bfloat16 for tuning; what is written is not.
    written = LanguageModel.load(config.model_copy(update={"runtime": _FLOAT32}))
    with torch.no_grad():
        for name, weight in written.trained.items():
            weight.copy_(tuned.trained[name])
    absorb_adapters(written.model)
    with sealing(directory) as staged:
        with system_errors():
            written.model.save_pretrained(staged)
        load_tokenizer(config.teacher.tokenizer or config.teacher.backbone).save_pretrained(staged)
    (directory / CHECKPOINT_FILE).unlink(missing_ok=True)


def is_adapted(directory: Path) -> bool:
    """Say whether `adapt` has nothing left to do in `directory`."""
    return is_sealed(directory) and not (directory / CHECKPOINT_FILE).exists()
