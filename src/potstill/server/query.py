"""What may be asked: a request's body, read within its limits, checked, and described for OpenAPI.

Checked by hand rather than by a pydantic model: what is right depends on the models served and on the limits. The
description below says the same; tests compare the two by property.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pydantic_core
from fastapi import Request

from potstill.server.limits import Limits
from potstill.server.models import ServedModel, Text
from potstill.server.problems import Refusal

_FIELDS: Final = ("text", "texts", "model")
_EXAMPLE: Final = '{"texts": ["Is it so?"]}, or {"texts": [["Is it so?", "It is."]]} where a model reads pairs'
_DISCARDED: Final = 1 << 26
"""Bytes of a body too long that are read and thrown away: while a client sends, it does not look for an answer, and
when the connection closes on it, it may never see one."""
_SHOWN: Final = 100
"""Characters of a wrong name or header that are repeated in the answer."""


class Query(NamedTuple):
    """A request that can be answered."""

    texts: list[Text]
    models: list[ServedModel]


async def read_body(request: Request, limits: Limits) -> bytes:
    """Take in a body as it arrives.

    Raises:
        Refusal: It is not declared as JSON, or longer than the limit.
        ClientDisconnect: The client has gone.
    """
    media_type = request.headers.get("content-type", "nothing")
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise Refusal(
            415,
            "not declared as JSON",
            expected="Content-Type: application/json",
            found=media_type[:_SHOWN],
            what_to_do="set this header",
        )
    body, received = bytearray(), 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= limits.max_body_bytes:
            body += chunk
        elif received > limits.max_body_bytes + _DISCARDED:
            break
    if received > limits.max_body_bytes:
        raise Refusal(
            413,
            "body too long",
            expected=f"at most {limits.max_body_bytes} bytes",
            found="more",
            what_to_do="send fewer texts in one request, or shorter ones",
            headers={"Connection": "close"},  # what may still arrive is not for a next request
        )
    return bytes(body)


def parse(body: bytes, models: Mapping[str, ServedModel], limits: Limits) -> Query:
    """Read a body.

    Raises:
        Refusal: It is no JSON, or not what `schema` describes.
    """
    try:
        content = pydantic_core.from_json(body)
    except ValueError as error:
        raise Refusal(
            400,
            "no JSON",
            expected="JSON in UTF-8, nested 200 deep at most, every character whole",
            found=str(error),
            what_to_do=f"send something like {_EXAMPLE}",
        ) from None
    if not isinstance(content, dict):
        raise _misshapen("the body", "an object", _describe(content))
    if unknown := sorted(content.keys() - set(_FIELDS)):
        raise _misshapen("the body", f"no field but {', '.join(_FIELDS)}", f"the field {unknown[0][:_SHOWN]!r}")
    if ("text" in content) == ("texts" in content):
        raise _misshapen("the body", "either text or texts", "both" if "text" in content else "neither")
    chosen = _models(content["model"] if "model" in content else next(iter(models)), models)
    if "text" in content:
        return Query([_text(content["text"], "text", chosen[0], limits)], chosen)
    texts = content["texts"]
    if not isinstance(texts, list) or not 1 <= len(texts) <= limits.max_texts:
        raise _misshapen("texts", f"a list of 1 to {limits.max_texts} texts", _describe(texts))
    return Query([_text(text, f"texts[{place}]", chosen[0], limits) for place, text in enumerate(texts)], chosen)


def _models(value: object, models: Mapping[str, ServedModel]) -> list[ServedModel]:
    names: list[Any] = value if isinstance(value, list) else [value]
    expected = f"one of {', '.join(models)}, or a list of different ones"
    for name in names:
        if not isinstance(name, str) or name not in models:
            raise _misshapen("model", expected, repr(name[:_SHOWN]) if isinstance(name, str) else _describe(name))
    if not names or len(set(names)) < len(names):
        raise _misshapen("model", expected, "the same name twice" if names else "an empty list")
    chosen = [models[name] for name in names]
    if len({model.reads_pairs for model in chosen}) > 1:
        raise _misshapen("model", "models that all read single texts, or all pairs", "some of each")
    return chosen


def _text(value: object, where: str, model: ServedModel, limits: Limits) -> Text:
    """Return a text, or pair of texts, without the white space around it: `predict` cuts that off too."""
    if not model.reads_pairs:
        return _one_text(value, where, limits)
    if not isinstance(value, list) or len(value) != 2:
        raise _misshapen(where, f"a list of two texts, since {model.name} reads pairs", _describe(value))
    return _one_text(value[0], f"{where}[0]", limits), _one_text(value[1], f"{where}[1]", limits)


def _one_text(value: object, where: str, limits: Limits) -> str:
    if not isinstance(value, str) or len(value) > limits.max_characters:
        raise _misshapen(where, f"a text of at most {limits.max_characters} characters", _describe(value))
    if not (text := value.strip()):
        raise _misshapen(where, "a text that is not blank", "a blank one")
    return text


def _misshapen(where: str, expected: str, found: str) -> Refusal:
    return Refusal(
        422,
        "not as expected",
        expected=f"{where}: {expected}",
        found=found,
        what_to_do=f"send something like {_EXAMPLE}; /openapi.json describes all that is accepted",
    )


def _describe(value: object) -> str:
    """Name what stands there, without repeating it: it may be long, or private."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return f"a text of {len(value)} characters"
        case list():
            return f"a list of {len(value)}"
    return "an object"


def schema(models: Mapping[str, ServedModel], limits: Limits) -> dict[str, Any]:
    """Describe in JSON Schema what `parse` accepts; that models of pairs and of texts don't mix is said in words."""
    one = {"type": "string", "pattern": r"\S", "maxLength": limits.max_characters}
    pair = {"type": "array", "items": one, "minItems": 2, "maxItems": 2}
    kinds = [pair if reads_pairs else one for reads_pairs in sorted({model.reads_pairs for model in models.values()})]
    text = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    name = {"type": "string", "enum": list(models)}
    model = {
        "description": f"Who is asked: a name, or a list. By default {next(iter(models))}.",
        "anyOf": [name, {"type": "array", "items": name, "minItems": 1, "uniqueItems": True}],
    }
    texts = {"type": "array", "items": text, "minItems": 1, "maxItems": limits.max_texts}

    def body(field: str, content: Mapping[str, Any], description: str) -> dict[str, Any]:
        return {
            "type": "object",
            "description": description,
            "properties": {field: content, "model": model},
            "required": [field],
            "additionalProperties": False,
        }

    return {
        "oneOf": [
            body("texts", texts, "Many texts; pairs of texts where a model reads pairs."),
            body("text", text, "One text, or pair."),
        ]
    }


def examples(models: Mapping[str, ServedModel]) -> dict[str, Any]:
    """Give OpenAPI a body of each kind that the first model takes."""
    name, first = next(iter(models.items()))
    text: Any = ["A man sleeps.", "Somebody is awake."] if first.reads_pairs else "The cat sat on the mat."
    return {
        "one": {"summary": "One text", "value": {"text": text}},
        "many": {"summary": "Several texts and models", "value": {"texts": [text, text], "model": [name]}},
    }
