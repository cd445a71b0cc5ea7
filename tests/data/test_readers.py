import csv
import io
import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potstill.config import DataConfig
from potstill.data.columns import check_columns
from potstill.data.labels import MISSING, label_key, label_names_of, label_type_of
from potstill.data.readers import COLA_LABELS, parse_records, read_examples, read_rows, to_examples
from potstill.errors import DataError

CONFIG = DataConfig()
PAIRS = DataConfig(text_column="premise", pair_column="hypothesis")


def write(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def content(path: Path, config: DataConfig = CONFIG) -> list[tuple[str, str]]:
    return [(row.text, *row.labels) for row in read_rows(path, config)]


def lines(path: Path) -> list[int]:
    return [row.line for row in read_rows(path, CONFIG)]


def non_empty(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.text(alphabet, max_size=20).filter(str.strip)


def label(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return non_empty(alphabet).filter(lambda text: label_key(text) and text.strip().lower() not in MISSING)


UNICODE = st.one_of(st.sampled_from("\"',;\\ äß東🦜\u2028\ufeff"), st.characters(exclude_categories=["Cs"]))
ONE_LINE = UNICODE.filter(lambda character: character not in "\t\r\n")

round_trip = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stripped(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(text.strip(), label.strip()) for text, label in rows]


class TestRoundTrip:
    @round_trip
    @given(rows=st.lists(st.tuples(non_empty(UNICODE), label(UNICODE)), min_size=1))
    def test_csv(self, tmp_path, rows):
        path = tmp_path / "rows.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        assert content(path) == stripped(rows)

    @round_trip
    @given(rows=st.lists(st.tuples(non_empty(ONE_LINE), label(ONE_LINE)), min_size=1))
    def test_tsv(self, tmp_path, rows):
        table = [("label", "text"), *((label, text) for text, label in rows)]
        path = write(tmp_path, "rows.tsv", "\n".join("\t".join(fields) for fields in table))
        assert content(path) == stripped(rows)

    @round_trip
    @given(rows=st.lists(st.tuples(non_empty(UNICODE), label(UNICODE)), min_size=1), ascii_only=st.booleans())
    def test_jsonl(self, tmp_path, rows, ascii_only):
        records = (json.dumps({"text": text, "label": label}, ensure_ascii=ascii_only) for text, label in rows)
        assert content(write(tmp_path, "rows.jsonl", "\n".join(records))) == stripped(rows)

    @round_trip
    @given(rows=st.lists(st.tuples(non_empty(UNICODE), label(UNICODE)), min_size=1))
    def test_parquet(self, tmp_path, rows):
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.Table.from_pylist([{"text": text, "label": label} for text, label in rows]), path)
        assert content(path) == stripped(rows)


class TestFormats:
    def test_byte_order_mark_and_upper_case_suffix(self, tmp_path):
        assert content(write(tmp_path, "a.CSV", "\ufefftext,label\nhello,x\n")) == [("hello", "x")]

    @pytest.mark.parametrize("separator", [";", "\t", "|", ","])
    def test_csv_separators_are_found(self, tmp_path, separator, capsys):
        rows = [("id", "text", "label"), ("1", '"a;b|c,d\te"', "x"), ("2", "y", "z")]
        path = write(tmp_path, "a.csv", "\n".join(separator.join(row) for row in rows))
        assert content(path) == [("a;b|c,d\te", "x"), ("y", "z")]
        assert (f"columns are separated by {separator!r}" in capsys.readouterr().err) == (separator != ",")

    def test_the_separator_that_a_first_line_declares(self, tmp_path):
        path = write(tmp_path, "a.csv", "sep=^\ntext^label\na,b^x\n")
        assert content(path) == [("a,b", "x")]
        assert lines(path) == [3]

    def test_other_columns_are_ignored_and_columns_are_found_by_name(self, tmp_path):
        path = write(tmp_path, "a.csv", "id,intent,note,utterance\n7,greet,,hi\n")
        config = DataConfig(text_column="utterance", label_column="intent")
        assert content(path, config) == [("hi", "greet")]

    def test_quoted_line_breaks_keep_physical_line_numbers(self, tmp_path):
        path = write(tmp_path, "a.csv", 'text,label\r\n"two\r\nlines",a\r\n\r\n"one ""line""",b\r\n')
        assert lines(path) == [2, 5]
        assert content(path) == [("two\r\nlines", "a"), ('one "line"', "b")]

    def test_tsv_takes_quotation_marks_as_they_are(self, tmp_path):
        path = write(tmp_path, "a.tsv", 'text\tlabel\n"Stop, he said\ta\n"quoted"\tb')
        assert content(path) == [('"Stop, he said', "a"), ('"quoted"', "b")]

    @pytest.mark.parametrize("name", ["a.tsv", "in_domain_train.tsv"])
    def test_tsv_texts_may_be_longer_than_the_csv_module_allows(self, tmp_path, name):
        text = "x" * (csv.field_size_limit() + 1)
        header, row = ("text\tlabel\n", f"{text}\t1\n") if name == "a.tsv" else ("", f"gj04\t1\t\t{text}\n")
        assert [row.text for row in read_rows(write(tmp_path, name, header + row), CONFIG)] == [text]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_tsv_counts_empty_lines_with_every_line_end(self, tmp_path, end):
        path = write(tmp_path, "a.tsv", end.join(["text\tlabel", "x\ta", "", "y\u2028z\tb", ""]))
        assert lines(path) == [2, 4]
        assert content(path) == [("x", "a"), ("y\u2028z", "b")]

    def test_jsonl_skips_empty_lines(self, tmp_path):
        path = write(tmp_path, "a.jsonl", '{"text": "x", "label": "a"}\n\n{"text": "y", "label": "b"}\r\n')
        assert lines(path) == [1, 3]

    def test_parquet_numbers_rows_across_row_groups(self, tmp_path):
        table = pa.table({"text": ["x", "y", "z"], "label": pa.array(["a", "b", "a"]).dictionary_encode()})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
        assert lines(tmp_path / "a.parquet") == [1, 2, 3]

    @pytest.mark.parametrize(
        ("written", "read"),
        [("3", "3"), ("-1", "-1"), ("2.0", "2"), ("true", "true"), ('" a "', "a"), ('"2.0"', "2.0")],
    )
    def test_labels_become_strings(self, tmp_path, written, read):
        assert content(write(tmp_path, "a.jsonl", f'{{"text": "x", "label": {written}}}')) == [("x", read)]

    @pytest.mark.parametrize("written", ['["a"]', '[ "a" ]', "\"['a']\"", '"[\\"a\\"]"'])
    def test_only_label_of_a_list(self, tmp_path, written):
        path = write(tmp_path, "a.jsonl", f'{{"text": "x", "label": {written}}}\n{{"text": "y", "label": "b"}}\n')
        assert content(path) == [("x", "a"), ("y", "b")]

    @pytest.mark.parametrize("label", ["[a]", "['a", "[]", "it's [one]", "[1]"])
    def test_other_brackets_are_part_of_the_label(self, tmp_path, label):
        assert content(write(tmp_path, "a.tsv", f"text\tlabel\nx\t{label}\n")) == [("x", label)]

    def test_whole_decimals_are_numbers(self, tmp_path):
        path = write(tmp_path, "a.parquet", table([Decimal(1), Decimal(0), Decimal(10**29)]))
        assert content(path) == [("x", "1"), ("x", "0"), ("x", f"{10**29}")]

    def test_sentence_pairs(self, tmp_path):
        path = write(
            tmp_path, "a.csv", "premise,hypothesis,label\nIt rains., It is wet. ,yes\nIt rains.,It is dry.,no\n"
        )
        examples = read_examples(path, PAIRS, ("no", "yes"))
        assert examples.texts == ("It rains.", "It rains.")
        assert examples.pairs == ("It is wet.", "It is dry.")
        assert examples.labels.tolist() == [1, 0]

    def test_cola_files_are_recognised_by_name(self, tmp_path):
        path = write(tmp_path, "in_domain_dev.tsv", 'gj04\t1\t\tHe said "no.\ngj04\t0\t*\tHim said no.')
        examples = read_examples(path, CONFIG, ("unacceptable", "acceptable"))
        assert examples.texts == ('He said "no.', "Him said no.")
        assert examples.labels.tolist() == [1, 0]


class TestLabelNames:
    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            (["10", "9", "-1"], ("-1", "9", "10")),
            (["10", "9", "b"], ("10", "9", "b")),
            (["neutral", "bad", "good"], ("bad", "good", "neutral")),
            (["9" * 5000, "1"], ("1", "9" * 5000)),
        ],
    )
    def test_order(self, tmp_path, labels, expected):
        path = write(tmp_path, "a.tsv", "text\tlabel\n" + "".join(f"x\t{label}\n" for label in labels))
        assert label_names_of(read_rows(path, CONFIG), path) == expected

    @pytest.mark.parametrize(
        ("labels", "names", "warning"),
        [
            (["good", "good\u200b", "good", "bad"], ("bad", "good"), r"'good' \(2\), 'good\\u200b' \(1\)"),
            (["cre\u0301e\u0301", "créé", "créé", "x"], ("créé", "x"), "look the same"),
            (["very\u00a0good", "very good", "very good", "x"], ("very good", "x"), r"very\\u00a0good"),
            (["1", "1.0", "1", "0"], ("0", "1"), r"'1' \(2\), '1.0' \(1\)"),
            (["Good", "good", "bad"], ("Good", "bad", "good"), r"only in case.*'Good' \(1\), 'good' \(1\)"),
            (["0", "1.0", "1.0", "1"], ("0", "1"), r"'1\.0' \(2\), '1' \(1\)"),
            (["None", "a", "b"], ("None", "a", "b"), r"the label is missing.*'None' \(1\)"),
        ],
    )
    def test_labels_that_look_alike_are_named_with_their_numbers(self, tmp_path, labels, names, warning, capsys):
        path = write(tmp_path, "a.tsv", "text\tlabel\n" + "".join(f"x\t{label}\n" for label in labels))
        rows = read_rows(path, CONFIG)
        assert label_names_of(rows, path) == names
        assert re.search(warning, capsys.readouterr().err)
        assert to_examples(rows, names, path, DataConfig()).labels.max() == len(names) - 1

    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            (["good", "bad", "good,urgent", "bad,urgent"], ["good,urgent", "bad,urgent"]),
            (["a; b", "b; c", "a; c"], ["a; b", "b; c", "a; c"]),
            (["sport", "news", "sport | news"], ["sport | news"]),
            (["Paris, France", "Lyon, France", "Rome, Italy"], []),
            (["other, please specify", "none of these"], []),
            (["a,", "b"], []),
        ],
    )
    def test_joined_labels_are_said(self, tmp_path, labels, said, capsys):
        path = write(tmp_path, "a.tsv", "text\tlabel\n" + "".join(f"x\t{label}\n" for label in labels))
        assert label_names_of(read_rows(path, CONFIG), path) == tuple(sorted(labels))
        printed = " ".join(capsys.readouterr().err.split())
        assert ("looks like several labels of one text" in printed) == bool(said)
        assert [label for label in labels if f"'{label}' (1)" in printed] == said

    def test_warnings_list_ten_labels(self, tmp_path, capsys):
        labels = [*(f"c{number}" for number in range(15)), *(f"c{number},x" for number in range(15))]
        path = write(tmp_path, "a.tsv", "text\tlabel\n" + "".join(f"x\t{label}\n" for label in labels))
        label_names_of(read_rows(path, CONFIG), path)
        assert "and 5 more" in capsys.readouterr().err

    @pytest.mark.parametrize("written", [lambda n: f"{n / 1000}", lambda n: f"{n}", lambda n: f"{n % 60 / 8}"])
    def test_continuous_numbers_are_refused(self, tmp_path, written):
        rows = "".join(f"x{n},{written(n)}\n" for n in range(300))
        path = write(tmp_path, "a.csv", f"text,label\n{rows}")
        with pytest.raises(DataError, match=r"different numbers in 300 rows.*like a measure.*\n.*--label-column"):
            label_names_of(read_rows(path, CONFIG), path)

    @pytest.mark.parametrize(
        ("name", "labels", "expected"),
        [
            ("a.csv", ["0", "1"], "int"),
            ("a.csv", ["0.0", "1.0"], "float"),
            ("a.csv", ["0.5", "1.5"], "float"),
            ("a.csv", ["0", "1.0", "1.0", "1"], "int"),
            ("a.csv", ["True", "False"], "bool"),
            ("a.csv", ["01", "02"], "str"),
            ("a.csv", ["1", "b"], "str"),
            ("a.csv", ["9" * 20, "1"], "str"),
            ("a.jsonl", ["0", "1"], "int"),
            ("a.jsonl", ["0.0", "1.0"], "int"),
            ("a.jsonl", ["true", "false"], "bool"),
            ("a.jsonl", ['"0"', '"1"'], "str"),
            ("a.jsonl", ["[0]", "[1]"], "int"),
            ("a.jsonl", ['["0"]', '["1"]'], "str"),
        ],
    )
    def test_type(self, tmp_path, name, labels, expected):
        header, row = ("text,label\n", "x,%s\n") if name == "a.csv" else ("", '{"text": "x", "label": %s}\n')
        path = write(tmp_path, name, header + "".join(row % label for label in labels))
        rows = read_rows(path, CONFIG)
        assert label_type_of(rows, label_names_of(rows, path), path) == expected

    def test_single_class_is_refused_for_training_only(self, tmp_path):
        path = write(tmp_path, "a.csv", "text,label\nx,a\ny,a\n")
        with pytest.raises(DataError, match="all rows have the label 'a'"):
            label_names_of(read_rows(path, CONFIG), path)
        assert np.array_equal(read_examples(path, CONFIG, ("a", "b")).labels, [0, 0])


