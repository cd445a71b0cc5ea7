"""What all settings share: frozen models, documented where they are defined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo


def _unique(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a seed named twice: its second model would take the first one's directory."""
    if len(set(seeds)) < len(seeds):
        raise ValueError("seeds must be unique")
    return seeds


def _power_of_two(number: int) -> int:
    """Refuse any other number: hashes are cut by their bits."""
    if number.bit_count() != 1:
        raise ValueError("must be a power of two, such as 65536")
    return number


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_unique)]
PowerOfTwo = Annotated[int, Field(ge=2), AfterValidator(_power_of_two)]


class Settings(BaseModel):
    """Base of all sections: frozen, strict about unknown names, documented by attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_section_defaults(cls, values: Any) -> Any:
        """Fill a section that is set in part from its default here, which need not be that of its class.

        A section is left out where its name has nothing below it, or only comments.
        """
        if not isinstance(values, dict):
            return values
        given = dict(values)
        for name, field in cls.model_fields.items():
            if isinstance(default := field.get_default(), Settings):
                if isinstance(section := given.get(name), dict):  # no default sets a section within a section
                    given[name] = default.model_dump(exclude_unset=True) | section
                elif section is None:
                    given.pop(name, None)
        return given


def fields_of(section: Settings, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """List the sections and settings below `section`, with their paths."""
    for name, field in type(section).model_fields.items():
        yield (*path, name), field
        if isinstance(inner := getattr(section, name), Settings):
            yield from fields_of(inner, (*path, name))
