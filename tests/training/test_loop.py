import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from potstill.config import RuntimeConfig, TrainingConfig
from potstill.console import silence
from potstill.data.examples import UNLABELLED
from potstill.distillation.loss import Objective
from potstill.errors import TrainingError
from potstill.student.network import DistilRNN
from potstill.training.compute import make_fabric
from potstill.training.inference import predict_logits
from potstill.training.loop import fit
from tiny_students import random_set, tiny_student

pytestmark = pytest.mark.usefixtures("one_thread")

FABRIC = make_fabric(RuntimeConfig(device="cpu", precision="32-true"))
LABEL_KEYS = ["epoch", "train_loss", "train_ce", "selection_loss", "selection_ce", "accuracy", "mcc", "f1"]
PACE_KEYS = ["learning_rate", "seconds", "tokens_per_second", "sentences_per_second"]


def make_network(dropout: float = 0.0) -> DistilRNN:
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
        model,
        data,
        selection=None,
        loss=None,
        *,
        seed=0,
        save=lambda: None,
        b_ratio=1.0,
        most_tokens=None,
        on_epoch=None,
        **settings,
    ):
        config = TrainingConfig(**{"epochs": 2, "batch_size": 4, "learning_rate": 1e-2} | settings)
        return fit(
            model,
            data,
            selection or data,
            loss or Objective(),
            config,
            fabric=FABRIC,
            seed=seed,
            history_file=tmp_path / "history.jsonl",
            save=save,
            title="trial",
            b_ratio=b_ratio,
            most_tokens=most_tokens,
            on_epoch=on_epoch,
        )

    return run


