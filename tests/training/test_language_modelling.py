import numpy as np
import pytest
import torch

from potstill.data.tokenised import TokenisedTexts, TrainingSet
from potstill.training.language_modelling import LanguageModelLoss, sum_per_text

DATA = TrainingSet(TokenisedTexts(np.zeros(3, np.int32), np.arange(4)), torch.tensor([-1, -1, -1]), pad_token_id=0)


def test_sum_per_text_gives_the_sum_and_the_number_of_tokens():
    real = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    nll = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], requires_grad=True)
    outputs = sum_per_text(nll, real)
    assert outputs.tolist() == [[3.0, 2.0], [0.0, 0.0], [12.0, 3.0]]
    outputs[:, 0].sum().backward()
    assert nll.grad.tolist() == [1.0] * 5


def test_the_loss_is_a_mean_over_tokens_not_over_texts():
    outputs = torch.tensor([[3.0, 2.0], [0.0, 0.0], [12.0, 3.0]])
    assert float(LanguageModelLoss()(outputs, DATA)["loss"]) == 3.0
    assert LanguageModelLoss().score(outputs, DATA) == {
        "validation_loss": 3.0,
        "perplexity": pytest.approx(np.exp(3.0)),
    }


def test_without_predicted_tokens_the_loss_is_0():
    assert float(LanguageModelLoss()(torch.zeros(4, 2), DATA)["loss"]) == 0.0
