"""The card of an exported student: what it is, what it scores, where it comes from, what it can't do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from potstill.config import PotstillConfig, TeacherConfig
from potstill.embedded import EMBEDDED
from potstill.evaluation import DataSummary, Intervals, Metrics, majority_verdict
from potstill.export.int8 import Trial
from potstill.export.origin import Origin
from potstill.report.tables import Cell, ResultTable, classes, data_in_markdown, magnitude, percent, score, score_cells
from potstill.runtime.directory import Manifest
from potstill.wording import in_markdown

Layout = Literal["onnx", "torch", "huggingface"]

_FRONT_MATTER: Final = """\
---
library_name: potstill
pipeline_tag: text-classification
tags:
- distillation
- rnn
---

"""

_BACKBONE_LICENCES: Final = {EMBEDDED: "Apache-2.0 (SmolLM2-135M-Instruct)"}
"""Of the backbones whose licence is known here: the one that Potstill can bring along."""
_DATA_LICENCES: Final = {
    "cola": "CoLA's sentences are excerpts from published linguistics texts; they belong to their authors. None is in "
    "these files.",
    "embedded": "The training texts are Potstill's own, generated under Apache-2.0.",
}

_USE: Final[dict[Layout, str]] = {
    "onnx": """\
```python
import potstill  # pip install potstill; no torch

classifier = potstill.Classifier.load("DIRECTORY")
classifier.predict([{example}])
```

In a shell, `potstill predict DIRECTORY FILE` and `potstill serve DIRECTORY` do the same.

Any other program with onnxruntime: `tokenizer.json` (library `tokenizers`) makes ids of a text, at most
{max_tokens} of them; a text without any token is the one id {padding_id}. `model.onnx` takes `input_ids`, int64
(batch, length), padded on the right with {padding_id}, and `lengths`, int32 (batch,), and gives `logits`, float32
(batch, classes), in the order of `labels.json`. Probabilities are softmax(logits / {temperature:.6g}).""",
    "torch": """\
```python
from tokenizers import Tokenizer

from potstill.student.saved import load_network  # pip install 'potstill[train]'

network = load_network("DIRECTORY")  # a torch.nn.Module in evaluation mode
tokenizer = Tokenizer.from_file("DIRECTORY/tokenizer.json")
```

`network(input_ids, mask)` takes int64 (batch, length), padded on the right with {padding_id}, and a bool mask of the
real tokens of the same shape, and returns the logits, (batch, classes), in the order of `labels.json`. Texts are cut to
{max_tokens} tokens; one without any token is the one id {padding_id}. Probabilities are
softmax(logits / {temperature:.6g}).""",
    "huggingface": """\
```python
from transformers import PreTrainedTokenizerFast

from potstill.student.saved import load_network  # pip install 'potstill[train]'

network = load_network("DIRECTORY")  # a torch.nn.Module in evaluation mode
tokenizer = PreTrainedTokenizerFast.from_pretrained("DIRECTORY")
batch = tokenizer([{example}], padding=True, truncation=True, return_tensors="pt")
network(batch.input_ids, batch.attention_mask.bool())  # logits
```

