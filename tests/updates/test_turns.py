"""Runs with several moves per step: resumed, vectorised, in phases, from a file; and invalid combinations."""

import dataclasses

import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, Weights, config, models, run, tasks, terms, tuning
from tlx.analysis.benefit.arms import assigned
from tlx.recipe import OWN
from tlx.records.log import read_metrics
from tlx.training.loop import How
from tlx.training.prepare import prepare
from tlx.training.run_many import run_many
from tlx.types import Turn
from tlx.updates import Alternating, Sam, Sum

SOURCE = terms.Supervised(on="source")
LEAN = How(quiet=True, leave="learned")
RECIPE = Recipe(
    data=Data(source="mnist5k", target="digits", labels=0, size=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16, 12), dropout=0.1),
    objective=(SOURCE, terms.Mcd(trade_off=terms.Ramp(0.0, 2.0), repeats=1)),
    update=Alternating(),
    optim=Optim(lr=0.01, weight_decay=0.1, clip=1.0),
    train=Train(steps=12, batch=16, eval_every=6, eval_batch=128, ema=0.5),
)


@pytest.fixture(scope="module")
def source_run(tmp_path_factory):
    """A run on the source; ADDA is its second stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        plain = assigned(RECIPE, {"objective": (SOURCE,), "update": Sum(), "train.ema": None})
        yield str(run(plain, tmp_path_factory.mktemp("runs") / "source", quiet=True).folder)


def adda(source_run, **more):
    fields = {"model": None, "weights": Weights(source_run), "objective": (terms.Adda(width=8),)}
    return dataclasses.replace(RECIPE, **fields | more)


@pytest.mark.slow
def test_a_resumed_run_of_mcd_has_the_bits_of_an_unstopped_run(goes_on):
    goes_on(RECIPE, (8,))


@pytest.mark.slow
def test_a_resumed_run_of_adda_has_the_bits_of_an_unstopped_run(goes_on, source_run):
    goes_on(adda(source_run), (8,))


def metric_by_step(actual, name):
    return {line["step"]: line["value"] for line in read_metrics(actual.folder) if line["name"] == name}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mcd", "adda"])
def test_a_vectorised_run_equals_the_run_alone(name, tmp_path, monkeypatch, source_run):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    base = RECIPE if name == "mcd" else adda(source_run)
    recipes = [assigned(base, {"seed": seed, "optim.lr": lr}) for seed, lr in ((0, 0.01), (1, 0.02))]
    packed = run_many(recipes, [tmp_path / str(n) for n in range(2)], how=LEAN)
    measures = ("train/loss", *(f"train/{name}/{measure}" for measure in ("risk", "discrepancy", "fooled")))
    for n, (recipe, actual) in enumerate(zip(recipes, packed, strict=True)):
        assert actual.result["pack"]["arms"] == 2
        expected = run(recipe, tmp_path / f"alone-{n}", how=LEAN)
        for measure in measures:
            assert metric_by_step(actual, measure) == pytest.approx(
                metric_by_step(expected, measure), rel=2e-4, abs=2e-5
            ), (n, measure)


@pytest.mark.slow
def test_the_head_of_adda_is_frozen_for_every_tuning(source_run):
    for way in (tuning.Full(), tuning.BitFit()):
        moving = prepare(adda(source_run, tuning=way)).trainable
        assert {path.split("/")[0] for path in moving} == {"stem", "blocks", "adda"}


@pytest.mark.slow
def test_each_phase_takes_turns(tmp_path):
    recipe = dataclasses.replace(
        RECIPE, tuning=tuning.InTurn((0.5, tuning.Freeze(through="stem")), (0.5, tuning.Full()))
    )
    ready = prepare(recipe)
    waves = [set(ready.parts(phase).layout.waves.values()) for phase in (0, 1)]
    # Parameters that are trainable in both phases keep their moments; those of the stem start fresh.
    assert waves == [{"0_1-0_1", "0_1-0_2"}, {"0_1-0_1", "0_1-0_2", "1-0_2"}]
    assert np.isfinite(run(recipe, tmp_path / "run", how=LEAN).metrics["test/loss"])


def test_a_recipe_is_read_from_its_file_and_from_the_command_line():
    reopened = config.load(config.dump(RECIPE), OWN)
    assert reopened == RECIPE
    assert config.fingerprint(reopened) == config.fingerprint(RECIPE)
    assert config.parse(config.source(RECIPE.objective), OWN) == RECIPE.objective
    plain = assigned(RECIPE, {"update": Sum()})
    assert config.override(plain, "update", "Alternating()", OWN) == RECIPE
    assert config.fingerprint(plain) != config.fingerprint(RECIPE)
    assert config.override(RECIPE, "objective.1.repeats", "4", OWN).objective[1].repeats == 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other(terms.Term):
    """A term that takes a turn too."""

    def turns(self, model):
        return (Turn(("",)),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"update": Sum()},
            "Sum takes one step for all terms: set update=Alternating()",
        ),
        (
            {"update": Sam()},
            "Sam takes one step for all terms: set update=Alternating()",
        ),
        (
            {"objective": (SOURCE, terms.Mcc())},
            "Alternating needs a term with several moves in each step",
        ),
        (
            {"objective": (*RECIPE.objective, Other())},
            "but the objective has Mcd and Other: keep one of them",
        ),
        (
            {"tuning": tuning.Probe()},
            "Mcd moves stem/* and blocks/00/* in a turn, but the tuning freezes all these parameters",
        ),
        (
            {"tuning": tuning.Gradual(last=0.5)},
            "the tuning freezes all these parameters in phase 0",
        ),
        (
            {"objective": (SOURCE, terms.Adda()), "tuning": tuning.Probe()},
            "Adda adapts a model that was trained on the source, but 'blocks/00/bias' is not in the checkpoint",
        ),
    ],
)
def test_invalid_combinations_are_refused_before_compilation(changes, message):
    with pytest.raises(ValueError) as error:
        prepare(dataclasses.replace(RECIPE, **changes))
    assert message in str(error.value)


def test_adda_from_scratch_is_refused(tmp_path):
    recipe = dataclasses.replace(RECIPE, objective=(terms.Adda(),))
    with pytest.raises(ValueError) as error:
        run(recipe, tmp_path / "run", quiet=True)
    assert "'blocks/00/bias' is not in the checkpoint" in str(error.value)
    assert not (tmp_path / "run").exists()
