"""Command-line flags made from the configuration: one per setting, with the setting's own documentation."""

from __future__ import annotations

import copy
import functools
import re
import types
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo

from potstill.cli.options import Decorator
from potstill.config import (
    EndpointConfig,
    FileConfig,
    PotstillConfig,
    Settings,
    TransformerConfig,
    UntunedConfig,
    read_yaml,
)

_UNTUNED: Final[dict[str, type[UntunedConfig]]] = {"file": FileConfig, "endpoint": EndpointConfig}
"""Kinds of teachers that `--teacher` can name; it sets where they are."""
_OF_UNTUNED: Final = {
    f"teacher.{name}": field
    for kind in _UNTUNED.values()
    for name, field in kind.model_fields.items()
    if name not in TransformerConfig.model_fields and name not in ("file", "url")
}
"""The settings that such kinds have, and the default kind has not."""
_FLAGS: Final = {
    "data.source": "data",
    "data.test": "test-data",
    "data.validation": "validation-data",
    "augment.files": "unlabelled",
    "augment.seed": "unlabelled-seed",
    "augment.temperature": "sampling-temperature",
}
_WITH_SECTION: Final = {
    *("teacher.kind", "teacher.lora.alpha", "teacher.lora.dropout"),
    *("student.kind", "student.tokenizer", "student.pretraining.epochs", "student.pretraining.batch_size"),
    *("student.pretraining.learning_rate", "baseline.epochs", "search.seed"),
    *_OF_UNTUNED,
}
"""Settings whose flag is not their name alone, in any command: another word, or the section's name before it."""

_VALUES: Final = {
    "data.source": "DATA",
    "data.test": "FILE",
    "data.validation": "FILE",
    "data.positive_class": "CLASS",
    **dict.fromkeys(("data.text_column", "data.pair_column", "data.label_column"), "COLUMN"),
    "data.label_columns": "COLUMN,…",
    "teacher.backbone": "MODEL",
    "augment.files": "FILE,…",
    "runtime.executor": "local|none",
}
"""What the help calls a value where its type would say too little."""

COMMON_IN_RUN: Final = frozenset(
    {
        *("preset", "data.text_column", "data.pair_column", "data.label_column"),
        *("augment.files", "teacher.backbone"),
        "student.seeds",
    }
)
"""The settings that `potstill run --help` shows; `--help-all` shows the others too."""
COMMON: Final = COMMON_IN_RUN | {
    *("runtime.device", "teacher.training.epochs"),
    *("teacher.lora.rank", "teacher.seeds", "student.training.epochs", "student.hidden_size"),
    "search.trials",
    *("augment.words", "augment.spans", "augment.sampled", "augment.perturbed"),
    *("distillation.alpha", "distillation.temperature"),
}
"""The same for the other commands, which have fewer."""

_DATA: Final = (
    "DATA is a file (.csv, .tsv, .json, .jsonl, .parquet or .xlsx, also packed) with named columns, several such "
    "files, - for standard input, a directory with train.csv and perhaps test.csv and validation.csv, a data set of "
    "the Hugging Face hub (owner/name), or a corpus: clinc150, cola or builtin. You can leave it out with a --config "
    "that names it."
)
_ALL: Final = "potstill.all_settings"
_FIRST_SENTENCE: Final = re.compile(r".*?(?<!e\.g)\.(?= [A-Z0-9`(]|$)")


@dataclass(frozen=True)
class Setting:
    """One leaf of the configuration: the names from its root, and the documentation of its section."""

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
    def flag(self) -> str:
        """Its flag in a command that has no other setting of its name."""
        words = self.path[-2:] if self.name in _WITH_SECTION else self.path[-1:]
        return _FLAGS.get(self.name, "-".join(words).replace("_", "-"))


class SettingsCommand(click.Command):
    """A command whose help shows the common settings, or all of them by section."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does, and what its data may be."""
        super().format_help_text(ctx, formatter)
        if any(parameter.human_readable_name == "DATA…" for parameter in self.params):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(_DATA)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, under one heading per section with `--help-all`."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for option in self.get_params(ctx):
            *path, _ = (option.name or "").split("__")
            shown = copy.copy(option)
            if isinstance(shown, click.Option):
                shown.hidden &= _ALL not in ctx.meta
                title = " ".join(path).capitalize().replace("lora", "LoRA") if _ALL in ctx.meta and path else "Options"
                if (record := shown.get_help_record(ctx)) is not None:
                    sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _show_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _require_data(ctx: click.Context, _: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...] | None:
    if not given and ctx.params.get("config_file") is None and not ctx.resilient_parsing:
        raise click.UsageError(
            f"name the data, as in `{ctx.command_path} tickets.csv`, or a file of settings with --config", ctx
        )
    return given or None


