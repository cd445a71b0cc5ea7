"""A language model behind a server as a teacher: answers, failures, and that no text is asked twice."""

import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
from scipy.special import expit, softmax

from chat_server import (
    ChatServer,
    broken_json,
    chat_server,
    cut_connection,
    no_answer,
    no_completion,
    says,
    status,
)
from commandline import SMALL_RUN, potstill
from potstill.config import EndpointConfig, PotstillConfig
from potstill.data import UNLABELLED, Corpus, Examples
from potstill.errors import ConfigError, SourceError
from potstill.store.atomic import read_json
from potstill.teacher import chat
from potstill.teacher.backbone.builtin import builtin_files
from potstill.teacher.endpoint import EndpointTeacher
from potstill.teacher.ensemble import together

pytestmark = pytest.mark.usefixtures("no_plots")

TEXTS = tuple(f"the {noun} was {word}" for noun in ("food", "room", "view", "bath") for word in ("great", "poor"))


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(chat, "_LONGEST_BACKOFF", 0.01)
    with chat_server() as server:
        yield server


def corpus_of(texts=TEXTS, names=("bad", "good"), pairs=None) -> Corpus:
    labels = np.array(["great" in text for text in texts], dtype=np.int64)
    part = Examples(tuple(texts), labels, pairs)
    return Corpus("reviews", "reviews.csv", names, part, part.take([0, 1]), part.take([2, 3]))


def teacher_of(server: ChatServer, corpus=None, **settings) -> EndpointTeacher:
    settings = {"model": "tiny", "concurrency": 2, "examples": 2} | settings
    return EndpointTeacher(EndpointConfig(url=server.url, **settings), corpus or corpus_of())


def ask(teacher, *texts, pairs=None):
    return softmax(teacher.logits(Examples(texts, np.full(len(texts), UNLABELLED), pairs)), axis=1)


def test_probabilities_are_those_of_the_codes_tokens(server):
    teacher = teacher_of(server)
    np.testing.assert_allclose(ask(teacher, "great beds", "poor beds"), [[0.25, 0.75], [0.75, 0.25]], atol=1e-3)
    _, body = server.requests[0]
    assert (body["model"], body["temperature"], body["logprobs"], body["top_logprobs"]) == ("tiny", 0, True, 20)


def test_the_prompt_names_classes_describes_them_and_shows_as_many_texts_of_each(server):
    teacher = teacher_of(server, examples=4, descriptions={"good": "Somebody is pleased."})
    ask(teacher, "great beds")
    messages = server.requests[0][1]["messages"]
    first = messages[0]["content"]
    assert "1: bad\n2: good (Somebody is pleased.)\n" in first
    pairs = zip(messages[:-1:2], messages[1::2], strict=True)
    shown = [(user["content"].rpartition("Text: ")[2], assistant["content"]) for user, assistant in pairs]
    assert sorted(code for _, code in shown) == ["1", "1", "2", "2"]
    assert all(text in TEXTS and code == ("2" if "great" in text else "1") for text, code in shown)
    assert messages[-1] == {"role": "user", "content": "Text: great beds"}
    assert [m["role"] for m in messages] == ["user", "assistant"] * 4 + ["user"]


