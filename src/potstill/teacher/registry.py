"""The kinds of teachers: a new one is a file of its own and a line here."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from potstill.teacher.base import Teacher

TEACHERS: dict[str, str | type[Teacher]] = {
    "transformer": "potstill.teacher.transformer:TransformerTeacher",
    "file": "potstill.teacher.file:FileTeacher",
    "endpoint": "potstill.teacher.endpoint:EndpointTeacher",
}
"""Classes of teachers by the name that `teacher.kind` gives them, or where they are: they are imported when used."""


def teacher_class(kind: str) -> type[Teacher]:
    """Return the class of teachers that a configuration calls `kind`.

    Raises:
        KeyError: There is none.
    """
    found = TEACHERS[kind]
    return resolve_name(found) if isinstance(found, str) else found
