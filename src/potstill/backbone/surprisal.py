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

    def evidence(self, found: Tensor, mask: Tensor) -> Tensor:
        """Return what the tokens found where `mask`, (batch, length), is true say of the classes, (batch, classes)."""
        strongest = found.masked_fill(~mask.unsqueeze(2), 0.0).amax(dim=1)
        evidence: Tensor = self.head(strongest)
        return evidence


def add_surprisal(model: PreTrainedModel, size: int) -> None:
    """Give a sequence classification model a `TokenSurprisal` beside its head.

    Raises:
        ConfigError: The model is no decoder whose output layer is its embeddings.
    """
    config, embeddings = model.config, model.get_input_embeddings()
    hidden_size, num_classes = int(config.hidden_size or 0), int(config.num_labels or 0)
    expects = hasattr(model, "score") and getattr(config, "tie_word_embeddings", False)
    # Some decoders map their last states to the embeddings' size.
    if not expects or getattr(embeddings, "embedding_dim", 0) != hidden_size:
        raise ConfigError(
            [
                "teacher.surprisal_size: expected a decoder whose output layer is its embeddings, such as GPT-2 or "
                f"SmolLM2, found {config.model_type!r}; leave it at 0"
            ]
        )
    model.surprisal = TokenSurprisal(hidden_size, size, num_classes)


def states_before(states: Tensor) -> Tensor:
    """Return each token's predecessor's state, 0 for the first; both are (batch, length, hidden)."""
    return pad(states, (0, 0, 1, -1))


def states_of_parents(states: Tensor, attended: Tensor, positions: Tensor) -> Tensor:
    """Return the state of each node's parent in trees of tokens, 0 for roots, (trees, nodes, hidden).

    Args:
        states: The nodes' own, (trees, nodes, hidden).
        attended: Which nodes each attends to, itself and those before it in its texts, (trees, nodes, nodes).
        positions: The place of each node in its texts, (trees, nodes).
    """
    is_parent = attended & (positions.unsqueeze(1) == positions.unsqueeze(2) - 1)  # (trees, nodes, nodes)
    parents = is_parent.int().argmax(dim=2, keepdim=True)
    return states.gather(1, parents.expand_as(states)).masked_fill(positions.unsqueeze(2) == 0, 0.0)
