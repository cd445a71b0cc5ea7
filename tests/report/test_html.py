"""The page of a run: one valid file that asks for nothing, whatever the data holds; and how it looks in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pages import CHROMIUM, chromium
from potstill.errors import ArtifactError
from potstill.evaluation import EnsembleResult, McNemar, Summary, bootstrap_intervals, compute_metrics
from potstill.evaluation.details import Case, Details, LearningCurve, confusion, risk_coverage
from potstill.report import read_summary, write_report
from potstill.report.html import report_html
from potstill.report.markdown import report_text
from potstill.report.plots import draw_plots
from potstill.report.tables import percent

MakeSummary = Callable[..., Summary]
Show = Callable[[Summary, "Details | None"], "Page"]

HOSTILE = (
    '</title><script>alert("x")</script><img src=http://127.0.0.1:1/a.png>'
    " [x](http://127.0.0.1:1) ![y](b.png) `**&amp;\x1b[31m\u202e"
)
VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects what a browser would ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        self.text = " ".join("".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        assert len(given) == len(attrs)
        assert not any(name.startswith("on") for name in given)
        self.ids += [str(given[name]) for name in ("id",) if name in given]
        self.links += [str(given[name]) for name in ("src", "href") if name in given]
        assert tag != "img" or given.get("alt")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.said.append(data)


@pytest.fixture(scope="module")
def plots(make_summary: MakeSummary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plots of some run: to draw each run's takes most of the time."""
    draw_plots(make_summary(), directory := tmp_path_factory.mktemp("plots"))
    return directory


@pytest.fixture
def show(plots: Path) -> Show:
    return lambda summary, details: page_of(report_html(summary, details, Path("runs/some"), plots))


def page_of(text: str) -> Page:
    assert text.startswith("<!DOCTYPE html>\n")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert not re.search(r"url\(|@import", text)
    page = Page(text)
    assert page.tags.count("h1") == 1
    assert {"script", "iframe", "form"}.isdisjoint(page.tags)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    return page


def with_classes(summary: Summary, classes: int) -> Summary:
    """Give a run many classes."""
    labels = np.arange(4 * classes) % classes
    answers = np.where(np.arange(labels.size) % 7 == 0, (labels + 1) % classes, labels)
    scores: dict[str, Any] = {
        "metrics": compute_metrics(labels, answers, classes),
        "intervals": bootstrap_intervals(labels, answers, classes),
    }
    names = tuple(f"class_{number}" for number in range(classes))
    data = replace(summary.data, label_names=names, test=labels.size, majority_label=names[0])
    data = replace(data, majority=compute_metrics(labels, np.zeros_like(labels), classes))
    return replace(summary, data=data, models=tuple(replace(model, **scores) for model in summary.models))


def make_curve(accuracies: tuple[float, ...], p_value: float) -> LearningCurve:
    return LearningCurve(tuple(zip((10, 25, 50, 100), accuracies, strict=True)), McNemar(20, 5, p_value))


def make_details(summary: Summary, **fields: Any) -> Details:
    names = summary.data.label_names
    labels = np.arange(300) % len(names)
    answers = np.where(np.arange(300) % 9 == 0, (labels + 1) % len(names), labels)
    confidences = np.random.default_rng(0).random(300)
    case = Case("a text", None, names[0], names[1], 0.01, 0.99, names[0])
    values: dict[str, Any] = {
        "role": "distilled",
        "seed": 10,
        "in_pairs": False,
        "confusion": confusion(labels, answers, len(names)),
        "coverage": risk_coverage(confidences, labels == answers),
        "mistakes": (case,) * 20,
        "suspicious": (replace(case, teacher=None),) * 20,
        "suspicious_note": "",
        "learning_curve": make_curve((0.5, 0.6, 0.7, 0.8), 0.004),
    }
    return Details(**values | fields)


def test_page_holds_all_sections(make_summary: MakeSummary, show: Show) -> None:
    summary = make_summary(seeds=(0, 1), linear=0.35)
    page = show(summary, make_details(summary))
    assert page.tags.count("img") == 9 + 2 + 2
    first_screen = page.text[: page.text.index("What it means")]
    for words in ("This run compares 1 teacher, 2 distilled students, 2 baseline students and a linear SVM on 527 test",
                  "Did it pay?", "Teacher", "Distilled student", "Linear SVM", "texts/s", "on disk"):  # fmt: skip
        assert words in first_screen
    for words in (
        *(
            "label \\ answer",
            "The worst mistakes",
            "teacher unacceptable",
            "The most suspicious labels",
            "11.3 % of the surest 100.0 %",
        ),
        *("would probably help: the curve still rises", "potstill predict", "Classifier.load(", summary.command),
        *("McNemar's test:", "python: 3.11.9", "2 distilled students"),
    ):
        assert words in page.text
    assert "*" not in page.text
    assert "em" in page.tags


@pytest.mark.parametrize(
    ("accuracies", "p_value", "said"),
    [
        ((0.5, 0.6, 0.7, 0.72), 0.3, "may help: the curve still rises, but that can be chance"),
        ((0.5, 0.6, 0.7, 0.7), 1.0, "would hardly help: the curve is flat"),
        ((0.5, 0.6, 0.7, 0.6), 0.01, "would hardly help"),
    ],
)
def test_page_says_whether_more_labels_help(make_summary, show, accuracies, p_value, said) -> None:
    summary = make_summary()
    curve = make_curve(accuracies, p_value)
    assert said in show(summary, make_details(summary, learning_curve=curve)).text


