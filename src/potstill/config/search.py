"""Settings of a search: what to try, and how."""

from __future__ import annotations

import difflib
import math
import types
from typing import Annotated, Any, Final, Literal, Self, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from potstill.config.base import Settings, fields_of
from potstill.config.messages import message_of
from potstill.config.student import DistillationConfig, RNNConfig


def _without_password(url: str) -> str:
    """Refuse a password in a database's address: settings are saved and shown."""
    parts = urlsplit(url)
    if parts.password is not None or "password" in parts.query.lower():
        raise ValueError("expected an address without a password; put it where the database's driver looks (~/.pgpass)")
    return url


class Candidates(Settings):
    """What a search may set one setting to: a number from `low` to `high`, both included, or one of `choices`.

    A value alone stands for itself as the only choice: it fixes the setting.
    """

    low: float | None = None
    """Smallest number."""
    high: float | None = None
    """Largest number."""
    log: bool = False
    """Draw evenly by order of magnitude, not by size: what suits learning rates."""
    step: Annotated[float, Field(gt=0.0)] | None = None
    """Draw `low`, `low` + `step` and so on; none: any number, or any whole one where the setting takes these."""
    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """Values without an order."""

    @model_validator(mode="before")
    @classmethod
    def _value_alone(cls, given: Any) -> Any:
        if isinstance(given, list):  # [128, 256] could mean either
            raise ValueError("expected {low: …, high: …}, {choices: […]} or a single value")
        return given if isinstance(given, dict | Candidates) else {"choices": (given,)}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("choices stand alone: they have no low, high, log or step")
            return self
        if self.low is None or self.high is None:
            raise ValueError("expected low and high, or choices")
        if self.low >= self.high:
            raise ValueError("low must be below high; a single value fixes a setting")
        if self.log and self.low <= 0.0:
            raise ValueError("log: true needs a low above 0")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other; choose one")
        if self.step is not None and not math.isclose(steps := (self.high - self.low) / self.step, round(steps)):
            raise ValueError("step must lead from low to high")
        return self

    @model_serializer
    def _as_written(self) -> Any:
        if self.choices is not None and self.fixed:
            return self.choices[0]
        return {name: value for name, value in self if value is not None and value is not False}

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return self.choices is not None and len(self.choices) == 1

    def has(self, value: Any) -> bool:
        """Say whether `value` is one of these candidates."""
        if self.choices is not None or self.low is None or self.high is None:
            return value in (self.choices or ())
        steps = 0.0 if self.step is None or value is None else (value - self.low) / self.step
        return value is not None and self.low <= value <= self.high and math.isclose(steps, round(steps), abs_tol=1e-9)

    def within(self, setting: FieldInfo) -> Self:
        """Return these candidates as values of `setting`.

        Raises:
            ValueError: One of them is no value of it, or there are two ends and it takes no numbers.
        """
        takes: TypeAdapter[Any] = TypeAdapter(setting.rebuild_annotation())
        if self.choices is not None:
            choices = tuple(map(takes.validate_python, self.choices))
            if len(set(choices)) < len(choices):
                raise ValueError("choices must be unique")
            return self.model_copy(update={"choices": choices})
        kinds = _kinds(setting.annotation)
        if not kinds & {int, float}:
            raise ValueError("expected {choices: […]}: this setting takes no numbers between two ends")
        numbers = {"low": takes.validate_python(self.low), "high": takes.validate_python(self.high)}
        if self.step is not None:
            numbers["step"] = TypeAdapter(int if int in kinds else float).validate_python(self.step)
        return self.model_copy(update=numbers)


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that a setting's value may have, and `Literal` where it may be one of certain words."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return {kind for option in get_args(annotation) for kind in _kinds(option)}
    return _kinds(get_args(annotation)[0]) if origin is Annotated else {origin or annotation}


_NOT_TRIED: Final = {"distillation.teachers", "student.threshold"}
"""The teacher is chosen before the first trial, a threshold after the MCC by which trials are compared."""


def searchable() -> dict[str, FieldInfo]:
    """Return the settings of student and distillation that a search can try values of, by dotted name."""
    kinds = {int, float, bool, type(None), Literal}
    sections: dict[str, Settings] = {"student": RNNConfig(), "distillation": DistillationConfig()}
    fields = {".".join(path): field for name, one in sections.items() for path, field in fields_of(one, (name,))}
    return {
        name: field for name, field in fields.items() if name not in _NOT_TRIED and _kinds(field.annotation) <= kinds
    }


_SPACE: Final = {
    "distillation.alpha": Candidates(low=0.0, high=1.0),
    "distillation.temperature": Candidates(low=1.0, high=8.0, log=True),
    "student.dropout": Candidates(low=0.0, high=0.5),
    "student.embedding_size": Candidates(low=32, high=256, step=32),
    "student.hidden_size": Candidates(low=64, high=512, step=64),
    "student.training.learning_rate": Candidates(low=3e-4, high=1e-2, log=True),
}
"""What is searched by default."""


class SearchConfig(Settings):
    """How `potstill search` looks for settings of student and distillation; they are chosen on the validation split."""

    trials: Annotated[int, Field(ge=1)] = 40
    """Number of trials. The first trial has the configured settings, the next nine are random, and the others use the
    results so far: three quarters of forty trials. A finished search continues if this number is raised."""
    space: Annotated[dict[str, Candidates], Field(validate_default=True)] = {}  # noqa: RUF012 — pydantic copies it
    """What to try, by the dotted name of any number, switch or choice of `student` or `distillation`: `{low: 0, high:
    1}`, also with `log: true` or `step: 0.1`; `{choices: [rnn, lstm]}`; or a value, which fixes the setting. By default
    `search` tries alpha over its whole range, the temperature from 1 (nothing softened) to 8 (where the loss comes
    close to its limit), and dropout, learning rate and the two sizes around their defaults."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How settings are drawn: by the results so far (`tpe`), or at `random`."""
    storage: Annotated[str, AfterValidator(_without_password)] | None = None
    """Database whose trials several `search` processes share, each with a directory of its own, as a URL of SQLAlchemy:
    `sqlite:////path/trials.db` on one machine, `postgresql://…` or `mysql://…` for several. The trial of a process that
    dies is made by another. None: `search.db` in the directory, for one process."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the search, which draws settings at random."""

    @field_validator("space")
    @classmethod
    def _names_settings(cls, given: dict[str, Candidates]) -> dict[str, Candidates]:
        """Check names and values against the settings themselves, and add what is searched by default.

        The result is sorted by name: what is drawn depends on the order.
        """
        settings = searchable()
        found: dict[str, Candidates] = {}
        problems: list[InitErrorDetails] = []
        for name, candidates in sorted((_SPACE | given).items()):
            try:
                if name not in settings:
                    raise ValueError(_unknown(name, settings))
                found[name] = candidates.within(settings[name])
            except ValueError as error:
                message = message_of(error.errors()[0]) if isinstance(error, ValidationError) else str(error)
                kind = PydanticCustomError("search", "{message}", {"message": message})
                problems.append(InitErrorDetails(type=kind, loc=(name,), input=candidates.model_dump()))
        if problems:
            raise ValidationError.from_exception_data("space", problems)
        return found


def _unknown(name: str, settings: dict[str, FieldInfo]) -> str:
    like = difflib.get_close_matches(name, settings, n=1)
    like = like or [other for other in settings if other.endswith(f".{name.rpartition('.')[2]}")]
    hint = f" (did you mean {like[0]}?)" if like and like[0] != name else ""
    return f"a search tries the numbers, switches and choices of student and distillation; this is none of them{hint}"
