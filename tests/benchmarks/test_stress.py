"""What the stress tests compute; they themselves are run by hand (`make stress`)."""

import json
import random
from pathlib import Path

import pytest

from potstill.serve.limits import Limits

MODULES = ("abuse", "flips", "faults")


@pytest.fixture(scope="module")
def stress(script):
    return {name: script(name) for name in MODULES}


def test_damage_changes_the_file(stress, tmp_path):
    damage, draw, kinds = stress["flips"].damage, random.Random(0), set()
    file, sibling = tmp_path / "file", tmp_path / "sibling"
    sibling.write_bytes(b"other")
    for _ in range(200):
        file.write_bytes(b"\x01content")
        kinds.add(damage(file, [sibling], draw).split()[0])
        assert not file.exists() or file.read_bytes() != b"\x01content"
    assert kinds == {"bit", "byte", "cut", "longer", "zeroed", "sibling", "removed"}


def test_label_leaves_out_keys_and_seeds(stress):
    label, work = stress["flips"].label, Path("/work")
    assert label(work / "cache" / "tokens" / ("0" * 32), work) == "cache/tokens/*"
    assert label(work / "run" / "teacher" / "seed-3" / "teacher.json", work) == "run/teacher/*/teacher.json"


def test_faults_come_once(stress):
    faults = stress["faults"].faults
    every = list(faults(4, 100, 3, random.Random(0)))
    assert len({how for how, fault in every if fault.at}) == 4 * 3
    assert len([fault for _, fault in every if fault.largest]) == 3
    assert len(list(faults(1000, 20, 0, random.Random(0)))) == 20


def test_abusive_bodies_are_as_long_as_may_be(stress):
    for pairs in (False, True):
        for kind, body in stress["abuse"].bodies(pairs).items():
            assert 0.9e6 < len(body) <= Limits().max_body_bytes, kind
            if kind.startswith("long texts"):
                first = json.loads(body)["texts"][0]
                assert len(first if pairs else [first]) == 1 + pairs
                assert all(9_000 < len(text) * (1 + pairs) <= 10_000 for text in (first if pairs else [first]))
