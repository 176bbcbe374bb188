"""Runs that train together share one checkpoint, and end with the same bits wherever they are stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from tlx import Data, Learn, Optim, Recipe, Train, models, tasks, tuning
from tlx.records.log import read_metrics
from tlx.training import ending, group, run_many
from tlx.training.group_checkpoints import name_of
from tlx.training.loop import Diverged, How
from tlx.weights.files import read_file

LEAN = How(quiet=True, leave="learned")
RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16,), dropout=0.2),
    optim=Optim(lr=0.01, clip=None),
    train=Train(steps=12, batch=16, eval_every=4, eval_batch=128, select="best-validation"),
)
SEEDS = [replace(RECIPE, seed=seed) for seed in range(3)]
# One of them diverges at its second step; its state is NaN from there on.
DIVERGING = [replace(RECIPE, optim=Optim(lr=lr, clip=None)) for lr in (0.01, 1e30, 0.02)]
# They train different parameters in one program (see `pack.joined`).
MASKS = [
    replace(RECIPE, tuning=own, train=replace(RECIPE.train, select="last"))
    for own in (tuning.Rules((r".*/bias", None), (r".*", Learn())), tuning.Full(), tuning.Full(decay=0.5))
]


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Group all runs that can train together."""
    monkeypatch.setattr(run_many, "GAIN", 1e9)


@pytest.fixture
def sizes(monkeypatch):
    calls, train = [], run_many.train
    monkeypatch.setattr(run_many, "train", lambda runs, *rest: calls.append(len(runs)) or train(runs, *rest))
    return calls


def folders_of(base, count):
    return [base / str(n) for n in range(count)]


