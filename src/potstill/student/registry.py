"""The kinds of students: a new one is a file of its own and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from potstill.student.base import Network

STUDENTS: dict[str, str | type[Network]] = {
    "rnn": "potstill.student.rnn:DistilRNN",
}
"""Networks by the name that `student.kind` gives them, or where they are: they are imported when used."""


def student_class(kind: str) -> type[Network]:
    """Return the network that a configuration calls `kind`.

    Raises:
        KeyError: There is none.
    """
    found = STUDENTS[kind]
    if isinstance(found, str):
        module, _, name = found.partition(":")
        found = getattr(import_module(module), name)
    return found
