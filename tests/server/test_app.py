"""The API, by its own terms: what it answers, what it refuses, how it behaves under load, failure and shutdown."""

import asyncio
import json
import logging
import re
import sys

import httpx
import pytest

from potstill.server import create_app
from potstill.server.limits import Limits
from potstill.server.middleware import JsonLines
from potstill.server.shares import Share, ShareTakenError

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
    async def test_many_texts_in_their_order(self, serve, rule):
        async with serve(rule) as client:
            response = await ask(client, "so good", "so so", " good ")
        assert response.status_code == 200
        (answer,) = response.json()["answers"]
        assert answer["model"] == "rule"
        assert answer["latency_ms"] > 0
        assert [one["label"] for one in answer["predictions"]] == ["good", "bad", "good"]
        assert answer["predictions"][1] == {
            "label": "bad",
            "probability": 0.8,
            "probabilities": {"bad": 0.8, "good": 0.2},
        }

    async def test_one_text(self, serve, rule):
        async with serve(rule) as client:
            response = await client.post(PREDICT, json={"text": "good"})
        assert response.json()["answers"][0]["predictions"][0]["label"] == "good"

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

    async def test_pairs(self, serve, make_rule):
        pairs, texts = make_rule("pairs", reads_pairs=True), make_rule("texts")
        async with serve(pairs, texts) as client:
            response = await ask(client, ["so", "good"], ["so", "so"])
            assert_explained(await ask(client, "good"), 422, expected="texts[0]: a list of two", found="a text")
            assert_explained(await ask(client, ["a", "b", "c"]), 422, found="a list of 3")
            assert_explained(await ask(client, ["a", " "]), 422, expected="texts[0][1]: a text that is not blank")
            assert_explained(await ask(client, ["a", "b"], model="texts"), 422, expected="texts[0]: a text")
            assert_explained(await ask(client, "a", model=["texts", "pairs"]), 422, found="some of each")
        assert [one["label"] for one in response.json()["answers"][0]["predictions"]] == ["good", "bad"]

    async def test_request_ids_are_repeated_when_fit_to_be_and_made_otherwise(self, serve, rule):
        async with serve(rule) as client:
            given = await client.post(PREDICT, json={"text": "x"}, headers={"X-Request-ID": "from-me:1"})
            unfit = await client.post(PREDICT, json={"text": "x"}, headers={"X-Request-ID": "a b" * 100})
            none = await client.get("/healthz")
        assert given.headers["X-Request-ID"] == given.json()["request_id"] == "from-me:1"
        made = [response.headers["X-Request-ID"] for response in (unfit, none)]
        assert len(set(made)) == 2
        assert all(re.fullmatch("[0-9a-f]{12}-[0-9]+", identity) for identity in made)

    async def test_models_and_limits_are_listed(self, serve, rule):
        async with serve(rule, limits=Limits(max_texts=7), examples=["Is it so?"]) as client:
            listed = (await client.get("/v1/models")).json()
        assert listed["models"] == [
            {"name": "rule", "kind": "student", "labels": ["bad", "good"], "reads_pairs": False, "threshold": None}
        ]
        assert listed["limits"]["max_texts"] == 7
        assert listed["examples"] == ["Is it so?"]

    async def test_metrics(self, serve, rule):
        async with serve(rule) as client:
            await ask(client, "one", "two")
            await client.get("/a/path/that/is/not")
            lines = (await client.get("/metrics")).text.splitlines()
        assert 'potstill_requests_total{route="/v1/predict",status="200"} 1.0' in lines
        assert 'potstill_requests_total{route="other",status="404"} 1.0' in lines
        assert 'potstill_batch_texts_sum{model="rule"} 2.0' in lines
        assert 'potstill_queue_texts{model="rule"} 0.0' in lines
        assert 'potstill_worker_alive{model="rule"} 1.0' in lines
        assert any(line.startswith("process_resident_memory_bytes") for line in lines)

    async def test_the_examples_of_the_description_are_answered(self, serve, rule, make_rule):
        for model in (rule, make_rule("pairs", reads_pairs=True)):
            async with serve(model) as client:
                description = (await client.get("/openapi.json")).json()
                body = description["paths"][PREDICT]["post"]["requestBody"]["content"]["application/json"]
                for example in body["examples"].values():
                    assert (await client.post(PREDICT, json=example["value"])).status_code == 200


