"""`potstill serve` as a process: what it serves, how it ends, what it refuses to begin."""

import http.client
import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from potstill.cli import main
from potstill.errors import ArtifactError, ServeError
from potstill.export.int8 import quantise
from potstill.runtime import Classifier
from potstill.runtime.directory import find_student
from potstill.server import create_app
from potstill.server.models import find_models, open_models
from potstill.student.onnx import build_model
from potstill.student.saved import load_network
from resealed import reseal

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
        reseal(directory / place)
    (directory / "teacher" / "seed-0").mkdir(parents=True)
    (directory / "teacher" / "seed-0" / "teacher.json").write_text("{}")
    return directory


class TestFinding:
    def test_a_model(self, student):
        assert find_models([str(student)]) == {"little": student}
        assert find_models([f"mine={student}"]) == {"mine": student}

    def test_a_run(self, run):
        best = {"distilled": run / "distilled" / "seed-1", "baseline": run / "baseline" / "seed-0"}
        assert find_models([str(run)]) == best
        assert find_models([f"x={run}"]) == {f"x-{name}": directory for name, directory in best.items()}
        teacher = {"teacher": run / "teacher" / "seed-0"}
        assert find_models([str(run)], with_teacher=True) == best | teacher

    @pytest.mark.parametrize(("place", "told"), [("", False), ("teacher/seed-0", False), ("distilled", True)])
    def test_a_teacher_that_is_asked_for_in_vain_is_told(self, run, place, told, caplog):
        find_models([str(run / place)], with_teacher=True)
        assert ("--with-teacher changes nothing for" in caplog.text) == told

    def test_several_seeds(self, run):
        assert find_models([str(run / "distilled")]) == {"distilled": run / "distilled" / "seed-1"}

    @pytest.mark.parametrize("lost", ["student.json", "training.json"])
    def test_the_best_one_is_refused_where_it_is_incomplete(self, run, tmp_path, lost):
        """Another seed's answers in its place would come without a word."""
        copy = shutil.copytree(run, tmp_path / "run")
        (copy / "distilled" / "seed-1" / lost).unlink()
        with pytest.raises(ArtifactError, match=lost):
            Classifier.load(find_student(copy))

    def test_a_directory_with_an_equals_sign(self, student, tmp_path):
        odd = tmp_path / "a=b"
        shutil.copytree(student, odd)
        assert find_models([str(odd)]) == {"a=b": odd}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere"], "expected a directory, or NAME=DIRECTORY, found 'nowhere'"),
            (["=tests"], "found '=tests'"),
            (["name="], "found 'name='"),
            (["{empty}"], "expected a model's directory"),
            (["{student}", "{student}"], "both called 'little'"),
        ],
    )
    def test_what_can_not_be_served(self, student, tmp_path, arguments, message):
        with pytest.raises(ServeError, match=rf"(?s){message}.*\n  what to do: "):
            find_models([argument.format(empty=tmp_path, student=student) for argument in arguments])


def test_a_students_temperature_and_threshold_are_served(student, tmp_path):
    """Of texts with the same most probable class, the threshold calls one so and the other not."""
    texts = ["the cat", "a dog", "the mat"]
    tuned = tmp_path / "tuned"
    shutil.copytree(student, tuned)
    manifest = json.loads((tuned / "student.json").read_text()) | {"temperature": 0.5}
    (tuned / "student.json").write_text(json.dumps(manifest))
    shares = Classifier.load(reseal(tuned)).predict_proba(texts)[:, 1]
    low, middle, high = sorted(shares.tolist())
    manifest["threshold"] = (low + middle) / 2 if middle < 0.5 else (middle + high) / 2
    (tuned / "student.json").write_text(json.dumps(manifest))
    (model,) = open_models({"tuned": reseal(tuned)}, 1, lambda: None)
    with TestClient(create_app([model])) as client:
        (answer,) = client.post("/v1/predict", json={"texts": texts}).json()["answers"]
    expected = ["yes" if share > manifest["threshold"] else "no" for share in shares]
    assert expected != ["yes" if share > 0.5 else "no" for share in shares]
    assert [one["label"] for one in answer["predictions"]] == expected
    assert [one["probabilities"]["yes"] for one in answer["predictions"]] == pytest.approx(shares, abs=1e-4)


def test_8_bit_variants_are_served_where_that_is_asked_for(student, tmp_path):
    with pytest.raises(ArtifactError, match="holds no 8-bit variant"):
        open_models({"little": student}, 1, lambda: None, int8=True)
    reduced = shutil.copytree(student, tmp_path / "reduced")
    network = load_network(student)
    with torch.no_grad():
        network.head.bias[1] += Classifier.load(student).temperature  # so that it can't be taken for the other one
    (reduced / "model.int8.onnx").write_bytes(quantise(build_model(network)))
    reseal(reduced)
    texts = ["the cat sat", "the dog", "another mat"]
    (exact,), (found,) = (open_models({"m": reduced}, 1, lambda: None, int8=int8) for int8 in (False, True))
    expected = found.probabilities(texts)[:, 1]
    assert (expected > exact.probabilities(texts)[:, 1] + 0.1).all()
    with Process(reduced, "--int8") as server:
        _, content = server.request("POST", "/v1/predict", json.dumps({"texts": texts}))
        server.end(signal.SIGTERM)
    (answer,) = json.loads(content)["answers"]
    shares = [one["probabilities"]["yes"] for one in answer["predictions"]]
    assert shares == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_teacher_is_served_as_it_judges(tiny_backbone, tmp_path):
    from potstill.config import RuntimeConfig
    from potstill.data import Examples
    from potstill.teacher import Teacher

    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"w{n} w{n + 1},{'yes' if n % 2 else 'no'}\n" for n in range(40)))
    out = tmp_path / "teacher"
    main(["finetune", "--data", str(data), "--backbone", str(tiny_backbone), "--epochs", "1", "--out", str(out)])
    (model,) = open_models({"teacher": out}, 1, lambda: RuntimeConfig(device="cpu"))
    assert (model.kind, model.labels, model.reads_pairs) == ("teacher", ("no", "yes"), False)
    logits = Teacher.load(out, RuntimeConfig(device="cpu")).logits(Examples(("w1 w2",), np.zeros(1, np.int64)))
    assert model.probabilities(["w1 w2"]).tolist() == logits.softmax(dim=1).tolist()


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


