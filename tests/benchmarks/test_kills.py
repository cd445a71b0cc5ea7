"""What the kills of `make stress` report of trials that go wrong."""

import random

import pytest


@pytest.mark.parametrize(
    ("left", "expected", "is_whole", "error", "differing"),
    [
        (["checksums.json"], ["checksums.json"], True, None, []),
        (["report.md"], ["report.md", "checksums.json"], True, None, ["checksums.json"]),
        (["report.md"], ["report.md"], False, None, []),
        ([], [], True, "expected status 143, found 1", []),
    ],
)
def test_only_a_whole_and_equal_run_is_identical(
    script, tmp_path, monkeypatch, left, expected, is_whole, error, differing
):
    kills = script("kills")
    place = kills.Place(tmp_path / "trial", tmp_path / "config.yaml")

    def end_and_resume(place, seconds, draw, ends):
        ends.append({"signal": "SIGKILL"})
        place.run.mkdir(parents=True)
        for name in left:
            (place.run / name).write_text("1")
        if error is not None:
            raise kills.FailedError(error)

    monkeypatch.setattr(kills, "end_and_resume", end_and_resume)
    if is_whole:
        monkeypatch.setattr(kills, "verify_all", lambda run: None)
    made = kills.trial(place, 1.0, random.Random(0), dict.fromkeys(expected, "there"))
    is_identical = is_whole and error is None and not differing
    assert (made["identical"], made["differing"], made["files"]) == (is_identical, differing, len(expected))
    assert made["ends"] == [{"signal": "SIGKILL"}]
    assert made.get("error") == error or (made["error"] and not is_whole)
    assert place.root.exists() != is_identical  # what went wrong is kept
