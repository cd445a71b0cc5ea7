"""A small OpenAI-compatible server for tests, which knows two words, and fails in every way that it is told to."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Failure = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, {"data": [{"id": "tiny"}, {"id": "small"}]})

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = self.body["messages"][-1]["content"].rpartition("Text: ")[2]
        with self.server.lock:
            self.server.asked[text] += 1
            self.server.requests.append((self.headers, self.body))
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            failure = self.server.fail(text, self.server.asked[text])
        time.sleep(self.server.seconds)
        try:
            (failure or Handler.complete)(self)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def complete(self) -> None:
        """Answer as a model that believes 3 to 1 that texts with "great" are of the class good."""
        prompt = "\n".join(message["content"] for message in self.body["messages"])
        codes = {name: code for code, name in re.findall(r"^(\w+): (bad|good)", prompt, re.MULTILINE)}
        if "several or none" in prompt:
            self.complete_list(codes, prompt.rpartition("Text: ")[2])
            return
        likely, other = ("good", "bad") if "great" in prompt.rpartition("Text: ")[2] else ("bad", "good")
        logprobs = {codes[likely]: math.log(0.6), codes[other]: math.log(0.2), "The": math.log(0.1)}
        self.reply(codes[likely] if self.body.get("seed", 0) % 4 < 3 else codes[other], logprobs)

    def complete_list(self, codes: dict[str, str], text: str) -> None:
        """Believe 3 to 1 that texts with "great" are good and those with "poor" are bad, of any others the contrary."""
        shares = {codes[name]: 0.75 if word in text else 0.25 for name, word in (("good", "great"), ("bad", "poor"))}
        if self.body.get("seed", 0) % 4 == 3:
            shares = {code: 1 - share for code, share in shares.items()}
        left, listed = sorted(shares), [code for code in sorted(shares) if shares[code] > 0.5]
        places: list[dict[str, float]] = []
        for code in (*listed, "0"):
            none, logprobs = 1.0, {code: 0.0}  # the chosen one first
            for one in left:
                logprobs[one], none = math.log(none * shares[one]), none * (1 - shares[one])
            places += [logprobs | {"0": math.log(none)}, {", ": 0.0}]
            left = [one for one in left if one > code]
        self.reply(", ".join((*listed, "0")), *places[:-1])

    def reply(self, text: str, *places: dict[str, float]) -> None:
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if self.server.gives_logprobs and self.body.get("logprobs"):
            content = []
            for logprobs in places or ({text.split()[0]: 0.0},):
                top = [{"token": token, "logprob": value} for token, value in logprobs.items()]
                content.append({**top[0], "top_logprobs": top[: self.body["top_logprobs"]]})
            choice["logprobs"] = {"content": content}
        self.answer(200, {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 2}})

    def answer(self, status: int, content: Any, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Write nothing to the terminal."""


class ChatServer(ThreadingHTTPServer):
    """`fail` says of a text, and how often it was asked by now, what to do instead of an answer; None: answer."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.requests: list[tuple[Any, Any]] = []
        self.fail: Callable[[str, int], Failure | None] = lambda text, count: None
        self.gives_logprobs, self.seconds, self.at_once, self.most_at_once = True, 0.0, 0, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: object) -> None:
        """Clients that are killed, or do not wait, are part of the tests."""


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def status(code: int, message: str = "try again", **headers: str) -> Failure:
    return lambda handler: handler.answer(code, {"error": {"message": message}}, **headers)


def says(text: str) -> Failure:
    return lambda handler: handler.reply(text)


def broken_json(handler: Handler) -> None:
    handler.answer(200, b'{"choices": [')


def no_completion(handler: Handler) -> None:
    handler.answer(200, {"object": "error"})


def cut_connection(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.close_connection = True


def no_answer(handler: Handler) -> None:
    time.sleep(1.5)
    handler.close_connection = True
