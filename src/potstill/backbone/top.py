"""The top block of a decoder, computed for those tokens alone that are classified.

Of what the last block hands on, the head of a decoder reads one token of each text. Attention needs the keys and values
of all the others; what the block's other parts make of these is thrown away, and hence need not be made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from potstill.backbone.blocks import block_names
from potstill.backbone.classifier import TextClassifier, evaluating
from potstill.lora.layer import LoRALinear
from potstill.lora.linear import LinearLike

_SAME: Final = 1e-4
"""Norm of the difference of two states over that of a state, up to which they are the same in float32."""


class TopBlock:
    """What a decoder's last block can leave undone for tokens that nobody reads.

    Attributes:
        parts: Those of its modules with a linear map that take each token by itself, and whose output for one token
            matters for no other: the feed-forward layer, queries, attention's output; not its keys and values.
    """

    def __init__(self, parts: list[nn.Module], *, elsewhere: float = 0.0) -> None:
        self.parts = parts
        self._rows: Tensor | None = None
        self._elsewhere = elsewhere
        for part in parts:
            part.forward = partial(self._map, part.forward)

    @classmethod
    @torch.no_grad()
    def find(cls, classifier: TextClassifier) -> TopBlock | None:
        """Find the parts of a model on a CPU, adapters included, and let them do no more than `only` says.

        A trial on a few tokens tells which modules they are: where the output for all other tokens is no number, what
        the block hands on for those that are read must be what it was. None: an encoder, or there is no such module.
        """
        if not classifier.is_decoder:
            return None
        try:
            with evaluating(classifier):
                trial = _Trial.of(classifier)
                parts = [] if trial is None else list(trial.parts())
        except Exception:  # whatever a family's block needs to be run by itself, it then runs whole
            return None
        return cls(parts) if parts else None

    @contextlib.contextmanager
    def only(self, rows: Tensor) -> Iterator[None]:
        """Let the parts compute some tokens alone, and give 0 for the others.

        Args:
            rows: Which ones, as indices into (batch · length).
        """
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def _map(self, forward: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._rows is None:
            return forward(x, *args, **kwargs)
        mapped = forward(x.flatten(0, -2)[self._rows].unsqueeze(0), *args, **kwargs).squeeze(0)  # (rows, out)
        everywhere = mapped.new_full((x.shape[:-1].numel(), mapped.shape[-1]), self._elsewhere)
        return everywhere.index_copy(0, self._rows, mapped).view(*x.shape[:-1], -1)


class _Trial:
    """A pass of the last block over a few tokens, some of which are read."""

    def __init__(self, block: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], tokens: int) -> None:
        self._block, self._inputs, self._options, self._tokens = block, inputs, options, tokens
        self._read = torch.arange(tokens // 2 - 1, tokens, tokens // 2)  # the last of each of two texts
        self._expected = self._states()

    @classmethod
    def of(cls, classifier: TextClassifier) -> _Trial | None:
        """Record what enters the last block. None: it is read more than once, as where blocks are shared."""
        block = classifier.model.get_submodule(block_names(classifier.model)[-1])
        ids = torch.arange(8).view(2, 4)  # no padding, whose embedding may be zero
        calls: list[tuple[Any, Any]] = []
        hook = block.register_forward_pre_hook(lambda _, *given: calls.append(given), with_kwargs=True)
        try:
            classifier.states(ids, torch.ones_like(ids))
        finally:
            hook.remove()
        return cls(block, *calls[0], ids.numel()) if len(calls) == 1 else None

    def parts(self, module: nn.Module | None = None) -> Iterator[nn.Module]:
        """Yield the largest modules of the block that stand alone, and have something to compute."""
        for child in (self._block if module is None else module).children():
            if not any(isinstance(part, LinearLike) for part in child.modules()):
                continue
            if self._stands_alone(child):
                yield child
            elif not isinstance(child, LoRALinear | LinearLike):
                yield from self.parts(child)

    def _stands_alone(self, module: nn.Module) -> bool:
        rows: list[int] = []
        hook = module.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[:-1].numel()))
        alone = TopBlock([module], elsewhere=torch.nan)
        try:
            with alone.only(self._read):
                found = self._states()
        except Exception:  # whatever it is that it takes and returns, it is no map of tokens
            return False
        finally:
            del module.forward
            hook.remove()
        same = bool((found - self._expected).norm() <= _SAME * self._expected.norm())
        return same and rows == [self._tokens]  # once, and all of them

    def _states(self) -> Tensor:
        output = self._block(*self._inputs, **self._options)
        states: Tensor = output[0] if isinstance(output, tuple) else output
        return states.flatten(0, -2)[self._read]
