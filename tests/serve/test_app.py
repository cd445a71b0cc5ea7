"""The API, by its own terms: what it answers, what it refuses, how it behaves under load, failure and shutdown."""

import asyncio
import json
import logging
import re
import sys
import tracemalloc
from dataclasses import replace

import httpx
import numpy as np
import pytest

from potstill.serve import create_app
from potstill.serve.limits import Limits
from potstill.serve.models import ServedModel
from potstill.serve.observe import JsonLines, OnceASecond
from potstill.serve.problems import Refusal
from potstill.serve.question import Questions

pytestmark = pytest.mark.anyio

PREDICT = "/v1/predict"
JSON = {"Content-Type": "application/json"}


def ask(client, *texts, **rest):
    return client.post(PREDICT, json={"texts": list(texts)} | rest)


def assert_explained(response, status, *, expected="", found=""):
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert problem["title"]
    assert problem["what_to_do"]
    assert expected in problem["expected"]
    assert found in problem["found"]


class TestAnswers:
    async def test_many_texts_in_order(self, serve, rule):
        async with serve(rule) as client:
            response = await ask(client, "so good", "so so", " good ", "good " * 30)
            single = await client.post(PREDICT, json={"text": "good"})
        assert single.json()["answers"][0]["predictions"][0]["label"] == "good"
        (answer,) = response.json()["answers"]
        assert answer["model"] == "rule"
        assert answer["latency_ms"] > 0
        assert answer["digest"] == "0123"
        assert [one["label"] for one in answer["predictions"]] == ["good", "bad", "good", "good"]
        assert [one["truncated"] for one in answer["predictions"]] == [False, False, False, True]
        assert answer["predictions"][1] == {
            "label": "bad",
            "probability": 0.8,
            "probabilities": {"bad": 0.8, "good": 0.2},
            "truncated": False,
        }

    async def test_several_models_in_the_order_named_and_the_first_served_by_default(self, serve, make_rule):
        async with serve(make_rule("a"), make_rule("b"), make_rule("c")) as client:
            several = await ask(client, "good", model=["c", "a"])
            default = await ask(client, "good")
            one = await ask(client, "good", model="b")
        named = [[answer["model"] for answer in response.json()["answers"]] for response in (several, default, one)]
        assert named == [["c", "a"], ["a"], ["b"]]

    async def test_a_threshold_decides_the_label(self, serve, make_rule):
        plain, eager, strict = (make_rule(name, threshold=at) for name, at in (("a", None), ("b", 0.1), ("c", 0.95)))
        async with serve(plain, eager, strict) as client:
            response = await ask(client, "good", "so", model=["a", "b", "c"])
            listed = (await client.get("/v1/models")).json()["models"]
        found = [
            [(one["label"], one["probability"]) for one in answer["predictions"]]
            for answer in response.json()["answers"]
        ]
        assert found[0] == [("good", 0.9), ("bad", 0.8)]
        assert found[1] == [("good", 0.9), ("good", 0.2)]
        assert found[2] == [("bad", 0.1), ("bad", 0.8)]
        assert [model["threshold"] for model in listed] == [None, 0.1, 0.95]

    async def test_a_threshold_for_each_class_makes_lists_of_labels(self, serve, make_rule):
        many = make_rule("many", threshold=(0.15, 0.5))
        async with serve(many) as client:
            answers = (await ask(client, "good", "so", top_k=1)).json()["answers"][0]["predictions"]
            listed = (await client.get("/v1/models")).json()["models"]
            none = (await ask(client, "so")).json()["answers"][0]["predictions"][0]
        assert answers == [
            {"labels": ["good"], "probabilities": {"good": 0.9}, "truncated": False},
            {"labels": ["bad"], "probabilities": {"bad": 0.8}, "truncated": False},
        ]
        assert none["probabilities"] == {"bad": 0.8, "good": 0.2}
        assert listed[0]["threshold"] == [0.15, 0.5]

    async def test_without_enough_confidence_there_is_no_label(self, serve, make_rule):
        async with serve(make_rule("a", least=0.85), make_rule("b", threshold=0.1, least=0.5)) as client:
            response = await ask(client, "good", "so", model=["a", "b"])
            listed = (await client.get("/v1/models")).json()["models"]
        found = [
            [(one["label"], one["probability"]) for one in answer["predictions"]]
            for answer in response.json()["answers"]
        ]
        assert found == [[("good", 0.9), (None, 0.8)], [("good", 0.9), (None, 0.2)]]
        assert response.json()["answers"][0]["predictions"][1]["probabilities"] == {"bad": 0.8, "good": 0.2}
        assert [model["min_confidence"] for model in listed] == [0.85, 0.5]

    async def test_pairs(self, serve, make_rule):
        pairs, texts = make_rule("pairs", in_pairs=True), make_rule("texts")
        async with serve(pairs, texts) as client:
            response = await ask(client, ["so", "good"], ["so", "so"])
            assert_explained(await ask(client, "good"), 422, expected="texts[0]: a list of two", found="a text")
            assert_explained(await ask(client, ["a", "b", "c"]), 422, expected="texts[0]: ")
            assert_explained(await ask(client, ["a", " "]), 422, expected="texts[0][1]: a text that is not empty")
            assert_explained(await ask(client, ["a", "b"], model="texts"), 422, expected="texts[0]: a text")
            assert_explained(await ask(client, "a", model=["texts", "pairs"]), 422, found="some of each")
        assert [one["label"] for one in response.json()["answers"][0]["predictions"]] == ["good", "bad"]

    async def test_valid_request_ids_are_repeated_others_replaced(self, serve, rule):
        async with serve(rule) as client:
            given = await client.post(PREDICT, json={"text": "x"}, headers={"X-Request-ID": "from-me:1"})
            unfit = await client.post(PREDICT, json={"text": "x"}, headers={"X-Request-ID": "a b" * 100})
            none = await client.get("/healthz")
        assert given.headers["X-Request-ID"] == given.json()["request_id"] == "from-me:1"
        made = [response.headers["X-Request-ID"] for response in (unfit, none)]
        assert len(set(made)) == 2
        assert all(re.fullmatch("[0-9a-f]{32}", identity) for identity in made)

    async def test_models_and_limits_are_listed(self, serve, rule):
        async with serve(rule, limits=Limits(max_texts=7), examples=["Is it so?"]) as client:
            listed = (await client.get("/v1/models")).json()
        assert listed["models"] == [
            {
                "name": "rule",
                "kind": "student",
                "digest": "0123",
                "labels": ["bad", "good"],
                "in_pairs": False,
                "threshold": None,
                "min_confidence": None,
            }
        ]
        assert listed["limits"]["max_texts"] == 7
        assert listed["examples"] == ["Is it so?"]

    async def test_metrics(self, serve, rule):
        async with serve(rule) as client:
            await ask(client, "one", "two")
            await client.get("/a/path/that/is/not")
            lines = (await client.get("/metrics")).text.splitlines()
        assert 'http_requests_total{handler="/v1/predict",status="200"} 1.0' in lines
        assert 'http_requests_total{handler="none",status="404"} 1.0' in lines
        assert 'potstill_texts_total{model="rule"} 2.0' in lines
        assert 'potstill_queue_texts{model="rule"} 0.0' in lines
        assert 'potstill_model_ready{model="rule"} 1.0' in lines
        assert any(line.startswith("process_resident_memory_bytes") for line in lines)

    async def test_the_examples_in_openapi_are_answered(self, serve, rule, make_rule):
        for model in (rule, make_rule("pairs", in_pairs=True)):
            async with serve(model) as client:
                description = (await client.get("/openapi.json")).json()
                body = description["paths"][PREDICT]["post"]["requestBody"]["content"]["application/json"]
                for example in body["examples"].values():
                    assert (await client.post(PREDICT, json=example["value"])).status_code == 200


