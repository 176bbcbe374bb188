"""Searches: each way of choosing, one journal for many workers, no test label, failures outlived, mistakes named."""

import json

import pytest

from tlx import Data, Optim, Recipe, Train, config, models, tasks, tuning
from tlx.recipe import KINDS
from tlx.tune import integer, log_uniform, one_of, search, uniform

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    optim=Optim(lr=0.01),
    train=Train(steps=4, batch=16, eval_every=2, eval_batch=256),
)
SPACE = {"optim.lr": log_uniform(1e-4, 0.1), "optim.weight_decay": uniform(0.0, 0.1)}
CHOICES = {"tuning": one_of(tuning.Full(), tuning.Probe()), "train.batch": integer(8, 16, step=8)}


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)


def trials(found):
    return [(one.number, one.state, one.value, one.point) for one in found.trials]


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_search_that_goes_on_finds_what_one_that_never_stopped_does(sampler, tmp_path):
    whole = search(RECIPE, SPACE, tmp_path / "whole", trials=5, sampler=sampler, seed=3, quiet=True)
    assert [one.state for one in whole.trials] == ["done"] * 5
    search(RECIPE, SPACE, tmp_path / "parts", trials=2, sampler=sampler, seed=3, quiet=True)
    parts = search(RECIPE, SPACE, tmp_path / "parts", trials=5, sampler=sampler, seed=3, quiet=True)
    assert trials(parts) == trials(whole)
    assert parts.best == max(parts.trials, key=lambda one: one.value)
    again = search(RECIPE, SPACE, tmp_path / "parts", trials=5, sampler=sampler, seed=3, quiet=True)
    assert trials(again) == trials(whole)


def test_what_is_found_is_a_recipe_and_its_command(tmp_path):
    found = search(RECIPE, SPACE | CHOICES, tmp_path / "out", trials=3, sampler="random", quiet=True)
    recipe = RECIPE
    for change in found.changes:
        path, _, text = change.partition("=")
        recipe = config.override(recipe, path, text, KINDS)
    assert recipe == found.recipe
    assert config.fingerprint(recipe) == found.best.fingerprint
    result = json.loads((tmp_path / "out" / "cells" / found.best.fingerprint / "result.json").read_text())
    assert result["metrics"]["validation/accuracy"] == found.best.value
