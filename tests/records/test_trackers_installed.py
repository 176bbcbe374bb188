"""Runs are logged to the real trackers, offline; a resumed run continues the same run there."""

import json
import struct
from pathlib import Path

import pytest

from tlx import Data, Optim, Recipe, Train, models, run, tasks
from tlx.records.log import read_metrics
from tlx.records.trackers import Mlflow, Trackio, Wandb
from tlx.training.loop import How

pytestmark = pytest.mark.slow

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    optim=Optim(lr=0.01),
    train=Train(steps=4, batch=16, eval_every=2, eval_batch=512),
)


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Work in an empty folder, offline, without a page and without warnings of other packages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tlx.report.available", lambda: False)
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "io")}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def twice(interrupted):
    """Return `twice(tracker)`: a run with a tracker that is stopped at its third step, and continued."""

    def train(tracker):
        interrupted(RECIPE, "run", 3, how=How(quiet=True, trackers=(tracker,)))
        before = json.loads(Path("run/trackers.json").read_text())
        outcome = run(RECIPE, "run", resume=True, how=How(quiet=True, trackers=(tracker,)))
        assert json.loads(Path("run/trackers.json").read_text()) == before
        return outcome, before[type(tracker).__name__]

    return train


def recorded(folder):
    """Return the recorded values by name and step."""
    values = {}
    for line in read_metrics(folder):
        values.setdefault(line["name"], {})[line["step"]] = pytest.approx(line["value"])
    return values


def test_mlflow(twice):
    from mlflow import MlflowClient

    outcome, identity = twice(Mlflow(uri="sqlite:///mlflow.db", experiment="mine"))
    client = MlflowClient("sqlite:///mlflow.db")
    (entry,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert entry.info.run_id == identity and entry.info.status == "FINISHED" and entry.info.run_name == "run"
    assert entry.data.params["optim.lr"] == "0.01"
    assert entry.data.params["fingerprint"] == outcome.result["fingerprint"]
    expected = recorded(outcome.folder)
    assert entry.data.metrics.keys() == expected.keys()
    for name, values in expected.items():
        assert {metric.step: metric.value for metric in client.get_metric_history(identity, name)} == values


def test_trackio(twice):
    from trackio.api import Api
    from trackio.sqlite_storage import SQLiteStorage

    outcome, identity = twice(Trackio(project="mine"))
    (entry,) = Api().runs("mine")
    assert entry.name == identity and entry.config["optim.lr"] == 0.01
    rows = SQLiteStorage.get_logs("mine", run=identity, run_id=entry.id)
    assert by_name(rows) == recorded(outcome.folder)


def test_wandb(twice):
    from wandb.proto.wandb_internal_pb2 import Record

    outcome, identity = twice(Wandb(project="mine"))
    files = sorted(Path("wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    records = [Record.FromString(content) for file in files for content in messages(file.read_bytes())]
    begun = [record.run for record in records if record.HasField("run")]
    assert {(run.run_id, run.project, run.display_name) for run in begun} == {(identity, "mine", "run")}
    assert "0.01" in [entry.value_json for run in begun for entry in run.config.update if entry.key == "optim.lr"]
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert by_name(rows) == recorded(outcome.folder)
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [1, 0]


def by_name(rows):
    """Return the values of rows by name and step. A step that a resumed run repeats has the same values."""
    values = {}
    for row in rows:
        for name, value in row.items():
            if "/" in name:
                assert values.setdefault(name, {}).setdefault(row["step"], value) == value
    return values


def messages(content):
    """Yield the messages of a file of wandb: blocks of 32 KiB, in them chunks with a checksum, a length and a type."""
    message, place = b"", 7
    while place < len(content):
        room = 2**15 - place % 2**15
        if room < 7:
            place += room
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        message += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield message
            message = b""
