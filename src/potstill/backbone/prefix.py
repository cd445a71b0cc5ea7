"""The frozen blocks at a backbone's beginning: computed once for a text, recalled ever after.

Where adapters sit on the last k blocks only, the hidden states that enter the first of these never change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from potstill.backbone.blocks import block_names, frozen_depth
from potstill.backbone.classifier import TextClassifier, evaluating
from potstill.backbone.head import head_modules


class _Reached(Exception):  # noqa: N818 — no error: it ends a forward pass behind the frozen blocks
    pass


class FrozenPrefix:
    """The leading blocks of a classifier, in and before which nothing is trained.

    Attributes:
        classifier: The whole model.
        blocks: The frozen blocks, from first to last.
        trained: What comes behind them and is trained: the other blocks and the head.
    """

    def __init__(self, classifier: TextClassifier, depth: int) -> None:
        modules = [classifier.model.get_submodule(name) for name in block_names(classifier.model)]
        self.classifier = classifier
        self.blocks = modules[:depth]
        self.trained = [*modules[depth:], *head_modules(classifier.model).values()]
        self._also_returned: tuple[None, ...] | None = None  # some families' blocks return a tuple: (states, …)

    @classmethod
    def find(cls, classifier: TextClassifier) -> FrozenPrefix | None:
        """Return the prefix of a model that is frozen as it will be trained.

        None where the first block is trained already, and where the family can't be resumed from the states alone (it
        runs a block more than once, as ALBERT does, or packs its batches): a trial on a few tokens tells.
        """
        depth = frozen_depth(classifier.model)
        if depth == 0:
            return None
        prefix = cls(classifier, depth)
        return prefix if prefix._resumes() else None

    @torch.no_grad()
    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute what the last frozen block hands on, (batch, length, hidden), and nothing behind it.

        Args:
            input_ids: Token ids, (batch, length).
            attention_mask: 1 at real tokens, (batch, length); the padding is on the right.
        """
        reached: list[Tensor] = []

        def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, tuple):
                output, *rest = output
                self._also_returned = (None,) * len(rest)
            reached.append(output)
            raise _Reached

        hook = self.blocks[-1].register_forward_hook(stop)
        try:
            with contextlib.suppress(_Reached):
                self.classifier.states(input_ids, attention_mask)
        finally:
            hook.remove()
        return reached[0]

    @contextlib.contextmanager
    def recall(self, states: Tensor) -> Iterator[None]:
        """Let the frozen blocks hand on `states`, (batch, length, hidden), instead of computing anything.

        The model's own forward pass runs as ever, so that positions and masks stay each family's own affair.
        """
        output = states if self._also_returned is None else (states, *self._also_returned)
        stand_in: Callable[..., Any] = lambda *_args, **_kwargs: output  # noqa: E731
        for block in self.blocks:
            block.forward = stand_in
        try:
            yield
        finally:
            for block in self.blocks:
                del block.forward

    @torch.no_grad()
    def _resumes(self) -> bool:
        """Say whether a pass from the states gives the logits of a whole pass."""
        device = next(self.classifier.parameters()).device
        input_ids = torch.arange(6, device=device).view(2, 3)  # no padding, whose embedding may be zero
        mask = torch.tensor([[1, 1, 1], [1, 1, 0]], device=device)
        with evaluating(self.classifier):
            states = self.states(input_ids, mask)
            if states.shape[:2] != input_ids.shape:
                return False
            with self.recall(states):
                resumed = self.classifier(input_ids, mask)
            return torch.allclose(resumed, self.classifier(input_ids, mask), rtol=1e-3, atol=1e-4)
