"""A start for a student's embeddings: the teacher's input embeddings, carried over to the student's tokens, reduced."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders
from torch import Tensor
from torch.nn.functional import embedding_bag
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from potstill.config import PotstillConfig
from potstill.console import print_line
from potstill.errors import ConfigError
from potstill.teacher.backbone.sources import load_config, load_embeddings, load_tokenizer, outline
from potstill.teacher.backbone.vocabulary import check_vocabulary

_BYTES: Final = {character: byte for byte, character in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
"""Which byte each character of a byte-level vocabulary is."""
_NOISE: Final = 1e-10
"""A component whose variance is below this share of the largest one's is rounding: float32's squared, with a margin."""


def teacher_embeddings(
    tokenizer: Tokenizer,
    counts: NDArray[np.int64],
    size: int,
    pad_token_id: int,
    backbone: str,
    teacher_tokenizer: str,
) -> Tensor:
    """Make embeddings for a student's vocabulary of those of the teacher's backbone.

    A token gets the teacher's embedding of the same text, else the mean of those of the pieces that the teacher's
    tokenizer cuts its text into. Tokens that the teacher can't read get zeros: they begin as an average token.

    `counts` says how often the student reads each token in what it learns from, (vocabulary,). Its embeddings are of
    `size`; the row of its `pad_token_id` is 0. `backbone` and `teacher_tokenizer` are names.

    Returns:
        (vocabulary, size), float32; see `principal_components` for the scale.

    Raises:
        SourceError: Backbone or tokenizer can't be found or reached.
        ConfigError: The tokenizer has tokens that the backbone does not know.
    """
    table = load_embeddings(backbone)  # (teacher's vocabulary, width)
    teacher = load_tokenizer(teacher_tokenizer)
    check_vocabulary(teacher, len(table), backbone)
    pieces = teacher_pieces(tokenizer, teacher)
    bags: list[list[int]] = [[] for _ in counts]
    for token_id in pieces.keys() - {pad_token_id}:
        bags[token_id] = [piece for piece in pieces[token_id] if piece < len(table)]  # some special tokens have no row
    lengths = torch.tensor([len(bag) for bag in bags])
    flat = torch.tensor([piece for bag in bags for piece in bag], dtype=torch.long)
    means = embedding_bag(flat, table, lengths.cumsum(0) - lengths, mode="mean")  # (vocabulary, width)
    readable = lengths > 0
    weights = torch.from_numpy(counts) * readable
    return principal_components(means, weights, size) * readable.unsqueeze(1)


def check_embeddings(config: PotstillConfig) -> None:
    """Refuse embeddings that begin as the teacher's and are wider than these, before any weight is read.

    Raises:
        ConfigError: They are wider.
        SourceError: The backbone can't be found or reached.
    """
    if config.student.embedding_init == "teacher" and (backbone := getattr(config.teacher, "backbone", "")):
        size: int = getattr(config.student, "embedding_size", 0)
        table = outline(load_config(backbone)).get_input_embeddings()
        if size > (width := table.get_parameter("weight").shape[1]):
            problem = f"expected at most {width}, the dimensions of the teacher's embeddings, found {size}"
            raise ConfigError([f"student.embedding_size: {problem}; lower it, or choose embedding_init: random"])


def teacher_pieces(tokenizer: Tokenizer, teacher: PreTrainedTokenizerBase) -> dict[int, list[int]]:
    """Spell a student's tokens in the teacher's.

    Leading spaces count: " cat" and "cat" are two tokens to most vocabularies. A token that is only part of a character
    is looked up byte by byte. A special token matches only one of the same name.

    Returns:
        For each of the student's ids the teacher's ids; none where the teacher can't read a token.
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
            pieces[token_id] = [known[bytes([byte])] for byte in spelling if bytes([byte]) in known]
    cuts = backend.encode_batch_fast(list(to_cut.values()), add_special_tokens=False)
    for token_id, cut in zip(to_cut, cuts, strict=True):
        pieces[token_id] = [piece for piece in cut.ids if piece != teacher.unk_token_id]
    return pieces


def principal_components(embeddings: Tensor, weights: Tensor, size: int) -> Tensor:
    """Reduce embeddings to their principal components, tokens weighted by how often they are read.

    They are centred first: in a language model all embeddings share a large component, which tells no token from
    another (Mu and Viswanath 2018, "All-but-the-Top", arXiv 1702.01417). A truncated singular value decomposition of
    the centred rows, each times the root of its weight, then leaves the smallest expected squared error of a token
    that is read (Eckart and Young 1936).

    A single factor brings the tokens that are read to a root mean square of 1, the scale of `nn.Embedding`'s random
    start. At a language model's own scale, a tenth of it, Adam's steps would overwrite the embeddings before they could
    be used. (Perplexity of CoLA's validation split after three epochs of pretraining, 128 components of
    SmolLM2-135M's: 161; without weights 190; at the language model's scale 238; from a random start 352.)

    Of few texts, the tokens may have fewer components: the columns that are left are 0, to be learnt.

    Returns:
        Of embeddings (tokens, width) and weights (tokens,): (tokens, size), float32, the component of the largest
        variance first.
    """
    rows, shares = embeddings.double(), (weights / weights.sum().clamp(min=1)).double().unsqueeze(1)
    centred = rows - (shares * rows).sum(dim=0)
    # Squared singular values and right singular vectors, in ascending order, without the left ones, which are many.
    variances, directions = torch.linalg.eigh(centred.T @ (shares * centred))  # (width,), (width, width)
    rank = int((variances > _NOISE * variances[-1]).sum())
    kept = min(rank, size)
    if kept < size:
        print_line(
            f"the teacher's embeddings of {int((weights > 0).sum()):,} tokens have {kept} dimensions: the other "
            f"{size - kept} of the student's begin at 0"
        )
    first = len(variances) - kept
    scale = (variances[first:].sum() / size).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    reduced: Tensor = centred @ directions[:, first:].flip(1) / scale
    return torch.nn.functional.pad(reduced, (0, size - kept)).float()


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
