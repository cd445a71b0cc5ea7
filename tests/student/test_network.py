import itertools
from dataclasses import asdict

import pytest
import torch

from potstill.student import DistilRNN, StudentSpec

POOLINGS = ("last", "mean", "max", "attention")
SHAPES = list(itertools.product(("rnn", "gru", "lstm"), (False, True), (1, 2), POOLINGS))
LENGTHS = (5, 1, 9, 3)


def make_network(cell="lstm", bidirectional=True, num_layers=1, pooling="max", **changes) -> DistilRNN:
    fields = {
        "cell": cell,
        "vocab_size": 20,
        "embedding_size": 6,
        "hidden_size": 4,
        "num_layers": num_layers,
        "bidirectional": bidirectional,
        "pooling": pooling,
        "dropout": 0.5,
        "num_classes": 3,
        "padding_id": 7,
    }
    torch.manual_seed(0)
    return DistilRNN(StudentSpec(**(fields | changes))).eval()


def make_batch(filler: int = 7, length: int = max(LENGTHS)):
    torch.manual_seed(1)
    ids = torch.randint(8, 20, (len(LENGTHS), length))
    mask = torch.arange(length) < torch.tensor(LENGTHS).unsqueeze(1)
    return ids.masked_fill(~mask, filler), mask.long()


@pytest.mark.parametrize(("cell", "bidirectional", "num_layers", "pooling"), SHAPES)
def test_padding_changes_nothing_whatever_stands_in_it(cell, bidirectional, num_layers, pooling):
    network = make_network(cell, bidirectional, num_layers, pooling)
    ids, mask = make_batch()
    logits = network(ids, mask)
    alone = torch.cat([network(ids[[n], :length], mask[[n], :length]) for n, length in enumerate(LENGTHS)])
    torch.testing.assert_close(logits, alone)
    assert torch.equal(network(ids.masked_fill(mask == 0, 11), mask), logits)
    longer = [torch.nn.functional.pad(tensor, (0, 6)) for tensor in (ids, mask)]
    torch.testing.assert_close(network(*longer), logits)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_gradient_is_finite_and_padding_gets_none(pooling):
    network = make_network(pooling=pooling)
    ids, mask = make_batch(filler=11)
    ids = ids.masked_fill((mask == 1) & (ids == 11), 12)  # 11 stands in padding alone
    network(ids, mask).sum().backward()
    gradient = network.embedding.weight.grad
    assert gradient.isfinite().all()
    assert not gradient[11].any()
    assert gradient[ids[0, 0]].any()


def test_the_reference_network_is_an_elman_recurrence_read_at_its_last_token():
    network = make_network("rnn", bidirectional=False, pooling="last")
    ids, mask = make_batch()
    recurrence = network.recurrence
    for row, length in enumerate(LENGTHS):
        state = torch.zeros(4)
        for token in ids[row, :length]:
            inputs = recurrence.weight_ih_l0 @ network.embedding.weight[token] + recurrence.bias_ih_l0
            state = torch.tanh(inputs + recurrence.weight_hh_l0 @ state + recurrence.bias_hh_l0)
        expected = network.head.weight @ state + network.head.bias
        torch.testing.assert_close(network(ids, mask)[row], expected)


def test_attention_pools_by_the_formula_over_the_real_tokens():
    network, (ids, mask) = make_network(pooling="attention"), make_batch()
    attention = network.attention
    for row, length in enumerate(LENGTHS):
        states, _ = network.recurrence(network.embedding(ids[row, :length]))  # (length, state)
        scores = torch.stack(
            [
                attention.context.weight[0] @ torch.tanh(attention.hidden.weight @ h + attention.hidden.bias)
                for h in states
            ]
        )
        weights = scores.exp() / scores.exp().sum()
        pooled = sum(weight * h for weight, h in zip(weights, states, strict=True))
        torch.testing.assert_close(network(ids, mask)[row], network.head(pooled))


def test_every_pooling_starts_from_the_same_weights():
    plain, attentive = (make_network(pooling=pooling).state_dict() for pooling in ("max", "attention"))
    assert all(torch.equal(attentive[name], tensor) for name, tensor in plain.items())


def test_word_dropout_blanks_whole_tokens_in_training_only_and_leaves_the_others_as_they_are():
    network, (ids, _) = make_network(dropout=0.0, word_dropout=0.25), make_batch()
    table = network.embedding.weight
    assert torch.equal(network.embed(ids), table[ids])
    network.train()
    many = ids[ids != 7].repeat(100)
    embedded = network.embed(many)
    blanked = (embedded == 0).all(dim=1)
    assert torch.equal(embedded[~blanked], table[many][~blanked])
    # 1,800 tokens: five standard deviations are 0.05.
    assert float(blanked.float().mean()) == pytest.approx(0.25, abs=0.05)


def test_word_dropout_of_0_draws_nothing():
    network, (ids, mask) = make_network(word_dropout=0.0, dropout=0.0).train(), make_batch()
    before = torch.get_rng_state()
    network(ids, mask)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_spec_that_was_saved_before_word_dropout_still_loads():
    fields = asdict(make_network().spec)
    del fields["word_dropout"]
    assert StudentSpec(**fields).word_dropout == 0.0


def test_dropout_acts_in_training_only():
    network, (ids, mask) = make_network(), make_batch()
    assert torch.equal(network(ids, mask), network(ids, mask))
    network.train()
    assert not torch.equal(network(ids, mask), network(ids, mask))


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_parameter_count(cell, gates):
    recurrence = 2 * gates * 4 * (6 + 4 + 2)  # two directions; weights of input and state, two biases
    expected = 20 * 6 + recurrence + (8 * 3 + 3)
    assert sum(parameter.numel() for parameter in make_network(cell).parameters()) == expected
    attentive = make_network(cell, pooling="attention")
    assert sum(parameter.numel() for parameter in attentive.parameters()) == expected + 8 * 8 + 8 + 8
