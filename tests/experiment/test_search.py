"""A search of settings, mostly with tiny real students: what is tried, resumed, refused and written."""

import dataclasses
import itertools
import multiprocessing
import os
import shutil
import signal
import time
from types import SimpleNamespace

import optuna
import pytest

import potstill
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig
from potstill.errors import ArtifactError, ConfigError, TrainingError
from potstill.executor.signals import Stopped
from potstill.experiment import search as module
from potstill.experiment import study as study_module
from potstill.training.base import Callback

TRAINING = {"epochs": 2, "learning_rate": 3e-2}
SPACE = {
    "student.training.learning_rate": {"low": 1e-2, "high": 1e-1, "log": True},
    "student.hidden_size": {"low": 4, "high": 12, "step": 4},
    "student.embedding_size": 8,
}
UNLABELLED = UnlabelledSet(texts=("w1 good w2", "w3"), pairs=None, sources=("file:x", "file:x"), dropped={})


@pytest.fixture(scope="module")
def config(tiny_backbone, tmp_path_factory):
    data = tmp_path_factory.mktemp("data") / "rated.csv"
    words = ("good", "bad", "fine", "poor")
    rows = [
        f"w{i % 7} {words[i % 4]} w{i % 5},{'no' if i % 2 ^ (i % 11 == 0) else 'yes'}" for i in range(200)
    ]  # enough for 50 validation texts
    data.write_text("\n".join(["text,label", *rows]))
    student = {"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "training": TRAINING, "seeds": [0, 1]}
    return PotstillConfig.build(
        {
            "data": {"source": str(data), "validation_fraction": 0.3},
            "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}},
            "student": student,
            "search": {"trials": 4, "space": SPACE},
            "runtime": {"checkpoint_seconds": 0.0},
        }
    )


@pytest.fixture(scope="module")
def corpus(config):
    return potstill.load_corpus(config.data)


@pytest.fixture(scope="module")
def teacher_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("teacher")


@pytest.fixture(scope="module")
def teacher(config, corpus, teacher_directory):
    return potstill.finetune(config, corpus, teacher_directory)[0]


@pytest.fixture(scope="module")
def finished(config, corpus, teacher, tmp_path_factory):
    return module.search(config, corpus, teacher, tmp_path_factory.mktemp("finished"))


def search(*given, **named):
    return module.search(*given, **named)[0]


def changed(config, *, student=None, distillation=None, **settings):
    """Return `config` with other settings of the search, the student or the distillation."""
    values = config.model_dump(mode="json")
    values["search"] |= settings
    values["student"] |= student or {}
    values["distillation"] |= distillation or {}
    return PotstillConfig.build(values)


def without_times(trials):
    return [dataclasses.replace(trial, seconds=0.0) for trial in trials]


@pytest.fixture
def scripted(monkeypatch):
    """Replace the training by a script of MCCs per epoch, or errors; without a script the MCC is alpha."""
    script, calls = [], []

    def distill(config, corpus, labelled, directory, seed, *, callbacks):
        calls.append(config)
        scores = script.pop(0) if script else [config.distillation.alpha]
        if isinstance(scores, BaseException):
            raise scores
        for epoch, mcc in enumerate(scores, start=1):
            callbacks[0].on_epoch(None, {"epoch": epoch, "mcc": mcc})
        return SimpleNamespace(fit=SimpleNamespace(best={"mcc": max(scores)}))

    monkeypatch.setattr(module, "distill", distill)
    return SimpleNamespace(script=script, calls=calls)


def test_directory_holds_the_results_and_nothing_else(finished):
    names = {path.name for path in finished[1].iterdir()} - {"potstill.lock"}
    results = {"search.md", "trials.csv", "best.yaml"}
    assert names == results | {"search.db", "config.yaml", "state.json", "environment.json"}


def test_first_trial_has_the_configured_settings(finished, config):
    first = finished[0].trials[0]
    assert first.settings["distillation.alpha"] == config.distillation.alpha
    assert first.settings["student.hidden_size"] == config.student.hidden_size
    assert first.settings["student.training.learning_rate"] == config.student.training.learning_rate


def test_trials_differ_and_stay_in_the_space(finished, config):
    trials = finished[0].trials
    for trial in trials:
        assert set(trial.settings) == set(config.search.space)
        assert all(config.search.space[name].has(value) for name, value in trial.settings.items())
    assert len({str(trial.settings) for trial in trials}) == len(trials) == 4
    assert len({trial.mcc for trial in trials}) > 2  # else other tests compare nothing


def test_best_yaml_repeats_the_best_trials_score(finished, config, corpus, teacher, tmp_path):
    result, directory = finished
    best = PotstillConfig.load(directory / "best.yaml")
    assert best.data == config.data
    trained = potstill.distill(best, corpus, teacher, tmp_path, seed=0)
    assert trained.record.best["mcc"] == result.best.mcc == max(trial.mcc for trial in result.trials)
    assert trained.record.parameters == result.best.parameters


def test_more_trials_continue_a_finished_search(finished, config, corpus, teacher, tmp_path):
    few = search(changed(config, trials=2), corpus, teacher, tmp_path)
    assert without_times(few.trials) == without_times(finished[0].trials[:2])
    assert without_times(search(config, corpus, teacher, tmp_path).trials) == without_times(finished[0].trials)


def test_finished_search_trains_nothing_again(finished, config, corpus, teacher, scripted, tmp_path):
    result, directory = finished
    copy = shutil.copytree(directory, tmp_path / "copy")
    assert search(config, corpus, teacher, copy) == result
    assert scripted.calls == []


def test_seed_decides_what_is_drawn(finished, config, corpus, teacher, scripted, tmp_path):
    other = search(changed(config, seed=1), corpus, teacher, tmp_path)
    assert other.trials[0].settings == finished[0].trials[0].settings
    assert other.trials[1].settings != finished[0].trials[1].settings


def test_interrupted_search_tries_the_same_settings(config, corpus, teacher, scripted, tmp_path):
    """In the first trial, and in one that is drawn by TPE."""
    expected = search(changed(config, trials=13), corpus, teacher, tmp_path / "expected").trials
    for number, error in itertools.product((0, 12), (KeyboardInterrupt(), Stopped(15), MemoryError())):
        out, some = tmp_path / f"{number} {error!r}", changed(config, trials=number + 1)
        scripted.script[:] = [[trial.mcc] for trial in expected[:number]] + [error]
        with pytest.raises(type(error)):
            search(some, corpus, teacher, out)
        assert not (out / "search.md").exists()
        assert without_times(search(some, corpus, teacher, out).trials) == without_times(expected[: number + 1])


def test_killed_search_tries_the_same_settings(config, corpus, teacher, scripted, tmp_path):
    """A kill leaves a running trial, one that was enqueued, and a directory of a half-trained student."""
    expected = search(config, corpus, teacher, tmp_path / "expected")
    search(changed(config, trials=2), corpus, teacher, tmp_path / "out")
    study = optuna.load_study(study_name="potstill", storage=f"sqlite:///{tmp_path / 'out' / 'search.db'}")
    study.ask()
    (tmp_path / "out" / ".trial-2").mkdir()
    assert without_times(search(config, corpus, teacher, tmp_path / "out").trials) == without_times(expected.trials)
    assert not (tmp_path / "out" / ".trial-2").exists()
    assert optuna.trial.TrialState.RUNNING not in {trial.state for trial in study.get_trials()}


class Interrupt(Callback):
    """Interrupts a training after some steps, and counts them."""

    def __init__(self, after=None):
        self.steps, self._after = 0, after

    def on_step(self, trainer):
        self.steps += 1
        if self.steps == self._after:
            raise KeyboardInterrupt


def test_interrupted_trial_is_resumed_between_two_steps(finished, config, corpus, teacher, tmp_path, monkeypatch):
    def counting(watch):
        def distill(*given, callbacks, **named):
            return potstill.distill(*given, callbacks=(*callbacks, watch), **named)

        monkeypatch.setattr(module, "distill", distill)
        return watch

    whole, first, second = Interrupt(), Interrupt(after=13), Interrupt()
    counting(whole)
    search(config, corpus, teacher, tmp_path / "whole")
    counting(first)
    with pytest.raises(KeyboardInterrupt):
        search(config, corpus, teacher, tmp_path / "out")
    counting(second)
    found = search(config, corpus, teacher, tmp_path / "out")
    assert without_times(found.trials) == without_times(finished[0].trials)
    assert [trial.epochs for trial in found.trials] == [2] * 4  # those before the interruption too
    assert first.steps + second.steps == whole.steps
    assert not list((tmp_path / "out").glob(".trial-*"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"student": {"cell": "gru"}}, "student.cell"),
        ({"distillation": {"alpha": 0.4}}, "distillation.alpha"),
        ({"seed": 3}, "search.seed"),
        ({"space": SPACE | {"student.dropout": 0.1}}, "search.space.student.dropout.*"),
    ],
)
def test_other_settings_are_refused(finished, config, corpus, teacher, change, named):
    _, directory = finished
    before = (directory / "search.db").read_bytes(), (directory / "config.yaml").read_bytes()
    with pytest.raises(ArtifactError, match=rf"begun with other settings or inputs: {named}\n"):
        search(changed(config, **change), corpus, teacher, directory)
    assert before == ((directory / "search.db").read_bytes(), (directory / "config.yaml").read_bytes())