class TestOptions:
    async def test_docs_lead_to_the_description(self, serve, rule):
        async with serve(rule) as client:
            response = await client.get("/docs", follow_redirects=True)
        assert (response.status_code, str(response.url)) == (200, "http://test/openapi.json")

    @pytest.mark.parametrize(
        ("classes", "asked", "shown"), [(3, None, 3), (3, 2, 2), (3, 9, 3), (101, None, 10), (101, 50, 50)]
    )
    async def test_top_k(self, serve, classes, asked, shown):
        shares = np.random.default_rng(0).dirichlet(np.ones(classes)).astype(np.float32)
        labels = tuple(f"c{number}" for number in range(classes))

        class Many:
            def served(self):
                return ServedModel("many", "student", labels, False, lambda texts: (shares[None], [False]))

        async with serve(Many()) as client:
            response = await ask(client, "a", **({} if asked is None else {"top_k": asked}))
        (one,) = response.json()["answers"][0]["predictions"]
        assert len(one["probabilities"]) == shown
        assert one["label"] == labels[shares.argmax()]
        assert sorted(one["probabilities"].values())[-1] == one["probability"] == pytest.approx(shares.max(), abs=1e-4)
        assert min(one["probabilities"].values()) == pytest.approx(np.sort(shares)[-shown], abs=1e-4)

    @pytest.mark.parametrize(
        ("kind", "names", "labels"),
        [
            ("int", ("0", "1"), [0, 1]),
            ("float", ("0.5", "1.0"), [0.5, 1.0]),
            ("bool", ("False", "True"), [False, True]),
            ("str", ("0", "1"), ["0", "1"]),
        ],
    )
    async def test_labels_have_their_type(self, serve, rule, kind, names, labels):
        class Typed:
            def served(self):
                return replace(rule.served(), labels=names, label_type=kind)

        async with serve(Typed()) as client:
            (card,) = (await client.get("/v1/models")).json()["models"]
            response = await ask(client, "good")
        (one,) = response.json()["answers"][0]["predictions"]
        assert [card["labels"], one["label"]] == [labels, labels[1]]
        assert [type(label) for label in card["labels"]] == [type(label) for label in labels]
        assert one["probabilities"] == dict(zip(names, [0.1, 0.9], strict=True))

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("localhost", 200),
            ("LOCALHOST:8000", 200),
            ("[::1]:80", 200),
            ("evil.example", 421),
            ("localhost.evil", 421),
        ],
    )
    async def test_other_hosts_are_refused(self, serve, rule, host, status):
        async with serve(rule, allowed_hosts=["localhost", "::1"]) as client:
            response = await client.get("/v1/models", headers={"Host": host})
        assert response.status_code == status
        if status == 421:
            assert_explained(response, 421, expected="a name of this server", found=host)

    async def test_metrics_have_a_bounded_number_of_series(self, serve, rule):
        async with serve(rule) as client:
            found = []
            for start in (0, 20):
                for number in range(start, start + 20):
                    await client.request(f"METHOD{number}", f"/{number}")
                await client.get("/metrics")
                found.append(len((await client.get("/metrics")).text.splitlines()))
            assert found[0] == found[1]


