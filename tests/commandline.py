import torch

from potstill.cli import main

SMALL = ("--embedding-size", "4", "--hidden-size", "4", "--vocab-size", "300", "--epochs", "1", "--seeds", "0")
SMALL_RUN = (
    *("--student-seeds", "0", "--vocab-size", "300", "--embedding-size", "8", "--hidden-size", "8"),
    *("--student-epochs", "1", "--student-min-steps", "1", "--embedding-init", "random", "--ngram-buckets", "1024"),
)


def potstill(*arguments):
    """Run the command line in this process; return its exit status."""
    threads = torch.get_num_threads()
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return exit_.code
    finally:  # `predict` with a teacher takes all cores: tiny networks would be several times as slow from then on
        torch.set_num_threads(threads)
    return 0


def train_small(directory, rows, *flags, name="model"):
    """Train a student on next to nothing; return where it is."""
    data, out = directory / "data.csv", directory / name
    data.write_text("\n".join(rows))
    assert potstill("train", data, *flags, *SMALL, "--out", out) == 0
    return out
