"""Students as pages: their size, how soon and how fast Node, Chromium and Firefox answer, and whether as Python does.

    PYTHONPATH=tests python benchmarks/web.py --student models/clinc150-assistant --data clinc150:home,meta,small_talk

Beside this student, students of every kind are tried, with random weights. Pages are opened from the disk. The answers
to the data's test texts and to 500 odd texts are compared with those of Python with the same weights, rounded as the
page has them. Speeds are from strings to answers, without drawing them.
What this needs beside Potstill: Node, Chromium, Firefox, and pip install 'potstill[benchmarks]' playwright websockets
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from common import Run, alternate, arguments, spread, target, write_result
from pages import chromium, firefox, in_node
from potstill.config import DataConfig
from potstill.data import load_corpus
from potstill.export.web import ENGINE_FILE, PAGE_FILE, WEIGHTS_FILE, write_page
from potstill.predict import Classifier
from potstill.predict.directory import StudentFiles, find_student
from potstill.store.checksums import read
from web_students import KINDS, save_student, varied

ONE, ODD, SCALE = 300, 500, 0.08  # texts that are classified one by one, and odd ones; of random weights
SIZES = {"embedding_size": 128, "hidden_size": 256, "ngram_size": 16, "ngram_buckets": 2**16}  # the usual ones
MEDIANS, WORST = ("load_ms", "one", "batch"), ("label_mismatches", "max_difference")
READY = """() => new Promise(resolve => {
  const look = () => document.querySelector("#submit").disabled ? setTimeout(look) : resolve(`${performance.now()}`);
  look();
})"""
LOAD = """async directory => {
  const weights = (await import("node:fs")).readFileSync(new URL(`${directory}/weights.safetensors`));
  (await import(`${directory}/potstill.js`)).Classifier.load(weights);
  return performance.now();
}"""
MEASURE = """async given => {
  const { code, weights, texts, odd, one } = JSON.parse(given);
  const { Classifier } = await import(`data:text/javascript;base64,${code}`);
  const classifier = Classifier.load(Uint8Array.from(atob(weights), character => character.charCodeAt(0)));
  const timed = (count, work) => {
    const started = performance.now(), result = work();
    return [1000 * count / (performance.now() - started), result];
  };
  classifier.predict(texts.slice(0, 64));
  const [batch, answers] = timed(texts.length, () => classifier.predict(texts));
  const [alone] = timed(one, () => texts.slice(0, one).forEach(text => classifier.predict([text])));
  answers.push(...classifier.predict(odd));
  return JSON.stringify([batch, alone, answers.map(answer => [answer.label, [...answer.probabilities.values()]])]);
}"""
Engine = tuple[Callable[[Path], str], Callable[[str], str]]
"""Returns the milliseconds until what an export wrote can answer, and the result of MEASURE, given a text."""


def main() -> None:
    """Export, open the pages, classify, compare, write the result."""
    parser = arguments(__doc__, seed=False)
    parser.add_argument("--student", type=Path, required=True, help="an export, a student or a run")
    parser.add_argument("--data", required=True, help="labelled texts; the test split is classified")
    args = parser.parse_args()
    texts = list(load_corpus(DataConfig(source=args.data)).test.texts)
    runs: list[Run] = []
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines = start(stack, work / "profile")
        for number, (name, student) in enumerate(students(find_student(args.student), work)):
            (directory := work / f"page-{number}").mkdir()
            found = read(student, [file.name for file in StudentFiles(student).needed])
            classifier, _ = write_page(student, directory, found, (), name)
            systems = {one: partial(measure, engine, directory, classifier, texts) for one, engine in engines.items()}
            runs += [run | {"student": name} for run in alternate(systems, args.rounds)]
            size = (directory / PAGE_FILE).stat().st_size
            for engine in engines:
                own = [run for run in runs if (run["student"], run["name"]) == (name, engine)]
                load_ms, one, batch = (round(spread([run[name] for run in own])["median"], 1) for name in MEDIANS)
                row = {"student": name, "engine": engine, "bytes": size, "load_ms": load_ms}
                worst = {name: max(run[name] for run in own) for name in WORST}
                rows.append(row | {"texts_per_s": {"one": one, "batch": batch}} | worst)
    asked = next(row for row in rows if row["engine"] == "Chromium")
    targets = [
        target("bytes", 4_000_000, asked["bytes"], "at most"),
        target("load in Chromium, ms", 1000, asked["load_ms"], "at most"),
        target("texts a second at once in Chromium", 500, asked["texts_per_s"]["batch"], "at least"),
        target("other labels", 0, sum(row["label_mismatches"] for row in rows)),
        target("difference of a probability", 1e-4, max(row["max_difference"] for row in rows), "at most"),
    ]
    write_result(args.out, runs, texts=len(texts) + ODD, rows=rows, targets=targets)


def students(given: Path, work: Path) -> Iterator[tuple[str, Path]]:
    """Yield the student that was given and those of every kind, of the usual sizes."""
    yield given.name, given
    for number, (kind, small) in enumerate(KINDS.items()):
        settings = small.model_dump()
        sizes = {name: size for name, size in SIZES.items() if settings.get(name)}
        yield kind, save_student(work / f"student-{number}", type(small)(**settings | sizes), scale=SCALE)


def start(stack: ExitStack, profile: Path) -> dict[str, Engine]:
    """Start the browsers."""
    profile.mkdir()
    chrome = stack.enter_context(chromium(stack.enter_context(sync_playwright())))
    page, fox = chrome.new_page(), stack.enter_context(firefox(profile))

    def load_in_chromium(directory: Path) -> str:
        with chrome.new_context() as context:
            opened = context.new_page()
            opened.goto((directory / PAGE_FILE).as_uri(), wait_until="domcontentloaded")
            return str(opened.evaluate(READY))

    def load_in_firefox(directory: Path) -> str:
        tab = fox.open((directory / PAGE_FILE).as_uri(), wait="interactive")
        load_ms = fox.evaluate(tab, READY)
        fox.close(tab)
        return str(load_ms)

    return {
        "Node": (lambda directory: in_node(LOAD, directory.as_uri()), partial(in_node, MEASURE)),
        "Chromium": (load_in_chromium, partial(page.evaluate, MEASURE)),
        "Firefox": (load_in_firefox, partial(fox.evaluate, fox.open(), MEASURE)),
    }


def measure(engine: Engine, directory: Path, classifier: Classifier, texts: list[str], _: int) -> Run:
    """Return load time in milliseconds, texts a second, and the differences from Python's answers."""
    load, run = engine
    load_ms, odd = float(load(directory)), varied(ODD)
    files = {"code": directory / ENGINE_FILE, "weights": directory / WEIGHTS_FILE}
    given = {name: base64.b64encode(file.read_bytes()).decode() for name, file in files.items()}
    batch, one, answers = json.loads(run(json.dumps({**given, "texts": texts, "odd": odd, "one": ONE})))
    labels, probabilities = zip(*answers, strict=True)
    expected = classifier.answer([*texts, *odd])[0]
    other = sum(found != name for found, name in zip(labels, classifier.predict([*texts, *odd]), strict=True))
    difference = float(np.abs(np.array(probabilities) - expected).max())
    return {"load_ms": load_ms, "one": one, "batch": batch, "label_mismatches": other, "max_difference": difference}


if __name__ == "__main__":
    main()
