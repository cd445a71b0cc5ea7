"""A fit that is killed goes on from its checkpoint and ends as if nothing had happened, bit for bit."""

import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from potstill.config import DistillationConfig, PotstillConfig, RNNConfig, RuntimeConfig, TrainingConfig
from potstill.data import load_corpus
from potstill.distillation import Distillation
from potstill.errors import ArtifactError, TrainingError
from potstill.executor.signals import Stopped, handle_signals
from potstill.experiment.stages import finetune
from potstill.training.base import Callback, FitContext, Splits
from potstill.training.callbacks import standard_callbacks
from potstill.training.checkpoint import Checkpoint, pack, read_checkpoint, tensor_digest, unpack
from potstill.training.compute import make_fabric
from potstill.training.fit import Trainer, fit
from tiny_students import random_set, tiny_student

pytestmark = pytest.mark.usefixtures("one_thread")

RUNTIME = RuntimeConfig(device="cpu", precision="32-true", checkpoint_seconds=0.0)
TIMES = {"seconds", "tokens_per_second", "texts_per_second"}


class KilledError(BaseException):
    """Stands for SIGKILL: nothing that runs in the process catches it."""


class At(Callback):
    """Does something at a step, or at the end of the fit (step 0), or in the first evaluation."""

    def __init__(self, step, action, *, evaluation=False):
        self.step, self.action, self.evaluation, self.taken = step, action, evaluation, 0

    def on_step(self, trainer):
        self.taken += 1
        if self.taken == self.step and not self.evaluation:
            self.action(trainer)

    def on_validation_batch(self, trainer):
        if self.evaluation:
            self.evaluation = False
            self.action(trainer)

    def on_fit_end(self, trainer):
        if self.step == 0:
            self.action(trainer)


def kill(*_):
    raise KilledError


def make_set(texts=10, seed=0):
    return random_set(texts, seed, with_teacher=True)


