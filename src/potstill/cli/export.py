"""`potstill export` and `potstill merge`: a student, or a teacher, as a directory to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from potstill.cli.options import (
    Abstention,
    abstention_options,
    new_directory_option,
    runtime_settings,
    saved_teacher_options,
    suggest_next,
)
from potstill.errors import ArtifactError
from potstill.predict.directory import find_student, is_teacher

if TYPE_CHECKING:
    from potstill.export.card import Layout


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@new_directory_option
@click.option(
    "--format",
    "layout",
    type=click.Choice(("onnx", "huggingface", "web")),
    default="onnx",
    show_default=True,
    help="onnx predicts without torch; huggingface holds the weights, in the layout of the hub; web is an index.html "
    "that classifies in a browser without a network, and a module for JavaScript.",
)
@abstention_options
def export(path: Path, out: Path, layout: Layout, abstention: Abstention) -> None:
    """Write a student as a directory of a few megabytes, with all that prediction needs.

    PATH is a student's directory, a directory with several seeds, or a run. Of a run, `export` takes the student that
    its report recommends, of the seed with the best validation score. The directory holds the network, the tokenizer,
    the class names, checksums, and a model card with data, scores, limits and licences. The exported network is first
    checked against PyTorch. With `--format web` its weights are rounded as far as its answers allow; where Node is
    installed, the page's engine is compared with Python (else `node check.js` in the directory can do it later). With
    --coverage or --max-error, the exported student gives no answer where it is not sure enough, wherever it is used.

    \b
      potstill export runs/NAME --out model
      potstill predict model --text "Hello"
      potstill export runs/NAME --out page --format web
    """
    from potstill.export.bundle import export_student

    if is_teacher(path):
        raise ArtifactError(
            f"{path}: expected a student, found a teacher\n  what to do: `potstill merge` writes a teacher for others"
        )
    student = find_student(path)
    _print_files(f"{student}, exported:", export_student(student, out, layout, **abstention))
    if layout == "onnx":
        suggest_next("predict", out, "FILE")


@click.command()
@click.argument("teacher", type=click.Path(exists=True, file_okay=False, path_type=Path))
@new_directory_option
@saved_teacher_options
def merge(teacher: Path, out: Path, **saved: str | None) -> None:
    """Write TEACHER as a plain transformers model, which needs neither Potstill nor peft.

    TEACHER is a directory that `finetune` wrote, or a run. Of several teachers, `merge` takes the one with the best
    validation score. It adds the adapters to the weights (W + s B A), and writes head, class names and tokenizer too.
    The weights are float32, of full size. `merge` refuses a teacher with `echo`, which transformers can't compute.

    \b
    In Python:
      from transformers import AutoModelForSequenceClassification, AutoTokenizer
      tokenizer = AutoTokenizer.from_pretrained("DIR")
      model = AutoModelForSequenceClassification.from_pretrained("DIR")
      model(**tokenizer(["Hello"], padding=True, truncation=True, return_tensors="pt")).logits
    """
    from potstill.experiment.saved import find_teacher
    from potstill.export.merged import write_merged

    directory = find_teacher(teacher)
    runtime = runtime_settings(device="cpu", precision="32-true", **saved)
    _print_files(f"{directory}, merged:", write_merged(directory, out, runtime))


def _print_files(title: str, files: list[Path]) -> None:
    from rich.filesize import decimal

    click.echo(title)
    for file in files:
        click.echo(f"  {file}  {decimal(file.stat().st_size)}")
