"""`potstill serve` as a process: what it serves, how it ends, what it refuses to begin."""

import http.client
import json
import logging
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from checksummed import with_new_checksums
from potstill.cli import main
from potstill.cli.serve import serve
from potstill.errors import ArtifactError, ServeError
from potstill.predict import Classifier
from potstill.predict.directory import find_student
from potstill.serve.limits import Limits
from potstill.serve.models import ServedModel, find_models, open_models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(student, tmp_path_factory):
    """A run's directory: two distilled students, the second better, a baseline, and what looks like a teacher."""
    directory = tmp_path_factory.mktemp("run")
    for place, mcc in (("distilled/seed-0", 0.1), ("distilled/seed-1", 0.3), ("baseline/seed-0", 0.2)):
        shutil.copytree(student, directory / place)
        record = json.loads((student / "training.json").read_text())
        record["best"]["mcc"] = mcc
        (directory / place / "training.json").write_text(json.dumps(record))
        with_new_checksums(directory / place)
    (directory / "teacher" / "seed-0").mkdir(parents=True)
    (directory / "teacher" / "seed-0" / "teacher.json").write_text("{}")
    return directory


class TestFinding:
    def test_a_model_and_several_seeds(self, student, run, tmp_path):
        assert find_models([str(student)]) == {"little": student}
        assert find_models([f"mine={student}"]) == {"mine": student}
        assert find_models([str(run / "distilled")]) == {"distilled": run / "distilled" / "seed-1"}
        for name, shown in (("a=b", "a=b"), (os.fsdecode(b"caf\xe9"), "caf\N{REPLACEMENT CHARACTER}")):
            odd = shutil.copytree(student, tmp_path / name)
            assert find_models([str(odd)]) == {shown: odd}

    def test_a_run(self, run):
        best = {"distilled": run / "distilled" / "seed-1", "baseline": run / "baseline" / "seed-0"}
        assert find_models([str(run)]) == best
        assert find_models([f"x={run}"]) == {f"x-{name}": directory for name, directory in best.items()}
        teacher = run / "teacher" / "seed-0"
        assert find_models([f"teacher={teacher}"]) == {"teacher": teacher}

    @pytest.mark.parametrize("lost", ["student.json", "training.json"])
    def test_an_incomplete_best_student_is_refused(self, run, tmp_path, lost):
        """Another seed's answers in its place would come without a word."""
        copy = shutil.copytree(run, tmp_path / "run")
        (copy / "distilled" / "seed-1" / lost).unlink()
        with pytest.raises(ArtifactError, match=lost):
            Classifier.load(find_student(copy))

    def test_digests_differ_between_models(self, student, tmp_path):
        other = shutil.copytree(student, tmp_path / "other")
        (other / "student.json").write_text((student / "student.json").read_text() + "\n")
        directories = {"a": student, "b": student, "c": with_new_checksums(other)}
        one, same, another = (model.digest for model in open_models(directories, 1, lambda: None))
        assert re.fullmatch("[0-9a-f]{16}", one)
        assert one == same != another

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere"], "expected a directory, NAME=DIRECTORY, or a model of the hub (owner/name), found 'nowhere'"),
            (["=tests"], "found '=tests'"),
            (["name="], "found 'name='"),
            (["{empty}"], "expected a model's directory"),
            (["{student}", "{student}"], "both called 'little'"),
        ],
    )
    def test_other_arguments_are_refused(self, student, tmp_path, arguments, message):
        with pytest.raises(ServeError, match=rf"(?s){re.escape(message)}.*\n  what to do: "):
            find_models([argument.format(empty=tmp_path, student=student) for argument in arguments])


def test_a_teacher_is_served(tiny_backbone, tmp_path):
    from potstill.config import RuntimeConfig
    from potstill.teacher.transformer import TransformerTeacher

    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"w{n} w{n + 1},{'yes' if n % 2 else 'no'}\n" for n in range(40)))
    out = tmp_path / "teacher"
    main(["finetune", str(data), "--backbone", str(tiny_backbone), "--epochs", "1", "--out", str(out)])
    (model,) = open_models({"teacher": out}, 1, lambda: RuntimeConfig(device="cpu"))
    assert (model.kind, model.labels, model.in_pairs) == ("teacher", ("no", "yes"), False)
    expected = TransformerTeacher.load(out, RuntimeConfig(device="cpu")).probabilities(["w1 w2"])
    np.testing.assert_allclose(model.answer(["w1 w2"])[0], expected, atol=1e-6)