def test_examples_follow_the_seed_and_can_be_so_many_of_each_class(server):
    prompts = [teacher_of(server, **one)._prompt for one in ({}, {}, {"examples_seed": 1}, {"examples_per_class": 3})]
    assert prompts[0] == prompts[1] != prompts[2]
    assert [len(prompt) // 2 for prompt in prompts] == [2, 2, 2, 6]


def test_pairs_of_texts_are_shown_as_such(server):
    teacher = teacher_of(server, corpus_of(pairs=TEXTS[::-1]), examples=0)
    server.fail = lambda text, count: says("2")
    assert ask(teacher, "a", pairs=("b",)).argmax() == 1
    assert server.requests[0][1]["messages"][-1]["content"].endswith("Text 1: a\nText 2: b")


@pytest.mark.parametrize("reason", ["given none", "refused", "refused with 500"])
def test_without_log_probabilities_samples_are_counted(server, reason, capsys):
    server.gives_logprobs = False
    if reason != "given none":
        refusal = status(400 if reason == "refused" else 500, "logprobs are not supported")

        def without_logprobs(text, count):
            return refusal if server.requests[-1][1].get("logprobs") else None

        server.fail = without_logprobs
    teacher = teacher_of(server, samples=4, retries=0)
    found = ask(teacher, "great beds", "poor beds")
    np.testing.assert_allclose(found, [[1.5 / 5, 3.5 / 5], [3.5 / 5, 1.5 / 5]], atol=1e-3)
    assert "tiny gives no log-probabilities: 4 samples a text" in capsys.readouterr().err
    assert [body["seed"] for _, body in server.requests if "seed" in body] == [0, 1, 2, 3] * 2


def test_fewer_log_probabilities_are_taken_where_a_server_allows_no_more(server):
    server.fail = lambda text, count: status(400) if server.requests[-1][1]["top_logprobs"] > 5 else None
    assert ask(teacher_of(server), "great beds", "great bath").argmax(axis=1).tolist() == [1, 1]
    assert [body["top_logprobs"] for _, body in server.requests] == [20, 5, 5]


@pytest.mark.parametrize(
    "failure",
    [status(429), status(500), status(503, Retry_After="0"), broken_json, no_completion, cut_connection, no_answer],
    ids=["429", "500", "503", "broken JSON", "no completion", "cut connection", "timeout"],
)
def test_what_fails_once_is_asked_again(server, failure):
    server.fail = lambda text, count: failure if count == 1 and "bath" in text else None
    found = ask(teacher_of(server, timeout=0.5, retries=1), *TEXTS)
    assert found.argmax(axis=1).tolist() == ["great" in text for text in TEXTS]
    assert server.asked == {text: 1 + ("bath" in text) for text in TEXTS}


def test_a_server_that_names_a_time_is_left_alone_until_then(server):
    times = []

    def busy(text, count):
        times.append(time.monotonic())
        return status(429, Retry_After="1") if len(times) == 2 else None

    server.fail = busy
    ask(teacher_of(server, concurrency=1), *TEXTS[:3])
    assert times[2] - times[1] >= 0.95


def test_a_server_that_asks_to_wait_for_hours_ends_the_work(server):
    server.fail = lambda text, count: status(429, "daily quota", Retry_After="7200")
    with pytest.raises(SourceError, match=r"asks to wait 7,200 seconds \(status 429: .*daily quota.*\n.*are kept"):
        ask(teacher_of(server), *TEXTS)


def test_requests_keep_to_a_rate_and_to_a_number_at_once(server):
    server.seconds = 0.05
    ask(teacher_of(server, concurrency=3), *TEXTS)
    assert server.most_at_once == 3
    started = time.monotonic()
    ask(teacher_of(server, requests_per_minute=1200, max_tokens=9), *TEXTS)
    assert time.monotonic() - started >= (len(TEXTS) - 1) * 60 / 1200


def test_a_wrong_model_names_those_of_the_server_and_a_wrong_key_is_not_shown(server, monkeypatch):
    server.fail = lambda text, count: status(404, "no such model")
    with pytest.raises(SourceError, match=r"no such model.*\n.*--teacher-model; the server's models: tiny, small"):
        ask(teacher_of(server), *TEXTS)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.fail = lambda text, count: status(401, "wrong key sk-secret")
    with pytest.raises(
        SourceError, match=r"wrong key \$OPENAI_API_KEY.*\n.*set the environment variable OPENAI_API_KEY"
    ):
        ask(teacher_of(server), *TEXTS)
    assert len(server.requests) == 2
    assert server.requests[1][0]["Authorization"] == "Bearer sk-secret"


def test_refusals_and_nonsense_are_missing_answers_that_are_counted_and_not_asked_again(server, capsys):
    odd = {"odd one": says("I'm sorry, I can't help with that."), "odd two": status(400, "the text is too long")}
    server.fail = lambda text, count: odd.get(text)
    for _ in range(2):
        found = ask(teacher_of(server, retries=0), *odd, *TEXTS)
        assert np.isnan(found).all(axis=1).tolist() == [True, True] + [False] * len(TEXTS)
    printed = " ".join(capsys.readouterr().err.split())
    assert "2 of 10 answers name no class and count as missing, such as 'I'm sorry" in printed.replace('"', "'")
    assert set(server.asked.values()) == {1}


def test_a_model_whose_answers_never_name_a_class_is_refused_early(server):
    server.fail = lambda text, count: says("Hello! How can I help you?")
    texts = [f"text {number}" for number in range(200)]
    with pytest.raises(SourceError, match=r"names no class in its 20 answers, such as 'Hello! How.*\n.*descriptions"):
        ask(teacher_of(server), *texts)
    assert len(server.requests) <= 24
    server.fail = lambda text, count: None  # the model was repaired
    assert np.isfinite(ask(teacher_of(server), *texts)).all()


def test_a_server_that_goes_down_ends_the_work_and_its_answers_are_kept(server):
    texts = [f"text {number}" for number in range(60)]
    server.fail = lambda text, count: status(500) if len(server.asked) > 30 else None
    with pytest.raises(SourceError, match=r"does not answer \(status 500.*\n.*the answers so far are kept"):
        ask(teacher_of(server, concurrency=1, retries=1), *texts)
    assert 33 <= len(server.asked) <= 34  # the next one may be on its way
    server.fail = lambda text, count: None
    assert np.isfinite(ask(teacher_of(server), *texts)).all()
    assert all(server.asked[text] == 1 for text in texts[:30])


def test_texts_whose_requests_fail_are_missing_and_asked_again_the_next_time(server, capsys):
    server.fail = lambda text, count: status(500) if "bath" in text and count <= 2 else None
    teacher = teacher_of(server, retries=1)
    assert np.isnan(ask(teacher, *TEXTS)).any(axis=1).sum() == 2
    asked = dict(server.asked)
    assert np.isnan(ask(teacher, *TEXTS)).any(axis=1).sum() == 2  # a second call of the same run does not wait again
    assert server.asked == asked
    assert "requests for 2 texts failed" in " ".join(capsys.readouterr().err.split())
    assert np.isfinite(ask(teacher_of(server), *TEXTS)).all()


def test_a_server_that_is_not_there_is_an_error_at_once(server, monkeypatch):
    monkeypatch.setattr(chat, "_LONGEST_BACKOFF", 60.0)
    teacher = teacher_of(server)
    teacher.config = teacher.config.model_copy(update={"url": "http://127.0.0.1:9/v1"})
    teacher._client = chat.ChatClient(teacher.config)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"does not answer the first request \(NewConnectionError.*\n.*server runs"):
        ask(teacher, *TEXTS)
    assert time.monotonic() - started < 10  # retries would take 20 seconds or more


