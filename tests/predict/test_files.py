"""Whatever a table is packed in or written as, the same rows come out."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import zipfile

import pytest

from potstill.config import DataConfig
from potstill.data import load_corpus
from potstill.data.labels import label_names_of, label_type_of
from potstill.data.readers import read_rows
from potstill.errors import DataError, MissingExtraError
from potstill.predict.encoding import certain_encoding
from potstill.predict.files import inner_suffix, open_table

ROWS = [("Ein Päckchen, „schön“", "1"), ("zwei\nZeilen", "2"), ("drei", "1")]
RECORDS = [{"id": str(n), "text": text, "label": label} for n, (text, label) in enumerate(ROWS)]
CSV = 'text,label\n"Ein Päckchen, „schön“",1\n"zwei\nZeilen",2\ndrei,1\n'.encode()


def zipped(*names, content=CSV):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return file.getvalue()


def zstandard(content):
    return pytest.importorskip("backports.zstd").compress(content)


def spreadsheet(*rows, more=()):
    book = pytest.importorskip("openpyxl").Workbook()
    for row in rows:
        book.active.append(row)
    for title, content in more:
        book.create_sheet(title).append([content])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def charts_alone():
    book, file = pytest.importorskip("openpyxl").Workbook(), io.BytesIO()
    book.remove(book.active)
    book.create_chartsheet("chart")
    book.save(file)
    return file.getvalue()


COLUMNS = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
FILES = {
    "a.csv.gz": lambda: gzip.compress(CSV),
    "a.csv.bz2": lambda: bz2.compress(CSV),
    "a.csv.xz": lambda: lzma.compress(CSV),
    "a.CSV.zst": lambda: zstandard(CSV),
    "a.zip": lambda: zipped("folder/a.csv", "__MACOSX/folder/._a.csv"),
    "a.xlsx": lambda: spreadsheet(("id", "text", "label", None), *((n, *row) for n, row in enumerate(ROWS))),
    "a.json": lambda: json.dumps(RECORDS, indent=1).encode(),
    "b.json": lambda: "\n".join(map(json.dumps, RECORDS)).encode(),
    "pandas.json": lambda: json.dumps({name: dict(enumerate(c)) for name, c in COLUMNS.items()}).encode(),
    "inside.json.gz": lambda: gzip.compress(json.dumps({"version": "1", "data": RECORDS}).encode()),
    "wide.json": lambda: json.dumps(RECORDS, ensure_ascii=False).encode("utf-16"),
    "utf-16le.csv": lambda: CSV.decode().encode("utf-16le"),
    "cp1252.csv.gz": lambda: gzip.compress(CSV.decode().encode("cp1252")),
}


@pytest.mark.parametrize(("name", "content"), FILES.items(), ids=FILES)
def test_every_kind_of_file_holds_the_same_rows(name, content, tmp_path):
    (tmp_path / name).write_bytes(content())
    assert [(row.text, *row.labels) for row in read_rows(tmp_path / name, DataConfig())] == ROWS


@pytest.mark.parametrize("name", ["data.csv.gz", "train.csv.gz"])
def test_packed_files_are_found_in_a_directory_and_named(name, tmp_path):
    rows = "".join(f"text number {n},{n % 2}\n" for n in range(40))
    (tmp_path / name).write_bytes(gzip.compress(f"text,label\n{rows}".encode()))
    corpus = load_corpus(DataConfig(source=str(tmp_path if name.startswith("train") else tmp_path / name)))
    assert corpus.name == (tmp_path.name if name.startswith("train") else "data")
    assert corpus.label_type == "int"  # as of the same CSV file


def test_numbers_of_a_spreadsheet_are_those_of_its_csv(tmp_path, capsys):
    path = tmp_path / "a.xlsx"
    path.write_bytes(
        spreadsheet((), ("text", "label"), (2020, 1.0), (), ("x", True), ("y",), more=[("Notes", "n"), ("Empty", None)])
    )
    with pytest.raises(DataError, match=r"a\.xlsx:6: column 'label' holds no label"):
        read_rows(path, DataConfig())
    assert "only the sheet 'Sheet' is read, not ['Notes']" in capsys.readouterr().err
    path.write_bytes(spreadsheet(("text", "label"), (2020, 1.0), ("x", 2)))
    rows = read_rows(path, DataConfig())
    assert [(row.line, row.text, *row.labels) for row in rows] == [(2, "2020", "1"), (3, "x", "2")]
    assert label_type_of(rows, label_names_of(rows, path), path) == "int"
    path.write_bytes(charts_alone())
    with pytest.raises(DataError, match="can't be read as XLSX"):
        read_rows(path, DataConfig())
    path.write_bytes(spreadsheet(("text", "label", "text"), ("x", "y", "z")))
    with pytest.raises(DataError, match="several columns have one name: text, label, text"):
        read_rows(path, DataConfig())


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv.gz", gzip.compress(CSV, mtime=0)[:-9], "can't be unpacked"),
        ("a.csv.gz", CSV, "can't be unpacked: Not a gzipped file"),
        ("a.csv.xz", lzma.compress(CSV)[:-9], "can't be unpacked"),
        ("a.zip", zipped("a.csv", "b.csv"), "expected one file inside, found 2"),
        ("a.csv.xz", lzma.compress(CSV)[:30] + b"x" * 40 + lzma.compress(CSV)[70:], "can't be unpacked"),
        ("a.csv.bz2", b"BZh9" + b"x" * 40, "can't be unpacked"),
        ("a.csv.zst", b"x" * 40, "can't be unpacked"),
        ("a.zip", b"PK", "can't be unpacked"),
        ("a.xlsx", b"text,label", "can't be read as XLSX"),
        ("a.ods", b"", "'.ods' does not tell the format"),
        ("a.csv.gz", gzip.compress(b"a" * (70 << 20), mtime=0), "unpacks to more than 64 MiB"),
        ("a.zip", zipped("a.csv", content=b"a" * (70 << 20)), "unpacks to more than 64 MiB"),
        ("a.xlsx", zipped("xl/workbook.xml", content=b"a" * (70 << 20)), "unpacks to more than 64 MiB"),
    ],
)
def test_damaged_and_suspicious_files_are_refused(name, content, problem, tmp_path):
    if name.endswith(".zst"):
        pytest.importorskip("backports.zstd")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read_rows(tmp_path / name, DataConfig())
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["a.csv.zst", "a.xlsx"])
def test_a_missing_package_is_named(name, tmp_path, monkeypatch):
    for module in ("backports.zstd", "compression.zstd", "openpyxl"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(zipped("a"))
    with pytest.raises(MissingExtraError, match=r"pip install '.\[files\]'"):
        read_rows(tmp_path / name, DataConfig())
    assert inner_suffix(tmp_path / name) in (".csv", ".xlsx")


def test_letters_far_behind_the_beginning_tell_the_encoding(tmp_path):
    text = "a plain line\n" * 20_000 + "très élevé, où êtes-vous ?\n"
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    with (tmp_path / "a.txt").open("rb") as file:
        assert open_table(file, "a.txt").content.read().decode() == text


def test_a_pipe_is_known_by_its_beginning():
    program = (
        "import sys; from potstill.predict.files import open_table;"
        "print(ascii(open_table(sys.stdin.buffer, 'standard input').content.read().decode()))"
    )
    text = "Wo ist mein Päckchen?\nschön\n"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.communicate(text.encode("utf-16"))[0].decode().strip() == ascii(text)


def test_bytes_that_are_no_text_of_the_encoding_break_their_line_alone(tmp_path):
    (tmp_path / "a.txt").write_bytes("très élevé\nêtes où\n".encode("cp1252") + b"\x81\n")
    with (tmp_path / "a.txt").open("rb") as file:  # one line of three is no cp1252
        assert open_table(file, "a.txt").content.read().count(b"\n") == 3
    (tmp_path / "b.txt").write_bytes("größer\n".encode("utf-16") + b"x")
    with (tmp_path / "b.txt").open("rb") as file:
        assert open_table(file, "b.txt").content.read() == "größer\n".encode() + b"\xff"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["größer".encode()],
        [b"na\xefve"],
        [os.urandom(999) for _ in range(9)],
        ["Где моя посылка?".encode("koi8-r")],  # looks like Greek, with capitals inside words
        [b"gr\xf6\xdfer \xe9", "größer".encode()],
    ],
)
def test_there_is_doubt(lines):
    assert certain_encoding(lines) is None


def test_parquet_is_read_group_by_group():
    pa, whole = pytest.importorskip("pyarrow"), io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(
        pa.table({"text": [f"{n} {n * n}" for n in range(40_000)]}), whole, row_group_size=4000, compression="none"
    )

    class Counted(io.BytesIO):
        taken = 0

        def read(self, size=-1):
            content = super().read(size)
            self.taken += len(content)
            return content

    file = Counted(whole.getvalue())
    content = open_table(file, "a.parquet", (".parquet",)).content
    assert json.loads(content.readline()) == {"text": "0 0"}
    assert file.taken < len(whole.getvalue()) / 3
    assert sum(1 for _ in content) == 39_999
