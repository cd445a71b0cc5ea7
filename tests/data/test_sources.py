import bz2
import gzip
import io
import json
import lzma
import sys
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest

from potstill.config import DataConfig
from potstill.data import Corpus, Examples, load_corpus, piped
from potstill.data.parts import VALIDATION
from potstill.errors import ConfigError, DataError, SourceError
from tools.grammar import generate

SHARED = Path(__file__).parents[3] / "shared"
needs_cola = pytest.mark.skipif(not (SHARED / "cola").is_dir(), reason="CoLA is not beside the checkout")
needs_banking77 = pytest.mark.skipif(not (SHARED / "banking77").is_dir(), reason="Banking77 is not beside the checkout")


@pytest.fixture(autouse=True)
def bare_directory(tmp_path, monkeypatch):
    """Work where no CoLA is in reach and the hub is out of bounds."""
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.delenv("POTSTILL_DATA", raising=False)

    def unreachable(*_arguments):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    return directory


@pytest.fixture
def standard_input(monkeypatch):
    """Let standard input hold what the fixture is called with."""

    def hold(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    piped._piped.cache_clear()
    yield hold
    piped._piped.cache_clear()


def write_csv(path: Path, per_class: dict[str, int], prefix: str = "text") -> None:
    rows = (f"{prefix} {label} {i},{label}\n" for label, count in per_class.items() for i in range(count))
    path.write_text("text,label\n" + "".join(rows), encoding="utf-8")


def write_cola(directory: Path, train: int = 40, test: int = 4) -> None:
    directory.mkdir(parents=True)
    for name, count in (("in_domain_train.tsv", train), ("in_domain_dev.tsv", test)):
        lines = (f"x01\t{i % 2}\t\tSentence {i} of {name}.\n" for i in range(count))
        (directory / name).write_text("".join(lines), encoding="utf-8")


def sizes(corpus: Corpus) -> tuple[int, int, int]:
    return len(corpus.train), len(corpus.validation), len(corpus.test)


def serve(monkeypatch, **parts: datasets.Dataset) -> list[tuple[str, str | None]]:
    """Let the hub hold these parts, and note what is asked of it."""
    asked: list[tuple[str, str | None]] = []

    def load_dataset(path, configuration):
        asked.append((path, configuration))
        return datasets.DatasetDict(parts)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def hub_part(labels: list[int], column: str = "text") -> datasets.Dataset:
    features = datasets.Features(
        {column: datasets.Value("string"), "label": datasets.ClassLabel(names=["unacceptable", "acceptable"])}
    )
    return datasets.Dataset.from_dict({column: [f"text {i}" for i in range(len(labels))], "label": labels}, features)


class TestCola:
    @needs_cola
    def test_counts(self):
        corpus = load_corpus(DataConfig(source=str(SHARED / "cola")))
        learnt_from = np.concatenate([corpus.train.labels, corpus.validation.labels])
        assert (len(learnt_from), learnt_from.sum()) == (8551, 6023)
        assert (len(corpus.test), corpus.test.labels.sum()) == (527, 365)
        assert len(corpus.validation) == 855
        assert corpus.label_names == ("unacceptable", "acceptable")
        assert corpus.validation.labels.mean() == pytest.approx(6023 / 8551, abs=1e-3)

    @pytest.mark.parametrize("place", ["data/cola", "../shared/cola", "elsewhere", "elsewhere/cola"])
    def test_local_copies_are_found(self, monkeypatch, place):
        monkeypatch.setenv("POTSTILL_DATA", "elsewhere")
        write_cola(Path(place))
        corpus = load_corpus(DataConfig(source="cola"))
        assert (corpus.name, corpus.source) == ("cola", place)
        assert sizes(corpus) == (36, 4, 4)

    def test_configured_columns_have_no_effect(self):
        write_cola(Path("data/cola"))
        assert sizes(load_corpus(DataConfig(source="cola", text_column="body", pair_column="title"))) == (36, 4, 4)

    def test_without_the_test_part(self):
        write_cola(Path("data/cola"))
        Path("data/cola/in_domain_dev.tsv").unlink()
        with pytest.raises(DataError, match=r"in_domain_dev\.tsv"):
            load_corpus(DataConfig(source="cola"))

    def test_from_the_hub(self, monkeypatch):
        asked = serve(
            monkeypatch,
            train=hub_part([0, 1] * 20, "sentence"),
            validation=hub_part([1, 0, 1], "sentence"),
            test=hub_part([-1] * 5, "sentence"),
        )
        corpus = load_corpus(DataConfig(source="cola"))
        assert asked == [("nyu-mll/glue", "cola")]
        assert corpus.test.labels.tolist() == [1, 0, 1]
        assert "hub" in corpus.source.lower()

    def test_unreachable(self):
        with pytest.raises(SourceError, match="no network in tests") as caught:
            load_corpus(DataConfig(source="cola"))
        assert "../shared/cola" in str(caught.value)
        assert "in_domain_train.tsv" in str(caught.value)


def test_clinc150_is_in_the_package():
    corpus = load_corpus(DataConfig(source="clinc150"))
    assert corpus.num_classes == 150
    assert (len(corpus.train) + len(corpus.validation), len(corpus.test)) == (7500, 7500)
    assert set(np.bincount(corpus.test.labels)) == {50}
    names = np.array(corpus.label_names)[corpus.test.labels]
    assert names[corpus.test.texts.index("block my american saving bank for now")] == "freeze_account"


def test_some_domains_of_clinc150():
    corpus = load_corpus(DataConfig(source="clinc150:home, meta"))
    assert corpus.name == "clinc150"
    assert (len(corpus.train) + len(corpus.validation), len(corpus.test)) == (30 * 50, 30 * 50)
    assert {"smart_home", "yes"} <= set(corpus.label_names)
    assert "freeze_account" not in corpus.label_names
    with pytest.raises(SourceError, match=r"(?s)no domain .garden..*choose among auto_and_commute, banking"):
        load_corpus(DataConfig(source="clinc150:home,garden"))


class TestBuiltin:
    def test_is_the_default(self):
        corpus = load_corpus(DataConfig())
        assert corpus.name == "builtin"
        assert corpus.label_names == ("unacceptable", "acceptable")
        assert len(corpus.test) == len(generate("heldout"))
        assert len(corpus.train) + len(corpus.validation) == len(generate("train"))

    @pytest.mark.parametrize("max_train_examples", [None, 200])
    def test_minimal_pairs_stay_together(self, max_train_examples):
        corpus = load_corpus(DataConfig(source="builtin", max_train_examples=max_train_examples))
        pair_of = {written.sentence: written.pair for written in generate("train")}
        train = [pair_of[text] for text in corpus.train.texts]
        validation = [pair_of[text] for text in corpus.validation.texts]
        assert not set(train) & set(validation)
        assert len(train) == 2 * len(set(train))
        assert len(validation) == 2 * len(set(validation))
        if max_train_examples:
            assert len(train) + len(validation) == max_train_examples


class TestFiles:
    def test_single_file_holds_out_a_tenth(self):
        write_csv(Path("mail.csv"), {"spam": 40, "ham": 160})
        corpus = load_corpus(DataConfig(source="mail.csv"))
        assert (corpus.name, corpus.source, corpus.label_names) == ("mail", "mail.csv", ("ham", "spam"))
        assert sizes(corpus) == (162, 18, 20)
        assert np.bincount(corpus.test.labels).tolist() == [16, 4]
        texts = corpus.train.texts + corpus.validation.texts + corpus.test.texts
        assert len(set(texts)) == 200

    def test_split_depends_on_its_seed_alone(self):
        write_csv(Path("mail.csv"), {"spam": 40, "ham": 160})
        first, again, other = (load_corpus(DataConfig(source="mail.csv", split_seed=seed)) for seed in (0, 0, 1))
        assert first.train.texts == again.train.texts
        assert first.train.texts != other.train.texts

    @pytest.mark.parametrize("max_train_examples", [None, 100])
    def test_equal_texts_stay_in_one_part(self, max_train_examples):
        forms = ("Text {}", "text {}", " TEXT  {} ")
        rows = [f"{form.format(i)},{('spam', 'ham')[i % 2]}\n" for i in range(100) for form in forms]
        Path("mail.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
        corpus = load_corpus(DataConfig(source="mail.csv", max_train_examples=max_train_examples))
        parts = [{text.split()[1] for text in part.texts} for part in (corpus.train, corpus.validation, corpus.test)]
        assert all(parts)
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
        assert len(corpus.train) + len(corpus.validation) == (99 if max_train_examples else 270)
        assert abs(corpus.test.labels.mean() - 0.5) < 0.1

    def test_single_text_is_refused(self):
        Path("mail.csv").write_text("text,label\n" + "hello,spam\nHello,ham\n" * 20, encoding="utf-8")
        with pytest.raises(DataError, match="too few different texts to split: 40 examples"):
            load_corpus(DataConfig(source="mail.csv"))

    def test_test_file(self):
        write_csv(Path("mail.csv"), {"spam": 20, "ham": 20})
        write_csv(Path("later.csv"), {"ham": 3})
        corpus = load_corpus(DataConfig(source="mail.csv", test="later.csv"))
        assert sizes(corpus) == (36, 4, 3)
        assert corpus.source == "mail.csv, test from later.csv"

    def test_rare_classes_are_learnt_from(self):
        write_csv(Path("mail.csv"), {"spam": 60, "ham": 60, "rare": 1})
        corpus = load_corpus(DataConfig(source="mail.csv"))
        assert corpus.label_names.index("rare") in corpus.train.labels

    def test_too_few_to_split(self):
        write_csv(Path("mail.csv"), {"spam": 1, "ham": 1})
        with pytest.raises(DataError, match="too few different texts") as caught:
            load_corpus(DataConfig(source="mail.csv"))
        assert "add examples" in caught.value.remedy

    def test_limit_smaller_than_the_number_of_classes(self):
        write_csv(Path("mail.csv"), {f"class {i}": 5 for i in range(30)})
        with pytest.raises(DataError, match="none of them for the class") as caught:
            load_corpus(DataConfig(source="mail.csv", max_train_examples=20))
        assert "--max-train-examples" in caught.value.remedy

    @needs_banking77
    def test_banking77(self):
        config = DataConfig(source=str(SHARED / "banking77"), label_column="category")
        corpus = load_corpus(config)
        assert len(corpus.train) + len(corpus.validation) == 10_003
        assert (len(corpus.test), corpus.num_classes) == (3080, 77)
        limited = load_corpus(config.model_copy(update={"max_train_examples": 200}))
        assert sizes(limited) == (180, 20, 3080)
        assert set(limited.train.labels.tolist()) == set(range(77))


class TestDirectories:
    @pytest.fixture(autouse=True)
    def training_part(self, bare_directory):
        write_csv(bare_directory / "train.csv", {"spam": 20, "ham": 20})

    @pytest.mark.parametrize("part", ["test", "Test", "eval", "validation", "valid", "VAL", "dev"])
    @pytest.mark.parametrize("suffix", [".csv", ".CSV"])
    def test_single_part_beside_the_training_part_is_the_test_part(self, capsys, part, suffix):
        write_csv(Path(f"{part}{suffix}"), {"spam": 2}, prefix=part)
        corpus = load_corpus(DataConfig(source="."))
        assert corpus.name == "project"
        assert corpus.source == (f"., test from {part.lower()}" if part.lower() in VALIDATION else ".")
        assert corpus.test.texts == (f"{part} spam 0", f"{part} spam 1")
        assert len(corpus.train) + len(corpus.validation) == 40
        assert "not used" not in capsys.readouterr().err

    @pytest.mark.parametrize("part", ["validation", "valid", "Val", "dev", "EVAL"])
    @pytest.mark.parametrize("max_train_examples", [None, 20])
    def test_validation_part_beside_a_test_part(self, part, max_train_examples):
        write_csv(Path("test.csv"), {"spam": 2})
        write_csv(Path(f"{part}.csv"), {"ham": 3}, prefix="validation")
        corpus = load_corpus(DataConfig(source=".", max_train_examples=max_train_examples))
        assert sizes(corpus) == (max_train_examples or 40, 3, 2)
        assert corpus.validation.texts[0] == "validation ham 0"
        assert corpus.source == f"., validation from {part.lower()}"

    def test_validation_part_beside_a_named_test_file(self):
        write_csv(Path("dev.csv"), {"ham": 3})
        write_csv(Path("labelled.csv"), {"spam": 2})
        corpus = load_corpus(DataConfig(source=".", test="labelled.csv"))
        assert sizes(corpus) == (40, 3, 2)
        assert corpus.source == "., validation from dev, test from labelled.csv"

    def test_validation_part_is_a_named_file(self):
        write_csv(Path("test.csv"), {"spam": 2})
        write_csv(Path("dev.csv"), {"spam": 2})
        write_csv(Path("mine.csv"), {"ham": 3})
        corpus = load_corpus(DataConfig(source=".", validation="mine.csv"))
        assert sizes(corpus) == (40, 3, 2)
        assert corpus.source == "., validation from mine.csv"
        assert sizes(load_corpus(DataConfig(source="train.csv", validation="mine.csv"))) == (36, 3, 4)

    def test_positive_class_is_one_of_the_classes(self):
        assert load_corpus(DataConfig(source="train.csv", positive_class="spam")).positive == 1
        assert load_corpus(DataConfig(source="train.csv")).positive is None
        with pytest.raises(ConfigError, match="no class 'eggs'; the classes are 'ham', 'spam'"):
            load_corpus(DataConfig(source="train.csv", positive_class="eggs"))

    def test_shards_are_read_as_one(self):
        Path("train.csv").unlink()
        for shard, label in enumerate(("spam", "ham")):
            write_csv(Path(f"train-{shard:05}-of-00002.csv"), {label: 20})
        Path("test-00000-of-00001.jsonl").write_text(json.dumps({"text": "x", "label": "ham"}), encoding="utf-8")
        corpus = load_corpus(DataConfig(source="."))
        assert sizes(corpus) == (36, 4, 1)
        assert corpus.label_names == ("ham", "spam")
        Path("train-00001-of-00002.csv").unlink()
        with pytest.raises(SourceError, match=r"train-00000-of-00002\.csv: neither one file nor all shards"):
            load_corpus(DataConfig(source="."))

    def test_unused_data_files_are_named(self, capsys):
        for part in ("test", "dev", "eval", "extra"):
            write_csv(Path(f"{part}.csv"), {"spam": 2})
        for name in ("dev.ods", "README.md", "info.json"):
            Path(name).touch()
        load_corpus(DataConfig(source="."))
        told = " ".join(capsys.readouterr().err.split())
        assert "holds files that are not used: dev.ods, eval.csv, extra.csv" in told
        assert "README" not in told
        assert "info" not in told

    def test_a_pattern_names_several_files(self):
        for name in ("mail-1.csv", "mail-2.csv", "other.csv"):
            write_csv(Path(name), {"spam": 20, "ham": 20})
        corpus = load_corpus(DataConfig(source="mail-*.csv"))
        assert (corpus.name, corpus.source) == ("mail", "mail-*.csv (2 files)")
        assert len(corpus.everything) == 80

    def test_part_that_is_replaced_is_not_read(self):
        write_csv(Path("labelled.csv"), {"spam": 2})
        Path("test.csv").write_text("text\nwithout labels\n", encoding="utf-8")
        assert len(load_corpus(DataConfig(source=".", test="labelled.csv")).test) == 2

    def test_without_training_data(self):
        Path("train.csv").unlink()
        with pytest.raises(SourceError, match=r"no training data\n.*train\.csv"):
            load_corpus(DataConfig(source="."))

    def test_two_training_files(self):
        Path("train.jsonl").touch()
        with pytest.raises(SourceError, match=r"holds train\.csv and train\.jsonl: neither"):
            load_corpus(DataConfig(source="."))


class TestHub:
    def test_classes_keep_names_and_order(self, monkeypatch):
        asked = serve(monkeypatch, train=hub_part([0, 1] * 20), test=hub_part([1, 0]))
        corpus = load_corpus(DataConfig(source="owner/name"))
        assert asked == [("owner/name", None)]
        assert (corpus.name, corpus.label_names) == ("owner/name", ("unacceptable", "acceptable"))
        assert corpus.test.labels.tolist() == [1, 0]

    def test_a_validation_part_beside_a_labelled_test_part_is_used_as_it_is(self, monkeypatch):
        serve(monkeypatch, train=hub_part([0, 1] * 20), test=hub_part([1, 0]), validation=hub_part([1, 1, 0]))
        corpus = load_corpus(DataConfig(source="owner/name"))
        assert sizes(corpus) == (40, 3, 2)
        assert corpus.source == "Hugging Face hub, owner/name, validation from validation"

    def test_lists_of_classes_keep_names_and_order(self, monkeypatch):
        names = datasets.Sequence(datasets.ClassLabel(names=["joy", "anger", "grief"]))
        features = datasets.Features({"text": datasets.Value("string"), "labels": names})
        rows = {"text": [f"text {i}" for i in range(40)], "labels": [[1, 0], [0], [], [1]] * 10}
        part = datasets.Dataset.from_dict(rows, features)
        serve(monkeypatch, train=part, test=part.select(range(4)))
        corpus = load_corpus(DataConfig(source="owner/name", label_column="labels", multi_label=True))
        assert corpus.label_names == ("joy", "anger", "grief")
        assert corpus.test.labels.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]]

    def test_plain_labels_without_a_test_part(self, monkeypatch):
        texts = [f"text {i}" for i in range(100)]
        asked = serve(monkeypatch, train=datasets.Dataset.from_dict({"text": texts, "label": [10, 9] * 50}))
        corpus = load_corpus(DataConfig(source="owner/name.en:v1-2"))
        assert asked == [("owner/name.en", "v1-2")]
        assert corpus.label_names == ("9", "10")
        assert sizes(corpus) == (81, 9, 10)

    def test_missing_column(self, monkeypatch):
        serve(monkeypatch, train=hub_part([0, 1], "sentence"))
        with pytest.raises(DataError, match="`--text-column sentence`"):
            load_corpus(DataConfig(source="owner/name"))

    def test_withheld_label(self, monkeypatch):
        serve(monkeypatch, train=hub_part([0, 1, -1]))
        with pytest.raises(DataError, match="holds no label") as caught:
            load_corpus(DataConfig(source="owner/name"))
        assert (caught.value.file, caught.value.line) == ("Hugging Face hub, owner/name, train", 3)

    def test_without_a_training_part(self, monkeypatch):
        serve(monkeypatch, test=hub_part([0, 1]))
        with pytest.raises(SourceError, match="no split 'train'; its parts are test"):
            load_corpus(DataConfig(source="owner/name"))

    def test_unreachable(self):
        with pytest.raises(SourceError, match="no network in tests"):
            load_corpus(DataConfig(source="owner/name"))