The network is no architecture of `transformers`: `AutoModel` does not know it. Probabilities are
softmax(logits / {temperature:.6g}).""",
}


@dataclass(frozen=True)
class Score:
    """What a graph scored on the evaluation split."""

    name: str
    metrics: Metrics
    intervals: Intervals


@dataclass(frozen=True)
class Card:
    """All that a card tells.

    Attributes:
        manifest: The student's.
        origin: Where it comes from.
        layout: What the directory looks like.
        parameters: Of the network.
        difference: The largest difference of a logit between the exported files and PyTorch.
        batches: Number of batches that were compared.
        scores: Of each graph; empty where there is nothing to score it on.
        trial: How the 8-bit variant did, where one was tried.
        no_int8: Why there is no 8-bit variant; empty where there is one, or none was asked for.
        sizes: Bytes of each file, by name.
    """

    manifest: Manifest
    origin: Origin
    layout: Layout
    parameters: int
    difference: float
    batches: int
    scores: tuple[Score, ...]
    trial: Trial | None
    no_int8: str
    sizes: Mapping[str, int]

    def text(self) -> str:
        """Write the card in Markdown."""
        sections = {
            "Use": self._use(),
            "Scores": "\n\n".join(self._scores()),
            "Where it comes from": _listed(self._making()),
            "What was checked": _listed(self._checks()),
            "Limits": _listed(self._limits()),
            "Licences": _listed(self._licences()),
            "Files": self._files(),
        }
        body = "\n\n".join(f"## {title}\n\n{content}" for title, content in sections.items())
        kind = "pairs of texts" if self.manifest.pairs else "texts"
        names = classes([in_markdown(name) for name in self.manifest.label_names])
        title = f"# {self._task}: a classifier of {kind}\n\nTells apart {names}."
        return f"{_FRONT_MATTER if self.layout == 'huggingface' else ''}{title}\n\n{body}\n"

    @property
    def _data(self) -> DataSummary | None:
        if self.origin.summary is not None:
            return data_in_markdown(self.origin.summary.data)
        return None if self.origin.corpus is None else data_in_markdown(DataSummary.of(self.origin.corpus))

    @property
    def _task(self) -> str:
        return "A student" if self._data is None else self._data.name

    def _use(self) -> str:
        text = _USE[self.layout].format(
            example='("A man sleeps.", "Somebody is awake.")' if self.manifest.pairs else '"The cat sat on the mat."',
            max_tokens=self.manifest.max_tokens,
            padding_id=self.manifest.spec["padding_id"],
            temperature=self.manifest.temperature,
        )
        if self.manifest.threshold is not None:
            second = in_markdown(self.manifest.label_names[1])
            text += f' The answer is "{second}" where its probability is above {self.manifest.threshold:.4f}.'
        if self.trial is not None and not self.no_int8:
            text += (
                "\n\n`model.int8.onnx` is the same network with weights of 8 bits: `Classifier.load(DIRECTORY, "
                "int8=True)`, `potstill predict --int8`, `potstill serve --int8`. It needs onnxruntime: not all of its "
                "operators are part of ONNX."
            )
        return text

    def _scores(self) -> Iterator[str]:
        data, best = self._data, None if self.origin.record is None else self.origin.record.best
        if not self.scores or data is None:
            yield (
                "None on text that decided nothing: "
                f"{self.origin.no_corpus}. `potstill evaluate DIRECTORY --data FILE` gives them."
            )
        else:
            yield ResultTable(
                ("", "accuracy", "MCC", "F1"),
                tuple((Cell(row.name), *score_cells(row.metrics, row.intervals)) for row in self._rows()),
            ).to_markdown()
            yield (
                f"{data.evaluation:,} texts that neither training nor any choice has seen; [low, high]: 95 % bootstrap "
                f'interval. Always answering "{data.majority_label}" is right in {percent(data.majority.accuracy)} of '
                "them, with an MCC of 0."
            )
            if verdict := majority_verdict(self.scores[0].intervals, data.majority_label):
                yield f"**This model is {verdict}.**"
        if best is not None:
            yield (
                f"On the selection split, which chose the epoch and is flattered by that, the MCC was "
                f"{score(float(best['mcc']))}."
            )

    def _rows(self) -> Iterator[Score]:
        yield from self.scores
        summary = self.origin.summary
        if summary is None or not self._has_teacher:
            return
        if (together := summary.ensemble) is not None:
            yield Score("its teachers, averaged", together.metrics, together.intervals)
        elif (teacher := summary.teacher) is not None:
            yield Score("its teacher", teacher.metrics, teacher.intervals)

    @property
    def _has_teacher(self) -> bool:
        return self.origin.record is not None and self.origin.record.role == "distilled"

    def _making(self) -> Iterator[str]:
        data, config = self._data, self.origin.config
        if data is None:
            yield f"Data: not known; {self.origin.no_corpus}."
        else:
            yield (
                f"Data: {data.name}. {data.train:,} texts to learn from, {data.selection:,} to choose by, "
                f"{data.evaluation:,} for the scores."
            )
        if self.origin.summary is not None and self.origin.summary.transfer and self._has_teacher:
            yield "It also learnt the teacher's judgement of texts without labels, the transfer set."
        if not self._has_teacher:
            known = self.origin.record is not None
            yield "Teacher: none, it learnt from the labels alone." if known else "Teacher: not known."
        elif config is not None:
            summary = self.origin.summary
            averaged = ""
            if summary is not None and summary.ensemble is not None:
                averaged = f", {len(summary.of('teacher'))} of them with their probabilities averaged"
                if summary.judges is not None:
                    averaged += f", of whom {summary.judges} judged each text of the transfer set"
            yield f"Teacher: {_teacher(config.teacher)}{averaged}. {_distillation(config)}"
        spec = self.manifest.spec
        surprisal = f", surprisal features of width {spec['surprisal_size']}" if spec["surprisal_size"] else ""
        seed = "" if self.origin.record is None else f", seed {self.origin.record.seed}"
        yield (
            f"Network: {'bidirectional ' if spec['bidirectional'] else ''}{str(spec['cell']).upper()}, "
            f"{spec['num_layers']} x {spec['hidden_size']} units, {spec['vocab_size']:,} tokens"
            f"{surprisal}, {magnitude(self.parameters)} parameters{seed}."
        )
        yield f"Exported with Potstill {version('potstill')}."

    def _checks(self) -> Iterator[str]:
        yield (
            f"Parity: the exported network's logits and PyTorch's, on {self.batches} batches of 1 to 130 random texts "
            f"and up to {self.manifest.max_tokens + 1} tokens, differ by {self.difference:.1e} at most."
        )
        if self.trial is not None:
            kept = f"not kept: {self.no_int8}" if self.no_int8 else "kept"
            yield f"8 bits: {self.trial.describe()}; {kept}."
            if not self.no_int8:
                yield (
                    "With 8 bits, values are scaled by the largest among those computed together: a text's "
                    "probabilities move a little with the texts beside it. float32 has no such effect."
                )
        elif self.no_int8:
            yield f"8 bits: not tried; {self.no_int8}."

    def _limits(self) -> Iterator[str]:
        yield "It always answers with one of its classes, whatever it is given."
        yield f"It reads the first {self.manifest.max_tokens} tokens of a text, and nothing beyond."
        yield (
            "It knows texts like those that it learnt from. Other kinds, other languages and other times were not "
            "measured, nor whether it treats people of different groups alike."
        )
        if self.manifest.temperature == 1.0:
            yield "Its probabilities are not calibrated: the selection split told of no temperature."
        else:
            yield (
                "Its probabilities were calibrated on the selection split (one temperature); elsewhere they may be too "
                "high or too low."
            )

    def _licences(self) -> Iterator[str]:
        yield "Potstill, which these files are used with: Apache-2.0."
        config = self.origin.config
        if config is None:
            yield "Data and teacher: not known."
            return
        source = config.data.source
        if self._data is not None and (source == "auto" or Path(source).name == self._data.name):
            source = self._data.name  # wherever its files lie; a table of that name has an ending too
        yield _DATA_LICENCES.get(source, "The data's licence is not known to Potstill: see where it came from.")
        if self._has_teacher:
            name = _public(config.teacher.backbone)
            known = _BACKBONE_LICENCES.get(config.teacher.backbone, "its licence is not known to Potstill")
            yield f"The teacher's pretrained weights, `{name}`, are not part of these files: {known}."
        yield "What these mean for a model that was trained with them is for its user to judge."

    def _files(self) -> str:
        rows = [(Cell(f"`{name}`"), Cell(f"{size:,}")) for name, size in self.sizes.items()]
        note = "`checksums.json` holds sizes and SHA-256 digests; a file that does not fit is refused on loading."
        return f"{ResultTable(('file', 'bytes'), tuple(rows)).to_markdown()}\n\n{note}"


def hub_config(manifest: Manifest) -> dict[str, Any]:
    """Return `config.json` of the layout that the hub knows."""
    names = manifest.label_names
    return {
        "architectures": ["PotstillStudent"],
        "model_type": "potstill-student",
        "problem_type": "single_label_classification",
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "dtype": "float32",
        "pad_token_id": manifest.spec["padding_id"],
        "max_position_embeddings": manifest.max_tokens,
        "temperature": manifest.temperature,
        "threshold": manifest.threshold,
        **manifest.spec,
    }


def _listed(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _public(name: str) -> str:
    """Name a backbone without the directories of the machine it was read from."""
    is_path = name.startswith((".", "/", "~")) or Path(name).exists()
    return Path(name).name if is_path else name


def _teacher(config: TeacherConfig) -> str:
    tuned = {"lora": f"tuned with LoRA of rank {config.lora.rank}", "full": "all of it tuned", "head": "a head on it"}
    kept = "" if config.first_blocks is None else f", of its blocks the first {config.first_blocks} alone"
    read = ", reading each text twice" if config.echo else ""
    return f"`{_public(config.backbone)}`, {tuned[config.method]}{kept}{read}"


def _distillation(config: PotstillConfig) -> str:
    settings = config.distillation
    return (
        f"Its judgement was distilled with weight {1 - settings.alpha:g} against the labels' {settings.alpha:g}, "
        f"{settings.manner}."
    )
