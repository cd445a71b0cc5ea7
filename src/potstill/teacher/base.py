"""What a teacher is: anything that says how probable each class of a text is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from potstill.config import PotstillConfig, RuntimeConfig, TeacherConfig
from potstill.data import UNLABELLED, Corpus, Examples
from potstill.predict.decision import Threshold, probabilities_of
from potstill.predict.directory import LabelType
from potstill.training.base import FitResult


class Teacher(ABC):
    """A source of logits: a tuned transformer, an ensemble, a file of probabilities, a server.

    A new kind subclasses this in a file of its own and is registered in `teacher.registry`. `obtain` is for kinds that
    `run` trains or opens. Where it saves a `teacher.json` that names its `kind`, with `store.checksums.atomic_save`,
    `load` opens that again, for `--teacher` and for `run` after an interruption.

    Attributes:
        settings: Its section of the configuration.
        label_names: Name of each class, in the order of the logits.
        in_pairs: Whether it reads pairs of texts.
        label_type: Type of the labels in the data that it was tuned on.
        backbone: Name of a pretrained model whose embeddings a student may begin with; None: it has none.
        tokenizer_name: Name of that model's tokenizer.
        temperature: What the logits are divided by before the softmax (or sigmoid).
        min_confidence: None: a teacher always answers.
        threshold: See `predict.decision.predict_class`; None: the most probable class is the answer.
        keeps_answers: Whether it keeps its answers itself: no cache is put in front of it, and it is not timed.
    """

    settings: ClassVar[type[TeacherConfig]] = TeacherConfig
    label_names: tuple[str, ...]
    in_pairs: bool = False
    label_type: LabelType = "str"
    backbone: str | None = None
    tokenizer_name: str | None = None
    temperature: float = 1.0
    threshold: Threshold = None
    min_confidence: float | None = None
    keeps_answers: bool = False

    @property
    @abstractmethod
    def key(self) -> str:
        """A digest that changes whenever an answer could."""

    @abstractmethod
    def logits(
        self, examples: Examples, *, cached: bool = True, on_batch: Callable[[int], object] = lambda _: None
    ) -> NDArray[np.float32]:
        """Return the logits of texts, (texts, classes), NaN where it has no answer; their labels are not used.

        `cached` says whether answers and token ids may be kept on disk: not where texts are seen once, as in a stream.
        `on_batch` is called with the number of texts of each batch that is done.
        """

    def probabilities(self, texts: Sequence[Any]) -> NDArray[np.float32]:
        """Return the probabilities of texts, or of pairs of texts, (texts, classes); nothing is cached."""
        return self.answer(texts)[0]

    def answer(self, texts: Sequence[Any]) -> tuple[NDArray[np.float32], Sequence[bool | None]]:
        """Return `probabilities`, and of each text whether it was cut; None: not known."""
        first, second = zip(*texts, strict=True) if self.in_pairs else (tuple(texts), None)
        examples = Examples(first, np.full(len(texts), UNLABELLED), second)
        logits, is_cut = self.logits_of_stream(examples)
        return probabilities_of(logits, self.temperature, self.threshold), is_cut

    def logits_of_stream(self, examples: Examples) -> tuple[NDArray[np.float32], Sequence[bool | None]]:
        """Return the logits of texts that are seen once, and of each whether it was cut; by default not known."""
        return self.logits(examples, cached=False), [None] * len(examples)

    def reorder(self, label_names: tuple[str, ...]) -> None:
        """Put its classes into the order of `label_names`, unless these are others; by default it keeps its order."""
        return

    def limit_length(self, max_length: int) -> None:
        """Read `max_length` tokens of a text at most, unless it has a length of its own; by default it has one."""
        return

    def warn_of_cut(self, examples: Examples, **remedy: str) -> None:
        """Warn where it does not read the whole of labelled texts; by default it reads all."""
        return

    def known_settings(self, given: TeacherConfig) -> TeacherConfig:
        """Return `given` with those of its own settings that were saved; by default none were."""
        return given

    @property
    def parameters(self) -> tuple[int, int]:
        """Number of all parameters, and of those that training changed."""
        return (0, 0)

    def describe(self) -> str:
        """Say in one phrase for reports what it is."""
        return "a teacher"

    def bytes_on_disk(self, directory: Path) -> int:
        """Return the bytes that have to be kept to ask it again; `directory` is where it was saved."""
        return 0

    @classmethod
    def obtain(
        cls, config: PotstillConfig, corpus: Corpus, directory: Path, seed: int
    ) -> tuple[Self, FitResult | None]:
        """Train it in `directory`, or open it; the result is None where nothing is trained.

        Raises:
            PotstillError: Its settings or its sources can't be used.
        """
        raise NotImplementedError

    @classmethod
    def load(cls, directory: Path, runtime: RuntimeConfig) -> Self:
        """Open what `obtain` left in `directory`.

        Raises:
            ArtifactError: It is missing or damaged.
        """
        raise NotImplementedError

    @classmethod
    def check(cls, settings: Any) -> None:
        """Refuse settings that can't be used, before anything is written or trained; by default there are none.

        Raises:
            PotstillError: They can't be.
        """
        return