@pytest.mark.parametrize(
    "source", ["colla", "mail.csv", "./mail", "/no/where", "../shared/colla", "sub/mail", "owner/mail.csv", "a/b/c", ""]
)
def test_misspelt_paths_are_no_hub_names(monkeypatch, source):
    asked = serve(monkeypatch, train=hub_part([0, 1]))
    Path("sub").mkdir()
    with pytest.raises(SourceError, match=r"`owner/name:configuration`|no training data"):
        load_corpus(DataConfig(source=source))
    assert asked == []


def test_a_models_classes_are_told_by_name_or_by_number():
    examples = Examples(("a", "b"), np.array([0, 1]))
    corpus = Corpus("tiny", "made up", ("bad", "good"), examples, examples, examples)
    assert corpus.has_classes(("bad", "good"))
    assert corpus.has_classes(("0", "1"))
    assert not corpus.has_classes(("good", "bad"))
    assert not corpus.has_classes(("0", "1", "2"))


class TestSeveralFiles:
    def test_all_files_are_one_set(self, capsys):
        write_csv(Path("a.csv"), {"spam": 20, "ham": 20})
        write_csv(Path("b.csv"), {"spam": 10, "ham": 5}, prefix="other")
        corpus = load_corpus(DataConfig(source=("a.csv", "b.csv")))
        assert (corpus.name, len(corpus.everything)) == ("a-and-1-more", 55)
        assert "rows of each file: a.csv 40, b.csv 15" in capsys.readouterr().err

    def test_a_directory_of_shards(self):
        Path("shards").mkdir()
        for number in range(3):
            write_csv(Path(f"shards/part-{number}.csv"), {"spam": 10, "ham": 10}, prefix=str(number))
        corpus = load_corpus(DataConfig(source="shards"))
        assert (corpus.source, len(corpus.everything)) == ("shards (3 files)", 60)

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            ("b.csv", r"b\.csv:1: there is no column 'label'.*\n.*give it the columns of a\.csv"),
            ("a.csv", r"a\.csv is named twice"),
            ("missing.csv", r"there is no file 'missing\.csv'\n.*several DATA"),
            ("test.csv", r"test\.csv is called like a test split, .*\n.*--test-data"),
        ],
    )
    def test_what_does_not_belong_together_is_refused(self, second, message):
        write_csv(Path("a.csv"), {"spam": 2, "ham": 2})
        write_csv(Path("test.csv"), {"spam": 2, "ham": 2})
        Path("b.csv").write_text("text,class\nsome text,spam\n", encoding="utf-8")
        with pytest.raises((DataError, SourceError), match=message):
            load_corpus(DataConfig(source=("a.csv", second)))


