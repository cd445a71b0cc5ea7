from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch.nn.functional import cross_entropy

from potstill.data import UNLABELLED
from potstill.distillation.loss import Objective, balanced_weights, soft_divergences
from potstill.errors import TrainingError

TEMPERATURES = [0.5, 1.0, 2.0, 5.0]


def targets(labels: torch.Tensor, teacher_logits: torch.Tensor | None = None, weights=None) -> SimpleNamespace:
    return SimpleNamespace(labels=labels, teacher_logits=teacher_logits, weights=weights)


def make_logits(seed: int, batch: int = 6, classes: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=3, size=(batch, classes)))  # float64


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equal_logits_diverge_by_nothing(temperature):
    logits = make_logits(0).float()
    assert soft_divergences(logits, logits, temperature).mean().item() == pytest.approx(0.0, abs=1e-6)
    # A softmax does not see what is added to all logits alike, and neither does the divergence.
    assert soft_divergences(logits + 4, logits, temperature).mean().item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("batch", "classes"), [(1, 2), (6, 3), (5, 40)])
def test_the_divergence_is_the_textbooks(temperature, batch, classes):
    student, teacher = make_logits(1, batch, classes), make_logits(2, batch, classes)
    p, q = (softmax(logits.numpy() / temperature, axis=1) for logits in (student, teacher))
    expected = temperature**2 * np.mean(entropy(q, p, axis=1))  # the mean over the batch, the sum over the classes
    assert soft_divergences(student, teacher, temperature).mean().item() == pytest.approx(expected, rel=1e-10)


def test_the_batch_size_does_not_change_the_scale():
    student, teacher = make_logits(1), make_logits(2)
    once, thrice = (soft_divergences(student.repeat(n, 1), teacher.repeat(n, 1), 2.0).mean() for n in (1, 3))
    torch.testing.assert_close(thrice, once)


def test_the_gradient_keeps_its_size_when_the_temperature_grows():
    """For T → ∞ the gradient of T² · KL tends to (z - v) / classes, both centred (Hinton et al. 2015, equation 4)."""
    student, teacher = make_logits(1, 1).requires_grad_(), make_logits(2, 1)
    (gradient,) = torch.autograd.grad(soft_divergences(student, teacher, 1e4).mean(), student)
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (student.detach(), teacher)]
    torch.testing.assert_close(gradient, (centred[0] - centred[1]) / 3, rtol=1e-2, atol=1e-3)


@given(seed=st.integers(0, 10_000), temperature=st.floats(0.1, 20))
def test_the_divergence_is_never_below_0(seed, temperature):
    assert soft_divergences(make_logits(seed), make_logits(seed + 1), temperature).mean().item() >= 0.0


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_gradient_is_that_of_finite_differences(alpha, temperature):
    objective = Objective(alpha, temperature)
    labels, teacher = torch.tensor([0, 2, 1, 1, 0, 2]), make_logits(2)
    student = make_logits(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: objective(logits, targets(labels, teacher))["loss"], (student,))


def test_the_whole_loss_weighs_its_parts():
    student, teacher, labels = make_logits(1), make_logits(2), torch.tensor([0, 2, 1, 1, 0, 2])
    parts = Objective(alpha=0.3, temperature=2.0)(student, targets(labels, teacher))
    ce = -log_softmax(student.numpy(), axis=1)[np.arange(6), labels.numpy()].mean()
    assert parts["ce"].item() == pytest.approx(ce)
    assert parts["kl"].item() == pytest.approx(soft_divergences(student, teacher, 2.0).mean().item())
    assert parts["loss"].item() == pytest.approx(0.3 * ce + 0.7 * parts["kl"].item())


def test_alpha_1_is_cross_entropy_and_looks_at_no_teacher():
    student, labels = make_logits(1), torch.tensor([0, 2, 1, 1, 0, 2])
    for teacher in (None, torch.full((6, 3), torch.nan)):
        parts = Objective(alpha=1.0, temperature=2.0)(student, targets(labels, teacher))
        assert sorted(parts) == ["ce", "loss"]
        assert torch.equal(parts["loss"], cross_entropy(student, labels))


def test_alpha_0_learns_nothing_from_the_labels():
    student, teacher = make_logits(1).requires_grad_(), make_logits(2)
    gradients = [
        torch.autograd.grad(Objective(0.0)(student, targets(torch.full((6,), label), teacher))["loss"], student)[0]
        for label in (0, 1)
    ]
    assert torch.equal(*gradients)


def test_a_missing_teacher_is_named():
    with pytest.raises(TrainingError, match=r"alpha = 0\.5 needs a teacher"):
        Objective(alpha=0.5)(make_logits(1), targets(torch.zeros(6, dtype=torch.long)))


def test_a_text_without_a_label_learns_from_the_teacher_alone():
    student, teacher = make_logits(1), make_logits(2)
    labels = torch.tensor([0, UNLABELLED, 1, UNLABELLED, 0, 2])
    parts = Objective(alpha=0.3, temperature=2.0)(student, targets(labels, teacher))
    known = labels != UNLABELLED
    ce = cross_entropy(student[known], labels[known], reduction="none")
    divergences = soft_divergences(student, teacher, 2.0)
    expected = (0.3 * ce + 0.7 * divergences[known]).sum() + divergences[~known].sum()
    torch.testing.assert_close(parts["loss"], expected / 6)
    torch.testing.assert_close(parts["ce"], ce.mean())


def test_weights_scale_each_texts_loss():
    student, teacher, labels = make_logits(1), make_logits(2), torch.tensor([0, UNLABELLED, 1, 1, 0, 2])
    weights = torch.tensor([0.0, 2.0, 1.0, 0.0, 3.0, 0.0])
    objective = Objective(alpha=0.5, temperature=2.0)
    alone = [float(objective(student[[i]], targets(labels[[i]], teacher[[i]]))["loss"]) for i in range(6)]
    loss = float(objective(student, targets(labels, teacher, weights))["loss"])
    assert loss == pytest.approx(np.dot(weights, alone) / 6)


def test_half_the_squared_distance_of_the_logits():
    student, teacher = make_logits(1), make_logits(2)
    parts = Objective(alpha=0.0, imitation="mse")(student, targets(torch.zeros(6, dtype=torch.long), teacher))
    assert parts["loss"].item() == pytest.approx(0.5 * np.square(student - teacher).sum(axis=1).mean().item())


def test_hard_labels_are_the_teachers_answers():
    student, teacher = make_logits(1), make_logits(2)
    parts = Objective(alpha=0.0, imitation="hard")(student, targets(torch.zeros(6, dtype=torch.long), teacher))
    assert parts["hard"].item() == pytest.approx(cross_entropy(student, teacher.argmax(dim=1)).item())


def test_balanced_weights_let_every_class_count_the_same():
    labels = torch.tensor([0] * 6 + [1] * 3 + [UNLABELLED] * 5)
    weights = balanced_weights(labels, 3)
    assert weights.tolist() == pytest.approx([0.75, 1.5, 0.0])
    assert float(weights[labels[:9]].mean()) == pytest.approx(1.0)
    logits = make_logits(3, 14)
    parts = Objective(class_weights=weights)(logits.float(), targets(labels))
    expected = cross_entropy(logits.float(), labels, weights, ignore_index=UNLABELLED, reduction="none").sum() / 14
    torch.testing.assert_close(parts["loss"], expected)
