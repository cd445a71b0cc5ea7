"""Flags whose values are mappings or lists."""

import click
import pytest
from click.testing import CliRunner

from potstill.cli.settings import all_settings, with_settings
from potstill.errors import ConfigError


def parse_all(part, *arguments):
    """Return the settings that the flags of `part` stand for."""
    found = []

    @click.command()
    @with_settings(part)
    def command(config):
        found.append(config)

    result = CliRunner().invoke(command, list(arguments))
    if result.exception is not None:
        raise result.exception
    return found[0]


def parse(*arguments):
    """Return the LoRA settings that the flags stand for."""
    return parse_all("teacher.lora", *arguments).teacher.lora


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("*.q_proj=4,*.v_proj=8", {"*.q_proj": 4, "*.v_proj": 8}),
        (" *.q_proj=4 , *.v_proj=8", {"*.q_proj": 4, "*.v_proj": 8}),
        ("none", {}),
    ],
)
def test_a_mapping_is_read_in_order(value, expected):
    assert list(parse("--rank-pattern", value).rank_pattern.items()) == list(expected.items())


def test_a_flag_goes_over_the_files_mapping(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("teacher: {lora: {rank_pattern: {'*.q_proj': 2}, alpha_pattern: {'*.q_proj': 2.5}}}")
    settings = parse("--config", str(file), "--rank-pattern", "*.k_proj=3")
    assert settings.rank_pattern == {"*.k_proj": 3}
    assert settings.alpha_pattern == {"*.q_proj": 2.5}


@pytest.mark.parametrize("value", ["4", "=4", "*.q_proj=4,8", "*.q_proj=four", "*.q_proj=0", "*.q_proj="])
def test_what_is_no_mapping_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"teacher\.lora\.rank_pattern.*found"):
        parse("--rank-pattern", value)


@pytest.mark.parametrize(("value", "expected"), [("b.txt, c.txt", ("b.txt", "c.txt")), ("none", ())])
def test_a_list_goes_over_the_files(tmp_path, value, expected):
    file = tmp_path / "config.yaml"
    file.write_text("transfer: {files: [a.txt]}")
    found = parse_all("transfer.files", "--config", str(file), "--transfer-files", value)
    assert found.transfer.files == expected


def test_a_flag_leaves_a_section_its_own_other_defaults():
    """A student's, which are not a teacher's."""
    training = parse_all("student.training", "--epochs", "5").student.training
    assert (training.epochs, training.learning_rate, training.patience) == (5, 1e-3, 3)


def test_a_default_of_a_section_comes_with_the_sections_reason():
    meanings = {".".join(setting.path): setting.meaning for setting in all_settings()}
    assert "It starts from nothing" in meanings["student.training.epochs"]
    assert "It starts from nothing" not in meanings["student.training.batch_size"]  # the same as anybody's
    assert "It starts from nothing" not in meanings["teacher.training.epochs"]