def table(labels: list[object], text_column: str = "text") -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({text_column: ["x"] * len(labels), "label": labels}), file)
    return file.getvalue()


OBJECT = '{"text": "x", "label": "a"}\n'
REFUSALS = {
    # name: (file, content, line, part of the message, part of the remedy)
    "missing label column": ("a.csv", "text,category\nx,a\n", 1, "'text', 'category'", "`--label-column category`"),
    "missing columns": (
        "a.csv",
        "foo,sentence,category\n",
        1,
        "no column 'text' and no column 'label'",
        "-text-column",
    ),
    "missing text column": ("a.tsv", "Sentence\tlabel\nx\ta\n", 1, "no column 'text'", "`--text-column Sentence`"),
    "no likely column": ("a.csv", "foo,label\nx,a\n", 1, "no column 'text'", "with --text-column, or add the header"),
    "missing column in one object": ("a.jsonl", OBJECT + '{"text": "x"}', 2, "no column 'label'", "--label-column"),
    "column twice": ("a.csv", "text,label,text\nx,a,y\n", 1, "2 columns are called 'text'", "rename"),
    "too few fields": ("a.csv", 'text,label\n"x\ny",a\n\nz\n', 5, "expected 2 fields, found 1", "every column a field"),
    "too many fields": ("a.csv", "text,label\nx,y,a\n", 2, "expected 2 fields, found 3", "quotation marks"),
    "tab in a text": ("a.tsv", "text\tlabel\nx\ta\nx\ty\ta\n", 3, "expected 2 fields, found 3", "TSV"),
    "open quote": ("a.csv", 'text,label\nx,a\n"y,b\nz,a\n', 3, "unexpected end of data", "never closed"),
    "quote inside quotes": ("a.csv", 'text,label\n"say "x" now",a\n', 2, "can't be read", "write each one twice"),
    "swallowed rest": ("a.csv", 'text,label\n"x,a\n' + "y,b\n" * 50_000, 2, "field larger", "never closed"),
    "long text": ("a.csv", "text,label\n" + "x" * 140_000 + ",a\n", 2, "field larger", "131072 characters as TSV"),
    "wrong encoding": ("a.csv", b"text,label\nx,a\n\nna\xefve,b\n", 4, "no UTF-8", "save the file as UTF-8"),
    "wrong encoding in JSONL": ("a.jsonl", OBJECT.encode() + b'{"text": "\xe4"}', 2, "no UTF-8", "UTF-8"),
    "two encodings": (
        *("a.csv", "text,label\nnaïve café,a\n".encode() + "très élevé où,b\n".encode("cp1252")),
        *(3, "no UTF-8", "save the file as UTF-8"),
    ),
    "empty text": ("a.csv", "text,label\nx,a\n  ,b\n", 3, "'text' holds an empty text", "leave the row out"),
    "empty label": ("a.csv", "text,label\nx,\n", 2, "'label' holds no label", "leave the row out"),
    "missing label as a word": ("a.csv", "text,label\nx,NaN\n", 2, "no label, but 'NaN'", "leave the row out"),
    "invisible label": ("a.csv", "text,label\nx,\u200b\n", 2, "'label' holds no label", "leave the row out"),
    "fraction in Parquet": ("a.parquet", table([Decimal("0.5")]), 1, "neither a string nor", "--label-column"),
    "no label in Parquet": ("a.parquet", table(["a", None]), 2, "holds no label", "leave the row out"),
    "missing column in Parquet": (
        "a.parquet",
        table(["a"], "review"),
        None,
        "'review', 'label'",
        "`--text-column review`",
    ),
    "null label": ("a.jsonl", OBJECT + '{"text": "x", "label": null}', 2, "holds no label", "leave the row out"),
    "label is not a number": ("a.jsonl", '{"text": "x", "label": NaN}', 1, "holds no label", "leave the row out"),
    "fraction as label": ("a.jsonl", OBJECT + '{"text": "x", "label": 0.5}', 2, "holds 0.5", "--label-column"),
    "several labels": ("a.jsonl", '{"text": "x", "label": ["a", "b"]}', 1, "2 labels, and a text has one", "keep one"),
    "several labels in CSV": ("a.csv", "text,label\nx,\"['a', 'b']\"\n", 2, "holds 2 labels", "keep one label"),
    "several labels of numpy": ("a.tsv", "text\tlabel\nx\t['a' \"b's\"]\n", 2, "labels", "keep one label"),
    "several labels in Parquet": ("a.parquet", table([["a", "b"]]), 1, "class: 'a', 'b'", "leave the row out"),
    "no label in a list": ("a.jsonl", '{"text": "x", "label": []}', 1, "holds no label", "leave the row out"),
    "list in a list": ("a.jsonl", '{"text": "x", "label": [["a"]]}', 1, "neither a string nor", "--label-column"),
    "probabilities": ("a.jsonl", '{"text": "x", "label": {"a": 0.9}}', 1, "neither a string nor", "--label-column"),
    "number as text": ("a.jsonl", '{"text": 5, "label": "a"}', 1, "should hold text, found int", "as a string"),
    "columns with other names": (
        *("a.json", json.dumps([{"id": n, "Freitext": f"a text of words {n}", "Art": "ab"[n % 2]} for n in range(9)])),
        *(1, "'id', 'Freitext', 'Art'", "add `--text-column Freitext --label-column Art` to the command"),
    ),
    "no header": (
        *("a.csv", "".join(f"a text of words {n},{'ab'[n % 2]}\n" for n in range(9)), 1, "'a text of words 0', 'a'"),
        "name the text column with --text-column, or add the header if the file has none",
    ),
    "capital letters": (
        "a.jsonl",
        '{"Text": "x", "LABEL": 1}',
        1,
        "no column",
        "`--text-column Text --label-column LABEL`",
    ),
    "names of columns with spaces": ("a.csv", "text,Label \nx,a\n", 1, "no column 'label'", "--label-column Label`"),
    "broken array": ("a.json", '[{"text": "x",\n "label": }]', 2, "this is no JSON", "an array of objects"),
    "null text": ("a.jsonl", '{"text": null, "label": "a"}', 1, "found nothing", "leave the row out"),
    "half a surrogate pair": ("a.jsonl", r'{"text": "x\ud83e", "label": "a"}', 1, "position 1", r"\u escape"),
    "no object": ("a.jsonl", OBJECT + "[1, 2]\n", 2, "expected a JSON object, found list", "one object a line"),
    "broken JSON": ("a.jsonl", OBJECT + '{"text": "x"\n', 2, "this is no JSON", "one object a line"),
    "bottomless JSON": ("a.jsonl", OBJECT + "[" * 100_000, 2, "this is no JSON", "one object a line"),
    "header alone": ("a.csv", "text,label\n", None, "there are no rows", "the file you meant"),
    "empty file": ("a.tsv", "", None, "there are no rows", "the file you meant"),
    "no Parquet": ("a.parquet", "text,label\n", None, "can't be read as Parquet", "write the file again"),
    "unknown suffix": ("a.doc", "x", None, "'.doc' does not tell the format", "'.jsonl', '.parquet'"),
    "texts alone": ("a.txt", "x", None, "a text file holds no labels", "--classes good,bad --teacher"),
    "CoLA with a header": ("in_domain_train.tsv", "text\tlabel\nx\t1\n", 1, "expected 4 fields, found 2", "field"),
}