class Fits:
    """Fits of one tiny network in one directory, with the result of each."""

    def __init__(self, directory, **settings):
        self.directory = directory
        self.path = directory / "checkpoint.safetensors"
        self.settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2} | settings
        self.saved = {}

    def fit(
        self,
        *before,
        more=(),
        runtime=RUNTIME,
        stages=(),
        data=None,
        loss=None,
        network_seed=5,
        seed=3,
        frozen=1.0,
        **changes,
    ):
        """Fit a network; `before` are callbacks before the usual ones, `more` behind them."""
        network = tiny_student(network_seed, num_layers=2, dropout=0.3)
        network.register_buffer("frozen", torch.tensor([frozen]))
        config = TrainingConfig(**self.settings | changes)
        save = lambda: self.saved.update({name: value.clone() for name, value in network.state_dict().items()})  # noqa: E731
        usual = standard_callbacks(config, runtime, self.directory, stages, save=save, more=more)
        context = FitContext(config, make_fabric(runtime), seed, "trial", (*before, *usual))
        loss = Distillation() if loss is None else loss
        result = fit(network, Splits(data or make_set(), make_set(8, seed=1)), loss, context)
        history = [json.loads(line) for line in (self.directory / "history.jsonl").read_text().splitlines()]
        assert history == list(result.history)
        return (
            {name: value.clone() for name, value in network.state_dict().items()},
            dict(self.saved),
            [[(name, value) for name, value in record.items() if name not in TIMES] for record in history],
            [(name, value) for name, value in result.best.items() if name not in TIMES],
        )

    def plain(self, **options):
        return self.fit(runtime=RUNTIME.model_copy(update={"checkpoint_seconds": None}), **options)

    def killed(self, *steps, **options):
        """Fit, killed after that many steps' checkpoints, again and again."""
        for step in steps:
            with pytest.raises(KilledError):
                self.fit(more=[At(step, kill)], **options)


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
    {"optimizer": "adam", "schedule": "cosine", "warmup_ratio": 0.5, "keep": "last"},
    {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "constant", "max_grad_norm": None},
    {"gradient_accumulation_steps": 2},
    {"epochs": 6, "patience": 1, "metric": "accuracy", "learning_rate": 1e-4},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_killed_after_any_step_a_fit_ends_like_an_uninterrupted_one(fits, settings):
    plain = fits("plain", **settings)
    expected = plain.plain()
    assert not plain.path.exists()
    counter = At(-1, kill)
    require_identical(fits("counted", **settings).fit(more=[counter]), expected)  # checkpoints change nothing
    for step in range(counter.taken + 1):  # 0: after the end
        once = fits(f"once-{step}", **settings)
        once.killed(step)
        require_identical(once.fit(), expected)
    always = fits("always", **settings)
    always.killed(*[1] * counter.taken)  # every process takes one step
    require_identical(always.fit(), expected)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_killed_between_two_checkpoints_a_fit_takes_the_lost_steps_again(fits, monkeypatch, lost):
    trial, steps, write = fits("trial"), At(-1, kill), Checkpoint.on_step

    def once(checkpoint, trainer):
        if trainer.steps == 5 - lost:
            write(checkpoint, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_step", once)
        trial.killed(5)
    require_identical(trial.fit(more=[steps]), fits("plain").plain())
    assert steps.taken == 6 - (5 - lost)


def test_a_finished_fit_is_not_repeated(fits, capsys):
    trial, steps = fits("finished"), At(-1, kill)
    expected = trial.fit()
    require_identical(trial.fit(more=[steps]), expected)
    assert steps.taken == 0
    assert "was trained to its end before" in capsys.readouterr().err


def test_the_time_before_a_kill_counts(fits, monkeypatch):
    now = [0.0]

    class Clock(Distillation):
        def __call__(self, logits, targets):
            now[0] += float(logits.requires_grad)
            return super().__call__(logits, targets)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    trial = fits("trial")
    trial.killed(2, 3, loss=Clock())
    trial.fit(loss=Clock())
    for line in (trial.directory / "history.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["seconds"] == 3.0
        assert record["texts_per_second"] == 10 / 3.0
    assert read_checkpoint(trial.path)[1]["trainer"]["seconds"] == 6.0


LABELS = make_set()
OTHERS = {
    "stages": {"stages": (DistillationConfig(alpha=0.4),)},
    "weights": {"network_seed": 6},
    "buffers": {"frozen": 2.0},
    "precision": {"runtime": RUNTIME.model_copy(update={"precision": "bf16-mixed"})},
    "seed": {"seed": 4},
    "texts": {"data": make_set(10, seed=9)},
    "size": {"data": make_set(11)},
    "labels": {"data": replace(LABELS, labels=1 - LABELS.labels)},
    "teacher": {"data": replace(LABELS, teacher_logits=LABELS.teacher_logits + 1)},
    "settings": {"learning_rate": 2e-2},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_the_checkpoint_of_another_training_is_ignored(fits, other, capsys):
    trial = fits("trial")
    trial.killed(3)
    without = {name: value for name, value in other.items() if name != "runtime"}
    found = trial.fit(**other)
    assert "belongs to another training; the training starts again" in capsys.readouterr().err
    if "runtime" not in other:
        require_identical(found, fits("plain").plain(**without))


def test_how_often_checkpoints_are_written_may_change(fits, capsys):
    trial = fits("trial")
    trial.killed(3, stages=(RNNConfig(),))
    trial.fit(runtime=RUNTIME.model_copy(update={"checkpoint_seconds": 60.0}), stages=(RNNConfig(),))
    assert "resumes after step 3 of 6" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused_and_the_training_starts_again(fits, capsys):
    expected = fits("plain").plain()
    trial = fits("trial")
    trial.killed(3)
    whole = trial.path.read_bytes()
    generator = np.random.default_rng(0)
    for place in [0, 9, *generator.integers(0, len(whole), 12)]:
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]):
            trial.path.write_bytes(damaged)
            trial.saved.clear()
            with pytest.raises(ValueError, match=r"."):
                read_checkpoint(trial.path)
            require_identical(trial.fit(), expected)
            assert "is damaged" in capsys.readouterr().err


RARELY = RUNTIME.model_copy(update={"checkpoint_seconds": 3600.0})


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("at", "kept"), [({"step": 4}, 4), ({"step": 0, "evaluation": True}, 3)])
def test_a_signal_ends_a_fit_after_the_step_with_a_checkpoint(fits, number, status, at, kept):
    expected, trial = fits("plain").plain(), fits("trial")
    sender, steps = At(**at, action=lambda _: signal.raise_signal(number)), At(-1, kill)
    with handle_signals(), pytest.raises(Stopped) as caught:
        trial.fit(sender, more=[steps], runtime=RARELY)
    assert sender.taken == kept
    assert caught.value.status == status
    assert caught.value.kept == f"trial is kept as it was after step {kept}"
    rest = At(-1, kill)
    require_identical(trial.fit(more=[rest], runtime=RARELY), expected)
    assert rest.taken == 6 - kept


