"""Memory: kept between two steps instead of being given back to the system, and explained where it is used up.

A step allocates and frees the same tensors as the one before. glibc hands the large ones back at once, so that the
system has to clear their pages anew each time: for a tensor of two megabytes that takes several times as long as the
elementwise operation that fills it.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from potstill.errors import MemoryUsedUpError

_TRIM_THRESHOLD: Final = -1  # mallopt's numbers, from malloc.h
_MMAP_THRESHOLD: Final = -3
_LARGEST_MMAP_THRESHOLD: Final = 32 << 20
"""Bytes from which an allocation is mapped and unmapped by itself; glibc takes no more than this on 64 bits."""
_KEPT: Final = (1 << 31) - 1
"""Free bytes at the heap's end that are not given back: the most that mallopt can be told."""

_lock = threading.Lock()
_users = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the process keep what it frees for a while; afterwards the system gets it. Without glibc nothing changes.

    The settings are the whole process's, so they hold until the last of all that are inside leaves.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _limit(_KEPT)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limit(2 * _LARGEST_MMAP_THRESHOLD)  # where glibc's own adaption ends, which setting it switches off
                _give_back()


def _limit(kept: int) -> None:
    """Keep at most so many free bytes."""
    if _has_glibc():
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, kept)


def _give_back() -> None:
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


@contextmanager
def memory_explained(where: Callable[[], str], remedy: str) -> Iterator[None]:
    """Say what to do where memory is used up.

    Args:
        where: Says, when it has happened, what was going on: words that follow "memory is used up".
        remedy: What to do.

    Raises:
        MemoryUsedUpError: In place of what says that memory is used up.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        raise MemoryUsedUpError(f"memory is used up {where()} ({said})\n  what to do: {remedy}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory was used up: a GPU's, or the machine's, which PyTorch tells in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
