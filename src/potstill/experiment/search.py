"""A search of settings: Optuna proposes them, students are distilled with them and compared on the validation split.

Each trial is kept in `search.db` (SQLite) when it ends. What is tried next depends on the seed and on the trials that
ended, and on nothing else: an interrupted search that is resumed tries the same settings as an uninterrupted one.
Several processes may share the trials of one database (`search.storage`).
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, Engine, event
from sqlalchemy.exc import SQLAlchemyError

from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import Candidates, PotstillConfig, with_settings
from potstill.config.search import SearchConfig
from potstill.console import print_line, silence
from potstill.data import Corpus
from potstill.errors import ArtifactError, ConfigError, TrainingError
from potstill.executor.signals import Stopped
from potstill.experiment.labelled import DistillationSet, check_distillation, check_teacher, label
from potstill.experiment.run import input_keys, resolved
from potstill.experiment.run_directory import RunSpec, run_directory
from potstill.experiment.stages import distill
from potstill.lora.counting import count_parameters
from potstill.report.search import BEST_FILE, TRIALS_FILE, SearchResult, Trial, best_first, settings_words, write_search
from potstill.report.tables import duration, magnitude, score
from potstill.store.checksums import digest
from potstill.student.student import Student
from potstill.teacher.base import Teacher
from potstill.training.base import Callback, Record
from potstill.training.fit import Trainer

STUDY_FILE: Final = "search.db"

_ALPHA: Final = "distillation.alpha"
_UNPRUNED_TRIALS: Final = 5
"""Trials that finish before one is stopped: a median of fewer says little."""
_UNPRUNED_EPOCHS: Final = 2
"""First epoch after which a training is stopped: in the first one the learning rate rises and the MCC is mostly 0.
Stopped is one whose best MCC is below the median of the other trials at that epoch, which leaves time for better
settings (after Golovin et al. 2017, "Google Vizier", section 3.2.2)."""
_DRAWS: Final = 100
"""Draws in a row that may be too large. If one student in twenty fits, so many miss it in one case of 170."""
_SCRATCH: Final = ".trial-"
"""Prefix of the directory in which a trial trains its student; it is removed when the trial ends."""
_HEARTBEAT: Final = 30
"""Seconds between the signs of life of a process that shares a study. Without one for twice as long, its trial is made
again."""
_PAUSE: Final = 1.0
"""Seconds between two looks at the trials of other processes, when there is nothing else left to do."""
_AGAIN: Final = "failed_trial"
"""What Optuna keeps with a trial that is made again: the number of the one that was interrupted."""
_ENDED: Final = (TrialState.COMPLETE, TrialState.PRUNED)


def search(
    config: PotstillConfig,
    corpus: Corpus,
    teacher: Teacher,
    out: Path | None,
    *,
    unlabelled: UnlabelledSet | None = None,
    restart: bool = False,
    command: Callable[[Path], str] = lambda _: "",
) -> tuple[SearchResult, Path]:
    """Try settings of student and distillation, and write the results into a directory, which is returned too.

    Trials start from `config`, with the first of `student.seeds`, and ask the teacher once for each text. The test
    split is not used. A finished search goes on when `search.trials` is raised. `out` and `restart` are those of
    `run_directory`; `command` returns the command line that resumes the search in a directory, for the report.

    Raises:
        ArtifactError: The directory holds something else, or another search is at work in it; or see `label`.
        ConfigError: The settings can't be searched.
        TrainingError: No trial could be trained to its end.
    """
    space = config.search.space
    if all(one.fixed for one in space.values()):
        raise ConfigError(["search.space: every setting is fixed; leave one to be searched"])
    check_teacher(corpus, teacher, unlabelled)
    config = resolved(config, corpus)
    # What trials have in common; with alpha 0 the teacher is asked for all that any alpha needs.
    common = with_settings(config, _fixed(config) | {_ALPHA: 0.0})
    check_distillation(common, with_unlabelled=unlabelled is not None)
    texts = digest([*corpus.label_names, *corpus.train.content, *corpus.validation.content])
    spec = RunSpec(
        command="search",
        name=f"{corpus.name}-search",
        config=config,
        inputs={"texts": texts, **input_keys(teacher, unlabelled)},
        # A finished search may go on with more trials.
        is_finished=lambda directory: out is None and (directory / BEST_FILE).is_file(),
        free=("search.trials", "search.storage", "baseline", "teacher", "data.positive_class"),
    )
    with run_directory(spec, out, restart=restart) as directory, _study(directory / STUDY_FILE, spec) as study:
        print_line(f"{corpus.name} ({corpus.source}) → {directory}")
        trials = _Search(config, corpus, label(common, corpus, teacher, unlabelled), directory, study).run()
        shown = {name: one.model_dump(mode="json") for name, one in space.items()}
        result = SearchResult(
            data=corpus.name,
            validation=len(corpus.validation),
            unlabelled=0 if unlabelled is None else len(unlabelled),
            space=shown,
            trials=trials,
            command=command(directory),
        )
        write_search(result, directory)
        if result.best is None:
            raise TrainingError(
                f"expected trials that come to their end, found none among {len(trials)}; see "
                f"{directory / TRIALS_FILE}\n  what to do: search other values, above all lower learning rates"
            )
        with_settings(config, result.best.settings).save(directory / BEST_FILE)
        return result, directory


def distribution(candidates: Candidates) -> BaseDistribution:
    """Return what Optuna is to draw from for candidates that were checked (`Candidates.within`)."""
    low, high, step = candidates.low, candidates.high, candidates.step
    if low is None or high is None:
        return CategoricalDistribution(candidates.choices or ())
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=candidates.log, step=int(step or 1))
    return FloatDistribution(low, high, log=candidates.log, step=step)


@dataclass(frozen=True)
class _Search:
    config: PotstillConfig
    corpus: Corpus
    labelled: DistillationSet
    directory: Path
    study: optuna.Study

    @property
    def space(self) -> dict[str, BaseDistribution]:
        return _space(self.config.search)

    def trials(self) -> tuple[Trial, ...]:
        """Return the trials that ended; those that were interrupted are made again."""
        ended = self.study.get_trials(deepcopy=False, states=_ENDED)
        return tuple(_trial(number, one, _fixed(self.config)) for number, one in enumerate(ended, start=1))

    def run(self) -> tuple[Trial, ...]:
        """Make the trials that are still to be made, and return all."""
        trials, wanted = self.trials(), self.config.search.trials
        if trials:
            print_line(f"search: {_count(trials)} of {wanted} trials are done; going on")
        while _count(trials) < wanted:
            if _count(trials) + len(_running(self.study)) < wanted:
                self._refuse_only_large(trials)
                with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
                    self.study.optimize(self._make, n_trials=1)
                trials = self.trials()
                self._report(trials)
            else:  # another process is at the last trials; if it dies, they are made here
                time.sleep(_PAUSE)
                fail_stale_trials(self.study)
                trials = self.trials()
        for left in self.directory.glob(f"{_SCRATCH}*"):  # by a kill
            shutil.rmtree(left)
        return trials

    def _refuse_only_large(self, trials: Sequence[Trial]) -> None:
        sizes = [trial.parameters or 0 for trial in trials[-_DRAWS:] if trial.outcome == "too large"]
        if len(sizes) == _DRAWS:
            found = (
                f"the latest {_DRAWS} students have {min(sizes):,} or more; found {self.config.search.max_parameters}"
            )
            raise ConfigError([f"search.max_parameters: {found}; raise it, or lower the sizes"])

    def _make(self, trial: optuna.Trial) -> float:
        """Make a trial."""
        for name, one in self.space.items():
            _suggest(trial, name, one)
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        scratch = self.directory / f"{_SCRATCH}{_place_of(self.study, frozen)}"
        try:
            mcc = self._train(trial, scratch)
        except BaseException:  # KeyboardInterrupt too
            _make_again(self.study, frozen)
            raise
        shutil.rmtree(scratch, ignore_errors=True)
        if mcc is None:
            raise optuna.TrialPruned
        return mcc

    def _train(self, trial: optuna.Trial, scratch: Path) -> float | None:
        """Train a student with the settings of `trial`; return its MCC, or None where it did not finish."""
        watch, outcome, note = _Watch(trial, self.config), "finished", ""
        try:
            config = with_settings(self.config, _fixed(self.config) | trial.params)
            seed = config.student.seeds[0]
            with silence():
                trained = distill(
                    config, self.corpus, self.labelled, scratch, seed, on_student=watch.on_student, callbacks=(watch,)
                )
            return float(trained.fit.best["mcc"])
        except (_TooLargeError, optuna.TrialPruned, TrainingError, ConfigError) as error:
            outcome, note = _OUTCOMES.get(type(error), "failed"), _first_line(error)
        finally:
            trial.set_user_attr("outcome", outcome)
            trial.set_user_attr("note", note)
            trial.set_user_attr("parameters", watch.parameters)
        return None

    def _report(self, trials: Sequence[Trial]) -> None:
        """Print a line about the latest trial, unless it was too large."""
        latest = trials[-1]
        if latest.outcome == "too large":
            return
        parts = [
            f"trial {latest.number} ({_count(trials)} of {self.config.search.trials})",
            f"{latest.outcome}: {latest.note}" if latest.mcc is None else f"MCC {score(latest.mcc)}",
            settings_words({name: value for name, value in latest.settings.items() if name in self.space}),
            duration(latest.seconds),
            *(["*best so far"] if latest in best_first(trials)[:1] else []),
        ]
        print_line("  ".join(parts))


class _Sampler(BaseSampler):
    """Draws a trial's settings by its place among the trials, so that it does not matter which process draws them.

    The first trial has the configured settings.
    """

    def __init__(self, config: PotstillConfig) -> None:
        self._config = config.search
        configured = {name: attrgetter(name)(config) for name in _space(config.search)}
        self._configured = {name: value for name, value in configured.items() if self._config.space[name].has(value)}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what is searched."""
        return _space(self._config)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all settings of a trial."""
        place = _place_of(study, trial)
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


def _place_of(study: optuna.Study, trial: FrozenTrial) -> int:
    """Count the trials before a trial; one that is made again has the place that it had before."""
    number = trial.system_attrs.get(_AGAIN, trial.number)
    return sum(one.number < number and _AGAIN not in one.system_attrs for one in study.get_trials(deepcopy=False))


def _space(settings: SearchConfig) -> dict[str, BaseDistribution]:
    """Return what is searched, by dotted name."""
    return {name: distribution(one) for name, one in settings.space.items() if not one.fixed}


def _suggest(trial: optuna.Trial, name: str, one: BaseDistribution) -> None:
    """Give a trial its value of a setting."""
    if isinstance(one, FloatDistribution):
        trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)
    elif isinstance(one, IntDistribution):
        trial.suggest_int(name, one.low, one.high, step=one.step, log=one.log)
    elif isinstance(one, CategoricalDistribution):
        trial.suggest_categorical(name, one.choices)


def _make_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let the settings of a trial that was interrupted be those of the next one."""
    with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
        RetryHeartbeatStaleTrialCallback()(study, trial)


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


