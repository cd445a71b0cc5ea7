"""A search of settings, mostly with tiny real students: what is tried, what an interruption leaves, what is written."""

import csv
import dataclasses
import json
import shutil
from types import SimpleNamespace

import optuna
import pytest
from matplotlib.figure import Figure

import potstill
from potstill import search as searching
from potstill.config import PotstillConfig
from potstill.directories import locked
from potstill.errors import ArtifactError, ConfigError, MemoryUsedUpError, TrainingError
from potstill.evaluation.trials import REFERENCE
from potstill.search import search
from potstill.teacher import Teacher
from potstill.training.checkpoint import Checkpointer
from potstill.training.loop import Learner
from potstill.transfer.sets import TransferSet

TRAINING = {"epochs": 2, "learning_rate": 3e-2}
SETTINGS = {
    "student.training.learning_rate": {"low": 1e-2, "high": 1e-1, "log": True},
    "student.hidden_size": {"low": 4, "high": 12, "step": 4},
    "student.embedding_size": 8,
}


@pytest.fixture(scope="module")
def config(tiny_backbone, tmp_path_factory):
    data = tmp_path_factory.mktemp("data") / "rated.csv"
    words = ("good", "bad", "fine", "poor")
    rows = [f"w{i % 7} {words[i % 4]} w{i % 5},{'no' if i % 2 ^ (i % 11 == 0) else 'yes'}" for i in range(100)]
    data.write_text("\n".join(["text,label", *rows]))
    return PotstillConfig.build(
        {
            "data": {"source": str(data), "selection_fraction": 0.3},
            "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}},
            "student": {
                "embedding_size": 8,
                "hidden_size": 8,
                "vocab_size": 300,
                "training": TRAINING,
                "seeds": [0, 1, 2],
            },
            "search": {"trials": 5, "space": SETTINGS},
        }
    )


@pytest.fixture(scope="module")
def corpus(config):
    return potstill.load_corpus(config.data)


@pytest.fixture(scope="module")
def teacher(config, corpus, tmp_path_factory):
    return potstill.finetune(config, corpus, tmp_path_factory.mktemp("teacher"))[0]


@pytest.fixture(autouse=True)
def soon_learning(monkeypatch):
    """Let the sampler learn after three trials, not ten."""
    monkeypatch.setattr(searching, "_RANDOM_TRIALS", 3)


def changed(config, *, student=None, distillation=None, **settings):
    """Return `config` with other settings of the search, the student or the distillation."""
    values = config.model_dump(mode="json")
    values["search"] |= settings
    values["student"] |= student or {}
    values["distillation"] |= distillation or {}
    return PotstillConfig.build(values)


def without_times(result):
    trials = tuple(dataclasses.replace(trial, seconds=0.0) for trial in result.trials)
    return dataclasses.replace(result, trials=trials)


@pytest.fixture(scope="module")
def undisturbed(config, corpus, teacher, tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "_RANDOM_TRIALS", 3)
        return search(config, corpus, [teacher], directory), directory


@pytest.fixture
def told(monkeypatch):
    """Replace the training: a list of what each student is told to score, epoch by epoch, or raises."""
    script, calls = [], []

    def distill(config, corpus, teachers, directory, seed, *, transfer=None, on_student=None, on_epoch=None):
        calls.append((config, seed))
        scores = script.pop(0) if script else [0.1]
        if isinstance(scores, BaseException):
            raise scores
        for epoch, score in enumerate(scores, start=1):
            if on_epoch is not None:
                on_epoch({"epoch": epoch, "mcc": score})
        fit, record = SimpleNamespace(best={"mcc": max(scores)}), SimpleNamespace(parameters=None)
        return SimpleNamespace(fit=fit, record=record)

    monkeypatch.setattr(searching, "distill", distill)
    monkeypatch.setattr("potstill.report.search.heat_map", lambda result: Figure(figsize=(1, 1)))
    return SimpleNamespace(script=script, calls=calls)


