"""What Potstill is compared with: the usual ways of doing the same with `transformers`, `peft` and plain PyTorch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from common import MAX_TOKENS, Batches, Steps
from potstill.backbone import EMBEDDED, load_tokenizer, padding_id
from potstill.backbone.sources import find_source
from potstill.config import LoRAConfig, TrainingConfig
from potstill.data import Examples
from potstill.data.tokenised import TrainingSet, tokenise
from potstill.student.network import DistilRNN
from potstill.teacher import Teacher

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def peft_model(adapters: Path | None = None, num_labels: int = 2) -> nn.Module:
    """Load the embedded backbone with `transformers` and adapt it with `peft`.

    Args:
        adapters: A teacher's directory, to have its adapters and head; None: fresh ones of Potstill's default rank.
        num_labels: Classes.
    """
    base = AutoModelForSequenceClassification.from_pretrained(
        find_source(EMBEDDED).location,
        num_labels=num_labels,
        pad_token_id=padding_id(load_tokenizer(EMBEDDED)),
        dtype=torch.float32,
    )
    if adapters is not None:
        return PeftModel.from_pretrained(base, adapters, is_trainable=True)
    ours = LoRAConfig()
    lora = {"r": ours.rank, "lora_alpha": ours.alpha, "lora_dropout": ours.dropout, "target_modules": "all-linear"}
    return get_peft_model(base, PeftConfig(task_type="SEQ_CLS", **lora))


def twin(teacher: Teacher) -> nn.Module:
    """Make a PEFT model with the same weights as `teacher`."""
    with tempfile.TemporaryDirectory() as directory:
        teacher.save(Path(directory))
        return peft_model(Path(directory), len(teacher.manifest.label_names))


def training_set(examples: Examples) -> TrainingSet:
    """Tokenise as the embedded backbone's teacher does, without having to load one."""
    tokenizer = load_tokenizer(EMBEDDED)
    texts = tuple(tokenizer.bos_token + text for text in examples.texts)
    padding = padding_id(tokenizer)
    tokens = tokenise(Examples(texts, examples.labels), tokenizer.backend_tokenizer, MAX_TOKENS, padding)
    return TrainingSet(tokens, torch.from_numpy(examples.labels), padding)


def plain_plan(lengths: NDArray[np.int64], training: TrainingConfig, generator: np.random.Generator) -> Batches:
    """Plan an epoch as Trainer does: sentences in random order."""
    return _cut(generator.permutation(len(lengths)), training.batch_size)


def grouped_plan(lengths: NDArray[np.int64], training: TrainingConfig, generator: np.random.Generator) -> Batches:
    """Plan an epoch as Trainer does with `train_sampling_strategy="group_by_length"`."""
    seeded = torch.Generator().manual_seed(int(generator.integers(2**31)))
    sampler = LengthGroupedSampler(training.batch_size, lengths=lengths.tolist(), generator=seeded)
    return _cut(np.fromiter(sampler, dtype=np.int64), training.batch_size)


def _cut(order: NDArray[np.int64], batch_size: int) -> Batches:
    return np.split(order, range(batch_size, len(order), batch_size))


class Stopwatch(TrainerCallback):
    """Times Trainer's steps without its preparation; `pause` while something else is done in between."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._started = time.perf_counter()

    def pause(self) -> None:
        """Stop until `on_train_begin` is called again."""
        self.seconds += time.perf_counter() - self._started

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.pause()


class RecordingTrainer(Trainer):
    """Trainer that keeps each step's loss; its own log averages and rounds them."""

    losses: list[float]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take a step."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


def trainer(model: nn.Module, data: TrainingSet, training: TrainingConfig, **options: Any) -> RecordingTrainer:
    """Set up Trainer with the settings of `training`; `options` are further TrainingArguments."""
    rows = [
        {"input_ids": data.tokens[i].tolist(), "attention_mask": [1] * len(data.tokens[i]), "labels": int(label)}
        for i, label in enumerate(data.labels)
    ]
    tokenizer = load_tokenizer(EMBEDDED)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    made = RecordingTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=tempfile.gettempdir(),  # nothing is saved
            per_device_train_batch_size=training.batch_size,
            num_train_epochs=training.epochs,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.schedule,
            warmup_steps=training.warmup,
            weight_decay=training.weight_decay,
            max_grad_norm=training.clip_norm or 0.0,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **options,
        ),
        train_dataset=rows,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    made.remove_callback(PrinterCallback)
    made.losses = []
    return made