def test_from_start_to_end_without_torch(run):
    program = """
import json, sys
from potstill.cli import main
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


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_before_the_end(student, ending):
    """A model that waits for the signal, so that the request is under way when it comes."""
    program = """
import signal, sys, threading, time
import potstill.server.models as models
from potstill.cli import main

handle = signal.signal
told = threading.Event()

def slow(opened):
    def probabilities(texts):
        print('{"message": "computing"}', file=sys.stderr, flush=True)
        time.sleep(1)
        return opened.probabilities(texts)
    return models.ServedModel(opened.name, opened.kind, opened.labels, opened.reads_pairs, probabilities)

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


def test_the_token_comes_from_a_file_or_the_environment(student, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("from-file\n")
    monkeypatch.setenv("POTSTILL_TOKEN", " from-environment\n")
    for arguments, token in (((), "from-environment"), (("--token-file", tmp_path / "token"), "from-file")):
        with Process(student, *arguments) as server:
            assert server.request("GET", "/v1/models")[0] == 401
            assert server.request("GET", "/v1/models", headers={"Authorization": f"Bearer {token}"})[0] == 200
            server.end(signal.SIGTERM)
        assert token not in json.dumps(server.log)


@pytest.mark.parametrize("believed", [False, True])
def test_whom_a_request_is_forwarded_for_is_believed_of_the_proxy_alone(student, believed):
    with Process(student, *(["--behind-proxy", "127.0.0.1"] if believed else [])) as server:
        body, headers = json.dumps({"text": "the cat"}), {"X-Forwarded-For": "192.0.2.7"}
        assert server.request("POST", "/v1/predict", body, headers)[0] == 200
        server.end(signal.SIGTERM)
    (line,) = (line for line in server.log if line["message"] == "request")
    assert line["client"] == ("192.0.2.7" if believed else "127.0.0.1")


def test_a_student_has_no_teacher_to_serve_and_says_so(student):
    with Process(student, "--with-teacher") as server:
        server.end(signal.SIGTERM)
    (line,) = (line for line in server.log if line["level"] == "warning")
    assert line["message"].startswith("--with-teacher changes nothing")


def test_limits_and_examples_are_taken_from_the_flags(student, tmp_path):
    (tmp_path / "examples.txt").write_text("first\n\nsecond\tpart\n", encoding="utf-8")
    with Process(student, "--max-texts", "2", "--examples", tmp_path / "examples.txt") as server:
        content = json.loads(server.request("GET", "/v1/models")[1])
    assert content["limits"]["max_texts"] == 2
    assert content["examples"] == ["first", "second\tpart"]


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
        (("{student}", "--max-texts", "0"), 2, "--max-texts: "),
        (("{student}", "--max-texts", "9", "--max-queue", "8"), 2, "max_queue (8) must not be less than max_texts (9)"),
        (("{student}", "--port", "{taken}"), 1, "expected to listen at 127.0.0.1 port {taken}"),
        (("{student}", "--token-file", "{empty}"), 1, "expected a token in {empty}, found nothing"),
        (("{student}", "--token-file", "{words}"), 1, "expected a token in {words}, found 2 words"),
        (("{student}", "--token-file", "{latin}"), 1, "expected UTF-8 in {latin}, found the byte 0xf6 at 1"),
        (("{student}", "--examples", "{latin}"), 1, "expected UTF-8 in {latin}, found the byte 0xf6 at 1"),
        (("{student}", "--behind-proxy", "localhost"), 2, "expected an address or a network of them: 'localhost'"),
        (("{student}", "--device", "abacus"), 0, ""),
        (("nowhere",), 1, "expected a directory"),
        ((), 2, "MODEL"),
    ],
)
@pytest.mark.usefixtures("same_handlers")
def test_what_it_refuses_to_begin_with(student, tmp_path, capsys, monkeypatch, arguments, status, message):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    files = {"empty": b"", "words": b"two words\n", "latin": "tökén".encode("latin-1")}
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
    [(" \n", "nothing"), ("a b", "2 words"), ("tökén", "letters beyond ASCII"), ("t\udcf6", "the byte 0xf6 at 1")],
)
@pytest.mark.usefixtures("same_handlers")
def test_an_unfit_token_in_the_environment_is_refused(student, monkeypatch, capsys, token, found):
    monkeypatch.setenv("POTSTILL_TOKEN", token)
    with pytest.raises(SystemExit, match="1"):
        main(["serve", str(student)])
    told = capsys.readouterr().err
    assert f"in POTSTILL_TOKEN, found {found}" in told
    assert "what to do: " in told


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_missing_packages_are_named_with_their_remedy(student, missing):
    program = f"import sys; sys.modules[{missing!r}] = None; from potstill.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program, "serve", str(student)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "pip install 'potstill[serve]'" in result.stderr


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
    from potstill.server.limits import Limits

    document = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    for name, field in Limits.model_fields.items():
        assert field.description
        default = f"{field.default:,}".removesuffix(".0")
        assert f"| `--{name.replace('_', '-')}` | {default} |" in document
