"""A fit that is killed goes on from its checkpoint and ends as if nothing had happened, bit for bit."""

import itertools
import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from potstill import pipeline
from potstill.config import DistillationConfig, PotstillConfig, RuntimeConfig, StudentConfig, TrainingConfig
from potstill.data import load_corpus
from potstill.data.tokenised import HiddenStates
from potstill.distillation.loss import Objective
from potstill.errors import ArtifactError, TrainingError
from potstill.interruption import Stopped, stoppable
from potstill.student.network import DistilRNN
from potstill.training import loop as training_loop
from potstill.training.checkpoint import (
    Checkpointer,
    Checkpointing,
    State,
    joined,
    random_state,
    restore_random_state,
    tensor_digest,
    training_key,
)
from potstill.training.compute import make_fabric
from potstill.training.loop import fit
from potstill.transfer.language_model import LanguageModel
from tiny_students import random_set, tiny_student

pytestmark = pytest.mark.usefixtures("one_thread")

FABRIC = make_fabric(RuntimeConfig(device="cpu", precision="32-true"))
TIMES = {"seconds", "tokens_per_second", "sentences_per_second"}


class KilledError(BaseException):
    """Stands for SIGKILL: nothing that runs in the process catches it."""


@pytest.fixture
def killing(monkeypatch):
    """Return a list of how many checkpoints are written before a kill: one number per process, none for no kill."""
    plan = []
    write = Checkpointer.write

    def counted(keeper, state):
        write(keeper, state)
        if plan:
            plan[0] -= 1
            if plan[0] == 0:
                plan.pop(0)
                raise KilledError

    monkeypatch.setattr(Checkpointer, "write", counted)
    return plan


def make_set(texts=10, seed=0):
    return random_set(texts, seed, judged=True)


def make_network(seed=5):
    return tiny_student(seed, num_layers=2, dropout=0.3, word_dropout=0.1)


class Fits:
    """Fits of one tiny network in one directory, with what came of each."""

    def __init__(self, directory, **settings):
        self.directory = directory
        self.path = directory / "checkpoint.safetensors"
        self.settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2} | settings
        self.saved = {}

    def fit(self, *, seconds=0.0, key="", data=None, network_seed=5, seed=3, frozen=1.0, **options):
        network = make_network(network_seed)
        network.register_buffer("frozen", torch.tensor([frozen]))
        result = fit(
            network,
            make_set() if data is None else data,
            make_set(8, seed=1),
            Objective(0.5, 2.0),
            TrainingConfig(**self.settings | options.pop("settings", {})),
            fabric=options.pop("fabric", FABRIC),
            seed=seed,
            history_file=self.directory / "history.jsonl",
            save=lambda: self.saved.update({name: value.clone() for name, value in network.state_dict().items()}),
            title="trial",
            checkpointing=None if seconds is None else Checkpointing(self.path, seconds, key),
            **options,
        )
        history = [json.loads(line) for line in (self.directory / "history.jsonl").read_text().splitlines()]
        assert history == list(result.history)
        return (
            {name: value.clone() for name, value in network.state_dict().items()},
            dict(self.saved),
            [[(name, value) for name, value in record.items() if name not in TIMES] for record in history],
            [(name, value) for name, value in result.best.items() if name not in TIMES],
        )

    def killed(self, killing, *counts, **options):
        """Fit, killed after so many checkpoints, again and again."""
        killing[:] = counts
        for _ in counts:
            with pytest.raises(KilledError):
                self.fit(**options)
        assert killing == []


@pytest.fixture
def fits(tmp_path):
    def make(name, **settings):
        (tmp_path / name).mkdir()
        return Fits(tmp_path / name, **settings)

    return make


def require_identical(found, expected):
    for tensors, others in zip(found[:2], expected[:2], strict=True):
        assert tensors.keys() == others.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, others[name]), name
    assert found[2:] == expected[2:]


