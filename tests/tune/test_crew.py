"""How workers share a search: a fair share for each, one program where it is faster, and a race at the start."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from tlx import Data, Optim, Recipe, Train, models, tasks
from tlx.cli import main
from tlx.training import ending, run_many
from tlx.tune import attempt, crew, log_uniform, one_of, search, uniform
from tlx.tune.space import cell
from tlx.weights.files import read_file

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    optim=Optim(lr=0.01),
    train=Train(steps=4, batch=16, eval_every=2, eval_batch=256),
)
SPACE = {"optim.lr": log_uniform(1e-4, 0.1), "optim.weight_decay": uniform(0.0, 0.1)}
CONFIG = """from tlx import Data, Recipe, models, tasks

def recipe():
    return Recipe(
        data=Data(target="digits"), task=tasks.Classification(), model=models.Mlp(inputs=(8, 8, 1), widths=(8,))
    )
"""
IDLE = [sys.executable, "-c", "pass"]


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)


@pytest.fixture
def trials_by_call(monkeypatch):
    """Record the numbers of the trials of each call."""
    results = []

    def execute(trials, report, *more):
        results.append([trial.number for trial in trials])
        attempt.execute(trials, report, *more)

    monkeypatch.setattr(crew, "execute", execute)
    return results


@pytest.mark.slow
def test_trials_come_in_groups_of_the_share_of_a_worker(tmp_path, trials_by_call):
    """The second worker does nothing here, so the trials that the first takes each time are visible.

    Groups are recorded.
    """
    search(RECIPE, SPACE, tmp_path / "out", trials=5, sampler="random", jobs=2, worker=IDLE, quiet=True)
    assert trials_by_call == [[0, 1, 2], [3, 4]]
    trials_by_call.clear()
    search(RECIPE, SPACE, tmp_path / "out", trials=7, sampler="random", together=1, quiet=True)
    assert trials_by_call == [[5], [6]]
    trials_by_call.clear()
    space = {"optim.lr": one_of(0.01, 0.02, 0.03)}
    search(RECIPE, space, tmp_path / "grid", trials=9, sampler="grid", share=3, quiet=True)
    assert trials_by_call == [[0], [1], [2]]


@pytest.mark.slow
def test_trials_with_a_pruner_are_taken_one_by_one(tmp_path, trials_by_call):
    recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, eval_every=1))
    search(recipe, SPACE, tmp_path / "out", trials=3, sampler="random", pruner="hyperband", quiet=True)
    assert trials_by_call == [[0], [1], [2]]


def test_the_command_tells_its_workers_their_number(tmp_path, monkeypatch):
    class Seen(Exception):
        """Record the arguments of `tlx.tune.search`."""

    def record(*given, **how):
        raise Seen(how)

    monkeypatch.setattr("tlx.tune.search", record)
    monkeypatch.setenv("TLX_TRACEBACK", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(CONFIG)
    (tmp_path / "space.py").write_text("def space():\n    return {}\n")
    words = ["tune", "tiny.py", "--space", "space.py", "--trials", "4", "--sampler", "random", "--jobs", "2"]
    [how] = CliRunner().invoke(main, words).exception.args
    assert (how["jobs"], how["share"]) == (2, None)
    [value] = CliRunner().invoke(main, how["worker"][3:]).exception.args
    assert (value["jobs"], value["share"]) == (1, 2)


@pytest.mark.slow
def test_random_trials_train_as_one_program_if_it_is_faster(tmp_path, monkeypatch):
    # A group is chosen however little it saves.
    monkeypatch.setattr(run_many, "GAIN", float("inf"))
    actual = search(RECIPE, SPACE, tmp_path / "out", trials=3, sampler="random", quiet=True)
    results = [
        json.loads((actual.folder / "cells" / one.fingerprint / "result.json").read_text()) for one in actual.trials
    ]
    assert [(result["pack"]["arms"], result["pack"]["place"]) for result in results] == [(3, 0), (3, 1), (3, 2)]
    assert [result["metrics"]["validation/accuracy"] for result in results] == [one.value for one in actual.trials]


@pytest.mark.slow
def test_a_worker_killed_between_two_trials_leaves_its_group_to_the_next(tmp_path, monkeypatch, trials_by_call):
    """The next worker trains the whole group again, and reports only the missing trials."""
    monkeypatch.setattr(run_many, "GAIN", float("inf"))
    full = search(RECIPE, SPACE, tmp_path / "whole", trials=4, sampler="random", together=3, quiet=True)
    record, write_all = crew.Crew.record, ending.write_all

    def killed(arm, *rest):
        if arm.recipe == second:
            raise KeyboardInterrupt
        return write_all(arm, *rest)

    second = cell(RECIPE, full.trials[1].point).recipe
    with monkeypatch.context() as patch:
        patch.setattr(ending, "write_all", killed)
        with pytest.raises(KeyboardInterrupt):
            search(RECIPE, SPACE, tmp_path / "out", trials=4, sampler="random", together=3, quiet=True)
    message = []
    with monkeypatch.context() as patch:
        patch.setattr(
            crew.Crew, "record", lambda self, handle, ended: message.append(ended) or record(self, handle, ended)
        )
        repeated = search(RECIPE, SPACE, tmp_path / "out", trials=4, sampler="random", share=2, quiet=True)
    assert trials_by_call == [[0, 1, 2], [3], [0, 1, 2], [0, 1, 2], [3]]
    assert [ended.trial.number for ended in message] == [0, 1, 2, 3]
    assert [one.value for one in repeated.trials] == [one.value for one in full.trials]
    for one in full.trials:
        leaves = [
            read_file(base / "cells" / one.fingerprint / "learned.safetensors")
            for base in (full.folder, repeated.folder)
        ]
        for path, leaf in leaves[0].items():
            np.testing.assert_array_equal(leaves[1][path], leaf)


def test_a_search_that_another_process_has_just_begun_is_joined(tmp_path):
    # The moment between the claims and `search.json`.
    (tmp_path / "out" / "claims").mkdir(parents=True)
    actual = search(RECIPE, SPACE, tmp_path / "out", trials=1, sampler="random", quiet=True)
    assert [one.state for one in actual.trials] == ["done"]
    # A study has claims too.
    (tmp_path / "study" / "claims").mkdir(parents=True)
    (tmp_path / "study" / "study.json").write_text("{}")
    with pytest.raises(FileExistsError, match="is not empty and contains no search"):
        search(RECIPE, SPACE, tmp_path / "study", trials=1, quiet=True)


def test_claims_exist_before_anything_else_of_a_search(tmp_path, monkeypatch):
    from pathlib import Path

    built, real = [], Path.mkdir

    def mkdir(self, *given, **how):
        built.append(self.name)
        return real(self, *given, **how)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    search(RECIPE, SPACE, tmp_path / "out", trials=1, quiet=True)
    assert built.index("claims") < built.index("cells")


@pytest.mark.slow
def test_importance_is_reported_by_ped_anova(tmp_path, monkeypatch):
    import optuna

    calls, real = [], optuna.importance.get_param_importances

    def importances(study, *, evaluator=None, **how):
        calls.append(type(evaluator))
        return real(study, evaluator=evaluator, **how)

    monkeypatch.setattr(optuna.importance, "get_param_importances", importances)
    actual = search(RECIPE, SPACE, tmp_path / "out", trials=4, sampler="random", quiet=True)
    assert calls == [optuna.importance.PedAnovaImportanceEvaluator]
    assert actual.importances.keys() == SPACE.keys()
    assert sum(actual.importances.values()) == pytest.approx(1)
    assert json.loads((actual.folder / "tune.json").read_text())["importances"] == actual.importances