class Process:
    """`potstill serve` on a free port."""

    def __init__(self, *arguments, program="from potstill.cli import main; main()", **options):
        command = [sys.executable, "-c", program, "serve", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
        self.log = []
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if "startup complete" in self.log[-1]["message"]:
                break
        (message,) = (line["message"] for line in self.log if line["message"].startswith("serving"))
        self.port = int(re.search(r":(\d+)$", message)[1])
        self.reader = threading.Thread(target=lambda: self.log.extend(map(json.loads, self.process.stderr)))
        self.reader.start()

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, {"Content-Type": "application/json"} | (headers or {}))
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content

    def end(self, signal_):
        self.process.send_signal(signal_)
        status = self.process.wait(30)
        self.reader.join()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def test_serving_does_not_import_torch(run):
    program = """
import json, sys
from potstill.cli import main
from potstill.cli.serve import serve
try:
    main()
finally:
    loaded = [name for name in ("torch", "yaml", "transformers") if name in sys.modules]
    print(json.dumps({"message": "loaded", "names": loaded}), file=sys.stderr)
"""
    with Process(run, program=program) as server:
        assert server.request("GET", "/readyz")[0] == 200
        body = json.dumps({"texts": ["the cat", "the dog"], "model": ["distilled", "baseline"]})
        status, content = server.request("POST", "/v1/predict", body)
        assert status == 200
        assert [answer["model"] for answer in json.loads(content)["answers"]] == ["distilled", "baseline"]
        assert server.end(signal.SIGTERM) == 0
    assert server.log[-1] == {"message": "loaded", "names": []}


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_accepted_requests_are_answered_before_exit(student, ending):
    """A model that waits for the signal, so that the request is under way when it comes."""
    program = """
import signal, sys, threading, time
import potstill.serve.models as models
from potstill.cli import main
from potstill.cli.serve import serve

handle = signal.signal
told = threading.Event()

def slow(opened):
    def probabilities(texts):
        print('{"message": "computing"}', file=sys.stderr, flush=True)
        time.sleep(1)
        return opened.answer(texts)
    return models.ServedModel(opened.name, opened.kind, opened.labels, opened.in_pairs, probabilities)

import potstill.cli.serve as serve
real = serve.open_models
serve.open_models = lambda *arguments, **options: [slow(model) for model in real(*arguments, **options)]
main()
"""
    with Process(student, program=program) as server:
        answers = []
        body = json.dumps({"text": "the cat"})
        client = threading.Thread(target=lambda: answers.append(server.request("POST", "/v1/predict", body)))
        client.start()
        while not any(line["message"] == "computing" for line in server.log):
            client.join(0.01)
        assert server.end(ending) == 0
        client.join()
    assert answers[0][0] == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def client_in_log(server):
    (line,) = (line for line in server.log if line["message"] == "request" and line["method"] == "POST")
    return line["client"]


def test_defaults_on_loopback(student):
    """A foreign page can't ask the server by a name that leads to this machine; no client can pose as another."""
    with Process(student) as server:
        assert server.request("GET", "/v1/models", headers={"Host": "evil.example"})[0] == 421
        assert server.request("GET", "/v1/models", headers={"Host": f"localhost:{server.port}"})[0] == 200
        assert server.request("POST", "/v1/predict", b'{"text": "a"}', {"X-Forwarded-For": "192.0.2.7"})[0] == 200
        server.end(signal.SIGTERM)
    assert client_in_log(server) == "127.0.0.1"


