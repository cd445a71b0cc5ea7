"""The report of a run for someone who has never seen Potstill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import yaml

from potstill.config import PotstillConfig, TeacherConfig
from potstill.evaluation import Role, Summary
from potstill.evaluation.intervals import BOOTSTRAP_SAMPLES
from potstill.report.findings import examples_told_apart, findings
from potstill.report.plots import COMPARISON_FILE, RELIABILITY_FILE, curve_files
from potstill.report.tables import ROLE_NAMES, classes, data_in_markdown, model_table, percent, seed_table
from potstill.wording import numbered

DEFINITIONS = f"""\
All scores are computed once from the predictions for the whole evaluation split, which neither training nor the choice
of epochs has seen.

- **Accuracy:** share of right answers. With unequal classes a model that always gives the same answer looks good.
- **MCC** (Matthews correlation coefficient): correlation between answers and labels; 1 is perfect, 0 is what
  guessing or always giving the same answer reaches. Matthews 1975; for several classes Gorodkin 2004.
- **F1:** harmonic mean of precision and recall of the second class where there are two classes, else the mean of the
  F1 of all classes (macro). Always giving the same answer can score high here too.
- **ECE** (expected calibration error; Guo et al. 2017): how far the probability of the most probable class is from the
  share of right answers, on average; 0 is perfect. **NLL:** mean negative log-likelihood of the labels, in nats;
  knowing nothing but that there are two classes gives 0.693. Students' probabilities are softmax(logits / T) with one
  temperature T from the selection split, a teacher's are as training left them.
- **[low, high]:** 95 % percentile bootstrap interval over the examples ({BOOTSTRAP_SAMPLES} samples; Efron and
  Tibshirani 1993): how far the score could be off because the split holds only so many examples.
- **±:** sample standard deviation over seeds: how much the score depends on the luck of initialisation and batch order.
- **Majority class:** the most frequent class of the split. A model counts as *no better than always answering* it
  when the interval of its MCC is not entirely above 0.
- **McNemar's test:** looks at the examples on which exactly one of two models is right; p is the chance of so uneven a
  split if both were equally often right (exact binomial test; McNemar 1947). It speaks of other examples, same models.
- **Paired t-test:** compares the MCC of distilled student and baseline of the same seed. It speaks of other seeds, same
  examples and same teacher.
- **Training loss, validation loss:** what training minimises, on the training and on the selection split. For the
  distilled student it holds the distance to the teacher too, so the losses of different models are no comparison.
- **Parameters, trainable:** all of them, frozen ones too, and those that training changes. **On disk:** what has to be
  kept to predict. **Training time:** that of the epochs with their validation, a student's language modelling
  included, the teacher's judgement not; the mean over seeds. **Sentences/s:** from texts to answers, in the environment
  below."""


def report_text(summary: Summary, plots: str) -> str:
    """Write the whole report.

    Args:
        summary: The run.
        plots: Directory of the plots, relative to the report.
    """
    summary = replace(summary, data=data_in_markdown(summary.data))
    sections = {
        "What was done": _what_was_done(summary),
        "Results": _results(summary, plots),
        "What it means": "\n".join(f"- {line}" for line in findings(summary)),
        "Seed by seed": _seeds(summary),
        "Plots": _plots(summary, plots),
        "How the numbers are defined": DEFINITIONS,
        "How to repeat it": _repeat(summary),
        "Environment": "\n".join(f"- {line}" for line in _environment(summary.environment)),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# Potstill: {summary.data.name}\n\n{body}\n"


def _what_was_done(summary: Summary) -> str:
    """Describe the data and the models that were trained."""
    data = summary.data
    config = PotstillConfig.build(summary.config, "the configuration in the summary")
    models = _model_descriptions(config)
    described = "\n".join(f"- **{ROLE_NAMES[role]}:** {models[role]}" for role in summary.roles)
    return (
        f"The task: tell apart the classes {classes(data.label_names)} of the data set **{data.name}** "
        f"(source: {data.source}). "
        f"{data.train:,} examples trained the models, {data.selection:,} {_choice(config)}, and "
        f"{data.evaluation:,}, used for nothing else, gave the results below. "
        f'{percent(data.majority.accuracy)} of these are "{data.majority_label}": always giving this answer is that '
        f"accurate without any model.\n\n{described}{_transfer(summary)}{_threshold(config, len(data.label_names))}"
    )


def _choice(config: PotstillConfig) -> str:
    """Tell what the selection split did for the epochs."""
    metrics = {"teacher": config.teacher.training.metric, "student": config.student.training.metric}
    match [model for model, metric in metrics.items() if metric != "last"]:
        case [model]:
            return f"chose the best epoch of each {model} (of the others the last one is kept)"
        case []:
            return "chose no classifier's epoch (the last one is kept)"
    return "chose the best epoch of each"


def _transfer(summary: Summary) -> str:
    """Tell what distilled students read beside the training examples, and who judged it."""
    if summary.transfer is None:
        return ""
    origins = {
        "file": "from files",
        "sampled": "sampled from the teacher's backbone, tuned as a language model on the training texts",
        "perturbed": "made by perturbing training texts",
    }
    parts = [f"{summary.transfer[kind]:,} {origin}" for kind, origin in origins.items() if kind in summary.transfer]
    texts = summary.data.train + sum(summary.transfer.get(kind, 0) for kind in origins)
    epochs = {role: max(model.epochs for model in summary.of(role)) for role in summary.roles}
    judged = ""
    if summary.judges is not None:
        judged = f" Each was judged by {summary.judges} of the {len(summary.of('teacher'))} teachers."
    left_out = numbered(summary.transfer["left out: held-out"], "text was", "texts were")
    return (
        "\n\nThe distilled students also learnt the teacher's judgement of texts without labels, the transfer set: "
        f"{', '.join(parts)}.{judged} {left_out} left out for being like one of the selection or evaluation split. "
        f"These students learnt for up to {numbered(epochs['distilled'], 'epoch')} of {texts:,} texts, the baselines "
        f"for up to {epochs['baseline']} of {summary.data.train:,}."
    )


def _threshold(config: PotstillConfig, classes: int) -> str:
    """Say so where students don't answer with the most probable class."""
    if config.student.threshold == "argmax" or classes != 2:
        return ""
    return (
        "\n\nA student's answer is the second class where that one's probability is above the student's threshold, "
        "from which the best MCC is to be expected by the selection split; else it is the first."
    )


