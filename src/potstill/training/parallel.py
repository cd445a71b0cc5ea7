"""Data parallelism: several processes train one model, each on its share of every batch.

Each process holds the whole model and takes the same steps, so that only gradients have to travel. Those of adapters
are a few megabytes, which are added up once a step. PyTorch's DistributedDataParallel sends them while the backward
pass is still running (Li et al. 2020, "PyTorch Distributed", section 3.2), which pays where all weights are trained.

`torchrun` starts the processes; each finds in its environment which one it is.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from potstill.errors import ConfigError, TrainingError
from potstill.predict.wording import numbered


def check_devices(count: int, kind: str) -> None:
    """Refuse more processes on this machine than it has GPUs, and devices whose processes can't work together."""
    if kind == "cuda" and count > (found := torch.cuda.device_count()):
        raise ConfigError(
            [f"expected at most {numbered(found, 'process', 'processes')}, one for each GPU here, found {count}"]
        )
    if kind not in ("cpu", "cuda") and count > 1:
        raise ConfigError([f"runtime.device: several processes can't share work on {kind!r}; choose cpu or cuda"])


def is_launched() -> bool:
    """Say whether `torchrun` has started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def launch(processes: int, arguments: Sequence[str]) -> NoReturn:
    """Run the command line `arguments` in so many processes of this machine, and exit with its status.

    An error in one of them ends the others.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # a failing process says why by itself
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    status = 0
    try:
        torchrun(["--standalone", f"--nproc-per-node={processes}", "-m", "potstill", *arguments])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        status = code if code > 0 else 128 - code
    except SignalException as error:
        status = 128 + error.sigval
    sys.exit(status)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Let the processes that `torchrun` has started work together inside; without it this is the only process."""
    if not is_launched():
        yield
        return
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    check_devices(int(os.environ["LOCAL_WORLD_SIZE"]), device)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, number, count = next(rendezvous("env://"))
    # After a restart the same store holds the addresses of the processes that have ended.
    store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=count)
    yield
    distributed.destroy_process_group()  # after an error the process ends, and with it the group


def processes() -> int:
    """Return how many processes work together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0; process 0 alone writes files and prints."""
    return distributed.get_rank() if processes() > 1 else 0


def share(texts: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
    """Return this process's share of a batch's texts, and whether it counts.

    With fewer texts than processes, those left over compute the first text, so that each has a loss; it does not count.
    """
    own = texts[rank() :: processes()]
    return (own, True) if len(own) else (texts[:1], False)


def add_up(parameters: Iterable[nn.Parameter], sums: dict[str, float]) -> None:
    """Add up the gradients of `parameters` and the numbers in `sums` over all processes, in place."""
    if processes() == 1:
        return
    trained = list(parameters)
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in trained]
    numbers = torch.tensor(list(sums.values()), dtype=torch.float32, device=gradients[0].device)
    flat = torch.cat([part.reshape(-1) for part in (*gradients, numbers)])
    with _together():
        distributed.all_reduce(flat)
    parts = torch.split(flat, [part.numel() for part in (*gradients, numbers)])
    for parameter, part in zip(trained, parts, strict=False):
        parameter.grad = part.view_as(parameter)
    sums.update(zip(sums, parts[-1].tolist(), strict=True))


def add_up_rows(rows: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, of which each has filled its own rows, the others with 0."""
    if processes() > 1:
        with _together():
            distributed.all_reduce(rows)
    return rows


@contextmanager
def _together() -> Iterator[None]:
    """Raise a TrainingError where another process does not answer."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo has no class of its own
        said = str(error).partition("\n")[0]
        raise TrainingError(
            f"another process of this training has ended, or can't be reached ({said})\n"
            f"  what to do: see what it printed; the same command goes on from the last checkpoint"
        ) from None


def any_of(value: bool) -> bool:
    """Say whether `value` is true in one of the processes."""
    if processes() == 1:
        return value
    found = torch.tensor(float(value))
    with _together():
        distributed.all_reduce(found)
    return bool(found.item())


def of_first(value: Any = None) -> Any:
    """Return the `value` of process 0."""
    shared = [value]
    if processes() > 1:
        with _together():
            distributed.broadcast_object_list(shared)
    return shared[0]
