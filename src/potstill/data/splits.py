"""Stratified, seeded division of examples, the same on every platform."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def divide(labels: Indices, share: float, seed: int, groups: Indices | None = None) -> tuple[Indices, Indices]:
    """Divide examples in two parts that have the classes in the same proportions.

    scikit-learn's stratified splitters do this where classes are large; they refuse a class with one member, and parts
    with fewer members than there are classes, both of which a small `--limit` on seventy-seven intents brings about.
    Here the first part gets a member of every class as long as it has room, and rounding does the rest.

    Args:
        labels: Class of each example, shape (examples,).
        share: Size of the first part, between 0 and 1. Neither part is empty.
        seed: Decides which examples go where.
        groups: Group of each example; a group is never torn apart. Without it, every example is a group of its own.

    Returns:
        The indices of both parts, each in ascending order.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(range(len(labels)) if groups is None else groups.tolist()):
        members[group].append(index)
    units = list(members.values())
    # Groups are alike if they hold the same classes: dividing these evenly divides the classes evenly.
    profiles = [tuple(sorted(labels[unit].tolist())) for unit in units]
    code = {profile: position for position, profile in enumerate(sorted(set(profiles)))}
    order = stratified_order(np.array([code[profile] for profile in profiles], dtype=np.int64), seed)
    first = max(1, min(round(share * len(units)), len(units) - 1))
    return _examples_of(units, order[:first]), _examples_of(units, order[first:])


def stratified_order(strata: Indices, seed: int) -> Indices:
    """Put units in a random order of which every beginning is stratified.

    The i-th of a stratum's m members gets the place (i + 1/2) / m, so that all strata are spread evenly over the whole
    order; the first member of each comes first of all, so that no stratum is missing from a beginning that has room.

    Args:
        strata: Stratum of each unit, shape (units,).
        seed: Decides who is which member, and who comes first among equal places.

    Returns:
        The units' indices, shape (units,).
    """
    # NEP 19 freezes the streams of RandomState (not those of Generator), so a split outlives NumPy's upgrades.
    shuffled = np.random.RandomState(np.random.MT19937(seed)).permutation(len(strata))
    _, codes, sizes = np.unique(strata[shuffled], return_inverse=True, return_counts=True)
    by_stratum = np.argsort(codes, kind="stable")
    member = np.empty(len(strata), dtype=np.int64)
    member[by_stratum] = np.arange(len(strata)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.where(member == 0, 0.0, (member + 0.5) / sizes[codes])
    return shuffled[np.argsort(place, kind="stable")].astype(np.int64)


def _examples_of(units: list[list[int]], chosen: Indices) -> Indices:
    """List the examples of the chosen units, in ascending order."""
    return np.array(sorted(index for unit in chosen.tolist() for index in units[unit]), dtype=np.int64)