def copy_weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def identical(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def without_times(history):
    times = set(PACE_KEYS) - {"learning_rate"}
    return [{name: value for name, value in record.items() if name not in times} for record in history]


@pytest.mark.parametrize("dropout", [0.0, 0.3])  # without it, nothing but the batches differs between seeds
def test_same_seed_same_weights(train, dropout):
    weights, histories = [], []
    for seed, drawn in ((3, 3), (3, 8), (4, 3)):
        model = make_network(dropout)
        torch.rand(drawn)  # what happened before must not matter
        histories.append(without_times(train(model, random_set(19), seed=seed).history))
        weights.append(copy_weights(model))
    assert identical(weights[0], weights[1])
    assert histories[0] == histories[1]
    assert not identical(weights[0], weights[2])


def test_alpha_1_is_the_baseline_bit_for_bit(train):
    distilled, baseline = make_network(dropout=0.3), make_network(dropout=0.3)
    with_teacher = train(distilled, random_set(19, judged=True), loss=Objective(alpha=1.0, temperature=2.0))
    without = train(baseline, random_set(19), loss=Objective())
    assert identical(distilled.state_dict(), baseline.state_dict())
    assert without_times(with_teacher.history) == without_times(without.history)


def test_the_teacher_changes_the_student(train):
    distilled, baseline = make_network(), make_network()
    train(distilled, random_set(19, judged=True), loss=Objective(alpha=0.5, temperature=2.0))
    train(baseline, random_set(19))
    assert not identical(distilled.state_dict(), baseline.state_dict())


def test_a_text_of_weight_0_is_not_learnt_from(train):
    data = replace(random_set(8), weights=torch.tensor([2.0, 0.0]).repeat(4))
    models = [make_network(), make_network()]
    other = torch.where(data.weights > 0.0, data.labels, 1 - data.labels)
    for model, labels in zip(models, (data.labels, other), strict=True):
        train(model, replace(data, labels=labels), epochs=1)
    assert identical(*(model.state_dict() for model in models))


def test_overfits_16_sentences(train):
    model, data = make_network(), random_set(16)
    assert train(model, data, epochs=60, patience=None).best["accuracy"] == 1.0
    assert torch.equal(predict_logits(model, data, FABRIC).argmax(dim=1), data.labels)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_history_has_one_complete_record_per_epoch(train, tmp_path, alpha):
    result = train(
        make_network(), random_set(10, judged=True), random_set(6, 1, judged=True), Objective(alpha), epochs=3
    )
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert records == list(result.history)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    kl_keys = [] if alpha == 1.0 else ["train_kl", "selection_kl"]
    for record in records:
        assert sorted(record) == sorted(LABEL_KEYS + kl_keys + PACE_KEYS)
        assert all(math.isfinite(value) for value in record.values())
        for split in ("train", "selection"):
            kl = record.get(f"{split}_kl", 0.0)
            assert record[f"{split}_loss"] == pytest.approx(alpha * record[f"{split}_ce"] + (1 - alpha) * kl, rel=1e-5)


def test_the_training_loss_is_the_mean_over_examples_not_over_batches(train):
    model, data = make_network(), random_set(7)  # batches of 4 and 3
    expected = nn.functional.cross_entropy(predict_logits(model, data, FABRIC), data.labels)
    record = train(model, data, epochs=1, learning_rate=1e-12).best
    assert record["train_loss"] == pytest.approx(float(expected), rel=1e-6)
    assert record["selection_loss"] == pytest.approx(float(expected), rel=1e-6)


def test_the_mean_cross_entropy_is_that_of_the_labelled_texts(train):
    model, data = make_network(), random_set(9, judged=True)  # batches of 4, 4 and 1
    data.labels[[0, 3, 4, 5]] = UNLABELLED
    labelled = data.labels != UNLABELLED
    expected = nn.functional.cross_entropy(predict_logits(model, data, FABRIC)[labelled], data.labels[labelled])
    record = train(model, data, random_set(6, 1, judged=True), Objective(0.5), epochs=1, learning_rate=1e-12).best
    assert record["train_ce"] == pytest.approx(float(expected), rel=1e-6)


def test_stops_early_and_ends_with_the_best_epoch_which_is_saved(train):
    model, selection = make_network(), random_set(40, seed=1)  # unlike the training set: nothing to gain for long
    saved = []
    result = train(
        model, random_set(16), selection, save=lambda: saved.append(copy_weights(model)), epochs=40, patience=2
    )
    assert len(result.history) == result.best["epoch"] + 2 < 40
    assert result.best["mcc"] == max(record["mcc"] for record in result.history)
    assert identical(saved[-1], model.state_dict())
    loss = nn.functional.cross_entropy(predict_logits(model, selection, FABRIC), selection.labels)
    assert float(loss) == pytest.approx(result.best["selection_loss"], rel=1e-6)


def test_every_epochs_record_is_handed_on_after_it_is_saved(train):
    seen, saved = [], []
    result = train(
        make_network(),
        random_set(12),
        save=lambda: saved.append(len(seen)),
        on_epoch=lambda record: seen.append(record),
    )
    assert tuple(seen) == result.history
    assert saved[0] == 0


def test_who_looks_on_may_end_the_training(train, tmp_path):
    class EnoughError(Exception):
        pass

    def stop(record):
        if record["epoch"] == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        train(make_network(), random_set(12), epochs=5, on_epoch=stop)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_a_training_can_be_silent(train, capsys):
    with silence():
        train(AlwaysTheSame(), random_set(10))  # which would be warned of
    assert capsys.readouterr().err == ""
    train(make_network(), random_set(10))
    assert "epoch 2/2" in capsys.readouterr().err


def test_between_equal_scores_the_lower_loss_wins(train):
    result = train(AlwaysTheSame(), random_set(10), metric="mcc", epochs=3)
    assert {record["mcc"] for record in result.history} == {0.0}
    losses = [record["selection_loss"] for record in result.history]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 3
    assert result.best["epoch"] == 3


@pytest.mark.parametrize(("metric", "best"), [("mcc", 1), ("accuracy", 2), ("f1", 3), ("loss", 4), ("last", 5)])
def test_each_metric_chooses_its_own_best(train, monkeypatch, capsys, metric, best):
    poor, bests = {"mcc": 0.1, "accuracy": 0.1, "f1": 0.1, "selection_loss": 2.0}, ("mcc", "accuracy", "f1")
    records = iter([*(poor | {name: 0.9} for name in bests), poor | {"selection_loss": 1.0}, poor])
    monkeypatch.setattr(Objective, "score", lambda *_: next(records))
    patience = 1 if metric == "last" else None  # every epoch is the best so far
    assert train(make_network(), random_set(4), metric=metric, epochs=5, patience=patience).best["epoch"] == best
    assert ("*best so far" in capsys.readouterr().err) == (metric != "last")


@pytest.mark.parametrize(("texts", "batch_size", "accumulation"), [(8, 2, 4), (7, 2, 4), (5, 1, 5)])
def test_accumulated_batches_have_the_gradient_of_one_large_batch(train, texts, batch_size, accumulation):
    gradients = []
    for sizes in ({"batch_size": texts}, {"batch_size": batch_size, "accumulation": accumulation}):
        model = make_network()
        train(model, random_set(texts), epochs=1, clip_norm=None, **sizes)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-7)


