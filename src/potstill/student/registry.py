"""The kinds of students: a new one is a file of its own and a line here."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from potstill.student.base import Network

STUDENTS: dict[str, str | type[Network]] = {
    "rnn": "potstill.student.rnn:DistilRNN",
    "ngram": "potstill.student.ngram:NgramClassifier",
}
"""Networks by the name that `student.kind` gives them, or where they are: they are imported when used."""


def student_class(kind: str) -> type[Network]:
    """Return the network that a configuration calls `kind`.

    Raises:
        KeyError: There is none.
    """
    found = STUDENTS[kind]
    return resolve_name(found) if isinstance(found, str) else found
