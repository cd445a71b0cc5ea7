"""What the stress tests compute; they themselves are run by hand (`make stress`)."""

import json
import os
import random
from pathlib import Path

import pytest

from potstill.serve.limits import Limits

MODULES = ("abuse", "flips", "soak", "faults", "tables")


@pytest.fixture(scope="module")
def stress(script):
    return {name: script(name) for name in MODULES}


def seen(memory, files=3):
    return [{"rss_mb": value, "files": files, "threads": 1, "temporary": 0} for value in memory]


def test_verdict_ignores_growth_at_the_beginning(stress):
    verdict = stress["soak"].verdict
    leaking = verdict(seen([100 + number for number in range(40)]))
    assert leaking["rss_mb"]["growth"] == pytest.approx(19)
    assert leaking["leaks"] == ["rss_mb"]
    assert verdict(seen([100, 160, 190] + [200 + number % 2 for number in range(40)]))["leaks"] == []
    growing = [one | {"files": number} for number, one in enumerate(seen([100] * 10))]
    assert verdict(growing)["leaks"] == ["files"]


def test_look_at_this_process(stress, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    found = stress["soak"].look(os.getpid(), tmp_path)
    assert found["rss_mb"] > 10
    assert found["files"] > 2
    assert found["temporary"] == 2


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


def test_table_shows_each_result(stress, tmp_path, monkeypatch):
    tables = stress["tables"]
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    growth = {name: {"growth": 0.25} for name in ("rss_mb", "files", "threads", "temporary")}
    results = {
        "kills": {"trials": 50, "identical": 49},
        "flips": {
            "runs": [
                {"name": "run/teacher/*/teacher.json", "damaged": 3, "refused": 2, "failed": 1},
                {"name": "run/teacher/*/training.json", "damaged": 4, "refused": 4},
                {"name": "cache/tokens/*", "damaged": 5, "rebuilt": 5},
            ]
        },
        "faults": {"runs": [{"name": "teacher", "calls": 9, "faults": 30, "refused": 28, "done": 2}]},
        "fuzz": {"runs": [{"name": "csv", "seconds": 600, "executions": 12345, "findings": []}]},
        "soak": {"runs": [{"name": "serving", "answers": 140, "looks": 7, **growth}]},
    }
    for name, result in results.items():
        (tmp_path / f"stress_{name}.json").write_text(json.dumps({"command": f"python {name}.py", **result}))
    shown = tables.stress()
    assert "| 50 | 49 with bit for bit" in shown
    assert "| damaged files: teachers | 7 | 6 refused with one message, 1 **FAILED** |" in shown
    assert "| damaged files: the cache's tokens | 5 | 5 computed again |" in shown
    assert "| writing refused: teacher | 30 | 28 refused with one message, 2 completed nevertheless |" in shown
    assert "| 1 parsers fuzzed for 600 s each | 12,345 | accepted, or refused with one message |" in shown
    assert "| nothing, in a long run: serving | 140 answers | growth over the second half: memory, MiB +0.2" in shown
    assert shown.endswith("`python soak.py`.")


def test_abusive_bodies_are_as_long_as_may_be(stress):
    for pairs in (False, True):
        for kind, body in stress["abuse"].bodies(pairs).items():
            assert 0.9e6 < len(body) <= Limits().max_body_bytes, kind
            if kind.startswith("long texts"):
                first = json.loads(body)["texts"][0]
                assert len(first if pairs else [first]) == 1 + pairs
                assert all(9_000 < len(text) * (1 + pairs) <= 10_000 for text in (first if pairs else [first]))


def test_abuse_in_the_document(stress, tmp_path, monkeypatch):
    monkeypatch.setattr(stress["tables"], "RESULTS", tmp_path)
    run = {"name": "nested JSON", "p99_s": 0.03, "slowest_s": 0.05, "failed": 0, "requests": 1234}
    wanted = {"what": "memory over that before, at most", "wanted": 1.5, "found": 1.25, "met": True}
    result = {
        "command": "python abuse.py",
        "environment": {"processor": "a processor", "cores": 2},
        "runs": [run | {"rss_mb_before": 100, "rss_mb": 125}],
        "targets": [wanted],
    }
    (tmp_path / "stress_abuse.json").write_text(json.dumps(result))
    shown = stress["tables"].abuse()
    assert "| nested JSON | 0.030 | 0.050 | 0 of 1,234 | 100 | 125 | 1.25 |" in shown
    assert "| memory over that before, at most | 1.5 | 1.25 | yes |" in shown
