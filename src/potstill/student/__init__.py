"""The small networks that are distilled."""
