"""`potstill push` and models named `owner/name`, with the real `huggingface_hub` and a stand-in for the hub."""

import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.utils import enable_progress_bars

from commandline import potstill, train_small
from hub_server import READER, TOKEN, hub_server
from potstill import Classifier, open_model
from potstill.config import RuntimeConfig
from potstill.errors import ArtifactError, SourceError
from potstill.predict.hub import HubName, hub_error, hub_name, local_model
from potstill.serve.models import find_models

ROWS = [f"w{n % 10} w{n % 7} w{n % 3},{'yes' if n % 2 else 'no'}" for n in range(60)]
TEXTS = ["w1 w2 w3", "w4", "naïve 漢字"]
UPLOADED = {"README.md", "checksums.json", "labels.json", "model.onnx", "student.json", "tokenizer.json"}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return train_small(tmp_path_factory.mktemp("trained"), ["text,label", *ROWS])


@pytest.fixture(scope="module")
def server():
    with hub_server() as hub:
        yield hub


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The stand-in, empty, with a cache and a token for it."""
    server.repositories.clear()
    server.requests.clear()
    server.status = 0
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    for name, value in (
        ("ENDPOINT", server.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ("HF_HUB_DISABLE_XET", True),  # the hub's other way to take large files; the stand-in has LFS
    ):
        monkeypatch.setattr(constants, name, value)
    return server


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "model"
    assert potstill("export", student, "--out", out) == 0
    return out


def files_of(hub, name="acme/words", branch="main"):
    return hub.repositories[name].files(branch)


def test_a_student_is_pushed_and_loaded_by_its_name(hub, student, capsys):
    assert potstill("push", student, "acme/words", "--license", "apache-2.0", "--language", "en") == 0
    told = capsys.readouterr().out
    assert f"uploading to {hub.url}/acme/words (a new repository is public" in told
    assert "model.onnx" in told.partition("uploading")[2]
    assert told.rstrip().endswith(f"{hub.url}/acme/words")
    assert set(files_of(hub)) == UPLOADED
    assert hub.large  # the network went through LFS
    loaded = Classifier.load("acme/words")
    np.testing.assert_array_equal(loaded.logits(TEXTS), Classifier.load(student).logits(TEXTS))
    assert open_model("acme/words", RuntimeConfig()).label_names == ("no", "yes")
    assert not any(path.endswith("README.md") for method, path in hub.requests if method != "POST")


def test_the_card_has_the_header_that_the_hub_reads(hub, student):
    assert potstill("push", student, "acme/words", "--license", "apache-2.0", "--language", "en") == 0
    text = files_of(hub)["README.md"].decode()
    card = ModelCard(text)
    assert card.data.license == "apache-2.0"
    assert card.data.language == "en"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "potstill"
    assert card.data.metrics == ["accuracy", "f1", "matthews_correlation"]
    assert card.data.model_name == "words"
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert f"{100 * values['accuracy']:.1f} % [" in text  # the score of the table
    assert f"{values['matthews_correlation']:.3f} [" in text
    assert {result.dataset_name for result in card.data.eval_results} == {"data"}
    assert 'Classifier.load("acme/words")' in text
    assert "potstill predict acme/words FILE" in text
    assert "DIRECTORY" not in text
    assert str(student.parent) not in text
    assert ("POST", "/api/validate-yaml") in hub.requests


def test_without_a_licence_the_header_names_none(hub, exported):
    assert potstill("push", exported, "acme/words") == 0
    header = yaml.safe_load(files_of(hub)["README.md"].decode().split("---\n")[1])
    assert "license" not in header
    assert "language" not in header


def test_an_exported_student_is_pushed_as_it_is_with_its_users_card(hub, exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "model")
    (copy / "card.md").write_text("# My own\n\nIt tells apart words.\n")
    assert potstill("push", copy, "acme/words", "--private") == 0
    assert hub.repositories["acme/words"].private
    found = files_of(hub)
    assert {name: found[name] for name in UPLOADED - {"README.md"}} == {
        name: (exported / name).read_bytes() for name in UPLOADED - {"README.md"}
    }
    card = ModelCard(found["README.md"].decode())
    assert card.text.strip() == "# My own\n\nIt tells apart words."
    assert card.data.pipeline_tag == "text-classification"
    (copy / "card.md").write_text("---\n[\n---\n")
    assert potstill("push", copy, "acme/words") == 1


def test_only_what_can_be_loaded_is_pushed(hub, student, exported, tmp_path, capsys):
    assert potstill("export", student, "--out", tmp_path / "weights", "--format", "web") == 0
    assert potstill("push", tmp_path / "weights", "acme/words") == 1
    assert "export the student with --format onnx" in capsys.readouterr().err
    copy = shutil.copytree(exported, tmp_path / "model")
    (copy / "labels.json").write_text("[]")
    assert potstill("push", copy, "acme/words") == 1
    assert "labels.json was" in capsys.readouterr().err
    assert not hub.repositories


def test_a_push_again_is_another_commit_and_revisions_are_kept(hub, exported, tmp_path):
    assert potstill("push", exported, "acme/words") == 0
    first = hub.repositories["acme/words"].branches["main"]
    assert potstill("push", exported, "acme/words@trial", "--license", "mit") == 0
    repository = hub.repositories["acme/words"]
    assert repository.branches["main"] == first
    assert b"license: mit" in files_of(hub, branch="trial")["README.md"]
    for model in (
        Classifier.load("acme/words@trial"),
        Classifier.load("acme/words", revision="trial"),
        Classifier.load("acme/words", revision=first),
    ):
        assert model.label_names == ("no", "yes")
    with pytest.raises(SourceError, match=r"acme/words@missing: .* answered 404"):
        Classifier.load("acme/words@missing")
    with pytest.raises(ValueError, match="revision"):
        Classifier.load(str(exported), revision="main")


def test_commands_take_a_name_in_place_of_a_directory(hub, exported, tmp_path, capsys):
    assert potstill("push", exported, "acme/words") == 0
    capsys.readouterr()
    assert potstill("predict", "acme/words", "--text", "w1 w2") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("no", "yes")
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *ROWS]))
    assert potstill("evaluate", "acme/words", exported, "--data", tmp_path / "texts.csv") == 0
    commit = hub.repositories["acme/words"].branches["main"]
    assert f"acme/words@{commit[:7]}" in "".join(capsys.readouterr().out.split())
    assert potstill("doctor", "acme/words@main") == 0
    assert "5 files match" not in (told := capsys.readouterr().out)
    assert "4 files match their checksums; exported" in told
    copy = local_model("acme/words")
    assert hub_name(copy) == HubName("acme/words", commit[:7])
    assert find_models(["acme/words", "other=acme/words"]) == {"words": copy, "other": copy}


def test_a_path_is_never_a_name(hub, exported, tmp_path, monkeypatch, capsys):
    """The network is asked for nothing but what is plainly a name of the hub."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported, tmp_path / "acme" / "words")
    assert potstill("predict", "acme/words", "--text", "w1") == 0
    assert potstill("predict", "acme/wrods", "--text", "w1") == 1
    assert (
        "check the path; if you mean a model of the Hugging Face hub, write acme/wrods@main" in capsys.readouterr().err
    )
    for name in ("missing", "a/b/c", "../acme/w", "/acme/words2", "acme/wo--rds", "acme/words@"):
        assert potstill("predict", name, "--text", "w1") == 2
    with pytest.raises(ArtifactError, match="no saved student"):
        Classifier.load(tmp_path.joinpath("other", "words").relative_to(tmp_path))
    assert not hub.requests
    assert potstill("predict", "acme/wrods@main", "--text", "w1") == 1
    assert "answered 404" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["words", "acme/words/more", "acme/wo--rds", "acme/words.git", "acme/", "@main"])
