"""The report of a run for someone who has never seen Potstill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import yaml

from potstill.config import PotstillConfig
from potstill.evaluation import Summary
from potstill.evaluation.metrics import BOOTSTRAP_SAMPLES
from potstill.predict.wording import in_markdown, numbered
from potstill.report.findings import examples_told_apart, findings
from potstill.report.plots import COMPARISON_FILE, RELIABILITY_FILE, curve_files
from potstill.report.tables import (
    ROLE_NAMES,
    class_table,
    classes,
    compared_roles,
    data_in_markdown,
    model_table,
    percent,
    seed_table,
)

DEFINITIONS: Final = f"""\
All scores are computed once from the predictions for the whole test split, which neither training nor the choice
of epochs has seen.

- **Accuracy:** share of right answers. With unequal classes a model that always gives the same answer looks good.
- **MCC** (Matthews correlation coefficient): correlation between answers and labels; 1 is perfect, 0 is what
  guessing or always giving the same answer reaches. Matthews 1975; for several classes Gorodkin 2004.
- **F1:** harmonic mean of precision (share of right answers among those that name a class) and recall (share of a
  class's texts that are found). **Macro-F1:** the mean over the classes, which all count the same, however rare.
- **ECE** (expected calibration error; Guo et al. 2017): how far the probability of the most probable class is from the
  share of right answers, on average; 0 is perfect. **NLL:** mean negative log-likelihood of the labels, in nats;
  knowing nothing but that there are two classes gives 0.693.
- **[low, high]:** 95 % percentile bootstrap interval over the examples ({BOOTSTRAP_SAMPLES} samples; Efron and
  Tibshirani 1993): how far the score could be off because the split holds only so many examples.
- **±:** sample standard deviation over seeds: how much the score depends on the luck of initialisation and batch order.
- **Majority class:** the most frequent class of the split. A model counts as *no better than always answering* it
  when the interval of its MCC is not entirely above 0.
- **McNemar's test:** looks at the examples on which exactly one of two models is right; p is the chance of so uneven a
  split if both were equally often right (exact binomial test; McNemar 1947). It tests whether
  the difference would hold on other examples, with the same models.
- **Linear SVM:** a support vector machine on word 1- and 2-grams and character 2- to 5-grams (scikit-learn's TF-IDF
  and `LinearSVC`). It has no probabilities, so no ECE.
- **Paired t-test:** compares the MCC of distilled student and baseline of the same seed. It tests whether
  the difference would hold with other seeds, on the same examples and with the same teacher.
- **Training loss, validation loss:** what training minimises, on the training and on the validation split. For the
  distilled student it holds the distance to the teacher too, so the losses of different models are no comparison.
- **Parameters, trainable:** all of them, frozen ones too, and those that training changes. **On disk:** what has to be
  kept to predict. **Training:** that of the epochs with their validation, a student's language modelling
  included, the teacher's labelling not; the mean over seeds. **Texts/s:** from texts to answers, in the environment
  below. **One text:** milliseconds from one text to its answer, the median."""

_MULTI_LABEL: Final = """
- **Texts with any number of labels:** each class has a probability of its own, and an answer names the classes whose
  probability is above the class's threshold. **Micro-F1:** the F1 of all labels of all texts together; frequent
  classes count more. **Subset accuracy:** share of texts of which all labels are right and none is missing. **MCC:**
  the mean over the classes, which all count the same. **Ranking loss** (`summary.json`): how often a class that a text
  does not have is more probable than one that it has. **ECE** compares the probability of every class with the share of
  texts that have it.
- **Sign test over the texts**, in place of McNemar's: it counts the texts for which one model's labels have the higher
  F1; with one label a text it is McNemar's test."""

_SOURCES: Final = {
    "file": "from files",
    "sampled": "sampled from a language model tuned on the training texts",
    "perturbed": "made by perturbing training texts",
    "words": "single words",
    "spans": "spans of the training texts",
}


def report_text(summary: Summary, plots: str, more: Sequence[str] = ()) -> str:
    """Write the whole report.

    Args:
        summary: The run.
        plots: The directory of the plots, relative to the report.
        more: Sentences for "What it means", beside those of the summary.
    """
    sections = report_sections(summary, plots)
    sections["What it means"] = "\n".join([sections["What it means"], *(f"- {line}" for line in more)])
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# Potstill: {in_markdown(summary.data.name)}\n\n{body}\n"


def report_sections(summary: Summary, plots: str) -> dict[str, str]:
    """Return the report's sections by title; `plots` as for `report_text`."""
    summary = replace(summary, data=data_in_markdown(summary.data))
    found = findings(summary)
    return {
        "Results": (
            f"{found[0]}\n\n{model_table(summary).to_markdown()}\n\n"
            "`[low, high]` is the 95 % interval of a single model, `±` the standard deviation over seeds (see below)."
            f"\n\n![All models compared]({plots}/{COMPARISON_FILE})"
        ),
        "What it means": "\n".join(f"- {line}" for line in found[1:]),
        "What was done": _what_was_done(summary),
        "Class by class": _classes(summary),
        "Seed by seed": _seeds(summary),
        "Plots": _plots(summary, plots),
        "How the numbers are defined": DEFINITIONS + _MULTI_LABEL * summary.data.multi_label,
        "How to repeat it": _repeat(summary),
        "Environment": "\n".join(f"- {line}" for line in _environment(summary.environment)),
    }


def _what_was_done(summary: Summary) -> str:
    """Describe the data and the models, as they describe themselves."""
    data = summary.data
    config = PotstillConfig.build(summary.config, "the configuration in the summary")
    how = {
        "teacher": "",
        "distilled": f"; it learns from the labels and from the teacher's answers ({config.distillation.describe()})",
        "ngram": f"; it learns from {'the same' if summary.of('distilled') else 'the labels alone'}",
        "baseline": "; it learns from the labels alone, to show what the teacher adds",
    }
    models = [f"- **{ROLE_NAMES[role]}:** {summary.of(role)[0].description}{how[role]}." for role in summary.roles]
    if summary.teacher is None and summary.teacher_seed is not None:
        why = "gave all labels" if data.labels_by_teacher else "leaves over 5 % of the test texts without an answer"
        unscored = f"{config.teacher.describe()}; it {why}, so it has no scores"
        models.insert(0, f"- **Teacher:** {unscored}.")
    learnt = "training" if data.multi_label else "training and the validation"
    linear = (
        "\n- **Linear SVM:** words, pairs of words and pieces of 2 to 5 characters (TF-IDF), learnt from the "
        f"{learnt} examples in seconds; what a small network has to beat."
    )
    only = "only " if data.multi_label else ""
    task = "give each text any number of" if data.multi_label else "tell apart"
    text = (
        f"The task: {task} the classes {classes(data.label_names)} of the data set **{data.name}** "
        f"(source: {data.source}). {data.train:,} examples trained the models, {data.validation:,} validated them (the "
        f"choice of epochs and settings), and {data.test:,}, used for nothing else, gave the results below. "
        f'{percent(data.majority.accuracy)} of these are {only}"{data.majority_label}": always giving this answer is '
        "that accurate without any model.\n\n"
        + "\n".join(models)
        + (linear if summary.linear is not None else "")
        + _unlabelled(summary)
    )
    if data.multi_label:
        text += (
            "\n\nA text gets each class whose probability is above the class's threshold, which is chosen on the "
            "validation split for micro- and macro-F1; of the linear SVM likewise."
        )
    elif any(model.threshold is not None for model in summary.models):
        text += (
            "\n\nA student's answer is the second class where the probability of that class is above the student's "
            "threshold, which promises the best MCC by the validation split; else it is the first."
        )
    return text


def _unlabelled(summary: Summary) -> str:
    """Say what distilled students read beside the training examples."""
    if summary.unlabelled is None:
        return ""
    counts = {kind: summary.unlabelled[kind] for kind in _SOURCES if kind in summary.unlabelled}
    parts = ", ".join(f"{count:,} {_SOURCES[kind]}" for kind, count in counts.items())
    left_out = numbered(summary.unlabelled["left out: held-out"], "text was", "texts were")
    return (
        f"\n\nThe distilled students also learnt the teacher's answers to texts without labels, the unlabelled set: "
        f"{parts}. {left_out} left out for being like one of the validation or test split."
    )


def _classes(summary: Summary) -> str:
    """Show each class's scores, the students' first."""
    roles, names = compared_roles(summary), summary.data.label_names
    table = class_table({ROLE_NAMES[role].lower(): [one.metrics for one in summary.of(role)] for role in roles}, names)
    note = ""
    if len(table.rows) < len(names):
        note = f"{len(table.rows)} of {len(names)} classes, those with the lowest F1. `summary.json` has all.\n\n"
    return f"{note}{table.to_markdown()}\n\nPrecision, recall and F1 on the test split, means over the seeds."


def _seeds(summary: Summary) -> str:
    """Show every model and every comparison of two."""
    taught = "none" if summary.teacher_seed is None else f"seed {summary.teacher_seed}"
    if summary.ensemble is not None:
        taught = "all, their probabilities averaged"
    text = f"Teacher that taught the students: {taught}.\n\n{seed_table(summary).to_markdown()}"
    if summary.comparisons:
        lines = [
            f"- seed {seed}: {examples_told_apart(test, multi_label=summary.data.multi_label)}"
            for seed, test in sorted(summary.comparisons.items())
        ]
        text += "\n\nDistilled student against the baseline of the same seed:\n\n" + "\n".join(lines)
    return text


def _plots(summary: Summary, directory: str) -> str:
    """Embed the three plots of each model that was trained, and the one of their probabilities."""
    images = []
    for role in summary.roles:
        if files := curve_files(summary, role):
            images.append(f"### {ROLE_NAMES[role]}")
            images += [f"![{ROLE_NAMES[role]}: {name}]({directory}/{file})" for name, file in files.items()]
    images += ["### Probabilities", f"![Reliability diagrams]({directory}/{RELIABILITY_FILE})"]
    return "\n\n".join(images)


def _environment(environment: Mapping[str, Any]) -> Iterator[str]:
    """Write a line for each part, and one for each later environment that the run went on in."""

    def parts(described: Mapping[str, Any]) -> list[str]:
        return [f"{name}: {'none' if value is None else value}" for name, value in described.items()]

    yield from parts({name: value for name, value in environment.items() if name != "later"})
    yield from (f"later with {', '.join(parts(changed))}" for changed in environment.get("later", ()))


def _repeat(summary: Summary) -> str:
    """Give the command and all settings."""
    settings = yaml.safe_dump(summary.config, sort_keys=False, allow_unicode=True)
    return (
        f"```bash\n{summary.command}\n```\n\n<details>\n<summary>All settings of this run</summary>\n\n"
        f"```yaml\n{settings}```\n\n</details>"
    )