def test_batches_by_tokens_count_as_if_all_had_the_same_number_of_texts(train):
    """So that a text weighs the same whether it stands among short ones or long ones."""
    texts, sizes = 21, []
    gradients = []
    for settings in ({"batch_size": texts}, {"batch_size": 2, "batch_by": "tokens", "accumulation": texts}):
        model = make_network()
        model.register_forward_pre_hook(lambda model, given: sizes.append(len(given[0])) if model.training else None)
        train(model, random_set(texts), epochs=1, clip_norm=None, **settings)
        gradients.append([parameter.grad for parameter in model.parameters()])
    whole, *batches = sizes
    assert whole == sum(batches) == texts
    assert 2 * len(batches) != texts
    for of_all, by_tokens in zip(*gradients, strict=True):
        torch.testing.assert_close(by_tokens, of_all * texts / (2 * len(batches)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("most_tokens", "cut"), [(1, True), (25, True), (1000, False)])
@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("batches", [{"batch_size": 14}, {"batch_size": 7, "accumulation": 2, "batch_by": "tokens"}])
def test_a_batch_of_many_tokens_is_computed_in_parts(train, most_tokens, cut, judged, batches):
    """Gradients and record are those of the whole; no part has more tokens, but for a single text that does."""
    data, objective = random_set(14, judged=judged), Objective(alpha=0.5 if judged else 1.0)
    reads, gradients, records = [], [], []
    for limit in (None, most_tokens):
        model, read = make_network(), []
        model.register_forward_pre_hook(
            lambda model, given, read=read: read.append(given[0].shape) if model.training else None
        )
        (record,) = train(model, data, None, objective, epochs=1, clip_norm=None, most_tokens=limit, **batches).history
        gradients.append([parameter.grad for parameter in model.parameters()])
        records.append(record)
        reads.append(read)
    assert all(texts == 1 or texts * length <= most_tokens for texts, length in reads[1])
    assert (len(reads[1]) > len(reads[0])) == cut
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-6)
    assert without_times([records[1]])[0] == pytest.approx(without_times([records[0]])[0], rel=1e-4)


def test_the_gradient_is_clipped(train):
    model = make_network()
    train(model, random_set(8), epochs=1, clip_norm=1e-3)
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


def test_every_epoch_trains_in_training_mode_and_is_judged_in_evaluation_mode(train):
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


