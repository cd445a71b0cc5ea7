"""A cleaned copy of labelled texts."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from potstill.config import DataConfig
from potstill.data.formats import read_records
from potstill.data.labels import Row
from potstill.data.parts import TRAIN, data_files, held_out_parts, part_files
from potstill.data.readers import bad_rows_collected, parse_records, read_rows
from potstill.data.splits import normal_item
from potstill.errors import ArtifactError, DataError, SourceError
from potstill.predict.output import cell
from potstill.store.atomic import write_text

_WRITTEN: Final = (".csv", ".jsonl")
BROKEN, REPEATED, CONTRADICTORY, IN_TEST = "empty or broken", "repeated", "contradictory", "also in the test split"


def write_clean_copy(config: DataConfig, target: Path) -> dict[str, int]:
    """Write the training data of a file or directory, with all its columns, but without what does harm.

    Left out are rows that can't be read, texts of the test split, texts repeated with other labels, and repeated
    texts but the first. Texts are compared by `normal_item`.

    Returns:
        How many rows were left out, by reason, and under "kept" how many were not.

    Raises:
        ArtifactError: The copy exists, or its suffix tells no format that can be written.
        SourceError: The data is no file or directory of files.
        DataError: A file can't be read, or nothing is left.
    """
    if target.suffix.lower() not in _WRITTEN or target.exists():
        expected = f"expected a new file that ends in {' or '.join(_WRITTEN)}, found {str(target)!r}"
        raise ArtifactError(f"{expected}\n  what to do: give the copy another name")
    files, tests = part_paths(config)
    with bad_rows_collected():
        tested = {_key(row) for file in tests for row in read_rows(file, config)}
    counts: Counter[str] = Counter()
    found: list[tuple[Row, Mapping[str, object]]] = []
    for file in files:
        records = list(read_records(file, config, every_column=True))
        with bad_rows_collected():
            rows = parse_records(records, config, file)
        by_line = {line: record for line, record in records if not isinstance(record, DataError)}
        found += [(row, by_line[row.line]) for row in rows]
        counts[BROKEN] += len(records) - len(rows)
    labels = defaultdict(set)
    for row, _ in found:
        labels[_key(row)].add(row.key)
    kept: dict[tuple[str, ...], Mapping[str, object]] = {}
    for row, record in found:
        key = _key(row)
        reason = (
            IN_TEST if key in tested else CONTRADICTORY if len(labels[key]) > 1 else REPEATED if key in kept else ""
        )
        counts[reason or "kept"] += 1
        if not reason:
            kept[key] = record
    if not kept:
        remedy = "check that this is the file you meant"
        raise DataError("no row is left", file=", ".join(config.sources), remedy=remedy)
    write_text(target, _table(list(kept.values()), target.suffix.lower()))
    return dict(counts)


def part_paths(config: DataConfig) -> tuple[list[Path], list[Path]]:
    """Return the files of the training split and of the test split.

    Raises:
        SourceError: The data is no file or directory of files.
    """
    path = Path(config.sources[0]).expanduser()
    parts = {TRAIN: data_files(config)}
    if path.is_dir() and len(config.sources) == 1:
        parts = part_files(path)
    if not parts.get(TRAIN):
        raise SourceError(
            f"expected a file or directory, found {config.source!r}\n"
            "  what to do: give a file; `potstill data` writes those of other data with --write"
        )
    test, _ = held_out_parts(parts, config)
    return parts[TRAIN], [Path(config.test).expanduser()] if config.test else parts[test] if test else []


def _key(row: Row) -> tuple[str, ...]:
    return normal_item((row.text, row.pair))


def _table(records: Sequence[Mapping[str, object]], suffix: str) -> str:
    text = io.StringIO(newline="")
    if suffix == ".csv":
        header = list(dict.fromkeys(chain.from_iterable(records)))
        csv.writer(text).writerows([header, *([cell(record.get(name)) for name in header] for record in records)])
    else:
        text.writelines(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    return text.getvalue()
