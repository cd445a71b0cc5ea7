"""The backbone, tuned as a language model on a task's text and written as a backbone of its own.

A teacher tuned from it starts from what texts of this kind are like: Howard and Ruder 2018, "Universal Language Model
Fine-tuning for Text Classification", section 3.2; Gururangan et al. 2020, "Don't Stop Pretraining" (arXiv 2004.10964),
section 4.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from torch import nn

from potstill.artifacts import write_new_directory
from potstill.backbone import load_tokenizer, save_plain
from potstill.config import PotstillConfig
from potstill.data import Corpus
from potstill.training.checkpoint import CHECKPOINT_FILE
from potstill.training.compute import EXACT
from potstill.training.loop import HISTORY_FILE
from potstill.transfer.build import build_transfer_set
from potstill.transfer.language_model import LanguageModel

BACKBONE: Final = "model"
"""Where `adapt` leaves the backbone in its directory."""


def adapt(config: PotstillConfig, corpus: Corpus, directory: Path) -> None:
    """Tune the backbone on the training texts and the files of `transfer.files`; nobody's labels are looked at.

    Args:
        config: `teacher` (the backbone), `transfer.files`, `.similarity`, `.lora`, `.training` and `.seed`, `data` and
            `runtime` are used.
        corpus: The task. Its selection texts choose the epoch; what is like one of them or of the evaluation texts is
            left out of the files.
        directory: Gets `history.jsonl`, with files the texts that were read from them as a transfer set, and, all of it
            or nothing, `BACKBONE`: model and tokenizer, plain, float32, for `teacher.backbone`. The same tuning is gone
            on with there, if it was interrupted.

    Raises:
        PotstillError: See `LanguageModel.load`, `build_transfer_set` and `fit`.
    """
    if not (directory / BACKBONE).is_dir():  # else only the checkpoint was left
        tuned = _tuned(config, corpus, directory)
        # The base may have been rounded to bfloat16 for tuning; what is written is not.
        exact = LanguageModel.load(config.model_copy(update={"runtime": EXACT}))
        exact.restore(tuned)
        exact.merge()
        tokenizer = load_tokenizer(config.teacher.tokenizer_name)
        write_new_directory(directory / BACKBONE, lambda place: save_plain(exact.model, tokenizer, place))
    (directory / CHECKPOINT_FILE).unlink(missing_ok=True)


def _tuned(config: PotstillConfig, corpus: Corpus, directory: Path) -> dict[str, nn.Parameter]:
    """Return what was tuned, by dotted name; it does not hold the rest of the model."""
    if config.transfer.files:
        only_files = config.transfer.model_copy(update={"sampled": 0, "perturbed": 0})
        read = build_transfer_set(config.model_copy(update={"transfer": only_files}), corpus, directory / "transfer")
        corpus = replace(corpus, train=corpus.train.joined(read.examples))
    model = LanguageModel.load(config)
    model.tune(config, corpus, directory / HISTORY_FILE, after_classes=False)
    return model.trained


def is_adapted(directory: Path) -> bool:
    """Say whether `adapt` has nothing left to do in `directory`."""
    return (directory / BACKBONE).is_dir() and not (directory / CHECKPOINT_FILE).exists()
