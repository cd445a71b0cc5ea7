"""A start for a student's embeddings: the teacher's input embeddings, carried over to the student's tokens, reduced."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders
from torch import Tensor
from torch.nn.functional import embedding_bag
from transformers import PreTrainedTokenizerBase

from potstill.backbone import check_vocabulary, load_config, load_embeddings, load_tokenizer, outline
from potstill.config import StudentConfig
from potstill.errors import ConfigError

_NOISE = 1e-10
"""A component whose variance is below this share of the largest one's is rounding: float32's squared, with a margin."""


def teacher_embeddings(
    tokenizer: Tokenizer,
    counts: NDArray[np.int64],
    size: int,
    padding_id: int,
    *,
    backbone: str,
    teacher_tokenizer: str,
) -> Tensor:
    """Make embeddings for a student's vocabulary of what the teacher's backbone knows.

    A token gets the teacher's embedding of the same text, else the mean of those of the pieces that the teacher's
    tokenizer cuts its text into. What the teacher can't read at all gets zeros: it begins as an average token.

    Args:
        tokenizer: The student's.
        counts: How often the student reads each token in what it learns from, (vocabulary,).
        size: Width of the student's embeddings.
        padding_id: The student's; its row is 0.
        backbone: Name of the teacher's backbone.
        teacher_tokenizer: Name of its tokenizer.

    Returns:
        (vocabulary, size), float32; see `principal_components` for the scale.

    Raises:
        SourceError: Backbone or tokenizer can't be found or reached.
        ConfigError: The tokenizer has tokens that the backbone does not know, or there are fewer than `size`
            dimensions.
    """
    table = load_embeddings(backbone)  # (teacher's vocabulary, width)
    teacher = load_tokenizer(teacher_tokenizer)
    check_vocabulary(1 + max(teacher.get_vocab().values()), len(table), backbone)
    pieces = teacher_pieces(tokenizer, teacher)
    bags = [pieces.get(token_id, []) if token_id != padding_id else [] for token_id in range(len(counts))]
    lengths = torch.tensor([len(bag) for bag in bags])
    flat = torch.tensor([piece for bag in bags for piece in bag], dtype=torch.long)
    means = embedding_bag(flat, table, lengths.cumsum(0) - lengths, mode="mean")  # (vocabulary, width)
    readable = lengths > 0
    weights = torch.from_numpy(counts) * readable
    return principal_components(means, weights, size) * readable.unsqueeze(1)


def check_embeddings(config: StudentConfig, backbone: str) -> None:
    """Refuse embeddings that are to begin as the teacher's and are wider, before any weight is read.

    Raises:
        ConfigError: They are.
        SourceError: The backbone can't be found or reached.
    """
    if config.embedding_init == "teacher":
        table = outline(load_config(backbone)).get_input_embeddings()
        if config.embedding_size > (width := table.get_parameter("weight").shape[1]):
            raise ConfigError(
                [_too_wide(f"{width}, the dimensions of the teacher's embeddings", config.embedding_size)]
            )


def _too_wide(most: str, size: int) -> str:
    return f"student.embedding_size: expected at most {most}, found {size}; lower it, or choose embedding_init: random"


def teacher_pieces(tokenizer: Tokenizer, teacher: PreTrainedTokenizerBase) -> dict[int, list[int]]:
    """Spell a student's tokens in the teacher's.

    Leading spaces count: " cat" and "cat" are two tokens to most vocabularies. A token that is no whole UTF-8 has no
    text to cut; its bytes are looked up one by one. A special token has its like at most under the same name.

    Returns:
        For each of the student's ids the teacher's ids; none where the teacher knows nothing of a token.
    """
    backend = teacher.backend_tokenizer
    names = backend.get_vocab(with_added_tokens=True)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if vocabulary == names:
        return {token_id: [token_id] for token_id in names.values()}
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    pieces = {vocabulary[name]: [names[name]] for name in special & names.keys()}
    known = {spelling: token_id for token_id, spelling in _spellings(backend).items()}
    to_cut: dict[int, str] = {}
    for token_id, spelling in _spellings(tokenizer).items():
        if spelling in known:
            pieces[token_id] = [known[spelling]]
            continue
        try:
            to_cut[token_id] = spelling.decode("utf-8")
        except UnicodeDecodeError:
            pieces[token_id] = [known[byte] for byte in _bytes(spelling) if byte in known]
    cuts = backend.encode_batch_fast(list(to_cut.values()), add_special_tokens=False)
    for token_id, cut in zip(to_cut, cuts, strict=True):
        pieces[token_id] = [piece for piece in cut.ids if piece != teacher.unk_token_id]
    return pieces


def principal_components(embeddings: Tensor, weights: Tensor, size: int) -> Tensor:
    """Reduce embeddings to the components that make up most of what is read.

    They are centred first: in a language model all embeddings share a large component, which tells no token from
    another (Mu and Viswanath 2018, "All-but-the-Top", arXiv 1702.01417). A truncated singular value decomposition of
    the centred rows, each times the root of its weight, then leaves the smallest expected squared error of a token
    that is read (Eckart and Young 1936).

    A single factor brings what is read to a root mean square of 1, the scale of `nn.Embedding`'s random start: with
    that, and PyTorch's start of a recurrence, the input moves the gates by a few tenths. A language model's own scale
    is a tenth of it: the gates would hardly open, and with Adam's steps, which don't depend on the gradient's size, the
    embeddings would be overwritten before they could be used. The components keep their proportions. (Perplexity of
    CoLA's selection split after three epochs of pretraining, 128 components of SmolLM2-135M's: 161; without weights
    190; at the language model's scale 238; from a random start 352.)

    Args:
        embeddings: (tokens, width).
        weights: How often each is read, (tokens,).
        size: Components to keep.

    Returns:
        (tokens, size), float32, the component of the largest variance first.

    Raises:
        ConfigError: They have fewer components.
    """
    rows, shares = embeddings.double(), (weights / weights.sum().clamp(min=1)).double().unsqueeze(1)
    centred = rows - (shares * rows).sum(dim=0)
    # Squared singular values and right singular vectors, in ascending order, without the left ones, which are many.
    variances, directions = torch.linalg.eigh(centred.T @ (shares * centred))  # (width,), (width, width)
    rank = int((variances > _NOISE * variances[-1]).sum())
    if size > rank:
        raise ConfigError([_too_wide(f"{rank}, the dimensions of the teacher's embeddings of these tokens", size)])
    scale = variances[-size:].mean().sqrt()
    reduced: Tensor = centred @ directions[:, -size:].flip(1) / scale
    return reduced.float()


def _spellings(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Return each ordinary token's text in UTF-8, or the part of it that the token stands for."""
    byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
    added = tokenizer.get_added_tokens_decoder()
    spellings: dict[int, bytes] = {}
    for token, token_id in tokenizer.get_vocab(with_added_tokens=False).items():
        if token_id in added:
            continue
        if byte_level and _BYTES.keys() >= set(token):
            spellings[token_id] = bytes(_BYTES[character] for character in token)
        else:  # SentencePiece writes a space as ▁, WordPiece ## where there is none
            spellings[token_id] = token.replace("▁", " ").removeprefix("##").encode("utf-8")
    return spellings


def _bytes(spelling: bytes) -> list[bytes]:
    return [spelling[place : place + 1] for place in range(len(spelling))]


def _byte_alphabet() -> dict[str, int]:
    """Return which byte each character of a byte-level vocabulary stands for (GPT-2's `bytes_to_unicode`).

    Printable bytes stand for themselves; the others follow from code point 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()