def trainer_steps(model: nn.Module, data: TrainingSet, batches: Batches, training: TrainingConfig) -> Steps:
    """Let Trainer take one step per batch, in the given order."""
    chosen = take(data, np.concatenate(batches))
    stopwatch = Stopwatch()
    made = trainer(model, chosen, training, train_sampling_strategy="sequential", max_steps=len(batches))
    made.add_callback(stopwatch)
    made.train()
    return Steps(made.losses, stopwatch.seconds)


class PlainStudent(nn.Module):
    """A student's network as it is usually written; has the weights of `network`."""

    def __init__(self, network: DistilRNN) -> None:
        super().__init__()
        spec = network.spec
        self.embedding = nn.Embedding(spec.vocab_size, spec.embedding_size, padding_idx=spec.padding_id)
        self.recurrence = nn.LSTM(
            spec.embedding_size, spec.hidden_size, spec.num_layers, bidirectional=spec.bidirectional, batch_first=True
        )
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(spec.state_size, spec.num_classes)
        self.load_state_dict(network.state_dict())

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Map ids, (batch, length), and the number of real ones, (batch,), to logits, (batch, classes)."""
        embedded = self.dropout(self.embedding(input_ids))  # (batch, length, embedding)
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.recurrence(packed)[0], batch_first=True, padding_value=-torch.inf)
        logits: Tensor = self.head(self.dropout(states.amax(dim=1)))
        return logits


Judge = Callable[[Tensor], Tensor]
"""Indices of sentences, (batch,) → a teacher's logits, (batch, classes)."""


def train_plain_student(
    network: PlainStudent,
    data: TrainingSet,
    selection: TrainingSet,
    training: TrainingConfig,
    *,
    judge: Judge | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
) -> list[float]:
    """Train in a plain PyTorch loop: random batches, padded; accuracy on `selection` after every epoch.

    Args:
        network: The student.
        data: What gradients come from.
        selection: What is scored.
        training: Epochs, batch size, learning rate and clipping.
        judge: The teacher, asked at every step; None: labels only.
        alpha: Weight of the labels where there is a teacher.
        temperature: Softens both distributions.

    Returns:
        The accuracies.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    batches, scored = (_loader(part, training.batch_size, shuffle=part is data) for part in (data, selection))
    accuracies = []
    for _ in range(training.epochs):
        network.train()
        for indices, input_ids, lengths, labels in batches:
            logits = network(input_ids, lengths)
            loss = cross_entropy(logits, labels)
            if judge is not None:
                p, q = (log_softmax(z / temperature, dim=1) for z in (logits, judge(indices)))
                soft = kl_div(p, q, reduction="batchmean", log_target=True) * temperature**2
                loss = alpha * loss + (1 - alpha) * soft
            optimizer.zero_grad()
            loss.backward()
            if training.clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)
            optimizer.step()
        network.eval()
        with torch.no_grad():
            right = sum(int((network(ids, lengths).argmax(1) == labels).sum()) for _, ids, lengths, labels in scored)
        accuracies.append(right / len(selection))
    return accuracies


def _loader(data: TrainingSet, batch_size: int, *, shuffle: bool) -> DataLoader[Any]:
    """Cut tokenised lists into padded batches of (indices, ids, lengths, labels)."""
    rows: Any = [(i, data.tokens[i].tolist(), int(label)) for i, label in enumerate(data.labels)]

    def collate(chosen: list[tuple[int, list[int], int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        indices, sequences, labels = zip(*chosen, strict=True)
        input_ids = pad_sequence([torch.tensor(ids) for ids in sequences], True, data.padding_id)
        return torch.tensor(indices), input_ids, torch.tensor([len(ids) for ids in sequences]), torch.tensor(labels)

    return DataLoader(rows, batch_size, shuffle=shuffle, collate_fn=collate)


def pad(data: TrainingSet, indices: NDArray[np.int64]) -> dict[str, Tensor]:
    """Collate sentences for a `transformers` model."""
    rows = [torch.from_numpy(data.tokens[int(i)]).long() for i in indices]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": pad_sequence(rows, True, data.padding_id), "attention_mask": mask}


@torch.no_grad()
def plain_logits(model: nn.Module, data: TrainingSet, batch_size: int = 32) -> Tensor:
    """Label in the order in which the sentences stand, padded, adapters unmerged; (sentences, classes)."""
    model.eval()
    batches = _cut(np.arange(len(data)), batch_size)
    return torch.cat([model(**pad(data, indices)).logits for indices in batches])


def take(data: TrainingSet, indices: NDArray[np.int64]) -> TrainingSet:
    """Return the sentences at `indices`, in that order."""
    rows = [data.tokens[int(i)] for i in indices]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    tokens = type(data.tokens)(np.concatenate(rows), offsets)
    return TrainingSet(tokens, data.labels[torch.from_numpy(indices)], data.padding_id)
