"""A search of settings: Optuna proposes them, students are distilled with them, the selection split judges.

What is known stands in `search.db` (SQLite) as soon as it is known, so that an interrupted search goes on where it
stopped. What is tried next depends on the seed and on the trials that ended, and on nothing else: an interrupted search
tries what an undisturbed one tries.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from potstill.artifacts import digest
from potstill.config import Candidates, PotstillConfig
from potstill.console import print_line, progress_bar, silence
from potstill.data import Corpus
from potstill.directories import Work, working_directory
from potstill.errors import ArtifactError, ConfigError, MemoryUsedUpError, TrainingError
from potstill.evaluation.trials import ALPHA, REFERENCE, TEMPERATURE, Rematch, SearchResult, Trial, best_of
from potstill.interruption import Stopped
from potstill.lora.counting import count_parameters
from potstill.pipeline import (
    Trained,
    check_distillation,
    check_teachers,
    distill,
    have_judged,
    input_keys,
    resolved,
)
from potstill.report.search import BEST_FILE, TRIALS_FILE, settings_words, write_search
from potstill.report.tables import duration, magnitude, score
from potstill.student.model import Student
from potstill.teacher import Teacher
from potstill.training.loop import Record
from potstill.transfer.sets import TransferSet

STUDY_FILE: Final = "search.db"

_RANDOM_TRIALS: Final = 10
"""Trials drawn at random before the sampler learns from them: Optuna's own choice for TPE."""
_UNPRUNED_TRIALS: Final = 5
"""Trials that have to finish before one is stopped: fewer have no median to speak of."""
_UNPRUNED_EPOCHS: Final = 2
"""First epoch after which a training is stopped: in the one before, the learning rate rises and an MCC of 0 says
nothing."""
_DRAWS: Final = 100
"""Draws in a row that may be too large. If one student in twenty fits, so many miss it in one case of 170."""
_SCRATCH: Final = ".trial-"
"""How the directories' names begin in which a trial keeps its students until it is told."""
_ENDED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
_HIDDEN_WEIGHT: Final = "distillation.hidden_weight"
_TOLD: Final = "told"
"""Where a trial keeps what came of it."""


class _TooLargeError(Exception):
    """A student has more parameters than it may have."""


def search(
    config: PotstillConfig,
    corpus: Corpus,
    teachers: Sequence[Teacher],
    directory: Path,
    *,
    transfer: TransferSet | None = None,
    command: str = "",
) -> SearchResult:
    """Try settings of student and distillation, and write what was found into `directory`.

    Args:
        config: `search` says what to try; all else is what a trial starts from.
        corpus: The task; its evaluation split is not looked at.
        teachers: Who judge, once; see `distill`.
        directory: New or empty, or that of a search with the same settings, which is resumed. `search.trials` may
            differ: a search that has ended goes on when it is given more.
        transfer: More texts to learn the teachers' judgement of.
        command: Command line that goes on with the search, for the report.

    Returns:
        What `search.json` holds.

    Raises:
        ArtifactError: The directory holds something else, or another search is at work in it; or see `distill`.
        ConfigError: The settings can't be searched like this.
        TrainingError: No trial could be trained to its end.
    """
    _check(config, transfer)
    check_teachers(corpus, teachers, transfer)
    config = _complete(config, corpus, teachers)
    # What trials have in common; whatever alpha they get, it asks for no more than 0 does.
    common = with_settings(config, _fixed(config) | {ALPHA: 0.0, _HIDDEN_WEIGHT: _greatest(config, _HIDDEN_WEIGHT)})
    check_distillation(common, corpus, with_transfer=transfer is not None)
    with _study(planned(config, corpus, teachers, transfer), directory) as study:
        print_line(f"{corpus.name} ({corpus.source}) → {directory}")
        work = _Search(config, corpus, tuple(teachers), transfer, directory, study)
        have_judged(common, corpus, teachers, transfer)  # now, where it is seen; the trials find the answers kept
        work.run()
        result = SearchResult(
            data=corpus.name,
            selection=len(corpus.selection),
            teachers=len(teachers),
            transfer=0 if transfer is None else len(transfer),
            grid=config.search.grid,
            space=work.space,
            trials=work.trials(),
            rematch=work.rematch(),
            command=command,
        )
        work.clear()
        write_search(result, directory)
        if result.best is None:
            raise TrainingError(
                f"expected trials that come to their end, found none among {len(result.trials)}; see "
                f"{directory / TRIALS_FILE}\n  what to do: search other values, above all lower learning rates"
            )
        with_settings(config, result.best.settings).save(directory / BEST_FILE)
    return result


