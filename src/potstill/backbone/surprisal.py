"""What a decoder expected of each token, as evidence for the class of the whole text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from potstill.errors import ConfigError


class TokenSurprisal(nn.Module):
    """Classifies a text by its most conspicuous tokens.

    A decoder is pretrained to foretell: where its output layer is its embeddings, the logit of the token t that comes
    is e_t · h_(t-1). How probable a language model holds a sentence says much of whether people accept it (Lau, Clark
    and Lappin 2017, "Grammaticality, Acceptability, and Probability"), but the last token's state, which a head usually
    reads, was never asked to sum that up. Here the logit's summands are classified, and the greatest answers count:

        v_t = relu(A·[e_t ⊙ h_(t-1); h_t] + a),  evidence = B · max over t of v_t

    with h the last hidden states, 0 before the first token.

    Attributes:
        compare: A and a, (size, 2 * hidden).
        head: B, (classes, size).
    """

    def __init__(self, hidden_size: int, size: int, num_classes: int) -> None:
        super().__init__()
        self.compare = nn.Linear(2 * hidden_size, size)
        self.head = nn.Linear(size, num_classes, bias=False)

    def forward(self, embedded: Tensor, before: Tensor, states: Tensor) -> Tensor:
        """Compare tokens with what was expected.

        Args:
            embedded: Their embeddings, (batch, length, hidden).
            before: The last hidden states of the tokens before them, (batch, length, hidden).
            states: Their own last hidden states, (batch, length, hidden).

        Returns:
            v, at least 0, (batch, length, size).
        """
        found: Tensor = self.compare(torch.cat([embedded * before, states], dim=2)).relu()
        return found

    def evidence(self, strongest: Tensor) -> Tensor:
        """Return what v's maximum over a text's tokens, (batch, size), says of the classes, (batch, classes)."""
        evidence: Tensor = self.head(strongest)
        return evidence


def add_surprisal(model: PreTrainedModel, size: int) -> None:
    """Give a sequence classification model a `TokenSurprisal` beside its head.

    Raises:
        ConfigError: The model is no decoder whose output layer is its embeddings.
    """
    score, embeddings = getattr(model, "score", None), model.get_input_embeddings()
    is_tied = getattr(model.config, "tie_word_embeddings", False)
    if not isinstance(score, nn.Linear) or not is_tied or getattr(embeddings, "embedding_dim", 0) != score.in_features:
        raise ConfigError(
            [
                "teacher.surprisal_size: expected a decoder whose output layer is its embeddings, such as GPT-2 or "
                f"SmolLM2, found {model.config.model_type!r}; leave it at 0"
            ]
        )
    model.surprisal = TokenSurprisal(score.in_features, size, score.out_features)


def states_before(states: Tensor) -> Tensor:
    """Return each token's predecessor's state, 0 for the first; both are (batch, length, hidden)."""
    return pad(states, (0, 0, 1, -1))


def parents_of(attended: Tensor, positions: Tensor) -> Tensor:
    """Return the node before each in trees of tokens, itself for roots and padding, (trees, nodes).

    Args:
        attended: Which nodes each attends to, itself and those before it in its texts, (trees, nodes, nodes).
        positions: The place of each node in its texts, (trees, nodes).
    """
    before = attended & (positions.unsqueeze(1) == (positions - 1).clamp(min=0).unsqueeze(2))
    return before.int().argmax(dim=2)


def states_of_parents(states: Tensor, parents: Tensor, positions: Tensor) -> Tensor:
    """Return the state of each node's parent, 0 for roots; states are (trees, nodes, hidden)."""
    before = states.gather(1, parents.unsqueeze(2).expand_as(states))
    return before.masked_fill(positions.unsqueeze(2) == 0, 0.0)


def strongest_so_far(found: Tensor, parents: Tensor, positions: Tensor) -> Tensor:
    """Return the maximum of `found`, (trees, nodes, size), over each node and all before it in its texts.

    Every step looks twice as far back as the one before it (pointer jumping), so that a tree of depth d takes log2(d).
    """
    for _ in range(int(positions.max()).bit_length()):
        found = torch.maximum(found, found.gather(1, parents.unsqueeze(2).expand_as(found)))
        parents = parents.gather(1, parents)
    return found
