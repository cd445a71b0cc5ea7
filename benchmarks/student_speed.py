"""Training the shipped student on CoLA: Potstill's fit against a plain PyTorch loop.

    python benchmarks/student_speed.py

Both train the network of `configs/cola.yaml`, without its surprisal, from the labels, 32 sentences a step, AdamW,
clipped gradients, and score the selection split after each epoch; everything between the tokenised sentences and the
trained model is timed. The peer is written as in a tutorial: a shuffled DataLoader over tokenised lists,
`pad_sequence`, `pack_padded_sequence` and `nn.LSTM`. `max_logit_difference` says that both networks compute the same
from the same weights.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from common import OURS, RUNTIME, Run, arguments, in_turn, ratios, write_result
from peers import PlainStudent, train_plain_student
from potstill.config import PotstillConfig
from potstill.data import load_corpus
from potstill.distillation.loss import Objective
from potstill.student.model import Student
from potstill.training.compute import make_fabric
from potstill.training.loop import fit

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=2, help="epochs per run")
    parser.add_argument("--limit", type=int, help="use only so many of CoLA's sentences")
    args = parser.parse_args()
    config = PotstillConfig.load(ROOT / "configs" / "cola.yaml")
    corpus = load_corpus(config.data.model_copy(update={"limit": args.limit}))
    # From the labels alone, and what tutorials have.
    settings = config.student.model_copy(update={"embedding_init": "random", "surprisal_size": 0})
    training = config.student.training.model_copy(update={"epochs": args.epochs, "batch_size": 32, "patience": None})

    def create(number: int) -> Student:
        return Student.create(settings, corpus, config.data.max_tokens, "", args.seed + number)

    parts = [create(0).training_set(part) for part in (corpus.train, corpus.selection)]

    def ours(number: int) -> Run:
        student = create(number)
        with tempfile.TemporaryDirectory() as directory:
            fitted = fit(
                student.network,
                *parts,
                Objective(),
                training,
                fabric=make_fabric(RUNTIME),
                seed=args.seed + number,
                history_file=Path(directory) / "history.jsonl",
                save=lambda: None,  # the peer saves nothing either
                title=f"student {number}",
            )
        return _pace(fitted.seconds)

    def plain(number: int) -> Run:
        torch.manual_seed(args.seed + number)
        network = PlainStudent(create(number).network)
        started = time.perf_counter()
        train_plain_student(network, *parts, training)
        return _pace(time.perf_counter() - started)

    def _pace(seconds: float) -> Run:
        sentences = len(corpus.train)
        return {"sentences": sentences, "seconds": seconds, "sentences_per_second": args.epochs * sentences / seconds}

    difference = _logit_difference(create(0))
    runs = in_turn({"plain": plain, OURS: ours}, args.rounds)
    write_result(
        args.out,
        runs,
        epochs=args.epochs,
        max_logit_difference=difference,
        ratios=ratios(runs, "sentences_per_second"),
    )


@torch.no_grad()
def _logit_difference(student: Student) -> float:
    """Compare both networks on a padded batch."""
    network, plain = student.network.eval(), PlainStudent(student.network).eval()
    lengths = torch.tensor([9, 3, 1, 7])
    ids = torch.randint(1, network.spec.vocab_size, (len(lengths), 9))
    mask = torch.arange(9) < lengths[:, None]
    return float((network(ids, mask) - plain(ids, lengths)).abs().max())


if __name__ == "__main__":
    main()