def test_no_cache_is_put_before_it_and_equal_texts_are_asked_once(server):
    teacher = teacher_of(server)
    assert together([teacher]) is teacher
    assert (ask(teacher, "great", "great", "poor", "great").argmax(axis=1) == [1, 1, 0, 1]).all()
    assert server.asked == {"great": 1, "poor": 1}


def test_the_key_follows_what_decides_an_answer_and_nothing_else(server):
    base = teacher_of(server).key
    same = [{"concurrency": 5}, {"retries": 0}, {"timeout": 3.0}, {"price_per_million_tokens": (1.0,)}]
    other = [{"model": "small"}, {"examples": 3}, {"descriptions": {"bad": "x"}}, {"request": {"top_p": 0.5}}]
    assert all(teacher_of(server, **one).key == base for one in same)
    assert all(teacher_of(server, **one).key != base for one in (*other, {"min_confidence": 0.5}))
    corpus = corpus_of()
    assert teacher_of(server, replace(corpus, test=corpus.test.take([0]))).key == base


def test_answers_below_the_least_confidence_count_as_none_without_being_asked_again(server):
    assert np.isfinite(ask(teacher_of(server, min_confidence=0.7), "great")).all()
    assert np.isnan(ask(teacher_of(server, min_confidence=0.8), "great")).all()
    assert server.asked == {"great": 1}


def several_of(texts=TEXTS) -> Corpus:
    """Texts that may be bad and good at once, or neither."""
    labels = np.array([[word in text for word in ("poor", "great")] for text in texts], dtype=np.int8)
    part = Examples(tuple(texts), labels)
    return Corpus("reviews", "reviews.csv", ("bad", "good"), part, part.take([0, 1]), part.take([2, 3]))


def ask_several(teacher, *texts):
    return expit(teacher.logits(Examples(texts, np.full((len(texts), 2), UNLABELLED, np.int8))))


MIXED = ("great food, poor room", "great food", "poor room", "a room")
APPLY = np.array([[0.75, 0.75], [0.25, 0.75], [0.75, 0.25], [0.25, 0.25]])


