"""Several processes that train the cells of one study, or the trials of one search, together: the table of one."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tlx import Data, processes, sharding
from tlx.assets import cache_dir
from tlx.cli.places import RunPlace
from tlx.data import open_dataset
from tlx.study import hosts
from tlx.study.groups import Together
from tlx.training.reading_together import ReadAhead, ReadTogether

STUDY = '''
import dataclasses
import threading
import jax
from tlx import Data, Optim, Recipe, Study, Train, choice, models, tasks, tuning
from tlx.data import Dataset, Source, open_dataset

class Breaking:
    """Rows that the last process cannot read once a step has begun, and that a single process cannot read at all."""
    def __init__(self, rows):
        self.rows, self.reads = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, n):
        count, batches = jax.process_count(), threading.current_thread() is not threading.main_thread()
        self.reads += batches or count == 1
        # The first three batches of six rows are read before the first step.
        if self.reads > 20 and jax.process_index() == count - 1:
            raise ValueError("the disk of this process is broken")
        return self.rows[n]

@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Source):
    def open(self):
        digits = open_dataset("digits")
        rows = [digits.splits["train"][n] for n in range(90)]
        splits = {"train": Breaking(rows[:60]), "validation": rows[60:70], "test": rows[70:]}
        return Dataset("broken", splits, digits.columns, "broken")

def study():
    base = Recipe(
        data=Data(target="digits", shots=7),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(32, 16), dropout=0.3),
        optim=Optim(lr=0.01),
        train=Train(steps=12, batch=12, eval_every=6, eval_batch=20),
    )
    methods = choice("method", {
        "good": {}, "slow": {"optim.lr": 0.001}, "cached": {"tuning": tuning.Freeze(through="stem")},
        "bad": {"task.classes": 3}, "broken": {"data": Data(target=Broken())},
    })
    return Study(base=base, cells=methods, question="Does it?")
'''
CONFIG = """
from tlx import Data, Optim, Recipe, Train, models, tasks
def recipe():
    return Recipe(
        data=Data(target="digits", shots=7),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(32, 16), dropout=0.3),
        optim=Optim(lr=0.01),
        train=Train(steps=12, batch=12, eval_every=6, eval_batch=20),
    )
"""
SPACE = """
from tlx import tune
def space():
    return {"optim.lr": tune.log_uniform(1e-3, 1e-1), "optim.name": tune.one_of("adamw", "sgd")}
"""


def start(folder, command, count=2, places=(), settings=()):
    """Start the processes of one command, which share two devices, in a folder; the last ones in other `places`.
    `settings` are added to their environment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={2 // count}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | dict(settings)
    place = ["--coordinator", address, "--processes", str(count), "--process"]
    folders = [*[folder] * (count - len(places)), *places]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tlx.cli", *command, *([*place, str(n)] if count > 1 else [])], cwd=folders[n],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for n in range(count)
    ]  # fmt: skip


def cache(tmp_path, name):
    """Return the environment with a cache that has everything but cached features."""
    (tmp_path / name).mkdir()
    for path in cache_dir().iterdir():
        if path.name != "prefixes":
            (tmp_path / name / path.name).symlink_to(path)
    return {"TLX_CACHE": str(tmp_path / name)}


def ended(workers, seconds=240):
    """Return the exit codes of the processes and their output."""
    outputs = [worker.communicate(timeout=seconds)[0] for worker in workers]
    return [worker.returncode for worker in workers], outputs


def table(folder):
    """Return the rows of a study's table without the seconds, and the cells' predictions and learned parameters."""
    rows = list(csv.DictReader((folder / "results.csv").open()))
    arrays = {
        (path.parents[1].name, path.name, name): array
        for path in folder.glob("cells/*/predictions/*.npz")
        for name, array in np.load(path).items()
    }
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows], arrays


@pytest.mark.slow
def test_a_killed_study_of_two_processes_ends_and_continues_to_the_table_of_one(tmp_path):
    """The study has cells that train in one program, cells with cached features, cells that fail everywhere and cells
    that fail in one process in the middle of their training."""
    (tmp_path / "small.py").write_text(STUDY)
    codes, outputs = ended(
        start(tmp_path, ["study", "small.py", "--out", "alone"], 1, settings=cache(tmp_path, "cache1"))
    )
    assert codes == [1], outputs
    command, settings = ["study", "small.py", "--out", "both"], cache(tmp_path, "cache2")
    workers = start(tmp_path, command, settings=settings)
    last = time.monotonic() + 240
    while not list(tmp_path.glob("both/cells/*/result.json")):
        assert time.monotonic() < last and all(worker.poll() is None for worker in workers)
        time.sleep(0.05)
    workers[1].kill()
    begin = time.monotonic()
    codes, outputs = ended(workers)
    assert time.monotonic() - begin < 60
    assert codes == [1, -signal.SIGKILL], outputs
    assert "tlx: another process has ended or cannot be reached" in outputs[0].strip().splitlines()[-1]
    codes, outputs = ended(start(tmp_path, command, settings=settings))
    assert codes == [1, 1], outputs
    assert not [line for line in outputs[1].splitlines() if "peer ranks" not in line]
    (rows, arrays), (expected_rows, expected) = table(tmp_path / "both"), table(tmp_path / "alone")
    assert rows == expected_rows
    assert arrays.keys() == expected.keys() and len(arrays) > 6
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=str(name))
    failed = [json.loads(path.read_text())["error"] for path in tmp_path.glob("both/cells/*/failed.json")]
    assert any("process 1 failed: ValueError: the disk of this process is broken" in error for error in failed), failed
    # Each process has computed a part of the features of every split.
    stores = {count: list(tmp_path.glob(f"cache{count}/prefixes/*")) for count in (1, 2)}
    assert len(stores[1]) == len(stores[2]) == 3
    assert [len(list(store.glob("shard-*"))) for store in (*stores[1], *stores[2])] == [1, 1, 1, 2, 2, 2]
    assert len(failed) == 2 and {row["state"] for row in rows} == {"done", "failed"}


