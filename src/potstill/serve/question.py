"""The body of a request: checked, parsed, and described for OpenAPI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails
from starlette.datastructures import Headers

from potstill.predict.wording import expected_by
from potstill.serve.limits import Limits
from potstill.serve.models import ServedModel, Text
from potstill.serve.problems import Refusal

_EXAMPLE: Final = '{"texts": ["Is it so?"]}, or {"texts": [["Is it so?", "It is."]]} where a model reads pairs'
_SHOWN: Final = 100
"""Characters of a wrong name or header that are repeated in the answer."""
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
"""Its quantifiers are possessive: to be able to go back, others take 100 bytes for every escape."""
_OTHER_STRINGS: Final = 256
"""Strings of a body that are no texts: names of fields and models."""
_BOM: Final = b"\xef\xbb\xbf"


class Question(NamedTuple):
    """A request that can be answered."""

    texts: list[Text]
    models: list[ServedModel]
    top_k: int | None


class Questions:
    """Parses the bodies that the served models can answer."""

    def __init__(self, models: Mapping[str, ServedModel], limits: Limits) -> None:
        self._models, self._limits = models, limits
        self._body = _body(models, limits)

    def parse(self, body: bytes | bytearray) -> Question:
        """Read a body; a Refusal says why it is not what `described` describes."""
        body = body.removeprefix(_BOM)
        self._bound_values(body)
        try:
            found: Any = self._body.model_validate_json(body)
        except ValidationError as error:
            # Where several kinds of value are taken, what is wrong deepest inside is what was meant.
            raise _refusal(max(error.errors(include_url=False), key=lambda one: len(one["loc"]))) from None
        if (found.text is None) == (found.texts is None):
            raise _misshapen("the body", "either text or texts", "neither" if found.text is None else "both")
        models = self._chosen(found.model)
        texts = [found.text] if found.texts is None else found.texts
        for place, text in enumerate(texts):
            if isinstance(text, str) == models[0].in_pairs:
                expected = f"a list of two texts, as {models[0].name} reads" if isinstance(text, str) else "a text"
                raise _misshapen("text" if found.texts is None else f"texts[{place}]", expected, _describe(text))
        stripped = [text.strip() if isinstance(text, str) else (text[0].strip(), text[1].strip()) for text in texts]
        return Question(stripped, models, found.top_k)

    def _bound_values(self, body: bytes | bytearray) -> None:
        """Refuse bodies of far more values than any request has: to make Python objects of them takes long.

        Brackets and commas are counted outside of strings, so that texts may hold any characters.
        """
        most = 2 * self._limits.max_texts + _OTHER_STRINGS
        skeleton = _STRING.sub(b"", body, count=most)
        found = sum(map(skeleton.count, (b"[", b"{", b",", b'"')))
        if found > 2 * most:
            raise _misshapen("the body", f"at most {most} values", "more")

    def _chosen(self, names: str | list[str] | None) -> list[ServedModel]:
        if names is None:
            return [next(iter(self._models.values()))]
        chosen = [self._models[name] for name in ([names] if isinstance(names, str) else names)]
        if len({model.name for model in chosen}) < len(chosen):
            raise _misshapen("model", "different names", "the same name twice")
        if len({model.in_pairs for model in chosen}) > 1:
            raise _misshapen("model", "models that all read single texts, or all pairs", "some of each")
        return chosen

    def described(self) -> dict[str, Any]:
        """Describe the body for OpenAPI, with an example of each kind that the first model takes."""
        name, first = next(iter(self._models.items()))
        text: Any = ["A man sleeps.", "Somebody is awake."] if first.in_pairs else "The cat sat on the mat."
        examples = {
            "one": {"summary": "One text", "value": {"text": text}},
            "many": {"summary": "Several texts and models", "value": {"texts": [text, text], "model": [name]}},
        }
        content = {"schema": self._body.model_json_schema(), "examples": examples}
        return {"requestBody": {"required": True, "content": {"application/json": content}}}


def check_headers(headers: Headers, limits: Limits) -> int:
    """Refuse a body that is not uncompressed JSON by its headers; returns its length, at most the longest allowed."""
    media_type = headers.get("content-type", "nothing")
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "Content-Type: application/json", media_type[:_SHOWN], "set this header")
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise Refusal(415, "a body without Content-Encoding", encoding[:_SHOWN], "send it uncompressed")
    length = headers.get("content-length", "")
    return min(int(length) if length.isdecimal() else limits.max_body_bytes, limits.max_body_bytes)


def _body(models: Mapping[str, ServedModel], limits: Limits) -> type[BaseModel]:
    """Make the pydantic model of a request's body. No field may be null: its default says that it is absent."""
    one: Any = Annotated[str, Field(max_length=limits.max_characters, pattern=r"\S")]
    name: Any = Literal[tuple(models)]
    kinds: list[Any] = [tuple[one, one] if pairs else one for pairs in {model.in_pairs for model in models.values()}]
    text: Any = reduce(or_, kinds)
    texts = Annotated[list[text], Field(min_length=1, max_length=limits.max_texts, fail_fast=True)]
    names = Annotated[list[name], Field(min_length=1, fail_fast=True, json_schema_extra={"uniqueItems": True})]
    count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
    top_k = "Most classes whose probabilities are in the answer; by default all, of over 100 the first 10."
    fields: dict[str, Any] = {
        "text": (text, Field(None, description="One text; a pair of texts where the model reads pairs.")),
        "texts": (texts, Field(None, description="Many of them.")),
        "model": (name | names, Field(None, description=f"The models to ask; by default {next(iter(models))}.")),
        "top_k": (count, Field(None, description=top_k)),
    }

    def without_null(schema: dict[str, Any]) -> None:
        for field in schema["properties"].values():
            field.pop("default", None)
        schema["oneOf"] = [{"required": ["text"]}, {"required": ["texts"]}]

    return create_model(
        "Question", __config__=ConfigDict(extra="forbid", strict=True, json_schema_extra=without_null), **fields
    )


def _whole(value: object) -> object:
    """Return 2.0 as 2: to JSON Schema both are integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refusal(error: ErrorDetails) -> Refusal:
    if error["type"] == "json_invalid":
        return Refusal(400, "JSON in UTF-8, every character whole", error["msg"], f"send something like {_EXAMPLE}")
    field, *inside = error["loc"] or ("the body",)
    where = str(field)[:_SHOWN] + "".join(f"[{part}]" for part in inside if isinstance(part, int))
    return _misshapen(where, expected_by(error) or error["msg"], _describe(error["input"]))


def _misshapen(where: str, expected: str, found: str) -> Refusal:
    remedy = f"send something like {_EXAMPLE}; /openapi.json describes all that is accepted"
    return Refusal(422, f"{where}: {expected}", found, remedy)


def _describe(value: object) -> str:
    """Name a value's type without repeating it: it may be long, or private."""
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return {type(None): "null", bool: "true or false", int: "a number", float: "a number"}.get(type(value), "an object")
