"""A run says when a program is compiled, and how long this took last time; the seconds count as compilation."""

import os
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, models, run, tasks
from tlx.records import progress
from tlx.training.compilations import identity_of
from tlx.training.programs import Programs, Watched

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    optim=Optim(lr=0.01),
    train=Train(steps=4, batch=16, eval_every=2, eval_batch=512),
)


def test_each_shape_is_announced_once_and_attributes_pass():
    announced = []

    def announce(words, shapes):
        announced.append((words, shapes))
        return progress.Progress(1, 0, 1, True).doing(words)

    programs = Programs()
    programs.announce = announce
    add = Watched(jax.jit(lambda state, batch: state + batch["x"].sum()), "sum", programs)
    for size in (2, 3, 2):
        assert float(add(1.0, {"x": np.ones(size, np.float32)})) == 1 + size
    assert announced == [("sum", ((2,),)), ("sum", ((3,),))]
    assert add.lower(1.0, {"x": np.ones(2, np.float32)}).compile()
    assert not hasattr(add, "nothing")


@pytest.mark.slow
def test_a_run_says_what_it_compiles_and_evaluates(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "SHORT", 0.0)
    shown = []
    draw = progress.LogFile.draw
    monkeypatch.setattr(progress.LogFile, "draw", lambda self: shown.append(self.rows()[-1].counted()) or draw(self))
    for name in ("first", "second"):
        seconds = run(RECIPE, tmp_path / name).result["seconds"]
    lines = capsys.readouterr().err.splitlines()
    compiling = [line for line in lines if line.startswith("compiling")]
    first, second = compiling[: len(compiling) // 2], compiling[len(compiling) // 2 :]
    assert first == ["compiling the training steps", "compiling the evaluation"]
    assert [line.split(" (last time")[0] for line in second] == first and all("0:00:0" in line for line in second)
    assert sum(line.startswith("step ") for line in lines) == 4
    count = len(np.load(tmp_path / "first" / "predictions" / "test.npz")["indices"])
    assert {"setting up", "step 2/4", "step 4/4", f"testing {count}/{count}", "writing the results"} <= set(shown)
    assert any(line.startswith("validating ") and not line.startswith("validating 0/") for line in shown)
    assert seconds["compile"] > 0 and seconds["eval"] > 0


def test_the_identity_of_a_program_follows_from_what_compiles():
    numbers = replace(RECIPE, seed=3, optim=Optim(lr=0.5))
    assert identity_of(numbers, 1, 0) == identity_of(RECIPE, 1, 0)
    other = replace(RECIPE, model=models.Mlp(inputs=(8, 8, 1), widths=(9,)))
    keys = {identity_of(*parts) for parts in ((RECIPE, 1, 0), (RECIPE, 2, 0), (RECIPE, 1, 1), (other, 1, 0))}
    assert len(keys) == 4


CONFIG = """
from tlx import Data, Recipe, Train, models, tasks
def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=4, batch=8, eval_batch=64),
    )
"""


@pytest.mark.slow
def test_processes_share_the_cache_of_programs(tmp_path):
    """Two start at once on a shared directory; a program that one of them has half written is compiled again."""
    (tmp_path / "config.py").write_text(CONFIG)
    cache = tmp_path / "shared"
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }  # fmt: skip

    def start(out):
        line = [sys.executable, "-m", "tlx.cli", "run", "config.py", "--out", out, "--quiet", "--mesh", "data=1"]
        return subprocess.Popen(line, cwd=tmp_path, env=os.environ | settings, stderr=subprocess.PIPE, text=True)

    def finish(process):
        errors = process.communicate(timeout=240)[1]
        assert process.returncode == 0 and not errors, errors

    first, second = start("first"), start("second")
    finish(first)
    finish(second)
    programs = {path.name for path in cache.iterdir() if path.name.endswith("-cache")}
    assert programs
    for name in programs:
        content = (cache / name).read_bytes()
        (cache / name).write_bytes(content[: len(content) // 2])
    finish(start("third"))
    assert programs == {path.name for path in cache.iterdir() if path.name.endswith("-cache")}
    first, *others = [
        (tmp_path / out / "model" / "model.safetensors").read_bytes() for out in ("first", "second", "third")
    ]
    assert others == [first, first]