@pytest.mark.slow
def test_two_processes_search_as_one(tmp_path):
    """The first process draws the trials and judges them."""
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "space.py").write_text(SPACE)
    documents = []
    for count in (1, 2):
        command = ["tune", "config.py", "--space", "space.py", "--trials", "3", "--pruner", "hyperband"]
        codes, outputs = ended(start(tmp_path, [*command, "--out", f"by{count}"], count))
        assert codes == [0] * count, outputs
        document = json.loads((tmp_path / f"by{count}" / "tune.json").read_text())
        documents.append([{**trial, "seconds": None} for trial in document["trials"]])
    assert documents[0] == documents[1]
    assert not [line for line in outputs[1].splitlines() if "peer ranks" not in line]


@pytest.mark.slow
def test_processes_with_other_studies_are_refused(tmp_path):
    for name, rate in (("a", "0.01"), ("b", "0.02")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "small.py").write_text(STUDY.replace("lr=0.01", f"lr={rate}"))
    codes, outputs = ended(start(tmp_path / "a", ["study", "small.py", "--out", "out"], places=[tmp_path / "b"]))
    assert codes == [2, 2], outputs
    assert all("the study (by the fingerprints of its cells) differs between the processes" in out for out in outputs)
    assert not (tmp_path / "a" / "out").exists()


def test_workers_and_processes_that_train_together_exclude_each_other(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="jobs is 3, but 2 processes train each run together; leave --jobs out"):
        hosts.check_start({}, (), 3, 64, sharding.Mesh())
    with pytest.raises(ValueError, match="--on slurm=local starts a task for each run, but 2 processes train"):
        RunPlace("slurm=local").cluster()


def test_the_data_sets_of_a_recipe_are_named_with_their_content():
    data = Data(target="digits", source="sentiment/nowhere")
    kept = hosts.fingerprints([data, Data(target="digits")])
    assert kept["the data set 'digits'"] == open_dataset("digits").fingerprint
    # A data set that cannot be opened is left to the runs, but the processes compare the error.
    assert "Error" in kept["the data set 'sentiment/nowhere'"] and len(kept) == 2


def test_a_group_survives_its_way_to_another_process():
    group = Together(("a", "b"), True, "as recorded")
    assert Together.of(*json.loads(json.dumps(group))) == group


def test_one_process_attempts_alone():
    error = KeyError("missing")

    def fail():
        raise error

    assert processes.attempt(lambda: 3) == 3
    assert processes.attempt(fail) is error
    assert processes.in_turn(lambda: "opened") == "opened"
    assert processes.is_lost(processes.ProcessLost("gone")) and not processes.is_lost(ConnectionResetError("peer"))


def failing_at(n, count=6):
    for number in range(count):
        if number == n:
            raise ValueError(f"row {number}")
        yield {"index": np.arange(2), "number": number}


def test_a_batch_that_cannot_be_read_is_known_before_it_is_needed():
    ahead = ReadAhead([failing_at(4)], 6)
    taken = []
    while ahead.failure is None:
        taken.append(next(ahead)[0]["number"])
    # The vote beside step 2 is read after step 3, which all processes still take.
    assert taken == [0, 1, 2] and next(ahead)[0]["number"] == 3
    # A batch after the last step is not read.
    ahead = ReadAhead([failing_at(4)], 4)
    assert [next(ahead)[0]["number"] for _ in range(4)] == [0, 1, 2, 3] and ahead.failure is None
    with pytest.raises(ValueError, match="row 1"):
        ReadAhead([failing_at(1)], 6)


def test_an_evaluation_stops_before_the_batch_that_cannot_be_read():
    together = ReadTogether(failing_at(3), dict)
    batches = iter(together)
    for number in range(2):
        batch = next(batches)
        assert batch["number"] == number
        assert together.whole({"index": batch["index"]}).keys() == {"index"}
    third = next(batches)
    with pytest.raises(ValueError, match="row 3"):
        together.whole({"index": third["index"]})
    assert [batch["number"] for batch in ReadTogether(failing_at(9), dict)] == [0, 1, 2, 3, 4, 5]
