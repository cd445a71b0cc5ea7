"""The study of a search: the database of its trials, which several processes may share, and what each of them tries."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, Engine, event
from sqlalchemy.exc import SQLAlchemyError

from potstill.config import Candidates, PotstillConfig
from potstill.config.search import SearchConfig
from potstill.errors import ArtifactError, ConfigError
from potstill.executor.signals import Stopped
from potstill.experiment.run_directory import RunSpec
from potstill.store.checksums import digest

_UNPRUNED_TRIALS: Final = 5
"""Trials that finish before one is stopped: a median of fewer says little."""
_UNPRUNED_EPOCHS: Final = 2
"""First epoch after which a training is stopped: in the first one the learning rate rises and the MCC is mostly 0.
Stopped is one whose best MCC is below the median of the other trials at that epoch, which leaves time for better
settings (after Golovin et al. 2017, "Google Vizier", section 3.2.2)."""
_HEARTBEAT: Final = 30
"""Seconds between the signs of life of a process that shares a study. Without one for twice as long, its trial is made
again."""
PAUSE: Final = 1.0
"""Seconds between two looks at the trials of other processes, when there is nothing else left to do."""
_DATABASE_ERRORS: Final = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
_AGAIN: Final = "failed_trial"
"""What Optuna keeps with a trial that is made again: the number of the one that was interrupted."""


def distribution(candidates: Candidates) -> BaseDistribution:
    """Return what Optuna is to draw from for candidates that were checked (`Candidates.within`)."""
    low, high, step = candidates.low, candidates.high, candidates.step
    if low is None or high is None:
        return CategoricalDistribution(candidates.choices or ())
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=candidates.log, step=int(step or 1))
    return FloatDistribution(low, high, log=candidates.log, step=step)


class _Sampler(BaseSampler):
    """Draws a trial's settings by its place among the trials, so that it does not matter which process draws them.

    The first trial has the configured settings.
    """

    def __init__(self, config: PotstillConfig) -> None:
        self._config = config.search
        configured = {name: attrgetter(name)(config) for name in space_of(config.search)}
        self._configured = {name: value for name, value in configured.items() if self._config.space[name].has(value)}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what is searched."""
        return space_of(self._config)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all settings of a trial."""
        place = place_of(study, trial)
        given = self._configured if place == 0 else {}
        # Each trial has a sampler of its own, so that its draws don't depend on how often the search was interrupted.
        seed = int(np.random.SeedSequence([self._config.seed, place]).generate_state(1)[0])
        draw = RandomSampler(seed) if self._config.sampler == "random" else TPESampler(seed=seed, constant_liar=True)
        return {
            name: given[name] if name in given else draw.sample_independent(study, trial, name, one)
            for name, one in search_space.items()
        }

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one setting of a trial that has no others."""
        return self.sample_relative(study, trial, {param_name: param_distribution})[param_name]


def place_of(study: optuna.Study, trial: FrozenTrial) -> int:
    """Count the trials before a trial; one that is made again has the place that it had before."""
    number = trial.system_attrs.get(_AGAIN, trial.number)
    return sum(one.number < number and _AGAIN not in one.system_attrs for one in study.get_trials(deepcopy=False))


def space_of(settings: SearchConfig) -> dict[str, BaseDistribution]:
    """Return what is searched, by dotted name."""
    return {name: distribution(one) for name, one in settings.space.items() if not one.fixed}


def suggest(trial: optuna.Trial, name: str, one: BaseDistribution) -> None:
    """Give a trial its value of a setting."""
    if isinstance(one, FloatDistribution):
        trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)
    elif isinstance(one, IntDistribution):
        trial.suggest_int(name, one.low, one.high, step=one.step, log=one.log)
    elif isinstance(one, CategoricalDistribution):
        trial.suggest_categorical(name, one.choices)


def make_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let the settings of a trial that was interrupted be those of the next one."""
    RetryHeartbeatStaleTrialCallback()(study, trial)


def running_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that a process is at, or was when it was killed."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


@contextmanager
def open_study(file: Path, spec: RunSpec) -> Iterator[optuna.Study]:
    """Open a study, or begin one: in `file`, or in the database that several processes share.

    Raises:
        ArtifactError: The database can't be used, or is lost in the middle of the search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = spec.config.search
    place, name = URL.create("sqlite", database=str(file.absolute())).render_as_string(), "potstill"
    sharing: dict[str, Any] = {}
    shown, advice = str(file), "restore the file, or name another --out"
    if settings.storage is not None:
        shown, advice = "search.storage", "check the URL, the database and its driver (a package of its own)"
        place, name = settings.storage, f"potstill-{digest([json.dumps(spec.state, sort_keys=True)])}"
        sharing = {"heartbeat_interval": _HEARTBEAT, "heartbeat_stale_trial_callback": make_again}
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_UNPRUNED_EPOCHS)
    try:
        try:
            storage = RDBStorage(place, **sharing)
        except SQLAlchemyError:  # of processes that begin a database at the same time, all but one
            time.sleep(PAUSE)
            storage = RDBStorage(place, **sharing)
        if sharing and storage.engine.dialect.name == "sqlite":
            _take_turns(storage.engine)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            pruner=pruner,
            sampler=_Sampler(spec.config),
            load_if_exists=True,
        )
    except (*_DATABASE_ERRORS, ImportError, RuntimeError) as error:
        raise ArtifactError(
            f"{shown}: expected a study of Optuna, found none that can be read ({type(error).__name__}: "
            f"{first_line(error)})\n  what to do: {advice}"
        ) from None
    if not sharing:
        for running in running_trials(study):  # left by a kill
            study.tell(running.number, state=TrialState.FAIL)
            make_again(study, running)
    try:
        yield study
    except Stopped as stopped:
        stopped.kept = ", and ".join(filter(None, ["the trials that ended are kept", stopped.kept]))
        raise
    except Exception as error:
        lost = next((one for one in _chain(error) if isinstance(one, _DATABASE_ERRORS)), None)
        if lost is None:
            raise
        raise ArtifactError(
            f"{shown}: the database of the search can't be used any more ({type(lost).__name__}: "
            f"{first_line(lost)})\n  what to do: make sure that it can be reached and written to, and repeat the "
            f"command; trials that ended are kept"
        ) from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those from which it came: Optuna fails once more while it handles a database's error."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _take_turns(engine: Engine) -> None:
    """Let each transaction lock the whole SQLite database: else two processes can read the same trial and take it."""
    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def first_line(error: BaseException) -> str:
    """Say in one line what was wrong."""
    return error.problems[0] if isinstance(error, ConfigError) else str(error).partition("\n")[0]
