"""A strict room: eight fake devices, no silent promotion of types, the network off unless an asset is asked for."""

import os
from importlib.util import find_spec

import numpy as np
import pytest

from tlx.assets import cache_dir

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# A suite of small programs spends its time in the compiler; a second run, and the processes that tests start, need not.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "compiled-by-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax

import tlx
from tlx import Data, Optim, Recipe, Study, Train, choice, models, param, prod, tasks, tuning
from tlx.records import studies
from tlx.records.log import Progress, read_metrics, write_json
from tlx.study import run_study
from tlx.study.base import document, settle

jax.config.update("jax_numpy_dtype_promotion", "strict")
# The newest interpreter has neither torch nor peft, so the files that import both are not collected there.
collect_ignore_glob = [] if find_spec("torch") else ["models/test_parity*.py"]


class Written:
    """A study whose runs are written by hand, record by record: `correct` says which examples each got right."""

    def __init__(self, folder, baseline=None, smallest=0.0, metric="test/accuracy"):
        self.folder, self.cells = folder, []
        self.fields = {"baseline": baseline, "smallest": smallest, "metric": metric}

    def add(self, correct, indices=None, selection="last", said=None, keep=True, labelled=None, notes=(), **names):
        """`labelled` are the examples' labels, by default one class and the other in turns."""
        fingerprint = f"{len(self.cells):016x}"
        folder, correct = self.folder / "cells" / fingerprint, np.array(correct)
        (folder / "predictions").mkdir(parents=True)
        labels = np.arange(len(correct)) % 2 if labelled is None else np.array(labelled)
        logits = np.eye(2)[np.where(correct, labels, 1 - labels)]
        indices = np.arange(len(correct)) if indices is None else np.array(indices)
        if keep:
            np.savez(folder / "predictions" / "test.npz", logits=logits, labels=labels, indices=indices)
        value = float(correct.mean()) if said is None else said
        result = {"metrics": {"test/accuracy": value}, "selection": selection, "selected_step": 1, "notes": notes}
        write_json(folder / "result.json", result)
        write_json(folder / "recipe.json", {"recipe": {"task": {"kind": "Classification"}}})
        self.cells.append({"fingerprint": fingerprint, "names": names, "changes": []})
        return self

    def write(self, **fields):
        write_json(self.folder / "study.json", self.fields | {"cells": self.cells} | fields)
        return self.folder

    def compare(self, **fields):
        return studies.compare(studies.read(self.write(**fields)))


@pytest.fixture
def interrupted(monkeypatch):
    """`interrupted(recipe, out, at, **how)`: a run that the user stops when the metrics of step `at` come in."""
    settle = Progress.step

    def begin(recipe, out, at, **how):
        def stop(self, step, loss, rate):
            if step == at:
                raise KeyboardInterrupt
            settle(self, step, loss, rate)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "step", stop)
            with pytest.raises(KeyboardInterrupt):
                tlx.run(recipe, out, quiet=True, **how)

    return begin


@pytest.fixture
def goes_on(interrupted, tmp_path):
    """`goes_on(recipe, stops)`: a run stopped at each of `stops` in turn ends with the bits of one that never was."""

    def check(recipe, stops):
        whole = tlx.run(recipe, tmp_path / "whole", quiet=True)
        for count, at in enumerate(stops):
            interrupted(recipe, tmp_path / "stopped", at, resume=count > 0)
        resumed = tlx.run(recipe, tmp_path / "stopped", resume=True, quiet=True)
        # The model's, and the adapter's by itself.
        files = [path.relative_to(whole.folder) for path in whole.folder.glob("*/*.safetensors")]
        assert files
        for file in files:
            assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file
        lines = [[line | {"time": 0} for line in read_metrics(found.folder)] for found in (resumed, whole)]
        assert lines[0] == lines[1]
        same = ("metrics", "selected_step", "fingerprint", "parameters", "steps", "flops")
        assert {name: resumed.result[name] for name in same} == {name: whole.result[name] for name in same}

    return check


@pytest.fixture
def written(tmp_path):
    """A study without cells, whose baseline is the method "a"."""
    return Written(tmp_path, {"method": "a"})


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """The directory of a real study: two methods on two numbers of labels with three seeds, a cell that diverged, one
    that waits. One run has a page."""
    base = Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(32, 32)),
        optim=Optim(lr=3e-3),
        train=Train(steps=40, batch=16, eval_every=8),
    )
    methods = choice("method", {"full": {}, "probe": {"tuning": tuning.Probe()}})
    shots = choice("shots", {count: {"data.shots": count} for count in (4, 16)})
    cells = prod(methods, shots, param("seed", range(3)))
    # A rate at which the loss is no number after a step, of a cell that has a name of its own for that.
    [diverging] = prod(methods[:1], shots[1:], param("seed", 3))
    cells.append(diverging._replace(changes=diverging.changes | {"optim.lr": 1e30}))
    out = tmp_path_factory.mktemp("study") / "shots"
    asked = {
        "base": base, "question": "Does a probe of random features keep up with full training?", "smallest": 0.005,
        "baseline": {"method": "full"},
    }  # fmt: skip
    run_study(Study(cells=cells, **asked), out, quiet=True)
    more = Study(cells=[*cells, *prod(methods[1:], shots[1:], param("seed", 3))], **asked)
    settle(out, document(more, "shots", "tlx study experiments/shots.py", "experiments/shots.py"))
    first = out / "cells" / next(iter(more.by_fingerprint))
    tlx.run(next(iter(more.by_fingerprint.values())).recipe, first, overwrite=True, quiet=True)
    return out