class TestStandardInput:
    @pytest.mark.parametrize(
        ("content", "suffix"),
        [
            (b"text,label\na,b\n", ".csv"),
            (b"text;label\na;b\n", ".csv"),
            (b"\xef\xbb\xbftext\tlabel\na\tb\n", ".tsv"),
            (b'{"text": "a", "label": "b"}\n', ".json"),
            (b'\n[{"text": "a"}]', ".json"),
            (b"[\n{}]", ".json"),
            (b"PAR1...", ".parquet"),
            (gzip.compress(b"text\tlabel\na\tb\n"), ".tsv"),
            (bz2.compress(b"text,label\na,b\n"), ".csv"),
            (lzma.compress(b'{"text": "a"}'), ".json"),
        ],
    )
    def test_the_beginning_tells_the_format(self, content, suffix, standard_input):
        standard_input(content)
        assert piped.standard_input(DataConfig()).suffix == suffix

    @pytest.mark.parametrize("content", [b"One text, of two parts.\nAnother.\n", b"[Laughs] A text.\n", b"{a} b\n"])
    def test_lines_without_columns_are_texts_where_classes_are_named(self, content, standard_input):
        standard_input(content)
        assert piped.standard_input(DataConfig(classes=("good", "bad"))).suffix == ".txt"

    def test_it_is_read_once_and_kept(self, standard_input, tmp_path):
        rows = "".join(f"text {number},{'spam' if number % 2 else 'ham'}\n" for number in range(40))
        standard_input(f"text,label\n{rows}".encode())
        config = DataConfig(source="-")
        corpus = load_corpus(config)
        assert (corpus.name, corpus.label_names, len(corpus.everything)) == ("stdin", ("ham", "spam"), 40)
        kept = piped.keep_standard_input(config, tmp_path)
        assert kept.source == str(tmp_path / "standard-input.csv")
        assert load_corpus(kept).key() == corpus.key()

    def test_archives_are_unpacked_and_sheets_are_read(self, standard_input):
        rows = [{"text": f"text {number}", "label": number % 2} for number in range(40)]
        sheet, archive = io.BytesIO(), io.BytesIO()
        pandas.DataFrame(rows).to_excel(sheet, index=False)
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("a.csv", pandas.DataFrame(rows).to_csv(index=False))
        found = []
        for content in (sheet.getvalue(), archive.getvalue()):
            standard_input(content)
            found.append(load_corpus(DataConfig(source="-")))
            piped._piped.cache_clear()
        assert found[0].key() == found[1].key()
        assert [corpus.label_type for corpus in found] == ["int", "int"]

    def test_a_damaged_archive_is_named(self, standard_input):
        standard_input(gzip.compress(b"text,label\n")[:-9])
        with pytest.raises(DataError, match=r"<stdin>: this can't be unpacked"):
            load_corpus(DataConfig(source="-"))

    def test_errors_name_it(self, standard_input):
        standard_input(b"text,label\nsome text\n")
        with pytest.raises(DataError, match=r"<stdin>\.csv:2: expected 2 fields"):
            load_corpus(DataConfig(source="-"))
