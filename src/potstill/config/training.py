"""Settings of every training, and where it computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from potstill.config.base import Fraction, Settings


class TrainingConfig(Settings):
    """How one model is fitted. The same loop serves teacher, distilled student and baseline."""

    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training data at most. On thousands of sentences a teacher's loss on unseen ones soon rises."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Texts per batch. 32 is the larger of BERT's two choices for fine-tuning."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients are summed into one optimiser step."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """The optimiser. AdamW decays weights apart from the gradient (Loshchilov and Hutter 2019)."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    """Peak learning rate. 5e-4 is what LoRA's paper takes for RoBERTa-base on much of GLUE (appendix D)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay, on matrices only. 0: few epochs, or the best of many, already limit the fit."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up: to 0 by the last step, or constant. `linear` as in LoRA's paper
    for GLUE (appendix D)."""
    warmup_ratio: Fraction = 0.06
    """Share of the steps over which the learning rate rises. 0.06 is RoBERTa's choice for GLUE."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Largest norm of the gradient; larger ones are scaled down."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many epochs without a better `metric`. None: run all epochs, so that `schedule` comes to its
    end."""
    metric: Literal["mcc", "accuracy", "f1", "loss"] = "mcc"
    """Score on the validation part by which epochs are compared. MCC is 0 for a model that always says the same."""
    keep: Literal["best", "last"] = "best"
    """Keep the weights of the epoch with the best `metric`, or of the last one. `last` asks no score: hundreds of texts
    tell epochs apart only roughly, and where `schedule` ends at 0 the last epoch has settled."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weigh the labels' loss by class: `balanced` lets every class count the same, however rare. None: a model that
    knows how frequent a class is has better probabilities, and a threshold can be chosen afterwards."""


class RuntimeConfig(Settings):
    """Where it is computed."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; `auto` is a CUDA GPU where there is one, else the CPU. Apple's `mps` is slow with small
    models."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Precision of frozen weights and matrix products; `auto` is bfloat16 where the hardware multiplies it fast. That
    is on GPUs that support it and CPUs with AMX or AMD's AVX-512 BF16. Adapters, heads, students and optimiser are
    always float32."""
    checkpoint_seconds: Annotated[float, Field(ge=0.0)] | None = 60.0
    """Seconds between two checkpoints of a training, from which it resumes after an interruption. 0: after every step.
    None: no checkpoints. Where writing takes long they are rarer, so that it never takes more than a fiftieth of the
    time."""
    executor: str = "local"
    """Where students are trained: `local` (several processes on this machine) or `none` (one after the other). Texts
    are sampled there too."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Number of local processes; none: as many as PyTorch would use threads on a CPU, one with a GPU."""
