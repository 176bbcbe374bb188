"""The cells that train together follow from the study, are recorded once, and do not change."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tlx import Study, choice, param, prod
from tlx.cli.studies import load_study
from tlx.records.studies import GROUPS
from tlx.study import groups, run_study
from tlx.study.base import document, settle
from tlx.study.claims import claim_group, locked
from tlx.study.groups import Recorded, Together
from tlx.training import run_many
from tlx.tuning import Probe
from tlx.weights.files import read_file


@pytest.fixture
def four(base):
    """Four cells that can share a program."""
    return Study(base=base, cells=param("seed", range(4)), question="?")


@pytest.fixture
def begun(four, tmp_path):
    """A directory of `four`, and a function that records its groups."""
    directory = tmp_path / "study"
    settle(directory, document(four, "x"))

    def record(study=four, most=64):
        notes = groups.record(directory, study.by_fingerprint, most)
        return notes, [list(one.cells) for one in groups.read(directory).groups]

    return directory, record


def written(directory):
    """Return the groups in the file, and whether each is decided."""
    actual = json.loads((directory / GROUPS).read_text())["groups"]
    return [(one["cells"], one["decided"]) for one in actual]


def learned(directory, study):
    """Return the trained parameters and the metrics of every cell."""
    folders = {name: directory / "cells" / name for name in study.by_fingerprint}
    leaves = {name: read_file(folder / "learned.safetensors") for name, folder in folders.items()}
    metrics = {name: json.loads((folder / "result.json").read_text())["metrics"] for name, folder in folders.items()}
    return leaves, metrics


def assert_same(one, other):
    assert one[1] == other[1]
    for name, leaves in one[0].items():
        for path, leaf in leaves.items():
            np.testing.assert_array_equal(leaf, other[0][name][path], err_msg=f"{name} {path}")


def test_groups_are_slices_of_cells_that_can_share_in_the_order_of_the_study(base, tmp_path):
    methods = choice("method", {"full": {}, "probe": {"tuning": Probe()}, "long": {"train.steps": 4}})
    study = Study(base=base, cells=prod(methods, param("seed", range(3))), question="?")
    names = list(study.by_fingerprint)
    settle(tmp_path / "study", document(study, "x"))
    groups.record(tmp_path / "study", study.by_fingerprint, 4)
    assert written(tmp_path / "study") == [(names[:4], False), (names[4:6], False), (names[6:], False)]


def test_recorded_groups_stay_and_new_cells_form_new_ones(four, begun):
    directory, record = begun
    names = list(four.by_fingerprint)
    assert record(most=2) == ([], [names[:2], names[2:]])
    before = (directory / GROUPS).read_bytes()
    notes, messages = record(most=4)
    assert messages == [names[:2], names[2:]]
    assert "--together 4 is not used" in notes[0] and "recorded with --together 2" in notes[0]
    assert (directory / GROUPS).read_bytes() == before
    more = replace(four, cells=param("seed", [5, 3, 2, 1, 0, 4]))
    new = [name for name in more.by_fingerprint if name not in names]
    notes, messages = record(more, most=4)
    assert messages == [names[:2], names[2:], new]
    assert "--together 4 applies to the 2 new cells" in notes[0]


def test_a_finished_cell_without_a_group_gets_none(four, begun):
    """A directory that an older version began."""
    directory, record = begun
    names = list(four.by_fingerprint)
    folder = directory / "cells" / names[1]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    assert record() == ([], [[names[0], *names[2:]]])


def test_a_group_that_lost_a_cell_is_formed_again_for_its_unfinished_cells(four, begun):
    directory, record = begun
    names = list(four.by_fingerprint)
    record()
    groups.write(directory, Recorded(64, (Together(tuple(names), True, "x"),)))
    folder = directory / "cells" / names[0]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    fewer = replace(four, cells=param("seed", 0, 1, 2))
    notes, messages = record(fewer)
    assert messages == [names[:1], names[1:3]]
    assert len(notes) == 1 and notes[0].startswith("2 cells trained in a group with 1 cells")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"most": 1, "groups": [3]}',
        '{"most": "x", "groups": []}',
        '{"most": 1, "groups": [{"cells": 1}]}',
    ],
)
def test_a_damaged_file_is_one_clear_error(text, begun):
    directory, record = begun
    (directory / GROUPS).write_text(text)
    with pytest.raises(
        ValueError, match=r"groups\.json does not contain the groups of a study .* restore it, or delete"
    ):
        record()


def test_a_group_is_claimed_completely_or_not_at_all(four, begun):
    directory, _ = begun
    cells, names = four.by_fingerprint, list(four.by_fingerprint)
    other = locked(directory, names[2], cells[names[2]])
    assert claim_group(directory, cells, names, 0.0) == []
    assert [one.fingerprint for one in claim_group(directory, cells, names[:2], 0.0)] == names[:2]
    other.lock.release()
    folder = directory / "cells" / names[3]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    assert [one.done for one in claim_group(directory, cells, names, 0.0)] == [False] * 3 + [True]
    assert claim_group(directory, cells, names[3:], 0.0) == []
    assert claim_group(directory, cells, [*names, "gone"], 0.0) == []


@pytest.mark.slow
def test_cells_that_are_better_alone_are_free_for_other_workers(four, begun, monkeypatch):
    """The worker that decides keeps its share of the decided groups."""
    from tlx.study import work

    directory, record = begun
    names = list(four.by_fingerprint)
    record()
    (group,) = groups.read(directory).groups
    monkeypatch.setattr(run_many, "GAIN", 0.0)
    assert work.run_group(four.by_fingerprint, directory, group, 0.0, 2, lambda: None)
    assert written(directory) == [([name], True) for name in names]
    outcome = [name for name in names if (directory / "cells" / name / "result.json").is_file()]
    assert outcome == names[:2]
    # The previous candidate is no group any more.
    assert not work.run_group(four.by_fingerprint, directory, group, 0.0, 2, lambda: None)


@pytest.mark.slow
def test_a_cell_of_a_finished_group_trains_again_with_it_to_the_same_bits(four, tmp_path, monkeypatch):
    """As after a kill between two results, or if a user has deleted a cell."""
    import shutil

    monkeypatch.setattr(run_many, "GAIN", 1e9)
    out = tmp_path / "study"
    run_study(four, out, quiet=True)
    before = learned(out, four)
    assert [len(cells) for cells, _ in written(out)] == [4]
    names = list(four.by_fingerprint)
    files = {
        path: path.read_bytes() for name in names[1:] for path in (out / "cells" / name).rglob("*") if path.is_file()
    }
    shutil.rmtree(out / "cells" / names[0])
    results = run_study(four, out, quiet=True)
    assert results.counts["done"] == 4
    assert_same(before, learned(out, four))
    assert all(path.read_bytes() == content for path, content in files.items())
    lines = (out / "executions.jsonl").read_text().splitlines()
    assert len(lines) == 5


@pytest.mark.slow
def test_a_member_that_cannot_be_opened_fails_the_rest_of_its_group_with_a_message(four, tmp_path, monkeypatch):
    monkeypatch.setattr(run_many, "GAIN", 1e9)
    out, names = tmp_path / "study", list(four.by_fingerprint)
    settle(out, document(four, "x"))
    groups.write(out, Recorded(64, (Together(tuple(names), True, "x"),)))
    opened = run_many.opened

    def missing_data(recipe, path, **how):
        if recipe.seed == 2:
            raise FileNotFoundError("no such model")
        return opened(recipe, path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(run_many, "opened", missing_data)
        results = run_study(four, out, quiet=True)
    errors = [cell.failed["error"] for cell in results.cells]
    assert errors[2] == "FileNotFoundError: no such model"
    assert all(names[2] in errors[n] and "must train together" in errors[n] for n in (0, 1, 3))
    assert run_study(four, out, quiet=True).counts["done"] == 4
    assert [cells for cells, _ in written(out)] == [names]


@pytest.mark.slow
def test_a_cell_that_cannot_be_opened_does_not_change_the_others_later(base, tmp_path, monkeypatch):
    """It is in no group; when it can be opened it forms a separate one."""
    monkeypatch.setattr(run_many, "GAIN", 1e9)
    study = Study(base=base, cells=param("seed", range(3)), question="?")
    out, names, opened = tmp_path / "study", list(study.by_fingerprint), run_many.opened

    def missing_data(recipe, path, **how):
        if recipe.seed == 1:
            raise FileNotFoundError("no such model")
        return opened(recipe, path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(run_many, "opened", missing_data)
        assert run_study(study, out, quiet=True).counts == {"done": 2, "running": 0, "failed": 1, "waiting": 0}
    assert [cells for cells, decided in written(out) if decided] == [[names[0], names[2]]]
    results = run_study(study, out, quiet=True)
    assert results.counts["done"] == 3
    assert [cells for cells, _ in written(out)] == [[names[0], names[2]], [names[1]]]


def test_groups_may_be_copied_to_repeat_a_study_elsewhere(four, begun, tmp_path):
    directory, record = begun
    record(most=2)
    other = tmp_path / "other"
    other.mkdir()
    (other / GROUPS).write_bytes((directory / GROUPS).read_bytes())
    settle(other, document(four, "x"))
    notes = groups.record(other, four.by_fingerprint, 64)
    assert groups.read(other) == groups.read(directory)
    assert "recorded with --together 2" in notes[0]


@pytest.mark.slow
def test_the_numbers_do_not_depend_on_the_workers(four, tmp_path, monkeypatch):
    """One worker or three, in any order: the same groups, the same bits."""
    from tlx.study import work

    monkeypatch.setattr(run_many, "GAIN", 1e9)
    one, three = tmp_path / "one", tmp_path / "three"
    run_study(four, one, most=2, quiet=True)
    settle(three, document(four, "x"))
    groups.record(three, four.by_fingerprint, 2)
    first, second = groups.read(three).groups
    for group in (second, first):
        assert work.run_group(four.by_fingerprint, three, group, 0.0, 3, lambda: None)
    assert written(one) == written(three)
    assert_same(learned(one, four), learned(three, four))


WORKED = '''"""Two methods and four seeds.   tlx study worked.py"""
from tlx import Data, Recipe, Study, Train, choice, models, param, prod, tasks, tuning

def study():
    base = Recipe(
        data=Data(target="digits", shots=4), task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)), train=Train(steps=4, batch=8, eval_batch=64),
    )
    methods = choice("method", {"full": {}, "probe": {"tuning": tuning.Probe()}})
    return Study(base=base, cells=prod(methods, param("seed", range(4))), question="?")
'''


@pytest.mark.slow
def test_three_workers_give_the_bits_of_one(tmp_path):
    """A worker that decides a group keeps a part of it; the rest must be open to the others at once."""
    file = tmp_path / "worked.py"
    file.write_text(WORKED)
    study = load_study(str(file), ())
    for name, jobs in (("one", "1"), ("three", "3")):
        command = [sys.executable, "-Pm", "tlx.cli", "study", str(file), "--out", str(tmp_path / name), "--jobs", jobs]
        process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert process.returncode == 0, process.stderr
    assert_same(learned(tmp_path / "one", study), learned(tmp_path / "three", study))
