"""Every input that fuzzing found something with, given again to the parser it was found in (benchmarks/stress)."""

from pathlib import Path

import pytest

INPUTS = Path(__file__).parent / "fuzz_inputs"
FINDINGS = sorted(INPUTS.glob("*/*"))


@pytest.fixture(scope="module")
def targets(script):
    return script("targets")


@pytest.mark.parametrize("file", FINDINGS, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_earlier_findings_are_refused_or_read(targets, file):
    targets.attempt(file.parent.name, file.read_bytes())


def test_every_target_accepts_one_of_its_seeds(targets):
    """A fuzzer whose seeds are all refused would find nothing behind the first check."""
    for name in targets.TARGETS.keys() - {"checksums"}:  # whose files are not there
        assert any(targets.attempt(name, seed) for seed in targets.seeds(name)), name
    assert not targets.attempt("checksums", targets.seeds("checksums")[0])
