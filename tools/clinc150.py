"""Write the builtin data set `clinc150` from CLINC150's own files, `data/data_small.json` and `data/domains.json`.

    python tools/clinc150.py data_small.json domains.json

The files are in https://github.com/clinc/oos-eval. The in-scope texts of the first are taken: 7,500 to learn from, 50
of each of 150 intents, and 7,500 to test on, its validation and its test texts. Source and licence:
src/potstill/data/SOURCES.md.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "src" / "potstill" / "data" / "clinc150.csv.gz"


def main() -> None:
    """Write both parts into one table, with each intent's domain and the part a text belongs to, and pack it."""
    parts: dict[str, list[tuple[str, str]]] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    domains: dict[str, list[str]] = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    written = io.StringIO(newline="")
    table = csv.writer(written, lineterminator="\n")
    table.writerow(("text", "label", "domain", "part"))
    held_out = parts["val"] + parts["test"]  # Potstill makes its validation split of the training texts
    for part, rows in {"train": parts["train"], "test": held_out}.items():
        ordered = sorted(rows, key=lambda row: (row[1], row[0]))  # so that it packs well
        table.writerows((text, label, domain_of[label], part) for text, label in ordered)
    with TARGET.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(written.getvalue().encode("utf-8"))


if __name__ == "__main__":
    main()
