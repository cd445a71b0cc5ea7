"""Command-line flags made from the configuration: one per setting, with the setting's own documentation."""

from __future__ import annotations

import functools
import re
import types
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from potstill.config import PotstillConfig, Settings, read_yaml

_FLAGS: Final = {
    "data.source": "data",
    "data.test": "test-data",
    "teacher.kind": "teacher-kind",
    "teacher.tokenizer": "teacher-tokenizer",
    "teacher.lora.alpha": "lora-alpha",
    "teacher.lora.bias": "lora-bias",
    "teacher.lora.dropout": "lora-dropout",
    "student.kind": "student-kind",
    "student.tokenizer": "student-tokenizer",
    "student.pretraining.epochs": "pretraining-epochs",
    "student.pretraining.batch_size": "pretraining-batch-size",
    "student.pretraining.learning_rate": "pretraining-learning-rate",
    "baseline.epochs": "baseline-epochs",
    "search.seed": "search-seed",
    "augment.files": "unlabelled-files",
    "augment.seed": "unlabelled-seed",
    "augment.temperature": "sampling-temperature",
}
"""Settings whose flag is not their own name in any command, since that would be unclear."""

_VALUES: Final = {
    "data.source": "DATA",
    "data.test": "FILE",
    "data.text_column": "COLUMN",
    "data.pair_column": "COLUMN",
    "data.label_column": "COLUMN",
    "teacher.backbone": "MODEL",
    "teacher.tokenizer": "MODEL",
    "student.tokenizer": "bpe|teacher|MODEL",
    "augment.files": "FILE,…",
    "runtime.executor": "local|none",
}
"""What the help calls a value where its type would say too little."""

_COLUMNS: Final = ("data.text_column", "data.pair_column", "data.label_column")
COMMON: Final = frozenset(
    {
        *_COLUMNS,
        *("teacher.backbone", "teacher.lora.rank", "teacher.training.epochs", "teacher.seeds"),
        *("augment.files", "augment.sampled", "augment.perturbed", "search.trials", "search.max_parameters"),
        *("student.hidden_size", "student.training.epochs", "student.seeds"),
        *("distillation.alpha", "distillation.temperature", "runtime.device"),
    }
)
"""The settings that `--help` shows; `--help-all` shows the others too."""
COMMON_IN_RUN: Final = frozenset(
    {
        *(*_COLUMNS, "teacher.backbone", "teacher.training.epochs"),
        *("student.training.epochs", "student.seeds", "runtime.device"),
    }
)
"""The same for `run`, which has the settings of all steps."""

AUGMENT: Final = (
    *("augment.files", "augment.sampled", "augment.perturbed", "augment.temperature", "augment.top_p"),
    *("augment.similarity", "augment.seed"),
)
"""The unlabelled set's settings with flags; those of its language model are left to configuration files."""
SEARCH: Final = ("search.trials", "search.max_parameters", "search.pruning", "search.seed")
"""The search's settings with flags; its space is left to configuration files."""
COMPUTING: Final = ("runtime.device", "runtime.precision")
"""Where models compute, and how precisely."""

_DATA: Final = (
    "DATA is a file with a header (.csv, .tsv, .jsonl, .parquet), a directory with train.csv and perhaps test.csv and "
    "validation.csv, a data set of the Hugging Face hub (owner/name), or a corpus: cola or builtin. It can be left out "
    "where --config names it."
)
_ALL: Final = "potstill.all_settings"
"""Where a click context notes that all settings are to be shown."""
_FIRST_SENTENCE: Final = re.compile(r".*?(?<!e\.g)\.(?= [A-Z0-9`(]|$)")