def with_settings(
    *parts: str, defaults: Mapping[str, str] | None = None, common: Collection[str] = COMMON, data_argument: bool = True
) -> Decorator:
    """Give a command `--config` and a flag for every setting in `parts`; it gets a `config`.

    Flags go over the file, the file over the defaults; without a file, a command with `--preset` takes `balanced`.
    Flags that two settings would share are prefixed by the stage (`--teacher-epochs`, `--student-epochs`).

    Args:
        parts: Stages, sections or settings, by dotted name.
        defaults: The defaults that the help shows, where the command has a rule of its own.
        common: Which settings `--help` shows.
        data_argument: Whether the data is the command's argument; else it has the flag `--data`.
    """
    base = PotstillConfig.build({"preset": "balanced"}) if "preset" in parts else PotstillConfig()
    wanted = (one for one in all_settings(base) if any(f"{one.name}.".startswith(f"{part}.") for part in parts))
    settings = [one for one in wanted if get_origin(one.field.annotation) is not dict]  # a mapping is written in a file
    count = Counter(setting.flag for setting in settings)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(config_file: Path | None, **arguments: Any) -> Any:
            values = {} if config_file is None else read_yaml(config_file)
            if (teacher := arguments.pop("teacher_source", None)) is not None:
                kind, place = ("endpoint", "url") if re.match("https?://", teacher) else ("file", "file")
                known = _UNTUNED[kind].model_fields
                section = values.get("teacher") if isinstance(values.get("teacher"), dict) else {}
                values["teacher"] = {name: value for name, value in (section or {}).items() if name in known}
                values["teacher"] |= {"kind": kind, place: teacher, "seeds": [0]}
            for setting in settings:
                value = arguments.pop(setting.parameter)
                if value is not None:
                    _place(values, setting.path, _parse(value, setting.field.annotation))
            if config_file is None:
                values.setdefault("preset", base.preset)
            source = "the configuration" if config_file is None else f"{config_file} with the flags given"
            return command(config=PotstillConfig.build(values, source), **arguments)

        result: Callable[..., Any] = wrapped
        for setting in reversed(settings):
            if setting.name == "data.source" and data_argument:
                result = click.argument(
                    "data__source", metavar="DATA…", nargs=-1, required=False, callback=_require_data
                )(result)
                continue
            stage = setting.path[0] if count[setting.flag] > 1 else ""
            default = (defaults or {}).get(setting.name, setting.shown_default)
            result = _option(setting, stage, default, hidden=setting.name not in common)(result)
        return _config_option(_help_all_option(result))

    return decorate


_help_all_option = click.option(
    "--help-all",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show all settings, by section.",
)
_config_option = click.option(
    *("--config", "config_file"),
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    help="YAML file with settings. Flags override it.",
)


def given() -> set[str]:
    """Return the names of the running command's arguments that are on its command line, such as `data__source`."""
    context = click.get_current_context()
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def all_settings(defaults: PotstillConfig | None = None) -> Iterator[Setting]:
    """Yield all settings with their values in `defaults` (None: those without a preset), as they are declared."""

    def walk(settings: Settings, path: tuple[str, ...], section: str) -> Iterator[Setting]:
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            if isinstance(value, Settings):
                yield from walk(value, (*path, name), field.description or "")
            else:
                yield Setting((*path, name), field, value, section)
        if path == ("teacher",):
            for name, field in _OF_UNTUNED.items():
                default = None if field.is_required() else field.get_default()
                yield Setting(tuple(name.split(".")), field, default, "")

    return walk(defaults or PotstillConfig(), (), "")


def _option(setting: Setting, stage: str, default: str, *, hidden: bool) -> Decorator:
    flag = f"{stage}-{setting.flag}" if stage else setting.flag
    subject = f"{stage.capitalize()}: " if stage else ""
    text = f"{subject}{setting.summary}  [default: {default}]"
    if isinstance(setting.default, bool):
        return click.option(f"--{flag}/--no-{flag}", setting.parameter, default=None, hidden=hidden, help=text)
    value = _VALUES.get(setting.name) or "|".join(_values(setting.field.annotation))
    return click.option(f"--{flag}", setting.parameter, metavar=value, default=None, hidden=hidden, help=text)


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
    options = tuple(get_args(option)[0] if get_origin(option) is Annotated else option for option in options)
    if isinstance(given, tuple):
        return given[0] if len(given) == 1 else list(given)
    if given == "none" and types.NoneType in options:
        return None
    if any(given in get_args(option) for option in options if get_origin(option) is Literal):
        return given
    if str not in options and any(get_origin(option) is tuple for option in options):
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