def test_a_search_writes_what_it_found_and_leaves_nothing_else(undisturbed):
    _, directory = undisturbed
    names = {path.name for path in directory.iterdir()} - {"potstill.lock"}
    results = {"search.md", "search.json", "trials.csv", "best.yaml", "alpha-temperature.png"}
    assert names == results | {"search.db", "config.yaml", "begun.json", "environment.json"}
    assert (directory / "alpha-temperature.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_trial_is_the_configuration_itself(undisturbed, config):
    first = undisturbed[0].trials[0]
    assert first.settings["distillation.alpha"] == config.distillation.alpha
    assert first.settings["student.hidden_size"] == config.student.hidden_size
    assert first.settings["student.training.learning_rate"] == config.student.training.learning_rate


def test_trials_stay_in_the_space_and_differ(undisturbed, config):
    result, _ = undisturbed
    for trial in result.trials:
        assert set(trial.settings) == set(config.search.space)
        assert all(config.search.space[name].has(value) for name, value in trial.settings.items())
    assert len({str(trial.settings) for trial in result.trials}) == len(result.trials) == 5
    assert len({trial.mcc for trial in result.trials}) > 2  # else the tests below would compare nothing


def test_the_table_and_the_json_hold_all_trials(undisturbed):
    result, directory = undisturbed
    with (directory / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((directory / "search.json").read_text(encoding="utf-8"))
    assert summary["best"] == result.best.number
    assert len(rows) == len(summary["trials"]) == 5
    for row, entry, trial in zip(rows, summary["trials"], result.trials, strict=True):
        assert float(row["mcc"]) == entry["mcc"] == trial.mcc == trial.seeds[0]
        assert float(row["distillation.temperature"]) == trial.settings["distillation.temperature"]
        assert int(row["parameters"]) == trial.parameters
        assert trial.epochs == 2


def test_the_best_configuration_gives_the_best_trials_score_again(undisturbed, config, corpus, teacher, tmp_path):
    result, directory = undisturbed
    best = PotstillConfig.load(directory / "best.yaml")
    assert best.data == config.data
    trained = potstill.distill(best, corpus, teacher, tmp_path, seed=0)
    assert trained.record.best["mcc"] == result.best.mcc == max(trial.mcc for trial in result.trials)
    assert trained.record.parameters == result.best.parameters


def test_the_rematch_has_other_seeds_than_the_trials(undisturbed, corpus, teacher, tmp_path):
    result, directory = undisturbed
    assert result.rematch.seeds == (1, 2)
    best = PotstillConfig.load(directory / "best.yaml")
    for settings, scores in (
        (best, result.rematch.best),
        (changed(best, distillation=leaves()), result.rematch.reference),
    ):
        assert potstill.distill(settings, corpus, teacher, tmp_path, seed=2).record.best["mcc"] == scores[1]


def leaves():
    return {name.rpartition(".")[2]: value for name, value in REFERENCE.items()}


@pytest.mark.parametrize("at", [1, 3, 7], ids=["first trial", "third trial", "rematch"])
def test_an_interrupted_search_goes_on_to_the_same_trials(
    undisturbed, config, corpus, teacher, tmp_path, monkeypatch, at
):
    calls = []

    def distill(*arguments, **options):
        calls.append(arguments)
        if len(calls) == at:
            raise KeyboardInterrupt
        return potstill.distill(*arguments, **options)

    monkeypatch.setattr(searching, "distill", distill)
    with pytest.raises(KeyboardInterrupt):
        search(config, corpus, [teacher], tmp_path / "out")
    assert not (tmp_path / "out" / "search.md").exists()
    assert without_times(search(config, corpus, [teacher], tmp_path / "out")) == without_times(undisturbed[0])


def test_more_trials_go_on_where_an_ended_search_stopped(undisturbed, config, corpus, teacher, tmp_path):
    few = search(changed(config, trials=2), corpus, [teacher], tmp_path)
    assert without_times(few).trials == without_times(undisturbed[0]).trials[:2]
    assert without_times(search(config, corpus, [teacher], tmp_path)) == without_times(undisturbed[0])


def test_a_finished_search_trains_nothing_again(undisturbed, config, corpus, teacher, told, tmp_path):
    result, directory = undisturbed
    copy = shutil.copytree(directory, tmp_path / "copy")
    assert search(config, corpus, [teacher], copy) == result
    assert told.calls == []


def test_another_seed_tries_other_settings(undisturbed, config, corpus, teacher, told, tmp_path):
    other = search(changed(config, seed=1), corpus, [teacher], tmp_path)
    assert other.trials[0].settings == undisturbed[0].trials[0].settings
    assert other.trials[1].settings != undisturbed[0].trials[1].settings


def test_a_trial_that_was_killed_is_made_again(config, corpus, teacher, told, tmp_path):
    """What a killed process leaves: a trial that is running, one that waits, a half-trained student."""
    expected = search(config, corpus, [teacher], tmp_path / "expected")
    search(changed(config, trials=2), corpus, [teacher], tmp_path / "out")
    study = optuna.load_study(study_name="potstill", storage=f"sqlite:///{tmp_path / 'out' / 'search.db'}")
    study.ask(searching._Search(config, corpus, (teacher,), None, tmp_path, study).distributions)
    (tmp_path / "out" / ".trial-x").mkdir()
    assert without_times(search(config, corpus, [teacher], tmp_path / "out")) == without_times(expected)
    assert not (tmp_path / "out" / ".trial-x").exists()
    assert optuna.trial.TrialState.RUNNING not in {trial.state for trial in study.get_trials()}


def test_a_killed_first_trial_is_the_configuration_again(config, corpus, teacher, told, tmp_path):
    told.script.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        search(config, corpus, [teacher], tmp_path)
    study = optuna.load_study(study_name="potstill", storage=f"sqlite:///{tmp_path / 'search.db'}")
    study.enqueue_trial({"distillation.alpha": 0.5, "distillation.temperature": 2.0})
    assert search(config, corpus, [teacher], tmp_path).trials[0].point == (0.5, 2.0)
    assert search(config, corpus, [teacher], tmp_path).trials[1].point != (0.5, 2.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"student": {"cell": "gru"}}, "student.cell"),
        ({"distillation": {"alpha": 0.4}}, "distillation.alpha"),
        ({"seed": 3}, "search.seed"),
        ({"space": SETTINGS | {"student.dropout": 0.1}}, "search.space.student.dropout.*"),
    ],
)
def test_other_settings_are_refused(undisturbed, config, corpus, teacher, change, named):
    _, directory = undisturbed
    before = (directory / "search.db").read_bytes(), (directory / "config.yaml").read_bytes()
    with pytest.raises(ArtifactError, match=rf"begun with other settings: {named}; see .*config\.yaml"):
        search(changed(config, **change), corpus, [teacher], directory)
    assert before == ((directory / "search.db").read_bytes(), (directory / "config.yaml").read_bytes())


