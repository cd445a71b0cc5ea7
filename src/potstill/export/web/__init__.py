"""A student as a page: one HTML file that classifies in the browser, and the same engine as a module for Node.

`potstill.js` computes what `potstill.predict` does. It reads `weights.safetensors`, which holds the constants of the
ONNX graph under their names and, in its metadata, the manifest and the tokenizer.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save
from tokenizers import Tokenizer, pre_tokenizers

from potstill.errors import ArtifactError
from potstill.export.web.node import CHECK_FILE, run_check
from potstill.export.web.weights import answers, round_weights
from potstill.predict import Classifier
from potstill.predict.decision import abstains, named
from potstill.predict.directory import Manifest, StudentFiles
from potstill.store.atomic import write_json

WEIGHTS_FILE: Final = "weights.safetensors"
PAGE_FILE: Final = "index.html"
ENGINE_FILE: Final = "potstill.js"

_COMPARED, _RANDOM, _CHECKED = 5000, 1000, 480
"""Held-out texts at most, or random ones, that weights are compared on, and random ones that `check.js` classifies."""
_DIGITS: Final = 6
"""Of the probabilities in check.json, which may differ by 0.0001."""
_ODD: Final = (
    *("", " ", "\n\t", "a", "'", "... --- ...", "don't WE'LL they're", "1234567890 ½ ٣", "<pad> <script>&amp;"),
    *("\ud800 half \udfff", "é e\u0301 ﬁ Å", "漢字かな交じり文", "🙂👩\u200d👧 🇨🇭!", "İSTANBUL ΣΑΣ ΟΔΟΣ", "שלום עולם"),
    *("\x00\x1c\x85 control\u200b", "a\u00a0b\u3000c\u2028d", "\ufeffmark", "\u0378\ue000"),
)
"""Texts that are easily read otherwise by another program."""
_KNOWN: Final = (
    "format",
    "spec",
    "label_names",
    "max_length",
    "in_pairs",
    "temperature",
    "threshold",
    "kind",
    "label_type",
    "long_texts",
    "min_confidence",
    "task",
)
"""What the engine knows of a manifest: it would ignore anything else."""

Items = Sequence[Any]
"""Texts, or pairs of texts."""


def write_page(
    student: Path, directory: Path, found: Mapping[str, bytes], texts: Items, name: str
) -> tuple[Classifier, list[str]]:
    """Write the page, the module and the weights of a saved student.

    Args:
        student: Where it was saved, for errors.
        directory: Where to write.
        found: The content of its manifest, tokenizer and graph, by the names of their files.
        texts: Validation texts, or pairs, that decide how its weights are rounded; none: random ones take their place.
        name: What the data is called, if that is known.

    Returns:
        A classifier with the weights as they were written, and two sentences: how they were rounded, how Node answers.

    Raises:
        ArtifactError: The engine can't read the student, or in Node it answers otherwise than Python.
    """
    files = StudentFiles(student)
    manifest = Manifest.parse(found[files.manifest.name], files.manifest)
    tokenizer = Tokenizer.from_str(found[files.tokenizer.name].decode())
    content = json.loads(found[files.manifest.name])
    content.pop("validation", None)  # it decides nothing any more
    unknown = [f"{name!r} in its {files.manifest.name}" for name in content if name not in _KNOWN and content[name]]
    unknown += ["one trained with --long-texts head-tail"] if manifest.long_texts != "head" else []
    if problem := " and ".join(unknown) or _unreadable(manifest, tokenizer):
        raise ArtifactError(
            f"{student}: expected a student that the page can compute, found {problem}\n  what to do: export it with "
            "--format onnx, or train a student of kind rnn (tokenizer bpe) or ngram with --long-texts head"
        )
    drawn = _random_texts(tokenizer, manifest)
    classifier, tensors, rounding = round_weights(
        found[files.model.name],
        tokenizer,
        manifest,
        texts[:_COMPARED] or drawn,
        "validation" if texts else "random",
    )
    reads = {"tokenizer": json.loads(tokenizer.to_str())} if manifest.kind == "rnn" else {}
    about = {"student": content, **reads}
    weights = save(dict(tensors), {"potstill": json.dumps(about, separators=(",", ":"))})
    (directory / WEIGHTS_FILE).write_bytes(weights)
    (directory / ENGINE_FILE).write_bytes(engine().encode())
    (directory / PAGE_FILE).write_bytes(_page(weights, name or "Classifier").encode())
    # Without it, Node takes potstill.js for a module of the older kind.
    write_json(directory / "package.json", {"type": "module", "exports": f"./{ENGINE_FILE}", "private": True})
    _write_check(directory, classifier, drawn[:_CHECKED])
    compared = run_check(directory)
    command = f"`node {CHECK_FILE}`"
    by_hand = f"no Node is installed to compare its answers with Python's; {command} in the directory does it"
    return classifier, [rounding, f"JavaScript: {f'{command} {compared}' if compared else by_hand}."]


def _unreadable(manifest: Manifest, tokenizer: Tokenizer) -> str:
    """Say what of a student the engine does not know; nothing: it knows all."""
    if manifest.kind not in ("rnn", "ngram"):
        return f"the kind {manifest.kind!r}"
    settings = json.loads(tokenizer.to_str())
    model, pieces, after = (settings[part] or {} for part in ("model", "pre_tokenizer", "post_processor"))
    pair = [next(iter(part.values()))["id"] for part in after.get("pair", [])]
    is_known = (
        model["type"] == "BPE"
        and not any(model[name] for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not (model["byte_fallback"] or model["ignore_merges"])
        and {*pre_tokenizers.ByteLevel.alphabet()} <= model["vocab"].keys()
        and pieces.get("type") == "ByteLevel"
        and pieces["use_regex"]
        and settings["normalizer"] in (None, {"type": "NFC"})
        and all(token["special"] for token in settings["added_tokens"])
        and (not after or (len(after.get("single", "")) == 1 and pair == ["A", *after["special_tokens"], "B"]))
        and len(after.get("special_tokens", "")) <= 1
    )
    return "" if is_known or manifest.kind == "ngram" else "another tokenizer than a student's own byte-level BPE"


def _random_texts(tokenizer: Tokenizer, manifest: Manifest) -> Items:
    generator = np.random.default_rng(1)
    sizes = generator.integers(1, 30, size=2 * _RANDOM)
    texts = [tokenizer.decode(generator.integers(tokenizer.get_vocab_size(), size=size).tolist()) for size in sizes]
    return list(zip(texts[:_RANDOM], texts[_RANDOM:], strict=True)) if manifest.in_pairs else texts[:_RANDOM]


def _part(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def engine() -> str:
    """Return the module that computes students."""
    return _part("text.js") + _part("network.js")


def _page(weights: bytes, name: str) -> str:
    """Put everything into one file, whose policy lets nothing else in."""
    template, script = _part("page.html"), engine() + _part("page.js")
    (style,) = re.findall(r"<style>(.*?)</style>", template, flags=re.DOTALL)
    parts = {
        "name": html.escape(name),
        "script": script,
        "weights": base64.b64encode(gzip.compress(weights, mtime=0)).decode(),
        "style digest": _digest(style),
        "script digest": _digest(script),
    }
    return re.sub("{(" + "|".join(parts) + ")}", lambda found: parts[found[1]], template)


def _digest(content: str) -> str:
    """Return an element's source expression (CSP 3, section 2.3.1, hash-source)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _write_check(directory: Path, classifier: Classifier, drawn: Items) -> None:
    """Write a program that compares JavaScript with Python, and Python's answers: to none of the data's own texts."""
    long = " ".join(" ".join(item) if classifier.in_pairs else item for item in drawn)
    odd: Items = list(zip((*_ODD, long), (long, *_ODD), strict=True)) if classifier.in_pairs else [*_ODD, long]
    items = [*drawn, *odd]
    probabilities, chosen = classifier.answer(items)[0], answers(classifier, items)
    labels = named(chosen, classifier.label_names, abstains(probabilities, chosen, classifier.min_confidence))
    rounded = np.round(probabilities.astype(float), _DIGITS).tolist()
    content = {"texts": items, "labels": labels, "probabilities": rounded}
    (directory / "check.json").write_text(json.dumps(content), encoding="ascii")  # halves of characters are escaped
    (directory / CHECK_FILE).write_bytes(_part(CHECK_FILE).encode())
