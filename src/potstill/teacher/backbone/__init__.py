"""Pretrained models: where their weights come from, and how they classify a text."""
