"""Where a student comes from, as far as the files around it show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from potstill.config import PotstillConfig
from potstill.console import warn
from potstill.data import Corpus, load_corpus
from potstill.errors import PotstillError
from potstill.evaluation import ModelResult, Summary
from potstill.evaluation.details import Details
from potstill.experiment.record import TrainingRecord
from potstill.experiment.saved import corpus_key, settings_file
from potstill.predict.directory import SUMMARY_FILE, Manifest, holds, places
from potstill.report import read_details, read_summary


@dataclass(frozen=True)
class Origin:
    """What is known of a student's making."""

    config: PotstillConfig | None
    """The settings, where `config.yaml` is beside it or above it."""
    summary: Summary | None
    """What its run found out, where it is of a run."""
    record: TrainingRecord | None
    """How its training went, where that has ended."""
    details: Details | None
    """What its run's report shows of it, where it is the student to use of a run."""
    corpus: Corpus | None
    """The data of `config`, where it can be read and is of the student's task."""
    no_corpus: str
    """Why there is no corpus; empty where there is one."""

    @classmethod
    def find(cls, student: Path, manifest: Manifest) -> Origin:
        """Look around a student's directory.

        Raises:
            PotstillError: A file is there, but damaged.
        """
        config_file = settings_file(student)
        run_dir = next((place for place in places(student.resolve()) if holds(place, SUMMARY_FILE)), None)
        config = None if config_file is None else PotstillConfig.load(config_file)
        corpus, problem = _corpus(config, manifest, corpus_key(student))
        record = TrainingRecord.find(student)
        return cls(
            config=config,
            summary=None if run_dir is None else read_summary(run_dir),
            record=record,
            details=None if run_dir is None or record is None else _details(run_dir, record),
            corpus=corpus,
            no_corpus=problem,
        )

    @property
    def data_name(self) -> str:
        """What the data is called; empty where it is not known."""
        data = self.corpus if self.summary is None else self.summary.data
        return "" if data is None else data.name

    @property
    def result(self) -> ModelResult | None:
        """The student in its run's summary."""
        if self.summary is None or self.record is None:
            return None
        models = self.summary.of(self.record.role)
        return next((model for model in models if model.seed == self.record.seed), None)


def _details(run_dir: Path, record: TrainingRecord) -> Details | None:
    details = read_details(run_dir)
    return details if details is not None and (details.role, details.seed) == (record.role, record.seed) else None


def _corpus(config: PotstillConfig | None, manifest: Manifest, key: str | None) -> tuple[Corpus | None, str]:
    """Read the data of a student's training, whose `key` was noted when that was begun; or say why not."""
    if config is None:
        return None, "there are no settings beside the student that would name its data"
    if config.data.classes is not None:
        return None, "its data has no labels"
    try:
        corpus = load_corpus(config.data)
    except PotstillError as error:
        warn(f"the student's data can't be read: {str(error).splitlines()[0]}")
        return None, "its data can't be read"  # no path of this machine: a card is handed on
    if not corpus.has_classes(manifest.label_names) or corpus.in_pairs != manifest.in_pairs:
        return None, "what its settings call its data is now of another task"
    if key is not None and corpus.key() != key:  # split anew, its held-out texts may be some that were learnt from
        return None, "its data has changed since it was trained"
    return corpus, ""