def _model_descriptions(config: PotstillConfig) -> dict[Role, str]:
    """Describe each model in one sentence."""
    teacher, student, distillation = config.teacher, config.student, config.distillation
    weights = "with random weights" if teacher.random_init else "pretrained"
    direction = "bidirectional " if student.bidirectional else ""
    compared = ", with features of how each token compares with what the network expected there,"
    layers = numbered(student.num_layers, "layer")
    return {
        "teacher": f"the language model `{teacher.backbone}`, {weights}, {_tuning(teacher)}.",
        "distilled": f"a small {direction}{student.cell.upper()} network ({layers} of {student.hidden_size} units)"
        f"{compared if student.surprisal_size else ''} that learns from the labels and from the teacher's answers "
        f"(weight of the labels {distillation.alpha:g}, {distillation.manner}){_beside(config)}.",
        "baseline": "the same small network and seeds, trained on the labels alone, to show what the teacher adds.",
    }


def _beside(config: PotstillConfig) -> str:
    """Tell what a distilled student begins with and learns beside labels and answers."""
    student, extras = config.student, []
    if student.embedding_init == "teacher":
        extras.append("its embeddings begin as the teacher's, reduced")
    if student.pretraining.epochs:
        extras.append(f"it learnt language modelling first (epochs: {student.pretraining.epochs})")
    if config.distillation.hidden_weight:
        extras.append(f"it matches the teacher's last hidden states too (weight {config.distillation.hidden_weight:g})")
    return "".join(f"; {extra}" for extra in extras)


def _tuning(teacher: TeacherConfig) -> str:
    tuned = {
        "full": "all of whose weights were tuned",
        "head": "frozen under a head that was trained",
        "lora": f"tuned with LoRA adapters of rank {teacher.lora.rank} while its own weights stay frozen",
    }[teacher.method]
    if teacher.first_blocks is not None:
        tuned += f"; of its blocks only the first {teacher.first_blocks} are kept"
    return f"{tuned}; it reads each text twice" if teacher.echo else tuned


def _results(summary: Summary, plots: str) -> str:
    """Show the result table and the plot that compares the models."""
    return (
        f"{model_table(summary).to_markdown()}\n\n"
        "`[low, high]` is the 95 % interval of a single model, `±` the standard deviation over seeds (see below).\n\n"
        f"![All models compared]({plots}/{COMPARISON_FILE})"
    )


def _seeds(summary: Summary) -> str:
    """Show every model and every comparison of two."""
    one = f"seed {summary.teacher_seed}"
    taught = one if summary.ensemble is None else "all, their probabilities averaged"
    if summary.judges is not None:
        taught += f"; of the transfer set each text by {summary.judges} of them"
    text = f"Teacher that taught the students: {taught}.\n\n{seed_table(summary).to_markdown()}"
    if summary.comparisons:
        lines = [f"- seed {seed}: {examples_told_apart(test)}" for seed, test in sorted(summary.comparisons.items())]
        text += "\n\nDistilled student against the baseline of the same seed:\n\n" + "\n".join(lines)
    return text


def _plots(summary: Summary, directory: str) -> str:
    """Embed the three plots of each model, and the one of their probabilities."""
    names = ("training loss", "validation loss", "accuracy and MCC")
    images = []
    for role in summary.roles:
        images.append(f"### {ROLE_NAMES[role]}")
        images += [
            f"![{ROLE_NAMES[role]}: {name}]({directory}/{file})"
            for name, file in zip(names, curve_files(role), strict=True)
        ]
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