def planned(config: PotstillConfig, corpus: Corpus, teachers: Sequence[Teacher], transfer: TransferSet | None) -> Work:
    """Describe a search by what decides its trials; their number does not. Arguments as for `search`."""
    return Work(
        command="search",
        name=f"{corpus.name}-search",
        config=_complete(config, corpus, teachers),
        inputs=_inputs(corpus, teachers, transfer),
        is_finished=lambda directory: (directory / BEST_FILE).is_file(),
        free=("search.trials", "baseline"),
    )


def _complete(config: PotstillConfig, corpus: Corpus, teachers: Sequence[Teacher]) -> PotstillConfig:
    """Put in what data and teachers say for themselves."""
    return resolved(config, corpus).model_copy(update={"teacher": teachers[0].describe(config.teacher)})


def with_settings(config: PotstillConfig, settings: dict[str, Any]) -> PotstillConfig:
    """Return `config` with the values of some settings, by dotted name.

    Raises:
        ConfigError: The values exclude each other.
    """
    values = config.model_dump(mode="json")
    for name, value in settings.items():
        *section, leaf = name.split(".")
        place = values
        for part in section:
            place = place[part]
        place[leaf] = value
    return PotstillConfig.build(values, "a trial's settings")


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
    """A study and what its trials are made of."""

    config: PotstillConfig
    corpus: Corpus
    teachers: tuple[Teacher, ...]
    transfer: TransferSet | None
    directory: Path
    study: optuna.Study

    @property
    def fixed(self) -> dict[str, Any]:
        """Values that the space fixes."""
        return _fixed(self.config)

    @property
    def space(self) -> dict[str, Any]:
        """What is tried, by dotted name, as a configuration says it; of a grid, alpha and T alone."""
        settings = self.config.search
        if settings.grid:
            axes = {ALPHA: settings.alphas, TEMPERATURE: settings.temperatures}
            return self.fixed | {name: {"choices": list(axis)} for name, axis in axes.items()}
        return {name: one.model_dump(mode="json") for name, one in settings.space.items()}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What is drawn from, by dotted name."""
        settings = self.config.search
        if settings.grid:
            axes = {ALPHA: settings.alphas, TEMPERATURE: settings.temperatures}
            return {name: CategoricalDistribution(axis) for name, axis in axes.items()}
        return {name: distribution(one) for name, one in settings.space.items() if not one.fixed}

    @property
    def wanted(self) -> int:
        """How many trials there are to be."""
        settings = self.config.search
        return len(settings.alphas) * len(settings.temperatures) if settings.grid else settings.trials

    def trials(self) -> tuple[Trial, ...]:
        """Return the trials that ended; those that were interrupted are made again."""
        ended = self.study.get_trials(deepcopy=False, states=_ENDED)
        return tuple(_trial(number, one, self.fixed) for number, one in enumerate(ended, start=1))

    def run(self) -> None:
        """Make the trials that are still to be made."""
        trials = self.trials()
        if trials:
            print_line(f"search: {_tried(trials)} of {self.wanted} trials are done; going on")
        with progress_bar() as progress:
            task = progress.add_task("search", total=self.wanted, loss="", scores="")
            while (tried := _tried(trials)) < self.wanted:
                best = best_of(trials)
                shown = "" if best is None or best.mcc is None else f"best MCC {score(best.mcc)}"
                progress.update(task, completed=tried, scores=shown)
                self._refuse_only_large(trials)
                self._make(len(trials))
                trials = self.trials()
                self._report(trials)

    def clear(self) -> None:
        """Remove what was kept of students whose MCC the study knows."""
        for left in self.directory.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left)

    def rematch(self) -> Rematch | None:
        """Train the best settings, and these with the reference's alpha and T, with the seeds that no trial had."""
        best = best_of(self.trials())
        seeds = self.config.student.seeds[self.config.search.seeds_per_trial :]
        if best is None or not seeds:
            return None
        at_reference = best.settings | dict(REFERENCE)
        pairs = [(self._again(best.settings, seed), self._again(at_reference, seed)) for seed in seeds]
        ours, theirs = zip(*pairs, strict=True)
        return Rematch(seeds, ours, theirs)

    def _refuse_only_large(self, trials: Sequence[Trial]) -> None:
        draws = 1 if self.config.search.grid else _DRAWS  # all students of a grid have one size
        latest = trials[-draws:]
        if len(latest) == draws and all(trial.outcome == "too large" for trial in latest):
            smallest = min(trial.parameters or 0 for trial in latest)
            most = self.config.search.max_parameters
            problem = f"search.max_parameters: the latest students to try have {smallest:,} or more; found {most:,}"
            raise ConfigError([f"{problem}; raise it, or lower the sizes"])

    def _start(self, number: int) -> dict[str, Any]:
        """Return what is not left to the sampler: a cell of the grid; of a first trial, the configuration's values."""
        settings = self.config.search
        if settings.grid:
            cells = list(product(settings.alphas, settings.temperatures))
            return dict(zip((ALPHA, TEMPERATURE), cells[number], strict=True))
        if number > 0:
            return {}
        own = {name: attrgetter(name)(self.config) for name in self.distributions}
        return {name: value for name, value in own.items() if settings.space[name].has(value)}

    def _make(self, number: int) -> None:
        """Make the trial after `number` others."""
        # A sampler of its own for every trial: its draws depend on the trials that ended, not on how often the search
        # was interrupted.
        seed = int(np.random.SeedSequence([self.config.search.seed, number]).generate_state(1)[0])
        too_large = sum(trial.outcome == "too large" for trial in self.trials())
        self.study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=_RANDOM_TRIALS + too_large, constant_liar=False
        )
        start = self._start(number)
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if start and not waiting:  # an interruption may have left it waiting
            self.study.enqueue_trial(start)
        trial = self.study.ask(self.distributions)
        try:
            self._try(trial)
        except BaseException:  # KeyboardInterrupt too
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise
        self.clear()

    def _try(self, trial: optuna.Trial) -> None:
        """Train with the settings of `trial`, and tell what came of it."""
        started = time.perf_counter()
        settings = self.fixed | trial.params
        seen: dict[int, float] = {}
        told: dict[str, Any] = {"outcome": "finished", "note": "", "seeds": seen, "parameters": None}
        try:
            if (twin := self._twin(settings)) is not None:
                seen |= twin.seeds
                told |= {"note": f"the same as trial {twin.number}", "parameters": twin.parameters}
            else:
                watch = self._watch(trial, settings, told)
                for seed in self.config.student.seeds[: self.config.search.seeds_per_trial]:
                    trained = self._student(settings, seed, **watch)
                    seen[seed] = float(trained.fit.best["mcc"])
                    told["parameters"] = trained.record.parameters
                    watch = {}  # the first one alone is looked on
        except optuna.TrialPruned as error:
            told |= {"outcome": "stopped", "note": str(error)}
        except _TooLargeError as error:
            told |= {"outcome": "too large", "note": str(error)}
        except (TrainingError, ConfigError) as error:
            told |= {"outcome": "failed", "note": _first_line(error)}
        trial.set_user_attr(_TOLD, told | {"seconds": time.perf_counter() - started})
        if told["outcome"] == "finished":
            self.study.tell(trial, math.fsum(seen.values()) / len(seen))
        else:
            self.study.tell(trial, state=TrialState.PRUNED)  # which the sampler takes for worse than what finished

    def _twin(self, settings: dict[str, Any]) -> Trial | None:
        """Return a finished trial of the same settings: a space of choices alone comes to its end."""
        return next((one for one in self.trials() if one.settings == settings and one.outcome == "finished"), None)

    def _watch(
        self, trial: optuna.Trial, tried: dict[str, Any], told: dict[str, Any]
    ) -> dict[str, Callable[[Any], None]]:
        """Return what looks on while a trial's first student is trained, and may end it; `told` gets its size."""
        settings = self.config.search
        epochs = tried.get("student.training.epochs", self.config.student.training.epochs)
        prunes = settings.pruning == "median" and not settings.grid

        def on_student(student: Student) -> None:
            told["parameters"], _ = count_parameters(student.network)
            if settings.max_parameters is not None and told["parameters"] > settings.max_parameters:
                raise _TooLargeError(f"{magnitude(told['parameters'])} parameters")

        def on_epoch(record: Record) -> None:
            trial.report(record["mcc"], record["epoch"])
            done = record["epoch"] == epochs and settings.seeds_per_trial == 1
            if prunes and not done and trial.should_prune():
                raise optuna.TrialPruned(f"after epoch {record['epoch']} at MCC {score(record['mcc'])}")

        return {"on_student": on_student, "on_epoch": on_epoch}

    def _student(self, settings: dict[str, Any], seed: int, **watch: Callable[[Any], None]) -> Trained:
        """Distil a student with these settings, or go on with what an interruption left of it.

        It stays until the study knows its MCC, then `clear` removes it.
        """
        scratch = self.directory / f"{_SCRATCH}{_key(settings, seed)}"
        if (trained := Trained.find(scratch)) is not None:
            for record in trained.fit.history if "on_epoch" in watch else ():
                watch["on_epoch"](record)
            return trained
        config = with_settings(self.config, settings)
        with silence():
            return distill(config, self.corpus, self.teachers, scratch, seed, transfer=self.transfer, **watch)

    def _again(self, settings: dict[str, Any], seed: int) -> float:
        """Return the MCC of these settings with a seed that no trial had, kept in the study.

        A training that breaks down counts as one that learnt nothing.

        Raises:
            MemoryUsedUpError: That says nothing of the settings: the search goes on when there is more.
        """
        key = f"again {_key(settings, seed)}"
        known: float | None = self.study.user_attrs.get(key)
        if known is None:
            try:
                known = float(self._student(settings, seed).fit.best["mcc"])
            except MemoryUsedUpError:
                raise
            except TrainingError:
                known = 0.0
            self.study.set_user_attr(key, known)
            self.clear()
            where = settings_words({name: settings[name] for name in REFERENCE})
            print_line(f"the best settings with seed {seed} and {where}  MCC {score(known)}")
        return known

    def _report(self, trials: Sequence[Trial]) -> None:
        """Print a line about the latest trial; nothing of draws that were too large."""
        latest, best = trials[-1], best_of(trials)
        if latest.outcome == "too large":
            return
        searched = {name: value for name, value in latest.settings.items() if name in self.distributions}
        result = f"{latest.outcome}: {latest.note}" if latest.mcc is None else f"MCC {score(latest.mcc)}"
        parts = [
            f"trial {latest.number} ({_tried(trials)} of {self.wanted})",
            result,
            settings_words(searched),
            duration(latest.seconds),
        ]
        print_line("  ".join([*parts, "*best so far"] if best is latest else parts))


