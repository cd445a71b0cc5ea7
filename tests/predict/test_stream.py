import codecs
import csv
import io
import itertools
import json
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from potstill.errors import DataError
from potstill.predict import stream
from potstill.predict.encoding import wide_encoding
from potstill.predict.stream import MAX_BYTES, Broken, Layout, Text, chunks, format_by_suffix, from_arguments, read

PLAIN = Layout("text")
CSV, TSV, JSONL = (Layout(name, columns=("text",)) for name in ("csv", "tsv", "jsonl"))


@pytest.mark.parametrize("name", ["texts.parquet", "texts.ODS", "texts.csv.7z"])
def test_the_suffix_decides_the_format_or_is_refused(name):
    with pytest.raises(DataError, match=r"expected lines of text, CSV, TSV or JSONL, found \.\w+\n.*convert it"):
        format_by_suffix(Path(name))
    assert [format_by_suffix(Path(name)) for name in ("a.csv", "a.TSV", "a.jsonl", "a.md", "a")] == [
        "csv",
        "tsv",
        "jsonl",
        "text",
        "text",
    ]


def items(content: bytes | str, layout=PLAIN, **options):
    content = content.encode() if isinstance(content, str) else content
    return list(read(io.BytesIO(content), layout, "file", **options))


def texts(content, layout=PLAIN):
    found = items(content, layout)
    assert all(isinstance(item, Text) for item in found), found
    return [(item.line, item.value) for item in found]


def broken(content, layout=PLAIN):
    """Lines and problems of what is broken; lines of what is not."""
    found = items(content, layout)
    problems = {item.line: item.problem for item in found if isinstance(item, Broken)}
    return problems, [item.line for item in found if isinstance(item, Text)]


class Endless:
    """A stream that is made while it is read, and counts how much of it was."""

    def __init__(self, line: bytes, times: int, *first: bytes) -> None:
        self._lines = itertools.chain(first, itertools.repeat(line, times))
        self.given = 0

    def readline(self, size: int, /) -> bytes:
        line = next(self._lines, b"")
        self.given += bool(line)
        return line


class TestText:
    def test_lines_are_counted_and_empty_ones_passed_over(self):
        assert texts("one\n\n  \n two \n\u00a0\nsix") == [(1, "one"), (4, "two"), (6, "six")]
        assert texts("\ufeffone\r\ntwo\r\n") == [(1, "one"), (2, "two")]

    @pytest.mark.parametrize("layout", [PLAIN, CSV, TSV, JSONL])
    def test_empty_streams(self, layout):
        assert items("", layout) == items("\n\n", layout) == []

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_lines_end_as_in_training(self, end):
        """Unicode's other separators, at which str.splitlines would split, belong to the text."""
        inside = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"
        assert texts(f"{inside}{end}next{end}{end}last") == [(1, inside), (2, "next"), (4, "last")]
        assert texts(f"text,n{end}one,1{end}two,2{end}", CSV) == [(2, "one"), (3, "two")]
        assert texts(f"text\tn{end}one\t1{end}two\t2{end}", TSV) == [(2, "one"), (3, "two")]
        assert texts(f'{{"text": "one"}}{end}{{"text": "two"}}', JSONL) == [(1, "one"), (2, "two")]

    def test_line_ends_across_pieces(self, monkeypatch):
        monkeypatch.setattr(stream, "MAX_BYTES", 4)
        assert texts("abc\r\nde\rf\r\r\ng") == [(1, "abc"), (2, "de"), (3, "f"), (5, "g")]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
    @pytest.mark.parametrize("text", ["The food.\r\nWas cold.", "Где она?\nВерните", "好 1\r\n好 2\r\n"])
    def test_other_encodings_of_a_whole_stream_are_refused(self, text, encoding):
        name = encoding.replace("-le", "le").replace("-be", "be")
        with pytest.raises(DataError, match=f"file:1: this is no UTF-8\n.*iconv -f {name} -t utf-8 file"):
            texts(text.encode(encoding))

    def test_a_lone_null_character_is_text(self):
        assert texts("one\0 two\n") == [(1, "one\0 two")]

    def test_pairs(self):
        layout = Layout("text", in_pairs=True)
        assert texts(" one \t two \n", layout) == [(1, ("one", "two"))]
        problems, good = broken("one\na\tb\na\tb\tc\n\tb\n", layout)
        assert good == [2]
        assert problems[1] == "expected two texts with a tab between, found 0 tabs"
        assert "found 2 tabs" in problems[3]
        assert 4 in problems

    def test_only_the_line_that_is_not_utf8_is_broken(self):
        problems, good = broken(b"one\nca\xe9t\nthree\n")
        assert problems == {2: "expected UTF-8, found byte 0xe9"}
        assert good == [1, 3]

    @pytest.mark.parametrize("excess", [0, 1, MAX_BYTES])
    def test_a_line_is_bounded(self, excess):
        problems, good = broken(b"one\n" + b"x" * (MAX_BYTES + excess - 1) + b"\nthree\n")
        assert good == ([1, 3] if excess else [1, 2, 3])
        assert list(problems) == ([2] if excess else [])