def test_other_inputs_are_refused(finished, config, corpus, teacher, tmp_path):
    _, directory = finished
    for part in ("train", "validation"):
        fewer = getattr(corpus, part).take(range(len(getattr(corpus, part)) - 1))
        with pytest.raises(ArtifactError, match=r"or inputs: inputs.texts"):
            search(config, dataclasses.replace(corpus, **{part: fewer}), teacher, directory)
    other, _ = potstill.finetune(config, corpus, tmp_path, seed=1)
    with pytest.raises(ArtifactError, match=r"or inputs: inputs.teacher's weights"):
        search(config, corpus, other, directory)
    with pytest.raises(ArtifactError, match=r"or inputs: inputs.unlabelled set"):
        search(config, corpus, teacher, directory, unlabelled=UNLABELLED)


def test_damaged_study_is_refused(finished, config, corpus, teacher, tmp_path):
    copy = shutil.copytree(finished[1], tmp_path / "copy")
    (copy / "search.db").write_bytes(b"no database" * 100)
    with pytest.raises(ArtifactError, match=r"search\.db: expected a study of Optuna, found none that can be read"):
        search(config, corpus, teacher, copy)


def die_in_a_search(config, teacher, out):
    """Search in a process of its own, which is killed in its first trial."""

    def distill(*_, **__):
        (out / "begun").touch()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    module.distill, study_module._HEARTBEAT = distill, 1
    module.search(config, potstill.load_corpus(config.data), potstill.open_model(teacher, config.runtime), out)