def test_a_malformed_name_is_refused(hub, exported, name, capsys):
    assert potstill("push", exported, name) == 2
    assert "expected owner/name" in capsys.readouterr().err
    assert not hub.requests


def test_what_the_hub_refuses_is_said_in_a_line(hub, exported, monkeypatch, capsys):
    def refused(*arguments):
        assert potstill(*arguments) == 1
        told = capsys.readouterr().err
        assert "Traceback" not in told
        return told.splitlines()[-2] + told.splitlines()[-1]

    assert "answered 403" in (told := refused("push", exported, "others/words"))
    assert "use a token that may do this" in told
    assert '"license" must be one of' in refused("push", exported, "acme/words", "--license", "free")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "answered 403" in refused("push", exported, "acme/words")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert "answered 401" in (told := refused("push", exported, "acme/words"))
    assert "hf auth login" in told
    assert not hub.repositories
    assert "answered 404" in refused("predict", "acme/words", "--text", "w1")
    hub.status = 500
    assert "answered 500" in (told := refused("predict", "acme/words", "--text", "w1"))
    assert "try again later" in told
    monkeypatch.delenv("HF_TOKEN")
    assert "expected a token" in refused("push", exported, "acme/words")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "Connection refused" in (told := refused("predict", "acme/words", "--text", "w1"))
    assert "http://127.0.0.1:9 does not give it" in told


