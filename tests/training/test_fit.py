import json
import math

import pytest
import torch
from torch import nn

from potstill.config import RuntimeConfig, TrainingConfig
from potstill.console import silence
from potstill.data.examples import UNLABELLED
from potstill.distillation import CrossEntropy, Distillation
from potstill.errors import TrainingError
from potstill.training.base import Callback, FitContext, Splits
from potstill.training.callbacks import standard_callbacks
from potstill.training.compute import EXACT, make_fabric
from potstill.training.fit import fit
from potstill.training.inference import predict_logits
from tiny_students import random_set, tiny_student

pytestmark = pytest.mark.usefixtures("one_thread")

FABRIC = make_fabric(EXACT)
LABEL_KEYS = ["epoch", "train_loss", "train_ce", "validation_loss", "validation_ce", "accuracy", "mcc", "f1"]
TIMES = {"seconds", "tokens_per_second", "texts_per_second"}


def make_network(dropout=0.0):
    return tiny_student(5, cell="gru", embedding_size=8, hidden_size=8, dropout=dropout)


class AlwaysTheSame(nn.Module):
    """Answers class 0 to everything, ever less surely."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask):
        return (torch.tensor([[5.0, -5.0]]) + self.weight * torch.tensor([1.0, -1.0])).expand(len(input_ids), 2)


@pytest.fixture
def train(tmp_path):
    """Return a function that fits a model with small settings."""

    def run(
        model, data, validation=None, loss=None, *, seed=0, save=lambda: None, tokens=None, callbacks=(), **settings
    ):
        config = TrainingConfig(**{"epochs": 2, "batch_size": 4, "learning_rate": 1e-2} | settings)
        runtime = RuntimeConfig(checkpoint_seconds=None)
        usual = standard_callbacks(config, runtime, tmp_path, save=save, more=callbacks)
        context = FitContext(config, FABRIC, seed, "trial", usual, tokens)
        return fit(model, Splits(data, validation or data), loss or CrossEntropy(), context)

    return run


def copy_weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def identical(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def without_times(history):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in history]


@pytest.mark.parametrize("dropout", [0.0, 0.3])  # without dropout only the batches differ between seeds
def test_same_seed_same_batches_and_weights(train, dropout):
    weights, histories = [], []
    for seed, drawn in ((3, 3), (3, 8), (4, 3)):
        model = make_network(dropout)
        torch.rand(drawn)  # what happened before must not matter
        histories.append(without_times(train(model, random_set(19), seed=seed).history))
        weights.append(copy_weights(model))
    assert identical(weights[0], weights[1])
    assert histories[0] == histories[1]
    assert not identical(weights[0], weights[2])


def test_every_epoch_has_its_own_batches_which_the_seed_decides(train):
    def batches(seed):
        model, read = make_network(), []
        model.register_forward_pre_hook(lambda model, inputs: read.append(inputs[0]) if model.training else None)
        train(model, random_set(12), seed=seed)
        return [ids.tolist() for ids in read]

    first, again, other = batches(0), batches(0), batches(1)
    assert first == again != other
    assert first[:3] != first[3:]
    assert sorted(sum(len(ids) for ids in epoch) for epoch in (first[:3], first[3:])) == [12, 12]


def test_alpha_1_is_the_baseline_bit_for_bit_and_a_teacher_changes_the_student(train):
    networks = [make_network(dropout=0.3) for _ in range(3)]
    data = random_set(19, with_teacher=True)
    ignored = train(networks[0], data, loss=Distillation(alpha=1.0, temperature=2.0))
    plain = train(networks[1], random_set(19))
    train(networks[2], data, loss=Distillation(alpha=0.5, temperature=2.0))
    assert identical(networks[0].state_dict(), networks[1].state_dict())
    assert without_times(ignored.history) == without_times(plain.history)
    assert not identical(networks[0].state_dict(), networks[2].state_dict())


@pytest.mark.parametrize(("min_steps", "epochs"), [(0, 2), (6, 2), (7, 3)])
def test_few_texts_are_read_more_often_until_there_are_enough_steps(train, min_steps, epochs):
    history = train(make_network(), random_set(10), epochs=2, min_steps=min_steps).history  # 3 steps an epoch
    assert [record["steps"] for record in history] == [3 * number for number in range(1, epochs + 1)]


def test_overfits_16_sentences(train):
    model, data = make_network(), random_set(16)
    assert train(model, data, epochs=60, patience=None).best["accuracy"] == 1.0
    assert torch.equal(predict_logits(model, data, FABRIC).argmax(dim=1), data.labels)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_history_has_one_complete_record_per_epoch(train, tmp_path, alpha):
    splits = (random_set(10, with_teacher=True), random_set(6, 1, with_teacher=True))
    result = train(make_network(), *splits, Distillation(alpha=alpha), epochs=3)
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert records == list(result.history)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    kl_keys = [] if alpha == 1.0 else ["train_kl", "validation_kl"]
    for record in records:
        assert sorted(record) == sorted([*LABEL_KEYS, *kl_keys, "learning_rate", "steps", *TIMES])
        assert all(math.isfinite(value) for value in record.values())
        for split in ("train", "validation"):
            kl = record.get(f"{split}_kl", 0.0)
            assert record[f"{split}_loss"] == pytest.approx(alpha * record[f"{split}_ce"] + (1 - alpha) * kl, rel=1e-5)


@pytest.mark.parametrize("tokens", [None, 10])
def test_the_losses_are_means_over_texts_not_over_batches(train, tokens):
    model, data = make_network(), random_set(9, with_teacher=True)  # batches of 4, 4 and 1
    data.labels[[0, 3, 4, 5]] = UNLABELLED
    labelled, logits = data.labels != UNLABELLED, predict_logits(model, data, FABRIC)
    other = random_set(6, 1, with_teacher=True)
    record = train(model, data, other, Distillation(), epochs=1, learning_rate=1e-12, tokens=tokens).best
    expected = float(nn.functional.cross_entropy(logits[labelled], data.labels[labelled]))
    assert record["train_ce"] == pytest.approx(expected, rel=1e-6)
    assert record["train_loss"] == pytest.approx(float(Distillation()(logits, data)["loss"]), rel=1e-6)
    expected = float(Distillation()(predict_logits(model, other, FABRIC), other)["loss"])
    assert record["validation_loss"] == pytest.approx(expected, rel=1e-6)


def test_stops_early_and_ends_with_the_best_epoch_which_is_saved(train):
    model, validation = make_network(), random_set(60, seed=1)  # unlike the training set: nothing to gain for long
    saved = []
    save = lambda: saved.append(copy_weights(model))  # noqa: E731
    result = train(model, random_set(16), validation, save=save, epochs=40, patience=2)
    assert len(result.history) == result.best["epoch"] + 2 < 40
    assert result.best["mcc"] == max(record["mcc"] for record in result.history)
    assert identical(saved[-1], model.state_dict())
    loss = nn.functional.cross_entropy(predict_logits(model, validation, FABRIC), validation.labels)
    assert float(loss) == pytest.approx(result.best["validation_loss"], rel=1e-6)


def test_further_callbacks_get_each_record_after_the_model_is_saved_and_may_end_the_training(train, tmp_path):
    class EnoughError(Exception):
        pass

    class Watch(Callback):
        def on_epoch(self, trainer, record):
            seen.append((record["epoch"], list(saved)))
            if record["epoch"] == 2:
                raise EnoughError

    seen, saved = [], []
    with pytest.raises(EnoughError):
        train(make_network(), random_set(12), save=lambda: saved.append(0), epochs=5, keep="last", callbacks=[Watch()])
    assert seen == [(1, [0]), (2, [0, 0])]
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_between_equal_scores_the_lower_loss_wins(train):
    result = train(AlwaysTheSame(), random_set(10), metric="mcc", epochs=3)
    assert {record["mcc"] for record in result.history} == {0.0}
    losses = [record["validation_loss"] for record in result.history]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 3
    assert result.best["epoch"] == 3


class ScoredBy(CrossEntropy):
    """Cross-entropy with scores that are known beforehand."""

    def score(self, logits, data):
        return next(self.records)


@pytest.mark.parametrize(
    ("texts", "settings", "best"),
    [
        (50, {"metric": "mcc"}, 1),
        (50, {"metric": "accuracy"}, 2),
        (50, {"metric": "f1"}, 3),
        (50, {"metric": "loss"}, 4),
        (50, {"keep": "last", "patience": 1}, 5),
        (49, {"metric": "mcc"}, 4),  # too few to count right answers
        (49, {"keep": "last"}, 5),
    ],
)
def test_the_best_or_the_last_epoch_is_kept(train, capsys, texts, settings, best):
    poor = {"mcc": 0.1, "accuracy": 0.1, "f1": 0.1, "validation_loss": 2.0}
    bests = [poor | {name: 0.9} for name in ("mcc", "accuracy", "f1")] + [poor | {"validation_loss": 1.0}, poor]
    loss, model, weights = ScoredBy(), make_network(), []
    object.__setattr__(loss, "records", iter(bests))

    class Watch(Callback):
        def on_epoch(self, trainer, record):
            weights.append(copy_weights(model))

    result = train(model, random_set(4), random_set(texts), loss, epochs=5, callbacks=[Watch()], **settings)
    assert result.best["epoch"] == best
    assert identical(weights[best - 1], model.state_dict())
    assert ("*best so far" in capsys.readouterr().err) == (settings.get("keep") != "last")


def gradients_and_record(train, data, loss=None, **settings):
    """Train an epoch; return the last gradient, the record and the shapes of what was computed at once."""
    model, shapes = make_network(), []
    model.register_forward_pre_hook(lambda model, given: shapes.append(given[0].shape) if model.training else None)
    (record,) = train(model, data, None, loss, epochs=1, max_grad_norm=None, **settings).history
    return [parameter.grad for parameter in model.parameters()], without_times([record])[0], shapes


@pytest.mark.parametrize(("texts", "batch_size", "steps"), [(8, 2, 4), (7, 2, 4), (5, 1, 5)])
def test_accumulated_batches_have_the_gradient_of_one_large_batch(train, texts, batch_size, steps):
    whole, *_ = gradients_and_record(train, random_set(texts), batch_size=texts)
    summed, *_ = gradients_and_record(
        train, random_set(texts), batch_size=batch_size, gradient_accumulation_steps=steps
    )
    for one, other in zip(whole, summed, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("tokens", "cut"), [(1, True), (25, True), (1000, False)])
@pytest.mark.parametrize("batches", [{"batch_size": 14}, {"batch_size": 7, "gradient_accumulation_steps": 2}])
def test_microbatches_have_the_gradient_and_the_record_of_the_whole(train, tokens, cut, batches):
    data, loss = random_set(14, with_teacher=True), Distillation()
    gradients, record, shapes = gradients_and_record(train, data, loss, **batches)
    parts = gradients_and_record(train, data, loss, tokens=tokens, **batches)
    assert all(texts == 1 or texts * length <= tokens for texts, length in parts[2])
    assert (len(parts[2]) > len(shapes)) == cut
    for whole, summed in zip(gradients, parts[0], strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-6)
    assert parts[1] == pytest.approx(record, rel=1e-4)


def test_the_gradient_is_clipped(train):
    model = make_network()
    train(model, random_set(8), epochs=1, max_grad_norm=1e-3)
    norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(("texts", "batch_size"), [(3, 32), (5, 1), (1, 1)])
def test_few_texts_and_single_batches(train, texts, batch_size):
    assert len(train(make_network(), random_set(texts), batch_size=batch_size).history) == 2


def test_a_class_may_be_missing(train):
    one_class = random_set(9)
    one_class.labels.zero_()
    first, second = train(make_network(), one_class, random_set(9)).history
    assert second["train_loss"] < first["train_loss"]


def test_every_epoch_trains_in_training_mode_and_scores_in_evaluation_mode(train):
    model, modes = make_network(), []
    model.register_forward_pre_hook(lambda module, _: modes.append((module.training, torch.is_grad_enabled())))
    train(model, random_set(8), epochs=3)
    assert modes == [(True, True), (True, True), (False, False)] * 3


def test_frozen_weights_stay(train):
    model = make_network()
    model.embedding.weight.requires_grad_(False)
    before = copy_weights(model)
    train(model, random_set(12))
    assert torch.equal(before["embedding.weight"], model.embedding.weight)
    assert not torch.equal(before["head.weight"], model.head.weight)


@pytest.mark.parametrize("batches", [{"batch_size": 4}, {"batch_size": 2, "gradient_accumulation_steps": 2}])
def test_the_record_holds_the_last_steps_learning_rate(train, batches):
    steps = 2 * 3  # 12 texts, 4 to a step, two epochs
    result = train(make_network(), random_set(12), schedule="linear", warmup_ratio=0.0, learning_rate=0.6, **batches)
    rates = [record["learning_rate"] for record in result.history]
    assert rates == pytest.approx([0.6 * (1 - 2 / steps), 0.6 * (1 - 5 / steps)])


class BreaksDown:
    """Cross-entropy until the given call with (training) or without (evaluation) gradients; then NaN."""

    def __init__(self, *, call: int, training: bool, gradient: bool = False):
        self.left, self.training, self.gradient = call, training, gradient

    score = CrossEntropy.score

    def __call__(self, logits, targets):
        self.left -= logits.requires_grad == self.training
        if self.gradient and self.left <= 0:
            logits.register_hook(lambda gradient: gradient * math.inf)
            return CrossEntropy()(logits, targets)
        parts = CrossEntropy()(logits, targets)
        return {name: value * (math.nan if self.left <= 0 else 1.0) for name, value in parts.items()}

    task = CrossEntropy.task


def test_a_loss_that_is_not_finite_is_explained_with_its_position_and_leaves_the_best_epoch_saved(train, tmp_path):
    model, saved = make_network(), []
    loss = BreaksDown(call=3 * 2 + 2, training=True)  # 12 texts make 3 steps: the third epoch's second
    settings = {"epochs": 4, "learning_rate": 0.02, "schedule": "constant", "warmup_ratio": 0.0}
    place = r"nan in epoch 3 at learning rate 2\.00e-02, step 8 of 12, on a batch of 4 texts \(counted from 0: \d+, "
    with pytest.raises(TrainingError, match=place) as caught:
        train(model, random_set(12), loss=loss, save=lambda: saved.append(copy_weights(model)), **settings)
    assert "the best epoch so far" in str(caught.value)
    assert all(tensor.isfinite().all() for tensor in (*saved[-1].values(), *model.state_dict().values()))
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(train):
    model = make_network()
    before = copy_weights(model)
    with pytest.raises(TrainingError, match=r"the gradient's norm is (inf|nan) in epoch 1 .*step 1 of 6"):
        train(model, random_set(12), loss=BreaksDown(call=1, training=True, gradient=True))
    assert identical(before, model.state_dict())


def test_nothing_is_saved_when_the_validation_loss_is_not_finite(train):
    saved = []
    with pytest.raises(TrainingError, match=r"validation split is nan in epoch 1 .*\n.*nothing is saved yet"):
        train(make_network(), random_set(8), loss=BreaksDown(call=1, training=False), save=lambda: saved.append(1))
    assert saved == []


class Breaks(nn.Module):
    """A network that raises an error, in training or in evaluation alone."""

    def __init__(self, error, *, training=True):
        super().__init__()
        self.network, self.error, self.breaks_in_training = make_network(), error, training

    def forward(self, *inputs):
        if self.training == self.breaks_in_training:
            raise self.error
        return self.network(*inputs)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
    ids=["python", "gpu", "cpu"],
)
@pytest.mark.parametrize(
    ("training", "expected"),
    [
        (True, r"memory is used up in epoch 1, step 1 of 6.*\n.*lower batch_size.*max_length"),
        (False, r"trial: memory is used up while texts of up to \d+ tokens .*\n.*lower max_length.*; nothing is saved"),
    ],
)
def test_memory_used_up_is_explained(train, error, training, expected):
    with pytest.raises(TrainingError, match=expected):
        train(Breaks(error, training=training), random_set(12))


def test_other_errors_are_raised_as_they_are(train):
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        train(Breaks(RuntimeError("a bug")), random_set(12))


def test_the_epoch_line_compares_with_the_majority_class_and_shows_all_losses(train, capsys):
    data = random_set(10, with_teacher=True)
    data.labels[:] = torch.tensor([1, 1, 1, 1, 1, 1, 1, 0, 0, 0])
    train(make_network(), data, loss=Distillation(), epochs=1)
    (line, *_) = capsys.readouterr().err.splitlines()
    assert line.startswith("trial  epoch 1/1  train loss ")
    assert "(majority class 70.00%)" in line
    assert line.count("(ce ") == line.count(", kl ") == 2
    assert "MCC" in line


def test_a_model_that_learnt_nothing_is_warned_of_and_a_training_can_be_silent(train, capsys):
    train(AlwaysTheSame(), random_set(10))
    said = capsys.readouterr().err
    assert "no better than always answering the majority class" in said
    assert "class_weights" not in said
    rare = random_set(20)
    rare.labels[:] = 0
    rare.labels[0] = 1
    train(AlwaysTheSame(), rare)
    assert "Try `class_weights: balanced`" in capsys.readouterr().err
    train(make_network(), random_set(10), epochs=30)
    assert "learnt nothing" not in capsys.readouterr().err
    with silence():
        train(AlwaysTheSame(), random_set(10))
    assert capsys.readouterr().err == ""


def test_predictions_have_the_order_of_the_texts():
    model, data = make_network(), random_set(30)
    logits = predict_logits(model, data, FABRIC)
    for number in range(len(data)):
        batch = data.batch([number])
        torch.testing.assert_close(logits[number], model(batch.input_ids, batch.attention_mask)[0])
