import itertools
import json
import math

import numpy as np
import pytest
import torch

from potstill.config import PretrainingConfig, RNNConfig
from potstill.data import UNLABELLED
from potstill.data.tokenised import TokenisedTexts, TrainingSet
from potstill.student import pretraining
from potstill.student.pretraining import BidirectionalLM, first_layer
from potstill.student.rnn import DistilRNN
from potstill.training.base import Splits
from potstill.training.compute import EXACT
from tiny_students import tiny_student

VOCABULARY, PADDING = 20, 7
LENGTHS = (5, 1, 9, 3)
SHAPES = list(itertools.product(("rnn", "gru", "lstm"), (False, True), (1, 2)))


def make_network(cell="lstm", bidirectional=True, num_layers=1, **changes) -> DistilRNN:
    shape = {"cell": cell, "bidirectional": bidirectional, "num_layers": num_layers}
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 4, "pad_token_id": PADDING}
    return tiny_student(**(shape | sizes | changes))


def make_model(network: DistilRNN, counts=None) -> BidirectionalLM:
    """Return a model whose projections are not 0, in evaluation mode."""
    model = BidirectionalLM(network, torch.arange(network.spec.vocab_size) if counts is None else counts)
    for parameter in model.next_token_head.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def make_batch(filler: int = PADDING):
    torch.manual_seed(1)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)
    return torch.randint(8, 20, mask.shape).masked_fill(~mask, filler), mask.long()