VARIANTS = [
    {},
    {"optimizer": "adam", "schedule": "cosine", "warmup": 0.5, "metric": "last"},
    {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "constant", "clip_norm": None},
    {"accumulation": 2, "batch_by": "tokens"},
    {"epochs": 6, "patience": 1, "metric": "accuracy", "learning_rate": 1e-4},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_killed_after_any_step_it_ends_as_if_undisturbed(fits, killing, settings):
    plain = fits("plain", **settings)
    expected = plain.fit(seconds=None)
    assert not plain.path.exists()
    counted = fits("counted", **settings)
    killing.append(10_000)
    require_identical(counted.fit(), expected)  # that it writes checkpoints changes nothing
    writes = 10_000 - killing.pop()
    assert writes > 4
    for number in range(1, writes + 1):
        once = fits(f"once-{number}", **settings)
        once.killed(killing, number)
        require_identical(once.fit(), expected)
    always = fits("always", **settings)
    always.killed(killing, *[1] * writes)  # every process takes one step
    require_identical(always.fit(), expected)


def test_killed_between_two_checkpoints_it_takes_the_lost_steps_again(fits, monkeypatch):
    expected = fits("plain").fit(seconds=None)
    for lost in range(1, 4):
        trial = fits(f"lost-{lost}")
        taken = []
        step = training_loop.Learner._step

        def one(learner, *arguments, taken=taken, step=step):
            taken.append(learner.steps)
            if len(taken) == 5:
                raise KilledError
            return step(learner, *arguments)

        due = property(lambda _keeper, taken=taken, lost=lost: len(taken) == 5 - lost)
        with monkeypatch.context() as patch:
            patch.setattr(training_loop.Learner, "_step", one)
            patch.setattr(Checkpointer, "is_due", due)
            with pytest.raises(KilledError):
                trial.fit()
        require_identical(trial.fit(), expected)


def test_a_finished_fit_is_not_repeated(fits, monkeypatch, capsys):
    trial = fits("finished")
    expected = trial.fit()
    monkeypatch.setattr(training_loop.Learner, "_step", lambda *_: pytest.fail("a step was taken"))
    require_identical(trial.fit(), expected)
    assert "was trained to its end before" in capsys.readouterr().err


def test_the_time_before_a_kill_counts(fits, killing, monkeypatch):
    now, take = [0.0], training_loop.Learner._step

    def step(learner, *arguments):
        now[0] += 1.0
        return take(learner, *arguments)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(training_loop.Learner, "_step", step)
    trial = fits("trial")
    trial.killed(killing, 2, 3)
    trial.fit()
    data = make_set()
    for line in (trial.directory / "history.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["seconds"] == 3.0
        assert record["sentences_per_second"] == len(data) / 3.0
        assert record["tokens_per_second"] == len(data.tokens.ids) / 3.0
    with safe_open(trial.path, framework="pt") as file:
        assert json.loads(file.metadata()["notes"])["course"]["seconds"] == 6.0


@pytest.mark.parametrize(
    "other",
    [
        {"key": "another objective"},
        {"network_seed": 6},
        {"frozen": 2.0},
        {"fabric": make_fabric(RuntimeConfig(device="cpu", precision="bf16-mixed"))},
        {"seed": 4},
        {"data": make_set(10, seed=9)},
        {"data": make_set(11)},
        {"b_ratio": 4.0},
        {"settings": {"learning_rate": 2e-2}},
    ],
    ids=["key", "weights", "buffers", "precision", "seed", "data", "size", "ratio", "settings"],
)
def test_the_checkpoint_of_another_training_is_not_taken(fits, killing, other, capsys):
    trial = fits("trial")
    trial.killed(killing, 3)
    expected = fits("plain").fit(seconds=None, **{name: value for name, value in other.items() if name != "key"})
    require_identical(trial.fit(**other), expected)
    assert "is of another training; the training begins anew" in capsys.readouterr().err


def test_a_trainings_key_follows_all_settings_but_how_often_it_is_kept(tmp_path):
    def key(*, seconds=60.0, precision="auto", **distillation):
        runtime = RuntimeConfig(device="cpu", precision=precision, checkpoint_seconds=seconds)
        return Checkpointing.of(runtime, tmp_path / "c", StudentConfig(), DistillationConfig(**distillation)).key

    assert key() == key(seconds=0.0)
    assert len({key(), key(alpha=0.4), key(temperature=3.0), key(precision="32-true")}) == 4


def test_a_trainings_key_follows_all_that_is_learnt_from():
    plain, none = make_set(), np.zeros(0)
    sets = [
        plain,
        replace(plain, labels=1 - plain.labels),
        replace(plain, teacher_logits=plain.teacher_logits + 1),
        replace(plain, teacher_logits=None),
        *(replace(plain, weights=torch.full((10,), weight)) for weight in (1.0, 2.0)),
        *(replace(plain, hidden=HiddenStates(none, none, none, none, key)) for key in ("one", "other")),
    ]
    assert len({training_key({}, [data], []) for data in sets}) == len(sets)


def test_another_interval_goes_on(fits, killing, capsys):
    trial = fits("trial")
    trial.killed(killing, 3)
    trial.fit(seconds=60.0)
    assert "goes on after step 3 of 6" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_told_and_left_aside(fits, killing, capsys):
    expected = fits("plain").fit(seconds=None)
    trial = fits("trial")
    trial.killed(killing, 3)
    whole = trial.path.read_bytes()
    generator = np.random.default_rng(0)
    for place in [0, 9, *generator.integers(0, len(whole), 12)]:
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]):
            trial.path.write_bytes(damaged)
            trial.saved.clear()
            require_identical(trial.fit(seconds=60.0), expected)
            assert "is damaged" in capsys.readouterr().err


