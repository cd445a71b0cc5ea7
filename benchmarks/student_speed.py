"""Training the shipped student on CoLA: Potstill's fit against a plain PyTorch loop.

    python benchmarks/student_speed.py

Both train the network of `configs/cola.yaml`, without its surprisal, from the labels, 32 sentences a step, AdamW,
clipped gradients, and score the validation split after each epoch; everything between the tokenised sentences and the
trained model is timed. The peer is written as in a tutorial: a shuffled DataLoader over tokenised lists,
`pad_sequence`, `pack_padded_sequence` and `nn.LSTM`. `max_logit_difference` shows that both networks compute the same
from the same weights.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from common import OURS, ROOT, Run, alternate, arguments, ratios, write_result
from peers import PlainStudent, train_plain_student
from potstill.config import PotstillConfig
from potstill.data import load_corpus
from potstill.distillation import CrossEntropy
from potstill.student.student import Student
from potstill.training.base import FitContext, Splits
from potstill.training.callbacks import standard_callbacks
from potstill.training.compute import make_fabric
from potstill.training.fit import fit
from steps import RUNTIME


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=2, help="epochs per run")
    parser.add_argument("--max-train-examples", type=int, help="use only so many of CoLA's sentences")
    args = parser.parse_args()
    config = PotstillConfig.load(ROOT / "configs" / "cola.yaml")
    corpus = load_corpus(config.data.model_copy(update={"max_train_examples": args.max_train_examples}))
    # From the labels alone, and what tutorials have.
    settings = config.student.model_copy(update={"embedding_init": "random", "surprisal_size": 0})
    training = config.student.training.model_copy(update={"epochs": args.epochs, "batch_size": 32, "patience": None})

    def create(number: int) -> Student:
        return Student.create(
            settings, corpus, config.data.max_length, args.seed + number, texts=corpus.train.all_texts
        )

    parts = Splits(create(0).featurise(corpus.train), create(0).featurise(corpus.validation))

    def ours(number: int) -> Run:
        with tempfile.TemporaryDirectory() as directory:
            callbacks = standard_callbacks(training, RUNTIME, Path(directory))  # the peer saves nothing either
            context = FitContext(training, make_fabric(RUNTIME), args.seed + number, f"student {number}", callbacks)
            fitted = fit(create(number).network, parts, CrossEntropy(), context)
        return throughput(fitted.seconds)

    def plain(number: int) -> Run:
        torch.manual_seed(args.seed + number)
        network = PlainStudent(create(number).network)
        started = time.perf_counter()
        train_plain_student(network, parts.train, parts.validation, training)
        return throughput(time.perf_counter() - started)

    def throughput(seconds: float) -> Run:
        sentences = len(corpus.train)
        return {"sentences": sentences, "seconds": seconds, "texts_per_second": args.epochs * sentences / seconds}

    difference = logit_difference(create(0))
    runs = alternate({"plain": plain, OURS: ours}, args.rounds)
    found = ratios(runs, "texts_per_second")
    write_result(args.out, runs, epochs=args.epochs, max_logit_difference=difference, ratios=found)


@torch.no_grad()
def logit_difference(student: Student) -> float:
    """Compare both networks on a padded batch."""
    network, plain = student.network.eval(), PlainStudent(student.network).eval()
    lengths = torch.tensor([9, 3, 1, 7])
    ids = torch.randint(1, network.spec.vocab_size, (len(lengths), 9))
    mask = torch.arange(9) < lengths[:, None]
    return float((network(ids, mask) - plain(ids, lengths)).abs().max())


if __name__ == "__main__":
    main()