@pytest.mark.parametrize("batches", [{"batch_size": 4}, {"batch_size": 2, "accumulation": 2}])
def test_the_record_holds_the_last_steps_learning_rate(train, batches):
    steps = 2 * 3  # 12 texts, 4 to a step, two epochs
    result = train(make_network(), random_set(12), schedule="linear", warmup=0.0, learning_rate=0.6, **batches)
    rates = [record["learning_rate"] for record in result.history]
    assert rates == pytest.approx([0.6 * (1 - 2 / steps), 0.6 * (1 - 5 / steps)])


def test_the_record_holds_the_rate_that_was_asked_for_where_vectors_have_a_higher_one(train):
    model = make_network()
    for name, parameter in model.named_parameters():  # so that a vector comes first
        parameter.requires_grad_("bias" in name or name.startswith("head"))
    record = train(model, random_set(12), epochs=1, schedule="constant", warmup=0.0, b_ratio=16.0).best
    assert record["learning_rate"] == pytest.approx(1e-2)


class BreaksDown:
    """Cross-entropy until the given call with (training) or without (evaluation) gradients; then NaN."""

    def __init__(self, *, call: int, training: bool):
        self.left, self.training = call, training

    score = Objective.score

    def __call__(self, logits, targets):
        self.left -= logits.requires_grad == self.training
        parts = Objective()(logits, targets)
        return {name: value * (math.nan if self.left <= 0 else 1.0) for name, value in parts.items()}


def test_a_loss_that_is_not_finite_ends_training_and_leaves_the_best_epoch_saved(train, tmp_path):
    model, saved = make_network(), []
    loss = BreaksDown(call=3 * 2 + 2, training=True)  # 12 texts make 3 steps: the third epoch's second
    with pytest.raises(TrainingError, match=r"nan in epoch 3 at learning rate 2\.00e-02") as caught:
        train(
            model,
            random_set(12),
            loss=loss,
            save=lambda: saved.append(copy_weights(model)),
            epochs=4,
            learning_rate=0.02,
            schedule="constant",
            warmup=0.0,
        )
    assert "is saved" in str(caught.value)
    assert saved
    assert all(tensor.isfinite().all() for tensor in (*saved[-1].values(), *model.state_dict().values()))
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(train, monkeypatch):
    model = make_network()
    before = copy_weights(model)
    monkeypatch.setattr("potstill.training.loop.clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    with pytest.raises(TrainingError, match=r"the gradient's norm is inf in epoch 1 .*step 1 of 3"):
        train(model, random_set(12))
    assert identical(before, model.state_dict())


def test_nothing_is_saved_when_the_selection_loss_is_not_finite(train):
    saved = []
    with pytest.raises(TrainingError, match=r"selection split is nan in epoch 1 .*\n.*nothing is saved yet"):
        train(make_network(), random_set(8), loss=BreaksDown(call=1, training=False), save=lambda: saved.append(1))
    assert saved == []


def test_the_epoch_line_compares_with_the_majority_class_and_shows_both_losses(train, capsys):
    data = random_set(10, judged=True)
    data.labels[:] = torch.tensor([1, 1, 1, 1, 1, 1, 1, 0, 0, 0])
    train(make_network(), data, loss=Objective(0.5, 2.0), epochs=1)
    (line, *_) = capsys.readouterr().err.splitlines()
    assert line.startswith("trial  epoch 1/1  train loss ")
    assert "(majority class 70.00%)" in line
    assert line.count("(ce ") == line.count(", kl ") == 2
    assert "MCC" in line


def test_a_model_that_learnt_nothing_is_named_so(train, capsys):
    train(AlwaysTheSame(), random_set(10))
    assert "no better than always answering the majority class" in capsys.readouterr().err
    train(make_network(), random_set(10), epochs=30)
    assert "learnt nothing" not in capsys.readouterr().err


def test_predictions_stand_in_the_texts_order():
    model, data = make_network(), random_set(30)
    logits = predict_logits(model, data, FABRIC)
    for number in range(len(data)):
        batch = data.batch([number])
        torch.testing.assert_close(logits[number], model(batch.input_ids, batch.attention_mask)[0])