@pytest.mark.parametrize("token", ["from-a-file-0123", "from-environment-0123"])
def test_flags(student, tmp_path, monkeypatch, token):
    monkeypatch.setenv("POTSTILL_TOKEN", " from-environment-0123\n")
    (tmp_path / "token").write_text("from-a-file-0123\n")
    (tmp_path / "examples.txt").write_text("first\n\nsecond\tpart\n", encoding="utf-8")
    flags = ["--behind-proxy", "127.0.0.1", "--allowed-host", "api.example", "--root-path", "/texts/"]
    flags += ["--max-texts", "2", "--examples", tmp_path / "examples.txt"]
    flags += ["--token-file", tmp_path / "token"] if "file" in token else []
    with Process(student, *flags) as server:
        headers = {"Host": "api.example", "Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.7"}
        content = json.loads(server.request("GET", "/v1/models", headers=headers)[1])
        assert content["limits"]["max_texts"] == 2
        assert content["examples"] == ["first", "second\tpart"]
        assert server.request("POST", "/v1/predict", b'{"text": "the cat"}', headers)[0] == 200
        assert server.request("GET", "/v1/models", headers={"Host": "api.example"})[0] == 401
        assert server.request("GET", "/v1/models", headers=headers | {"Host": "localhost"})[0] == 421
        description = json.loads(server.request("GET", "/openapi.json", headers=headers)[1])
        assert description["servers"] == [{"url": "/texts"}]
        server.end(signal.SIGTERM)
    assert client_in_log(server) == "192.0.2.7"
    assert token not in json.dumps(server.log)


def receive_until_closed(connection):
    try:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))
    except ConnectionResetError:
        return b""


def test_idle_and_slow_connections_are_closed(student):
    program = """
from functools import partial
import potstill.cli.serve as serve
from potstill.cli import main

serve.Limits = partial(serve.Limits, header_timeout=0.5, keep_alive=1, max_connections=8)
main()
"""
    with Process(student, program=program) as server:
        address = ("127.0.0.1", server.port)
        held = [socket.create_connection(address, source_address=("127.0.0.2", 0)) for _ in range(12)]
        held[0].sendall(b"GET /healthz HT")
        assert server.request("GET", "/healthz")[0] == 200  # another address, while these are open
        assert [receive_until_closed(one) for one in held] == [b""] * 12
        with socket.create_connection(address) as kept:
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert receive_until_closed(kept).startswith(b"HTTP/1.1 200")  # kept alive, and closed when idle
        server.end(signal.SIGTERM)
    (line,) = (line for line in server.log if line["message"].startswith("connection closed"))  # one a second
    assert (line["client"], line["level"]) == ("127.0.0.2", "warning")


def test_a_client_that_does_not_read_its_answer_is_let_go(student):
    program = """
from dataclasses import replace
import potstill.cli.serve as serve
from potstill.cli import main

real = serve.open_models
serve.open_models = lambda *given, **rest: [replace(one, labels=("n" * 500_000, "y")) for one in real(*given, **rest)]
main()
"""
    body = json.dumps({"texts": ["the cat"] * 100}).encode()
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with Process(student, "--deadline", "3", program=program) as server:
        files = Path(f"/proc/{server.process.pid}/fd")
        before = len([*files.iterdir()])
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert connection.recv(12) == b"HTTP/1.1 200"
            for _ in range(600):
                time.sleep(0.1)
                if len([*files.iterdir()]) <= before:
                    break
            assert len(receive_until_closed(connection)) < 40_000_000  # of 50 MB or more; the rest is dropped
        server.end(signal.SIGTERM)


def test_a_burst_of_connections_leaves_files_for_others(student):
    """asyncio accepted all that waited, had no more open files, and then accepted none for a second."""

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))

    with Process(student, preexec_fn=few_files) as server:
        for _ in range(3):
            burst = [socket.socket() for _ in range(400)]
            for one in burst:
                one.setblocking(False)
                one.bind(("127.0.0.2", 0))
                one.connect_ex(("127.0.0.1", server.port))
            assert server.request("GET", "/healthz")[0] == 200
            for one in burst:
                one.close()
        server.end(signal.SIGTERM)
    assert {line["message"].partition(":")[0] for line in server.log if line["level"] != "info"} == {
        "connection closed"
    }


@pytest.mark.parametrize("addresses", [1, 60], ids=["one client", "60 clients"])
def test_memory_and_other_clients_under_a_flood_of_long_texts(student, addresses):
    """60 bodies of a megabyte at a time, beside a client with short texts."""
    body = json.dumps({"texts": [f"{number} " + "the cat " * 1_000 for number in range(120)]}).encode()
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"

    def flood(port, number):
        source = (f"127.0.1.{1 + number % addresses}", 0)
        with socket.create_connection(("127.0.0.1", port), source_address=source) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            return receive_until_closed(connection)[9:12]

    with Process(student) as server:
        rss = Path(f"/proc/{server.process.pid}/statm")
        pages = [int(rss.read_text().split()[1])]
        with ThreadPoolExecutor(60) as pool:
            answers = [pool.submit(flood, server.port, number) for number in range(60)]
            delays = []
            while not all(answer.done() for answer in answers):
                started = time.monotonic()
                status, _ = server.request("POST", "/v1/predict", b'{"text": "the cat"}')
                assert status in (200, 503)
                delays.append(time.monotonic() - started)
                pages.append(int(rss.read_text().split()[1]))
        assert {answer.result() for answer in answers} <= {b"200", b"429", b"503"}
        server.end(signal.SIGTERM)
    assert max(delays) < 5  # 0.2 s on an idle machine of two cores
    assert (max(pages) - pages[0]) * os.sysconf("SC_PAGE_SIZE") < 64 << 20  # 40 to 51 MB measured


