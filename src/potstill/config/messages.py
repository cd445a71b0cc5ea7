"""Messages about wrong settings."""

from __future__ import annotations

import difflib
import reprlib
from typing import Any, Final

from potstill.config.base import Settings, fields_of
from potstill.config.untuned import EndpointConfig, FileConfig
from potstill.predict.wording import expected_by

_shown: Final = reprlib.Repr()
"""Shows the beginning of a value: YAML's aliases can write a gigabyte in a line."""
_shown.maxlevel, _shown.maxlist, _shown.maxtuple, _shown.maxdict = 2, 12, 12, 12
_shown.maxstring = _shown.maxother = _shown.maxlong = 200


def describe_problem(item: Any, root: Settings) -> str:
    """Say in one line which setting is wrong, what was expected and what was found."""
    *section, name = map(str, item["loc"])
    # Where a setting may be of several kinds, pydantic adds the kind tried ("tuple[str, ...]") to its path.
    section = [part for part in section if "[" not in part]
    if item["type"] == "extra_forbidden":
        nearest = _nearest(section, name, root)
        path = ".".join([*section, name])
        if nearest == path:
            return f"{path}: there is no such setting for this kind of {section[0]}"
        if section == ["teacher"] and name in {**FileConfig.model_fields, **EndpointConfig.model_fields}:
            return f"{path}: there is no such setting for this kind of teacher; it is for those of --teacher FILE|URL"
        return f"{path}: there is no such setting" + (f"; did you mean {nearest}?" if nearest else "")
    path = ".".join(section if "[" in name else [*section, name])
    if item["type"] == "missing":
        return f"{path}: expected a value, found none" + ("; --teacher-model gives it" * (path == "teacher.model"))
    return f"{path}: {message_of(item)}; found {_shown.repr(item['input'])}"


def message_of(item: Any) -> str:
    """Return the words of our own checks without pydantic's prefix, or what pydantic's expected."""
    if words := expected_by(item):
        return f"expected {words}"
    return str(item.get("ctx", {}).get("error", item["msg"]))


def _nearest(section: list[str], name: str, root: Settings) -> str | None:
    """Find the setting that was meant: a like name in the same section, else the same name in another."""
    settings = [path for path, _ in fields_of(root)]
    siblings = {path[-1]: path for path in settings if list(path[:-1]) == section}
    if like := difflib.get_close_matches(name, siblings, n=1):
        return ".".join(siblings[like[0]])
    return next((".".join(path) for path in settings if path[-1] == name), None)