def test_a_disk_that_takes_no_file_is_not_called_a_network(hub, exported, tmp_path, monkeypatch):
    assert potstill("push", exported, "acme/words") == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(SourceError, match=r"(?s)acme/words: File too large.*make room, or set HF_HOME"):
            Classifier.load("acme/words")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(SourceError, match=r"Not a directory \(.*/file/cache"):
        Classifier.load("acme/words")
    of_xet = RuntimeError("Data processing error: I/O error: No space left on device (os error 28)")
    assert "what to do: make room" in str(hub_error(of_xet, HubName("acme/words"), "does not give it"))


def test_loading_shows_a_bar_only_on_a_terminal_and_where_it_takes_long(hub, exported, monkeypatch, capfd):
    assert potstill("push", exported, "acme/words") == 0
    enable_progress_bars()  # other tests silence `transformers`, and with it these
    capfd.readouterr()
    assert Classifier.load("acme/words").label_names == ("no", "yes")
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert Classifier.load("acme/words").label_names == ("no", "yes")
    assert "Fetching" not in capfd.readouterr().err
    monkeypatch.setattr("potstill.predict.hub._SILENT_S", -1)
    assert Classifier.load("acme/words").label_names == ("no", "yes")
    assert "Fetching 5 files" in capfd.readouterr().err


def test_a_private_model_needs_a_token(hub, exported, tmp_path, monkeypatch):
    assert potstill("push", exported, "acme/words", "--private") == 0
    assert Classifier.load("acme/words").label_names == ("no", "yes")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another cache"))
    with pytest.raises(SourceError, match=r"(?s)answered 401.*log in"):
        Classifier.load("acme/words")


def test_what_was_loaded_is_used_where_the_hub_is_away(hub, exported, monkeypatch):
    assert potstill("push", exported, "acme/words") == 0
    expected = Classifier.load("acme/words").logits(TEXTS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(Classifier.load("acme/words").logits(TEXTS), expected)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
        Classifier.load("acme/others")


def test_a_damaged_file_of_the_cache_is_loaded_again(hub, exported):
    assert potstill("push", exported, "acme/words") == 0
    model = (local_model("acme/words") / "model.onnx").resolve()
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert Classifier.load("acme/words").label_names == ("no", "yes")
    assert (local_model("acme/words") / "model.onnx").read_bytes() == content


@pytest.mark.parametrize("file", ["model.onnx", "student.json", "tokenizer.json", "checksums.json"])
def test_a_damaged_file_of_the_hub_is_refused(hub, exported, file, capsys):
    files = {one.name: one.read_bytes() for one in exported.iterdir()}
    HfApi().create_repo("acme/words")
    files[file] = files[file][:-2] + bytes([files[file][-2] ^ 1]) + files[file][-1:]
    hub.repositories["acme/words"].commit("main", files, "damaged")
    assert potstill("predict", "acme/words", "--text", "w1") == 1
    told = capsys.readouterr().err
    assert "acme/words: what the hub has is no student, or damaged: " in told
    assert file in told


def test_another_models_repository_is_refused_and_its_files_are_not_loaded(hub, capsys):
    HfApi().create_repo("acme/bert")
    files = {"config.json": b"{}", "model.safetensors": bytes(10), "student.json.pkl": b"", "sub/student.json": b"{}"}
    hub.repositories["acme/bert"].commit("main", files, "another")
    assert potstill("predict", "acme/bert", "--text", "w1") == 1
    assert "expected a file student.json, found none" in capsys.readouterr().err
    assert not any("/resolve/" in path for _, path in hub.requests)


def test_predict_asks_the_hub_of_the_environment_without_torch(hub, exported, tmp_path):
    assert potstill("push", exported, "acme/words") == 0
    code = (
        "import sys\nfrom potstill.cli import main\nmain(sys.argv[1:])\n"
        "assert not {'torch', 'transformers', 'pydantic'} & {*sys.modules}"
    )
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    result = subprocess.run(
        [sys.executable, "-c", code, "predict", "acme/words", "--text", "w1 w2"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["text"] == "w1 w2"
    assert len(list((tmp_path / "home" / "hub").glob("models--acme--words/snapshots/*/model.onnx"))) == 1
