"""What a frozen prefix makes of a data set: computed once, kept on disk, shared by epochs, seeds and trials."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from potstill.artifacts import cache_directory, file_digest
from potstill.backbone.prefix import FrozenPrefix
from potstill.data.tokenised import TrainingSet, sequential_batches
from potstill.training.loop import evaluation_tokens
from potstill.training.progress import progress_bar

States = NDArray[np.float32]
"""Hidden states of many texts end to end, (tokens, hidden)."""


def frozen_states(prefix: FrozenPrefix, data: TrainingSet, fabric: Fabric, key: str) -> States | None:
    """Return what `prefix` hands on for every token of `data`.

    Args:
        prefix: The frozen blocks.
        data: The texts.
        fabric: Device and precision.
        key: Digest of everything that decides the states.

    Returns:
        The states, memory-mapped: they may be larger than memory. None: they would take more than half of the disk's
        free space. (A mapped file that outgrows its disk ends the process without a word.)
    """
    path = cache_directory() / "states" / key
    if (known := _read(path)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(data.tokens.ids), prefix.classifier.model.config.hidden_size)
        if 4 * math.prod(shape) > shutil.disk_usage(path.parent).free // 2:
            return None
        _write(path, lambda file: _compute(prefix, data, fabric, file, shape))
        known = np.load(path / "states.npy", mmap_mode="r")
    return known


def _compute(prefix: FrozenPrefix, data: TrainingSet, fabric: Fabric, file: Path, shape: tuple[int, int]) -> None:
    states = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    prefix.classifier.eval()
    with progress_bar() as progress:
        task = progress.add_task("frozen blocks", total=len(data), loss="", scores="")
        for indices in sequential_batches(data.tokens.lengths, evaluation_tokens(fabric)):
            batch = data.batch(indices).to(fabric.device)
            with fabric.autocast():
                computed = prefix.states(batch.input_ids, batch.attention_mask).float().cpu()
            real = batch.attention_mask.bool().cpu()
            places = [np.arange(*data.tokens.offsets[[index, index + 1]]) for index in indices]
            states[np.concatenate(places)] = computed[real].numpy()
            progress.update(task, advance=len(indices))
    states.flush()


def _write(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write the states and put them with their digest at `path`: whole, or not at all."""
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".computing-"))
    try:
        fill(temporary / "states.npy")
        (temporary / "sha256").write_text(file_digest(temporary / "states.npy"), encoding="ascii")
        shutil.rmtree(path, ignore_errors=True)  # what was found damaged
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(path: Path) -> States | None:
    """Map what `_write` wrote; None where it is missing or is not what was written, to the last bit."""
    try:
        if file_digest(path / "states.npy") != (path / "sha256").read_text(encoding="ascii"):
            return None
        states: States = np.load(path / "states.npy", mmap_mode="r")
    except (OSError, ValueError):
        return None
    return states
