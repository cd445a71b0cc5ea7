"""`potstill export`: a student as a directory to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from potstill.cli.options import new_directory_option
from potstill.errors import ArtifactError
from potstill.runtime.directory import find_student, is_teacher

if TYPE_CHECKING:
    from potstill.export.card import Layout


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@new_directory_option
@click.option(
    "--format",
    "layout",
    type=click.Choice(("onnx", "torch", "huggingface")),
    default="onnx",
    show_default=True,
    help="onnx: to predict, without torch. torch: the weights, to train on. huggingface: the same, laid out as the hub "
    "has it.",
)
@click.option(
    "--int8/--no-int8",
    default=True,
    show_default=True,
    help="Try weights of 8 bits too (onnx alone): kept where they are measured to be smaller or faster with the same "
    "MCC.",
)
def export(path: Path, out: Path, layout: Layout, int8: bool) -> None:
    """Write a student as a directory of a few megabytes that holds all it needs and nothing of its training.

    PATH is a student, several seeds of one, or a run: then its best distilled student in selection. Written are the
    network, the tokenizer, the names of the classes, checksums and a card: data, teacher, scores with their intervals,
    limits, licences. What is written is first proven to compute what PyTorch computes.

    \b
      potstill export runs/NAME --out model
      potstill predict model --text "Is it so?"
    """
    from potstill.export.bundle import export_student

    if is_teacher(path):
        raise ArtifactError(
            f"{path}: expected a student, found a teacher\n  what to do: `potstill merge` writes a teacher for others"
        )
    student = find_student(path)
    exported = export_student(student, out, layout, int8=int8)
    click.echo(f"{student}, exported:")
    for file in exported.files:
        click.echo(f"  {file}  {file.stat().st_size / 1e6:.2f} MB")
    if exported.trial is not None:
        click.echo(f"8 bits: {exported.trial.describe()}")
    if exported.no_int8:
        click.echo(f"no 8-bit variant: {exported.no_int8}")