@contextmanager
def _study(work: Work, directory: Path) -> Iterator[optuna.Study]:
    """Open the study in `directory`, or begin one; nobody else works on it meanwhile.

    A trial that an interruption left running has failed, and is made again: it gets the same settings, and goes on with
    what its students left.
    """
    # A search that has ended is written again, or goes on with more trials.
    with working_directory(replace(work, is_finished=lambda _: False), directory):
        study = _open(directory / STUDY_FILE)
        for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(running.number, state=TrialState.FAIL)
        try:
            yield study
        except Stopped as stopped:
            stopped.kept = ", and ".join(filter(None, ["the trials that ended are kept", stopped.kept]))
            raise


def _open(file: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = URL.create("sqlite", database=str(file.absolute())).render_as_string()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_UNPRUNED_EPOCHS)
    try:
        storage = optuna.storages.RDBStorage(url)
        return optuna.create_study(
            storage=storage, study_name="potstill", direction="maximize", pruner=pruner, load_if_exists=True
        )
    except (SQLAlchemyError, RuntimeError, optuna.exceptions.StorageInternalError) as error:
        raise ArtifactError(
            f"{file}: expected a study of Optuna, found none that can be read ({type(error).__name__}: "
            f"{_first_line(error)})\n  what to do: restore the file, or name another --out"
        ) from None


