"""What the benchmarks of exported students make of what they measured; they themselves are run by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from potstill.data import Examples

MODULES = ("contestants", "inference", "load", "predict_stream", "tables")


@pytest.fixture(scope="module")
def benchmarks(script):
    """The scripts, by name."""
    return {name: script(name) for name in MODULES}


def measured(name, number, rate, **changes):
    values = {"load_ms": 200.0, "p50_ms": 0.5, "p99_ms": 2.0, "rss_mb": 90.0}
    return {"name": name, "round": number, "sentences_per_s": rate, "sentences_per_s_2": 2 * rate, **values, **changes}


class TestInference:
    LABELS = np.array([0, 1, 1, 0, 1, 1])

    def rows(self, module, rates, answers, runs=None):
        runs = runs or [measured(name, 0, rate) for name, rate in rates.items()]
        prepared = {name: module.Contestant("student", Path(), 5_000_000) for name in rates}
        arrays = {name: np.array(given) for name, given in answers.items()}
        return module._rows(runs, prepared, arrays, Examples(("a",) * 6, self.LABELS))

    def test_a_row_holds_medians_and_scores(self, benchmarks):
        runs = [measured("ours", number, rate) for number, rate in enumerate((10.0, 30.0, 20.0))]
        (row,) = self.rows(benchmarks["inference"], {"ours": 0}, {"ours": self.LABELS}, runs)
        assert row["sentences_per_s"] == {"1": 20.0, "2": 40.0}
        assert row["mcc"] == 1.0
        assert row["bytes"] == 5_000_000

    def test_ratios_compare_runs_of_a_round(self, benchmarks):
        rates = {("ours", 0): 800.0, ("teacher", 0): 2.0, ("ours", 1): 300.0, ("teacher", 1): 1.0}
        runs = [measured(name, number, rate) for (name, number), rate in rates.items()]
        found = benchmarks["inference"]._ratios(runs)
        assert found == {"ours": {"vs_teacher": {"median": 350.0, "min": 300.0, "max": 400.0}}}

    def test_targets_are_met_or_missed_as_measured(self, benchmarks):
        module = benchmarks["inference"]
        rates = {"ours": 1000.0, "teacher": 2.0, "minilm_int8": 100.0, "tfidf": 5000.0}
        wrong = [0, 0, 1, 0, 1, 1]
        answers = {"ours": wrong, "teacher": self.LABELS, "minilm_int8": self.LABELS, "tfidf": [1, 0, 0, 1, 0, 1]}
        rows = self.rows(module, rates, answers)
        ratios = module._ratios([measured(name, 0, rate) for name, rate in rates.items()])
        met = {target["what"]: target["met"] for target in module._targets(rows, ratios)}
        assert met == {
            "times as many sentences a second as teacher, at least": True,
            "times as many sentences a second as minilm_int8, at least": False,
            "ms for one sentence (p50), at most": True,
            "ms to import and load, at most": True,
            "MB, at most": True,
            "contestants that are both faster and better, at most": True,
        }
        answers["tfidf"] = self.LABELS
        rows = self.rows(module, rates, answers)
        beaten = next(target for target in module._targets(rows, ratios) if "both faster" in target["what"])
        assert (beaten["found"], beaten["met"]) == (1, False)

    def test_the_plot_is_drawn(self, benchmarks, tmp_path):
        answers = {"ours": [0, 0, 1, 0, 1, 1], "teacher": self.LABELS, "tfidf": [1, 1, 1, 1, 1, 1]}
        rows = self.rows(benchmarks["inference"], {"ours": 9.0, "teacher": 1.0, "tfidf": 5.0}, answers)
        benchmarks["inference"]._plot(tmp_path / "plot.png", rows)
        assert (tmp_path / "plot.png").stat().st_size > 1000


class TestContestants:
    @staticmethod
    def asked(calls):
        def predict(texts):
            calls.append(len(texts))
            return texts

        return predict

    def test_every_text_is_asked_once_in_calls_of_the_size_given(self, benchmarks):
        calls = []
        found = benchmarks["contestants"]._rate(self.asked(calls), ["a"] * 10, 4, seconds=60.0, repeat=False)
        assert calls == [4, 4, 2]
        assert found["sentences"] == 10

    @pytest.mark.parametrize("repeat", [False, True])
    def test_the_clock_ends_it(self, benchmarks, repeat):
        calls = []
        found = benchmarks["contestants"]._rate(self.asked(calls), ["a"] * 10, 4, seconds=0.0, repeat=repeat)
        assert calls == [4]
        assert found["sentences"] == 4

    def test_they_are_asked_again_on_demand(self, benchmarks):
        calls = []
        benchmarks["contestants"]._rate(self.asked(calls), ["a"] * 6, 4, seconds=0.01, repeat=True)
        assert calls[:4] == [4, 2, 4, 2]

    def test_enough_single_texts_are_asked_for_a_percentile(self, benchmarks):
        calls = []
        found = benchmarks["contestants"]._delays(calls.append, ["a", "b"] * 200, seconds=0.0)
        assert len(calls) == found["calls"] == 200
        assert calls[:3] == [["a"], ["b"], ["a"]]
        assert found["p50_ms"] <= found["p99_ms"]


class TestLoad:
    ENTRIES = (
        ("200", 90, 0, {"10": 80, "500": 10}),
        ("429", 30, 0, {"1": 30}),
        ("0", 5, 5, {"0": 5}),
    )

    def entries(self):
        return [
            {
                "name": name,
                "num_requests": count,
                "num_failures": failures,
                "response_times": times,
                "start_time": 100.0,
                "last_request_timestamp": 110.0,
                "max_response_time": 501.0,
            }
            for name, count, failures, times in self.ENTRIES
        ]

    def test_requests_are_counted_by_how_they_ended(self, benchmarks):
        found = benchmarks["load"]._summary(self.entries(), size=16)
        assert found["requests"] == 125
        assert found["by_status"] == {"200": 90, "429": 30, "0": 5}
        assert found["failures"] == 5
        assert found["texts_per_s"] == 144.0
        assert (found["p50_ms"], found["p99_ms"]) == (10.0, 500.0)

    def test_a_kill_that_met_no_load_proves_nothing(self, benchmarks):
        both = benchmarks["load"]._both
        assert both({"by_status": {"200": 3, "0": 1}}, "0")
        assert not both({"by_status": {"0": 9}}, "0")
        assert not both({"by_status": {"200": 9}}, "0")


class TestStream:
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
    def test_what_is_lost_repeated_swapped_or_cut_is_found(self, benchmarks, tmp_path, damage, found):
        module = benchmarks["predict_stream"]
        lines = [json.dumps({"line": n, "text": module.line(n), "label": "x"}, ensure_ascii=False) for n in range(1, 6)]
        (tmp_path / "answers").write_text("\n".join(damage(lines)), encoding="utf-8")
        counts = module.check(tmp_path / "answers", 5)
        assert (counts["answers"], counts["right"], counts["broken"]) == found

    def test_no_two_lines_are_alike_and_each_stays_as_it_is(self, benchmarks):
        line = benchmarks["predict_stream"].line
        assert line(7) == line(7)
        assert len({line(number) for number in range(500)}) == 500


def test_tables_show_each_result(benchmarks, tmp_path, monkeypatch):
    tables, module = benchmarks["tables"], benchmarks["inference"]
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    markers = ("inference", "inference-plot", "load", "stream", "torture", "speed", "results")
    monkeypatch.setattr(tables, "DOCUMENTS", {"page.md": markers})
    (tmp_path / "page.md").write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in markers))
    tables.main(check=False)
    assert (tmp_path / "page.md").read_text().count("No result is committed yet.") == len(markers)
    made = {"command": "python x", "environment": {"processor": "P", "cores": 2}}
    rates = {"ours": 1000.0, "teacher": 2.0}
    runs = [measured(name, 0, rate) for name, rate in rates.items()]
    rows = TestInference().rows(module, rates, {"ours": [0, 0, 1, 0, 1, 1], "teacher": [0, 1, 1, 0, 1, 1]})
    ratios = module._ratios(runs)
    result = {"rows": rows, "ratios": ratios, "targets": module._targets(rows, ratios), "sentences": 6, "runs": runs}
    (tmp_path / "inference.json").write_text(json.dumps(made | result))
    shown = tables.CONTENTS["inference"]()
    assert "| **exported student** | 0.707 [" in shown
    assert "| exported student: times as many sentences a second as teacher, at least | 400 | 500 | yes |" in shown
    assert "exported student against its teacher, torch: 500.00, 500.00, 500.00" in shown
    assert "inference.png" in tables.CONTENTS["inference-plot"]()
    steady = {"name": "steady", "connections": 64, "rss_mb": 100.0}
    steady |= benchmarks["load"]._summary(TestLoad().entries(), 16)
    target = [{"what": "loss", "wanted": 0, "found": 5, "met": False}]
    (tmp_path / "load.json").write_text(
        json.dumps(made | {"runs": [steady], "texts_per_request": 16, "targets": target})
    )
    assert "| steady | 64 | 12 | 144 | 10 | 500 | 0: 5, 200: 90, 429: 30 | 100 |" in tables.CONTENTS["load"]()
    assert "| loss | 0 | 5 | **no** |" in tables.CONTENTS["load"]()
    run = {"name": "killed", "seconds": 9.0, "answered_before": 0, "rss_mb_early": 90.0, "rss_mb_late": 91.0}
    (tmp_path / "predict_stream.json").write_text(json.dumps(made | {"runs": [run], "targets": target}))
    assert "| killed | 9 | 0 | 90 | 91 |" in tables.CONTENTS["stream"]()
