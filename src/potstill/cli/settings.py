"""Command-line flags made from the configuration: one per setting, with the setting's own documentation."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from potstill.config import PotstillConfig, Settings, read_yaml
from potstill.errors import ConfigError

_FLAGS = {
    "data.source": "data",
    "data.evaluation": "evaluation-data",
    "teacher.lora.alpha": "lora-alpha",
    "teacher.lora.alpha_pattern": "lora-alpha-pattern",
    "teacher.lora.bias": "lora-bias",
    "teacher.lora.dropout": "lora-dropout",
    "teacher.lora.init": "lora-init",
    "baseline.epochs": "baseline-epochs",
    "student.tokenizer": "student-tokenizer",
    "student.pretraining.epochs": "pretraining-epochs",
    "student.pretraining.batch_size": "pretraining-batch-size",
    "student.pretraining.learning_rate": "pretraining-learning-rate",
    "search.seed": "search-seed",
    "transfer.files": "transfer-files",
    "transfer.seed": "transfer-seed",
    "transfer.temperature": "sampling-temperature",
}
"""Settings whose flag is not their own name, since that would be unclear or is taken by another."""

TRANSFER = (
    *("transfer.files", "transfer.sampled", "transfer.perturbed", "transfer.temperature", "transfer.top_p"),
    *("transfer.similarity", "transfer.seed"),
)
"""The transfer set's settings with flags; those of its language model are left to configuration files."""

ADAPTATION = (
    *("transfer.files", "transfer.similarity", "transfer.seed", "transfer.training.epochs"),
    *("transfer.training.batch_size", "transfer.training.learning_rate"),
)
"""Those that count where the backbone is adapted as a language model and nothing is sampled."""

SEARCH = (
    *("search.trials", "search.seeds_per_trial", "search.max_parameters", "search.pruning", "search.seed"),
    *("search.grid", "search.alphas", "search.temperatures"),
)
"""The search's settings with flags; its space is left to configuration files."""

COMPUTING = ("runtime.device", "runtime.precision")
"""Where models compute, and how precisely."""

TEACHERS = ("distillation.teachers", "distillation.judges")
"""Which of several teachers judge."""

TRAINING = (*COMPUTING, "runtime.checkpoint_seconds")
"""What counts in trainings other than a teacher's, which alone is compiled."""


@dataclass(frozen=True)
class Setting:
    """One leaf of the configuration.

    Attributes:
        path: Names from the root.
        field: Its declaration.
        default: Its value when nobody says otherwise.
        section: What is said of its section.
    """

    path: tuple[str, ...]
    field: FieldInfo
    default: Any
    section: str

    @property
    def parameter(self) -> str:
        """Name of the command's argument that carries it."""
        return "__".join(self.path)

    @property
    def shown_default(self) -> str:
        """The default as it would be given on the command line."""
        value = self.default
        if isinstance(value, tuple):
            return ",".join(map(str, value)) or "none"
        if isinstance(value, dict):
            return ",".join(f"{key}={item}" for key, item in value.items()) or "none"
        if isinstance(value, bool):
            return str(value).lower()
        return "none" if value is None else str(value)

    @property
    def meaning(self) -> str:
        """Its documentation, with its section's where that has a default of its own, and so the reason for it."""
        parts = [self.field.description or "", self.section if self.default != self.field.default else ""]
        return " ".join(" ".join(parts).split())

    @property
    def choices(self) -> list[Any]:
        """The values of a setting that only takes a few."""
        return _choices(self.field.annotation)

    def flag(self, *, prefixed: bool) -> str:
        """Name the flag; `prefixed` tells the teacher's settings from the student's of the same name."""
        if (named := _FLAGS.get(".".join(self.path))) is not None:
            return named
        stage, leaf = self.path[0], self.path[-1].replace("_", "-")
        doubled = "training" in self.path or self.path[-1] == "seeds"
        return f"{stage}-{leaf}" if doubled and prefixed else leaf