def _key(settings: dict[str, Any], seed: int) -> str:
    """Return a digest of what tells a student of this search from others."""
    return digest([json.dumps(settings, sort_keys=True), str(seed)])


def _inputs(corpus: Corpus, teachers: Sequence[Teacher], transfer: TransferSet | None) -> dict[str, str | None]:
    """Return digests of what decides a trial's MCC beside the settings, by what to call it."""
    return {
        "texts": digest([*corpus.label_names, *corpus.train.content, *corpus.selection.content]),
        **input_keys(teachers, transfer),
    }


def _check(config: PotstillConfig, transfer: TransferSet | None) -> None:
    """Refuse what would fail in the midst of a search.

    Raises:
        ConfigError: With every problem that was found.
    """
    settings, problems = config.search, []
    if settings.seeds_per_trial > (seeds := len(config.student.seeds)):
        problems.append(
            f"search.seeds_per_trial: expected {seeds} at most, the number of student.seeds; found "
            f"{settings.seeds_per_trial}"
        )
    alphas = settings.space[ALPHA]
    stepped = alphas.step is not None and alphas.has(1.0)  # without steps it is next to never drawn
    if transfer is not None and (1.0 in settings.alphas if settings.grid else stepped or 1.0 in (alphas.choices or ())):
        where = "alphas" if settings.grid else f"space.{ALPHA}"
        problems.append(f"search.{where}: 1 looks at no teacher, and a transfer set has no labels; leave it out")
    if not settings.grid and all(one.fixed for one in settings.space.values()):
        problems.append("search.space: every setting is fixed; leave one to be searched")
    layers, surprisal = (_greatest(config, f"student.{name}") for name in ("num_layers", "surprisal_size"))
    if layers > 1 and surprisal > 0:
        problems.append(
            f"search.space: student.surprisal_size needs student.num_layers: 1; found {surprisal:g} with {layers:g} "
            "layers among what may be drawn; leave one of them out"
        )
    if problems:
        raise ConfigError(problems)


