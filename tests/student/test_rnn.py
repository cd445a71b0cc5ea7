import itertools

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from potstill.student import recurrence as recurrences
from potstill.student.recurrence import recur
from potstill.student.rnn import DistilRNN
from tiny_students import tiny_student

POOLINGS = ("last", "mean", "max")
SHAPES = list(itertools.product(("rnn", "gru", "lstm"), (False, True), (1, 2), POOLINGS))
LENGTHS = (5, 1, 9, 3)


def make_network(cell="lstm", bidirectional=True, num_layers=1, pooling="max", **changes) -> DistilRNN:
    shape = {"cell": cell, "bidirectional": bidirectional, "num_layers": num_layers, "pooling": pooling}
    sizes = {"vocab_size": 20, "hidden_size": 4, "num_classes": 3, "pad_token_id": 7, "dropout": 0.5}
    return tiny_student(**(shape | sizes | changes)).eval()


def make_batch(filler: int = 7, length: int = max(LENGTHS)):
    torch.manual_seed(1)
    ids = torch.randint(8, 20, (len(LENGTHS), length))
    mask = torch.arange(length) < torch.tensor(LENGTHS).unsqueeze(1)
    return ids.masked_fill(~mask, filler), mask.long()


SURPRISED = [(cell, bidirectional, 1, pooling, 5) for cell, bidirectional, layers, pooling in SHAPES if layers == 1]


@pytest.mark.parametrize(
    ("cell", "bidirectional", "num_layers", "pooling", "surprisal_size"),
    [*((*shape, 0) for shape in SHAPES), *SURPRISED],
)
def test_padding_ids_make_no_difference(cell, bidirectional, num_layers, pooling, surprisal_size):
    network = make_network(cell, bidirectional, num_layers, pooling, surprisal_size=surprisal_size)
    draw(network.surprisal)
    ids, mask = make_batch()
    logits = network(ids, mask)
    alone = torch.cat([network(ids[[n], :length], mask[[n], :length]) for n, length in enumerate(LENGTHS)])
    torch.testing.assert_close(logits, alone)
    assert torch.equal(network(ids.masked_fill(mask == 0, 11), mask), logits)
    longer = [torch.nn.functional.pad(tensor, (0, 6)) for tensor in (ids, mask)]
    torch.testing.assert_close(network(*longer), logits)


def draw(surprisal) -> None:
    """Draw the weights that begin as 0."""
    if surprisal is not None:
        for parameter in surprisal.next_token_head.parameters():
            torch.nn.init.normal_(parameter)


def packed(recurrence, embedded, lengths):
    """`recur` through PyTorch's packed sequences."""
    sequence = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    states, final = recurrence(sequence)
    states, _ = pad_packed_sequence(states, batch_first=True, total_length=embedded.shape[1])
    return states, final[0] if isinstance(final, tuple) else final


@pytest.mark.parametrize("lengths", [LENGTHS, (4, 4, 4, 4)])
@pytest.mark.parametrize(("cell", "bidirectional", "num_layers"), sorted({shape[:3] for shape in SHAPES}))
def test_padded_recurrence_equals_packed_sequences_in_values_and_gradients(cell, bidirectional, num_layers, lengths):
    recurrence = make_network(cell, bidirectional, num_layers).recurrence
    found = []
    for read in (recur, packed):
        recurrence.zero_grad()
        torch.manual_seed(2)
        embedded = torch.randn(len(lengths), max(lengths) + 2, 6).requires_grad_()
        states, final = read(recurrence, embedded, torch.tensor(lengths))
        (states.sin().sum() + final.cos().sum()).backward()
        found.append([states, final, embedded.grad, *(weight.grad.clone() for weight in recurrence.parameters())])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("lengths", [LENGTHS, (9, 9, 9, 9)])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_without_bfloat16_lstms_the_recurrence_runs_in_float32(cell, lengths, monkeypatch):
    recurrence = make_network(cell, num_layers=2).recurrence
    embedded = torch.randn(len(lengths), max(lengths), 6)
    expected = recur(recurrence, embedded, torch.tensor(lengths))
    monkeypatch.setattr(recurrences, "has_bfloat16_lstm", lambda: False)
    with torch.autocast("cpu", torch.bfloat16):
        found = recur(recurrence, embedded, torch.tensor(lengths))
        assert torch.is_autocast_enabled("cpu")
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


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


@pytest.mark.parametrize("bidirectional", [False, True])
@torch.no_grad()
def test_surprisal_follows_the_formula(bidirectional):
    network, (ids, mask) = make_network(bidirectional=bidirectional, surprisal_size=5), make_batch()
    surprisal, plain = network.surprisal, make_network(bidirectional=bidirectional)
    draw(surprisal)
    table, guesses = network.embedding.weight, surprisal.next_token_head.maps
    for row, length in enumerate(LENGTHS):
        text, found = ids[row, :length], []
        for place, token in enumerate(text):
            states = [torch.zeros(4), torch.zeros(4)]
            if place > 0:
                states[0] = network.recurrence(table[text[:place]])[0][-1, :4]
            if bidirectional and place < length - 1:
                states[1] = network.recurrence(table[text[place + 1 :]])[0][0, 4:]
            agreements = [table[token] * guess(state) for guess, state in zip(guesses, states, strict=False)]
            found.append(surprisal.compare(torch.cat([*agreements, table[token]])).relu())
        evidence = surprisal.head(torch.stack(found).amax(dim=0))
        torch.testing.assert_close(network(ids, mask)[row], plain(ids, mask)[row] + evidence)


@pytest.mark.parametrize("changes", [{"num_layers": 2}, {"surprisal_size": 5}])
def test_dropout_acts_in_training_only(changes):
    network, (ids, mask) = make_network(**changes), make_batch()
    assert torch.equal(network(ids, mask), network(ids, mask))
    network.train()
    assert not torch.equal(network(ids, mask), network(ids, mask))


def test_surprisal_leaves_the_other_weights_of_a_seed():
    plain, surprised = (make_network(surprisal_size=size).state_dict() for size in (0, 5))
    assert all(torch.equal(surprised[name], tensor) for name, tensor in plain.items())


def test_dropout_acts_before_the_recurrence_between_its_layers_and_before_the_head(monkeypatch):
    network, (ids, mask) = make_network(num_layers=2).train(), make_batch()
    dropped = []
    monkeypatch.setattr(network.dropout, "forward", lambda states: dropped.append(states.shape) or states)
    network(ids, mask)
    assert dropped == [(*ids.shape, 6), (len(ids), 8)]
    recurrence = network.recurrence
    assert recurrence.dropout == 0.5
    recurrence.dropout = 1.0  # nothing of the text reaches the second layer
    first, second = (recur(recurrence, torch.randn(*ids.shape, 6), mask.sum(dim=1)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])  # the first layer's
