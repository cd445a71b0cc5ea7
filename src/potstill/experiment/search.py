"""A search of settings: Optuna proposes them, students are distilled with them and compared on the validation split.

Each trial is kept in `search.db` (SQLite) when it ends. What is tried next depends on the seed and on the trials that
ended, and on nothing else: an interrupted search that is resumed tries the same settings as an uninterrupted one.
Several processes may share the trials of one database (`search.storage`).
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig, with_settings
from potstill.console import print_line, silence
from potstill.data import Corpus
from potstill.errors import ArtifactError, ConfigError, TrainingError
from potstill.experiment.labelled import DistillationSet, check_distillation, check_teacher, label
from potstill.experiment.run import input_keys
from potstill.experiment.run_directory import RunSpec, run_directory
from potstill.experiment.stages import distill
from potstill.experiment.study import (
    PAUSE,
    first_line,
    make_again,
    open_study,
    place_of,
    running_trials,
    space_of,
    suggest,
)
from potstill.lora.counting import count_parameters
from potstill.report.search import BEST_FILE, TRIALS_FILE, SearchResult, Trial, best_first, settings_words, write_search
from potstill.report.tables import duration, score
from potstill.store.checksums import digest
from potstill.teacher.base import Teacher
from potstill.training.base import Callback, Record
from potstill.training.fit import Trainer

STUDY_FILE: Final = "search.db"

_ALPHA: Final = "distillation.alpha"
_SCRATCH: Final = ".trial-"
"""Prefix of the directory in which a trial trains its student; it is removed when the trial ends."""
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
    with (
        warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"),  # heartbeats
        run_directory(spec, out, restart=restart) as directory,
        open_study(directory / STUDY_FILE, spec) as study,
    ):
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


@dataclass(frozen=True)
class _Search:
    config: PotstillConfig
    corpus: Corpus
    labelled: DistillationSet
    directory: Path
    study: optuna.Study

    @property
    def space(self) -> dict[str, BaseDistribution]:
        return space_of(self.config.search)

    def trials(self) -> tuple[Trial, ...]:
        """Return the trials that ended; those that were interrupted are made again."""
        ended = self.study.get_trials(deepcopy=False, states=_ENDED)
        return tuple(_trial(number, one, _fixed(self.config)) for number, one in enumerate(ended, start=1))

    def run(self) -> tuple[Trial, ...]:
        """Make the trials that are still to be made, and return all."""
        trials, wanted = self.trials(), self.config.search.trials
        if trials:
            print_line(f"search: {len(trials)} of {wanted} trials are done; going on")
        while len(trials) < wanted:
            if len(trials) + len(running_trials(self.study)) < wanted:
                self.study.optimize(self._make, n_trials=1)
                trials = self.trials()
                self._report(trials)
            else:  # another process is at the last trials; if it dies, they are made here
                time.sleep(PAUSE)
                fail_stale_trials(self.study)
                trials = self.trials()
        for left in self.directory.glob(f"{_SCRATCH}*"):  # by a kill
            shutil.rmtree(left)
        return trials

    def _make(self, trial: optuna.Trial) -> float:
        for name, one in self.space.items():
            suggest(trial, name, one)
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        scratch = self.directory / f"{_SCRATCH}{place_of(self.study, frozen)}"
        try:
            mcc = self._train(trial, scratch)
        except optuna.exceptions.UpdateFinishedTrialError:  # it was given up, since this process had slept too long
            raise ArtifactError(
                "expected this process to be alive all the time, found that another one has made its trial again\n"
                "  what to do: repeat the command"
            ) from None
        except BaseException:  # KeyboardInterrupt too
            make_again(self.study, frozen)
            raise
        shutil.rmtree(scratch, ignore_errors=True)
        if mcc is None:
            raise optuna.TrialPruned
        return mcc

    def _train(self, trial: optuna.Trial, scratch: Path) -> float | None:
        """Train a student with the settings of `trial`; return its MCC, or None where it did not finish."""
        watch, outcome, note = _Watch(trial), "finished", ""
        try:
            config = with_settings(self.config, _fixed(self.config) | trial.params)
            seed = config.student.seeds[0]
            with silence():
                trained = distill(config, self.corpus, self.labelled, scratch, seed, callbacks=(watch,))
            return float(trained.fit.best["mcc"])
        except (optuna.TrialPruned, TrainingError, ConfigError) as error:
            outcome, note = "stopped" if isinstance(error, optuna.TrialPruned) else "failed", first_line(error)
        finally:
            trial.set_user_attr("outcome", outcome)
            trial.set_user_attr("note", note)
            trial.set_user_attr("parameters", watch.parameters)
        return None

    def _report(self, trials: Sequence[Trial]) -> None:
        latest = trials[-1]
        parts = [
            f"trial {latest.number} ({len(trials)} of {self.config.search.trials})",
            f"{latest.outcome}: {latest.note}" if latest.mcc is None else f"MCC {score(latest.mcc)}",
            settings_words({name: value for name, value in latest.settings.items() if name in self.space}),
            duration(latest.seconds),
            *(["*best so far"] if latest in best_first(trials)[:1] else []),
        ]
        print_line("  ".join(parts))


class _Watch(Callback):
    """Reports a student's epochs to the study, and ends the training of one that is hopeless."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.parameters: int | None = None
        self._trial = trial

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Count the student's parameters, and report the epochs before an interruption."""
        self.parameters, _ = count_parameters(trainer.model)
        for record in trainer.history:
            self.on_epoch(trainer, record)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """Report an epoch."""
        self._trial.report(record["mcc"], record["epoch"])
        if self._trial.should_prune():
            raise optuna.TrialPruned(f"after epoch {record['epoch']} at MCC {score(record['mcc'])}")


def _fixed(config: PotstillConfig) -> dict[str, Any]:
    return {name: one.choices[0] for name, one in config.search.space.items() if one.choices and one.fixed}


def _trial(number: int, ended: FrozenTrial, fixed: dict[str, Any]) -> Trial:
    return Trial(
        number=number,
        settings=dict(sorted((fixed | ended.params).items())),
        mcc=ended.value if ended.state is TrialState.COMPLETE else None,
        epochs=len(ended.intermediate_values),
        seconds=0.0 if ended.duration is None else ended.duration.total_seconds(),
        **ended.user_attrs,
    )