class TestRefusals:
    LIMITS = Limits(max_body_bytes=2000, max_texts=3, max_characters=50)

    @pytest.mark.parametrize(
        ("body", "status", "expected", "found"),
        [
            (b"", 400, "JSON", "EOF"),
            (b"text", 400, "JSON", "line 1 column"),
            (b'{"text": "\xff"}', 400, "UTF-8", "unicode"),
            (b'{"text": "\\ud800"}', 400, "every character whole", "hex escape"),
            (b"[" * 1500, 400, "200 deep", "recursion"),
            (b'{"text": ' + b"9" * 1500, 400, "JSON", ""),
            (b"[]", 422, "the body: an object", "a list of 0"),
            (b"null", 422, "an object", "null"),
            (b"{}", 422, "either text or texts", "neither"),
            (b'{"text": "a", "texts": ["a"]}', 422, "either", "both"),
            (b'{"text": "a", "labels": 1}', 422, "no field but text, texts, model", "'labels'"),
            (b'{"text": null}', 422, "text: a text", "null"),
            (b'{"text": ["a", "b"]}', 422, "text: a text", "a list of 2"),
            (b'{"text": ""}', 422, "not blank", "a blank one"),
            (b'{"text": " \\n\\u2003"}', 422, "not blank", "a blank one"),
            (b'{"texts": []}', 422, "a list of 1 to 3", "a list of 0"),
            (b'{"texts": ["a", "b", "c", "d"]}', 422, "a list of 1 to 3", "a list of 4"),
            (b'{"texts": "a"}', 422, "texts: a list", "a text of 1 characters"),
            (b'{"texts": {"a": 1}}', 422, "texts: a list", "an object"),
            (b'{"texts": ["a", 1e400]}', 422, "texts[1]: a text", "a number"),
            (b'{"texts": [true]}', 422, "texts[0]: a text", "true or false"),
            (b'{"text": "%s"}' % (b"a" * 51), 422, "at most 50 characters", "a text of 51"),
            (b'{"text": "a", "model": "other"}', 422, "one of rule", "'other'"),
            (b'{"text": "a", "model": null}', 422, "one of rule", "null"),
            (b'{"text": "a", "model": []}', 422, "one of rule", "an empty list"),
            (b'{"text": "a", "model": [["rule"]]}', 422, "one of rule", "a list of 1"),
            (b'{"text": "a", "model": ["rule", "rule"]}', 422, "different", "twice"),
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
    async def test_any_text_within_the_limits_is_taken(self, serve, rule, text):
        async with serve(rule, limits=self.LIMITS) as client:
            assert (await ask(client, text)).status_code == 200

    async def test_ten_megabytes_are_refused_and_not_kept(self, serve, rule):
        async def body():
            yield b'{"text": "'
            for _ in range(160):
                yield b"a" * (1 << 16)
            yield b'"}'

        async with serve(rule) as client:
            assert_explained(await client.post(PREDICT, content=body(), headers=JSON), 413, expected="1048576")

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

    async def test_a_body_that_does_not_arrive_is_given_up(self, serve, rule):
        async def body():
            yield b'{"text"'
            await asyncio.sleep(60)

        async with serve(rule, limits=Limits(deadline=0.05)) as client:
            assert_explained(await client.post(PREDICT, content=body(), headers=JSON), 408, found="a part")

    @pytest.mark.parametrize("given", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json-seq"}])
    async def test_only_declared_json_is_read(self, serve, rule, given):
        async with serve(rule) as client:
            assert_explained(await client.post(PREDICT, content=b'{"text": "a"}', headers=given), 415)
            good = {"Content-Type": "Application/JSON; charset=utf-8"}
            assert (await client.post(PREDICT, content=b'{"text": "a"}', headers=good)).status_code == 200

    async def test_wrong_paths_and_methods(self, serve, rule):
        async with serve(rule) as client:
            assert_explained(await client.get("/nothing"), 404, found="GET /nothing")
            elsewhere = {"Host": "elsewhere.example"}  # where a redirect would lead
            response = await client.post(f"{PREDICT}/", json={"text": "a"}, headers=elsewhere)
            assert_explained(response, 404, found=f"POST {PREDICT}/")
            response = await client.get(PREDICT)
            assert_explained(response, 405)
            assert response.headers["Allow"] == "POST"


class TestToken:
    GUARDED = (("POST", PREDICT), ("GET", "/v1/models"), ("GET", "/metrics"))
    OPEN = ("/", "/healthz", "/readyz", "/openapi.json")

    @pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer ", "Basic tökén", "Bearer tökén2", "Bearer t"])
    async def test_without_it_nothing_is_read_or_told(self, serve, rule, given):
        headers = {} if given is None else {"Authorization": given.encode()}
        async with serve(rule, token="tökén") as client:
            for method, path in self.GUARDED:
                response = await client.request(method, path, headers=headers, content=b"no JSON")
                assert_explained(response, 401, expected="Bearer")
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert "tökén" not in response.text

    async def test_with_it_all_is_open(self, serve, rule):
        headers = {"Authorization": "Bearer tökén".encode()}
        async with serve(rule, token="tökén") as client:
            assert (await client.post(PREDICT, json={"text": "a"}, headers=headers)).status_code == 200
            for _, path in self.GUARDED[1:]:
                assert (await client.get(path, headers=headers)).status_code == 200

    async def test_the_page_and_the_probes_need_none(self, serve, rule):
        async with serve(rule, token="token") as client:
            for path in self.OPEN:
                assert (await client.get(path)).status_code == 200


class TestLoad:
    async def test_concurrent_requests_are_computed_together(self, serve, rule):
        rule.gate.clear()
        async with serve(rule) as client:
            requests = [asyncio.create_task(ask(client, f"text {n}")) for n in range(40)]
            await asyncio.sleep(0.2)
            rule.gate.set()
            responses = await asyncio.gather(*requests)
        assert {response.status_code for response in responses} == {200}
        assert sum(rule.batches) == 40
        assert len(rule.batches) < 10

    async def test_a_full_queue_sheds_load_and_recovers(self, serve, rule):
        rule.gate.clear()
        async with serve(rule, limits=Limits(max_texts=2, max_queue=4, client_share=1)) as client:
            first = asyncio.create_task(ask(client, "first"))
            await asyncio.to_thread(rule.entered.acquire)
            burst = [asyncio.create_task(ask(client, "a", "b")) for _ in range(20)]
            while sum(request.done() for request in burst) < 18:
                await asyncio.sleep(0)
            for response in [request.result() for request in burst if request.done()]:
                assert_explained(response, 503, expected="at most 4 texts in the queue", found="4 there and 2 more")
                assert int(response.headers["Retry-After"]) >= 1
            assert (await client.get("/readyz")).status_code == 200  # busy is not broken
            rule.gate.set()
            answered = [response for response in await asyncio.gather(first, *burst) if response.status_code == 200]
            assert len(answered) == 3
            assert (await ask(client, "a", "b")).status_code == 200

    async def test_more_requests_than_allowed_are_refused_unread(self, serve, rule):
        rule.gate.clear()
        async with serve(rule, limits=Limits(max_requests=2, client_share=1)) as client:
            held = [asyncio.create_task(ask(client, "held")) for _ in range(2)]
            await asyncio.to_thread(rule.entered.acquire)
            await asyncio.sleep(0.05)
            refused = await client.post(PREDICT, content=b"no JSON", headers=JSON)
            assert_explained(refused, 503, expected="at most 2 requests")
            assert refused.headers["Retry-After"]
            rule.gate.set()
            assert [response.status_code for response in await asyncio.gather(*held)] == [200, 200]
            assert (await ask(client, "next")).status_code == 200

    async def test_one_client_leaves_half_of_the_requests_to_others(self, serve, rule, another):
        rule.gate.clear()
        async with serve(rule, limits=Limits(max_requests=4)) as client, another(client) as other:
            held = [asyncio.create_task(ask(client, "held")) for _ in range(2)]
            await asyncio.to_thread(rule.entered.acquire)
            await asyncio.sleep(0.05)
            refused = await client.post(PREDICT, content=b"no JSON", headers=JSON)
            assert_explained(refused, 429, expected="at most 2 requests at a time from one address", found="2 there")
            assert int(refused.headers["Retry-After"]) >= 1
            held += [asyncio.create_task(ask(other, "other's")) for _ in range(2)]
            await asyncio.sleep(0.05)
            assert not any(request.done() for request in held)
            rule.gate.set()
            assert [response.status_code for response in await asyncio.gather(*held)] == [200] * 4
            assert (await ask(client, "next")).status_code == 200

    async def test_one_client_leaves_half_of_the_queue_to_others(self, serve, rule, another):
        rule.gate.clear()
        async with serve(rule, limits=Limits(max_texts=2, max_queue=8)) as client, another(client) as other:
            held = [asyncio.create_task(ask(client, "a", "b")) for _ in range(2)]
            await asyncio.to_thread(rule.entered.acquire)
            await asyncio.sleep(0.05)
            refused = await ask(client, "c")
            assert_explained(refused, 429, expected="at most 4 texts under way in rule", found="4 there and 1 more")
            assert refused.headers["Retry-After"]
            held.append(asyncio.create_task(ask(other, "a", "b")))
            await asyncio.sleep(0.05)
            assert not held[-1].done()
            rule.gate.set()
            assert [response.status_code for response in await asyncio.gather(*held)] == [200] * 3
            assert (await ask(client, "c")).status_code == 200

    async def test_nothing_is_kept_of_clients_that_have_gone(self, rule):
        share = Share(limit=4, share=0.5)
        with share.hold("one", 2), share.hold("other"):
            assert len(share) == 2
            with pytest.raises(ShareTakenError, match="2 of 2 taken, 1 more"), share.hold("one"):
                pass
        assert len(share) == 0

    async def test_a_full_request_is_taken_from_whomever_it_comes(self, serve, rule):
        """Though it is more than half of the queue."""
        async with serve(rule, limits=Limits(max_texts=3, max_queue=4)) as client:
            assert (await ask(client, "a", "b", "c")).status_code == 200

    async def test_when_one_model_is_full_none_is_asked(self, serve, make_rule):
        busy, idle = make_rule("busy"), make_rule("idle")
        busy.gate.clear()
        async with serve(busy, idle, limits=Limits(max_texts=1, max_queue=1, client_share=1)) as client:
            held = [asyncio.create_task(ask(client, "a", model="busy"))]
            await asyncio.to_thread(busy.entered.acquire)
            held.append(asyncio.create_task(ask(client, "b", model="busy")))
            await asyncio.sleep(0.05)
            idle.gate.clear()
            assert_explained(await ask(client, "c", model=["idle", "busy"]), 503, expected="queue of busy")
            held.append(asyncio.create_task(ask(client, "d", model="idle")))  # nothing of that lies in its queue
            busy.gate.set()
            idle.gate.set()
            assert [response.status_code for response in await asyncio.gather(*held)] == [200] * 3

    async def test_where_one_model_fails_the_others_are_not_asked_for_nothing(self, serve, make_rule):
        failing, busy = make_rule("failing"), make_rule("busy")
        failing.error = ValueError("odd text")
        busy.gate.clear()
        async with serve(failing, busy, limits=Limits(max_texts=1, max_queue=1, client_share=1)) as client:
            held = asyncio.create_task(ask(client, "a", model="busy"))
            await asyncio.to_thread(busy.entered.acquire)
            assert (await ask(client, "poison", model=["failing", "busy"])).status_code == 500
            waits = asyncio.create_task(ask(client, "b", model="busy"))  # there is room for one
            await asyncio.sleep(0.05)
            busy.gate.set()
            assert [response.status_code for response in await asyncio.gather(held, waits)] == [200, 200]
        assert busy.batches == [1, 1]

    async def test_probes_and_page_answer_to_head(self, serve, rule):
        async with serve(rule) as client:
            for path in ("/", "/healthz", "/readyz"):
                assert (await client.head(path)).status_code == 200

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

    async def test_a_slow_body_takes_from_the_time_for_the_answer(self, serve, rule):
        async def body():
            yield b'{"text": '
            await asyncio.sleep(0.6)
            yield b'"a"}'

        rule.gate.clear()
        async with serve(rule, limits=Limits(deadline=1)) as client:
            started = asyncio.get_running_loop().time()
            assert_explained(await client.post(PREDICT, content=body(), headers=JSON), 504, expected="within 1 s")
            assert asyncio.get_running_loop().time() - started < 1.6  # not a second after the body
            rule.gate.set()

    async def test_the_texts_of_a_client_that_has_gone_are_dropped(self, rule, caplog):
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
            with caplog.at_level(logging.INFO, "potstill.server"):
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
    async def test_a_failing_model_is_an_explained_500_and_the_next_request_is_answered(self, serve, rule):
        rule.error = ValueError("odd")
        async with serve(rule) as client:
            assert_explained(await ask(client, "poison"), 500, found="an error of the model rule")
            assert (await ask(client, "good")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200

    async def test_a_batch_broken_off_is_an_explained_503_and_the_next_request_is_answered(self, serve, rule):
        rule.error = SystemExit()
        async with serve(rule) as client:
            assert 'potstill_batches_broken_off_total{model="rule"} 0.0' in (await client.get("/metrics")).text
            refused = await ask(client, "poison")
            assert_explained(refused, 503, expected="a model rule at work", found="an error broke its work off")
            assert refused.headers["Retry-After"]
            assert (await ask(client, "good")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            assert 'potstill_batches_broken_off_total{model="rule"} 1.0' in (await client.get("/metrics")).text

    async def test_a_dead_worker_fails_its_requests_and_the_readiness(self, serve, make_rule, monkeypatch):
        """It dies of an error in dealing with another."""
        monkeypatch.setattr("potstill.server.batching.Worker._break_off", lambda *_: 1 / 0)
        dead, alive = make_rule("dead"), make_rule("alive")
        dead.error = SystemExit()
        async with serve(dead, alive) as client:
            assert_explained(await ask(client, "poison"), 503, expected="a model dead at work")
            assert_explained(await ask(client, "good"), 503, expected="a model dead at work")
            assert (await ask(client, "good", model="alive")).status_code == 200
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["models"] == {"dead": False, "alive": True}
            assert (await client.get("/healthz")).status_code == 200
            assert 'potstill_worker_alive{model="dead"} 0.0' in (await client.get("/metrics")).text

    async def test_an_error_of_the_server_itself_is_explained_too(self, serve, rule, monkeypatch, caplog):
        monkeypatch.setattr("potstill.server.query.parse", lambda *_: 1 / 0)
        async with serve(rule) as client:
            assert_explained(await ask(client, "private"), 500, found="an error of the server")
        assert "ZeroDivisionError" in caplog.text

    async def test_shutdown_answers_what_was_accepted(self, rule):
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
    with caplog.at_level(logging.INFO, "potstill.server"):
        async with serve(rule) as client:
            await client.post(f"{PREDICT}?secret", json={"texts": ["secret", "b"]}, headers={"X-Request-ID": "id-1"})
            await ask(client, "secret", 3)
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "potstill.server"]
    assert [(line["status"], line["method"], line["path"]) for line in lines] == [
        (200, "POST", PREDICT),
        (422, "POST", PREDICT),
    ]
    assert lines[0]["request_id"] == "id-1"
    assert lines[0]["texts"] == 2
    assert lines[0]["models"] == ["rule"]
    assert lines[0]["ms"] > 0
    assert "secret" not in json.dumps(lines)


async def test_a_log_line_with_an_error_stays_one_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "a\nb", (), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "ValueError: first\nsecond" in json.loads(line)["traceback"]
