"""What the benchmarks of exported students compute from what they measured; they themselves are run by hand."""

import json

import numpy as np
import pytest

from potstill.data import Examples

MODULES = ("baselines", "inference", "load", "predict_stream", "tables")
ENTRIES = (("200", 90, 0, {"10": 80, "500": 10}), ("429", 30, 0, {"1": 30}), ("0", 5, 5, {"0": 5}))


@pytest.fixture(scope="module")
def benchmarks(script):
    return {name: script(name) for name in MODULES}


@pytest.fixture
def row(benchmarks):
    """A row of the comparison of classifiers: medians over three rounds, one wrong answer of six."""
    delays = {"load_ms": 200.0, "p50_ms": 0.5, "p99_ms": 2.0, "rss_mb": 90.0}
    runs = [
        {"name": "ours", "round": n, "sentences_per_s": rate, **delays} for n, rate in enumerate((10.0, 30.0, 20.0))
    ]
    texts = Examples(("a",) * 6, np.array([0, 1, 1, 0, 1, 1]))
    return benchmarks["inference"].summarise("ours", 5_000_000, runs, np.array([0, 0, 1, 0, 1, 1]), texts)


@pytest.fixture
def steady(benchmarks):
    """A run of the load test: 90 answers, 30 refusals, 5 failures."""
    names = ("name", "num_requests", "num_failures", "response_times")
    times = {"start_time": 100.0, "last_request_timestamp": 110.0, "max_response_time": 501.0}
    return benchmarks["load"].summarise([dict(zip(names, entry, strict=True)) | times for entry in ENTRIES], size=16)


def test_inference_summarises_rounds_and_answers(row):
    assert (row["sentences_per_s"], row["bytes"]) == (20.0, 5_000_000)
    assert row["mcc"] == pytest.approx(0.707, abs=1e-3)


@pytest.mark.parametrize(
    ("seconds", "repeat", "asked"), [(60.0, False, [4, 4, 2]), (0.0, False, [4]), (0.0, True, [4])]
)
def test_rate_asks_each_text_once_until_the_clock_ends(benchmarks, seconds, repeat, asked):
    calls = []
    predict = lambda texts: calls.append(len(texts)) or texts  # noqa: E731
    found = benchmarks["baselines"]._rate(predict, ["a"] * 10, 4, seconds, repeat=repeat)
    assert calls == asked
    assert found["sentences"] == sum(asked)


def test_load_counts_requests_by_how_they_ended(benchmarks, steady):
    assert (steady["requests"], steady["failures"], steady["texts_per_s"]) == (125, 5, 144.0)
    assert (steady["p50_ms"], steady["p99_ms"]) == (10.0, 500.0)
    assert benchmarks["load"].ended(steady, "200", "4") == 120


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda lines: lines, (5, 5, 0)),
        (lambda lines: lines[:3], (3, 3, 0)),
        (lambda lines: [*lines, lines[-1]], (6, 5, 0)),
        (lambda lines: [lines[1], lines[0], *lines[2:]], (5, 3, 0)),
        (lambda lines: [*lines[:4], lines[4][:20]], (5, 4, 1)),
    ],
)
def test_stream_finds_answers_lost_repeated_swapped_or_cut(benchmarks, tmp_path, damage, found):
    module = benchmarks["predict_stream"]
    lines = [json.dumps({"line": n, "text": module.line(n), "label": "x"}, ensure_ascii=False) for n in range(1, 6)]
    (tmp_path / "answers").write_text("\n".join(damage(lines)), encoding="utf-8")
    counts = module.check(tmp_path / "answers", 5)
    assert (counts["answers"], counts["right"], counts["broken"]) == found


def test_tables_fill_markers(benchmarks, row, steady, tmp_path, monkeypatch):
    tables = benchmarks["tables"]
    for name in ("ROOT", "RESULTS"):
        monkeypatch.setattr(tables, name, tmp_path)
    monkeypatch.setattr(tables, "DOCUMENTS", {"page.md": ("inference", "load")})
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("inference", "load")))
    tables.main(check=False)
    assert page.read_text().count("No result is committed yet.") == 2
    made = {"command": "python x", "environment": {"processor": "P", "cores": 2}}
    (tmp_path / "inference.json").write_text(json.dumps(made | {"rows": [row], "sentences": 6}))
    target = [{"what": "loss", "wanted": 0, "found": 5, "met": False}]
    steady |= {"name": "steady", "connections": 64, "texts_per_request": 16, "rss_mb": 100.0}
    (tmp_path / "load.json").write_text(json.dumps(made | {"runs": [steady], "targets": target}))
    with pytest.raises(SystemExit, match="not up to date"):
        tables.main(check=True)
    tables.main(check=False)
    tables.main(check=True)
    shown = page.read_text()
    assert "| **exported student** | 0.707 [" in shown
    assert "| steady | 64 | 16 | 12 | 144 | 10 | 500 | 0: 5, 200: 90, 429: 30 | 100 |" in shown
    assert "| loss | 0 | 5 | **no** |" in shown
