"""`potstill merge`: a teacher as plain `transformers` weights."""

from __future__ import annotations

from pathlib import Path

import click

from potstill.cli.options import new_directory_option


@click.command()
@click.argument("teacher", type=click.Path(exists=True, file_okay=False, path_type=Path))
@new_directory_option
def merge(teacher: Path, out: Path) -> None:
    """Write TEACHER as a plain transformers model, which needs neither Potstill nor peft.

    TEACHER is what `finetune` wrote, or a run: then the best of its teachers in selection. Adapters are added to the
    weights they adapt (W + s B A), so that the model costs what its backbone costs; head, names of the classes and
    tokenizer come along. Weights are float32, of full size. A teacher with `echo` has no such form.

    \b
    In Python:
      from transformers import AutoModelForSequenceClassification, AutoTokenizer
      tokenizer = AutoTokenizer.from_pretrained("DIR")
      model = AutoModelForSequenceClassification.from_pretrained("DIR")
      model(**tokenizer(["Is it so?"], padding=True, truncation=True, return_tensors="pt")).logits
    """
    from potstill.export.merged import write_merged
    from potstill.models import find_teacher

    directory = find_teacher(teacher)
    files = write_merged(directory, out)
    click.echo(f"{directory}, merged:")
    for file in files:
        click.echo(f"  {file}  {file.stat().st_size / 1e6:.1f} MB")
