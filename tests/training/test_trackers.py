"""Trackers get settings and every epoch of a training, after an interruption too; tried with their local back ends."""

import json
import shutil

import pytest

import potstill
from commandline import potstill as command
from potstill.config import PotstillConfig
from potstill.errors import ConfigError, MissingExtraError
from potstill.training import trackers
from potstill.training.trackers import TRACKERS, check_trackers

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 3


@pytest.fixture
def config(tiny_backbone):
    return PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 60},
            "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}},
            "student": {"hidden_size": 4, "embedding_size": 4, "vocab_size": 300, "training": {"epochs": EPOCHS}},
        }
    )


def train(config, name, directory):
    runtime = config.runtime.model_copy(update={"trackers": (name,)})
    config = config.model_copy(update={"runtime": runtime})
    return potstill.train(config, potstill.load_corpus(config.data), directory)


def losses(trained):
    return {record["epoch"]: record["train_loss"] for record in trained.fit.history}


def test_tensorboard_gets_every_epoch(config, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained = train(config, "tensorboard", tmp_path / "model")
    events = accumulator.EventAccumulator(str(tmp_path / "model" / "tensorboard" / "baseline-0")).Reload()
    found = {event.step: event.value for event in events.Scalars("train_loss")}
    assert found == pytest.approx(losses(trained))
    assert len(found) == EPOCHS
    assert "validation_loss" in events.Tags()["scalars"]
    assert "settings/text_summary" in events.Tags()["tensors"]


@pytest.fixture
def mlflow_client(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def test_mlflow_gets_every_epoch_and_the_settings(config, tmp_path, mlflow_client):
    trained = train(config, "mlflow", tmp_path / "model")
    (run,) = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("potstill").experiment_id])
    assert (run.info.run_name, run.info.status) == ("baseline 0", "FINISHED")
    assert run.data.params["epochs"] == str(EPOCHS)
    found = {metric.step: metric.value for metric in mlflow_client.get_metric_history(run.info.run_id, "train_loss")}
    assert found == pytest.approx(losses(trained))


def test_resumed_training_goes_on_in_the_same_run(config, tmp_path, mlflow_client, monkeypatch):
    log = trackers.MLflow._log

    def interrupted(self, epoch, values):
        log(self, epoch, values)
        if epoch == 2:
            raise KeyboardInterrupt

    always = config.runtime.model_copy(update={"checkpoint_seconds": 0.0})
    config = config.model_copy(update={"runtime": always})
    monkeypatch.setattr(trackers.MLflow, "_log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, "mlflow", tmp_path / "model")
    (run,) = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("potstill").experiment_id])
    assert run.info.status == "KILLED"
    monkeypatch.setattr(trackers.MLflow, "_log", log)
    trained = train(config, "mlflow", tmp_path / "model")
    (run,) = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("potstill").experiment_id])
    found = {metric.step: metric.value for metric in mlflow_client.get_metric_history(run.info.run_id, "train_loss")}
    assert found == pytest.approx(losses(trained))
    assert len(found) == EPOCHS


def test_training_that_is_begun_again_is_another_run(config, tmp_path, mlflow_client):
    for _ in range(2):
        train(config, "mlflow", tmp_path / "model")
        shutil.rmtree(tmp_path / "model")
    runs = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("potstill").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2


def records(log):
    """Yield the records of a run's file: LevelDB's log format behind a header of 7 bytes."""
    place, part = 7, b""
    while place + 7 <= len(log):
        if (left := 2**15 - place % 2**15) < 7:  # records do not begin in the last bytes of a block
            place += left
            continue
        size, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        part += log[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield part
            part = b""


def test_wandb_gets_every_epoch(config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trained = train(config, "wandb", tmp_path / "model")
    (file,) = (tmp_path / "model").rglob("run-*.wandb")
    from wandb.proto import wandb_internal_pb2

    found = {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        if "train_loss" in values:
            found[values["_step"]] = values["train_loss"]
    assert found == pytest.approx(losses(trained))


def test_tracker_that_fails_ends_no_training(config, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")

    def fail(self, *_):
        raise ConnectionError("the server is away")

    monkeypatch.setattr(trackers.TensorBoard, "_log", fail)
    monkeypatch.setattr(trackers.TensorBoard, "_close", fail)
    trained = train(config, "tensorboard", tmp_path / "model")
    assert len(trained.fit.history) == EPOCHS
    said = capsys.readouterr().err
    assert "tensorboard did not take epoch 1 of baseline 0: the server is away" in said
    assert "tensorboard did not take the end of the training: the server is away" in said


def test_tracker_that_does_not_open_ends_no_training(config, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")

    def fail(self, *_):
        raise ConnectionError("the server is away")

    monkeypatch.setattr(trackers.TensorBoard, "_open", fail)
    trained = train(config, "tensorboard", tmp_path / "model")
    assert len(trained.fit.history) == EPOCHS
    said = capsys.readouterr().err
    assert "tensorboard did not take the beginning of baseline 0, so it gets nothing of it: the server is away" in said
    assert said.count("tensorboard did not") == 1


def test_trackers_change_no_result(config, tmp_path):
    pytest.importorskip("tensorboard")
    corpus = potstill.load_corpus(config.data)
    plain = potstill.train(config, corpus, tmp_path / "plain")
    tracked = train(config, "tensorboard", tmp_path / "tracked")
    files = [(one.directory / "model.safetensors").read_bytes() for one in (plain, tracked)]
    assert files[0] == files[1]


def test_what_can_not_be_used_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    with pytest.raises(ConfigError, match="expected some of tensorboard, mlflow, wandb, found 'neptune'"):
        check_trackers(["neptune"])
    monkeypatch.setattr(TRACKERS["wandb"], "package", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"\[wandb\]"):
        check_trackers(["wandb"])
    assert command("run", "builtin", "--trackers", "neptune", "--out", tmp_path / "run") == 1
    assert "runtime.trackers" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
