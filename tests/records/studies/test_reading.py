"""A study directory: states, names, rows. The files are written by hand, because other tests run studies."""

import json
import subprocess
import sys

import numpy as np
import pytest
from filelock import FileLock

from tlx.records import studies
from tlx.records.log import write_json


def result(value, seed):
    return {
        "fingerprint": "f", "seed": seed, "selection": "last", "selected_step": 6,
        "metrics": {"test/accuracy": value, "validation/accuracy": value + 0.01},
        "parameters": {"total": 10, "trainable": 4}, "steps": 6, "seconds": {"train": 1.5, "eval": 0.25},
        "examples_per_second": 20.0, "peak_memory_bytes": 1000, "flops": 5e6,
    }  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """Two methods by two numbers of labels by two seeds, with one cell in each unfinished state."""
    names = [
        {"method": method, "labels": labels, "seed": seed}
        for method in ("full", "probe") for labels in (8, 16) for seed in (0, 1)
    ]  # fmt: skip
    listed = [
        {"fingerprint": f"{n:016x}", "names": one, "changes": [["seed", "0", "1"]]} for n, one in enumerate(names)
    ]
    document = {
        "name": "small", "question": "Does it?", "baseline": {"method": "full"}, "metric": "test/accuracy",
        "smallest": 0.01, "command": "tlx study x.py", "file": "x.py", "cells": listed,
    }  # fmt: skip
    write_json(tmp_path / "study.json", document)
    (tmp_path / "claims").mkdir()
    for n, one in enumerate(names):
        folder = tmp_path / "cells" / f"{n:016x}"
        folder.mkdir(parents=True)
        (tmp_path / "claims" / f"{n:016x}.lock").touch()
        if n < 5:
            write_json(folder / "result.json", result(n / 10, one["seed"]) | {"fingerprint": f"{n:016x}"})
        if n in (4, 5, 6):
            write_json(folder / "failed.json", {"error": "Diverged: inf", "traceback": "...", "time": 1.0})
    return tmp_path


def test_the_state_of_a_cell_follows_from_its_files_and_its_claim(study):
    # Cell 4 failed before it was done; cell 6 is tried again.
    with FileLock(study / "claims" / f"{6:016x}.lock"):
        actual = studies.read(study)
    states = ["done"] * 5 + ["failed", "running", "waiting"]
    assert [cell.state for cell in actual.cells] == states
    assert actual.counts == {"done": 5, "running": 1, "failed": 1, "waiting": 1}
    assert [cell.fingerprint for cell in actual.cells if cell.failed] == [f"{5:016x}"]
    assert [cell.state for cell in studies.read(study).cells] == ["done"] * 5 + ["failed", "failed", "waiting"]


def test_reading_takes_no_claim_and_writes_no_file(study):
    before = sorted(path for path in study.rglob("*"))
    studies.read(study)
    assert sorted(path for path in study.rglob("*")) == before
    with FileLock(study / "claims" / f"{7:016x}.lock", timeout=0):
        pass


def test_columns_and_costs(study):
    actual = studies.read(study)
    assert actual.columns == ("method", "labels", "seed")
    assert actual.metrics == ("test/accuracy", "validation/accuracy")
    recorded = studies.costs(actual.cells[0].result)
    assert recorded == {
        "seconds/train": 1.5, "seconds/eval": 0.25, "steps": 6, "examples_per_second": 20.0, "peak_memory_bytes": 1000,
        "seconds": 1.75, "parameters/total": 10, "parameters/trainable": 4, "flops": 5e6,
    }  # fmt: skip
    packed = studies.costs(actual.cells[0].result | {"pack": {"arms": 4, "place": 1}})
    assert packed["seconds"] == recorded["seconds"] / 4
    assert packed["examples_per_second"] == recorded["examples_per_second"] * 4
    assert packed["flops"] == recorded["flops"]


def test_an_arm_is_a_cell_without_its_seed(study):
    arms = studies.read(study).arms
    assert [arm.names for arm in arms] == [
        {"method": method, "labels": labels} for method in ("full", "probe") for labels in (8, 16)
    ]
    assert [arm.values("test/accuracy") for arm in arms] == [{0: 0.0, 1: 0.1}, {0: 0.2, 1: 0.3}, {0: 0.4}, {}]


def test_predictions_and_curves_are_those_of_the_run(study):
    [cell, *_] = studies.read(study).cells
    assert cell.predictions() is None
    assert cell.curves() == {}
    assert cell.recipe() is None
    (cell.folder / "predictions").mkdir()
    np.savez(cell.folder / "predictions" / "test.npz", logits=np.eye(3), labels=np.arange(3), indices=np.arange(3))
    lines = [{"step": step, "name": "train/loss", "value": value, "time": 0} for step, value in ((1, 3.0), (2, 2.0))]
    (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "na')
    assert cell.predictions().scores["label"].tolist() == [0, 1, 2]
    assert cell.curves() == {"train/loss": {1: 3.0, 2: 2.0}}


def test_the_plan_is_read_if_it_exists(study):
    assert studies.read(study).plan() == []
    (study / "plan.jsonl").write_text('{"how": "packed", "cells": ["a"]}\n{"how": "one')
    assert studies.read(study).plan() == [{"how": "packed", "cells": ["a"]}]


def change(study, **fields):
    document = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(document | fields))


def test_directories_without_a_study_are_refused(study, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        studies.read(tmp_path / "none")
    assert str(error.value) == f"{tmp_path / 'none'} contains no study: there is no study.json"
    with pytest.raises(ValueError) as error:
        studies.read(study).check_metric("test/acuracy")
    assert str(error.value).startswith(f"no cell of {study} has the metric 'test/acuracy'; close: 'test/accuracy'")
    twice = [{"fingerprint": name, "names": {"seed": 0}, "changes": []} for name in ("a", "b")]
    change(study, cells=twice)
    with pytest.raises(ValueError, match=r"cells a and b have the same names \{'seed': 0\}"):
        studies.read(study)
    for listed in (None, [{"fingerprint": "../../etc", "names": {}}]):
        change(study, cells=listed)
        with pytest.raises(ValueError, match=r"study\.json: cells(\[0\]\.fingerprint)? is .*; expected "):
            studies.read(study)


@pytest.mark.slow
def test_reading_needs_neither_jax_nor_pandas(study):
    program = (
        "import sys; from tlx.records import studies; "
        f"studies.compare(studies.read({str(study)!r})); print(*sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"jax", "pandas"} & set(process.stdout.split())