@pytest.fixture
def same_handlers():
    """What the command does with signals and logs, undone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    loggers = [logging.getLogger(name) for name in ("potstill", "uvicorn")]
    logs = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for logger, *was, level in logs:
        logger.handlers, logger.propagate = was
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("{student}", "--max-texts", "0"), 2, "--max-texts"),
        (("{student}", "--deadline", "inf"), 2, "--deadline"),
        (("{student}", "--port", "{taken}"), 1, "expected to listen at 127.0.0.1 port {taken}"),
        (("{student}", "--token-file", "{empty}"), 1, "ASCII characters in {empty}, found 0 words"),
        (("{student}", "--token-file", "{words}"), 1, "ASCII characters in {words}, found 2 words"),
        (("{student}", "--token-file", "{short}"), 1, "16 or more ASCII characters in {short}, found 15 characters"),
        (("{student}", "--token-file", "{latin}"), 1, "expected UTF-8 in {latin}, found the byte 0xf6 at 1"),
        (("{student}", "--examples", "{latin}"), 1, "expected UTF-8 in {latin}, found the byte 0xf6 at 1"),
        (("{student}", "--behind-proxy", "localhost"), 2, "expected an address or a network of them: 'localhost'"),
        (("{student}", "--device", "abacus"), 0, ""),
        (("nowhere",), 1, "expected a directory"),
        ((), 2, "MODEL"),
    ],
)
@pytest.mark.usefixtures("same_handlers")
def test_wrong_arguments_are_refused_at_the_start(student, tmp_path, capsys, monkeypatch, arguments, status, message):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    files = {
        "empty": b"",
        "words": b"two words\n",
        "short": b"fifteen letters"[:7] + b"-letters",
        "latin": "tökén".encode("latin-1"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"student": student, "taken": taken.getsockname()[1], **{name: tmp_path / name for name in files}}
        try:
            main(["serve", *(argument.format(**values) for argument in arguments)])
            found = 0
        except SystemExit as exit_:
            found = exit_.code
    assert found == status
    assert message.format(**values) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "found"),
    [(" \n", "0 words"), ("a b", "2 words"), ("tökén" * 4, "20 characters"), ("t\udcf6", "the byte 0xf6 at 1")],
)
@pytest.mark.usefixtures("same_handlers")
def test_a_wrong_token_in_the_environment_is_refused(student, monkeypatch, capsys, token, found):
    monkeypatch.setenv("POTSTILL_TOKEN", token)
    with pytest.raises(SystemExit, match="1"):
        main(["serve", str(student)])
    told = capsys.readouterr().err
    assert f"in POTSTILL_TOKEN, found {found}" in told
    assert "what to do: " in told


def test_a_model_that_answers_nan_is_refused():
    model = ServedModel("odd", "student", ("a", "b"), False, lambda texts: (np.full((1, 2), np.nan), [False]))
    with pytest.raises(ServeError, match="expected probabilities from odd, found"):
        model.warm_up()


def test_the_documented_client_works(student, capsys):
    """With this server's port in place of the default one."""
    document = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    assert len(code.splitlines()) <= 20
    with Process(student) as server:
        assert ":8000" in code
        exec(compile(code.replace(":8000", f":{server.port}"), "docs/serve.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert all(re.search(r"(yes|no) \d+%", line) for line in printed)


def test_every_limit_is_documented():
    document = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    limits = [option for option in serve.params if option.name in Limits.model_fields]
    assert len(limits) == 5
    for option in limits:
        default = f"{option.default:,}".removesuffix(".0")
        assert f"| `{option.opts[0]}` | {default} |" in document