class TestColumns:
    @pytest.mark.parametrize("layout", [CSV, TSV])
    def test_the_column_is_found_by_its_name(self, layout):
        mark = "," if layout is CSV else "\t"
        content = f"id{mark}text\r\n1{mark} one \r\n\r\n2{mark}two"
        assert texts(content, layout) == [(2, "one"), (4, "two")]

    def test_quoted_fields_span_lines(self):
        assert texts('text,n\n"a, ""b""\n\nc",1\nd,2\n', CSV) == [(2, 'a, "b"\n\nc'), (5, "d")]

    def test_tsv_has_no_quoting(self):
        assert texts('text\tn\n"a\t1\nb"\t2\n', TSV) == [(2, '"a'), (3, 'b"')]

    def test_pairs(self):
        content = "question,answer\none,two\n"
        assert texts(content, Layout("csv", in_pairs=True, columns=("answer", "question"))) == [(2, ("two", "one"))]

    @pytest.mark.parametrize("layout", [CSV, TSV])
    @pytest.mark.parametrize("header", ["id{0}sentence", "text{0}text"])
    def test_a_header_without_the_column_is_refused(self, layout, header):
        header = header.format("," if layout is CSV else "\t")
        with pytest.raises(
            DataError, match=r"file:1: the header: expected one column 'text', found [02].*\n.*--text-column"
        ):
            items(f"{header}\n1\n", layout)

    def test_a_broken_header_is_refused(self):
        with pytest.raises(DataError, match="file:2: the header: expected UTF-8"):
            items(b"\n\xff\n", CSV)
        with pytest.raises(DataError, match="file:1: the header"):
            items('"text\none\n', CSV)

    @pytest.mark.parametrize("layout", [CSV, TSV])
    def test_other_numbers_of_fields_are_broken(self, layout):
        mark = "," if layout is CSV else "\t"
        problems, good = broken(f"text{mark}n\na\nb{mark}1\nc{mark}2{mark}3\n{mark}4\n", layout)
        assert good == [3]
        assert problems == {
            2: "expected 2 fields, found 1",
            4: "expected 2 fields, found 3",
            5: "expected a text in column 'text', found an empty one",
        }

    def test_an_unclosed_quotation_mark_breaks_a_record_up_to_the_next_one(self):
        problems, good = broken('text,n\na,1\n"b,2\nc,3\n"d",4\ne,5\n"f,6\ng,7', CSV)
        assert good == [2, 6]
        assert set(problems) == {3, 7}
        assert problems[3].startswith("the record from here to line 5 can't be read: ")
        assert problems[7].startswith("the record from here to line 8 can't be read: ")

    def test_a_broken_line_inside_a_record_breaks_the_record(self):
        problems, good = broken(b'text,n\n"a\n\xff",1\nb,2\n', CSV)
        assert good == [4]
        assert set(problems) == {2}

    @pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
    def test_the_separator_of_csv_is_found(self, mark):
        assert texts(f'n{mark}text\n1{mark}"a{mark}b"\n', CSV) == [(2, f"a{mark}b")]

    def test_spreadsheets_separator_line_and_spaces_in_the_header(self):
        assert texts("sep=;\n n ; text\n1;one,two\n", CSV) == [(3, "one,two")]
        assert texts("sep=^\nn^text\n1^one,two\n", CSV) == [(3, "one,two")]


class TestJsonl:
    def test_objects_are_read(self):
        assert texts('{"text": "one\\ntwo"}\n\n{"id": 3, "text": " caf\\u00e9 "}', JSONL) == [
            (1, "one\ntwo"),
            (3, "café"),
        ]

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ('{"text": "a"', "expected JSON"),
            ("[" * 100_000, "expected JSON"),
            (f'{{"text": {"9" * 5000}}}', "expected JSON"),
            ('["a"]', "expected a JSON object, found list"),
            ("{}", "expected a column 'text', found none"),
            ('{"txt": "a", "n": 1}', "expected a column 'text', found 'txt', 'n'"),
            ('{"text": null}', "found nothing"),
            ('{"text": 3}', "found int"),
            ('{"text": " "}', "found an empty one"),
            (r'{"text": "a\ud83d"}', "found half of one at 1"),
        ],
    )
    def test_only_the_line_without_a_text_is_broken(self, line, problem):
        problems, good = broken(f'{{"text": "a"}}\n{line}\n{{"text": "c"}}\n', JSONL)
        assert good == [1, 3]
        assert problem in problems[2]


