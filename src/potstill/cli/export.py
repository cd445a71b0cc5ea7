"""`potstill export`, `push` and `merge`: a student, or a teacher, as a directory to hand on or on the hub."""

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
from potstill.predict.hub import HubName

if TYPE_CHECKING:
    from potstill.export.card import Layout


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@new_directory_option
@click.option(
    "--format",
    "layout",
    type=click.Choice(("onnx", "web")),
    default="onnx",
    show_default=True,
    help="onnx predicts without torch; web is an index.html that classifies in a browser without a network, and a "
    "module for JavaScript.",
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

    student = _student_of(path)
    _print_files(f"{student}, exported:", export_student(student, out, layout, **abstention))
    if layout == "onnx":
        suggest_next("predict", out, "FILE")


def _hub_name(_: click.Context, __: click.Parameter, given: str) -> HubName:
    if (name := HubName.parse(given)) is None:
        raise click.BadParameter(f"expected owner/name, such as acme/tickets, found {given!r}")
    return name


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name", metavar="OWNER/NAME", callback=_hub_name)
@click.option("--private", is_flag=True, help="Let only the owner see it, where the repository is new.")
@click.option(
    "--license",
    "licence",
    metavar="ID",
    help="Licence that you publish the model under, as the hub calls it: apache-2.0, cc-by-4.0 …  [default: none]",
)
@click.option(
    "--language", metavar="ID", help="Language of the texts, such as en.  [default: of data that Potstill knows, en]"
)
def push(model: Path, name: HubName, private: bool, licence: str | None, language: str | None) -> None:
    """Upload a student to the Hugging Face hub as OWNER/NAME, or to a branch of it, OWNER/NAME@BRANCH.

    MODEL is a run, a student, or what `potstill export` wrote. `push` exports it as `potstill export` does, and uploads
    network, tokenizer, class names, checksums and the card, whose header tells the hub its task, language and scores.
    No text of your data is among them; the names of the classes are. The token is that of `hf auth login` or HF_TOKEN;
    HF_ENDPOINT names another hub.

    \b
      potstill push runs/NAME owner/name --license apache-2.0
      potstill predict owner/name --text "Hello"
    """
    from potstill.export.hub import push_student

    def announce(where: str, files: list[Path]) -> None:
        _print_files(f"uploading to {where}:", files, names_only=True)

    student = _student_of(model)
    click.echo(push_student(student, name, announce, private=private, licence=licence, language=language))
    suggest_next("predict", name, "FILE")


def _student_of(path: Path) -> Path:
    """Find the student to hand on; a teacher is refused."""
    if is_teacher(path):
        raise ArtifactError(
            f"{path}: expected a student, found a teacher\n  what to do: `potstill merge` writes a teacher for others"
        )
    return find_student(path)


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


def _print_files(title: str, files: list[Path], *, names_only: bool = False) -> None:
    from rich.filesize import decimal

    click.echo(title)
    for file in files:
        click.echo(f"  {file.name if names_only else file}  {decimal(file.stat().st_size)}")
