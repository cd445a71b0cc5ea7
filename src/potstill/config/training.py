"""Settings of every training, and where it computes."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from potstill.config.base import Fraction, Settings

FEW_VALIDATION_TEXTS: Final = 50
"""With fewer, one text more or less right moves the accuracy by over two points: the best epoch is the luckiest."""


class TrainingConfig(Settings):
    """How one model is fitted. The same loop serves teacher, distilled student and baseline."""

    epochs: Annotated[int, Field(ge=1)] = 3
    """Number of passes over the training data; `min_steps` can add some, `patience` can end them early. With thousands
    of sentences a teacher's validation loss soon rises."""
    min_steps: Annotated[int, Field(ge=0)] = 0
    """Add epochs until there are at least so many optimiser steps; `patience` may still end the training earlier. A few
    hundred texts make fewer than ten steps an epoch, and some dozens of steps hardly change a network."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Texts per batch. 32 is the larger of BERT's two choices for fine-tuning."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Number of batches whose gradients are accumulated for one optimiser step."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """The optimiser. AdamW decouples weight decay from the gradient (Loshchilov and Hutter 2019)."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    """Peak learning rate. LoRA's paper uses 5e-4 for RoBERTa-base on several tasks of GLUE (appendix D)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight decay, on matrices only. 0, since few epochs, or keeping the best epoch, already prevent overfitting."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after the warm-up: it falls to 0 by the last step (`linear`, `cosine`), or stays `constant`.
    `linear` as in LoRA's paper for GLUE (appendix D)."""
    warmup_ratio: Fraction = 0.06
    """Share of the steps over which the learning rate rises. 0.06 is RoBERTa's choice for GLUE."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Largest norm of the gradient; larger gradients are scaled down. None: no limit."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many epochs without a better `metric`. None: run all epochs, so that `schedule` reaches its
    end."""
    metric: Literal["mcc", "accuracy", "f1", "loss"] = "mcc"
    """Validation score that compares epochs. `mcc` (Matthews correlation coefficient), since it is 0 for a model that
    always gives the same answer. With fewer than 50 validation texts it is always `loss`: there, the epoch with the
    most right answers is mostly a lucky one."""
    keep: Literal["best", "last"] = "best"
    """Keep the weights of the epoch with the best `metric`, or of the last epoch. `last` is worth a try if there are
    only hundreds of validation texts, whose scores are noisy, and if `schedule` ends at 0."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the labels' loss; with `balanced` every class counts the same, however rare. `none`,
    since a model that knows the class frequencies has better probabilities, and a threshold can be chosen
    afterwards."""


class RuntimeConfig(Settings):
    """Where and how Potstill computes."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; `auto` is a CUDA GPU if there is one, else the CPU. Apple's `mps` is slow for small models."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Precision of frozen weights and matrix products; `auto` is bfloat16 if the hardware multiplies it fast, else
    float32. GPUs that support bfloat16, and CPUs with AMX or AMD's AVX-512 BF16, multiply it fast. Adapters, heads,
    students and optimiser are always float32."""
    checkpoint_seconds: Annotated[float, Field(ge=0.0)] | None = 60.0
    """Seconds between two checkpoints of a training, from which it resumes after an interruption. 0: after every step.
    None: no checkpoints. If writing takes long, checkpoints are rarer, so that writing takes at most 2 % of the
    time."""
    executor: str = "local"
    """How students are trained and texts sampled: `local` (in several processes on this machine) or `none` (one after
    the other)."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Number of local processes. None: as many as PyTorch has threads on a CPU, one with a GPU."""
    trackers: tuple[str, ...] = ()
    """Programs that also get the settings and each epoch's scores: `tensorboard`, `mlflow`, `wandb`. Each needs its
    extra, as in `pip install 'potstill[mlflow]'`. `mlflow` writes to `MLFLOW_TRACKING_URI`; `wandb` sends to a server
    unless `WANDB_MODE=offline`."""
    teacher_base: str | None = None
    """Where the pretrained model of a saved teacher is now, named like a backbone. None: where it was when the teacher
    was tuned. Its weights must be the same."""
    teacher_classes: tuple[str, ...] | None = None
    """Classes of a teacher that `peft` wrote, in the order of its logits, such as `bad,good` (in YAML a list). None: as
    the data has them, since `peft` saves no names."""
