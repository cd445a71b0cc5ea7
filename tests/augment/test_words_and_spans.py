"""The unlabelled set of words and spans, in a whole run."""

import potstill
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig


def config_for(tmp_path, backbone, *, pairs):
    rows = [
        f"the {noun} was {word},so {word},{label}" for noun in "abcdefgh" for word, label in (("fine", 1), ("bad", 0))
    ]
    (tmp_path / "data.csv").write_text("\n".join(["text,second,label", *rows * 2]))
    return PotstillConfig.build(
        {
            "data": {"source": str(tmp_path / "data.csv"), "pair_column": "second" if pairs else None},
            "teacher": {"backbone": str(backbone), "training": {"epochs": 1}},
            "augment": {"words": 12, "spans": 6},
            "student": {
                "embedding_size": 4,
                "hidden_size": 4,
                "vocab_size": 300,
                "training": {"epochs": 1},
                "seeds": [0],
            },
        }
    )


def test_words_and_spans_are_labelled_by_the_teacher_and_counted(tiny_backbone, tmp_path):
    summary, directory = potstill.run(config_for(tmp_path, tiny_backbone, pairs=False), tmp_path / "run")
    kept = UnlabelledSet.load(directory / "unlabelled")
    assert kept.logits.shape == (len(kept), 2)
    assert summary.unlabelled["words"] == kept.sources.count("words:") > 0
    assert summary.unlabelled["spans"] == kept.sources.count("spans:") > 0
    report = (directory / "report.md").read_text()
    assert "single words" in report
    assert "spans of the training texts" in report


def test_pairs_of_texts_get_no_words_and_spans(tiny_backbone, tmp_path):
    summary, directory = potstill.run(config_for(tmp_path, tiny_backbone, pairs=True), tmp_path / "run")
    assert summary.unlabelled is None
    assert not (directory / "unlabelled").exists()