def counting(texts: int = 60, vocabulary: int = VOCABULARY, seed: int = 0, label: int = UNLABELLED) -> TrainingSet:
    """Texts that count: after 8 comes 9, after the last token 8 again."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 9, size=texts)
    starts = generator.integers(0, vocabulary, size=texts)
    ids = np.concatenate([start + np.arange(n) for start, n in zip(starts, lengths, strict=True)])
    ids = 8 + ids % (vocabulary - 8)
    return TrainingSet(
        TokenisedTexts(ids.astype(np.int32), np.cumsum([0, *lengths])), torch.full((texts,), label), PADDING
    )


@pytest.fixture
def learn(tmp_path):
    """Return a function that pretrains a network."""

    def run(network, data=None, *, validation=None, seed=0, **settings):
        pretraining = PretrainingConfig(**{"epochs": 2, "batch_size": 8, "learning_rate": 2e-2} | settings)
        splits = Splits(data or counting(), validation or counting(seed=1))
        runtime = EXACT.model_copy(update={"checkpoint_seconds": None})
        return network.pretrain(splits, RNNConfig(pretraining=pretraining), runtime, tmp_path, seed)

    return run


@pytest.mark.parametrize(("cell", "bidirectional", "num_layers"), SHAPES)
@torch.no_grad()
def test_each_direction_predicts_from_the_tokens_before_alone(cell, bidirectional, num_layers):
    network = make_network(cell, bidirectional, num_layers)
    model, layer = make_model(network), first_layer(network)
    table, frequencies = network.embedding.weight, torch.arange(VOCABULARY) + 1.0
    frequencies[PADDING] = 0.0
    ids, mask = make_batch()
    costs = model(ids, mask)
    assert torch.equal(model(*make_batch(filler=11)), costs)
    for row, length in enumerate(LENGTHS):
        expected, text = 0.0, ids[row, :length]
        for place, direction in itertools.product(range(length), range(2 if bidirectional else 1)):
            read = text[:place] if direction == 0 else text[place + 1 :]  # a recurrence of what comes before, alone
            state = torch.zeros(4)
            if len(read):
                states, _ = layer(table[read])
                state = states[-1, :4] if direction == 0 else states[0, 4:]
            scores = table @ model.next_token_head.maps[direction](state) + frequencies.log()
            expected += (scores.logsumexp(0) - scores[text[place]]).item()
        assert float(costs[row, 0]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert int(costs[row, 1]) == length * (2 if bidirectional else 1)


@torch.no_grad()
def test_the_first_guess_is_the_tokens_frequency():
    counts = torch.randint(1, 50, (VOCABULARY,), generator=torch.Generator().manual_seed(2))
    ids, mask = make_batch()
    costs = BidirectionalLM(make_network(), counts).eval()(ids, mask)
    shares = (counts + 1.0) / (counts.sum() - counts[PADDING] + VOCABULARY - 1)
    text = -shares[ids[2]].log()  # the longest one
    assert float(costs[2, 0]) == pytest.approx(2 * float(text.sum()), rel=1e-5)


@pytest.mark.parametrize("candidates", [5, 1024])
def test_the_padding_is_no_target_and_its_embedding_stays_0(monkeypatch, candidates, learn):
    monkeypatch.setattr(pretraining, "CANDIDATES", candidates)
    network = make_network()
    data = counting()
    data.tokens.ids[data.tokens.offsets[1:] - 1] = PADDING  # as where the end of a text is also what pads
    learn(network, data)
    assert not network.embedding.weight[PADDING].any()
    costs = make_model(network)(torch.tensor([[9, 10, PADDING]]), torch.tensor([[1, 1, 1]]))
    assert costs.isfinite().all()
    assert costs[0, 1] == 4  # 9 and 10, from the left and from the right


@pytest.mark.parametrize("directions", [1, 2])
@torch.no_grad()
def test_the_estimated_sum_is_right_on_average(monkeypatch, directions):
    monkeypatch.setattr(pretraining, "CANDIDATES", 15)
    vocabulary, tokens = 80, 40
    torch.manual_seed(3)
    network = make_network(bidirectional=directions == 2, vocab_size=vocabulary)
    model = make_model(network, counts=torch.randint(1, 300, (vocabulary,)))
    guess, right = torch.randn(1, 6), torch.tensor([30])
    exact = float(model.token_nll(guess, right).exp())  # Z / exp(the right token's logit)
    model.train()
    estimates = []
    for _ in range(4000):
        others = model.log_frequencies.exp().multinomial(tokens - 1, replacement=True)
        targets = torch.cat([right, others]).repeat_interleave(directions)  # each direction expects all tokens
        costs = model.token_nll(guess.expand(len(targets), -1), targets)
        estimates.append(float(costs[0].exp()))
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert error < 0.02 * exact  # else the next line says little
    assert np.mean(estimates) == pytest.approx(exact, abs=4 * error + 0.01 * exact)


@pytest.mark.parametrize(
    ("cell", "bidirectional", "num_layers", "vocabulary"), [("lstm", True, 2, 60), ("gru", False, 1, VOCABULARY)]
)
def test_pretraining_learns_the_next_token(monkeypatch, learn, cell, bidirectional, num_layers, vocabulary):
    monkeypatch.setattr(pretraining, "CANDIDATES", 30)  # of the larger vocabulary, the sum is estimated
    network = make_network(cell, bidirectional, num_layers, vocab_size=vocabulary, embedding_size=16, hidden_size=24)
    data, validation = (counting(400, vocabulary, seed) for seed in (0, 1))
    result = learn(network, data, validation=validation, epochs=4)
    lengths = validation.tokens.lengths
    nll_of_first_tokens = len(lengths) * math.log(vocabulary - 8)  # the first token of a text can't be predicted
    nll = result.best["validation_loss"] * lengths.sum() - nll_of_first_tokens
    assert nll / (lengths.sum() - len(lengths)) < math.log(1.2)  # from frequencies: of the number of tokens
    assert result.best["perplexity"] == pytest.approx(math.exp(result.best["validation_loss"]))


def test_pretraining_trains_embeddings_and_first_layer_and_the_seed_decides(learn, tmp_path):
    fresh = make_network(num_layers=2, dropout=0.3).state_dict()
    networks = [make_network(num_layers=2, dropout=0.3) for _ in range(3)]
    results = [learn(network, seed=seed) for network, seed in zip(networks, (4, 4, 5), strict=True)]
    for name, tensor in networks[0].state_dict().items():
        is_pretrained = name.startswith("embedding") or "_l0" in name
        assert torch.equal(tensor, fresh[name]) != is_pretrained
        assert torch.equal(tensor, networks[1].state_dict()[name])
    assert not torch.equal(networks[0].embedding.weight, networks[2].embedding.weight)
    records = [json.loads(line) for line in (tmp_path / "pretraining.jsonl").read_text().splitlines()]
    assert records == list(results[2].history)
    assert results[2].best["validation_loss"] == min(record["validation_loss"] for record in records)


def test_labels_and_teacher_logits_make_no_difference(learn):
    plain, labelled = make_network(), make_network()
    data = counting(label=1)
    learn(plain)
    learn(labelled, TrainingSet(data.tokens, data.labels, PADDING, torch.randn(60, 2)))
    assert torch.equal(plain.embedding.weight, labelled.embedding.weight)


def test_texts_of_one_token_leave_the_recurrence_alone(learn):
    network, before = make_network(), make_network()
    alone = TrainingSet(
        TokenisedTexts(np.arange(8, 14, dtype=np.int32), np.arange(7)), torch.full((6,), UNLABELLED), PADDING
    )
    assert learn(network, alone).best["train_loss"] > 0.0
    assert torch.equal(network.recurrence.weight_hh_l0, before.recurrence.weight_hh_l0)


def test_surprisal_keeps_next_token_head(learn):
    network = make_network(surprisal_size=5)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    learn(network)
    for name, tensor in network.state_dict().items():
        is_pretrained = name.startswith(("embedding", "recurrence", "surprisal.next_token_head"))
        assert torch.equal(tensor, fresh[name]) != is_pretrained


def test_0_epochs_do_nothing(learn, tmp_path):
    network = make_network()
    assert learn(network, epochs=0) is None
    assert torch.equal(network.embedding.weight, make_network().embedding.weight)
    assert not list(tmp_path.iterdir())
