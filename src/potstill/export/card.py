"""The card of an exported student: what it is, what it scores, where it comes from, what it can't do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from potstill.config import PotstillConfig
from potstill.evaluation import DataSummary, Intervals, Metrics, majority_verdict
from potstill.export.origin import Origin
from potstill.predict.directory import Manifest
from potstill.predict.tokens import CHARACTERS_A_TOKEN
from potstill.predict.wording import in_markdown
from potstill.report.tables import (
    Cell,
    ResultTable,
    classes,
    data_in_markdown,
    magnitude,
    percent,
    score,
    score_cells,
    score_headers,
)
from potstill.teacher.backbone.builtin import BUILTIN

Layout = Literal["onnx", "huggingface"]

_FRONT_MATTER: Final = """\
---
library_name: potstill
pipeline_tag: text-classification
tags:
- distillation
- rnn
---

"""

_BACKBONE_LICENCES: Final = {BUILTIN: "Apache-2.0 (SmolLM2-135M-Instruct)"}
"""Of the backbone that Potstill can bring along."""
_DATA_LICENCES: Final = {
    "cola": "CoLA's sentences are excerpts from published linguistics texts; they belong to their authors. None is in "
    "these files.",
    "clinc150": "The training texts are CLINC150's (Larson et al. 2019, https://github.com/clinc/oos-eval), CC BY 3.0.",
    "builtin": "The training texts are Potstill's own, generated under Apache-2.0.",
}

_USE: Final[dict[Layout, str]] = {
    "onnx": """\
```python
import potstill  # pip install '.' in a checkout of Potstill, or its wheel; needs no torch

classifier = potstill.Classifier.load("DIRECTORY")
classifier.predict([{example}])
```

In a shell, `potstill predict DIRECTORY FILE` and `potstill serve DIRECTORY` do the same.

Any other program with onnxruntime: `tokenizer.json` (library `tokenizers`) makes ids of a text, at most
{max_length} of them; a text without any token is the one id {pad_token_id}. `model.onnx` takes `input_ids`, int64
(batch, length), padded on the right with {pad_token_id}, and `lengths`, int32 (batch,), and gives `logits`, float32
(batch, classes), in the order of `labels.json`. {ngrams}Probabilities are softmax(logits / {temperature:.6g}).""",
    "huggingface": """\
```python
from transformers import PreTrainedTokenizerFast

from potstill.student.saved import load_network  # pip install '.[train]' in a checkout of Potstill

network = load_network("DIRECTORY")  # a torch.nn.Module in evaluation mode
tokenizer = PreTrainedTokenizerFast.from_pretrained("DIRECTORY")
batch = tokenizer([{example}], padding=True, truncation=True, return_tensors="pt")
{ngrams}network(batch.input_ids, batch.attention_mask.bool(){more})  # logits
```

The network is no architecture of `transformers`: `AutoModel` does not know it. Probabilities are
softmax(logits / {temperature:.6g}).""",
}

_NGRAMS: Final[dict[Layout, str]] = {
    "onnx": "Of hashed n-grams it takes `ngram_rows`, int64, and `ngram_weights`, float32, (batch, ngrams): "
    "`potstill.predict.ngrams.hash_ngrams(texts, second_texts_or_none, {buckets}, {max_length})` and the method "
    "`padded` of its result make them. A student of n-grams alone takes no tokens. ",
    "huggingface": """\
import numpy, torch, potstill.predict.ngrams