class TestRefusals:
    @pytest.mark.parametrize(("name", "written", "line", "message", "remedy"), REFUSALS.values(), ids=REFUSALS)
    def test_names_file_line_and_remedy(self, tmp_path, name, written, line, message, remedy):
        path = write(tmp_path, name, written)
        with pytest.raises(DataError) as caught:
            read_rows(path, CONFIG)
        assert caught.value.file == str(path)
        assert caught.value.line == line
        assert message in str(caught.value)
        assert remedy in caught.value.remedy

    def test_all_bad_rows_are_counted_and_ten_listed(self, tmp_path):
        bad = [",x", "text,", "one field", *[" ,x"] * 11]
        path = write(tmp_path, "a.csv", "\n".join(["text,label", "good,x", *bad]))
        with pytest.raises(DataError, match=r"a\.csv:3: 14 rows can't be read") as caught:
            read_rows(path, CONFIG)
        listed = str(caught.value).splitlines()[1:]
        assert listed[0] == "  line 3: column 'text' holds an empty text"
        assert listed[1] == "  line 4: column 'label' holds no label"
        assert listed[2] == "  line 5: expected 2 fields, found 1"
        assert listed[10:] == [
            "  and 4 more",
            "  what to do: of the first row: leave the row out; --skip-bad-rows leaves such rows out",
        ]

    @pytest.mark.parametrize(
        ("name", "content", "line"),
        [("a.csv", "text,label\nx,good\ny,2\n", 3), ("in_domain_train.tsv", "a\t1\t\tx\na\t2\t\ty\n", 2)],
    )
    def test_unknown_label(self, tmp_path, name, content, line):
        path = write(tmp_path, name, content)
        with pytest.raises(DataError, match="unknown label '2'") as caught:
            read_examples(str(path), CONFIG, ("bad", "good", *COLA_LABELS))
        assert (caught.value.file, caught.value.line) == (str(path), line)
        assert "'bad', 'good'" in caught.value.remedy

    def test_remedy_for_hub_data_is_to_save_it_first(self):
        name, first = "Hugging Face hub, owner/name, train", "save it as a Parquet file and give its path; in there, "
        rows = parse_records([(1, {"text": "x", "label": "c"})], CONFIG, name)
        refused = [
            ("leave the row out", lambda: parse_records([(1, {"text": " ", "label": "a"})], CONFIG, name)),
            ("correct it, leave the row out", lambda: to_examples(rows, ("a", "b"), name, DataConfig())),
            ("rename all but one", lambda: check_columns(["text", "label", "text"], CONFIG, name)),
            ("add rows of another", lambda: label_names_of(rows, name)),
        ]
        for remedy, read in refused:
            with pytest.raises(DataError) as caught:
                read()
            assert first + remedy in caught.value.remedy

    def test_missing_pair_column(self, tmp_path):
        path = write(tmp_path, "a.csv", "premise,sentence2,label\nx,y,a\n")
        with pytest.raises(DataError, match="no column 'hypothesis'") as caught:
            read_rows(path, PAIRS)
        assert "`--pair-column sentence2`" in caught.value.remedy

    @pytest.mark.parametrize("name", ["absent.csv", "absent.jsonl", "absent.parquet", "in_domain_dev.tsv"])
    def test_absent_file(self, tmp_path, name):
        with pytest.raises(DataError, match="can't be"):
            read_rows(tmp_path / name, CONFIG)

    def test_parquet_with_strings_that_are_no_utf8(self, tmp_path):
        broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
        pq.write_table(pa.table({"text": broken, "label": ["a"]}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match="can't be read as Parquet"):
            read_rows(tmp_path / "a.parquet", CONFIG)

    def test_bad_rows_can_be_skipped_and_are_kept(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        rows = "".join(f"x{n},{'' if n % 2 else 'a'}\n" for n in range(30))
        path = write(tmp_path, "a.csv", f"text,label\n{rows}one,two,three\n")
        config = DataConfig(skip_bad_rows=True)
        assert [row.text for row in read_rows(path, config)] == [f"x{n}" for n in range(0, 30, 2)]
        said = capsys.readouterr().err
        assert "16 rows can't be read" in said
        assert "line 3: column 'label' holds no label" in said
        assert "and 6 more" in said
        (listed,) = tmp_path.glob("*-a.csv.bad-rows.jsonl")  # named by the whole path
        assert f"left out; {listed.name} lists them" in said
        kept = [json.loads(line) for line in listed.read_text().splitlines()]
        assert len(kept) == 16
        assert kept[0] == {"line": 3, "problem": "column 'label' holds no label", "row": {"text": "x1", "label": ""}}
        assert kept[-1] == {"line": 32, "problem": "expected 2 fields, found 3"}
        path.write_text("text,label\n,a\n")
        with pytest.raises(DataError, match="there are no rows"):
            read_rows(path, config)
        with pytest.raises(DataError) as caught:
            read_rows(path, CONFIG)
        assert "--skip-bad-rows" not in str(caught.value)  # nothing would be left