def test_other_inputs_are_refused(undisturbed, config, corpus, teacher, tmp_path):
    _, directory = undisturbed
    for part in ("train", "selection"):
        fewer = getattr(corpus, part).take(range(len(getattr(corpus, part)) - 1))
        with pytest.raises(ArtifactError, match=r"other inputs.*: texts"):
            search(config, dataclasses.replace(corpus, **{part: fewer}), [teacher], directory)
    potstill.finetune(config, corpus, tmp_path, seed=1)
    with pytest.raises(ArtifactError, match=r"other inputs.*: teacher's weights"):
        search(config, corpus, [Teacher.load(tmp_path, config.runtime)], directory)
    transfer = TransferSet(texts=("A cat.",), pairs=None, sources=("file:x",), dropped={})
    with pytest.raises(ArtifactError, match=r"other inputs.*: transfer set"):
        search(config, corpus, [teacher], directory, transfer=transfer)


def test_what_is_no_search_is_refused_and_left_alone(config, corpus, teacher, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="not empty"):
        search(config, corpus, [teacher], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_study_is_told(undisturbed, config, corpus, teacher, tmp_path):
    copy = shutil.copytree(undisturbed[1], tmp_path / "copy")
    (copy / "search.db").write_bytes(b"no database" * 100)
    with pytest.raises(ArtifactError, match=r"search\.db: expected a study of Optuna, found none that can be read"):
        search(config, corpus, [teacher], copy)


def test_two_searches_in_one_directory_are_refused(undisturbed, config, corpus, teacher):
    _, directory = undisturbed
    with locked(directory), pytest.raises(ArtifactError, match="expected no other process at work there, found one"):
        search(config, corpus, [teacher], directory)


def test_a_kill_before_there_was_a_study_is_no_obstacle(config, corpus, teacher, told, tmp_path):
    (tmp_path / "potstill.lock").touch()
    search(changed(config, trials=1), corpus, [teacher], tmp_path)
    assert (tmp_path / "search.db").is_file()


class KilledError(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize(("seeds", "kept"), [(1, 8), (2, 9)], ids=["in the second trial", "in the second seed"])
def test_a_killed_trial_goes_on_between_two_steps(config, corpus, teacher, tmp_path, monkeypatch, seeds, kept):
    """No step is taken twice, and Optuna is told all epochs: of an epoch and of a student that had ended, too."""
    steps, writes = [], []
    take, write = Learner._step, Checkpointer.write

    def step(learner, *arguments):
        steps.append(None)
        return take(learner, *arguments)

    def writing(keeper, state):
        write(keeper, state)
        writes.append(None)
        if len(writes) == kept:
            raise KilledError

    eager = config.model_copy(update={"runtime": config.runtime.model_copy(update={"checkpoint_seconds": 0.0})})
    settings = changed(eager, trials=2, seeds_per_trial=seeds, student={"seeds": list(range(seeds))})
    monkeypatch.setattr(Learner, "_step", step)
    expected = search(settings, corpus, [teacher], tmp_path / "expected")
    taken = len(steps)
    monkeypatch.setattr(Checkpointer, "write", writing)
    with pytest.raises(KilledError):
        search(settings, corpus, [teacher], tmp_path / "killed")
    found = search(settings, corpus, [teacher], tmp_path / "killed")
    assert without_times(found) == without_times(expected)
    assert [trial.epochs for trial in found.trials] == [2, 2]
    assert len(steps) == 2 * taken
    assert not list((tmp_path / "killed").glob(".trial-*"))


def test_how_often_checkpoints_are_written_is_no_other_search(config, corpus, teacher, told, tmp_path):
    rare = config.model_copy(update={"runtime": config.runtime.model_copy(update={"checkpoint_seconds": 1e6})})
    search(changed(config, trials=1), corpus, [teacher], tmp_path)
    search(changed(rare, trials=2), corpus, [teacher], tmp_path)
    assert {called.runtime.checkpoint_seconds for called, _ in told.calls} == {60.0, 1e6}


def test_any_directory_name_will_do(config, corpus, teacher, told, tmp_path):
    directory = tmp_path / "100 %? #ä&x=1"
    search(changed(config, trials=1), corpus, [teacher], directory)
    assert (directory / "search.db").is_file()
    assert len(search(config, corpus, [teacher], directory).trials) == 5


def test_students_that_are_too_large_are_not_trained(config, corpus, teacher, tmp_path):
    sizes = {
        trial.settings["student.hidden_size"]: trial.parameters for trial in probe(config, corpus, teacher, tmp_path)
    }
    small, medium, large = (sizes[size] for size in (4, 8, 12))
    assert small < medium < large
    result = search(changed(config, max_parameters=medium, trials=4), corpus, [teacher], tmp_path / "out")
    refused = [trial for trial in result.trials if trial.outcome == "too large"]
    assert {trial.parameters for trial in refused} == {large}
    assert all(trial.epochs == 0 and trial.mcc is None and trial.seeds == {} for trial in refused)
    assert [trial.parameters <= medium for trial in result.finished] == [True] * 4


def test_draws_that_were_too_large_are_none_of_the_random_trials(config, corpus, teacher, tmp_path, monkeypatch):
    random_trials = []
    create = optuna.samplers.TPESampler

    def sampler(**settings):
        random_trials.append(settings.get("n_startup_trials"))  # None: optuna's own, which is replaced
        return create(**settings)

    monkeypatch.setattr(optuna.samplers, "TPESampler", sampler)
    sizes = probe(config, corpus, teacher, tmp_path)
    most = sorted({trial.parameters for trial in sizes})[1]
    random_trials.clear()
    result = search(changed(config, max_parameters=most, trials=4), corpus, [teacher], tmp_path / "out")
    too_large = [trial.outcome == "too large" for trial in result.trials]
    assert any(too_large[:-1])
    assert random_trials[1:] == [searching._RANDOM_TRIALS + sum(too_large[:number]) for number in range(len(too_large))]


def probe(config, corpus, teacher, directory):
    """Make a trial of each size."""
    sizes = {"choices": [4, 8, 12]}
    return search(
        changed(config, space=SETTINGS | {"student.hidden_size": sizes}), corpus, [teacher], directory / "probe"
    ).trials


@pytest.mark.parametrize("settings", [{}, {"grid": True}], ids=["space", "grid"])
def test_a_bound_that_no_student_meets_is_told(config, corpus, teacher, tmp_path, monkeypatch, settings):
    monkeypatch.setattr(searching, "_DRAWS", 4)
    with pytest.raises(ConfigError, match=r"search\.max_parameters: the latest .* have [23],\d{3} or more; found 100"):
        search(changed(config, max_parameters=100, **settings), corpus, [teacher], tmp_path)


def test_what_is_worse_than_the_median_is_stopped(config, corpus, teacher, told, tmp_path):
    one_seed = changed(config, trials=8, student={"seeds": [0], "training": TRAINING | {"epochs": 3}})
    told.script += [[0.1, 0.2, 0.3]] * 5 + [[0.0, 0.1, 0.5], [0.0, 0.25, 0.1], [0.0, 0.0, 0.3]]
    result = search(one_seed, corpus, [teacher], tmp_path / "median")
    assert [trial.outcome for trial in result.trials] == ["finished"] * 5 + ["stopped", "finished", "stopped"]
    assert [trial.epochs for trial in result.trials] == [3] * 5 + [2, 3, 2]
    assert result.trials[5].note == "after epoch 2 at MCC 0.100"
    assert result.trials[5].mcc is None
    told.script += [[0.0, 0.2, 0.3]] * 5 + [[0.0, 0.1, 0.5]]
    kept = search(changed(one_seed, pruning="none", trials=6), corpus, [teacher], tmp_path / "none")
    assert kept.best.mcc == 0.5


def test_a_training_that_breaks_down_is_a_trial_that_failed(config, corpus, teacher, told, tmp_path):
    told.script += [[0.2], TrainingError("the loss is nan in epoch 1\n  what to do: …"), [0.3]]
    told.script += [ConfigError(["distillation.alpha: 1 looks at no teacher"])]
    result = search(config, corpus, [teacher], tmp_path)
    assert [trial.outcome for trial in result.trials] == ["finished", "failed", "finished", "failed", "finished"]
    assert result.trials[1].note == "the loss is nan in epoch 1"
    assert result.trials[3].note == "distillation.alpha: 1 looks at no teacher"
    assert result.best.number == 3


def test_where_every_training_fails_the_trials_are_told(config, corpus, teacher, told, tmp_path):
    told.script += [TrainingError("the loss is nan")] * 5
    with pytest.raises(TrainingError, match=r"found none among 5; see .*trials\.csv"):
        search(config, corpus, [teacher], tmp_path)
    assert (tmp_path / "trials.csv").read_text().count("the loss is nan") == 5
    assert not (tmp_path / "best.yaml").exists()


def test_an_error_of_another_kind_ends_the_search_which_can_go_on(config, corpus, teacher, told, tmp_path):
    told.script += [[0.2], MemoryError()]
    with pytest.raises(MemoryError):
        search(config, corpus, [teacher], tmp_path)
    assert [trial.outcome for trial in search(config, corpus, [teacher], tmp_path).trials] == ["finished"] * 5


def test_several_seeds_count_by_their_mean_and_the_rematch_has_the_others(config, corpus, teacher, told, tmp_path):
    told.script += [[0.1], [0.4], [0.3], [0.3]]
    result = search(changed(config, trials=2, seeds_per_trial=2), corpus, [teacher], tmp_path)
    assert [trial.seeds for trial in result.trials] == [{0: 0.1, 1: 0.4}, {0: 0.3, 1: 0.3}]
    assert [trial.mcc for trial in result.trials] == pytest.approx([0.25, 0.3])
    assert [seed for _, seed in told.calls] == [0, 1, 0, 1, 2, 2]
    assert result.rematch.seeds == (2,)


def test_no_seed_is_left_for_a_rematch(config, corpus, teacher, told, tmp_path):
    result = search(changed(config, student={"seeds": [7]}), corpus, [teacher], tmp_path)
    assert result.rematch is None
    assert {seed for _, seed in told.calls} == {7}


def test_a_rematch_that_breaks_down_counts_as_nothing_learnt(config, corpus, teacher, told, tmp_path):
    told.script += [[0.2], [0.3], TrainingError("nan"), [0.1]]
    result = search(changed(config, trials=2, student={"seeds": [0, 1]}), corpus, [teacher], tmp_path)
    assert (result.rematch.best, result.rematch.reference) == ((0.0,), (0.1,))


def test_a_rematch_whose_memory_is_used_up_is_made_later(config, corpus, teacher, told, tmp_path):
    settings = changed(config, trials=2, student={"seeds": [0, 1]})
    told.script += [[0.2], [0.3], MemoryUsedUpError("memory is used up")]
    with pytest.raises(MemoryUsedUpError):
        search(settings, corpus, [teacher], tmp_path)
    told.script += [[0.4], [0.1]]
    result = search(settings, corpus, [teacher], tmp_path)
    assert (result.rematch.best, result.rematch.reference) == ((0.4,), (0.1,))


@pytest.mark.parametrize("grid", [False, True])
def test_what_the_space_fixes_is_made_ready_before_the_first_trial(
    config, corpus, teacher, told, tmp_path, monkeypatch, grid
):
    ready = []
    monkeypatch.setattr(searching, "have_judged", lambda config, *_: ready.append(config))
    space = SETTINGS | {"distillation.hidden_weight": 0.5, "student.dropout": 0.1}
    search(changed(config, trials=1, space=space, grid=grid), corpus, [teacher], tmp_path)
    assert [(one.distillation.hidden_weight, one.student.dropout) for one in ready] == [(0.5, 0.1)]


def test_a_space_at_its_end_trains_nothing_twice(config, corpus, teacher, told, tmp_path):
    fixed = dict.fromkeys(("distillation.alpha", "student.dropout", "student.training.learning_rate"), 0.1)
    space = SETTINGS | fixed | {"distillation.temperature": 2.0, "student.hidden_size": {"choices": [4, 8]}}
    told.script += [[0.2], [0.3]]
    result = search(changed(config, trials=8, space=space, student={"seeds": [0]}), corpus, [teacher], tmp_path)
    assert len(told.calls) <= 2 < len(result.trials) == 8
    assert {trial.note for trial in result.trials} <= {"", "the same as trial 1", "the same as trial 2"} | {
        f"the same as trial {number}" for number in range(3, 8)
    }


def test_a_grid_tries_every_cell_and_changes_nothing_else(config, corpus, teacher, tmp_path):
    settings = changed(config, grid=True, alphas=[0, 0.5], temperatures=[1, 2, 4], student={"seeds": [0]})
    result = search(settings, corpus, [teacher], tmp_path)
    assert [trial.point for trial in result.trials] == [(a, t) for a in (0.0, 0.5) for t in (1.0, 2.0, 4.0)]
    assert {trial.outcome for trial in result.trials} == {"finished"}
    assert {str(trial.parameters) for trial in result.trials} == {str(result.trials[0].parameters)}
    assert result.at_reference.point == (0.5, 2.0)
    best = PotstillConfig.load(tmp_path / "best.yaml")
    assert best.student == settings.student
    assert (best.distillation.alpha, best.distillation.temperature) == result.best.point


def test_a_grids_cells_are_all_trained_to_their_end(config, corpus, teacher, told, tmp_path):
    told.script += [[0.5, 0.5, 0.5]] * 6 + [[0.0, 0.0, 0.0]] * 3
    student = {"seeds": [0], "training": TRAINING | {"epochs": 3}}
    settings = changed(config, grid=True, alphas=[0, 0.5, 0.9], temperatures=[1, 2, 4], student=student)
    result = search(settings, corpus, [teacher], tmp_path)
    assert [trial.epochs for trial in result.trials] == [3] * 9


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"seeds_per_trial": 4}, "search.seeds_per_trial: expected 3 at most"),
        ({"space": dict.fromkeys(("distillation.alpha", "student.dropout"), 0.5)}, None),
        (
            {"student": {"surprisal_size": 4}, "space": {"student.num_layers": {"low": 1, "high": 2}}},
            "student.surprisal_size needs student.num_layers: 1; found 4 with 2 layers",
        ),
        ({"grid": True, "alphas": [0, 1]}, "search.alphas: 1 looks at no teacher"),
        (
            {"space": {"distillation.alpha": {"choices": [0, 1]}}},
            "search.space.distillation.alpha: 1 looks at no teacher",
        ),
        (
            {"space": {"distillation.alpha": {"low": 0, "high": 1, "step": 0.25}}},
            "search.space.distillation.alpha: 1 looks at no teacher",
        ),
    ],
)
def test_what_would_fail_later_is_refused_before_anything_is_written(
    config, corpus, teacher, told, tmp_path, settings, expected
):
    transfer = TransferSet(texts=("A cat sat.",), pairs=None, sources=("file:x",), dropped={})
    if expected is None:
        everything = {name: 0.5 for name in config.search.space if "size" not in name}
        settings = {
            "space": everything | {"distillation.temperature": 2, "student.hidden_size": 4, "student.embedding_size": 4}
        }
        expected = "search.space: every setting is fixed"
    with pytest.raises(ConfigError, match=expected):
        search(changed(config, **settings), corpus, [teacher], tmp_path / "out", transfer=transfer)
    assert not (tmp_path / "out").exists()


