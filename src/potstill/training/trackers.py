"""Trackers that people have: the settings and every epoch's record of a training go there, too.

Each is a class here and a line in `TRACKERS`. They need packages of their own, the extras of the same names, and find
their servers and keys as those packages do, by environment variables.
"""

from __future__ import annotations

import os
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Literal

from potstill.console import warn
from potstill.errors import ConfigError, MissingExtraError
from potstill.store.atomic import write_text
from potstill.store.checksums import digest
from potstill.training.base import Callback, Record
from potstill.training.fit import Trainer

_PROJECT: Final = "potstill"
"""The MLflow experiment or W&B project, unless the environment names another."""


_KEY_FILE: Final = "tracker-key"
"""Beside the model: what names its training to trackers, so that another one in the same place is another run."""
Status = Literal["FINISHED", "FAILED", "KILLED"]


def _key_of(directory: Path) -> str:
    """Return the key of the trainings in a directory, made at the first call."""
    file = directory / _KEY_FILE
    if not file.is_file():
        write_text(file, uuid.uuid4().hex)
    return file.read_text(encoding="utf-8")


class Tracker(Callback):
    """Hands a training's settings and the numbers of its epochs on to another program.

    Attributes:
        package: The package that it needs, by import name.
    """

    package: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        self._directory, self._is_open = directory, False

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Begin, or go on after an interruption, for which the epochs before it are handed on again."""
        title = trainer.context.title
        key = digest([_key_of(self._directory), title])[:16]  # the same when the training is resumed
        with self._survived(f"the beginning of {title}, so it gets nothing of it"):
            self._open(title, key, trainer.context.config.model_dump(mode="json"))
            self._is_open = True
            trainer.stack.push(self._end)
        for record in trainer.history:
            self.on_epoch(trainer, record)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """Hand the epoch's numbers on."""
        values = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
        if self._is_open:
            with self._survived(f"epoch {record['epoch']} of {trainer.context.title}"):
                self._log(int(values.pop("epoch")), values)

    def _end(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        stopped = isinstance(error, KeyboardInterrupt)  # Ctrl-C and SIGTERM
        with self._survived("the end of the training"):
            self._close("KILLED" if stopped else "FINISHED" if error is None else "FAILED")

    @contextmanager
    def _survived(self, what: str) -> Iterator[None]:
        """Warn of errors of any kind: a server that is away must not end a training."""
        try:
            yield
        except Exception as error:
            warn(f"{self.package} did not take {what}: {error}")

    @abstractmethod
    def _open(self, title: str, key: str, settings: dict[str, Any]) -> None:
        """Begin to track a training; `key` is that of the same training after an interruption."""

    @abstractmethod
    def _log(self, epoch: int, values: dict[str, float]) -> None:
        """Note the numbers of an epoch."""

    @abstractmethod
    def _close(self, status: Status) -> None:
        """End, as the training ended."""


class TensorBoard(Tracker):
    """Writes event files into `tensorboard` beside the model: `tensorboard --logdir runs`."""

    package = "tensorboard"

    def _open(self, title: str, key: str, settings: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = self._directory / "tensorboard" / title.replace(" ", "-")
        self._writer = SummaryWriter(str(place), purge_step=0)
        self._writer.add_text("settings", "\n".join(f"- {name}: {value}" for name, value in settings.items()))

    def _log(self, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def _close(self, status: Status) -> None:
        self._writer.close()


class MLflow(Tracker):
    """Makes a run in MLflow, where `MLFLOW_TRACKING_URI` says."""

    package = "mlflow"

    def _open(self, title: str, key: str, settings: dict[str, Any]) -> None:
        from mlflow import MlflowClient, MlflowException

        self._client = client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        with suppress(MlflowException):  # it is there, or another process has just made it
            client.create_experiment(name)
        found = client.get_experiment_by_name(name)
        assert found is not None
        experiment = found.experiment_id
        same = client.search_runs([experiment], f"tags.potstill_key = '{key}'", max_results=1)
        if same:
            self._run = same[0].info.run_id
            client.update_run(self._run, "RUNNING")
        else:
            tags = {"potstill_key": key, "directory": str(self._directory)}
            self._run = client.create_run(experiment, tags=tags, run_name=title).info.run_id
            for setting, value in settings.items():
                client.log_param(self._run, setting, value)

    def _log(self, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=epoch)

    def _close(self, status: Status) -> None:
        self._client.set_terminated(self._run, status)


class WandB(Tracker):
    """Makes a run in Weights & Biases; with `WANDB_MODE=offline` it stays on the disk."""

    package = "wandb"

    def _open(self, title: str, key: str, settings: dict[str, Any]) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        run = wandb.init(
            project=project,
            name=title,
            id=key,
            resume="allow",
            config=settings,
            dir=self._directory,
            reinit="create_new",
        )
        self._run = run

    def _log(self, epoch: int, values: dict[str, float]) -> None:
        self._run.log(values, step=epoch)

    def _close(self, status: Status) -> None:
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)


TRACKERS: Final[dict[str, type[Tracker]]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers can be used, before anything is trained.

    Raises:
        ConfigError: There is no such tracker.
        MissingExtraError: Its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError([f"runtime.trackers: expected some of {', '.join(TRACKERS)}, found {name!r}"])
        if find_spec(package := TRACKERS[name].package) is None:
            raise MissingExtraError(package, name)


def trackers(names: Sequence[str], directory: Path) -> list[Tracker]:
    """Return the trackers of a training in `directory`. Errors as for `check_trackers`."""
    check_trackers(names)
    return [TRACKERS[name](directory) for name in names]
