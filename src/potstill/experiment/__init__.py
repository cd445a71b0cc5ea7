"""The stages of an experiment, the whole run, and the search."""
