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
from potstill.distillation import CrossEntropy, Distillation, balanced_weights
from potstill.errors import TrainingError

TEMPERATURES = [0.5, 1.0, 2.0, 5.0]
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


def make_logits(seed, batch=6, classes=3):
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=3, size=(batch, classes)))  # float64


STUDENT, TEACHER = make_logits(1), make_logits(2)


def targets(labels=LABELS, teacher_logits=None):
    return SimpleNamespace(labels=labels, teacher_logits=teacher_logits)


def kl(student, teacher, temperature=2.0):
    """The loss of texts without a label: T² · KL alone."""
    unlabelled = torch.full((len(student),), UNLABELLED)
    return Distillation(temperature=temperature)(student, targets(unlabelled, teacher))["loss"]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equal_logits_have_a_divergence_of_0(temperature):
    logits = make_logits(0).float()
    assert kl(logits, logits, temperature).item() == pytest.approx(0.0, abs=1e-6)
    # What is added to all logits alike changes no softmax, and not the divergence.
    assert kl(logits + 4, logits, temperature).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("batch", "classes"), [(1, 2), (6, 3), (5, 40)])
def test_the_divergence_follows_the_formula(temperature, batch, classes):
    student, teacher = make_logits(1, batch, classes), make_logits(2, batch, classes)
    p, q = (softmax(logits.numpy() / temperature, axis=1) for logits in (student, teacher))
    expected = temperature**2 * np.mean(entropy(q, p, axis=1))  # the mean over the batch, the sum over the classes
    assert kl(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-10)


@given(seed=st.integers(0, 10_000), temperature=st.floats(0.1, 20))
def test_the_divergence_is_never_below_0(seed, temperature):
    assert kl(make_logits(seed), make_logits(seed + 1), temperature).item() >= 0.0


@pytest.mark.parametrize("kind", ["kl", "mse", "hard"])
def test_the_batch_size_does_not_change_the_scale(kind):
    once, thrice = (
        Distillation(kind=kind)(STUDENT.repeat(n, 1), targets(LABELS.repeat(n), TEACHER.repeat(n, 1))) for n in (1, 3)
    )
    for name, value in once.items():
        torch.testing.assert_close(thrice[name], value)


def test_the_gradient_keeps_its_size_when_the_temperature_grows():
    """For T → ∞ the gradient of T² · KL tends to (z - v) / classes, both centred (Hinton et al. 2015, equation 4)."""
    student, teacher = make_logits(1, 1).requires_grad_(), make_logits(2, 1)
    (gradient,) = torch.autograd.grad(kl(student, teacher, 1e4), student)
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (student.detach(), teacher)]
    torch.testing.assert_close(gradient, (centred[0] - centred[1]) / 3, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["kl", "mse", "hard"])
def test_the_gradient_is_that_of_finite_differences(alpha, temperature, kind):
    loss = Distillation(alpha=alpha, temperature=temperature, kind=kind)
    student = make_logits(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: loss(logits, targets(LABELS, TEACHER))["loss"], (student,))


def test_the_loss_weighs_its_parts_by_alpha():
    parts = Distillation(alpha=0.3, temperature=2.0)(STUDENT, targets(LABELS, TEACHER))
    ce = -log_softmax(STUDENT.numpy(), axis=1)[np.arange(6), LABELS.numpy()].mean()
    assert parts["ce"].item() == pytest.approx(ce)
    assert parts["kl"].item() == pytest.approx(kl(STUDENT, TEACHER).item())
    assert parts["loss"].item() == pytest.approx(0.3 * ce + 0.7 * parts["kl"].item())


@pytest.mark.parametrize("teacher", [None, torch.full((6, 3), torch.nan)])
def test_alpha_1_is_cross_entropy_without_a_teacher(teacher):
    parts = Distillation(alpha=1.0)(STUDENT, targets(LABELS, teacher))
    assert sorted(parts) == ["ce", "loss"]
    assert torch.equal(parts["loss"], cross_entropy(STUDENT, LABELS))


def test_alpha_0_learns_nothing_from_the_labels():
    student = make_logits(1).requires_grad_()
    losses = (Distillation(alpha=0.0)(student, targets(torch.full((6,), n), TEACHER))["loss"] for n in (0, 1))
    assert torch.equal(*(torch.autograd.grad(loss, student)[0] for loss in losses))


def test_missing_teacher_logits_are_an_error():
    with pytest.raises(TrainingError, match=r"alpha = 0\.5 needs a teacher"):
        Distillation()(STUDENT, targets())


def test_a_text_without_a_label_learns_from_the_teacher_alone():
    labels = torch.tensor([0, UNLABELLED, 1, UNLABELLED, 0, 2])
    parts = Distillation(alpha=0.3)(STUDENT, targets(labels, TEACHER))
    known = labels != UNLABELLED
    ce = cross_entropy(STUDENT[known], labels[known], reduction="none")
    divergences = torch.stack([kl(STUDENT[[n]], TEACHER[[n]]) for n in range(6)])
    expected = (0.3 * ce + 0.7 * divergences[known]).sum() + divergences[~known].sum()
    torch.testing.assert_close(parts["loss"], expected / 6)
    torch.testing.assert_close(parts["ce"], ce.mean())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mse", 0.5 * (STUDENT - TEACHER).square().sum(dim=1).mean()),
        ("hard", cross_entropy(STUDENT, TEACHER.argmax(dim=1))),
    ],
)
def test_other_distances_to_the_teacher_follow_their_formulas(kind, expected):
    parts = Distillation(alpha=0.0, kind=kind)(STUDENT, targets(LABELS, TEACHER))
    assert parts["loss"].item() == parts[kind].item() == pytest.approx(expected.item())


def test_balanced_weights_let_every_class_count_the_same():
    labels = torch.tensor([0] * 6 + [1] * 3 + [UNLABELLED] * 5)
    weights = balanced_weights(labels, 3)
    assert weights.tolist() == pytest.approx([0.75, 1.5, 0.0])
    assert float(weights[labels[:9]].mean()) == pytest.approx(1.0)
    logits = make_logits(3, 14).float()
    expected = cross_entropy(logits, labels, weights, ignore_index=UNLABELLED, reduction="none").sum() / 14
    torch.testing.assert_close(CrossEntropy(weights)(logits, targets(labels))["loss"], expected)