def test_problems_are_short():
    problems, _ = broken(json.dumps(dict.fromkeys(map(str, range(10_000)))), JSONL)
    assert len(problems[1]) < 300


def test_arguments_are_texts():
    assert [item.value for item in from_arguments(["a", "b\nc"], in_pairs=False)] == ["a", "b\nc"]
    assert [item.value for item in from_arguments(["a\tb"], in_pairs=True)] == [("a", "b")]
    (item,) = from_arguments(["\udcff"], in_pairs=False)  # what Python makes of an argument that is no UTF-8
    assert isinstance(item, Broken)


CONTENTS = {
    PLAIN: "one\n\ntwo\nthree\r\n four",
    CSV: 'n,text\n1,one\n2,"two\nand ""more"""\n"3,three\n4,four\n5\n',
    TSV: 'n\ttext\n1\tone\n\n2\t"two\n3\tthree\n4\n',
    JSONL: '{"text": "one"}\n{"text": 2}\n\n{"text": "three"}\n[]',
}


@pytest.mark.parametrize("layout", CONTENTS, ids=lambda layout: layout.format)
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_reading_resumes_at_any_item(layout, start):
    content = start + CONTENTS[layout]
    found = items(content, layout)
    for number, item in enumerate(found, start=1):
        assert items(content, layout, start=item.end) == found[number:]


@pytest.mark.parametrize("layout", CONTENTS, ids=lambda layout: layout.format)
def test_another_input_is_not_resumed(layout):
    content = CONTENTS[layout]
    *_, last = items(content, layout)
    for other in (content.replace("one", "0ne"), content[:-3], "x" + content[1:] if layout is PLAIN else content[:20]):
        with pytest.raises(DataError, match="not the input that was begun with"):
            items(other, layout, start=last.end)


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.integers()), max_size=8))
def test_any_csv_is_read_back(rows):
    file = io.StringIO()
    csv.writer(file).writerows([("text", "n"), *rows])
    found = items(file.getvalue(), CSV)
    assert [item.value for item in found if isinstance(item, Text)] == [t.strip() for t, _ in rows if t.strip()]


@given(st.binary(max_size=200), st.sampled_from([PLAIN, JSONL]))
def test_any_bytes_are_read(content, layout):
    """Every line that is not empty is told of once, in order, whatever it holds."""

    def is_empty(line):
        try:
            return not line.decode().strip()
        except UnicodeDecodeError:
            return False

    lines = re.split(rb"\r\n|\r|\n", content.removeprefix(codecs.BOM_UTF8))
    assume(wide_encoding(content) is None)  # a whole stream of another encoding is refused
    expected = [number for number, line in enumerate(lines, start=1) if not is_empty(line)]
    assert [item.line for item in items(content, layout)] == expected


class TestBounds:
    """What is held does not grow with the stream: it is never read further ahead than a chunk."""

    @pytest.mark.parametrize(
        ("layout", "first", "line"),
        [
            (PLAIN, [], b"some text\n"),
            (CSV, [b"text,n\n"], b'"some\xc3\xa9 text",1\n'),
            (JSONL, [], json.dumps({"text": "some text"}).encode() + b"\n"),
            (PLAIN, [], b"\xff\n"),
            (JSONL, [], b"{}\n"),
        ],
    )
    def test_no_more_than_a_chunk_is_read_ahead(self, layout, first, line):
        source = Endless(line, 30_000, *first)
        dealt_with = 0
        for chunk in chunks(read(source, layout, "file")):
            dealt_with += len(chunk)
            assert source.given == len(first) + dealt_with
            assert len(chunk) <= stream.CHUNK_TEXTS
        assert dealt_with == 30_000

    def test_an_unclosed_quotation_mark_reads_one_field(self):
        source = Endless(b"some text\n", 100_000, b"text\n", b'"some text\n')
        found = read(source, CSV, "file")
        assert isinstance(next(found), Broken)
        assert source.given <= csv.field_size_limit() / len(b"some text\n") + 2

    def test_a_record_of_many_short_fields_is_bounded(self):
        source = Endless(b'","\n', MAX_BYTES, b"text\n", b'"\n')
        assert isinstance(next(read(source, CSV, "file")), Broken)
        assert (source.given - 4) * len(b'","\n') <= MAX_BYTES

    def test_a_stream_without_line_feeds_is_not_held(self):
        source = Endless(b"x" * MAX_BYTES, 64)
        tracemalloc.start()
        (item,) = read(source, PLAIN, "file")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert isinstance(item, Broken)
        assert item.end.offset == 64 * MAX_BYTES
        assert peak < MAX_BYTES
