"""A teacher as a plain `transformers` model: adapters merged, head and tokenizer beside them."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from potstill.artifacts import vacate, write_new_directory
from potstill.backbone import load_tokenizer, save_plain
from potstill.errors import ArtifactError
from potstill.export.plain import plain_tokenizer
from potstill.lora import absorb_adapters
from potstill.teacher import Teacher
from potstill.teacher_manifest import TeacherManifest
from potstill.training.compute import EXACT

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""What a tokenizer's user may ask it for, beside the padding token."""


def write_merged(directory: Path, out: Path) -> list[Path]:
    """Write the teacher in `directory` for `AutoModelForSequenceClassification.from_pretrained(out)`.

    Weights are float32. A base of few bits is unpacked: what it computed with is what is written. The configuration
    names the classes, and a padding token with which the pooling of `transformers` finds the last real token; the
    tokenizer adds what the teacher's adds (`add_bos`), cuts at its length and pads on the right.

    Args:
        directory: What `Teacher.save` wrote.
        out: A new or empty directory.

    Returns:
        The files written.

    Raises:
        ArtifactError: `out` holds something, the teacher is incomplete or damaged, its base is another one now, or it
            has what `transformers` has no place for.
        SourceError: The base can't be found or reached.
        MissingExtraError: The base was packed, and the package for it is missing.
    """
    vacate(out)  # whatever it can't be, is told before anything is computed
    if TeacherManifest.load(directory).echo:
        raise ArtifactError(
            f"{directory}: expected a teacher that reads each text once, as a plain transformers model does, found one "
            f"with echo\n  what to do: tune one without it (`potstill finetune --no-echo`)"
        )
    teacher = Teacher.load(directory, EXACT, pack=False)
    tokenizer = _plain_tokenizer(teacher)
    model = teacher.classifier.model
    absorb_adapters(model)
    names = teacher.manifest.label_names
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    model.config.problem_type = "single_label_classification"
    # An encoder pools by position and keeps its id: RoBERTa counts positions from it.
    if teacher.classifier.is_decoder or model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id

    write_new_directory(out, lambda place: save_plain(model, tokenizer, place))
    return sorted(out.iterdir())


def _plain_tokenizer(teacher: Teacher) -> PreTrainedTokenizerFast:
    """Wrap the teacher's tokenizer for `transformers`."""
    original = load_tokenizer(teacher.manifest.tokenizer)
    special = {name: token for name in _SPECIAL if (token := getattr(original, name, None)) is not None}
    padding = _padding_id(original, teacher.tokenizer, teacher.classifier.padding_id)
    return plain_tokenizer(teacher.tokenizer, padding, teacher.manifest.max_tokens, **special)


def _padding_id(original: PreTrainedTokenizerBase, backend: Tokenizer, preferred: int) -> int:
    """Choose what fills up a batch: the teacher's padding, or another special token where texts end with that one.

    The decoders of `transformers` classify at the rightmost token that is not padding, by its id alone.
    """
    last = backend.encode("a").ids[-1:]
    return next((token for token in (preferred, *original.all_special_ids) if token not in last), preferred)
