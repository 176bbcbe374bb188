"""The same images with classes in another order: runs that start from each other predict by name."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import tlx
from tlx import (
    Data,
    Learn,
    Optim,
    Recipe,
    Train,
    Weights,
    load_pretrained,
    models,
    report,
    tasks,
    terms,
    tuning,
    updates,
)
from tlx.analysis import soups
from tlx.data.datasets.images import GreyImages, Images
from tlx.data.sources import tfds
from tlx.records.log import read_metrics
from tlx.training.prepare import prepare
from tlx.training.reopen import reopen
from tlx.trees import flatten

ZERO_ONE, ONE_ZERO = ("zero", "one"), ("one", "zero")
FROZEN = tuning.Rules((r"head/.*", None), (r".*", Learn()))


class Sides(GreyImages):
    """Images that are bright on the left (zero) or on the right (one)."""

    name = "sides"
    side = 4
    classes = ZERO_ONE
    numbers = (0, 1)

    def read(self):
        results = {}
        for split, count in (("train", 24), ("validation", 16), ("test", 20)):
            rng = np.random.default_rng(len(split))
            sides = np.arange(count) % 2
            pixels = rng.integers(0, 60, (count, 4, 4))
            pixels[:, :, :2] += 180 * (1 - sides)[:, None, None]
            pixels[:, :, 2:] += 180 * sides[:, None, None]
            results[split] = Images(pixels.astype(np.uint8), np.take(self.numbers, sides))
        return results


class Turned(Sides):
    """The same images with swapped class numbers."""

    name = "turned"
    classes = ONE_ZERO
    numbers = (1, 0)


class Numbers(Turned):
    """The same images with numbers as names."""

    name = "numbers"
    classes = ("0", "1")


class Other(Sides):
    """The same images with other names."""

    name = "other"
    classes = ("left", "right")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    for kind in (Sides, Turned, Numbers, Other):
        kind(data_dir=str(root), file_format="array_record").download_and_prepare()
    return lambda name: Data(target=str(root / name / "1.0.0"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Return `run(name, **changes)`: a run on the data set with that name."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)

        def run_on(name, **changes):
            recipe = Recipe(
                data=data(name), task=tasks.Classification(), model=models.Mlp(inputs=(4, 4, 1), widths=(6,)),
                optim=Optim(lr=0.02), train=Train(steps=30, batch=8, eval_every=30),
            )  # fmt: skip
            count = len(list(folder.iterdir()))
            return tlx.run(dataclasses.replace(recipe, **changes), folder / f"{name}{count}", quiet=True)

        yield run_on


@pytest.fixture(scope="module")
def first(run):
    outcome = run("sides")
    assert outcome.metrics["test/accuracy"] == 1
    return outcome


def go_on(run, first, name, **changes):
    """A run that starts with the weights of the first run and changes none of them."""
    unchanged = {"weights": Weights(str(first.folder)), "model": None, "optim": Optim(lr=0.0)}
    return run(name, **(unchanged | {"train": Train(steps=1, batch=8, eval_every=1)} | changes))


def test_another_order_is_predicted_by_name_and_stated_everywhere(run, first):
    actual = go_on(run, first, "turned")
    assert actual.metrics["test/accuracy"] == 1
    (note,) = [note for note in actual.result["notes"] if "reordered by class name" in note]
    assert "(zero, one)" in note and "(one, zero)" in note
    entries = json.loads((actual.folder / "weights.json").read_text())["entries"]
    lines = [line for line in entries if line["action"] == "permuted"]
    assert {line["path"] for line in lines} == {"head/kernel", "head/bias"}
    assert all("(zero, one)" in line["note"] and "(one, zero)" in line["note"] for line in lines)
    # The saved model has the new names in the new order, so the way back gives the numbers of the first run.
    assert load_pretrained(actual.folder).task.names == ONE_ZERO
    back = load_pretrained(actual.folder, tasks.Classification(classes=2, names=ZERO_ONE))
    before = flatten(load_pretrained(first.folder).variables.params)
    for path, leaf in flatten(back.variables.params).items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)


def notes(run):
    """The notes of a run, without those on the few pictures, which resemble each other."""
    return [note for note in run.result["notes"] if "repeat" not in note]


def test_the_same_order_has_no_note(run, first):
    actual = go_on(run, first, "sides")
    assert actual.metrics["test/accuracy"] == 1 and notes(actual) == []


def test_numbers_as_names_keep_the_position_with_a_note(run, first):
    actual = go_on(run, first, "numbers")
    assert actual.metrics["test/accuracy"] == 0
    (note,) = notes(actual)
    assert "was not compared by class name" in note and "(zero, one)" in note and "(0, 1)" in note


def test_the_user_may_name_classes_that_the_data_only_number(run, first):
    task = tasks.Classification(names=ONE_ZERO)
    assert go_on(run, first, "numbers", task=task).metrics["test/accuracy"] == 1


def test_other_names_reinitialise_the_head_with_a_note(run, first):
    actual = go_on(run, first, "other")
    (note,) = [note for note in actual.result["notes"] if "drawn at random" in note]
    assert "(zero, one)" in note and "(left, right)" in note
    # The trained and remaining files of a finished run belong to it.
    assert load_pretrained(actual.folder).task.names == ("left", "right")


def test_names_that_contradict_the_data_are_refused(run, first):
    with pytest.raises(ValueError, match=r"\(zero, one\) contradict the data's classes \(one, zero\)"):
        go_on(run, first, "turned", task=tasks.Classification(names=ZERO_ONE))


def kept_head(data, name, term):
    """Return the changes in a run that keeps the head of its weights."""
    target = dataclasses.replace(data(name), labels=0)
    if term == "Shot":
        return {"data": target, "tuning": FROZEN, "objective": (terms.Shot(),)}
    both = dataclasses.replace(target, source=data("sides").target, match="position" if name == "other" else "name")
    return {"data": both, "objective": (terms.Adda(width=4),), "update": updates.Alternating()}


@pytest.mark.slow
@pytest.mark.parametrize("term", ["Shot", "Adda"])
def test_a_kept_head_predicts_by_name(run, first, data, term):
    actual = go_on(run, first, "turned", **kept_head(data, "turned", term))
    assert actual.metrics["test/accuracy"] == 1
    assert any("reordered by class name" in note for note in actual.result["notes"])


@pytest.mark.parametrize("term", ["Shot", "Adda"])
def test_a_head_with_other_classes_is_not_kept(run, first, data, term):
    with pytest.raises(ValueError, match="is drawn at random"):
        go_on(run, first, "other", **kept_head(data, "other", term))


def test_a_teacher_predicts_by_name(run, first):
    how = {"objective": (terms.Distill(teacher=str(first.folder), temperature=1.0),)}
    actual = go_on(run, first, "turned", **how)
    by_name = {line["name"]: line["value"] for line in read_metrics(actual.folder)}
    assert by_name["train/distill/distance"] == pytest.approx(0, abs=1e-6)
    (note,) = [note for note in actual.result["notes"] if "the teacher's classes were reordered" in note]
    assert "(zero, one)" in note and "(one, zero)" in note


@pytest.mark.slow
@pytest.mark.parametrize("how", [tuning.SideHead(), tuning.Lora(rank=2, on="head"), tuning.Bottleneck(width=3)])
def test_parameters_trained_with_the_head_predict_by_name(run, first, how):
    adapted = run("sides", weights=Weights(str(first.folder)), model=None, tuning=how)
    assert adapted.metrics["test/accuracy"] == 1
    actual = go_on(run, adapted, "turned", tuning=tuning.Rules((".*", Learn())))
    assert actual.metrics["test/accuracy"] == 1


@pytest.mark.slow
def test_a_soup_of_two_orders_is_the_soup_of_one(run, first, tmp_path):
    other = go_on(run, first, "turned")
    actual = soups.soup([first.folder, other.folder], tmp_path / "soup")
    assert actual["metrics"]["test/accuracy"] == 1
    assert any("was reordered by class name" in note for note in actual["notes"])
    before = flatten(load_pretrained(first.folder).variables.params)
    for path, leaf in flatten(load_pretrained(tmp_path / "soup").variables.params).items():
        np.testing.assert_allclose(leaf, before[path], rtol=1e-6, err_msg=path)
    assert soups.wise(other.folder, 0.5, tmp_path / "wise")["metrics"]["test/accuracy"] == 1


@pytest.mark.slow
def test_data_with_names_that_changed_later_are_refused(run, data, tmp_path, interrupted):
    root = tmp_path / "tfds"
    Sides(data_dir=str(root), file_format="array_record").download_and_prepare()
    folder = root / "sides" / "1.0.0"
    recipe = Recipe(
        data=Data(target=str(folder)), task=tasks.Classification(), model=models.Mlp(inputs=(4, 4, 1), widths=(6,)),
        train=Train(steps=6, batch=8, eval_every=3),
    )  # fmt: skip
    tlx.run(recipe, tmp_path / "whole", quiet=True)
    interrupted(recipe, tmp_path / "stopped", 5)
    (folder / "label.labels.txt").write_text("one\nzero\n")
    # As a process that starts later.
    tfds._opened.cache_clear()
    for second in (
        lambda: tlx.run(recipe, tmp_path / "stopped", resume=True, quiet=True),
        lambda: reopen(tmp_path / "whole"),
    ):
        with pytest.raises(ValueError) as error:
            second()
        assert "(zero, one)" in str(error.value) and "(one, zero)" in str(error.value)


def test_a_damaged_run_is_neither_blended_nor_evaluated(run, first, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(first.folder, copy)
    # As from an older version, whose runs have no digests of their files.
    (copy / "files.json").unlink()
    document = json.loads((copy / "model" / "config.json").read_text())
    (copy / "model" / "config.json").write_text(
        json.dumps(document | {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}})
    )
    with pytest.raises(ValueError, match=r"untrained head.*other classes: \(a, b\)"):
        soups.soup([first.folder, copy], tmp_path / "soup")
    with pytest.raises(ValueError, match="untrained head"):
        soups.wise(copy, 0.5, tmp_path / "wise")


def test_training_on_an_untrained_head_is_noted_in_output_result_and_page(first, data, tmp_path, capfd, monkeypatch):
    broken = tmp_path / "broken"
    source = load_pretrained(first.folder)
    tlx.save_pretrained(source, broken)
    (broken / "config.json").write_text(
        (broken / "config.json").read_text().replace('"0": "zero"', '"0": "nil"').replace('"zero": 0', '"nil": 0')
    )
    recipe = Recipe(
        data=data("sides"), task=tasks.Classification(), weights=Weights(str(broken)), optim=Optim(lr=0.02),
        train=Train(steps=30, batch=8, eval_every=30),
    )  # fmt: skip
    outcome = tlx.run(recipe, tmp_path / "run")
    output = capfd.readouterr().err
    assert "note: the head was drawn at random: head/bias and 1 more (other classes: (nil, one)" in output
    (note,) = notes(outcome)
    assert note in output and "(zero, one)" in note
    ready = prepare(dataclasses.replace(recipe, tuning=FROZEN), reopen(outcome.folder).splits)
    assert "and is frozen" in ready.notes[0]
    monkeypatch.setattr(report, "available", lambda: True)
    page = report.write_run(outcome.folder).read_text()
    assert "The head was drawn at random" in page
    # The run trains its head.
    assert load_pretrained(outcome.folder).task.names == ZERO_ONE
    assert not tlx.weights.untrained(load_pretrained(outcome.folder))