@dataclass(frozen=True)
class Setting:
    """One leaf of the configuration.

    Attributes:
        path: Names from the root.
        field: Its declaration.
        default: Its default in this section.
        section: The documentation of its section.
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
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default)) or "none"
        return str(self.default).lower() if self.default in (None, True, False) else str(self.default)

    @property
    def name(self) -> str:
        """Its dotted name."""
        return ".".join(self.path)

    @property
    def meaning(self) -> str:
        """Its documentation."""
        return " ".join((self.field.description or "").split())

    @property
    def summary(self) -> str:
        """The first sentence of its documentation, which the help shows."""
        found = _FIRST_SENTENCE.match(self.meaning)
        return (found[0] if found else self.meaning).replace("`", "")

    @property
    def choices(self) -> list[Any]:
        """The values of a setting that only takes a few."""
        return list(get_args(self.field.annotation)) if get_origin(self.field.annotation) is Literal else []

    @property
    def flag(self) -> str:
        """Its flag in a command that has no other setting of its name."""
        return _FLAGS.get(self.name, self.path[-1].replace("_", "-"))


class _SettingOption(click.Option):
    """The flag of a setting."""

    def __init__(self, *arguments: Any, setting: Setting, is_common: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.section = " ".join((setting.path[0].capitalize(), *setting.path[1:-1])).replace("lora", "LoRA")
        self.is_common = is_common


class SettingsCommand(click.Command):
    """A command whose help shows the common settings, or all of them by section."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does, and what its data may be."""
        super().format_help_text(ctx, formatter)
        if any(parameter.human_readable_name == "DATA" for parameter in self.params):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(_DATA)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, under one heading per section with `--help-all`."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            section = "Options"
            if isinstance(parameter, _SettingOption):
                if not (_ALL in ctx.meta or parameter.is_common):
                    continue
                section = parameter.section if _ALL in ctx.meta else section
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(section, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _show_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _require_data(ctx: click.Context, _: click.Parameter, given: str | None) -> str | None:
    if given is None and ctx.params.get("config_file") is None and not ctx.resilient_parsing:
        raise click.UsageError(
            f"name the data, as in `{ctx.command_path} tickets.csv`, or a file of settings with --config", ctx
        )
    return given


def with_settings(
    *parts: str,
    defaults: Mapping[str, str] | None = None,
    common: Collection[str] = COMMON,
    data_argument: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `--config` and a flag for every setting in `parts`; it gets a `config`.

    Flags go over the file, the file over the defaults. Flags that two settings would share are prefixed by the stage
    (`--teacher-epochs`, `--student-epochs`).

    Args:
        parts: Stages, sections or settings, by dotted name.
        defaults: The defaults that the help shows, where the command has a rule of its own.
        common: Which settings `--help` shows.
        data_argument: Whether the data is the command's argument; else it has the flag `--data`.
    """
    settings = [setting for setting in all_settings() if any(_is_within(setting.name, part) for part in parts)]
    count = Counter(setting.flag for setting in settings)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(config_file: Path | None, **arguments: Any) -> Any:
            values = {} if config_file is None else read_yaml(config_file)
            for setting in settings:
                given = arguments.pop(setting.parameter)
                if given is not None:
                    _place(values, setting.path, _parse(given, setting.field.annotation))
            source = "the configuration" if config_file is None else f"{config_file} with the flags given"
            return command(config=PotstillConfig.build(values, source), **arguments)

        result: Callable[..., Any] = wrapped
        for setting in reversed(settings):
            if setting.name == "data.source" and data_argument:
                result = click.argument(setting.parameter, metavar="DATA", required=False, callback=_require_data)(
                    result
                )
                continue
            stage = setting.path[0] if count[setting.flag] > 1 else ""
            default = (defaults or {}).get(setting.name, setting.shown_default)
            result = _option(setting, stage, default, is_common=setting.name in common)(result)
        result = click.option(
            *("--help-all",),
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_all,
            help="Show all settings, by section.",
        )(result)
        return click.option(
            *("--config", "config_file"),
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            is_eager=True,
            help="YAML file with settings. Flags override it.",
        )(result)

    return decorate


def _is_within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def all_settings() -> Iterator[Setting]:
    """Yield all settings, in the order of their declaration."""

    def walk(settings: Settings, path: tuple[str, ...], section: str) -> Iterator[Setting]:
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            if isinstance(value, Settings):
                yield from walk(value, (*path, name), field.description or "")
            else:
                yield Setting((*path, name), field, value, section)

    return walk(PotstillConfig(), (), "")


def _option(
    setting: Setting, stage: str, default: str, *, is_common: bool
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the flag of a setting; `stage` prefixes it."""
    flag = f"{stage}-{setting.flag}" if stage else setting.flag
    subject = f"{stage.capitalize()}: " if stage else ""
    options: dict[str, Any] = {
        "help": f"{subject}{setting.summary}  [default: {default}]",
        "cls": _SettingOption,
        "setting": setting,
        "is_common": is_common,
        "default": None,
    }
    if isinstance(setting.default, bool):
        return click.option(f"--{flag}/--no-{flag}", setting.parameter, **options)
    value = _VALUES.get(setting.name) or "|".join(_values(setting.field.annotation))
    return click.option(f"--{flag}", setting.parameter, metavar=value, **options)


def _values(annotation: Any) -> Iterator[str]:
    """Name the values that a setting takes: its words, or their types."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for option in arguments:
            yield from _values(option)
    elif origin is Annotated:
        yield from _values(arguments[0])
    elif origin is Literal:
        yield from map(str, arguments)
    elif origin is tuple:
        yield f"{next(_values(arguments[0]))},…"
    else:
        yield {int: "INT", float: "FLOAT", types.NoneType: "none"}.get(annotation, "TEXT")


def _parse(given: Any, annotation: Any) -> Any:
    """Turn what the command line has into what YAML would have given; the configuration checks the rest."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if given == "none" and types.NoneType in options:
        return None
    if any(given in get_args(option) for option in options if get_origin(option) is Literal):
        return given
    if any(get_origin(option) is tuple for option in options):
        return [] if given == "none" else [part.strip() for part in given.split(",")]
    return given


def _place(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        inner = {} if values.get(name) is None else values[name]
        if not isinstance(inner, dict):
            return  # a scalar where a stage belongs: the validation will say so
        values[name] = dict(inner)  # a copy: a YAML alias (`*training`) is one mapping in two places
        values = values[name]
    values[path[-1]] = value
