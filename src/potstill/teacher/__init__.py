"""Teachers: transformers with adapters, ensembles, a cache in front of either."""