@contextmanager
def _study(file: Path, spec: RunSpec) -> Iterator[optuna.Study]:
    """Open a study, or begin one: in `file`, or in the database that several processes share."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = spec.config.search
    place, name = URL.create("sqlite", database=str(file.absolute())).render_as_string(), "potstill"
    sharing: dict[str, Any] = {}
    if settings.storage is not None:
        place, name = settings.storage, f"potstill-{digest([json.dumps(spec.state, sort_keys=True)])}"
        sharing = {"heartbeat_interval": _HEARTBEAT, "heartbeat_stale_trial_callback": _make_again}
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_UNPRUNED_EPOCHS)
    try:
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            try:
                storage = RDBStorage(place, **sharing)
            except SQLAlchemyError:  # of processes that begin a database at the same time, all but one
                time.sleep(_PAUSE)
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
    except (SQLAlchemyError, ImportError, RuntimeError, optuna.exceptions.StorageInternalError) as error:
        shown, advice = str(file), "restore the file, or name another --out"
        if sharing:
            shown, advice = "search.storage", "check the URL, the database and its driver (a package of its own)"
        raise ArtifactError(
            f"{shown}: expected a study of Optuna, found none that can be read ({type(error).__name__}: "
            f"{_first_line(error)})\n  what to do: {advice}"
        ) from None
    if not sharing:
        for running in _running(study):  # left by a kill
            study.tell(running.number, state=TrialState.FAIL)
            _make_again(study, running)
    try:
        yield study
    except Stopped as stopped:
        stopped.kept = ", and ".join(filter(None, ["the trials that ended are kept", stopped.kept]))
        raise


def _take_turns(engine: Engine) -> None:
    """Let each transaction lock the whole SQLite database: else two processes can read the same trial and take it."""
    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


class _TooLargeError(Exception):
    """A student has more parameters than it may have."""


_OUTCOMES: Final[dict[type[Exception], str]] = {_TooLargeError: "too large", optuna.TrialPruned: "stopped"}


class _Watch(Callback):
    """Reports a student's epochs to the study, and ends the training of one that is hopeless or too large."""

    def __init__(self, trial: optuna.Trial, config: PotstillConfig) -> None:
        self.parameters: int | None = None
        self._trial, self._config = trial, config.search

    def on_student(self, student: Student) -> None:
        """Refuse a student that is too large."""
        self.parameters, _ = count_parameters(student.network)
        if self._config.max_parameters is not None and self.parameters > self._config.max_parameters:
            raise _TooLargeError(f"{magnitude(self.parameters)} parameters")

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Report the epochs before an interruption."""
        for record in trainer.history:
            self.on_epoch(trainer, record)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """Report an epoch."""
        self._trial.report(record["mcc"], record["epoch"])
        if self._trial.should_prune():
            raise optuna.TrialPruned(f"after epoch {record['epoch']} at MCC {score(record['mcc'])}")


def _fixed(config: PotstillConfig) -> dict[str, Any]:
    """Return the values that the space fixes, by dotted name."""
    return {name: one.choices[0] for name, one in config.search.space.items() if one.choices and one.fixed}


def _first_line(error: Exception) -> str:
    return error.problems[0] if isinstance(error, ConfigError) else str(error).partition("\n")[0]


def _count(trials: Sequence[Trial]) -> int:
    """Count the trials, without the draws that were too large to be one."""
    return sum(trial.outcome != "too large" for trial in trials)


def _trial(number: int, ended: FrozenTrial, fixed: dict[str, Any]) -> Trial:
    """Read a trial back from the study."""
    return Trial(
        number=number,
        settings=dict(sorted((fixed | ended.params).items())),
        mcc=ended.value if ended.state is TrialState.COMPLETE else None,
        epochs=len(ended.intermediate_values),
        seconds=0.0 if ended.duration is None else ended.duration.total_seconds(),
        **ended.user_attrs,
    )
