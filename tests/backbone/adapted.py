"""A tiny model with adapters, as if it had been trained a little, and what one step of training needs of it."""

from moved import moved
from potstill.backbone import TextClassifier
from potstill.config import LoRAConfig
from potstill.lora import inject

PADDING_ID = 1


def tuned(model, **lora):
    """Adapt a model as if it had been trained a little."""
    inject(model, LoRAConfig(rank=2, **lora))
    return TextClassifier(moved(model), PADDING_ID).eval()


def step(classifier, *inputs):
    """Return logits, and the gradient of the sum of their squares by parameter."""
    classifier.zero_grad()
    logits = classifier(*inputs)
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in classifier.named_parameters() if p.requires_grad}