def test_one_request_asks_which_of_the_classes_apply_and_tells_how_probable_each_is(server):
    teacher = teacher_of(server, several_of((*TEXTS, *MIXED)), examples=4)
    np.testing.assert_allclose(ask_several(teacher, *MIXED), APPLY, atol=1e-3)
    assert server.asked == dict.fromkeys(MIXED, 1)
    body = server.requests[0][1]
    assert body["max_tokens"] == 64
    assert "It may be one, several or none." in body["messages"][0]["content"]
    assert {message["content"] for message in body["messages"][1:-1:2]} >= {"0", "1, 0", "2, 0"}


def test_lists_of_samples_are_counted_where_there_are_no_log_probabilities(server, capsys):
    server.gives_logprobs = False
    teacher = teacher_of(server, several_of(), samples=4)
    np.testing.assert_allclose(ask_several(teacher, *MIXED), (4 * APPLY + 0.5) / 5, atol=1e-3)
    assert "4 samples a text" in capsys.readouterr().err
    assert server.asked == {text: 4 + (text == min(MIXED, key=len)) for text in MIXED}


def test_lists_that_can_not_be_read_are_missing_and_unsure_ones_are_left_out(server, capsys):
    odd = {"odd one": says("3, 0"), "odd two": says("It is hard to say."), "odd three": status(400)}
    server.fail = lambda text, count: odd.get(text)
    server.gives_logprobs = False
    found = ask_several(teacher_of(server, several_of(), samples=1), *odd, *MIXED)
    assert np.isnan(found).all(axis=1).tolist() == [True] * 3 + [False] * 4
    assert "3 of 7 answers name no class and count as missing" in " ".join(capsys.readouterr().err.split())
    server.gives_logprobs = True
    for least, is_sure in ((0.56, True), (0.57, False)):  # 0.75 * 0.75 for both labels together
        found = ask_several(teacher_of(server, several_of(), min_confidence=least), *MIXED)
        assert (np.isfinite(found) == is_sure).all()


def test_further_fields_replace_ours_and_null_leaves_them_out(server):
    teacher = teacher_of(server, request={"max_tokens": None, "max_completion_tokens": 5, "temperature": 0.5})
    ask(teacher, "great")
    body = server.requests[0][1]
    assert ("max_tokens" in body, body["max_completion_tokens"], body["temperature"]) == (False, 5, 0.5)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": "localhost:8000"}, "expected an address such as http://localhost:8000/v1"),
        ({"url": "http://me:password@host/v1"}, "set OPENAI_API_KEY instead"),
        ({"model": ""}, "teacher.model: "),
        ({"seeds": [0, 1]}, "expected a list of 1 or fewer"),
        ({"price_per_million_tokens": []}, "expected a list of 1 or more"),
    ],
)
def test_wrong_settings_are_refused(settings, problem):
    section = {"kind": "endpoint", "url": "http://host/v1", "model": "m"} | settings
    with pytest.raises(ConfigError, match=problem):
        PotstillConfig.build({"teacher": section})


def test_a_server_without_a_model_is_refused_with_the_flag_that_names_one(tmp_path, capsys):
    assert potstill("run", "clinc150:meta", "--teacher", "http://host/v1", "--out", tmp_path / "run") == 1
    assert "teacher.model: expected a value, found none; --teacher-model gives it" in capsys.readouterr().err


def test_a_description_of_no_class_is_refused(server):
    with pytest.raises(ConfigError, match=r"there are no classes 'ugly'; the classes are 'bad', 'good'"):
        teacher_of(server, descriptions={"ugly": "x"})


@pytest.fixture
def reviews(tmp_path) -> Path:
    words = {"good": ("great food", "great, really"), "bad": ("poor", "awful, sadly")}
    texts = [
        f'"the {noun} was {word} {count}",{label}'
        for label, some in words.items()
        for word in some
        for noun in ("food", "room", "staff", "view")
        for count in range(5)
    ]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *texts]))
    return tmp_path / "reviews.csv"


