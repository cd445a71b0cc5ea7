"""What teaches: transformers with adapters, ensembles, a cache in front of either."""
