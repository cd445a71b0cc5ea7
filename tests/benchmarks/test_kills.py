"""What the kills of `make stress` report of trials that go wrong."""

import random

import pytest


@pytest.fixture(scope="module")
def kills(script):
    return script("kills")


@pytest.fixture
def attempt(kills, tmp_path, monkeypatch):
    """Return a function that makes a trial in which the run leaves `files`, or raises."""

    def make(files, expected, error=None, sealed=True):
        place = kills.Place(tmp_path / "trial", tmp_path / "config.yaml")

        def end_and_resume(place, seconds, draw, ends):
            ends.append({"signal": "SIGKILL"})
            place.run.mkdir(parents=True)
            for name in files:
                (place.run / name).write_text("1")
            if error is not None:
                raise error

        monkeypatch.setattr(kills, "end_and_resume", end_and_resume)
        if sealed:
            monkeypatch.setattr(kills, "verify_all", lambda run: None)
        found = kills.trial(place, 1.0, random.Random(0), expected)
        return found, place

    return make


def test_identical_run_is_removed(attempt):
    made, place = attempt(["checksums.json"], {"checksums.json": "there"})
    assert made == {"ends": [{"signal": "SIGKILL"}], "identical": True, "differing": [], "files": 1}
    assert not place.root.exists()


def test_missing_checksums_are_a_difference(attempt):
    made, place = attempt(["report.md"], {"report.md": "there", "checksums.json": "there"})
    assert (made["identical"], made["differing"]) == (False, ["checksums.json"])
    assert place.run.exists()


def test_checksums_are_verified(attempt):
    made, _ = attempt(["report.md"], {"report.md": "there"}, sealed=False)
    assert (made["identical"], made["differing"]) == (False, [])
    assert "error" in made


def test_failed_trial_is_reported(kills, attempt):
    made, _ = attempt([], {}, error=kills.FailedError("expected status 143, found 1"))
    assert made["identical"] is False
    assert made["error"] == "expected status 143, found 1"
    assert made["ends"] == [{"signal": "SIGKILL"}]