@pytest.mark.parametrize("classes", [20, 21, 150])
def test_page_of_many_classes(make_summary: MakeSummary, show: Show, classes: int) -> None:
    summary = with_classes(make_summary(), classes)
    page = show(summary, make_details(summary))
    assert ("label \\ answer" in page.text) == (classes <= 20)
    assert ("class_0 → class_1" in page.text) == (classes > 20)
    assert (f"30 of {classes} classes" in page.text) == (classes > 30)


def test_page_escapes_names_and_texts(make_summary: MakeSummary, show: Show) -> None:
    summary = make_summary(linear=0.3)
    names = (f"no {HOSTILE}", f"yes {HOSTILE}")
    data = replace(summary.data, name=HOSTILE, source=HOSTILE, label_names=names, majority_label=names[1], positive=1)
    models = tuple(replace(model, description=HOSTILE) for model in summary.models)
    summary = replace(summary, data=data, models=models, command=f"potstill run {HOSTILE}")
    case = Case("<b>" + "x" * 5000, f"second {HOSTILE}", *names, 0.1, 0.9, names[1])
    page = show(summary, make_details(summary, in_pairs=True, mistakes=(case,), suspicious=(case,)))
    assert '<script>alert("x")</script><img src=http://127.0.0.1:1/a.png>' in page.text
    assert "<b>xxx" in page.text
    assert "second </title>" in page.text
    assert '("A man sleeps.", "Somebody is awake.")' in page.text
    assert page.tags.count("img") == 9 + 2 + 2


def test_page_of_what_is_missing(make_summary: MakeSummary, show: Show) -> None:
    """Without details, teacher, linear model and curves; then details that hold nothing."""
    summary = make_summary()
    students = tuple(replace(one, history=()) for one in summary.models if one.role != "teacher")
    page = show(replace(summary, models=students, teacher_seed=None), None)
    for word in ("Teacher", "Curves", "worst mistakes"):
        assert word not in page.text.replace("Teacher that", "")
    assert "leaves over 5 % of the test texts without an answer" in show(replace(summary, models=students), None).text
    empty = {"mistakes": (), "suspicious": (), "confusion": ((0, 0, 5),), "learning_curve": None}
    note = "Not searched: few texts."
    said = show(summary, make_details(summary, **empty, coverage=((1.0, 0.0),), suspicious_note=note)).text
    for words in ("answers all 527 test texts correctly", note, "all training texts have the same label"):
        assert words in said


def test_page_of_teachers_that_taught_together(make_summary: MakeSummary, show: Show) -> None:
    summary = make_summary()
    teacher = summary.models[0]
    together = EnsembleResult(teacher.metrics, teacher.intervals, teacher.calibration)
    summary = replace(summary, models=(replace(teacher, seed=1), *summary.models), ensemble=together)
    assert "2 teachers" in show(summary, make_details(summary)).text


def test_reports_say_what_abstaining_gains_and_how(
    make_summary: MakeSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potstill.report.draw_plots", lambda *_: None)
    run, curve = tmp_path / "my run", ((0.5, 0.01), (0.88, 0.023), (1.0, 0.07))
    run.mkdir()
    summary = make_summary()
    write_report(summary, run, make_details(summary, coverage=curve))
    said = (
        f"If it answers {percent(0.88)} of the test texts, {percent(0.023)} of its answers are wrong; if it answers "
        f"all, {percent(0.07)}: "
    )
    command = f"potstill predict '{run}' FILE --coverage 0.9"
    assert f"{said}`{command}`" in (run / "report.md").read_text(encoding="utf-8")
    page = page_of((run / "report.html").read_text(encoding="utf-8")).text
    assert command in page
    assert "potstill predict" not in report_text(summary, "plots")  # without details


def test_report_is_written_again_from_its_files(make_summary: MakeSummary, tmp_path: Path) -> None:
    summary = make_summary()
    write_report(summary, tmp_path, make_details(summary))
    page_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    before = {name: (tmp_path / name).read_bytes() for name in ("report.html", "details.json", "checksums.json")}
    write_report(read_summary(tmp_path), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    (tmp_path / "details.json").write_text("{}")
    with pytest.raises(ArtifactError, match="was cut short"):
        write_report(read_summary(tmp_path), tmp_path)


def test_the_recommended_student_is_the_best_in_validation(make_summary: MakeSummary) -> None:
    summary = make_summary(seeds=(0, 1, 2))
    scores = {10: 0.4, 11: 0.6, 12: 0.6}
    models = tuple(replace(one, validation_mcc=scores.get(one.seed, 0.9)) for one in summary.models)
    found = replace(summary, models=models).recommended
    assert found is not None
    assert (found.role, found.seed) == ("distilled", 11)
    harmed = make_summary((0.2, 0.45, 0.25), seeds=(0, 1, 2))
    assert harmed.distillation_harmed
    assert harmed.recommended in harmed.of("baseline")
    assert replace(summary, models=summary.of("teacher")).recommended is None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver, chromium(driver) as browser:
        yield browser


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("classes", [2, 20, 150])
def test_page_in_a_browser(make_summary, tmp_path, plots, browser, width, classes) -> None:
    summary = with_classes(make_summary(linear=0.3), classes)
    names = ("x" * 200, *summary.data.label_names[1:])
    summary = replace(summary, data=replace(summary.data, name="n" * 200, label_names=names, majority_label=names[0]))
    case = Case("word" * 100, "second " * 60, names[0], names[1], 0.1, 0.9, names[0])
    details = make_details(summary, mistakes=(case,) * 20, suspicious=(case,) * 20)
    (tmp_path / "report.html").write_text(report_html(summary, details, tmp_path, plots), encoding="utf-8")
    address, wrong = (tmp_path / "report.html").as_uri(), []
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("data:", address)) or wrong.append(request.url))
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.locator(".verdict").bounding_box()["y"] < 900  # seen first
    context.close()
    assert wrong == []
