"""The small recurrent classifiers.

Only the network is offered here: `potstill.student.model` saves students through `potstill.export`, which itself needs
the network.
"""

from potstill.student.network import DistilRNN, StudentSpec

__all__ = ["DistilRNN", "StudentSpec"]
