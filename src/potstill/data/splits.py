"""Stratified, seeded division of examples, the same on every platform."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def duplicate_groups(items: Iterable[tuple[str, str | None]]) -> Indices:
    """Return each text's (or pair's) group, (texts,): those that are equal but for spelling share one."""
    numbers: dict[tuple[str, ...], int] = {}
    keys = map(normal_item, items)
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def normal_item(item: tuple[str, str | None]) -> tuple[str, ...]:
    """Return a text (or pair) without case, invisible characters, and variants of white space and Unicode."""
    return tuple(_normalised(text) for text in item if text is not None)


def _normalised(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if not folded.isascii():  # no ASCII character is invisible
        folded = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    return " ".join(folded.split())


def stratified_split(labels: Indices, share: float, seed: int, groups: Indices) -> tuple[Indices, Indices]:
    """Divide examples in two parts that have the classes in the same proportions and tear no group apart.

    scikit-learn's stratified splitters refuse a class with one member, and parts with fewer members than there are
    classes. Here the first part gets a member of every class as long as it has room, and rounding does the rest.

    The first part has the `share`, between 0 and 1, of the examples, or less where the next group doesn't fit. Labels
    and groups are (examples,).

    Returns:
        The indices of both parts, ascending. Neither is empty, unless all examples are one group.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups.tolist()):
        members[group].append(index)
    units = list(members.values())
    # Groups are alike if they hold the same classes: dividing these evenly divides the classes evenly.
    profiles = [tuple(sorted(set(labels[unit].tolist()))) for unit in units]
    code = {profile: position for position, profile in enumerate(sorted(set(profiles)))}
    room = min(round(share * len(labels)), len(labels) - 1)
    first: list[int] = []
    second: list[int] = []
    for unit in stratified_order(np.array([code[profile] for profile in profiles], dtype=np.int64), seed).tolist():
        fits = not first or len(first) + len(units[unit]) <= room
        (first if fits else second).extend(units[unit])
    return np.array(sorted(first), dtype=np.int64), np.array(sorted(second), dtype=np.int64)


def stratified_order(strata: Indices, seed: int) -> Indices:
    """Put units in a random order of which every beginning is stratified, by their strata, (units,).

    The i-th of a stratum's m members gets the place (i + 1/2) / m, so that all strata are spread evenly; the first
    member of each comes first of all, so that no stratum is missing from a beginning that has room.
    """
    # NEP 19 freezes the streams of RandomState (not those of Generator), so a split outlives NumPy's upgrades.
    shuffled = np.random.RandomState(np.random.MT19937(seed)).permutation(len(strata))
    _, codes, sizes = np.unique(strata[shuffled], return_inverse=True, return_counts=True)
    by_stratum = np.argsort(codes, kind="stable")
    member = np.empty(len(strata), dtype=np.int64)
    member[by_stratum] = np.arange(len(strata)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.where(member == 0, 0.0, (member + 0.5) / sizes[codes])
    return shuffled[np.argsort(place, kind="stable")].astype(np.int64)
