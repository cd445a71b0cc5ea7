"""The OpenAPI document says what the server does: schemathesis makes up requests from it and judges the answers."""

import json

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potstill.serve import create_app
from potstill.serve.limits import Limits
from potstill.serve.models import ServedModel

few = settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))


def answer(texts):
    return np.full((len(texts), 2), 0.5), [False] * len(texts)


def model(name, *, in_pairs=False):
    return ServedModel(name, "student", ("no", "yes"), in_pairs, answer)


class Setting:
    """An application, behind a socket for the time of a test."""

    def __init__(self, *models, **options):
        self.app = create_app(models, **options)
        self.description = schemathesis.openapi.from_dict(self.app.openapi())


TEXTS = Setting(model("texts"), model("other"), limits=Limits(max_texts=4, max_characters=30))
PAIRS = Setting(model("pairs", in_pairs=True))
GUARDED = Setting(model("texts"), token="token")


@TEXTS.description.parametrize()
@few
def test_requests_are_answered_as_described(case, listen):
    case.call_and_validate(base_url=listen(TEXTS.app))


@PAIRS.description.include(path="/v1/predict").parametrize()
@few
def test_requests_of_pairs_are_answered_as_described(case, listen):
    case.call_and_validate(base_url=listen(PAIRS.app))


@GUARDED.description.parametrize()
@few
def test_a_token_is_asked_for_as_described(case, listen):
    case.call_and_validate(base_url=listen(GUARDED.app), headers={"Authorization": "Bearer token"})


@pytest.fixture(scope="module")
def client(listen):
    with httpx.Client(base_url=listen(create_app([model("texts")], Limits(max_body_bytes=3000)))) as client:
        yield client


def test_ten_megabytes_are_refused_while_they_come(client):
    """Through a socket, whose other end is still sending when the answer is clear."""
    for text in ("a", "漢", "\U0001f600"):
        response = client.post("/v1/predict", json={"text": text * (10_000_000 // len(text.encode()))})
        assert response.status_code == 413
        assert response.json()["expected"] == "at most 3000 bytes"
    assert client.post("/v1/predict", json={"text": "a"}).status_code == 200


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "texts", "model", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(few, max_examples=200)
@given(body=st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_sent_is_answered_or_explained(client, body):
    """Surrogates, NaN, numbers of any size, bytes of any kind."""
    response = client.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 413, 422), (body, response.text)
    if response.status_code != 200:
        assert response.json()["expected"]