class SettingsCommand(click.Command):
    """A command whose help shows the settings by stage."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under one heading per stage."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)) is not None:
                stage, *rest = (parameter.name or "").split("__")
                sections.setdefault(stage.capitalize() if rest else "Options", []).append(record)
        for title in sorted(sections, key=lambda title: title != "Options"):
            with formatter.section(title):
                formatter.write_dl(sections[title])


def with_settings(
    *parts: str, defaults: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `--config` and a flag for every setting in `parts`; it gets a `config`.

    Flags go over the file, the file over the defaults. Where both teacher and student are trained, the flags that
    both have are prefixed (`--teacher-epochs`, `--student-epochs`).

    Args:
        parts: Stages, sections or settings, by dotted name.
        defaults: What the help says a setting is without its flag, where the command has a rule of its own for that.
    """
    settings = [setting for setting in all_settings() if _is_within(setting.path, parts)]
    prefixed = {"teacher", "student"} <= set(parts)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(config_file: Path | None, **arguments: Any) -> Any:
            values = {} if config_file is None else read_yaml(config_file)
            for setting in settings:
                given = arguments.pop(setting.parameter)
                if given is not None:
                    _place(values, setting.path, _parse(given, setting))
            source = "the configuration" if config_file is None else f"{config_file} with the flags given"
            return command(config=PotstillConfig.build(values, source), **arguments)

        result: Callable[..., Any] = wrapped
        for setting in reversed(settings):
            default = (defaults or {}).get(".".join(setting.path), setting.shown_default)
            result = _option(setting, setting.flag(prefixed=prefixed), default)(result)
        help_text = "YAML file with any of the settings below; flags go over it."
        path_type = click.Path(exists=True, dir_okay=False, path_type=Path)
        return click.option("--config", "config_file", metavar="FILE", type=path_type, help=help_text)(result)

    return decorate


def _is_within(path: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Say whether a setting belongs to one of `parts`: a stage (`data`), a section or a setting (`teacher.lora`)."""
    return any(path[: len(names)] == names for names in (tuple(part.split(".")) for part in parts))


def all_settings() -> Iterator[Setting]:
    """Return all settings, in the order of their declaration."""

    def walk(settings: Settings, path: tuple[str, ...], section: str) -> Iterator[Setting]:
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            if isinstance(value, Settings):
                yield from walk(value, (*path, name), field.description or "")
            else:
                yield Setting((*path, name), field, value, section)

    yield from walk(PotstillConfig(), (), "")


def _option(setting: Setting, flag: str, default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    text = f"{setting.meaning.replace('`', '')}  [default: {default}]"
    if isinstance(setting.default, bool):
        return click.option(f"--{flag}/--no-{flag}", setting.parameter, default=None, help=text)
    kind = click.Choice(setting.choices) if setting.choices else click.STRING
    value = "PATTERN=VALUE,…" if isinstance(setting.default, dict) else "VALUE"
    if words := [word for option in get_args(setting.field.annotation) for word in _choices(option)]:
        value = f"[{'|'.join(map(str, words))}|…]"  # these words, or something else: a number, none, patterns
    return click.option(
        f"--{flag}", setting.parameter, type=kind, metavar=None if setting.choices else value, help=text
    )


def _choices(annotation: Any) -> list[Any]:
    """Return the values of a setting that only takes a few."""
    return list(get_args(annotation)) if get_origin(annotation) is Literal else []


def _parse(given: Any, setting: Setting) -> Any:
    """Turn what stands on the command line into what YAML would have given; the configuration checks the rest."""
    annotation = setting.field.annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if given == "none" and type(None) in options:
        return None
    if any(get_origin(option) is dict for option in options):
        return _parse_mapping(given, setting)
    words = {str(word): word for option in options for word in _choices(option)}
    if given in words:
        return words[given]  # a number where the setting takes certain numbers
    if any(get_origin(option) is tuple for option in options):
        return [] if given == "none" else [part.strip() for part in given.split(",")]
    return given


def _parse_mapping(given: str, setting: Setting) -> dict[str, str]:
    """Read `*.q_proj=4,*.v_proj=8`; `none` is the empty mapping."""
    if given == "none":
        return {}
    pairs = [part.strip().rpartition("=") for part in given.split(",")]
    if not all(key for key, _, _ in pairs):
        expected = "expected PATTERN=VALUE, with commas between several"
        raise ConfigError([f"{'.'.join(setting.path)}: {expected}; found {given!r}"])
    return {key: value for key, _, value in pairs}


def _place(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        inner = {} if values.get(name) is None else values[name]
        if not isinstance(inner, dict):
            return  # a scalar where a stage belongs: the validation will say so
        values[name] = dict(inner)  # a copy: a YAML alias (`*training`) is one mapping in two places
        values = values[name]
    values[path[-1]] = value
