"""The losses of texts with any number of labels. (test_distillation.py has those of one label.)"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import entropy

from potstill.data import UNLABELLED
from potstill.data.tokenised import TokenisedTexts, TrainingSet
from potstill.distillation import CrossEntropy, Distillation, balanced_weights
from potstill.task import MULTI_LABEL

LABELS = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.int8)


def make_logits(seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=3, size=(4, 3)))  # float64


STUDENT, TEACHER = make_logits(1), make_logits(2)


def test_hard_loss_is_the_negative_log_likelihood_of_independent_classes():
    p = expit(STUDENT.numpy())
    likelihood = np.where(LABELS.numpy() == 1, p, 1 - p).prod(axis=1)
    np.testing.assert_allclose(MULTI_LABEL.hard_loss(STUDENT, LABELS), -np.log(likelihood))


def test_texts_without_a_label_have_no_hard_loss_and_those_of_no_class_have_one():
    labels = LABELS.clone()
    labels[0] = UNLABELLED
    losses = MULTI_LABEL.hard_loss(STUDENT, labels)
    assert losses[0] == 0.0
    assert losses[1] == MULTI_LABEL.hard_loss(STUDENT, LABELS)[1] > 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_soft_loss_is_the_sum_of_the_divergences_of_each_class(temperature):
    q, p = (expit(logits.numpy() / temperature) for logits in (TEACHER, STUDENT))
    expected = entropy([q, 1 - q], [p, 1 - p], axis=0).sum(axis=1)
    np.testing.assert_allclose(MULTI_LABEL.soft_loss(STUDENT, TEACHER, temperature), expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 4.0]))
def test_soft_loss_is_0_for_equal_logits_and_never_below(seed, temperature):
    one, other = make_logits(seed).float(), make_logits(seed + 1).float()
    assert MULTI_LABEL.soft_loss(one, one, temperature).abs().max() < 1e-5
    assert MULTI_LABEL.soft_loss(one, other, temperature).min() > -1e-6


def test_soft_loss_is_finite_for_a_teacher_that_is_certain():
    certain = torch.tensor([[1e4, -1e4, 50.0]])
    assert MULTI_LABEL.soft_loss(-certain, certain, 1.0).isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_gradients_of_both_losses_have_one_scale(temperature):
    """As the class says: p - y, and T · (p_T - q_T), by each logit."""
    logits = STUDENT.clone().requires_grad_()
    MULTI_LABEL.hard_loss(logits, LABELS).sum().backward()
    torch.testing.assert_close(logits.grad, STUDENT.sigmoid() - LABELS)
    logits.grad = None
    (temperature**2 * MULTI_LABEL.soft_loss(logits, TEACHER, temperature)).sum().backward()
    expected = temperature * ((STUDENT / temperature).sigmoid() - (TEACHER / temperature).sigmoid())
    torch.testing.assert_close(logits.grad, expected)


def test_distillation_mixes_the_two_and_passes_over_what_is_missing():
    labels, teacher = LABELS.clone(), TEACHER.clone()
    labels[1], teacher[2] = UNLABELLED, torch.nan
    found = Distillation(task=MULTI_LABEL, alpha=0.3, temperature=2.0)(
        STUDENT, SimpleNamespace(labels=labels, teacher_logits=teacher)
    )
    hard, soft = MULTI_LABEL.hard_loss(STUDENT, LABELS), 4 * MULTI_LABEL.soft_loss(STUDENT, TEACHER, 2.0)
    mixed = 0.3 * hard + 0.7 * soft
    assert found["loss"].item() == pytest.approx(((mixed[0] + soft[1] + hard[2] + mixed[3]) / 4).item())
    assert found["ce"].item() == pytest.approx((hard[[0, 2, 3]].sum() / 3).item())
    assert found["kl"].item() == pytest.approx((soft[[0, 1, 3]].sum() / 3).item())


def test_a_hard_teacher_names_what_is_more_probable_than_not():
    loss = Distillation(task=MULTI_LABEL, alpha=0.0, kind="hard")
    found = loss(STUDENT, SimpleNamespace(labels=LABELS, teacher_logits=TEACHER))["hard"]
    expected = MULTI_LABEL.hard_loss(STUDENT, (TEACHER > 0).to(torch.int8)).mean()
    assert found.item() == pytest.approx(expected.item())


def test_balanced_weights_count_every_class_alike():
    weights = balanced_weights(torch.cat([LABELS, torch.full((2, 3), UNLABELLED, dtype=torch.int8)]), 3)
    counts = LABELS.sum(dim=0)
    assert (weights * counts).tolist() == pytest.approx([2.0] * 3)
    weighted = MULTI_LABEL.hard_loss(STUDENT, LABELS, weights.double())
    parts = torch.nn.functional.binary_cross_entropy_with_logits(STUDENT, LABELS.double(), reduction="none")
    torch.testing.assert_close(weighted, parts @ weights.double())


def test_validation_scores_say_how_good_the_answers_are():
    data = TrainingSet(TokenisedTexts(np.zeros(4, np.int32), np.arange(5)), LABELS, 0)
    record = CrossEntropy(task=MULTI_LABEL).score(20.0 * (LABELS.float() - 0.5), data)
    assert set(record) == {"validation_loss", "validation_ce", "accuracy", "mcc", "f1", "micro_f1"}
    assert (record["accuracy"], record["f1"], record["micro_f1"]) == (1.0, 1.0, 1.0)
    assert data.majority_share == 0.0  # no text has the most frequent class alone