class TestRefusals:
    LIMITS = Limits(max_body_bytes=2000, max_texts=3, max_characters=50)

    @pytest.mark.parametrize(
        ("body", "status", "expected", "found"),
        [
            (b"", 400, "JSON", "EOF"),
            (b"text", 400, "JSON", "line 1 column"),
            (b'{"text": "\xff"}', 400, "UTF-8", "unicode"),
            (b'{"text": "\\ud800"}', 400, "every character whole", "hex escape"),
            (b"[" * 500, 400, "JSON", "recursion"),
            (b"[" * 1500, 422, "at most 262 values", "more"),
            (b'{"texts": [%s]}' % b",".join([b'""'] * 600), 422, "at most 262 values", "more"),
            (b'{"text": ' + b"9" * 1500, 400, "JSON", ""),
            (b"[]", 422, "the body: an object", "a list of 0"),
            (b"null", 422, "an object", "null"),
            (b"{}", 422, "either text or texts", "neither"),
            (b'{"text": "a", "texts": ["a"]}', 422, "either", "both"),
            (b'{"text": "a", "labels": 1}', 422, "labels: Extra inputs are not permitted", "a number"),
            (b'{"text": null}', 422, "text: a text", "null"),
            (b'{"text": ["a", "b"]}', 422, "text: a text", "a list of 2"),
            (b'{"text": ""}', 422, "text: a text that is not empty", "a text of 0 characters"),
            (b'{"text": " \\n\\u2003"}', 422, "text: a text that is not empty", "a text of 3 characters"),
            (b'{"texts": []}', 422, "a list of 1 or more", "a list of 0"),
            (b'{"texts": ["a", "b", "c", "d"]}', 422, "a list of 3 or fewer", "a list of 4"),
            (b'{"texts": "a"}', 422, "texts: a list", "a text of 1 characters"),
            (b'{"texts": {"a": 1}}', 422, "texts: a list", "an object"),
            (b'{"texts": ["a", 1e400]}', 422, "texts[1]: a text", "a number"),
            (b'{"texts": [true]}', 422, "texts[0]: a text", "true or false"),
            (b'{"text": "%s"}' % (b"a" * 51), 422, "at most 50 characters", "a text of 51"),
            (b'{"text": "a", "model": "other"}', 422, "one of 'rule'", "a text of 5"),
            (b'{"text": "a", "model": null}', 422, "one of 'rule'", "null"),
            (b'{"text": "a", "model": []}', 422, "one of 'rule'", "a list of 0"),
            (b'{"text": "a", "model": [["rule"]]}', 422, "one of 'rule'", "a list of 1"),
            (b'{"text": "a", "model": ["rule", "rule"]}', 422, "different", "twice"),
            (b'{"text": "a", "top_k": 0}', 422, "top_k: a number of 1 or more", "a number"),
            (b'{"text": "%s"}' % (b"a" * 2000), 413, "at most 2000 bytes", "more"),
        ],
        ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else "",
    )
    async def test_bodies(self, serve, rule, body, status, expected, found):
        async with serve(rule, limits=self.LIMITS) as client:
            assert_explained(
                await client.post(PREDICT, content=body, headers=JSON), status, expected=expected, found=found
            )
        assert rule.batches == []

    @pytest.mark.parametrize("text", ["a" * 50, "漢" * 50, "\U0001f600" * 50, "a\0b", "\u202eabc", "e\u0301" * 25])
    async def test_any_characters_are_accepted(self, serve, rule, text):
        async with serve(rule, limits=self.LIMITS) as client:
            assert (await ask(client, text)).status_code == 200

    async def test_an_endless_body_is_cut_off(self, serve, rule):
        sent = 0

        async def body():
            nonlocal sent
            while True:
                sent += 1
                yield b"a" * (1 << 20)

        async with serve(rule) as client:
            assert_explained(await client.post(PREDICT, content=body(), headers=JSON), 413)
        assert sent < 100

    async def test_a_body_that_does_not_arrive_times_out(self, serve, rule):
        async def body():
            yield b'{"text"'
            await asyncio.sleep(60)

        async with serve(rule, limits=Limits(deadline=0.05)) as client:
            assert_explained(await client.post(PREDICT, content=body(), headers=JSON), 408, found="a part")

    @pytest.mark.parametrize(
        ("given", "found"),
        [
            ({}, "nothing"),
            ({"Content-Type": "text/plain"}, "text/plain"),
            ({"Content-Type": "application/json-seq"}, "application/json-seq"),
            (JSON | {"Content-Encoding": "gzip"}, "gzip"),
        ],
    )
    async def test_only_declared_uncompressed_json_is_read(self, serve, rule, given, found):
        async with serve(rule) as client:
            assert_explained(await client.post(PREDICT, content=b'{"text": "a"}', headers=given), 415, found=found)

    async def test_a_byte_order_mark_and_a_charset_are_accepted(self, serve, rule):
        given = {"Content-Type": "Application/JSON; charset=utf-8"}
        async with serve(rule) as client:
            body = b'\xef\xbb\xbf{"text": "good"}'
            assert (await client.post(PREDICT, content=body, headers=given)).status_code == 200

    async def test_wrong_paths_and_methods(self, serve, rule):
        async with serve(rule) as client:
            assert_explained(await client.get("/nothing"), 404, found="GET /nothing")
            elsewhere = {"Host": "elsewhere.example"}  # where a redirect would lead
            response = await client.post(f"{PREDICT}/", json={"text": "a"}, headers=elsewhere)
            assert_explained(response, 404, found=f"POST {PREDICT}/")
            response = await client.get(PREDICT)
            assert_explained(response, 405)
            assert response.headers["Allow"] == "POST"