def test_run_learns_from_a_server_and_reports_agreement_and_cost_but_no_key(
    server, reviews, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    given = (reviews, "--teacher", server.url, "--teacher-model", "tiny", "--teacher-price-per-million-tokens", "1,5")
    assert potstill("run", *given, *SMALL_RUN, "--time-limit", "9h", "--out", tmp_path / "run") == 0
    summary = read_json(tmp_path / "run" / "summary.json")
    teacher = next(model for model in summary["models"] if model["role"] == "teacher")
    assert teacher["metrics"]["accuracy"] == 1.0
    assert "it answers 65 of 65 training, 7 of 7 validation, 8 of 8 test texts" in teacher["description"]
    assert "100.0% of its answers to validation texts agree with the labels" in teacher["description"]
    assert "8,000 tokens of prompts and 160 of answers, which cost 0.01" in teacher["description"]
    assert summary["config"]["augment"]["words"] == 0
    assert set(server.asked.values()) == {1}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.suffix == ".jsonl" and "answers" in file.parts for file in files)
    assert not [file for file in files if b"sk-secret" in file.read_bytes()]
    printed = "".join(capsys.readouterr())
    assert "sk-secret" not in printed
    assert "the time limit leaves out of account how long the server takes" in " ".join(printed.split())


def killed_and_resumed(server, data, out, *flags):
    """Run, kill the run while the 40th text is asked, resume it; return the text that was being asked."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(text, count):
        if len(server.asked) == 40 and not reached.is_set():
            reached.set()
            return lambda handler: go_on.wait(60)
        return None

    server.fail = hold
    command = ["run", str(data), *SMALL_RUN, "--out", str(out), *flags]
    command += ["--teacher", server.url, "--teacher-model", "tiny", "--teacher-concurrency", "1"]
    python = [sys.executable, "-m", "potstill"]
    process = subprocess.Popen([*python, *command], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert reached.wait(120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    go_on.set()
    in_flight = list(server.asked)[-1]
    assert potstill(*command) == 0
    return in_flight


def test_a_killed_run_asks_no_text_again_that_was_answered(server, reviews, tmp_path):
    in_flight = killed_and_resumed(server, reviews, tmp_path / "run")
    assert server.asked == dict.fromkeys(server.asked, 1) | {in_flight: 2}
    assert len(server.asked) == 80


def test_a_server_teaches_texts_with_several_labels_and_is_asked_once_after_a_kill(server, tmp_path):
    kinds = {"great": "good", "poor": "bad", "great poor": "good|bad", "odd": ""}
    rows = {
        f"{noun} {word} {more}": kinds[word] for noun in ("room", "view", "bath") for word in kinds for more in "abcde"
    }
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *map(",".join, rows.items())]))
    in_flight = killed_and_resumed(server, tmp_path / "reviews.csv", tmp_path / "run", "--label-separator", "|")
    assert server.asked == dict.fromkeys(rows, 1) | {in_flight: 2}
    summary = read_json(tmp_path / "run" / "summary.json")
    teacher = next(model for model in summary["models"] if model["role"] == "teacher")
    assert teacher["metrics"]["micro_f1"] == 1.0
    assert "agree with the labels in all classes; micro-F1 100.0%; lowest F1: " in teacher["description"]
    assert "tokens of prompts and" in teacher["description"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Start llama.cpp's own server with the builtin model."""
    for package in ("llama_cpp", "sse_starlette", "starlette_context", "pydantic_settings"):
        if find_spec(package) is None:
            pytest.skip(f"needs the server of llama-cpp-python: {package} is not installed")
    (model,) = builtin_files() or pytest.skip("needs the builtin model")
    log = tmp_path_factory.mktemp("llama") / "log"
    with chat_server() as free:
        port = free.server_port
    program = Path(__file__).with_name("llama_server.py")
    command = [sys.executable, program, "--model", model, "--model_alias", "smollm2", "--port", str(port)]
    command += ["--n_threads", "1", "--n_threads_batch", "1", "--n_ctx", "2048", "--seed", "0"]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        url = f"http://127.0.0.1:{port}/v1"
        for _ in range(240):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                if httpx.get(f"{url}/models").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield url
        process.terminate()


@pytest.mark.slow
def test_llama_cpps_server_with_the_builtin_model_answers_with_log_probabilities(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    settings = EndpointConfig(url=llama, model="smollm2", examples=4, concurrency=2)
    teacher = EndpointTeacher(settings, corpus_of())
    found = ask(teacher, *TEXTS[:4])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-4)
    assert len(np.unique(found[:, 0].round(3))) > 1  # probabilities of a model, not of samples
    assert all(not answer.sampled and answer.tokens[0] > 50 for answer in teacher._known.values())
    again = EndpointTeacher(settings.model_copy(update={"timeout": 0.001}), corpus_of())
    np.testing.assert_array_equal(ask(again, *TEXTS[:4]), found)  # nothing is asked