def test_the_transfer_set_is_learnt_from(config, corpus, teacher, told, tmp_path):
    transfer = TransferSet(texts=("A cat sat.", "Sat cat."), pairs=None, sources=("file:x", "file:x"), dropped={})
    result = search(changed(config, trials=1), corpus, [teacher], tmp_path, transfer=transfer)
    assert result.transfer == 2
    assert "2 texts of a transfer set" in (tmp_path / "search.md").read_text()


def test_progress_is_a_line_per_trial(config, corpus, teacher, tmp_path, capsys):
    search(changed(config, trials=2, student={"seeds": [0]}), corpus, [teacher], tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "MCC" in line]
    assert [line[:16] for line in lines] == ["trial 1 (1 of 2)", "trial 2 (2 of 2)"]
    assert "alpha 0.5, temperature 2" in lines[0]
    assert lines[0].endswith("*best so far")


def test_settings_that_fail_in_every_trial_are_refused_before_anything_is_written(config, corpus, teacher, tmp_path):
    of_chance = dataclasses.replace(teacher, manifest=dataclasses.replace(teacher.manifest, random_init=True))
    wanting = changed(config, student={"embedding_init": "teacher"})
    with pytest.raises(ConfigError, match=r"student\.embedding_init: `teacher` takes pretrained embeddings"):
        search(wanting, corpus, [of_chance], tmp_path / "search")
    assert not (tmp_path / "search").exists()