def test_processes_share_a_search_and_redo_the_trial_of_a_dead_one(
    config, corpus, teacher, teacher_directory, scripted, tmp_path, monkeypatch
):
    many = changed(config, trials=24, sampler="random")
    expected = search(many, corpus, teacher, tmp_path / "alone")
    monkeypatch.setattr(study_module, "_HEARTBEAT", 1)
    shared = changed(many, storage=f"sqlite:///{tmp_path / 'shared.db'}")
    given = (shared, teacher_directory, tmp_path / "victim")
    victim = multiprocessing.get_context("spawn").Process(target=die_in_a_search, args=given)
    victim.start()
    while not (tmp_path / "victim" / "begun").exists():
        assert victim.is_alive()
        time.sleep(0.05)
    found = search(shared, corpus, teacher, tmp_path / "one")
    victim.join(120)
    assert victim.exitcode == -signal.SIGKILL
    assert found.best.settings == expected.best.settings
    ours, theirs = ([sorted(trial.settings.items()) for trial in result.trials] for result in (found, expected))
    assert [one for one in theirs if one not in ours] == []  # none is lost
    assert [one for one in ours if ours.count(one) > 1] == []  # none is made twice
    states = [trial.state.name for trial in optuna.load_study(study_name=None, storage=shared.search.storage).trials]
    assert states.count("FAIL") == 1
    assert len(states) - 1 <= 24 + 1  # one that another began meanwhile


def test_other_searches_in_the_same_database_are_other_studies(config, corpus, teacher, scripted, tmp_path):
    shared = changed(config, trials=1, storage=f"sqlite:///{tmp_path / 'shared.db'}")
    search(shared, corpus, teacher, tmp_path / "one")
    search(changed(shared, seed=5), corpus, teacher, tmp_path / "two")
    assert len(scripted.calls) == 2
    search(shared, corpus, teacher, tmp_path / "three")
    assert len(scripted.calls) == 2


