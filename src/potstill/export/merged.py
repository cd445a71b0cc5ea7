"""A teacher as a plain `transformers` model: adapters merged, head and tokenizer beside them."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from potstill.config import RuntimeConfig
from potstill.errors import ArtifactError
from potstill.lora import absorb_adapters
from potstill.store.atomic import ensure_replaceable, write_directory_atomically
from potstill.teacher.backbone.sources import load_tokenizer, save_plain
from potstill.teacher.manifest import TeacherManifest
from potstill.teacher.transformer import TransformerTeacher
from potstill.training.compute import EXACT

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""What a tokenizer's user may ask it for, beside the padding token."""


def write_merged(directory: Path, out: Path, runtime: RuntimeConfig = EXACT) -> list[Path]:
    """Write the teacher in `directory` for `AutoModelForSequenceClassification.from_pretrained(out)`.

    Weights are float32. The configuration names the classes, and a padding token with which the pooling of
    `transformers` finds the last real token; the tokenizer adds what the teacher's adds (`add_bos`), cuts at its length
    and pads on the right. `out` is a new or empty directory; `runtime` says how the teacher is loaded.

    Returns:
        The files written.

    Raises:
        ArtifactError: `out` holds something, the teacher is incomplete or damaged, its base is another one now, or it
            has what `transformers` has no place for.
        SourceError: The base can't be found or reached.
    """
    ensure_replaceable(out)  # before anything is computed
    if TeacherManifest.load(directory, runtime).echo:
        raise ArtifactError(
            f"{directory}: expected a teacher that reads each text once, as a plain transformers model does, found one "
            f"with echo\n  what to do: tune one without it (`potstill finetune --no-echo`)"
        )
    teacher = TransformerTeacher.load(directory, runtime)
    original, classifier = load_tokenizer(teacher.manifest.tokenizer), teacher.classifier
    special = {name: token for name in _SPECIAL if (token := getattr(original, name, None)) is not None}
    padding, longest = _padding_id(original, teacher.tokenizer, classifier.pad_token_id), teacher.manifest.max_length
    tokenizer = _plain_tokenizer(teacher.tokenizer, padding, longest, with_types=classifier.with_types, **special)
    model = classifier.model
    absorb_adapters(model)
    names = teacher.manifest.label_names
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    is_single = teacher.manifest.threshold is None
    model.config.problem_type = "single_label_classification" if is_single else "multi_label_classification"
    # An encoder pools by position and keeps its id: RoBERTa counts positions from it.
    if classifier.is_decoder or model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id

    write_directory_atomically(out, lambda place: save_plain(model, tokenizer, place))
    return sorted(out.iterdir())


def _padding_id(original: PreTrainedTokenizerBase, backend: Tokenizer, preferred: int) -> int:
    """Choose what fills up a batch: the teacher's padding, or another special token where texts end with that one.

    The decoders of `transformers` classify at the rightmost token that is not padding, by its id alone.
    """
    last = backend.encode("a").ids[-1:]
    return next((token for token in (preferred, *original.all_special_ids) if token not in last), preferred)


def _plain_tokenizer(
    backend: Tokenizer, pad_token_id: int, max_length: int, *, with_types: bool, **special: str
) -> PreTrainedTokenizerFast:
    """Wrap a copy of a tokenizer for `AutoTokenizer`, with the names of `special` tokens, such as `eos_token`.

    It pads on the right and cuts where its caller asks for it. `with_types`: whether the model reads the number of each
    token's text in its pair.
    """
    backend = Tokenizer.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        **special,
        pad_token=backend.id_to_token(pad_token_id),
        model_max_length=max_length,
        padding_side="right",
        truncation_side="right",
        split_special_tokens=True,  # a text that spells a special token is text
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", *["token_type_ids"] * with_types, "attention_mask"],
    )
