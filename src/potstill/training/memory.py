"""Memory that is used up, explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from potstill.errors import MemoryUsedUpError


@contextmanager
def memory_explained(where: Callable[[], str], remedy: str) -> Iterator[None]:
    """Say what to do where memory, a GPU's or the machine's, is used up.

    Args:
        where: Says what was going on, in words that follow "memory is used up".
        remedy: What to do.

    Raises:
        MemoryUsedUpError: In place of the error of Python or PyTorch.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # PyTorch has no class of its own for the machine's memory.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not known:
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        raise MemoryUsedUpError(f"memory is used up {where()} ({said})\n  what to do: {remedy}") from error
