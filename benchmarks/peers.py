"""What Potstill is compared with: the usual ways of doing the same with `transformers`, `peft` and plain PyTorch."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from potstill.config import LoRAConfig, TrainingConfig
from potstill.data.tokenised import TrainingSet
from potstill.student.rnn import DistilRNN
from potstill.teacher.backbone.builtin import BUILTIN
from potstill.teacher.backbone.sources import find_source, load_tokenizer, pad_token_id
from potstill.teacher.transformer import TransformerTeacher
from steps import Batches, Steps

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def peft_model(adapters: Path | None = None, num_labels: int = 2) -> nn.Module:
    """Load the builtin backbone with `transformers`, and a teacher's adapters and head, or fresh ones, with `peft`."""
    base = AutoModelForSequenceClassification.from_pretrained(
        find_source(BUILTIN).location,
        num_labels=num_labels,
        pad_token_id=pad_token_id(load_tokenizer(BUILTIN)),
        dtype=torch.float32,
    )
    if adapters is not None:
        return PeftModel.from_pretrained(base, adapters, is_trainable=True)
    ours = LoRAConfig()
    lora = {"r": ours.rank, "lora_alpha": ours.alpha, "lora_dropout": ours.dropout, "target_modules": "all-linear"}
    return get_peft_model(base, PeftConfig(task_type="SEQ_CLS", **lora))


def twin(teacher: TransformerTeacher) -> nn.Module:
    """Make a PEFT model with the same weights as `teacher`."""
    with tempfile.TemporaryDirectory() as directory:
        teacher.save(Path(directory))
        return peft_model(Path(directory), len(teacher.manifest.label_names))


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


class RecordingTrainer(Trainer):
    """Trainer that keeps the time and each step's loss; its own log averages and rounds them."""

    losses: list[float]
    started: float

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take a step."""
        if not self.losses:
            self.started = time.perf_counter()
        loss: Tensor = super().training_step(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


def trainer_steps(model: nn.Module, data: TrainingSet, batches: Batches, training: TrainingConfig) -> Steps:
    """Let Trainer take one step per batch, in the given order, with the settings of `training`."""
    texts = [(data.tokens[i].tolist(), int(data.labels[i])) for i in np.concatenate(batches).tolist()]
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label} for ids, label in texts]
    tokenizer = load_tokenizer(BUILTIN)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    options = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is saved
        per_device_train_batch_size=training.batch_size,
        max_steps=len(batches),
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup_ratio,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm or 0.0,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    collator = transformers.DataCollatorWithPadding(tokenizer)
    trainer = RecordingTrainer(model=model, args=options, train_dataset=rows, data_collator=collator)
    trainer.remove_callback(PrinterCallback)
    trainer.losses = []
    trainer.train()
    return Steps(trainer.losses, time.perf_counter() - trainer.started)


class PlainStudent(nn.Module):
    """A student's network as it is usually written; has the weights of `network`."""

    def __init__(self, network: DistilRNN) -> None:
        super().__init__()
        spec = network.spec
        self.embedding = nn.Embedding(spec.vocab_size, spec.embedding_size, padding_idx=spec.pad_token_id)
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


def train_plain_student(
    network: PlainStudent, data: TrainingSet, validation: TrainingSet, training: TrainingConfig
) -> list[float]:
    """Train in a plain PyTorch loop: random batches, padded; return the accuracy on `validation` after every epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    batches, scored = (_loader(part, training.batch_size, shuffle=part is data) for part in (data, validation))
    accuracies = []
    for _ in range(training.epochs):
        network.train()
        for input_ids, lengths, labels in batches:
            loss = cross_entropy(network(input_ids, lengths), labels)
            optimizer.zero_grad()
            loss.backward()
            if training.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), training.max_grad_norm)
            optimizer.step()
        network.eval()
        with torch.no_grad():
            right = sum(int((network(ids, lengths).argmax(1) == labels).sum()) for ids, lengths, labels in scored)
        accuracies.append(right / len(validation))
    return accuracies


def _loader(data: TrainingSet, batch_size: int, *, shuffle: bool) -> DataLoader[Any]:
    """Cut tokenised lists into padded batches of (ids, lengths, labels)."""
    rows: Any = [(data.tokens[i].tolist(), int(label)) for i, label in enumerate(data.labels)]

    def collate(chosen: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
        sequences, labels = zip(*chosen, strict=True)
        input_ids = pad_sequence([torch.tensor(ids) for ids in sequences], True, data.pad_token_id)
        return input_ids, torch.tensor([len(ids) for ids in sequences]), torch.tensor(labels)

    return DataLoader(rows, batch_size, shuffle=shuffle, collate_fn=collate)


@torch.no_grad()
def plain_logits(model: nn.Module, data: TrainingSet, batch_size: int = 32) -> Tensor:
    """Label in the order in which the sentences stand, padded, adapters unmerged; (sentences, classes)."""
    model.eval()
    found = []
    for input_ids, lengths, _ in _loader(data, batch_size, shuffle=False):
        mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        found.append(model(input_ids=input_ids, attention_mask=mask).logits)
    return torch.cat(found)