def _fixed(config: PotstillConfig) -> dict[str, Any]:
    """Return the values that the space fixes, by dotted name."""
    space = config.search.space
    return {name: one.choices[0] for name, one in space.items() if one.choices is not None and one.fixed}


def _greatest(config: PotstillConfig, name: str) -> float:
    """Return the greatest value that a trial may have of a number."""
    candidates = config.search.space.get(name)
    if candidates is None or (config.search.grid and not candidates.fixed):
        return float(attrgetter(name)(config))
    return float(max(candidates.choices or (candidates.high,)))


def _first_line(error: Exception) -> str:
    """Say in a line what went wrong: of a configuration's problems the first."""
    return error.problems[0] if isinstance(error, ConfigError) else str(error).partition("\n")[0]


def _tried(trials: Sequence[Trial]) -> int:
    """Count the trials, without the draws that were too large to be one."""
    return sum(trial.outcome != "too large" for trial in trials)


def _trial(number: int, ended: FrozenTrial, fixed: dict[str, Any]) -> Trial:
    """Read back what was told of a trial."""
    told = ended.user_attrs[_TOLD]
    return Trial(
        number=number,
        outcome=told["outcome"],
        settings=dict(sorted((fixed | ended.params).items())),
        mcc=ended.value if ended.state is TrialState.COMPLETE else None,
        seeds={int(seed): mcc for seed, mcc in told["seeds"].items()},
        parameters=told["parameters"],
        epochs=len(ended.intermediate_values),
        seconds=told["seconds"],
        note=told["note"],
    )