@pytest.mark.parametrize("url", ["sqlite:////no/such/place/trials.db", "postgresql+none://host/db", "trials.db"])
def test_database_that_cannot_be_opened_is_refused(config, corpus, teacher, tmp_path, url):
    with pytest.raises(ArtifactError, match=r"search\.storage: expected a study .*\n  what to do: check the URL"):
        search(changed(config, storage=url), corpus, teacher, tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Optuna's heartbeats
def test_database_that_is_lost_in_the_middle_is_named(config, corpus, teacher, scripted, tmp_path, monkeypatch):
    shared = tmp_path / "shared.db"

    def lose_it(*_):
        shared.write_bytes(b"no database" * 1000)

    monkeypatch.setattr(module, "suggest", lose_it)
    with pytest.raises(ArtifactError, match=r"search\.storage: the database .* can't be used any more"):
        search(changed(config, storage=f"sqlite:///{shared}"), corpus, teacher, tmp_path / "out")


def test_directory_name_may_hold_url_characters(config, corpus, teacher, scripted, tmp_path):
    out = tmp_path / "50% of α? #1"
    search(changed(config, trials=1), corpus, teacher, out)
    assert (out / "search.db").is_file()


def test_trials_below_the_median_are_stopped(config, corpus, teacher, scripted, tmp_path):
    settings = changed(config, trials=8, student={"training": TRAINING | {"epochs": 3}})
    scripted.script += [[0.1, 0.2, 0.3]] * 5 + [[0.0, 0.1, 0.5], [0.0, 0.25, 0.4], [0.0, 0.0, 0.3]]
    result = search(settings, corpus, teacher, tmp_path / "median")
    assert [trial.outcome for trial in result.trials] == ["finished"] * 5 + ["stopped", "finished", "stopped"]
    assert [trial.epochs for trial in result.trials] == [3] * 5 + [2, 3, 2]
    assert result.trials[5].note == "after epoch 2 at MCC 0.100"
    assert result.trials[5].mcc is None


def test_failed_training_is_a_failed_trial(config, corpus, teacher, scripted, tmp_path):
    scripted.script += [[0.2], TrainingError("the loss is nan in epoch 1\n  what to do: …"), [0.3]]
    scripted.script += [ConfigError(["distillation.alpha: 1 ignores the teacher"])]
    result = search(config, corpus, teacher, tmp_path)
    assert [trial.outcome for trial in result.trials] == ["finished", "failed", "finished", "failed"]
    assert result.trials[1].note == "the loss is nan in epoch 1"
    assert result.trials[3].note == "distillation.alpha: 1 ignores the teacher"
    assert result.best.number == 3


def test_search_without_a_finished_trial_fails_and_writes_the_trials(config, corpus, teacher, scripted, tmp_path):
    scripted.script += [TrainingError("the loss is nan")] * 4
    with pytest.raises(TrainingError, match=r"found none among 4; see .*trials\.csv"):
        search(config, corpus, teacher, tmp_path)
    assert (tmp_path / "trials.csv").read_text().count("the loss is nan") == 4
    assert not any((tmp_path / name).exists() for name in ("best.yaml", "search.md"))


def test_unlabelled_texts_are_learnt_from(config, corpus, teacher, scripted, tmp_path):
    result = search(changed(config, trials=1), corpus, teacher, tmp_path, unlabelled=UNLABELLED)
    assert result.unlabelled == 2
    assert "2 texts of an unlabelled set" in (tmp_path / "search.md").read_text()


def test_test_split_is_not_used(config, corpus, teacher, finished, tmp_path):
    other = dataclasses.replace(corpus, test=corpus.train.take([0]))
    assert without_times(search(config, other, teacher, tmp_path).trials) == without_times(finished[0].trials)


def test_every_trial_prints_a_line(config, corpus, teacher, tmp_path, capsys):
    search(changed(config, trials=2), corpus, teacher, tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "MCC" in line]
    assert [line[:16] for line in lines] == ["trial 1 (1 of 2)", "trial 2 (2 of 2)"]
    assert "alpha 0.5, temperature 2" in lines[0]
    assert lines[0].endswith("*best so far")


def test_wrong_settings_are_refused_before_anything_is_written(config, corpus, teacher, tmp_path):
    fixed = {name: 2 if "temperature" in name else 4 if "size" in name else 0.5 for name in config.search.space}
    with pytest.raises(ConfigError, match=r"search\.space: every setting is fixed"):
        search(changed(config, space=fixed), corpus, teacher, tmp_path / "out")
    assert not (tmp_path / "out").exists()