def test_a_second_signal_ends_a_fit_at_once(fits):
    trial = fits("trial")
    sender = At(4, lambda _: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    with handle_signals(), pytest.raises(Stopped) as caught:
        trial.fit(sender, runtime=RARELY)
    assert caught.value.kept == ""
    assert not trial.path.exists()


def test_a_diverged_loss_leaves_the_last_good_state(fits):
    class Diverges(Distillation):
        def __call__(self, logits, targets):
            parts = super().__call__(logits, targets)
            calls.append(logits.requires_grad)
            return parts | {"loss": parts["loss"] * math.nan} if logits.requires_grad and sum(calls) == 5 else parts

    trial, calls = fits("trial", schedule="constant", warmup_ratio=0.0), []
    with pytest.raises(TrainingError) as caught:
        trial.fit(loss=Diverges())
    assert "the loss is nan in epoch 2 at learning rate 1.00e-02, step 5 of 6, on a batch of" in str(caught.value)
    assert f"the last good state is in {trial.path}, and the best epoch so far (1) is saved" in str(caught.value)
    require_identical(trial.fit(), fits("plain", schedule="constant", warmup_ratio=0.0).plain())


def test_weights_that_are_not_finite_are_never_saved(fits):
    """Without clipping nothing looks at the gradient: the weights are the first that are seen to be infinite."""
    trial = fits("trial", max_grad_norm=None)
    spoil = At(4, lambda trainer: next(iter(trainer.trained.values())).data.fill_(math.inf))
    with pytest.raises(TrainingError, match="a trained weight is no longer finite in epoch 2"):
        trial.fit(spoil)
    require_identical(trial.fit(), fits("plain", max_grad_norm=None).plain())


def test_a_full_disk_leaves_the_previous_checkpoint(fits, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    trial = fits("trial")
    trial.killed(2)
    before = trial.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("potstill.store.tensors.save_file", full)
        with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors can't be written: No space left on device"):
            trial.fit()
    assert trial.path.read_bytes() == before
    assert {path.name for path in trial.directory.iterdir()} == {"checkpoint.safetensors", "history.jsonl"}
    require_identical(trial.fit(), fits("plain").plain())


@pytest.mark.parametrize(("seconds", "times"), [(60.0, [60.0, 570.0]), (0.0, [50.0, 60.0, 569.0, 579.0])])
def test_checkpoints_are_rarer_if_writing_takes_long(tmp_path, monkeypatch, seconds, times):
    now, written = [0.0], []

    def slow(*_arguments):
        written.append(now[0])
        now[0] += 10.0  # a fiftieth of five hundred

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("potstill.training.checkpoint.save_tensors", slow)
    checkpoint = Checkpoint(tmp_path / "c", seconds)
    context = FitContext(TrainingConfig(), make_fabric(RUNTIME), 0, "trial", (checkpoint,))
    trainer = Trainer(tiny_student(), Splits(make_set(), make_set()), Distillation(), context)
    for moment in (50.0, 60.0, 569.0, 570.0):
        now[0] = max(now[0], moment)
        checkpoint.on_step(trainer)
    assert written == times


def test_a_state_is_packed_and_unpacked_to_the_last_bit():
    odd = torch.tensor([1.0, -0.0, 1e-45, math.inf]).view(2, 2)
    tensors = {"a/b": odd.T, "half": odd.bfloat16(), "number": torch.tensor(3), "none": torch.zeros(0, 4)}
    state, found = {"rate": 0.1, "names": ["ä"], "tensors": tensors, "empty": {}}, {}
    back = unpack(json.loads(json.dumps(pack(state, found))), found)
    assert back.pop("tensors").keys() == state.pop("tensors").keys() == tensors.keys()
    assert back == state
    assert len(found) == len(tensors)


def test_tensors_of_other_names_shapes_or_kinds_have_other_digests():
    one = torch.ones(2, 3)
    others = [{"a": one}, {"b": one}, {"a": one.T}, {"a": one.flatten()}, {"a": one.int()}, {"a": one, "b": one}, {}]
    assert len({tensor_digest(tensors) for tensors in others}) == len(others)


def contents(directory):
    """Everything that a finished teacher leaves, without its times."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.suffix == ".jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{key: value for key, value in one.items() if key not in TIMES} for one in records]
        elif path.is_file() and path.name not in ("checksums.json", "training.json"):  # which hold times
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.parametrize(
    "teacher",
    [
        {"lora": {"dropout": 0.2, "target_modules": ["*.1.*"]}},
        {"method": "full"},
    ],
    ids=["last block", "full"],
)
def test_a_killed_finetune_leaves_the_same_files(teacher, model_directory, monkeypatch, tmp_path):
    backbone = str(model_directory("gpt2"))  # which has dropout of its own
    config = PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 40},
            "runtime": RUNTIME.model_dump(),
            "teacher": {"backbone": backbone, "training": {"epochs": 2, "batch_size": 16}, **teacher},
        }
    )
    corpus, on_step = load_corpus(config.data), Checkpoint.on_step
    finetune(config, corpus, tmp_path / "plain")
    expected = contents(tmp_path / "plain")
    assert not [name for name in expected if "checkpoint" in name]

    def killed(checkpoint, trainer):
        on_step(checkpoint, trainer)
        if trainer.steps == step:
            raise KilledError

    for step in (1, 4, 6):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "on_step", killed)
            with pytest.raises(KilledError):
                finetune(config, corpus, tmp_path / str(step))
        finetune(config, corpus, tmp_path / str(step))
        assert contents(tmp_path / str(step)) == expected
