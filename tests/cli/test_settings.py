"""Flags made from the configuration."""

import click
import pytest
from click.testing import CliRunner

from potstill.cli.settings import all_settings, with_settings


def parse(part, *arguments):
    """Return the configuration that the flags of `part` stand for."""
    found = []

    @click.command()
    @with_settings(part)
    def command(config):
        found.append(config)

    result = CliRunner().invoke(command, list(arguments))
    if result.exception is not None:
        raise result.exception
    return found[0]


@pytest.mark.parametrize(("value", "expected"), [("b.txt, c.txt", ("b.txt", "c.txt")), ("none", ())])
def test_list_flag_replaces_the_list_of_the_file(tmp_path, value, expected):
    file = tmp_path / "config.yaml"
    file.write_text("augment: {files: [a.txt]}")
    found = parse("augment.files", "--config", str(file), "--unlabelled", value)
    assert found.augment.files == expected


@pytest.mark.parametrize("content", ["", "student:", "student: {training: {patience: 3}}"])
def test_flag_keeps_the_other_defaults_of_its_section(content, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    training = parse("student.training", "--epochs", "5", "--config", str(file)).student.training
    assert (training.epochs, training.learning_rate, training.patience) == (5, 1e-3, 3)


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("target_modules", "*.1.*, *.2.*", ("*.1.*", "*.2.*")),
        ("target_modules", "all-linear", "all-linear"),
        ("target_modules", "*.q_proj", ("*.q_proj",)),
        ("rank", "4", 4),
    ],
)
def test_values_of_flags(flag, value, expected):
    found = parse("teacher.lora", f"--{flag.replace('_', '-')}", value)
    assert getattr(found.teacher.lora, flag) == expected


def test_help_is_the_first_sentence_of_the_documentation():
    shown = {setting.name: setting.summary for setting in all_settings()}
    assert shown["student.training.learning_rate"] == "Peak learning rate."
    assert shown["search.trials"] == "Number of trials."
    assert not any(word in summary for summary in shown.values() for word in ("arXiv", "`", "et al."))