async def test_a_body_of_escapes_takes_memory_in_proportion(rule):
    """Python's regular expressions kept 100 bytes for every escape, to be able to go back."""
    body = b'{"text": "%s"}' % (b"\\u0001" * 100_000)
    questions = Questions({"rule": rule.served()}, Limits())
    tracemalloc.start()
    with pytest.raises(Refusal, match="at most 10000 characters"):
        questions.parse(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(body)


class TestToken:
    GUARDED = (("POST", PREDICT), ("GET", "/v1/models"), ("GET", "/metrics"))
    OPEN = ("/", "/healthz", "/readyz")

    @pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer ", "Basic tökén", "Bearer tökén2", "Bearer t"])
    async def test_requests_without_the_token_are_refused_unread(self, serve, rule, given):
        headers = {} if given is None else {"Authorization": given.encode()}
        async with serve(rule, token="tökén") as client:
            for method, path in self.GUARDED:
                response = await client.request(method, path, headers=headers, content=b"no JSON")
                assert_explained(response, 401, expected="Bearer")
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert "tökén" not in response.text

    async def test_requests_with_the_token_are_answered(self, serve, rule):
        headers = {"Authorization": "Bearer tökén".encode()}
        async with serve(rule, token="tökén") as client:
            assert (await client.post(PREDICT, json={"text": "a"}, headers=headers)).status_code == 200
            for _, path in self.GUARDED[1:]:
                assert (await client.get(path, headers=headers)).status_code == 200
            for path in self.OPEN:
                assert (await client.get(path)).status_code == (await client.head(path)).status_code == 200


class TestLoad:
    async def test_clients_take_turns(self, serve, rule, another):
        """One with much work delays another by a piece of it, not by all of it."""
        rule.gate.clear()
        async with serve(rule) as client, another(client) as other:
            much = asyncio.create_task(ask(client, *["word " * 1000] * 100))
            more = asyncio.create_task(ask(client, *["word " * 1000] * 100))
            await asyncio.to_thread(rule.entered.acquire)
            little = asyncio.create_task(ask(other, "good"))
            await asyncio.sleep(0.05)
            rule.gate.set()
            assert (await little).status_code == 200
            assert rule.batches.index(1) <= 2
            assert [(await one).status_code for one in (much, more)] == [200, 200]
        assert sum(rule.batches) == 201

    async def test_a_full_queue_sheds_load_and_recovers(self, serve, rule):
        rule.gate.clear()
        async with serve(rule, limits=Limits(max_texts=2, max_queue=4, client_share=1)) as client:
            first = asyncio.create_task(ask(client, "first"))
            await asyncio.to_thread(rule.entered.acquire)
            burst = [asyncio.create_task(ask(client, "a", "b")) for _ in range(20)]
            while sum(request.done() for request in burst) < 19:
                await asyncio.sleep(0)
            for response in [request.result() for request in burst if request.done()]:
                assert_explained(response, 503, expected="at most 4 texts under way", found="3 there and 2 more")
                assert int(response.headers["Retry-After"]) >= 1
            assert (await client.get("/readyz")).status_code == 200  # busy is not broken
            rule.gate.set()
            answered = [response for response in await asyncio.gather(first, *burst) if response.status_code == 200]
            assert len(answered) == 2
            assert (await ask(client, "a", "b")).status_code == 200

    @pytest.mark.parametrize(
        ("limits", "texts", "what"),
        [
            (Limits(max_texts=2, max_queue=8), ["a", "b"], "at most 4 texts under way in rule"),
            (
                Limits(max_body_bytes=100, max_held_bytes=400),
                ["a" * 80],
                "at most 200 bytes of bodies from one address",
            ),
        ],
    )
    async def test_one_client_may_take_half(self, serve, rule, another, limits, texts, what):
        rule.gate.clear()
        async with serve(rule, limits=limits) as client, another(client) as other:
            held = [asyncio.create_task(ask(client, *texts)) for _ in range(2)]
            await asyncio.to_thread(rule.entered.acquire)
            await asyncio.sleep(0.05)
            refused = await ask(client, *texts)
            assert_explained(refused, 429, expected=what)
            assert int(refused.headers["Retry-After"]) >= 1
            held += [asyncio.create_task(ask(other, *texts)) for _ in range(2)]
            await asyncio.sleep(0.05)
            assert not any(request.done() for request in held)
            rule.gate.set()
            assert [response.status_code for response in await asyncio.gather(*held)] == [200] * 4
            assert (await ask(client, *texts)).status_code == 200

    async def test_with_one_model_full_none_computes(self, serve, make_rule):
        busy, idle = make_rule("busy"), make_rule("idle")
        busy.gate.clear()
        async with serve(busy, idle, limits=Limits(max_texts=1, max_queue=1, client_share=1)) as client:
            held = asyncio.create_task(ask(client, "a", model="busy"))
            await asyncio.to_thread(busy.entered.acquire)
            assert_explained(await ask(client, "c", model=["idle", "busy"]), 503, expected="under way in busy")
            assert (await ask(client, "d", model="idle")).status_code == 200  # it was not asked for "c"
            busy.gate.set()
            assert (await held).status_code == 200
        assert idle.batches == [1]

    async def test_with_one_model_failed_the_others_stop(self, serve, make_rule):
        failing, busy = make_rule("failing"), make_rule("busy")
        failing.error = ValueError("odd text")
        busy.gate.clear()
        async with serve(failing, busy, limits=Limits(max_texts=1, max_queue=2, client_share=1)) as client:
            held = asyncio.create_task(ask(client, "a", model="busy"))
            await asyncio.to_thread(busy.entered.acquire)
            assert (await ask(client, "poison", model=["failing", "busy"])).status_code == 500
            waits = asyncio.create_task(ask(client, "b", model="busy"))  # there is room for one
            await asyncio.sleep(0.05)
            busy.gate.set()
            assert [response.status_code for response in await asyncio.gather(held, waits)] == [200, 200]
        assert busy.batches == [1, 1]

    async def test_the_deadline(self, serve, rule):
        rule.gate.clear()
        async with serve(rule, limits=Limits(deadline=1)) as client:
            computed = asyncio.create_task(ask(client, "a"))
            assert await asyncio.to_thread(rule.entered.acquire, timeout=30)
            for response in (await computed, await ask(client, "b")):
                assert_explained(response, 504, expected="within 1 s")
            rule.gate.set()
            assert (await ask(client, "c")).status_code == 200
        assert sum(rule.batches) == 2  # the one that waited was dropped

    async def test_work_for_disconnected_clients_is_dropped(self, rule, caplog):
        """Spoken ASGI by hand: httpx's transport does not tell an application that a client goes."""
        app = create_app([rule.served()])
        rule.gate.clear()
        gone = asyncio.Event()

        def scope():
            headers = [(b"content-type", b"application/json")]
            path = {"path": PREDICT, "raw_path": PREDICT.encode(), "root_path": "", "query_string": b""}
            return {"type": "http", "method": "POST", "headers": headers, "http_version": "1.1", **path}

        async def call(texts):
            messages = [{"type": "http.request", "body": json.dumps({"texts": texts}).encode()}]

            async def receive():
                if messages:
                    return messages.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message):
                pass

            await app(scope(), receive, send)

        async with app.router.lifespan_context(app):
            with caplog.at_level(logging.INFO, "potstill.serve"):
                held = [asyncio.create_task(call(["a"]))]
                await asyncio.to_thread(rule.entered.acquire)
                held.append(asyncio.create_task(call(["b"] * 5)))
                await asyncio.sleep(0.05)
                gone.set()
                await asyncio.gather(*held)
            rule.gate.set()
        assert rule.batches == [1]
        assert [record.fields["status"] for record in caplog.records] == [499, 499]