found = potstill.predict.ngrams.hash_ngrams([{first}], {second}, {buckets}, {max_length}).padded(numpy.array([0]))
ngrams = map(torch.from_numpy, found)
""",
}
"""What students that read n-grams need beside tokens."""

_LIMITS: Final = """\
- It always answers with one of its classes, whatever the text.
- It reads the first {max_length} tokens of a text{ngrams}, and nothing beyond.
- It knows texts like those that it learnt from. Other kinds, other languages and other times were not measured, nor \
whether it treats people of different groups alike.
- {calibration}"""


@dataclass(frozen=True)
class Score:
    """What a model scored on the test split."""

    name: str
    metrics: Metrics
    intervals: Intervals


@dataclass(frozen=True)
class Card:
    """All that a card says."""

    manifest: Manifest
    origin: Origin
    layout: Layout
    network: str
    """The network in one phrase."""
    parameters: int
    difference: float
    """The largest difference of a logit between the exported files and PyTorch."""
    score: Score | None
    """None where there is nothing to score it on."""

    def text(self) -> str:
        """Write the card in Markdown."""
        manifest, data = self.manifest, self._data
        calibrated = (
            "Its probabilities are not calibrated: the validation split favoured no temperature."
            if manifest.temperature == 1.0
            else "Its probabilities were calibrated on the validation split (one temperature); elsewhere they may be "
            "too high or too low."
        )
        sections = {
            "Use": self._use(),
            "Scores": "\n\n".join(self._scores(data)),
            "Where it comes from": _listed(self._making(data)),
            "What was checked": f"- Parity: on random texts of up to {manifest.max_length + 1} tokens the exported "
            f"network's logits and PyTorch's differ by {self.difference:.1e} at most.\n- Checksums: `checksums.json` "
            "holds sizes and SHA-256 digests; a file that does not fit is refused on loading.",
            "Limits": _LIMITS.format(
                max_length=manifest.max_length,
                ngrams=f" and the n-grams of its first {CHARACTERS_A_TOKEN * manifest.max_length:,} characters"
                * bool(manifest.spec.get("ngram_size")),
                calibration=calibrated,
            ),
            "Licences": _listed(self._licences(data)),
        }
        body = "\n\n".join(f"## {title}\n\n{content}" for title, content in sections.items())
        kind = "pairs of texts" if manifest.in_pairs else "texts"
        names = classes([in_markdown(name) for name in manifest.label_names])
        task = "A student" if data is None else data.name
        front_matter = _FRONT_MATTER if self.layout == "huggingface" else ""
        return f"{front_matter}# {task}: a classifier of {kind}\n\nTells apart {names}.\n\n{body}\n"

    @property
    def _data(self) -> DataSummary | None:
        if self.origin.summary is not None:
            return data_in_markdown(self.origin.summary.data)
        return None if self.origin.corpus is None else data_in_markdown(DataSummary.of(self.origin.corpus))

    @property
    def _has_teacher(self) -> bool:
        return self.origin.record is not None and self.origin.record.role == "distilled"

    def _use(self) -> str:
        pair, text = '("A man sleeps.", "Somebody is awake.")', '"The cat sat on the mat."'
        in_pairs, spec = self.manifest.in_pairs, self.manifest.spec
        ngrams = ""
        if spec.get("ngram_size"):
            first, second = ('"A man sleeps."', '["Somebody is awake."]') if in_pairs else (text, "None")
            ngrams = _NGRAMS[self.layout].format(
                first=first, second=second, buckets=spec["ngram_buckets"], max_length=self.manifest.max_length
            )
        use = _USE[self.layout].format(
            example=pair if in_pairs else text,
            ngrams=ngrams,
            more=", *ngrams" if ngrams else "",
            max_length=self.manifest.max_length,
            pad_token_id=spec["pad_token_id"],
            temperature=self.manifest.temperature,
        )
        if self.manifest.threshold is not None:
            second = in_markdown(self.manifest.label_names[1])
            use += f' The answer is "{second}" where its probability is above {self.manifest.threshold:.4f}.'
        return use

    def _scores(self, data: DataSummary | None) -> Iterator[str]:
        if self.score is None or data is None:
            yield (
                f"None on held-out text: {self.origin.no_corpus}. `potstill evaluate DIRECTORY --data FILE` gives them."
            )
        else:
            rows = tuple((Cell(row.name), *score_cells([row], data.positive)) for row in self._rows(self.score))
            yield ResultTable(("", *score_headers(data.label_names, data.positive)), rows).to_markdown()
            yield (
                f"{data.test:,} texts that were used neither for training nor for any choice; [low, high]: 95 % "
                f'bootstrap interval. Always answering "{data.majority_label}" is right in '
                f"{percent(data.majority.accuracy)} of them, with an MCC of 0."
            )
            if verdict := majority_verdict(self.score.intervals, data.majority_label):
                yield f"**This model is {verdict}.**"
        if self.origin.record is not None:
            yield (
                f"On the validation split, which chose the epoch and is therefore optimistic, the MCC was "
                f"{score(float(self.origin.record.best['mcc']))}."
            )

    def _rows(self, own: Score) -> Iterator[Score]:
        yield own
        if (summary := self.origin.summary) is None or not self._has_teacher:
            return
        name = "its teacher" if summary.ensemble is None else "its teachers, averaged"
        if (teacher := summary.ensemble or summary.teacher) is not None:
            yield Score(name, teacher.metrics, teacher.intervals)

    def _making(self, data: DataSummary | None) -> Iterator[str]:
        config, summary, record = self.origin.config, self.origin.summary, self.origin.record
        if data is None:
            yield f"Data: not known; {self.origin.no_corpus}."
        else:
            yield (
                f"Data: {data.name}. {data.train:,} texts to learn from, {data.validation:,} to choose by, "
                f"{data.test:,} for the scores."
            )
        if not self._has_teacher:
            yield "Teacher: not known." if record is None else "Teacher: none, it learnt from the labels alone."
        elif config is not None:
            averaged = ""
            if summary is not None and summary.ensemble is not None:
                averaged = f", {len(summary.of('teacher'))} of them with their probabilities averaged"
            yield (
                f"Teacher: {_teacher(config)}{averaged}. The student learnt from the labels and the teacher's "
                f"probabilities ({config.distillation.describe()})."
            )
        if summary is not None and summary.unlabelled and self._has_teacher:
            yield "It also learnt the teacher's probabilities of texts without labels, the unlabelled set."
        seed = "" if record is None else f", seed {record.seed}"
        size = f"{self.manifest.spec['vocab_size']:,} tokens, {magnitude(self.parameters)} parameters"
        yield f"Network: {self.network}; {size}{seed}."
        yield f"Exported with Potstill {version('potstill')}."

    def _licences(self, data: DataSummary | None) -> Iterator[str]:
        yield "Potstill, which these files are used with: Apache-2.0."
        config = self.origin.config
        if config is None:
            yield "Data and teacher: not known."
            return
        source = config.data.source
        if data is not None and (source == "auto" or Path(source).name == data.name):
            source = data.name
        yield _DATA_LICENCES.get(source, "The data's licence is not known to Potstill: see where it came from.")
        if self._has_teacher:
            backbone = getattr(config.teacher, "backbone", config.teacher.kind)
            known = _BACKBONE_LICENCES.get(backbone, "its licence is not known to Potstill")
            yield f"The teacher's pretrained weights, `{_public(backbone)}`, are not part of these files: {known}."
        yield "What these licences mean for a model that was trained with them is for its user to decide."


def _listed(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _public(name: str) -> str:
    """Name a backbone without the directories of the machine it was read from."""
    is_path = name.startswith((".", "/", "~")) or Path(name).exists()
    return Path(name).name if is_path else name


def _teacher(config: PotstillConfig) -> str:
    teacher = config.teacher
    backbone = getattr(teacher, "backbone", None)
    return (teacher if backbone is None else teacher.model_copy(update={"backbone": _public(backbone)})).describe()
