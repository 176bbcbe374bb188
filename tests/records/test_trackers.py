"""Trackers receive the records of a run, and never end it; a resumed run continues in them."""

import json
import math
from dataclasses import dataclass

import pytest

from tlx.records.log import CallbackError, Records, read_metrics
from tlx.records.trackers import (
    NAMES,
    TrackedRun,
    Tracker,
    TrackerWarning,
    Wandb,
    Writer,
    started,
    trackers_of,
)  # fmt: skip

DOCUMENT = {"fingerprint": "f" * 16, "recipe": {"kind": "Recipe", "optim": {"lr": 0.1}, "objective": [{"weight": 1}]}}
CALLS = []


@dataclass(frozen=True, kw_only=True)
class Memory(Tracker):
    """Keep every call; fail in the method `fails`."""

    name: str = "memory"
    fails: str = ""

    def start(self, run):
        CALLS.append(("start", run.step, run.identity, run.settings))
        if self.fails == "start":
            raise ConnectionError("no\n  network")
        return MemoryWriter(self)


class MemoryWriter(Writer):
    identity = "number 7"

    def __init__(self, tracker):
        self.tracker = tracker

    def call(self, *call):
        CALLS.append(call)
        if self.tracker.fails == call[0]:
            raise OSError("the server is gone")

    def write(self, step, values):
        with pytest.raises(TypeError):
            values["train/loss"] = 0.0
        self.call("write", step, dict(values))

    def flush(self):
        self.call("flush")

    def finish(self, result):
        self.call("finish", result)


class Silent(Tracker):
    """A tracker without `start`."""


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def record(folder, tracker, step=0, result=None):
    records = Records(folder, step, started([tracker], folder, DOCUMENT, step))
    records.write(step + 1, {"train/loss": 0.5, "train/rate": 0.1})
    records.flush()
    if result:
        records.finish(result)
    records.close()


def test_a_writer_gets_every_record_and_the_result(tmp_path):
    record(tmp_path, Memory(), result={"metrics": {"test/accuracy": 0.9}})
    settings = {"fingerprint": "f" * 16, "kind": "Recipe", "optim.lr": 0.1, "objective.0.weight": 1}
    assert [
        ("start", 0, "", settings),
        ("write", 1, {"train/loss": 0.5, "train/rate": 0.1}),
        ("flush",),
        ("flush",),
        ("finish", {"metrics": {"test/accuracy": 0.9}}),
    ] == CALLS


def test_a_resumed_run_continues_the_run_of_the_tracker(tmp_path):
    record(tmp_path, Memory())
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"Memory": "number 7"}
    record(tmp_path, Memory(), step=1)
    assert [call[1:3] for call in CALLS if call[0] == "start"] == [(0, ""), (1, "number 7")]
    assert [call for call in CALLS if call[0] == "finish"] == [("finish", None)] * 2
    (tmp_path / "trackers.json").write_text("[")
    with pytest.raises(ValueError) as error:
        record(tmp_path, Memory(), step=1)
    assert "trackers.json" in str(error.value) and "delete" in str(error.value)


@pytest.mark.parametrize("method", ["write", "flush", "finish"])
def test_a_failing_tracker_is_one_warning_and_the_records_stay(tmp_path, method):
    with pytest.warns(TrackerWarning) as warnings:
        record(tmp_path, Memory(fails=method), result={"metrics": {}})
    (warning,) = warnings
    for part in ("Memory", "the server is gone", str(tmp_path)):
        assert part in str(warning.message)
    assert [call[0] for call in CALLS].count(method) == 1
    assert [line["value"] for line in read_metrics(tmp_path)] == [0.5, 0.1]


def test_a_tracker_that_cannot_start_stops_a_new_run_and_not_a_resumed_one(tmp_path):
    with pytest.raises(ValueError) as error:
        started([Memory(), Memory(fails="start")], tmp_path, DOCUMENT, 0)
    assert "Memory cannot start: no network" in str(error.value)
    assert CALLS[-1] == ("finish", None)
    assert not (tmp_path / "trackers.json").exists()
    with pytest.warns(TrackerWarning, match="no network"):
        assert started([Memory(fails="start")], tmp_path, DOCUMENT, 3) == []


def test_trackers_are_chosen_by_name_or_as_instances(monkeypatch):
    monkeypatch.setattr(Wandb, "package", "json")  # The package itself is tried in test_trackers_installed.py.
    assert trackers_of(()) == ()
    assert trackers_of((Memory(), Wandb(project="mine"))) == (Memory(), Wandb(project="mine"))
    assert trackers_of(("wandb",)) == (Wandb(),)
    assert {*NAMES} == {"wandb", "mlflow", "trackio"}


@pytest.mark.parametrize(
    ("chosen", "kind", "parts"),
    [
        (("wandbb",), ValueError, ("'wandbb'", "close: 'wandb'")),
        ("wandb", TypeError, ("'wandb'", "('wandb',)")),
        ((3,), TypeError, ("contains 3", "wandb")),
        ((Memory(), Memory(name="other")), ValueError, ("Memory", "twice")),
        ((Memory(name=3),), TypeError, ("Memory.name is 3", "str")),
    ],
)
def test_a_wrong_choice_is_refused(chosen, kind, parts):
    with pytest.raises(kind) as error:
        trackers_of(chosen)
    for part in parts:
        assert part in str(error.value)


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Absent(Tracker):
        package = "no_such_package"
        extra = "absent"

    for _ in range(2):
        with pytest.raises(ImportError) as error:
            trackers_of((Absent(),))
        assert "no_such_package" in str(error.value) and "pip install 'tlx[absent]'" in str(error.value)
        # A folder of that name beside the user's script is not the package.
        (tmp_path / "no_such_package").mkdir(exist_ok=True)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match="Silent"):
        Silent().start(TrackedRun(None, {}))


def test_a_callback_gets_records_that_it_cannot_change(tmp_path):
    seen = []

    def keep(record):
        with pytest.raises(TypeError):
            record["train/loss"] = 0.0
        seen.append(dict(record))

    records = Records(tmp_path, callback=keep)
    values = {"train/loss": 0.5}
    records.write(1, values)
    records.write(1, {})
    records.close()
    assert seen == [{"step": 1, "folder": str(tmp_path), "train/loss": 0.5}]
    assert values == {"train/loss": 0.5} and records.failure is None


def test_the_error_of_a_callback_is_kept_and_nothing_is_lost(tmp_path):
    calls = []

    def plot(record):
        calls.append(record["step"])
        raise KeyError("accuracy")

    records = Records(tmp_path, callback=plot)
    for step in (1, 2):
        records.write(step, {"train/loss": math.pi})
    records.close()
    assert calls == [1] and len(read_metrics(tmp_path)) == 2
    assert isinstance(records.failure, CallbackError) and isinstance(records.failure.__cause__, KeyError)
    for part in ("plot raised KeyError: 'accuracy'", "step 1", "resume"):
        assert part in str(records.failure)


def test_metrics_of_the_end_are_not_kept_when_a_run_continues(tmp_path):
    records = Records(tmp_path)
    records.write(4, {"validation/accuracy": 0.5})
    records.write(4, {"test/accuracy": 0.4})
    records.close()
    Records(tmp_path, 4, once=("test/",)).close()
    assert [line["name"] for line in read_metrics(tmp_path)] == ["validation/accuracy"]