class TestStopping:
    """Ctrl-C and SIGTERM while a fit is under way."""

    @pytest.fixture
    def signalled(self, monkeypatch):
        """Return a function that has a signal sent during a step, or an evaluation."""

        def arrange(number, *, step=None, in_evaluation=False, times=1):
            taken, take = [], training_loop.Learner._step

            def one(learner, *arguments):
                taken.append(None)
                if len(taken) == step:
                    for _ in range(times):
                        signal.raise_signal(number)
                return take(learner, *arguments)

            monkeypatch.setattr(training_loop.Learner, "_step", one)
            if in_evaluation:
                predict = training_loop.predict_logits

                def predicting(*arguments, **options):
                    signal.raise_signal(number)
                    return predict(*arguments, **options)

                monkeypatch.setattr(training_loop, "predict_logits", predicting)
            return taken

        return arrange

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_the_step_is_ended_and_kept(self, fits, signalled, number, status):
        expected = fits("plain").fit(seconds=None)
        trial = fits("trial")
        taken = signalled(number, step=4)
        with stoppable(), pytest.raises(Stopped) as caught:
            trial.fit(seconds=3600.0)
        assert len(taken) == 4
        assert caught.value.status == status
        assert caught.value.kept == "trial is kept as it was after step 4"
        require_identical(trial.fit(seconds=3600.0), expected)
        assert len(taken) == 6

    def test_in_an_evaluation_nothing_is_lost_either(self, fits, signalled, monkeypatch):
        expected = fits("plain").fit(seconds=None)
        trial = fits("trial")
        signalled(signal.SIGINT, in_evaluation=True)
        with stoppable(), pytest.raises(Stopped) as caught:
            trial.fit(seconds=3600.0)
        assert caught.value.kept == "trial is kept as it was after step 3"
        monkeypatch.undo()
        require_identical(trial.fit(seconds=3600.0), expected)

    def test_a_second_signal_ends_at_once(self, fits, signalled):
        trial = fits("trial")
        taken = signalled(signal.SIGINT, step=4, times=2)
        with stoppable(), pytest.raises(Stopped) as caught:
            trial.fit(seconds=3600.0)
        assert len(taken) == 4
        assert caught.value.kept == ""
        assert not trial.path.exists()

    def test_without_checkpoints_there_is_nothing_to_wait_for(self, fits, signalled):
        signalled(signal.SIGTERM, step=1)
        with stoppable(), pytest.raises(Stopped):
            fits("trial").fit(seconds=None)

    def test_who_uses_the_library_keeps_pythons_own_ways(self, fits, signalled):
        trial = fits("trial")
        before = signal.getsignal(signal.SIGINT)
        taken = signalled(signal.SIGINT, step=2)
        with pytest.raises(KeyboardInterrupt) as caught:
            trial.fit(seconds=3600.0)
        assert not isinstance(caught.value, Stopped)
        assert len(taken) == 2
        assert signal.getsignal(signal.SIGINT) is before


def test_a_sick_loss_tells_step_batch_and_rate_and_leaves_the_last_good_state(fits, monkeypatch):
    trial, calls, healthy = fits("trial", schedule="constant", warmup=0.0), itertools.count(1), Objective.__call__

    def sick(objective, logits, targets):
        parts = healthy(objective, logits, targets)
        return parts | {"loss": parts["loss"] * math.nan} if logits.requires_grad and next(calls) == 5 else parts

    monkeypatch.setattr(Objective, "__call__", sick)
    with pytest.raises(TrainingError) as caught:
        trial.fit()
    message = str(caught.value)
    assert "the loss is nan in epoch 2 at learning rate 1.00e-02, step 2 of 3, on a batch of" in message
    assert "the best epoch so far (1) is saved, and the last good state, in" in message
    assert str(trial.path) in message
    assert trial.path.is_file()
    trial.fit()  # which is well again
    assert len((trial.directory / "history.jsonl").read_text().splitlines()) == 2