class TestTrouble:
    @pytest.mark.parametrize("error", [ValueError("odd"), SystemExit()])
    async def test_a_failing_model_is_an_explained_500_and_the_next_request_is_answered(self, serve, rule, error):
        rule.error = error
        async with serve(rule) as client:
            assert 'potstill_model_failures_total{model="rule"} 0.0' in (await client.get("/metrics")).text
            assert_explained(await ask(client, "poison"), 500, found="an error of the model rule")
            assert (await ask(client, "good")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            assert 'potstill_model_failures_total{model="rule"} 1.0' in (await client.get("/metrics")).text

    async def test_a_model_that_never_ends_is_not_ready(self, serve, make_rule):
        stuck, alive = make_rule("stuck"), make_rule("alive")
        stuck.gate.clear()
        async with serve(stuck, alive, limits=Limits(deadline=0.1)) as client:
            assert_explained(await ask(client, "text"), 504)
            await asyncio.sleep(0.05)
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["models"] == {"stuck": False, "alive": True}
            assert (await ask(client, "good", model="alive")).status_code == 200
            stuck.gate.set()

    async def test_an_unexpected_error_is_an_explained_500(self, serve, rule, monkeypatch, caplog):
        monkeypatch.setattr("potstill.serve.question.Questions.parse", lambda *_: 1 / 0)
        async with serve(rule) as client:
            assert_explained(await ask(client, "private"), 500, found="an error of the server")
        assert "ZeroDivisionError" in caplog.text

    async def test_shutdown_answers_accepted_requests(self, rule):
        app = create_app([rule.served()])
        rule.gate.clear()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            lifespan = app.router.lifespan_context(app)
            await lifespan.__aenter__()
            accepted = [asyncio.create_task(ask(client, f"good {n}")) for n in range(3)]
            await asyncio.to_thread(rule.entered.acquire)
            await asyncio.sleep(0.05)
            closing = asyncio.create_task(lifespan.__aexit__(None, None, None))
            while (await client.get("/readyz")).status_code == 200:
                await asyncio.sleep(0)
            assert_explained(await ask(client, "late"), 503)
            rule.gate.set()
            responses = await asyncio.gather(*accepted)
            await closing
        assert [response.status_code for response in responses] == [200] * 3


async def test_the_log_has_a_line_per_request_and_no_text_in_it(serve, rule, caplog):
    with caplog.at_level(logging.INFO, "potstill.serve"):
        async with serve(rule) as client:
            await client.post(f"{PREDICT}?secret", json={"texts": ["secret", "b"]}, headers={"X-Request-ID": "id-1"})
            await ask(client, "secret", 3)
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "potstill.serve"]
    assert [(line["status"], line["method"], line["path"]) for line in lines] == [
        (200, "POST", PREDICT),
        (422, "POST", PREDICT),
    ]
    assert lines[0]["request_id"] == "id-1"
    assert lines[0]["texts"] == 2
    assert lines[0]["models"] == ["rule"]
    assert lines[0]["ms"] > 0
    assert "secret" not in json.dumps(lines)


async def test_successful_probes_are_not_logged(serve, rule, caplog):
    with caplog.at_level(logging.INFO, "potstill.serve"):
        async with serve(rule) as client:
            for path in ("/healthz", "/readyz", "/"):
                await client.get(path)
    assert [record.fields["path"] for record in caplog.records if record.name == "potstill.serve"] == ["/"]


async def test_equal_warnings_are_written_once_a_second():
    kept = OnceASecond()
    records = [logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "a %s", (n,), None) for n in range(5)]
    assert [kept.filter(record) for record in records] == [True, False, False, False, False]
    records[4].created += 1
    assert kept.filter(records[4])


async def test_a_log_line_with_an_error_stays_one_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "a\nb", (), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "ValueError: first\nsecond" in json.loads(line)["traceback"]
