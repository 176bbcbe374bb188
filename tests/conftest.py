"""A strict room: eight fake devices, no silent promotion of types, the network off unless an asset is asked for."""

import json
import os
import shutil
import time
import traceback
from importlib.util import find_spec

import pytest

from tlx.assets import cache_dir

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# A suite of small programs spends its time in the compiler; a second run, and the processes that tests start, need not.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "compiled-by-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax

import tlx
from tlx import Data, Optim, Recipe, Train, config, models, tasks, tuning
from tlx.records import write_json

jax.config.update("jax_numpy_dtype_promotion", "strict")
# The newest interpreter runs the suite without torch, and so without these files, all of which is marked `parity`.
collect_ignore = [] if find_spec("torch") else ["models/test_parity.py", "models/test_parity_peft.py"]


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
    cells, methods = [], {"full": tuning.Full(), "probe": tuning.Probe()}
    for method, shots, seed, rate in [
        *((method, shots, seed, 3e-3) for method in methods for shots in (4, 16) for seed in range(3)),
        ("full", 16, 3, 1e30),
        ("probe", 16, 3, 3e-3),
    ]:
        changed = {"data": Data(target="digits", shots=shots), "tuning": methods[method], "seed": seed}
        recipe = config.replace(base, optim=Optim(lr=rate), **changed)
        changes = [[path, repr(old), repr(new)] for path, old, new in config.diff(base, recipe)]
        names = {"method": method, "shots": shots, "seed": seed}
        cells.append({"fingerprint": config.fingerprint(recipe), "names": names, "changes": changes})
        folder = out / "cells" / cells[-1]["fingerprint"]
        if len(cells) == 14:
            break
        try:
            tlx.run(recipe, folder, quiet=True)
        except ArithmeticError as error:
            told = {"error": str(error), "traceback": traceback.format_exc(), "time": time.time()}
            write_json(folder / "failed.json", told)
        for kept in ("checkpoints", "model", "tensorboard", *(["report.html"] if len(cells) > 1 else [])):
            if (folder / kept).is_dir():
                shutil.rmtree(folder / kept)
            else:
                (folder / kept).unlink(missing_ok=True)
    document = {
        "name": "shots", "question": "Does a probe of random features keep up with full training?",
        "baseline": {"method": "full"}, "metric": "test/accuracy", "smallest": 0.005,
        "command": "tlx study experiments/shots.py", "file": "experiments/shots.py", "cells": cells,
    }  # fmt: skip
    write_json(out / "study.json", document)
    planned = {
        "time": time.time(), "cells": [cell["fingerprint"] for cell in cells[:3]], "how": "one by one", "arms": 3,
        "why": "packing took longer", "seconds_per_step": {"packed": 0.004, "one by one": 0.002},
        "memory_bytes": 4_000_000,
    }  # fmt: skip
    (out / "plan.jsonl").write_text(json.dumps(planned) + "\n", encoding="utf-8")
    return out
