"""The small recurrent classifiers."""
