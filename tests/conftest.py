"""Tiny models with random weights, made on the spot: no test needs a download, and none sees this machine's cache."""

from __future__ import annotations

import importlib
import os
import signal
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # `make test` runs a process per core; threads would wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, which happens below
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime's, when it is imported
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # tests compare sums of a CPU; test_gpu.py is for the other thing

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers
from hypothesis import settings
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from tiny_words import FAMILIES, IDS, SPECIAL, VOCABULARY, tiny_tokenizer

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

settings.register_profile("potstill", deadline=None)  # a busy machine is no failure
settings.load_profile("potstill")

MakeModel = Callable[..., PreTrainedModel]
ModelDirectory = Callable[[str], Path]


@pytest.fixture(autouse=True, scope="session")
def heard_interrupts() -> Iterator[None]:
    """Hear Ctrl-C as in a terminal, also where a shell has started the tests in the background, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_CACHE", str(directory))
        yield directory


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Import scripts of benchmarks/, which are no package, by their names; nothing of them stays."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path[:0] = map(str, (BENCHMARKS, BENCHMARKS / "stress"))
    yield importlib.import_module
    sys.path[:] = path
    for name in sys.modules.keys() - modules:
        if BENCHMARKS in Path(getattr(sys.modules[name], "__file__", None) or "").parents:
            del sys.modules[name]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Keep tiny networks on one core: threads that wait for each other cost far more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def no_plots() -> Iterator[None]:
    """Leave out the slowest part of a tiny run; tests/report and the run of experiment/test_run.py draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("potstill.report.draw_plots", lambda *_: None)
        yield


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Build a classification model of a family; equal seeds give equal weights."""

    def make(family: str, *, num_labels: int = 3, seed: int = 0) -> PreTrainedModel:
        config = AutoConfig.for_model(
            family, **FAMILIES[family], **IDS, vocab_size=len(VOCABULARY), num_labels=num_labels
        )
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:  # the usual initial weights are so small that errors would hide behind tolerances
                parameter.data.mul_(5)
        return model

    return make


@pytest.fixture(scope="session")
def model_directory(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """Save a family's tiny model with a tiny tokenizer, once, and return where."""
    made: dict[str, Path] = {}

    def directory(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            make_model(family).base_model.save_pretrained(made[family])  # like a hub checkpoint, without a head
            tiny_tokenizer().save_pretrained(made[family])
        return made[family]

    transformers.logging.disable_progress_bar()
    return directory


@pytest.fixture(scope="session")
def tiny_backbone(model_directory: ModelDirectory) -> Path:
    """A backbone for tests to which the family does not matter."""
    return model_directory("llama")


@pytest.fixture(scope="session")
def batch() -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of three texts of 7, 3 and 5 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(7) < torch.tensor([[7], [3], [5]])
    ids = torch.randint(len(SPECIAL), len(VOCABULARY), mask.shape, generator=generator)
    return ids.where(mask, IDS["pad_token_id"]), mask.long()
