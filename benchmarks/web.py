"""A student as a page, in Chromium: its size, how soon and how fast it answers, and whether it answers as Python does.

    python benchmarks/web.py --student models/clinc150-assistant --data clinc150:home,meta,small_talk

The page is opened from the disk. Labels and probabilities of the data's test texts are compared with those of Python
with the same weights, rounded as the page has them. Speeds are from strings to answers, without drawing them.
What this needs beside Potstill: pip install 'potstill[benchmarks]' playwright, and Chromium
"""

from __future__ import annotations

import base64
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from common import arguments, spread, target, write_result
from potstill.config import DataConfig
from potstill.data import load_corpus
from potstill.export.web import ENGINE_FILE, PAGE_FILE, WEIGHTS_FILE, write_page
from potstill.predict.directory import StudentFiles, find_student
from potstill.store.checksums import read

ONE = 300  # texts that are classified one by one
MEASURE = """async ([code, weights, texts, one]) => {
  const { Classifier } = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  const classifier = Classifier.load(Uint8Array.from(atob(weights), character => character.charCodeAt(0)));
  const timed = (count, work) => {
    const started = performance.now(), result = work();
    return [1000 * count / (performance.now() - started), result];
  };
  classifier.predict(texts.slice(0, 64));
  const [batch, answers] = timed(texts.length, () => classifier.predict(texts));
  const [alone] = timed(one, () => texts.slice(0, one).forEach(text => classifier.predict([text])));
  return { batch, one: alone, answers: answers.map(answer => [answer.label, [...answer.probabilities.values()]]) };
}"""


def main() -> None:
    """Export, open the page, classify, compare, write the result."""
    parser = arguments(__doc__, seed=False)
    parser.add_argument("--student", type=Path, required=True, help="an export, a student or a run")
    parser.add_argument("--data", required=True, help="labelled texts; the test split is classified")
    args = parser.parse_args()
    texts = list(load_corpus(DataConfig(source=args.data)).test.texts)
    student = find_student(args.student)
    found = read(student, [file.name for file in StudentFiles(student).needed])
    with tempfile.TemporaryDirectory() as work, sync_playwright() as driver:
        classifier, _ = write_page(student, Path(work), found, (), student.name)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        runs = [measure(browser, Path(work), texts) for _ in range(args.rounds)]
        size = (Path(work) / PAGE_FILE).stat().st_size
    labels, probabilities = zip(*[run.pop("answers") for run in runs][-1], strict=True)
    expected = classifier.answer(texts)[0]
    names = [classifier.label_names[place] for place in expected.argmax(axis=1)]
    medians = {name: spread([run[name] for run in runs])["median"] for name in ("load_ms", "one", "batch")}
    row = {
        "student": student.name,
        "bytes": size,
        "load_ms": round(medians["load_ms"], 1),
        "texts_per_s": {name: round(medians[name], 1) for name in ("one", "batch")},
        "texts": len(texts),
        "label_mismatches": sum(one != name for one, name in zip(labels, names, strict=True)),
        "max_difference": float(np.abs(np.array(probabilities) - expected).max()),
    }
    targets = [target("bytes", 4_000_000, size, "at most"), target("load, ms", 1000, row["load_ms"], "at most")]
    targets += [target("texts a second at once", 500, row["texts_per_s"]["batch"], "at least")]
    write_result(args.out, runs, rows=[row], targets=targets)


def measure(browser: Browser, directory: Path, texts: list[str]) -> dict[str, Any]:
    """Return the milliseconds until the page can answer, texts a second one by one and at once, and the answers."""
    page = browser.new_page()
    page.goto((directory / PAGE_FILE).as_uri())
    load = page.wait_for_function("!document.querySelector('#submit').disabled && performance.now()", polling=1)
    load_ms = load.json_value()
    page.goto("about:blank")
    weights = base64.b64encode((directory / WEIGHTS_FILE).read_bytes()).decode()
    found = page.evaluate(MEASURE, [(directory / ENGINE_FILE).read_text("utf-8"), weights, texts, ONE])
    page.close()
    return {"load_ms": load_ms, **found}


if __name__ == "__main__":
    main()
