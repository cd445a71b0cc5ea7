"""Which part of the data is which: the parts' names, and the files that hold them in a directory."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from potstill.config import DataConfig
from potstill.config.data import STANDARD_INPUT
from potstill.data.formats import SUFFIXES
from potstill.data.piped import standard_input
from potstill.errors import SourceError
from potstill.predict.files import PACKED, inner_suffix, named_files

TRAIN = "train"
TEST = ("test", "eval")
"""Names of the test split; the first one that exists is taken."""
VALIDATION = ("validation", "valid", "val", "dev", "eval")
"""Names of the validation split; the first one that exists, and is not the test split, is taken."""
BAD_ROWS = ".bad-rows.jsonl"
"""What the name of a file with rows that were left out ends in."""

_SUFFIX, _PACKED = ("|".join(map(re.escape, suffixes)) for suffixes in (SUFFIXES, PACKED))
_PART_FILE = re.compile(
    rf"(?P<part>[^.]+?)(-\d+-of-(?P<shards>\d+))?(?P<suffix>({_SUFFIX})({_PACKED})?|\.zip)", re.IGNORECASE
)


def held_out_parts(names: Collection[str], config: DataConfig) -> tuple[str | None, str | None]:
    """Choose the test split and the validation split among the parts that are there.

    A validation split without a test split is the test split, unless `config` names a file with that.
    """
    test = next((name for name in TEST if name in names), None)
    validation = next((name for name in VALIDATION if name in names and name != test), None)
    if test is None and config.test is None:
        test, validation = validation, None
    return test, None if config.validation is not None else validation


def source_with_parts(source: str, test: str | None, validation: str | None) -> str:
    """Add to a source's name what its parts are used for, where their names alone don't tell."""
    tested = f", test from {test}" if test in VALIDATION else ""
    return source + tested + (f", validation from {validation}" if validation else "")


def part_files(directory: Path) -> dict[str, list[Path]]:
    """List each part's files: `NAME.csv`, or shards such as `NAME-00000-of-00002.csv`, in any case and format."""
    parts = defaultdict(list)
    for file in sorted(directory.iterdir()):
        name = _PART_FILE.fullmatch(file.name)
        if name is not None and file.is_file():
            parts[name["part"].lower()].append(file)
    return parts


def part_name(file: Path) -> str | None:
    """Return what a file's name says that it holds, such as `train`, in lower case; None: it is no name of data."""
    name = _PART_FILE.fullmatch(file.name)
    return None if name is None else name["part"].lower()


def check_part(files: Iterable[Path]) -> None:
    """Refuse to choose between several files of one part, and to read a part of which shards are missing.

    Raises:
        SourceError: The files are neither one file nor all shards of one.
    """
    names = [found for file in files if (found := _PART_FILE.fullmatch(file.name))]
    kinds = {(name["shards"], name["suffix"].lower()) for name in names}
    if len(kinds) > 1 or any(int(shards or 1) != len(names) for shards, _ in kinds):
        listed = " and ".join(name.string for name in names)
        raise SourceError(
            f"the directory holds {listed}: neither one file nor all shards of one\n"
            "  what to do: leave one file, or all its shards, or give one file's path"
        )


def unused_data(directory: Path, used: Collection[Path]) -> list[str]:
    """List the files that look like data, by format or by a part's name, and are not used."""
    files = (
        file
        for file in sorted(directory.iterdir())
        if file.is_file() and file not in used and not file.name.endswith(BAD_ROWS)
    )
    known = {TRAIN, *TEST, *VALIDATION}
    data = set(SUFFIXES) - {".json"}  # which notes about data have, too
    return [f.name for f in files if inner_suffix(f) in data or f.name.split(".")[0].lower() in known]


def data_files(config: DataConfig) -> list[Path]:
    """Return the files that `config.source` names, which are one set of texts; none if it names no file.

    Raises:
        SourceError: Of several, one is missing, or named twice, or called like the test or the validation split.
    """
    files = []
    for source in config.sources:
        found = [standard_input(config)] if source == STANDARD_INPUT else named_files(source)
        if not found and len(config.sources) > 1:
            raise SourceError(
                f"there is no file {source!r}\n  what to do: of several DATA, name files (or patterns of them); a "
                "directory or a data set is named alone"
            )
        files += found
    for number, file in enumerate(files):
        if file in files[:number]:
            raise SourceError(f"{file} is named twice\n  what to do: name each file once")
    for file in files if len(files) > 1 else ():
        if part_name(file) in (*TEST, *VALIDATION):
            flag = "--test-data" if part_name(file) in TEST else "--validation-data"
            raise SourceError(
                f"{file} is called like a {flag[2:].partition('-')[0]} split, and all files would be trained on\n"
                f"  what to do: give it with {flag}, or rename it, or name a directory alone"
            )
    return files


def name_of(path: Path) -> str:
    """Return what to call data from a file, or from files of a pattern."""
    stem = Path(path.stem).stem if path.suffix.lower() in PACKED else path.stem
    return stem if path.exists() else re.sub(r"[^\w.-]", "", stem).strip("-_.") or "data"