def test_sick_weights_are_never_kept(fits, monkeypatch):
    """Without clipping nobody looks at the gradient: the weights are the first to be seen sick."""
    trial = fits("trial", clip_norm=None)

    def spoil(learner, data, batches, step=training_loop.Learner._step):
        seen = step(learner, data, batches)
        if learner.steps == 4:
            next(iter(learner._trained.values())).data.fill_(math.inf)
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(training_loop.Learner, "_step", spoil)
        with pytest.raises(TrainingError, match="a trained weight is no longer finite in epoch 2"):
            trial.fit()
    expected = fits("plain", clip_norm=None).fit(seconds=None)
    require_identical(trial.fit(), expected)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
    ids=["python", "gpu", "cpu"],
)
def test_used_up_memory_says_what_to_lower(fits, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(DistilRNN, "forward", fail)
    with pytest.raises(
        TrainingError, match=r"memory is used up in epoch 1, step 1 of 3.*\n.*lower batch_size"
    ) as caught:
        fits("trial").fit()
    assert "max_tokens" in str(caught.value)


def test_used_up_memory_in_an_evaluation_says_what_helps_there(fits, monkeypatch):
    forward = DistilRNN.forward

    def fail(network, *inputs):
        if not network.training:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(network, *inputs)

    monkeypatch.setattr(DistilRNN, "forward", fail)
    expected = (
        r"trial: memory is used up while texts of up to \d+ tokens .*\n.*lower max_tokens.*; nothing is saved yet"
    )
    with pytest.raises(TrainingError, match=expected):
        fits("trial").fit()


def test_other_errors_are_not_explained_away(fits, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(DistilRNN, "forward", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        fits("trial").fit()


def test_a_full_disk_leaves_the_checkpoint_before(fits, killing, monkeypatch):
    expected = fits("plain").fit(seconds=None)
    trial = fits("trial")
    trial.killed(killing, 2)
    before = trial.path.read_bytes()

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("potstill.training.checkpoint.save_file", full)
        with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors can't be written: No space left on device"):
            trial.fit()
    assert trial.path.read_bytes() == before
    assert {path.name for path in trial.directory.iterdir()} == {"checkpoint.safetensors", "history.jsonl"}
    require_identical(trial.fit(), expected)


def test_checkpoints_become_rare_where_writing_takes_long(tmp_path, monkeypatch):
    now = [0.0]

    def slow(*_arguments):
        now[0] += 10.0

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("potstill.training.checkpoint.write_atomically", slow)
    keeper, eager = (Checkpointer(Checkpointing(tmp_path / "c", seconds), "") for seconds in (60.0, 0.0))
    now[0] = 59.0
    assert not keeper.is_due
    now[0] = 60.0
    assert keeper.is_due
    keeper.write(State({}, {}))  # until 70
    now[0] = 70.0 + 499.0
    assert not keeper.is_due  # ten seconds are a fiftieth of five hundred
    now[0] = 70.0 + 500.0
    assert keeper.is_due
    eager.write(State({}, {}))
    assert eager.is_due


def test_a_state_comes_back_to_the_last_bit(tmp_path):
    odd = torch.tensor([1.0, -0.0, 1e-45, math.inf]).view(2, 2)
    tensors = {"a/b": odd.T, "half": odd.bfloat16(), "number": torch.tensor(3), "none": torch.zeros(0, 4)}
    keeper = Checkpointer(Checkpointing(tmp_path / "c", 0.0, "mine"), "key")
    assert keeper.read() is None
    keeper.write(joined(one=State({"rate": 0.1, "names": ["ä"]}, tensors), two=State({}, {"x": torch.ones(1)})))
    state = keeper.read()
    found = state.part("one")
    assert found.notes == {"rate": 0.1, "names": ["ä"]}
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert tensor_digest({"": found.tensors[name]}) == tensor_digest({"": tensor})
    assert state.part("two").tensors["x"].tolist() == [1.0]
    for other in (
        Checkpointer(Checkpointing(tmp_path / "c", 0.0, "yours"), "key"),
        Checkpointer(Checkpointing(tmp_path / "c", 0.0, "mine"), "k"),
    ):
        assert other.read() is None


def test_tensors_of_other_names_shapes_or_kinds_have_other_digests():
    one = torch.ones(2, 3)
    others = [{"a": one}, {"b": one}, {"a": one.T}, {"a": one.flatten()}, {"a": one.int()}, {"a": one, "b": one}, {}]
    assert len({tensor_digest(tensors) for tensors in others}) == len(others)


def test_the_generators_come_back():
    state = random_state(torch.device("cpu"))
    first = nn.functional.dropout(torch.ones(50))
    restore_random_state(state, torch.device("cpu"))
    assert torch.equal(nn.functional.dropout(torch.ones(50)), first)


SMALL = {
    "data": {"source": "embedded", "limit": 40},
    "runtime": {"device": "cpu", "precision": "32-true", "checkpoint_seconds": 0.0},
    "student": {
        "embedding_size": 6,
        "hidden_size": 6,
        "vocab_size": 300,
        "training": {"epochs": 2},
        "pretraining": {"epochs": 2, "batch_size": 16},
        "seeds": [0],
    },
}


def build(backbone, **teacher):
    training = {"epochs": 2, "batch_size": 16}
    return PotstillConfig.build(
        SMALL
        | {
            "teacher": {"backbone": str(backbone), "training": training, **teacher},
            "transfer": {"training": training, "lora": {"dropout": 0.2}},
            "distillation": {"hidden_weight": 0.5},
        }
    )


def files(directory):
    """Everything that a finished stage leaves, without its times."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.suffix == ".jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [[(key, value) for key, value in one.items() if key not in TIMES] for one in records]
        elif path.name == "training.json":
            best = json.loads(path.read_text())["best"]
            found[path.name] = [(key, value) for key, value in best.items() if key not in TIMES]
        elif path.is_file() and path.name != "checksums.json":  # which holds digests of times
            found[path.name] = path.read_bytes()
    return found


def kill_everywhere(stage, killing, tmp_path, at):
    """Run `stage(directory)` undisturbed, and killed at each of `at` shares of its checkpoints; compare the files."""
    killing.append(10_000)
    stage(tmp_path / "undisturbed")
    writes = 10_000 - killing.pop()
    expected = files(tmp_path / "undisturbed")
    for share in at:
        target = tmp_path / f"killed-{share}"
        killing.append(max(1, round(share * writes)))
        with pytest.raises(KilledError):
            stage(target)
        stage(target)
        assert files(target) == expected
    return expected


@pytest.mark.parametrize(
    "teacher",
    [
        {"lora": {"dropout": 0.2, "last_blocks": 1, "learning_rate_ratio": 4.0}},
        {"method": "full"},
        {"lora": {"init": "pissa", "dora": False, "bias": "all"}},
    ],
    ids=["frozen prefix", "full", "pissa"],
)
def test_a_killed_teacher(teacher, model_directory, killing, tmp_path):
    config = build(model_directory("gpt2"), **teacher)  # which has dropout of its own
    corpus = load_corpus(config.data)
    written = kill_everywhere(
        lambda directory: pipeline.finetune(config, corpus, directory, seed=1), killing, tmp_path, (0.3, 0.6, 1.0)
    )
    assert "training.json" in written
    assert "checkpoint.safetensors" not in written


def test_a_killed_student_with_all_there_is_to_learn_from(tiny_backbone, killing, tmp_path):
    """Killed in its language modelling, at its end, in its classification, at its end."""
    config = build(tiny_backbone)
    corpus = load_corpus(config.data)
    teacher, _ = pipeline.finetune(config, corpus, tmp_path / "teacher")
    written = kill_everywhere(
        lambda directory: pipeline.distill(config, corpus, teacher, directory), killing, tmp_path, (0.2, 0.5, 0.7, 1.0)
    )
    assert {"training.json", "pretraining.jsonl", "history.jsonl"} <= written.keys()
    assert not [name for name in written if "checkpoint" in name]


def test_a_killed_language_model(model_directory, killing, tmp_path):
    config = build(model_directory("gpt2"))
    corpus = load_corpus(config.data)
    trained = {}

    def stage(directory):
        directory.mkdir(exist_ok=True)
        model = LanguageModel.load(config)
        model.tune(config, corpus, directory / "history.jsonl")
        (directory / "checkpoint.safetensors").unlink()  # as its caller does, who keeps the weights
        (directory / "weights").write_text(tensor_digest(model.trained))
        trained[directory.name] = model

    kill_everywhere(stage, killing, tmp_path, (0.3, 0.6, 1.0))
    assert len(trained) == 4
