"""A strict room: eight fake devices, no silent promotion of types, the network off unless an asset is asked for."""

import json
import os
import shutil
import time
import traceback
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
from tlx import Data, Optim, Recipe, Train, cells, config, models, tasks, tuning
from tlx.records import write_json

jax.config.update("jax_numpy_dtype_promotion", "strict")
# The newest interpreter runs the suite without torch, and so without these files, all of which is marked `parity`.
collect_ignore = [] if find_spec("torch") else ["models/test_parity.py", "models/test_parity_peft.py"]


class Written:
    """A study whose runs are written by hand, record by record: `correct` says which examples each got right."""

    def __init__(self, folder, baseline=None, smallest=0.0, metric="test/accuracy"):
        self.folder, self.cells = folder, []
        self.fields = {"baseline": baseline, "smallest": smallest, "metric": metric}

    def add(self, correct, indices=None, selection="last", said=None, keep=True, **names):
        fingerprint = f"{len(self.cells):016x}"
        folder, correct = self.folder / "cells" / fingerprint, np.array(correct)
        (folder / "predictions").mkdir(parents=True)
        labels = np.arange(len(correct)) % 2
        logits = np.eye(2)[np.where(correct, labels, 1 - labels)]
        indices = np.arange(len(correct)) if indices is None else np.array(indices)
        if keep:
            np.savez(folder / "predictions" / "test.npz", logits=logits, labels=labels, indices=indices)
        value = float(correct.mean()) if said is None else said
        result = {"metrics": {"test/accuracy": value}, "selection": selection, "selected_step": 1}
        write_json(folder / "result.json", result)
        write_json(folder / "recipe.json", {"recipe": {"task": {"kind": "Classification"}}})
        self.cells.append({"fingerprint": fingerprint, "names": names, "changes": []})
        return self

    def write(self, **fields):
        write_json(self.folder / "study.json", self.fields | {"cells": self.cells} | fields)
        return self.folder

    def compare(self, **fields):
        return cells.compare(cells.read(self.write(**fields)))


@pytest.fixture
def written(tmp_path):
    """A study without cells, whose baseline is the method "a"."""
    return Written(tmp_path, {"method": "a"})


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """A study's directory with real runs: two methods on two numbers of labels with three seeds, a cell that diverged
    and one that waits. Of the runs only what a study keeps is left, and one page."""
    out = tmp_path_factory.mktemp("study")
    base = Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(32, 32)),
        optim=Optim(lr=3e-3),
        train=Train(steps=40, batch=16, eval_every=8),
    )
    listed, methods = [], {"full": tuning.Full(), "probe": tuning.Probe()}
    for method, shots, seed, rate in [
        *((method, shots, seed, 3e-3) for method in methods for shots in (4, 16) for seed in range(3)),
        ("full", 16, 3, 1e30),
        ("probe", 16, 3, 3e-3),
    ]:
        changed = {"data": Data(target="digits", shots=shots), "tuning": methods[method], "seed": seed}
        recipe = config.replace(base, optim=Optim(lr=rate), **changed)
        changes = [[path, repr(old), repr(new)] for path, old, new in config.diff(base, recipe)]
        names = {"method": method, "shots": shots, "seed": seed}
        listed.append({"fingerprint": config.fingerprint(recipe), "names": names, "changes": changes})
        folder = out / "cells" / listed[-1]["fingerprint"]
        if len(listed) == 14:
            break
        try:
            tlx.run(recipe, folder, quiet=True)
        except ArithmeticError as error:
            told = {"error": str(error), "traceback": traceback.format_exc(), "time": time.time()}
            write_json(folder / "failed.json", told)
        for kept in ("checkpoints", "model", "tensorboard", *(["report.html"] if len(listed) > 1 else [])):
            if (folder / kept).is_dir():
                shutil.rmtree(folder / kept)
            else:
                (folder / kept).unlink(missing_ok=True)
    document = {
        "name": "shots", "question": "Does a probe of random features keep up with full training?",
        "baseline": {"method": "full"}, "metric": "test/accuracy", "smallest": 0.005,
        "command": "tlx study experiments/shots.py", "file": "experiments/shots.py", "cells": listed,
    }  # fmt: skip
    write_json(out / "study.json", document)
    planned = {
        "time": time.time(), "cells": [cell["fingerprint"] for cell in listed[:3]], "how": "one by one", "arms": 3,
        "why": "packing took longer", "seconds_per_step": {"packed": 0.004, "one by one": 0.002},
        "memory_bytes": 4_000_000,
    }  # fmt: skip
    (out / "plan.jsonl").write_text(json.dumps(planned) + "\n", encoding="utf-8")
    return out