def stopped_at(monkeypatch, recipes, folders, step):
    """Run the recipes until the validation at one step, and kill the process there."""
    validate = group.RunGroup.validate

    def stop(group):
        if group.step == step:
            raise KeyboardInterrupt
        return validate(group)

    with monkeypatch.context() as patch:
        patch.setattr(group.RunGroup, "validate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_many.run_many(recipes, folders, how=LEAN)


def assert_same(actual, expected):
    """Check that all recorded numbers are equal; errors have equal messages."""
    for custom, other in zip(actual, expected, strict=True):
        assert type(custom) is type(other)
        if isinstance(custom, Exception):
            assert str(custom) == str(other)
            continue
        assert custom.metrics == other.metrics
        for name in ("selected_step", "steps", "pack", "flops", "rules"):
            assert custom.result[name] == other.result[name], name
        lines = [[line | {"time": 0} for line in read_metrics(one.folder)] for one in (custom, other)]
        assert lines[0] == lines[1]
        leaves, rest = (read_file(one.folder / "learned.safetensors") for one in (custom, other))
        assert leaves.keys() == rest.keys()
        for path, leaf in rest.items():
            np.testing.assert_array_equal(leaves[path], leaf, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipes",
    [SEEDS, pytest.param(DIVERGING, marks=pytest.mark.slow), pytest.param(MASKS, marks=pytest.mark.slow)],
    ids=["seeds", "one diverges", "masks"],
)
def test_a_resumed_group_has_the_same_bits(recipes, tmp_path, monkeypatch, sizes):
    full = run_many.run_many(recipes, folders_of(tmp_path / "whole", 3), how=LEAN)
    folders = folders_of(tmp_path / "parts", 3)
    for step in (8, 12):
        stopped_at(monkeypatch, recipes, folders, step)
        (remaining,) = tmp_path.glob("parts/*/checkpoints/group-3-*")
        assert (remaining / str(step - 4)).is_dir()
    assert_same(run_many.run_many(recipes, folders, how=LEAN), full)
    assert sizes == [3] * 4
    if recipes is DIVERGING:
        assert isinstance(full[1], Diverged)


@pytest.mark.slow
def test_after_a_kill_between_two_results_the_same_group_continues(tmp_path, monkeypatch, sizes):
    full = run_many.run_many(SEEDS, folders_of(tmp_path / "whole", 3), how=LEAN)
    folders = folders_of(tmp_path / "parts", 3)
    write_all = ending.write_all

    def killed(active, *rest):
        if active.recipe.seed == 1:
            raise KeyboardInterrupt
        return write_all(active, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ending, "write_all", killed)
        with pytest.raises(KeyboardInterrupt):
            run_many.run_many(SEEDS, folders, how=LEAN)
    first = (folders[0] / "result.json").read_bytes()
    assert not (folders[1] / "result.json").exists()
    assert_same(run_many.run_many(SEEDS, folders, how=LEAN), full)
    assert (folders[0] / "result.json").read_bytes() == first
    assert sizes == [3, 3, 3]


@pytest.mark.slow
def test_another_group_does_not_read_the_checkpoint(tmp_path, monkeypatch, sizes):
    """Two of three runs: from the first step their numbers equal those of a group of two."""
    folders = folders_of(tmp_path / "parts", 3)
    stopped_at(monkeypatch, SEEDS, folders, 8)
    both = run_many.run_many(SEEDS[:2], folders[:2], how=LEAN)
    assert sizes == [3, 2]
    assert_same(both, run_many.run_many(SEEDS[:2], folders_of(tmp_path / "whole", 2), how=LEAN))
    assert both[0].result["pack"]["cells"] == [run.result["fingerprint"] for run in both]


def test_checkpoint_names_differ_between_groups():
    names = [name_of(cells) for cells in (["a"], ["a", "b"], ["b", "a"], ["ab"], ["a", "b", "c"])]
    assert len(set(names)) == 5
    assert name_of(["a", "b"]) == names[1]


@pytest.mark.slow
def test_the_group_of_a_recipe_does_not_depend_on_finished_runs(tmp_path, sizes):
    folders = folders_of(tmp_path / "runs", 3)
    full = run_many.run_many(SEEDS, folders_of(tmp_path / "whole", 3), how=LEAN, most=2)
    run_many.run_many(SEEDS[:2], folders[:2], how=LEAN, most=2)
    assert_same(run_many.run_many(SEEDS, folders, how=LEAN, most=2), full)
    assert sizes == [2, 1, 2, 1]


KILLS = 5
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from tlx import Data, Optim, Recipe, Train, models, tasks
from tlx.training import run_many
from tlx.training.loop import How

recipe = Recipe(
    data=Data(target="digits"),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16,), dropout=0.2),
    optim=Optim(lr=1e-2, weight_decay=1e-2, warmup=0.1, clip=1.0),
    train=Train(steps=600, batch=16, eval_every=10, eval_batch=512, select="best-validation"),
)
run_many.GAIN = 1e9
found = run_many.run_many(
    [replace(recipe, seed=seed) for seed in range(4)],
    [Path(sys.argv[1], str(seed)) for seed in range(4)],
    how=How(quiet=True, leave="learned", checkpoint_seconds=float(sys.argv[2])),
)
assert [one.result["pack"]["arms"] for one in found] == [4] * 4
"""


@pytest.mark.slow
def test_kills_of_a_group_of_four_change_nothing(tmp_path):
    """A checkpoint is written every ten steps, so most kills happen during a write."""
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run([*command, str(tmp_path / "whole"), "3600"], check=True, timeout=300)
    dice, kills, record = random.Random(0), 0, tmp_path / "killed" / "3" / "metrics.jsonl"
    while kills < KILLS:
        began = time.time()
        process = subprocess.Popen([*command, str(tmp_path / "killed"), "0"])
        while process.poll() is None and not (record.exists() and record.stat().st_mtime >= began):
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 0.5))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    assert kills == KILLS, "the runs were over before they were killed as often; make them longer"
    subprocess.run([*command, str(tmp_path / "killed"), "3600"], check=True, timeout=300)
    for seed in range(4):
        full, killed = (tmp_path / base / str(seed) for base in ("whole", "killed"))
        assert (full / "learned.safetensors").read_bytes() == (killed / "learned.safetensors").read_bytes()
        results = [json.loads((folder / "result.json").read_text()) for folder in (full, killed)]
        assert results[0]["metrics"] == results[1]["metrics"]
        assert results[0]["selected_step"] == results[1]["selected_step"]
